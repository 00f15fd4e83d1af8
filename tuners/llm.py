"""Tuners that reason: ``playbook``, plain rules without a model."""

from __future__ import annotations

from tunewright.agents.llm.playbook import Playbook

from tunewright.errors import TunerError
from tunewright.tuner import BaseTuner, History, Problem, Suggestion, Trial


class PlaybookTuner(BaseTuner):
    """Plain rules on names, descriptions, ranges and the workload; no options, one objective."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if len(problem.objectives) > 1:
            raise TunerError("tuner 'playbook' optimises one objective; for several use tpe or nsga2")
        self.metric = problem.metric(problem.objectives[0])
        self.playbook = Playbook(problem.space, f"{problem.workload}: {problem.about}", problem.facts)

    def ask(self, history: History) -> Suggestion:
        """Propose what the playbook says next."""
        key = self.problem.space.key
        tried = {key(t.config) for t in history.trials} | {key(c) for c in history.running}
        tried |= {key(r.config) for r in history.refused if r is not None}
        config, why = self.playbook.propose([t for t in history.trials if t.decided], tried, self._better)
        return Suggestion(config=config, why=f"playbook: {why}")

    def _better(self, a: Trial, b: Trial) -> bool:
        return self.metric.better(a.scores[self.metric.name], b.scores[self.metric.name])
