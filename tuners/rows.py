"""The tuner ``rows``: a Gaussian process for spaces whose legal configurations are a list, such as a table's rows.

After the default and one random configuration it proposes the row with the highest expected improvement among those
near the best trials and some of the others. Each parameter has a length of its own, since most matter little and a few
much. The kernel, the opening and the share of rows were chosen on the development half of
benchmarks/tables_split.toml alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tunewright.errors import TunerError
from tunewright.space import Config
from tunewright.tuner import Problem, Suggestion, Trial
from tunewright.tuners.additive import TOP, AdditiveGPTuner
from tunewright.tuners.gaussian import ENOUGH, Array, Encoder, Fit, fit, log_expected_improvement, matern

FREE = 1.2  # standard deviation of the prior of each parameter's log length; its mean is a length of 1
JOINT = (-6.0, 0.0)  # prior means of the log amplitudes: next to no additive part
NEAREST, LEAST = 0.3, 300  # share of the rows that are nearest to the best trials, and how many at least
OTHERS = 0.1  # share of all rows that is looked at wherever it lies


class ListedRows:
    """Predictions at many rows of a listed space.

    A parameter has few values, however many rows there are: its part of a kernel is computed for each of its values,
    then looked up for each row, so that thousands of rows take some milliseconds.

    Args:
        encoder: made the rows.
        rows: shape (rows, width).
    """

    def __init__(self, encoder: Encoder, rows: Array) -> None:
        self.groups = encoder.groups
        self.values: list[Array] = []
        self.places: list[np.ndarray] = []
        for group in self.groups:
            values, places = np.unique(rows[:, group], axis=0, return_inverse=True)
            self.values.append(values)
            self.places.append(places.reshape(-1))

    def predict(self, model: Fit, chosen: np.ndarray) -> tuple[Array, Array]:
        """Return what ``Fit.predict`` does for the rows with the given numbers."""
        shape = (len(chosen), len(model.rows))
        additive, squared = np.zeros(shape), np.zeros(shape)
        lengths = np.exp(model.theta[0] + model.theta[1:-3])
        for group, values, places, length in zip(self.groups, self.values, self.places, lengths, strict=True):
            distance = np.sqrt(((values[:, None] - model.rows[None, :, group]) ** 2).sum(axis=2)) / length
            additive += matern(distance)[places[chosen]]
            squared += (distance * distance)[places[chosen]]
        amplitudes = np.exp(model.theta[-3:-1])
        cross = amplitudes[0] * additive / len(self.groups) + amplitudes[1] * matern(np.sqrt(squared))
        return model.from_covariance(cross)


class RowsTuner(AdditiveGPTuner):
    """Gaussian process over listed configurations; no options. One objective, any number of bounds."""

    label: ClassVar[str] = "rows"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.lookup = ListedRows(self.encoder, self.rows) if self.listed is not None else None
        self.chosen: np.ndarray | None = None  # numbers of the rows that are looked at in this trial

    def explore(self, known: Sequence[Trial], tried: set[str], rng: np.random.Generator) -> Suggestion:
        """Propose a random configuration; after failures, one that is not as far from what worked as what failed."""
        if not any(not t.ok for t in known):
            for k in rng.permutation(len(self.pool)):
                if self.keys[k] not in tried:
                    return Suggestion(config=self.pool[k], why=f"{self.label}: start-up (random)")
        return super().explore(known, tried, rng)

    def candidates(
        self, good: Sequence[Trial], tried: set[str], rng: np.random.Generator
    ) -> tuple[list[Config], Array]:
        """Return untried configurations worth a look, and their rows."""
        if self.lookup is None:
            return super().candidates(good, tried, rng)
        left = np.array([k for k, key in enumerate(self.keys) if key not in tried], dtype=np.intp)
        if not len(left):
            raise TunerError("every configuration of the space was tried; there is nothing left to propose")
        ranked = sorted(good, key=lambda t: (not t.feasible, self.sign * t.scores[self.metric.name]))
        top = self.encoder.rows([dict(t.config) for t in ranked[:TOP]])
        distance = self.encoder.distances(self.rows[left], top).sum(axis=0).min(axis=1)
        near = np.argsort(distance, kind="stable")[: max(LEAST, int(NEAREST * len(left)))]
        other = rng.choice(len(left), max(1, int(OTHERS * len(left))), replace=False)
        self.chosen = left[np.union1d(near, other)]
        return [self.pool[k] for k in self.chosen], self.rows[self.chosen]

    def improvement(
        self, seen: Array, values: Array, rows: Array, feasible: np.ndarray, *, ranks: bool, rng: np.random.Generator
    ) -> tuple[Array, str]:
        """Return the log of the expected improvement of the values, 0 where nothing is feasible yet."""
        if not feasible.any():
            return np.zeros(len(rows)), "the chance of meeting every bound"
        count = len(self.encoder.groups)
        # the prior of the length that all share grows with their number; taken back here
        own, spread = np.full(count, -0.5 * np.log(count)), np.full(count, FREE)
        model = fit(self.encoder, seen, values, None, own, own_std=spread, amplitudes=JOINT, tolerance=ENOUGH)
        if self.lookup is not None and self.chosen is not None:
            predicted = self.lookup.predict(model, self.chosen)
        else:
            predicted = model.predict(self.encoder, rows)
        return log_expected_improvement(*predicted, float(values[feasible].min())), "expected improvement"
