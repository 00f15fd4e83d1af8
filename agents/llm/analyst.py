"""The analyst: reads the tables of a trace by SQL and says what matters for tuning, each finding with its numbers."""

from __future__ import annotations

import json
from typing import Any

from tunewright.agents.llm.agent import Tool, converse, quoted
from tunewright.agents.llm.client import Ledger
from tunewright.errors import ConfigError
from tunewright.knowledge.evidence import Observations
from tunewright.knowledge.sqltables import MOST_COLUMNS, Questions

ROWS = 50
FIRST = "What of this workload matters most for tuning its system: sizes, patterns, mix, concurrency, imbalance?"
SYSTEM = """You analyse the trace of a workload for an engineer who tunes the system that runs it. You are given facts,
features and the tables' columns. Look at the tables with the tool `ask_sql` where the facts do not suffice, then call
`report` with your findings: each one sentence, with the numbers it rests on. Say what the trace cannot show."""
_REPORT = {
    "type": "object",
    "properties": {
        "findings": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "finding": {"type": "string", "description": "one sentence on the workload"},
                    "numbers": {
                        "type": "string",
                        "description": "the numbers it rests on, with units and where they are from",
                    },
                },
                "required": ["finding", "numbers"],
            },
        },
        "unknown": {"type": "string", "description": "what the trace cannot show; may be empty"},
    },
    "required": ["findings"],
}


def analyse(model: Any, ledger: Ledger, observations: Observations, question: str = "") -> str:
    """Have a question about a trace answered.

    Args:
        model: a LangChain chat model.
        ledger: counts and logs.
        observations: of the trace.
        question: in words; empty for what matters most.

    Returns:
        The findings, one a line.

    Raises:
        TunerError: the model cannot be reached, its budget is spent, or it gives no usable answer.
    """
    reported: list[str] = []
    repaired: list[int] = []

    def ask_sql(sql: str = "") -> str:
        try:
            names, rows, more = questions.ask(sql, rows=ROWS)
        except ConfigError as error:
            return f"not answered: {error}"
        lines = [" | ".join(names), *(" | ".join(map(str, row)) for row in rows)]
        return quoted("\n".join(lines) + ("\n… and more rows" if more else ""))

    def report(findings: Any = None, unknown: str = "", **ignored: Any) -> str:
        said = [f for f in findings if isinstance(f, dict) and f.get("finding")] if isinstance(findings, list) else []
        if not said and not repaired:
            repaired.append(1)
            return "not accepted, report again: findings must be a list of {finding, numbers} with at least one finding"
        reported.extend(f"- {f['finding']} ({f.get('numbers', 'no numbers given')})" for f in said)
        reported.append(f"- not shown: {unknown}" if unknown else "")
        return "accepted"

    columns = {
        name: {str(c)[:80]: str(t) for c, t in list(table.dtypes.items())[:MOST_COLUMNS]} | {"rows": len(table)}
        for name, table in observations.tables.items()
    }
    features = {k: f"{v:.6g} {observations.units.get(k, '')}".strip() for k, v in observations.features.items()}
    text = "\n\n".join([
        f"Question: {question or FIRST}", f"Kind of trace: {observations.kind}",
        "Facts:\n" + quoted("\n".join([*observations.facts, *observations.missing])),
        "Features:\n" + quoted(json.dumps(features)),
        "Tables and their columns (SQL: one SELECT; DuckDB):\n" + quoted(json.dumps(columns)),
    ])  # fmt: skip
    tools = [
        Tool(name="ask_sql", does="Answer one SQL SELECT over the tables of the trace.", function=ask_sql),
        Tool(name="report", does="Report the findings; ends the analysis.", function=report, schema=_REPORT),
    ]
    with Questions(observations.tables) as questions:
        converse(model, ledger, "analyst", SYSTEM, text, tools, lambda: bool(reported), ends="`report`")
    return "\n".join(filter(None, reported)) or "- the analyst found nothing"
