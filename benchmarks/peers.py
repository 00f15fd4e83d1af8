"""Other projects' optimisers for measured tables: Optuna's GP and AutoSampler with ordered choices as whole numbers, and
Nevergrad. AutoSampler comes from a clone of OptunaHub's registry, as nothing is fetched while a benchmark runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.space.parameters import Choice
from tunewright.tuner import BaseTuner, Suggestion
from tunewright.tuners.optuna import GPTuner


class OrderedGP(GPTuner):
    """Optuna's GP as its user would call it on a table: an ordered choice is the whole number of its place."""

    def propose(self, trial):
        """Draw a configuration."""
        config = {}
        for name, param in self.problem.space.params.items():
            if param.ordered:
                config[name] = param.choices[trial.suggest_int(name, 0, len(param.choices) - 1)]
            else:
                config[name] = trial.suggest_categorical(name, param.choices)
        return config

    def params(self, config):
        """Return (values, distributions) of a configuration."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        values, kinds = {}, {}
        for name, value in config.items():
            param = self.problem.space.params[name]
            values[name] = param.choices.index(value) if param.ordered else value
            kinds[name] = (
                IntDistribution(0, len(param.choices) - 1) if param.ordered else CategoricalDistribution(param.choices)
            )
        return values, kinds


def auto_sampler(registry: Path) -> Callable[[Any], OrderedGP]:
    """Return a maker of tuners that ask OptunaHub's AutoSampler, out of a clone of its registry."""
    import optunahub

    module = optunahub.load_local_module("samplers/auto_sampler", registry_root=str(registry / "package"))

    class Automatic(OrderedGP):
        def sampler(self, seed):
            return module.AutoSampler(seed=seed)

    return Automatic


class Nevergrad(BaseTuner):
    """Nevergrad's NGOpt, which chooses an algorithm by size and budget; it is told the default first."""

    label = "Nevergrad"

    def __init__(self, problem) -> None:
        super().__init__(problem)
        import nevergrad

        def kind(param):
            parts = nevergrad.p
            return (parts.TransitionChoice if param.ordered else parts.Choice)(list(param.choices))

        assert all(isinstance(p, Choice) for p in problem.space.params.values())
        self.names = list(problem.space.params)
        made = nevergrad.p.Tuple(*(kind(p) for p in problem.space.params.values()))
        made.random_state = np.random.RandomState(problem.seed)
        self.optimizer = nevergrad.optimizers.NGOpt(parametrization=made, budget=problem.trials or 30)
        self.asked: dict[str, Any] = {}
        metric = problem.metric(problem.objectives[0])
        self.metric, self.sign = metric.name, 1.0 if metric.direction == "min" else -1.0

    def ask(self, history):
        """Propose what NGOpt asks for, made legal."""
        asked = self.optimizer.ask()
        config = self.problem.space.legalise(dict(zip(self.names, asked.value, strict=True)))
        self.asked[self.problem.space.key(config)] = asked
        return Suggestion(config=config, why=self.label)

    def tell(self, trial) -> None:
        """Tell NGOpt the loss, of what it asked for or of another configuration."""
        asked = self.asked.pop(self.problem.space.key(trial.config), None)
        if asked is None:
            asked = self.optimizer.parametrization.spawn_child(tuple(trial.config[n] for n in self.names))
        self.optimizer.tell(asked, self.sign * trial.scores[self.metric])
