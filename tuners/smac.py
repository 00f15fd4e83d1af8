"""SMAC3 as a tuner: a random forest with expected improvement (its hyper-parameter optimisation facade)."""

from __future__ import annotations

import logging
import tempfile
import warnings
import weakref
from pathlib import Path
from typing import Any, ClassVar

from tunewright.errors import missing_extra
from tunewright.space import Config
from tunewright.space.parameters import Choice, Int
from tunewright.store.trees import remove_tree
from tunewright.tuner import BaseTuner, History, Problem, Suggestion, Trial

NEEDS = {"smac": "smac"}
_MOST = 10_000  # trials that its scenario plans for
_LOST = 1e9  # cost of a configuration that failed


class SMACTuner(BaseTuner):
    """SMAC3, for comparison; option ``startup``: configurations of its initial design, beside the default (2).

    It knows no constraints between parameters: what it proposes is made legal first, and it is told what was measured.
    """

    known: ClassVar[tuple[str, ...]] = ("startup",)
    label = "SMAC3"
    multi_objective = False

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        startup = problem.option("startup", 2, low=1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from ConfigSpace import Configuration, ConfigurationSpace
                from smac import HyperparameterOptimizationFacade as Facade
                from smac import Scenario
        except ImportError:
            raise missing_extra("smac", "smac", "tuner 'smac'") from None
        logging.getLogger("smac").setLevel(logging.ERROR)
        self.metric = problem.metric(problem.objectives[0])
        self.configs = ConfigurationSpace(seed=problem.seed)
        self.configs.add(self._parameters())
        self._make = Configuration
        folder = tempfile.mkdtemp(prefix="tunewright-smac-")
        weakref.finalize(self, remove_tree, Path(folder))
        scenario = Scenario(
            self.configs, deterministic=True, n_trials=_MOST, seed=problem.seed, output_directory=Path(folder)
        )
        self.facade = Facade(
            scenario,
            lambda config, seed=0: 0.0,
            initial_design=Facade.get_initial_design(scenario, n_configs=startup),
            overwrite=True,
            logging_level=False,
            intensifier=Facade.get_intensifier(scenario, max_config_calls=1),
        )
        self.asked: dict[str, Any] = {}
        self.waiting: list[Trial] = []  # told, but not asked of this object

    def _parameters(self) -> list[Any]:
        from ConfigSpace import Categorical, Float, Integer

        space = self.problem.space
        held: list[Any] = []
        for name, param in space.params.items():
            if isinstance(param, Choice):
                texts = [str(c) for c in param.choices]
                held.append(Categorical(name, texts, default=str(param.default), ordered=param.ordered))
                continue
            low, high = param.bounds(space.scope(space.default))
            make: Any = Integer if isinstance(param, Int) else Float
            start = min(max(param.default, low), high)
            held.append(make(name, (low, high), default=start, log=param.log and low > 0))
        return held

    def _theirs(self, config: Config) -> Any:
        """Return a configuration in SMAC's form; special values become the nearest of the range."""
        made: dict[str, Any] = {}
        for name, param in self.problem.space.params.items():
            value = config.get(name, param.default)
            if isinstance(param, Choice):
                made[name] = str(value)
            else:
                own: Any = self.configs[name]
                made[name] = type(own.default_value)(min(max(value, own.lower), own.upper))
        return self._make(self.configs, made)

    def _ours(self, config: Any) -> Config:
        made: Config = {}
        for name, param in self.problem.space.params.items():
            value = config[name]
            if isinstance(param, Choice):
                made[name] = next(c for c in param.choices if str(c) == value)
            else:
                made[name] = int(value) if isinstance(param, Int) else float(value)
        return self.problem.space.legalise(made)

    def ask(self, history: History) -> Suggestion:
        """Propose what SMAC3 does next, made legal."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._catch_up()
            info = self.facade.ask()
        config = self._ours(info.config)
        self.asked[self.problem.space.key(config)] = info
        return Suggestion(config=config, why=self.label)

    def tell(self, trial: Trial) -> None:
        """Tell SMAC3 what was measured; what failed costs more than anything."""
        if not trial.decided:
            return
        info = self.asked.pop(self.problem.space.key(trial.config), None)
        if info is None:
            self.waiting.append(trial)
        else:
            self._tell(trial, info)

    def _catch_up(self) -> None:
        """Tell what an earlier process measured; its proposals are made again, so that the random numbers go on."""
        from smac.runhistory import TrialInfo

        for trial in self.waiting:
            info = self.facade.ask() if trial.why == self.label else None
            if info is None or self.problem.space.key(self._ours(info.config)) != self.problem.space.key(trial.config):
                info = TrialInfo(self._theirs(dict(trial.config)), seed=0)
            self._tell(trial, info)
        self.waiting.clear()

    def _tell(self, trial: Trial, info: Any) -> None:
        from smac.runhistory import TrialValue

        sign = 1.0 if self.metric.direction == "min" else -1.0
        cost = sign * trial.scores[self.metric.name] if trial.ok else _LOST
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.facade.tell(info, TrialValue(cost=cost), save=False)
