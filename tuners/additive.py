"""The tuner ``gp2``: a Gaussian process that is at home in budgets of thirty trials.

The default comes first, then a configuration far from it, then what maximises the expected improvement: of the ranks
in one trial, of the raw values in the next, because ranks forgive outliers and raw values say how much can be gained.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import TunerError, missing_extra
from tunewright.space import Config
from tunewright.space.parameters import Choice
from tunewright.tuner import BaseTuner, History, Problem, Suggestion, Trial
from tunewright.tuners.gaussian import Encoder, fit, log_expected_improvement, normal_scores

LISTED = 20_000  # configurations up to which a space is listed, and none is proposed that is not on the list
ALL = 2_000  # up to which each of them is looked at in each trial
FAR = 300  # random candidates for the second trial
RANDOM, NEAR, TOP = 800, 600, 3  # of a longer list: random ones, and the nearest to the best
DRAWN, MUTANTS, PARENTS = 1_000, 150, 4  # of a space that cannot be listed
RATES = (0.1, 0.3, 0.6)


class AdditiveGPTuner(BaseTuner):
    """Gaussian process with an additive and a joint kernel; no options. One objective, any number of bounds."""

    label: ClassVar[str] = "gp2"
    multi_objective: ClassVar[bool] = False
    explored = 2  # trials, the default included, before the process is asked
    asks = 3  # it maximises: asked again it mostly answers the same

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        try:
            import scipy.optimize  # noqa: F401
        except ImportError:
            raise missing_extra("scipy", "rl", f"tuner {self.label!r}") from None
        self.metric = problem.metric(problem.objectives[0])
        self.sign = 1.0 if self.metric.direction == "min" else -1.0
        self.encoder = Encoder(problem.space)
        rng = np.random.default_rng([problem.seed, 2])
        size = problem.space.size()
        self.listed: list[Config] | None = None
        if math.isfinite(size) and size <= LISTED:
            self.listed = list(problem.space.grid(int(size)))
        self.pool = self.listed or [problem.space.decode(rng.random(len(problem.space))) for _ in range(DRAWN)]
        self.rows = self.encoder.rows(self.pool)
        self.keys = [problem.space.key(c) for c in self.pool]

    def ask(self, history: History) -> Suggestion:
        """Propose the configuration that promises most."""
        rng = self.problem.rng(history)
        tried = history.tried(self.problem.space)
        known = [t for t in history.trials if t.decided]
        good = [t for t in known if t.ok]
        if len(good) < self.explored:
            return self.explore(known, tried, rng)
        pool, rows = self.candidates(good, tried, rng)
        score, why = self.promise(known, rows, ranks=len(known) % 2 == 1, rng=rng)
        return self.choose(pool, rows, score, why, history)

    def choose(
        self, pool: Sequence[Config], rows: NDArray[np.float64], score: NDArray[np.float64], why: str, history: History
    ) -> Suggestion:
        """Return the candidate with the highest score."""
        return Suggestion(config=pool[int(np.argmax(score))], why=f"{self.label}: {why}")

    def explore(self, known: Sequence[Trial], tried: set[str], rng: np.random.Generator) -> Suggestion:
        """Propose what lies farthest from all that is known, by the sum of the parameters' distances.

        After failures only so far from what worked as changing half of its parameters goes, then a quarter, and so on:
        where much of the space fails, as plans run out of memory, far away is no place to learn.
        """
        worked, failed = [t for t in known if t.ok], sum(not t.ok for t in known)
        if worked and failed:
            near = self.halfway(dict(worked[0].config), failed, rng)
            fresh = [c for c in near if self.problem.space.key(c) not in tried]
            if fresh:
                seen = self.encoder.rows([dict(t.config) for t in known])
                distance = self.encoder.distances(self.encoder.rows(fresh), seen).sum(axis=0).min(axis=1)
                why = f"{self.label}: away from what was tried, not as far as what failed"
                return Suggestion(config=fresh[int(np.argmax(distance))], why=why)
        count = min(FAR, len(self.pool))
        chosen = rng.choice(len(self.pool), count, replace=False)
        seen = self.encoder.rows([dict(t.config) for t in known] or [self.problem.space.default])
        distance = self.encoder.distances(self.rows[chosen], seen).sum(axis=0).min(axis=1)
        for k in np.argsort(-distance):
            if self.keys[chosen[k]] not in tried:
                config = self.pool[chosen[k]]
                return Suggestion(config=config, why=f"{self.label}: far from all that was tried")
        raise TunerError("every configuration of the space was tried; there is nothing left to propose")

    def halfway(self, config: Config, failed: int, rng: np.random.Generator) -> list[Config]:
        """Change a share of a configuration's parameters, halved for each failure."""
        space = self.problem.space
        point = space.encode(config)
        count = max(1, round(len(point) * 0.5**failed))
        made = []
        for _ in range(MUTANTS):
            changed = rng.permutation(len(point))[:count]
            to = point.copy()
            to[changed] = rng.random(count)
            made.append(space.decode(to))
        return made

    def candidates(
        self, good: Sequence[Trial], tried: set[str], rng: np.random.Generator
    ) -> tuple[list[Config], NDArray[np.float64]]:
        """Return untried configurations worth a look, and their rows."""
        space = self.problem.space
        ranked = sorted(good, key=lambda t: (not t.feasible, self.sign * t.scores[self.metric.name]))
        if self.listed is not None:
            chosen = np.arange(len(self.pool))
            if len(chosen) > ALL:
                top = self.encoder.rows([dict(t.config) for t in ranked[:TOP]])
                distance = self.encoder.distances(self.rows, top).sum(axis=0).min(axis=1)
                near = np.argsort(distance, kind="stable")[:NEAR]
                chosen = np.union1d(near, rng.choice(len(self.pool), RANDOM, replace=False))
            kept = [int(i) for i in chosen if self.keys[i] not in tried]
            if not kept:
                raise TunerError("every configuration of the space was tried; there is nothing left to propose")
            return [self.pool[i] for i in kept], self.rows[kept]
        made = list(itertools.chain.from_iterable(self.mutants(dict(t.config), rng) for t in ranked[:PARENTS]))
        fresh = {space.key(c): c for c in made}
        kept = [i for i, key in enumerate(self.keys) if key not in tried]
        new = [c for key, c in fresh.items() if key not in tried]
        if not kept and not new:
            raise TunerError("no untried configuration was found; there is nothing left to propose")
        return [self.pool[i] for i in kept] + new, np.concatenate([self.rows[kept], self.encoder.rows(new)])

    def mutants(self, parent: Config, rng: np.random.Generator) -> list[Config]:
        """Change at least one parameter of a configuration; a tenth of changed numbers go to an end of the range."""
        space, made = self.problem.space, []
        point = space.encode(parent)
        numeric = np.array([not isinstance(p, Choice) for p in space.params.values()])
        for k in range(MUTANTS):
            changed = rng.random(len(point)) < RATES[k % len(RATES)]
            changed[rng.integers(len(point))] = True
            to = rng.random(len(point))
            ends = numeric & (rng.random(len(point)) < 0.1)
            to[ends] = np.round(to[ends])
            made.append(space.decode(np.where(changed, to, point)))
        return made

    def promise(
        self, known: Sequence[Trial], rows: NDArray[np.float64], *, ranks: bool, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], str]:
        """Return the log of the expected improvement, times the chance that every bound is met; and what it was of.

        A trial that failed counts as the worst that was measured, and as breaking every bound.
        """
        seen = self.encoder.rows([dict(t.config) for t in known])
        worst = max(self.sign * t.scores[self.metric.name] for t in known if t.ok)
        values = np.array([self.sign * t.scores[self.metric.name] if t.ok else worst for t in known])
        feasible = np.array([t.feasible for t in known])
        score, why = self.improvement(seen, values, rows, feasible, ranks=ranks, rng=rng)
        for bounded in self.problem.constrained:
            score = score + self._chance(bounded.name, known, seen, rows, rng)
        return score, why

    def improvement(
        self, seen: NDArray[np.float64], values: NDArray[np.float64], rows: NDArray[np.float64],
        feasible: NDArray[np.bool_], *, ranks: bool, rng: np.random.Generator,
    ) -> tuple[NDArray[np.float64], str]:  # fmt: skip
        """Return the log of the expected improvement, 0 where nothing is feasible yet; and what it was of."""
        goal = normal_scores(values) if ranks else values
        model = fit(self.encoder, seen, goal, rng, self.prior())
        mean, std = model.predict(self.encoder, rows)
        score = np.zeros(len(rows))
        if feasible.any():
            score = log_expected_improvement(mean, std, float(goal[feasible].min()))
        return score, f"expected improvement of the {'ranks' if ranks else 'values'}"

    def prior(self) -> NDArray[np.float64] | None:
        """Return what ``fit`` takes as ``own``; None without prior knowledge."""
        return None

    def _chance(
        self, name: str, known: Sequence[Trial], seen: NDArray[np.float64], rows: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:  # fmt: skip
        """Return the log probability that a bound is met."""
        from scipy.special import log_ndtr

        measured = [abs(t.violations[name]) for t in known if t.ok and math.isfinite(t.violations[name])]
        most = max([1e-9, *measured])
        missed = np.array([t.violations[name] if t.ok and math.isfinite(t.violations[name]) else most for t in known])
        if np.all(missed <= 0) or missed.std() == 0:
            return np.zeros(len(rows))
        mean, std = fit(self.encoder, seen, missed, rng).predict(self.encoder, rows)
        return np.asarray(log_ndtr(-mean / std))
