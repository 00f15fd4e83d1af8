"""Tuners that reason: ``playbook``, plain rules without a model, and ``llm``, a language model."""

from __future__ import annotations

from typing import Any, ClassVar

from tunewright.agents.llm.playbook import Playbook
from tunewright.agents.llm.seat import OPTIONS, Seat, said
from tunewright.errors import TunerError
from tunewright.tuner import BaseTuner, History, Problem, Suggestion


class PlaybookTuner(BaseTuner):
    """Plain rules on names, descriptions, ranges and the workload; one objective.

    Options: ``rules``, a folder of learned rules, which come first; ``manual``, files or folders by commas, and
    ``trace``, a log of the workload, both read without a model.
    """

    known: ClassVar[tuple[str, ...]] = ("rules", "manual", "trace")
    label: ClassVar[str] = "playbook"
    multi_objective: ClassVar[bool] = False

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.playbook = Playbook.of(problem)

    def ask(self, history: History) -> Suggestion:
        """Propose what the playbook says next."""
        config, why = self.playbook.propose(history.trials, history.tried(self.problem.space))
        return Suggestion(config=config, why=f"{self.label}: {why}")


class LLMTuner(BaseTuner):
    """A language model behind an OpenAI-compatible endpoint; it gives a reason for each value it proposes.

    Options: see ``agents.llm.seat.Seat``.
    """

    known: ClassVar[tuple[str, ...]] = OPTIONS
    label: ClassVar[str] = "llm"
    multi_objective: ClassVar[bool] = False
    asks = 3  # suggestions in a row that may be refused

    def __init__(self, problem: Problem, model: Any = None) -> None:
        super().__init__(problem)
        self.seat = Seat(problem, model)

    def ask(self, history: History) -> Suggestion:
        """Ask the model.

        Raises:
            TunerError: it stops, cannot be reached, or its budget is spent.
        """
        answer = self.seat.next_answer(history)
        if answer.config is None:
            raise TunerError(f"the model stops: {answer.stop}")
        return Suggestion(config=answer.config, why=f"{self.label}: {said(answer)}")

    def notes(self) -> dict[str, Any]:
        """Return what the model said and cost."""
        return self.seat.notes()
