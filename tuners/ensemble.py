"""The tuner ``ensemble``: several Gaussian processes, each heard as far as it predicts what was left out.

Few trials cannot tell whether parameters act each for itself or together, so no single kernel is chosen: one that holds
both, a joint one whose lengths differ freely, and an almost additive one are fitted, and their expected improvements
are mixed by their leave-one-out predictive densities. Choices were made on the development half of
benchmarks/tables_split.toml alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tunewright.tuner import Suggestion, Trial
from tunewright.tuners.additive import FAR, AdditiveGPTuner
from tunewright.tuners.gaussian import (
    AMPLITUDE,
    BINARY_STD,
    OWN_STD,
    Array,
    fit,
    half_ranks,
    leave_one_out,
    log_expected_improvement,
)  # fmt: skip

_FEW, _FREE = -3.0, 1.0  # log amplitude of a part that is all but switched off; standard deviation of free log lengths
#: of each process: standard deviation of the prior of each parameter's log length, and the log amplitudes' means
MEMBERS = (
    (OWN_STD, (AMPLITUDE[0], AMPLITUDE[0])),
    (_FREE, (_FEW, 0.0)),
    (OWN_STD, (0.0, _FEW)),
)


class EnsembleTuner(AdditiveGPTuner):
    """Gaussian processes of three kernels, mixed by leave-one-out; no options. One objective, any number of bounds."""

    label: ClassVar[str] = "ensemble"

    def explore(self, known: Sequence[Trial], tried: set[str], rng: np.random.Generator) -> Suggestion:
        """Propose what lies at a middling distance from all that is known.

        The farthest configuration, with nearly every parameter at another end, was among the worst where effects add up
        or where parameters must fit each other, and taught little.
        """
        if any(not t.ok for t in known):
            return super().explore(known, tried, rng)
        chosen = rng.choice(len(self.pool), min(FAR, len(self.pool)), replace=False)
        seen = self.encoder.rows([dict(t.config) for t in known] or [self.problem.space.default])
        distance = self.encoder.distances(self.rows[chosen], seen).sum(axis=0).min(axis=1)
        for k in np.argsort(np.abs(distance - np.median(distance)), kind="stable"):
            if self.keys[chosen[k]] not in tried:
                why = f"{self.label}: some way from all that was tried"
                return Suggestion(config=self.pool[chosen[k]], why=why)
        return super().explore(known, tried, rng)

    def improvement(
        self, seen: Array, values: Array, rows: Array, feasible: np.ndarray, *, ranks: bool, rng: np.random.Generator
    ) -> tuple[Array, str]:
        """Return the log of the expected improvement, mixed over the processes; and what it was of."""
        from scipy.special import logsumexp

        goal = half_ranks(values)
        best = float(goal[feasible].min()) if feasible.any() else None
        scores, densities = [], []
        two = self.encoder.own_std == BINARY_STD
        for spread, amplitudes in MEMBERS:
            own_std = np.where(two, 0.5 if spread == _FREE else BINARY_STD, spread)
            model = fit(self.encoder, seen, goal, None, self.prior(), own_std=own_std, amplitudes=amplitudes)
            densities.append(leave_one_out(model))
            if best is not None:
                scores.append(log_expected_improvement(*model.predict(self.encoder, rows), best))
        if not scores:
            return np.zeros(len(rows)), "the chance of meeting every bound"
        weights = np.array(densities) - logsumexp(densities)
        heard = int(np.argmax(weights))
        name = ("additive and joint", "joint", "additive")[heard]
        mixed = np.asarray(logsumexp(np.array(scores) + weights[:, None], axis=0))
        return mixed, f"expected improvement, mostly of the {name} kernel ({np.exp(weights[heard]):.0%})"
