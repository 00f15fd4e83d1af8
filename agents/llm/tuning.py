"""The tuning agent: shown the system, the history and the budget, it proposes the next configuration.

It may look into the manual and ask questions about a trace before it answers. Values that are not legal are returned to
it with the reason, once; they are never clipped. Text from manuals and traces is passed as data between marks.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunewright.agents.llm.agent import Tool, converse, passages, quoted
from tunewright.agents.llm.analyst import analyse
from tunewright.agents.llm.client import Ledger
from tunewright.knowledge.evidence import Observations
from tunewright.knowledge.retrieval import Index
from tunewright.knowledge.rules import Rule
from tunewright.measuring.runs import values_of
from tunewright.space import Config, Space
from tunewright.space.parameters import Choice
from tunewright.store.secrets import redact
from tunewright.tuner import History, Problem, Trial

PASSAGES = 4
SYSTEM = """You tune a computer system. You propose one configuration at a time; it is measured and you see the result.
Aim for the best value of the objective within the trials that are left; the first proposals matter most.

Rules:
- Call the tool `propose` with the parameters you change from the default and a reason for each. Values must lie in the
  stated ranges; nothing is clipped. Parameters that you leave out keep the system's default.
- Before that you may look into the manual or ask the analyst about the trace, if these tools are there. Do so where
  you are unsure of a range or a meaning, rather than trusting memory.
- Every result is a ratio to the default, which is measured again beside each configuration; above 1 is better.
  Results are noisy: compare gains with the stated spread before you conclude anything.
- A change of one parameter from an earlier configuration shows what that parameter does; changes of several do not.
- After the last trial the best configuration is measured afresh against the default; only that counts.
- If no further gain is likely, call `stop` with the reason."""


SUGGESTED = """

An optimiser, a Gaussian process fitted to these results, suggests the configurations below, the most promising first.
It knows nothing but numbers. Take one with `take` unless you know better, from the manual, the trace, the failures or
the rules; then veto it by taking another, or replace it with `propose`.
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the agent decided.

    Attributes:
        config: the configuration; None if it stops.
        reasons: parameter to reason.
        expects: what it expects, in its words.
        doubts: what it doubts.
        stop: why nothing more should be tried; "" if it proposes.
        problems: what is wrong with the configuration still, after the repair.
        took: number of the suggestion that it took; 0 if it is its own.
    """

    config: Config | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    expects: str = ""
    doubts: str = ""
    stop: str = ""
    problems: tuple[str, ...] = ()
    took: int = 0


def next_answer(
    model: Any,
    problem: Problem,
    history: History,
    ledger: Ledger,
    *,
    manual: Index | None = None,
    observations: Observations | None = None,
    known: str = "",
    suggestions: Sequence[tuple[Config, str]] = (),
) -> Answer:
    """Ask the agent for the next configuration.

    Args:
        model: a LangChain chat model.
        problem: what is tuned.
        history: what is known of it.
        ledger: counts and logs.
        manual: to look into.
        observations: a trace that the analyst may be asked about.
        known: what the analyst found and what rules of earlier sessions say, see ``briefing``.
        suggestions: an optimiser's configurations and what it expects of them, best first; the agent takes one of them
            or proposes another, and cannot stop.

    Raises:
        TunerError: the model cannot be reached, its budget is spent, or it gives no usable answer.
    """
    answers: list[Answer] = []
    failed: list[int] = []

    def propose(changes: Any = None, expectation: str = "", doubt: str = "", **ignored: Any) -> str:
        config, reasons, wrong = read_changes(problem.space, changes)
        if wrong and not failed:
            failed.append(1)
            return "not accepted, propose again: " + "; ".join(wrong)
        answers.append(Answer(config=config, reasons=reasons, expects=expectation, doubts=doubt, problems=tuple(wrong)))
        return "accepted" if not wrong else "not accepted: " + "; ".join(wrong)

    def stop(reason: str = "") -> str:
        answers.append(Answer(stop=reason or "no reason was given"))
        return "accepted"

    def look_up_manual(question: str = "") -> str:
        hits = manual.search(question, PASSAGES) if manual is not None else []
        return passages(hits) if hits else "the manual has no passage on this"

    def ask_analyst(question: str = "") -> str:
        return quoted(analyse(model, ledger, observations, question)) if observations is not None else ""

    def take(number: int = 1, reason: str = "") -> str:
        if not 1 <= number <= len(suggestions):
            return f"there is no suggestion {number}; they are numbered from 1 to {len(suggestions)}"
        answers.append(Answer(config=dict(suggestions[number - 1][0]), took=number, reasons={"": reason}))
        return "accepted"

    tools = [
        Tool(
            name="propose", function=propose, schema=proposal_schema(problem.space),
            does="Propose the next configuration: what differs from the default, each with its reason.",
        ),
    ]  # fmt: skip
    if suggestions:
        does = "Take one of the optimiser's suggestions, by its number;"
        does += " another than the first is a veto of those before it."
        tools.append(Tool(name="take", function=take, does=does))
    else:
        tools.append(Tool(name="stop", function=stop, does="End the tuning, with the reason."))
    if manual is not None:
        does = "Return the passages of the manual that fit a question best."
        tools.append(Tool(name="look_up_manual", function=look_up_manual, does=does))
    if observations is not None:
        does = "Have a further question about the workload answered from its trace, by an analyst who sees the tables."
        tools.append(Tool(name="ask_analyst", function=ask_analyst, does=does))
    text = describe(problem, history, known)
    if suggestions:
        text += SUGGESTED + "\n".join(
            f"{k}. {json.dumps(problem.space.changes(c), default=str)}: {words}"
            for k, (c, words) in enumerate(suggestions, 1)
        )
    ends = "`propose` or `take`" if suggestions else "`propose` or `stop`"
    converse(model, ledger, "tuner", SYSTEM, text, tools, lambda: bool(answers), ends=ends)
    return answers[-1]


def proposal_schema(space: Space) -> dict[str, Any]:
    """Return the JSON schema of a proposal: each parameter with its own type and range."""
    values = space.json_schema()["properties"]
    change = {
        name: {
            "type": "object",
            "properties": {
                "value": value,
                "reason": {
                    "type": "string",
                    "description": "why this value, in one sentence; of a value that you keep, what it gives",
                },
            },
            "required": ["value", "reason"],
        }
        for name, value in values.items()
    }
    return {
        "type": "object",
        "properties": {
            "changes": {
                "type": "object", "properties": change, "additionalProperties": False,
                "description": "what differs from the default configuration, by parameter",
            },
            "expectation": {
                "type": "string",
                "description": "the ratio to the default that you expect of the objective (above 1 is better),"
                " as a range",
            },
            "doubt": {"type": "string", "description": "what you are unsure of; may be empty"},
        },
        "required": ["changes"],
    }  # fmt: skip


def read_changes(space: Space, changes: Any) -> tuple[Config, dict[str, str], list[str]]:
    """Read a proposal; returns the configuration, the reasons, and what is wrong in words."""
    values: dict[str, Any] = {}
    reasons, wrong = {}, []
    for name, change in changes.items() if isinstance(changes, dict) else ():
        if name not in space.params:
            wrong.append(f"there is no parameter {name!r}; known are {', '.join(space.params)}")
        elif not isinstance(change, dict) or "value" not in change:
            wrong.append(f"{name} must be given as an object with value and reason")
        else:
            values[name] = change["value"]
            reasons[name] = str(change.get("reason", ""))
    if not isinstance(changes, dict) or not (values or wrong):
        wrong.append("changes must be an object with at least one parameter, each with value and reason")
    plain = {n: v for n, v in values.items() if isinstance(v, int | float | str | bool)}
    wrong += [f"{n} must be a number, a text or true/false, not {v!r}" for n, v in values.items() if n not in plain]
    config = space.fill(plain)
    config.update({n: v for n, v in plain.items() if n not in config})  # inactive ones are told as such
    return config, reasons, wrong + space.problems(config)


def briefing(rules: Sequence[Rule], analysis: str = "") -> str:
    """Return what is known before the first trial: rules of earlier sessions, and what the trace shows."""
    parts = []
    if analysis:
        parts.append("What a trace of the workload shows:\n" + quoted(analysis))
    if rules:
        lines = "\n".join(f"- {r.sentence} [{len(r.evidence)} pairs of trials, {r.status}]" for r in rules)
        parts.append("Rules from earlier sessions on this system, the most promising first:\n" + quoted(lines))
    return "\n\n".join(parts)


def describe(problem: Problem, history: History, known: str = "") -> str:
    """Return what the agent is shown: system, parameters, results with their spread, refusals, and the budget."""
    metric = problem.metric(problem.objectives[0])
    unit = f" [{metric.unit}]" if metric.unit else ""
    better = "higher" if metric.direction == "max" else "lower"
    facts = {k: v for k, v in problem.facts.items() if isinstance(v, int | float | str)}
    parts = [f"Objective: {metric.name}{unit}, {better} is better. {metric.doc}".strip()]
    for bound in problem.constrained:
        limit = f">= {bound.at_least:g}" if bound.at_least is not None else f"<= {bound.at_most:g}"
        parts.append(f"Bound: {bound.name} {limit}")
    parts += [
        f"Workload: {problem.workload}. {problem.about}",
        f"Facts: {json.dumps(facts, default=str)}",
        "Parameters:\n" + "\n".join(_param_line(problem.space, name) for name in problem.space.params),
    ]
    if problem.space.constraints:
        parts.append("Constraints: " + "; ".join(c.words for c in problem.space.constraints))
    if known:
        parts.append(known)
    results = [_line(trial, problem) for trial in history.trials]
    parts.append("\n".join(["Results so far:", *results]) if results else "No results yet.")
    parts += history.machine
    for refusal in history.refused:
        changes = json.dumps(problem.space.changes(refusal.config), default=str)
        parts.append(f"Refused: {changes}: {quoted(redact(refusal.reason))}")
    left = "" if history.remaining is None else f" {history.remaining} trials are left, this one included."
    parts.append(f"Propose the next configuration.{left}")
    return "\n\n".join(parts)


def _param_line(space: Space, name: str) -> str:
    """One parameter: values, default, unit and meaning."""
    param, scope = space.params[name], space.scope(space.default)
    if isinstance(param, Choice):
        values = " | ".join(map(str, param.choices))
    else:
        low, high = param.bounds(scope)
        values = f"{low} to {high}{f' {param.unit}' if param.unit else ''}"
        values += "".join(f"; {v} means {words}" for v, words in param.special.items())
    only = f" Only where {param.when}." if param.when else ""
    costs = f" Changing it costs a {param.restart}." if param.restart != "none" else ""
    return f"- {name}: {values}; default {param.default}. {param.doc}{only}{costs}".rstrip()


def _line(trial: Trial, problem: Problem) -> str:
    """One trial: what was changed, the median, each run, the spread and the ratio to the default measured beside it."""
    name = problem.objectives[0]
    changes = json.dumps(problem.space.changes(trial.config), default=str) if trial.number else "the default"
    if not trial.ok:
        return f"#{trial.number} {changes}: {trial.status}: {quoted(redact(trial.reason))}"
    runs = values_of(trial.runs, "candidate", name)
    spread = ""
    if len(runs) > 1:
        percent = 100 * statistics.pstdev(runs) / abs(statistics.fmean(runs))
        spread = f", {len(runs)} runs from {min(runs):.5g} to {max(runs):.5g} (spread {percent:.1f} %)"
    beside = len(values_of(trial.runs, "default", name))
    ratio = "" if trial.ratio is None else f", ratio to the default {trial.ratio:.3f}"
    if ratio and trial.number:
        ratio += f" (default runs beside it: {beside})" if beside else ""
    misses = "; ".join(f"{k} misses its bound by {v:.3g}" for k, v in trial.violations.items() if v > 0)
    broken = f" ({misses})" if misses else ""
    return f"#{trial.number} {changes}: {name} = {trial.metrics[name]:.5g}{spread}{ratio}{broken}"
