"""A trained agent in the tuner's seat: ``--tuner policy:FILE.zip``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from tunewright.agents import policy, trained_on
from tunewright.envs.family import Layout, Standing
from tunewright.envs.tuning import gain, observe
from tunewright.errors import TunerError
from tunewright.tuner import BaseTuner, History, Problem, Suggestion, Trial

NEEDS = {"stable_baselines3": "rl"}
_BUDGET = 20  # steps that an agent without a planned number of trials is told it has


class PolicyTuner(BaseTuner):
    """A trained Stable-Baselines3 agent: policy:FILE.zip.

    Sees what it saw when it was trained: in ``tunewright/Tuning-v0`` on one target, or in
    ``tunewright/TuningFamily-v0`` on a family. The session's parameters must be those that it was trained on.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if not problem.argument:
            raise TunerError("say which agent: --tuner policy:FILE.zip (tunewright.agents.policy.train makes one)")
        self.model = policy.load(problem.argument, trust_file=problem.trust_file)
        self.workloads = list(problem.workloads) or [problem.workload]
        learned = policy.trained_on(problem.argument) or {"kind": "unknown", "targets": [], "parameters": []}
        self.layout: Layout | None = None
        wanted = len(problem.space) + len(problem.metrics) + 3 + len(self.workloads)
        if learned["kind"] == "family":
            self._same_parameters(learned)
            names = tuple(p["name"] for p in learned["parameters"])
            self.layout = Layout(parameters=names, facts=tuple(learned["facts"]))
            wanted = self.layout.size
        elif learned["kind"] == "environment":
            where = f" ({', '.join(learned['targets'])})" if learned["targets"] else ""
            raise TunerError(f"the agent {problem.argument} was trained for something else than tuning{where}")
        seen, acts = self.model.observation_space.shape, self.model.action_space
        if seen != (wanted,):
            raise TunerError(
                f"the agent {problem.argument} was trained for observations of shape {seen}; "
                f"this target gives ({wanted},)"
            )
        if learned["kind"] == "target":
            self._same_parameters(learned)
        if not isinstance(acts, spaces.Box) or acts.shape != (len(problem.space),):
            raise TunerError(f"the agent {problem.argument} acts in {acts}, not on {len(problem.space)} parameters")

    def _same_parameters(self, learned: Mapping[str, Any]) -> None:
        """Check that the session's numbers mean what they meant when the agent was trained; shapes alone say little.

        Raises:
            TunerError: they do not, with the differences.
        """
        problem, names = self.problem, ", ".join(learned["targets"])
        told = trained_on.differences(learned["parameters"], trained_on.parameters(problem.space))
        if told:
            raise TunerError(
                f"the agent {problem.argument} was trained on {names}, whose parameters are not this target's:"
                f" {trained_on.listed(told)}"
            )
        here = {"metrics": [m.name for m in problem.metrics], "workloads": self.workloads}
        for key, values in here.items():
            if key in learned and learned[key] != values:
                raise TunerError(
                    f"the agent {problem.argument} was trained on {names} with the {key} {', '.join(learned[key])};"
                    f" this target has {', '.join(values)}"
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
        if self.layout is not None:
            return self._as_family(self.layout, history, default, total)
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
        return self._act(observation, history, explore=history.attempt > 0)

    def _as_family(self, layout: Layout, history: History, default: Trial, total: int) -> Suggestion:
        """Act on what the agent saw in its family; after its first proposal it explores, as it did when it learned."""
        problem, standing = self.problem, Standing(self.problem.space)
        objective = problem.metric(problem.objectives[0])
        base = default.scores[objective.name]
        for trial in history.trials[1:]:
            gained = gain(objective, trial.scores[objective.name], base) if trial.feasible else None
            standing.advance(dict(trial.config), gained)
        observation = standing.observe(
            layout, facts=problem.facts, about=f"{problem.workload} {problem.about}",
            left=max(0.0, 1 - (history.step - 1) / max(total - 1, 1)),
        )  # fmt: skip
        return self._act(observation, history, explore=history.step > 1 or history.attempt > 0)

    def _act(self, observation: Any, history: History, *, explore: bool) -> Suggestion:
        problem = self.problem
        self.model.set_random_seed(int(problem.rng(history).integers(2**31)))
        action, _ = self.model.predict(observation, deterministic=not explore)
        low, high = (
            np.asarray(b, dtype=np.float64) for b in (self.model.action_space.low, self.model.action_space.high)
        )
        point = (np.clip(np.asarray(action, dtype=np.float64), low, high) - low) / (high - low)
        if explore:  # policies that have learned are nearly deterministic: widen with every refusal
            point = np.clip(point + problem.rng(history).normal(0, 0.05 * history.attempt, len(point)), 0, 1)
        return Suggestion(config=problem.space.decode(point), why="trained agent" + (", exploring" if explore else ""))
