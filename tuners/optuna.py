"""Optuna's samplers as tuners: TPE, Gaussian process, CMA-ES and NSGA-II.

Each tuner keeps an in-memory study beside the session's: asked configurations are made legal first, and the
study is told what was really measured. A fresh sampler is made for every ask, seeded from the session seed,
the step and the attempt, so that a resumed session continues exactly as an unbroken one.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunewright.errors import TunerError, missing_extra
from tunewright.space import Config
from tunewright.space.parameters import Choice, Int
from tunewright.store.distributions import distribution
from tunewright.target import Metric
from tunewright.tuner import MAX_ASKS, BaseTuner, History, Problem, Suggestion, Trial

if TYPE_CHECKING:
    import optuna

_SPECIAL = ":special"
_RANGE = "in range"
# More whole numbers than these are drawn as real ones and rounded: a Gaussian process walks listed values one by one,
# which took it 73 s instead of 6 s for eight proposals on the Lustre model, for steps below 1/500 of the range.
LISTED = 512


class _OptunaTuner(BaseTuner):
    """What the four share; subclasses give the sampler."""

    known: ClassVar[tuple[str, ...]] = ("startup",)
    startup: ClassVar[int] = 3
    stateful: ClassVar[bool] = False  # the sampler keeps state on its trials, which a replay must rebuild

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.n_startup = problem.option("startup", self.startup, low=1)
        sides: list[Any] = ["minimize" if d == "min" else "maximize" for d in problem.directions]
        self.study = optuna.create_study(directions=sides)
        self.open: dict[str, optuna.Trial] = {}
        self.told: list[Trial] = []

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return a fresh sampler."""
        raise TunerError("a subclass gives the sampler")

    def ask(self, history: History) -> Suggestion:
        """Propose what the sampler draws, made legal."""
        running = {self.problem.space.key(c) for c in history.running}
        for key in [k for k in self.open if k not in running]:
            self._drop(self.open.pop(key))  # refused: it must not count as running
        trial, config = self._draw(history.step, history.attempt)
        self.open[self.problem.space.key(config)] = trial
        random = len(self.told) < self.n_startup
        return Suggestion(config=config, why=f"{self.label}, start-up (random)" if random else self.label)

    def _drop(self, trial: optuna.Trial) -> None:
        from optuna.trial import TrialState

        self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)

    def _draw(self, step: int, attempt: int) -> tuple[optuna.Trial, Config]:
        seed = int(np.random.default_rng([self.problem.seed, step, attempt]).integers(2**31))
        self.study.sampler = self.sampler(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self.study.ask()
            config = self.problem.space.legalise(self.propose(trial))
        return trial, config

    def propose(self, trial: optuna.Trial) -> Config:
        """Draw natural values, conditions respected."""
        space, values = self.problem.space, Config()
        scope = space.scope({})
        for name in space.order:
            if not space.is_active(name, scope):
                continue
            param, dist = space.params[name], _drawn(space.params[name], space)
            if not isinstance(param, Choice) and param.special:
                labels = [_RANGE, *(f"{v:g}" for v in param.special)]
                label = trial.suggest_categorical(name + _SPECIAL, labels)
                if label != _RANGE:
                    values[name] = scope[name] = list(param.special)[labels.index(label) - 1]
                    continue
                dist = _drawn(_without_special(param), space)
            value = _suggest(trial, name, dist)
            values[name] = scope[name] = round(value) if isinstance(param, Int) else value
        return {n: values[n] for n in space.params if n in values}

    def params(self, config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return (values, distributions) of a configuration in the form that ``propose`` draws."""
        space = self.problem.space
        values: dict[str, Any] = {}
        dists: dict[str, Any] = {}
        import optuna

        for name, value in config.items():
            param = space.params[name]
            if not isinstance(param, Choice) and param.special:
                labels = [_RANGE, *(f"{v:g}" for v in param.special)]
                special = value in param.special
                values[name + _SPECIAL] = f"{value:g}" if special else _RANGE
                dists[name + _SPECIAL] = optuna.distributions.CategoricalDistribution(labels)
                if special:
                    continue
                param = _without_special(param)
            values[name], dists[name] = value, _drawn(param, space, value)
        return values, dists

    def tell(self, trial: Trial) -> None:
        """Put a decided trial into the study; a failed one counts as bad as the worst seen."""
        import optuna

        if not trial.decided:
            return
        key = self.problem.space.key(trial.config)
        if self.stateful and trial.step > 0 and key not in self.open:
            for attempt in range(min(trial.attempt + 1, MAX_ASKS)):
                # replay: the same draws put the same state on the trials
                drawn, config = self._draw(trial.step, attempt)
                if self.problem.space.key(config) == key:
                    self.open[key] = drawn
                else:
                    self._drop(drawn)
        asked = self.open.pop(key, None)
        self.told.append(trial)
        values = self._values(trial)
        constraints = self._constraints(trial)
        system: dict[str, Any] = {}
        params, dists = self.mirror(trial, asked)
        if asked is not None:
            self._drop(asked)
            system = dict(self.study.get_trials(deepcopy=False)[asked.number].system_attrs)
        if values is None:
            return
        self.study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions=dists,
                values=values,
                system_attrs=system,
                constraints=constraints,
            )
        )

    def mirror(self, trial: Trial, asked: optuna.Trial | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the study is told was tried: what was really measured."""
        return self.params(dict(trial.config))

    def _values(self, trial: Trial) -> list[float] | None:
        if trial.ok:
            return [trial.scores[o] for o in self.problem.objectives]
        good = [t for t in self.told if t.ok]
        if not good:
            return None
        worst = []
        for objective, side in zip(self.problem.objectives, self.problem.directions, strict=True):
            seen = [t.scores[objective] for t in good]
            worst.append(max(seen) if side == "min" else min(seen))
        return worst

    def _constraints(self, trial: Trial) -> dict[str, float] | None:
        bounded: list[Metric] = self.problem.constrained
        if not bounded:
            return None
        seen = [abs(v) for t in self.told for v in t.violations.values() if math.isfinite(v)]
        return {m.name: trial.violations[m.name] if trial.ok else max([1.0, *seen]) for m in bounded}


def _drawn(param: Any, space: Any, value: Any = None) -> Any:
    """Return the distribution that a parameter is drawn from: for many whole numbers, real ones that are rounded.

    Optuna's Gaussian process lists all values of a whole number: gigabytes for a size in bytes.
    """
    import optuna

    dist = distribution(param, space, value)
    if isinstance(dist, optuna.distributions.IntDistribution) and (dist.high - dist.low) / dist.step > LISTED:
        return optuna.distributions.FloatDistribution(float(dist.low), float(dist.high), log=dist.log)
    return dist


def _suggest(trial: optuna.Trial, name: str, dist: Any) -> Any:
    import optuna

    if isinstance(dist, optuna.distributions.CategoricalDistribution):
        return trial.suggest_categorical(name, dist.choices)
    if isinstance(dist, optuna.distributions.IntDistribution):
        return trial.suggest_int(name, dist.low, dist.high, step=dist.step, log=dist.log)
    return trial.suggest_float(name, dist.low, dist.high, log=dist.log)


def _without_special(param: Any) -> Any:
    from dataclasses import replace

    default = param.default
    if default in param.special and not isinstance(param.low, str) and not isinstance(param.high, str):
        default = param.low
    return replace(param, special={}, default=default)


class TPETuner(_OptunaTuner):
    """Tree-structured Parzen estimator; option ``startup``: random trials first (3, Optuna's own is 10)."""

    label = "TPE"

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return a fresh sampler."""
        import optuna

        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.n_startup)


class GPTuner(_OptunaTuner):
    """Gaussian process with log expected improvement; option ``startup``: random trials first (2)."""

    label = "GP"
    startup = 2
    needs: ClassVar[dict[str, str]] = {"torch": "rl", "scipy": "rl"}
    asks = 3  # it maximises: asked again it mostly answers the same

    def __init__(self, problem: Problem) -> None:
        for package, extra in self.needs.items():
            try:
                __import__(package)
            except ImportError:
                raise missing_extra(package, extra, "tuner 'gp' (Optuna's Gaussian process)") from None
        super().__init__(problem)

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return a fresh sampler."""
        import optuna

        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=self.n_startup, warn_independent_sampling=False)


class CMAESTuner(_OptunaTuner):
    """CMA-ES on the unit cube; options ``startup`` (1) and ``popsize`` (0: by dimension)."""

    known: ClassVar[tuple[str, ...]] = ("startup", "popsize")
    label = "CMA-ES"
    startup = 1
    multi_objective = False
    stateful = True

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return a fresh sampler."""
        import optuna

        popsize = self.problem.option("popsize", 0) or None
        return optuna.samplers.CmaEsSampler(
            seed=seed, n_startup_trials=self.n_startup, popsize=popsize, warn_independent_sampling=False
        )

    def propose(self, trial: optuna.Trial) -> Config:
        """Draw a point of the unit cube: categories and conditions become steps of a real axis."""
        space = self.problem.space
        return space.decode(np.array([trial.suggest_float(name, 0.0, 1.0) for name in space.params]))

    def mirror(self, trial: Trial, asked: optuna.Trial | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the point that was drawn; for a foreign configuration, the middle of its cell."""
        import optuna

        space = self.problem.space
        dist = optuna.distributions.FloatDistribution(0.0, 1.0)
        point = dict(zip(space.params, map(float, space.encode(dict(trial.config))), strict=True))
        if asked is not None and set(asked.params) == set(point):
            point = dict(asked.params)
        return point, dict.fromkeys(point, dist)


class NSGA2Tuner(_OptunaTuner):
    """NSGA-II; option ``population`` (12; ``startup`` does not apply: the first generation is random)."""

    known: ClassVar[tuple[str, ...]] = ("population", "startup")
    label = "NSGA-II"
    stateful = True

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.n_startup = problem.option("population", problem.option("startup", 12, low=2), low=2)

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return a fresh sampler."""
        import optuna

        return optuna.samplers.NSGAIISampler(seed=seed, population_size=self.n_startup)
