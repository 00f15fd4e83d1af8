"""How a load goes while it goes on: what its tool prints meanwhile, passed on to a session in careful mode.

A tool's module may have ``progress(line)``, which returns the figures in a line of the tool's interval reports, by the
names of its metrics, or nothing for other lines.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunewright.target import Budget

Read = Callable[[str], Mapping[str, float]]
_ENOUGH = 20  # transactions behind a report, where the run is as slow as the bound
_LEAST_S = 1.0
_LOOK_S = 0.1
_RATES = ("tps", "throughput")


class Reporter:
    """Puts lines of a tool together to reports over times that are long enough to tell something.

    A transaction that takes seconds makes intervals without any and others with several; so figures are averaged until
    a run at the bound would have done 20 transactions.

    Args:
        read: a tool's ``progress``.
        budget: that is reported to.
    """

    def __init__(self, read: Read, budget: Budget) -> None:
        self._read, self._budget = read, budget
        self._window_s = max(_LEAST_S, _ENOUGH * _slowest_s(budget))
        self._lines: list[Mapping[str, float]] = []
        self._begun = time.monotonic()

    def line(self, text: str) -> None:
        """Take a line that the tool printed."""
        if not (values := self._read(text)):
            return
        self._lines.append(values)
        now = time.monotonic()
        if now - self._begun < self._window_s:
            return
        names = {name for values in self._lines for name in values}
        self._budget.report({name: self._mean(name) for name in names})
        self._lines, self._begun = [], now

    def _mean(self, name: str) -> float:
        """Return the mean over the lines; of a latency weighted by how many transactions had it."""
        told = [values for values in self._lines if name in values]
        weights = [1.0 if name in _RATES else next((v[r] for r in _RATES if r in v), 1.0) for v in told]
        total = sum(weights) or 1.0
        return sum(weight * values[name] for weight, values in zip(weights, told, strict=True)) / total


def _slowest_s(budget: Budget) -> float:
    """Return the time of a transaction at the bound, by rate or mean latency; 0 where there is none."""
    least = [bound for name, bound in budget.bounds.at_least.items() if name in _RATES] if budget.bounds else []
    if least:
        return float(1 / max(least))
    return float(budget.bounds.at_most.get("latency", 0.0)) / 1000 if budget.bounds else 0.0


def run(
    words: Sequence[str],
    reporter: Reporter | None,
    *,
    env: Mapping[str, str],
    given: str = "",
    told_on: str = "stderr",
    limit_s: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end, and report how it goes meanwhile.

    Args:
        words: its command line.
        reporter: None where nobody watches.
        env: its environment.
        given: its standard input.
        told_on: ``stdout`` or ``stderr``, where it prints its interval reports.
        limit_s: where nobody watches; None for none.

    Raises:
        subprocess.TimeoutExpired: it takes longer than the limit.
    """
    if reporter is None:
        return subprocess.run(words, capture_output=True, text=True, env=env, input=given, timeout=limit_s)
    texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
    pipe = subprocess.PIPE
    with subprocess.Popen(words, text=True, env=env, stdin=pipe, stdout=pipe, stderr=pipe) as process:

        def collect(name: str) -> None:
            for line in getattr(process, name):
                texts[name].append(line)
                if name == told_on:
                    reporter.line(line)

        readers = [threading.Thread(target=collect, args=(name,), daemon=True) for name in texts]
        for reader in readers:
            reader.start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(given)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        for reader in readers:
            reader.join()
    return subprocess.CompletedProcess(words, process.returncode, "".join(texts["stdout"]), "".join(texts["stderr"]))


@contextmanager
def followed(reporter: Reporter | None, files: Sequence[Path]) -> Iterator[None]:
    """Report what is written to files while a block runs, line by line; a carriage return ends a line, too."""
    if reporter is None:
        yield
        return
    over = threading.Event()

    def follow() -> None:
        places, rests = dict.fromkeys(files, 0), dict.fromkeys(files, "")
        while not over.wait(_LOOK_S):
            for path in files:
                with path.open("rb") as file:
                    file.seek(places[path])
                    piece = file.read()
                places[path] += len(piece)
                *lines, rests[path] = re.split(r"[\r\n]+", rests[path] + piece.decode("utf-8", errors="replace"))
                for line in lines:
                    reporter.line(line)

    watcher = threading.Thread(target=follow, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def reporter(tool: str, budget: Budget | None) -> Reporter | None:
    """Return what passes on a tool's interval reports; None where nobody watches, or the tool prints none."""
    if budget is None or budget.progress is None or not tool:
        return None
    from tunewright.envs.loads import module

    read = getattr(module(tool), "progress", None)
    return None if read is None else Reporter(read, budget)
