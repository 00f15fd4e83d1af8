"""What the benchmarks share: where the tables go, and how they look."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tunewright.space.facts import machine_facts, versions
from tunewright.tuner import History, Refusal, Trial, untried

RESULTS = Path(__file__).parents[1] / "docs" / "results"
DATA = Path(os.environ.get("TUNEWRIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def ask_new(tuner, space, trials, tried, seed, remaining=None):
    """Ask a tuner until it proposes what is legal and new, as a session does; returns it and the refusals before.

    Raises:
        TunerError: nothing untried is left.
    """
    refused = []
    while len(refused) < getattr(tuner, "asks", 12):
        history = History(trials=tuple(trials), step=len(trials), refused=tuple(refused), remaining=remaining)
        config = tuner.ask(history).config
        wrong = "; ".join(space.problems(config)) or ("measured already" if space.key(config) in tried else "")
        if not wrong:
            return config, len(refused)
        refused.append(Refusal(config=config, reason=wrong))
    near = config if not space.problems(config) else space.default
    return untried(space, tried, near, np.random.default_rng([seed, len(trials)])), len(refused)


def rehearse(tuner, space, steps, seed, measure, *, budgeted=False):
    """Yield the trials of a session without a store: the default's first, then what the tuner proposes; it is told each.

    Args:
        measure: function of configuration and step that returns a Measurement.
        budgeted: let the tuner know how many trials are left.

    Raises:
        TunerError: nothing untried is left.
    """
    trials, tried = [], set()
    for step in range(steps):
        config, refused = space.default, 0
        if step:
            config, refused = ask_new(tuner, space, trials, tried, seed, steps - step if budgeted else None)
        tried.add(space.key(config))
        found = measure(config, step)
        trial = Trial(
            number=step, config=config, status=found.status, reason=found.reason, step=step, attempt=refused,
            metrics=found.values, scores=found.values,
        )  # fmt: skip
        trials.append(trial)
        tuner.tell(trial)
        yield trial


def quartiles(found: Sequence[int | None], most: int) -> str:
    """Return the quartiles of numbers of trials; None, not reached, counts as more than ``most``."""
    ordered = sorted(most + 1 if v is None else v for v in found)
    picked = [ordered[int(q * (len(ordered) - 1) + 0.5)] for q in (0.25, 0.5, 0.75)]
    return " / ".join(f">{most}" if v > most else str(v) for v in picked)


def publish(name: str, title: str, command: str, body: str) -> None:
    """Print a result and write it to docs/results."""
    facts, used = machine_facts(), versions()
    machine = f"{facts['processor']}, {facts['CPU_COUNT']} cores, {facts['RAM_MB'] // 1024} GiB, {facts['system']} {facts['kernel']}"
    stamp = f"{datetime.now(UTC):%Y-%m-%d}, {machine}; " + ", ".join(f"{k} {v}" for k, v in used.items())
    text = f"# {title}\n\nPrinted by `{command}`.\n\n{body}\n\n{stamp}\n"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
