"""The tuner ``screen``: a calibrated simulator judges many configurations, and few are really measured.

What is measured corrects the simulator: the log of measured over predicted is averaged over the trials near a
configuration, the nearer the more, and by nothing far from all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling.vllm import calibrate
from tunewright.envs.scheduling.vllm.predict import Load, Predictor
from tunewright.errors import ConfigError, TunerError
from tunewright.space import Config
from tunewright.tuner import BaseTuner, History, Problem, Suggestion, Trial
from tunewright.tuners.gaussian import Encoder

DRAWS = 600  # configurations that are judged
MUTANTS = 60  # around the best, in each trial
_NEAR = 0.25  # distance, over the root of the number of parameters, in which a measurement counts
_DOUBT = 0.3  # weight of the simulator alone beside measurements
_FAILED = -3.0  # log of measured over predicted where a configuration failed
_LEAST = 1e-9


class ScreenTuner(BaseTuner):
    """Simulates first, then measures what is predicted to be best; for the target ``vllm``.

    Options: ``engine``, the file of ``tunewright calibrate serving``; ``draws``, how many configurations are simulated.
    """

    label: ClassVar[str] = "screen"
    multi_objective: ClassVar[bool] = False
    known: ClassVar[tuple[str, ...]] = ("engine", "draws")
    asks = 3

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if "engine" not in problem.options:
            raise ConfigError(
                "tuner screen needs step times: -T engine=FILE, which 'tunewright calibrate serving' writes"
            )
        self.metric = problem.metric(problem.objectives[0])
        self.sign = 1.0 if self.metric.direction == "max" else -1.0
        draws = problem.option("draws", DRAWS, low=1)
        calibrated = calibrate.read(Path(str(problem.options["engine"])))
        self.predictor = Predictor(calibrated, Load.of(problem.facts), problem.space.default, problem.seed)
        self.encoder = Encoder(problem.space)
        self.seen: dict[str, float] = {}
        rng = np.random.default_rng([problem.seed, 31])
        drawn = [problem.space.default, *(problem.space.decode(rng.random(len(problem.space))) for _ in range(draws))]
        self.pool = list({problem.space.key(c): c for c in drawn}.values())

    def _predicted(self, config: Config) -> float:
        """Return the log of the objective, larger is better; -inf where the simulator does not know it."""
        key = self.problem.space.key(config)
        if key not in self.seen:
            try:
                value = self.predictor.metrics(config).get(self.metric.name)
            except ConfigError:
                value = None
            known = value is not None and np.isfinite(value)
            self.seen[key] = self.sign * float(np.log(max(float(value or 0.0), _LEAST))) if known else -np.inf
        return self.seen[key]

    def ask(self, history: History) -> Suggestion:
        """Propose what is predicted to be best, by the simulator and what was measured."""
        space = self.problem.space
        tried = history.tried(space)
        known = [t for t in history.trials if t.decided]
        fresh = [c for c in self._candidates(known, self.problem.rng(history)) if space.key(c) not in tried]
        if not fresh:
            raise TunerError("no untried configuration was found; there is nothing left to propose")
        expected = np.array([self._predicted(c) for c in fresh]) + self._correction(known, fresh)
        best = int(np.argmax(expected))
        if not np.isfinite(expected[best]):
            raise TunerError(f"the simulator predicts no {self.metric.name} for this space; take another tuner")
        default = self._predicted(space.default)
        why = f"screen: predicted {np.exp(expected[best] - default):.2f} times the default's {self.metric.name}"
        return Suggestion(config=fresh[best], why=f"{why}, of {len(self.seen)} simulated")

    def _candidates(self, known: list[Trial], rng: np.random.Generator) -> list[Config]:
        """Return what was drawn, and what is near the best of it and of the trials."""
        space = self.problem.space
        ranked = sorted(self.pool, key=lambda c: -self._predicted(c))[:3]
        good = [t for t in known if t.ok and self.metric.name in t.scores]
        best = max(good, key=lambda t: self.sign * t.scores[self.metric.name], default=None)
        parents = [*ranked, *([dict(best.config)] if best is not None else [])]
        near = []
        for nth in range(MUTANTS):
            point = space.encode(parents[nth % len(parents)]).copy()
            change = rng.random(len(point)) < max(0.3, 1 / len(point))
            change[rng.integers(len(point))] = True
            point[change] = np.clip(point[change] + rng.normal(0, 0.15, int(change.sum())), 0, 1)
            near.append(space.decode(point))
        # what is near is drawn anew each time: a session that is resumed proposes the same
        return list({space.key(c): c for c in [*self.pool, *near]}.values())

    def _correction(self, known: list[Trial], configs: list[Config]) -> NDArray[np.float64]:
        """Return by how much the log of the objective is expected to differ from the simulator's."""
        rows, off = [], []
        for trial in known:
            predicted = self._predicted(dict(trial.config))
            if not np.isfinite(predicted):
                continue
            value = trial.scores.get(self.metric.name) if trial.ok else None
            rows.append(dict(trial.config))
            off.append(_FAILED if value is None else self.sign * np.log(max(float(value), _LEAST)) - predicted)
        if not rows:
            return np.zeros(len(configs))
        # the default's difference is everybody's: only what differs from it tells configurations apart
        shared = off[0]
        width = _NEAR * np.sqrt(len(self.problem.space))
        apart = self.encoder.rows(configs)[:, None] - self.encoder.rows(rows)[None]
        weight = np.exp(-0.5 * (apart**2).sum(axis=2) / width**2)
        local = (weight * (np.clip(off, -5, 5) - np.clip(shared, -5, 5))).sum(axis=1) / (weight.sum(axis=1) + _DOUBT)
        return np.asarray(local + np.clip(shared, -5, 5), dtype=float)

    def notes(self) -> dict[str, Any]:
        """Return how many configurations were simulated."""
        return {"simulated": len(self.seen)}
