"""A trained agent in the tuner's seat: ``--tuner policy:FILE.zip``."""

from __future__ import annotations

import numpy as np
from tunewright.agents import policy
from tunewright.envs.tuning import gain, observe

from tunewright.errors import TunerError
from tunewright.tuner import BaseTuner, History, Problem, Suggestion

NEEDS = {"stable_baselines3": "rl"}
_BUDGET = 20  # steps that an agent without a planned number of trials is told it has


class PolicyTuner(BaseTuner):
    """A trained Stable-Baselines3 agent: policy:FILE.zip.

    Sees what it saw in ``tunewright/Tuning-v0``; its space must have the same shape.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if not problem.argument:
            raise TunerError("say which agent: --tuner policy:FILE.zip (tunewright.agents.policy.train makes one)")
        self.model = policy.load(problem.argument)
        self.workloads = list(problem.workloads) or [problem.workload]
        wanted = len(problem.space) + len(problem.metrics) + 3 + len(self.workloads)
        shape = self.model.observation_space.shape
        if shape != (wanted,):
            raise TunerError(
                f"the agent {problem.argument} was trained for observations of shape {shape}; "
                f"this target gives ({wanted},)"
            )

    def ask(self, history: History) -> Suggestion:
        """Propose what the agent does next; after a refusal, or once it repeats itself, an exploring action."""
        problem, trials = self.problem, history.trials
        default = next(t for t in trials if t.step == 0)
        objective = problem.metric(problem.objectives[0])
        good = [t for t in trials if t.feasible]
        best = max(
            (gain(objective, t.scores[objective.name], default.scores[objective.name]) for t in good),
            default=0.0,
        )
        total = problem.trials or (_BUDGET if history.remaining is None else history.remaining + history.step)
        last = trials[-1]
        observation = observe(
            problem.space,
            problem.metrics,
            self.workloads,
            workload=problem.workload,
            config=dict(last.config),
            values=last.scores if last.feasible else None,
            default=default.scores,
            best=max(best, 0.0),
            left=max(0.0, 1 - history.step / total),
        )
        self.model.set_random_seed(int(problem.rng(history).integers(2**31)))
        explore = history.attempt > 0
        action, _ = self.model.predict(observation, deterministic=not explore)
        point = (np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0) + 1) / 2  # trained on [-1, 1]
        if explore:  # policies that have learned are nearly deterministic: widen with every refusal
            point = np.clip(point + problem.rng(history).normal(0, 0.05 * history.attempt, len(point)), 0, 1)
        return Suggestion(config=problem.space.decode(point), why="trained agent" + (", exploring" if explore else ""))
