"""The tuner ``hybrid``: the Gaussian process of ``gp2``, started and steered by the playbook.

What the playbook advises is tried first, then a configuration far from it; from then on its proposals compete with the
optimiser's own by expected improvement, and the process expects more of the parameters it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from tunewright.agents.llm.playbook import Playbook
from tunewright.tuners.additive import AdditiveGPTuner
from tunewright.tuners.gaussian import OWN_STD

from tunewright.space import Config
from tunewright.tuner import Problem, Suggestion, Trial

MOST = 60  # proposals of the playbook that compete in each trial


class HybridTuner(AdditiveGPTuner):
    """Gaussian process and playbook together; no options. One objective, any number of bounds."""

    label: ClassVar[str] = "hybrid"
    explored = 3

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.playbook = Playbook.of(problem)
        self.named = {a.name for a in self.playbook.advice()}
        if not self.named:
            self.explored = AdditiveGPTuner.explored

    def explore(self, known: Sequence[Trial], tried: set[str], rng: np.random.Generator) -> Suggestion:
        """Propose what the playbook advises, once; then what lies far from all that is known."""
        if self.named and len(known) < 2:
            config, why = self.playbook.propose(known, tried)
            if self.problem.space.key(config) not in tried:
                return Suggestion(config=config, why=f"{self.label}, from the playbook: {why}")
        return super().explore(known, tried, rng)

    def candidates(
        self, good: Sequence[Trial], tried: set[str], rng: np.random.Generator
    ) -> tuple[list[Config], NDArray[np.float64]]:
        """Add the playbook's proposals to those of the optimiser."""
        pool, rows = super().candidates(good, tried, rng)
        more: dict[str, Config] = {}
        for config, _ in self.playbook.proposals(good):
            key = self.problem.space.key(config)
            if key not in tried:
                more[key] = config
            if len(more) >= MOST:
                break
        if not more:
            return pool, rows
        extra = list(more.values())
        return pool + extra, np.concatenate([rows, self.encoder.rows(extra)])

    def prior(self) -> NDArray[np.float64] | None:
        """Expect shorter lengths, so larger effects, of the parameters that the playbook names."""
        if not self.named:
            return None
        return np.array([-OWN_STD if name in self.named else 0.0 for name in self.problem.space.params])
