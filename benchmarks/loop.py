"""Overhead of the tuning loop for each trial, and start-up of the command line: python benchmarks/loop.py."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import publish, table

from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.testing import Sphere

TRIALS, ROUNDS = 100, 5


class Timed:
    """Adds up the time spent inside some methods of an object."""

    def __init__(self, inner, *methods):
        self.inner, self.methods, self.spent = inner, methods, 0.0

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if name not in self.methods:
            return found

        def call(*args, **kwargs):
            begun = time.perf_counter()
            try:
                return found(*args, **kwargs)
            finally:
                self.spent += time.perf_counter() - begun

        return call


def overhead(folder: Path, number: int, tuner: str, dimensions: int) -> float:
    """Milliseconds for each trial beside the sampler's own time; the target costs microseconds."""
    with Session.create(
        Plan(target="t", tuner=tuner, trust="fast"),
        "a",
        Store(f"sqlite:///{folder}/{tuner}{dimensions}-{number}.db"),
        target=Sphere(dimensions),
    ) as session:
        session.tuner = sampler = Timed(session.tuner, "ask", "tell")
        begun = time.perf_counter()
        session.run(trials=TRIALS, verify=False)
        return 1e3 * (time.perf_counter() - begun - sampler.spent) / TRIALS


def startup() -> float:
    """Seconds of a warm ``tunewright --help``."""
    begun = time.perf_counter()
    subprocess.run([str(Path(sys.executable).with_name("tunewright")), "--help"], check=True, capture_output=True)
    return time.perf_counter() - begun


CASES = [("random", 3), ("random", 10), ("tpe", 3), ("tpe", 10)]


def main() -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        overhead(Path(folder), 99, "random", 3)  # warm up
        startup()
        found: dict[tuple[str, int], list[float]] = {case: [] for case in CASES}
        helped = []
        for number in range(ROUNDS):
            for case in CASES:
                found[case].append(overhead(Path(folder), number, *case))
            helped.append(startup())
    rows = [
        (
            f"loop overhead a trial, {tuner}, {n} parameters, ms",
            f"{statistics.median(v):.2f}",
            f"{min(v):.2f} to {max(v):.2f}",
            "10",
            "2",
        )
        for (tuner, n), v in found.items()
    ]
    span = f"{min(helped):.3f} to {max(helped):.3f}"
    rows.append(("`tunewright --help`, warm, s", f"{statistics.median(helped):.3f}", span, "0.25", "0.12"))
    body = table(["what", f"median of {ROUNDS}", "range", "bar", "aim"], rows)
    body += (
        f"\n\n{TRIALS} trials on an in-process target, SQLite store on disk. The overhead is everything but the sampler's ask and tell:"
        " checks, the write to the store before a configuration is applied, the writes after it, statistics."
        " It grows with the parameters, since Optuna's storage writes each of them by itself."
    )
    publish("loop", "Overhead of the loop, and start-up", "python benchmarks/loop.py", body)


if __name__ == "__main__":
    main()
