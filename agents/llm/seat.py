"""A model's seat in a session: the model, its budget and log, and what it may look into, out of a tuner's options."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunewright.agents.llm.analyst import analyse
from tunewright.agents.llm.client import Ledger, Limits, open_embeddings, open_model, read_log
from tunewright.agents.llm.playbook import rules_for, trace_for
from tunewright.agents.llm.tuning import Answer, briefing, next_answer
from tunewright.errors import ConfigError, TunerError, TunerFailedError
from tunewright.knowledge.reading import sections_of
from tunewright.knowledge.retrieval import Index
from tunewright.knowledge.sections import bare, chunks
from tunewright.tuner import History, Problem

OPTIONS = (
    "model", "base_url", "manual", "trace", "rules", "log", "replay", "calls", "tokens", "money", "price_in",
    "price_out", "timeout", "stream", "embeddings",
)  # fmt: skip


class Seat:
    """What the options of a session give a model.

    Options: ``model`` and ``base_url`` of an OpenAI-compatible endpoint; ``manual`` (files or folders, separated by
    commas), ``trace`` (a log that ``tunewright trace`` reads) and ``rules`` (a folder of learned rules) to look into;
    ``log`` (a file for its calls) and ``replay`` (such a file, whose replies are used instead of a model); ``calls``,
    ``tokens``, ``money``, ``price_in``, ``price_out`` (of a million tokens) limit what it may spend; ``timeout`` in
    seconds; ``stream`` is no for an endpoint that cannot stream; ``embeddings``, a model of the same endpoint, to
    search manuals by meaning too.

    Args:
        problem: with these options.
        model: any LangChain chat model; None to open the one that the options name.

    Raises:
        ConfigError: an option is wrong, a file cannot be read, or no model is named.
    """

    def __init__(self, problem: Problem, model: Any = None) -> None:
        options = problem.options
        self.problem = problem
        limits = Limits(
            calls=problem.option("calls", 200, low=1), tokens=problem.option("tokens", 2_000_000, low=1),
            money=self._number("money", float("inf")), price_in=self._number("price_in", 0.0),
            price_out=self._number("price_out", 0.0),
        )  # fmt: skip
        log = Path(str(options["log"])) if "log" in options else problem.log
        replayed = read_log(Path(str(options["replay"]))) if "replay" in options else None
        if replayed == []:
            raise ConfigError(f"there are no calls in the log {options['replay']}; replay one that a session wrote")
        self.ledger = Ledger(limits=limits, log=log, replayed=replayed)
        self.model = model if model is not None else self._open(replayed is not None)
        self.manual = self._index(str(options["manual"])) if "manual" in options else None
        self.observations = trace_for(problem) if "trace" in options else None
        self.rules = rules_for(problem)
        self._briefing: str | None = None
        self._analysis = ""
        self._answers: list[dict[str, Any]] = []

    def _open(self, replays: bool) -> Any:
        options = self.problem.options
        if replays:
            return _silent()
        name = str(options.get("model", ""))
        if not name:
            raise ConfigError("tuner 'llm' needs a model: --model NAME, and --base-url URL for an endpoint of your own")
        stream = str(options.get("stream", "yes")).lower()
        if stream not in ("yes", "no"):
            raise ConfigError(f"tuner option stream must be yes or no, not {stream!r}")
        url = str(options.get("base_url", ""))
        return open_model(name, url, timeout_s=self._number("timeout", 120.0), stream=stream == "yes")

    def _number(self, name: str, default: float) -> float:
        value = self.problem.options.get(name, default)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"tuner option {name} must be a number, not {value!r}") from None
        if not number >= 0:
            raise ConfigError(f"tuner option {name} must be 0 or more, not {value}")
        return number

    def _index(self, paths: str) -> Index:
        options, embeddings = self.problem.options, None
        if "embeddings" in options:
            embeddings = open_embeddings(str(options["embeddings"]), str(options.get("base_url", "")))
        return Index(chunks(sections_of([Path(p.strip()) for p in paths.split(",")])), embeddings)

    def next_answer(self, history: History, suggestions: Any = ()) -> Answer:
        """Ask the model for the next configuration; before the first one, the analyst reads the trace.

        Raises:
            TunerFailedError: it gives no answer, and gave none before.
            TunerError: it gives none any more.
        """
        try:
            if self._briefing is None:
                if self.observations is not None:
                    self._analysis = analyse(self.model, self.ledger, self.observations)
                self._briefing = briefing(self.rules, self._analysis)
            answer = next_answer(
                self.model, self.problem, history, self.ledger, manual=self.manual, observations=self.observations,
                known=self._briefing, suggestions=suggestions,
            )  # fmt: skip
        except TunerError as error:
            if self._answers:
                raise TunerError(f"{error}; the search ends here, and what was measured counts") from error
            raise TunerFailedError(
                f"the model was asked and gave no proposal: {error}; once that is mended, 'tunewright resume' goes on"
            ) from error
        kept = {k: v for k, v in asdict(answer).items() if v and k != "problems"}
        self._answers.append({"at": history.step, **kept})
        return answer

    def notes(self) -> dict[str, Any]:
        """Return what the model said, what it cost, and the manual's words on each parameter that it changed."""
        named = {n for a in self._answers for n in a.get("reasons", {}) if n}
        quotes = {n: q for n in sorted(named) if (q := self._quote(n))}
        return {
            "answers": self._answers, "spent": dict(self.ledger.spent), "quotes": quotes, "analysis": self._analysis,
            "rules": [r.sentence for r in self.rules],
        }  # fmt: skip

    def _quote(self, name: str) -> dict[str, str] | None:
        """Return the sentence of the manual that speaks of a parameter, and where it is."""
        if self.manual is None:
            return None
        kind, _, short = name.rpartition(".")
        found: list[tuple[int, int, str, str]] = []
        for chunk in self.manual.search(f"How do I use the parameter {name}?", 8):
            for sentence in re.split(r"(?<=[.:])\s+", bare(chunk.text)):
                if short.lower() in sentence.lower() and len(sentence) > len(short) + 20:
                    other = bool(kind) and kind.lower() not in f"{' '.join(chunk.path)} {sentence}".lower()
                    code = any(c in sentence for c in "=[#$")
                    found.append((other + code, len(found), sentence, chunk.source))
        if not found:
            return None
        *_, sentence, source = min(found)  # of the same kind rather than of another one with the same name
        return {"quote": sentence[:400], "source": source}


def said(answer: Answer) -> str:
    """Return an answer's reasons, expectation and doubts in one line."""
    config = answer.config or {}
    why = "; ".join(f"{n} = {config.get(n)}: {reason}" if n else reason for n, reason in answer.reasons.items())
    more = [f"expects {answer.expects}" if answer.expects else "", f"doubts {answer.doubts}" if answer.doubts else ""]
    return " · ".join([why, *filter(None, more)])


def _silent() -> Any:
    """Return what stands where a model would when every reply comes from a log."""
    from langchain_core.language_models.fake_chat_models import FakeListChatModel

    class Silent(FakeListChatModel):  # type: ignore[misc, unused-ignore]
        def bind_tools(self, tools: Any, **how: Any) -> Any:
            """Take any tools."""
            return self

    return Silent(responses=[""])
