"""SMAC3 (random forest, its hyper-parameter optimisation facade) as a tuner, for comparison only: pip install smac."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from tunewright.params import Choice, Int
from tunewright.tuner import BaseTuner, Suggestion


class SmacTuner(BaseTuner):
    """Option ``startup``: configurations of its initial design, beside the default."""

    known = ("startup",)
    label = "smac"
    multi_objective = False

    def __init__(self, problem) -> None:
        super().__init__(problem)
        from ConfigSpace import Categorical, Configuration, ConfigurationSpace, Float, Integer
        from smac import HyperparameterOptimizationFacade as Facade
        from smac import Scenario

        logging.getLogger("smac").setLevel(logging.ERROR)
        held = []
        for name, param in problem.space.params.items():
            if isinstance(param, Choice):
                texts = [str(c) for c in param.choices]
                held.append(Categorical(name, texts, default=str(param.default), ordered=param.ordered))
            else:
                low, high = param.bounds(problem.space.scope(problem.space.default))
                make = Integer if isinstance(param, Int) else Float
                held.append(
                    make(
                        name, (low, high), default=param.default if low <= param.default <= high else low, log=param.log
                    )
                )
        self.configs = ConfigurationSpace(seed=problem.seed)
        self.configs.add(held)
        self._make = Configuration
        self.folder = tempfile.mkdtemp(prefix="smac")
        scenario = Scenario(
            self.configs, deterministic=True, n_trials=1000, seed=problem.seed, output_directory=Path(self.folder)
        )
        design = Facade.get_initial_design(scenario, n_configs=problem.option("startup", 10))
        self.facade = Facade(
            scenario,
            lambda config, seed=0: 0.0,
            initial_design=design,
            overwrite=True,
            logging_level=False,
            intensifier=Facade.get_intensifier(scenario, max_config_calls=1),
        )
        self.asked = {}
        self.metric = problem.metric(problem.objectives[0])
        self.sign = 1.0 if self.metric.direction == "min" else -1.0

    def _theirs(self, config):
        params = self.problem.space.params
        return self._make(self.configs, {n: str(v) if isinstance(params[n], Choice) else v for n, v in config.items()})

    def _ours(self, config):
        made = {}
        for name, param in self.problem.space.params.items():
            value = config[name]
            made[name] = (
                next(c for c in param.choices if str(c) == value)
                if isinstance(param, Choice)
                else type(param.default)(value)
            )
        return self.problem.space.fill(made)

    def ask(self, history) -> Suggestion:
        info = self.facade.ask()
        config = self._ours(info.config)
        self.asked[self.problem.space.key(config)] = info
        return Suggestion(config=config, why="smac")

    def tell(self, trial) -> None:
        from smac.runhistory import TrialInfo, TrialValue

        cost = self.sign * trial.scores[self.metric.name] if trial.ok else 1e9
        asked = self.asked.pop(self.problem.space.key(trial.config), None)
        self.facade.tell(asked or TrialInfo(self._theirs(trial.config), seed=0), TrialValue(cost=cost), save=False)
