"""Targets, tuners and sessions as tables on a terminal and as documents for machines."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.panel import Panel
from rich.text import Text

from tunewright.cli.terminal import table
from tunewright.plugins import explained, installed, load
from tunewright.report.verdicts import NOT_VERIFIED, beside_search, heading, repeated, tried_in, verified
from tunewright.report.words import duration, number, settings
from tunewright.sessions.machine import told
from tunewright.space.parameters import Choice
from tunewright.store.export import changes_of, missed, shown
from tunewright.store.paths import default_url
from tunewright.target import BaseTarget

if TYPE_CHECKING:
    from rich.console import Console


_SHOWN_CHOICES = 6  # at each end, of a parameter with many


def catalogue(group: str) -> list[dict[str, Any]]:
    """Return name, description and availability of every plugin of a group."""
    kind = group.rpartition(".")[2].removesuffix("s")
    rows = []
    for name, point in installed(group).items():
        try:
            rows.append({"name": name, **_described(load(point, kind))})
        except Exception as error:
            said = f"broken: {explained(error.__cause__ or error)}"
            rows.append({"name": name, "available": False, "install": said, "description": ""})
    return rows


def _described(plugin: Any) -> dict[str, Any]:
    module = sys.modules[plugin.__module__]
    needs: dict[str, str] = getattr(plugin, "needs", getattr(module, "NEEDS", {}))  # package -> extra
    lacking = sorted({extra for package, extra in needs.items() if importlib.util.find_spec(package) is None})
    return {
        "available": not lacking,
        "install": f"pip install 'tunewright[{','.join(lacking)}]'" if lacking else "",
        "description": description(plugin),
    }


def description(plugin: Any) -> str:
    """Return the sentence that says what a target or tuner is: its class's first line of documentation.

    Args:
        plugin: the class, or the function that opens a target. Where this does not say what it returns, or that it
            returns one of several targets, the first line of its module counts.
    """
    kind = plugin if inspect.isclass(plugin) else getattr(plugin, "__annotations__", {}).get("return")
    module = sys.modules[plugin.__module__]
    if isinstance(kind, str):
        kind = getattr(module, kind, None)
    # a shared base class is not what the target is: the module says so then
    own = inspect.isclass(kind) and kind.__module__ == getattr(module, "__name__", "")
    text = inspect.getdoc(kind if own else module)
    return (text or "").split("\n")[0].replace("``", "")


def target_document(target: BaseTarget, what: str) -> dict[str, Any]:
    """Return a target as a document: what it is, parameters with bounds, metrics, workloads, facts."""
    space, scope = target.space, target.space.scope({})
    params = []
    for param in space.params.values():
        entry: dict[str, Any] = {
            "name": param.name, "type": type(param).__name__.lower(), "default": param.default, "unit": param.unit,
            "doc": param.doc, "when": param.when, "restart": param.restart,
        }  # fmt: skip
        if isinstance(param, Choice):
            entry["choices"] = list(param.choices)
        else:
            low, high = param.bounds(scope)
            entry |= {
                "low": low,
                "high": high,
                "log": param.log,
                "special": {f"{k:g}": v for k, v in param.special.items()},
            }
            entry |= {f"{k}_expression": v for k, v in (("low", param.low), ("high", param.high)) if isinstance(v, str)}
        params.append(entry)
    return {
        "name": target.name, "description": what, "workloads": dict(target.workloads),
        "metrics": [
            {
                "name": m.name,
                "direction": m.direction,
                "unit": m.unit,
                "doc": m.doc,
                "at_least": m.at_least,
                "at_most": m.at_most,
            }
            for m in target.metrics
        ],
        "parameters": params, "constraints": [c.words for c in space.constraints],
        "guarantees": target.guarantees(space.default), "parallel_safe": target.parallel_safe,
        "exact": target.exact, "options": dict(target.options), "facts": {**target.facts, **target.known},
        "manual": target.manual, "json_schema": space.json_schema(),
    }  # fmt: skip


def show_target(out: Console, document: dict[str, Any]) -> None:
    """Print a target."""
    out.print(Text.assemble((document["name"], "bold cyan"), f"  {document['description']}"))
    rows = table("workload", "what it does")
    for name, text in document["workloads"].items():
        rows.add_row(Text(name, style="bold"), Text(text))
    out.print(rows)
    rows = table("metric", "better", "unit", "what it is")
    for metric in document["metrics"]:
        bound = "".join(f" (≥ {metric['at_least']:g})" if metric["at_least"] is not None else "")
        bound += f" (≤ {metric['at_most']:g})" if metric["at_most"] is not None else ""
        rows.add_row(
            Text(metric["name"] + bound, style="bold"), metric["direction"], metric["unit"], Text(metric["doc"])
        )
    out.print(Text("\nMetrics (the first is the default objective)", style="dim"))
    out.print(rows)
    out.print(Text("\nParameters", style="dim"))
    rows = table("parameter", "default", "range", "unit", "change costs", "effect")
    for param in document["parameters"]:
        if "choices" in param:
            span = _listed(param["choices"])
        else:
            span = f"{param['low']:,.10g} to {param['high']:,.10g}" + (" log" if param["log"] else "")
            span += "".join(f"; {k}: {v}" for k, v in param["special"].items())
        doc = param["doc"] + (f" Only where {param['when']}." if param["when"] else "")
        rows.add_row(
            Text(param["name"], style="bold"), Text(str(param["default"])), Text(span), param["unit"],
            "" if param["restart"] == "none" else param["restart"], Text(doc),
        )  # fmt: skip
    out.print(rows)
    for words in document["constraints"]:
        out.print(Text(f"must hold: {words}"))
    if document["options"]:
        out.print(Text("\nOptions (--option NAME=VALUE)", style="dim"))
        rows = table("option", "what it sets")
        for name, text in document["options"].items():
            rows.add_row(Text(name, style="bold"), Text(text))
        out.print(rows)


def _listed(choices: Sequence[Any]) -> str:
    """Return choices as a text; of very many only the ends, and how many there are."""
    if len(choices) <= 2 * _SHOWN_CHOICES:
        return ", ".join(map(str, choices))
    ends = [", ".join(map(str, part)) for part in (choices[:_SHOWN_CHOICES], choices[-_SHOWN_CHOICES:])]
    return f"{' … '.join(ends)} ({len(choices):,} values; --json lists all)"


def show_sessions(out: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what ``overview`` says of each session."""
    right = ("trials", "verified gain")
    printed = table(
        "session", "target", "workload", "tuner", "trials", "verified gain", "status", "created", numbers=right
    )  # fmt: skip
    for row in rows:
        cells = [row["name"], row["target"], row["workload"], row["tuner"], row["trials"], verified(row), row["status"]]
        style = "yellow" if row["status"] == "interrupted" else ""
        printed.add_row(*(Text(str(c)) for c in cells[:-1]), Text(row["status"], style=style), row["created"][:16])
    out.print(printed)


def show_session(out: Console, document: dict[str, Any]) -> None:
    """Print an exported session."""
    plan, verdict = document["plan"], document.get("verdict")
    objective = document["objectives"][0]
    unit = next(m["unit"] for m in document["metrics"] if m["name"] == objective)
    out.print(Text.assemble(
        (document["name"], "bold cyan"),
        f" · {plan['target']} · {plan['workload']} · tuner {plan['tuner']}"
        f" · seed {plan['seed']} · trust {plan['trust']} · {document['status']}",
    ))  # fmt: skip
    # the ratios of trials led the search; what is shown is in the verdict alone
    rows = table(
        "trial", "status", objective, "in search", "changed from the default", "why",
        numbers=("trial", objective, "in search"),
    )  # fmt: skip
    for trial in document["trials"]:
        changed = changes_of(document, trial["config"])
        bounds = missed(trial["violations"]) if trial["status"] == "ok" else ""
        value = f"{number(trial['scores'][objective])} {unit}" if trial["status"] == "ok" else ""
        ratio = f"{trial['ratio']:.2f}×" if trial["ratio"] is not None else ""
        note = trial["why"] if trial["status"] == "ok" else trial["reason"]
        rows.add_row(
            str(trial["number"]), f"misses {bounds}" if bounds else trial["status"], value, ratio,
            Text(settings(changed)), Text(" ".join(note.split()), style="dim"),
        )  # fmt: skip
    out.print(rows)
    for text in told(document):
        out.print(Text(text, style="yellow"))
    if said := repeated(document):
        out.print(Text(said, style="dim"))
    if verdict:
        show_verdict(out, verdict)
        if said := beside_search(verdict, objective, tried_in(document["trials"])):
            out.print(Text(said))
        out.print(Text(f"{heading(verdict['improved'])}:", style="bold"))
        show_settings(out, verdict["settings"])
    else:
        store = document["store"]
        again = f"{document['name']}{'' if store == default_url() else f' --store {store}'}"
        out.print(Text(f"{NOT_VERIFIED}; continue with: tunewright resume {again}", style="yellow"), soft_wrap=True)
    out.print(Text(f"repeat it: {document['repeat']}", style="dim"), soft_wrap=True)


def show_verdict(out: Console, verdict: Mapping[str, Any]) -> None:
    """Print what a session has shown: in a box on a terminal, in a line elsewhere."""
    title, said = f"verdict: {shown(verdict)}", Text(verdict["sentence"])
    if out.is_terminal:
        style = "green" if verdict["improved"] else "yellow"
        out.print(Panel(said, title=title, border_style=style, expand=False))
    else:
        out.print(Text(f"{title}. ") + said, soft_wrap=True)


def show_settings(out: Console, text: str) -> None:
    """Print a configuration in the system's own form; it is copied, so that no line is wrapped or cut."""
    out.print(Text(text, style="cyan"), soft_wrap=True)


def show_check(out: Console, document: dict[str, Any]) -> None:
    """Print what 'tunewright check' found."""
    runs, units = document["runs"], document["units"]
    out.print(
        Text.assemble(
            (document["target"], "bold cyan"),
            f" · workload {document['workload']} · {document['parameters']} parameters",
        )
    )
    rows = table(
        "metric", *(f"run {i + 1}" for i in range(len(runs))), "unit", "spread",
        numbers=tuple(f"run {i + 1}" for i in range(len(runs))),
    )  # fmt: skip
    for name, noise in document["noise"].items():
        values = [number(r["values"][name]) for r in runs]
        rows.add_row(Text(name, style="bold"), *values, units[name], "" if noise is None else f"{100 * noise:.1f} %")
    out.print(rows)
    for run in runs:
        for text in run["traces"].values():
            if isinstance(text, str):
                out.print(Text(text, style="yellow"))
    noise = document["noise"][document["objective"]]
    out.print(Text(f"one run takes {duration(runs[0]['seconds'])}"))
    if noise is not None and noise > 0.2:
        out.print(
            Text(
                f"The objective differs by {100 * noise:.0f} % between equal runs: only large gains can be seen. "
                "Fix the amount of work, reset state before each run, or use --trust strict.",
                style="yellow",
            )
        )
    else:
        out.print(Text("The default works; tune it.", style="green"))
