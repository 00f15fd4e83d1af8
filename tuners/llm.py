"""Tuners that reason: ``playbook``, plain rules without a model, and ``llm``, a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tunewright.agents.llm.client import Ledger, Limits, open_model, read_log
from tunewright.agents.llm.playbook import Playbook
from tunewright.agents.llm.tuning import next_answer

from tunewright.errors import ConfigError, TunerError
from tunewright.tuner import BaseTuner, History, Problem, Suggestion


class PlaybookTuner(BaseTuner):
    """Plain rules on names, descriptions, ranges and the workload; no options, one objective."""

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
    """A language model proposes; options are listed in ``known``.

    Options: ``model`` and ``base_url`` of an OpenAI-compatible endpoint; ``manual`` (files or folders, separated by
    commas) and ``trace`` (a log that ``tunewright trace`` reads) to look into; ``log`` (a file for its calls) and
    ``replay`` (such a file, whose replies are used instead of a model); ``calls``, ``tokens``, ``money``, ``price_in``,
    ``price_out`` (of a million tokens) limit what it may spend; ``timeout`` in seconds.
    """

    known: ClassVar[tuple[str, ...]] = (
        "model", "base_url", "manual", "trace", "log", "replay", "calls", "tokens", "money", "price_in", "price_out",
        "timeout",
    )  # fmt: skip
    label: ClassVar[str] = "llm"
    multi_objective: ClassVar[bool] = False
    asks = 3  # suggestions in a row that may be refused

    def __init__(self, problem: Problem, model: Any = None) -> None:
        super().__init__(problem)
        options = problem.options
        limits = Limits(
            calls=problem.option("calls", 200, low=1), tokens=problem.option("tokens", 2_000_000, low=1),
            money=self._number("money", float("inf")), price_in=self._number("price_in", 0.0),
            price_out=self._number("price_out", 0.0),
        )  # fmt: skip
        log = Path(str(options["log"])) if "log" in options else problem.log
        replayed = read_log(Path(str(options["replay"]))) if "replay" in options else None
        self.ledger = Ledger(limits=limits, log=log, replayed=replayed)
        self.model = model
        if model is None and replayed is not None:
            from langchain_core.language_models.fake_chat_models import FakeListChatModel

            class Silent(FakeListChatModel):
                """Stands where a model would: every reply comes from the log."""

                def bind_tools(self, tools: Any, **how: Any) -> Any:
                    """Take any tools."""
                    return self

            self.model = Silent(responses=[""])
        elif model is None:
            name = str(options.get("model", ""))
            if not name:
                raise ConfigError(
                    "tuner 'llm' needs a model: --model NAME, and --base-url URL for an endpoint of your own"
                )
            self.model = open_model(name, str(options.get("base_url", "")), timeout_s=self._number("timeout", 120.0))
        self.manual = self._manual(str(options["manual"])) if "manual" in options else None
        self.observations = self._trace(str(options["trace"])) if "trace" in options else None

    def _number(self, name: str, default: float) -> float:
        value = self.problem.options.get(name, default)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"tuner option {name} must be a number, not {value!r}") from None
        if not number >= 0:
            raise ConfigError(f"tuner option {name} must be 0 or more, not {value}")
        return number

    @staticmethod
    def _manual(paths: str) -> Any:
        from tunewright.knowledge.manuals import chunks
        from tunewright.knowledge.reading import sections_of
        from tunewright.knowledge.retrieval import Index

        return Index(chunks(sections_of([Path(p.strip()) for p in paths.split(",")])))

    @staticmethod
    def _trace(path: str) -> Any:
        from tunewright.knowledge.evidence import observe

        found = observe(Path(path))
        if found is None:
            raise ConfigError(f"{path} is no log that 'tunewright trace' reads as observations")
        return found

    def ask(self, history: History) -> Suggestion:
        """Ask the model.

        Raises:
            TunerError: it stops, cannot be reached, or its budget is spent.
        """
        answer = next_answer(
            self.model, self.problem, history, self.ledger, manual=self.manual, observations=self.observations
        )
        if answer.config is None:
            raise TunerError(f"the model stops: {answer.stop}")
        why = "; ".join(f"{name} = {answer.config.get(name)}: {reason}" for name, reason in answer.reasons.items())
        extra = [
            f"expects {answer.expects}" if answer.expects else "",
            f"doubts {answer.doubts}" if answer.doubts else "",
        ]
        return Suggestion(config=answer.config, why=" · ".join(["llm: " + why, *filter(None, extra)]))
