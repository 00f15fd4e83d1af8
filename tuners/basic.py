"""The simplest tuners: the default again, random configurations, a grid."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import numpy as np

from tunewright.errors import TunerError
from tunewright.space import Config
from tunewright.tuner import BaseTuner, History, Problem, Suggestion


class DefaultTuner(BaseTuner):
    """The default configuration again and again: shows the noise of a target."""

    repeats = True

    def ask(self, history: History) -> Suggestion:
        """Propose the default."""
        return Suggestion(config=self.problem.space.default, why="the default again")


class RandomTuner(BaseTuner):
    """Random search: uniform points of the unit cube, decoded."""

    def ask(self, history: History) -> Suggestion:
        """Propose a random configuration."""
        space = self.problem.space
        config = space.decode(self.problem.rng(history).random(len(space)))
        return Suggestion(config=config, why="random")


class GridTuner(BaseTuner):
    """A full grid in random order; option ``points`` sets the values of each numeric parameter (4)."""

    known: ClassVar[tuple[str, ...]] = ("points",)
    limit = 100_000

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        points = problem.option("points", 4, low=2)
        found = list(itertools.islice(problem.space.grid(points), self.limit + 1))
        if len(found) > self.limit:
            raise TunerError(
                f"a grid of {points} points a parameter has more than {self.limit:,} configurations; "
                "use fewer points or another tuner"
            )
        order = np.random.default_rng(problem.seed).permutation(len(found))
        self.grid: list[Config] = [found[i] for i in order]

    def ask(self, history: History) -> Suggestion:
        """Propose the next point of the grid that was not tried."""
        key = self.problem.space.key
        tried = {key(t.config) for t in history.trials} | {key(r.config) for r in history.refused}
        for number, config in enumerate(self.grid):
            if key(config) not in tried:
                share = math.floor(100 * number / len(self.grid))
                return Suggestion(config=config, why=f"grid, {share} % done")
        raise TunerError(f"all {len(self.grid)} points of the grid were tried")
