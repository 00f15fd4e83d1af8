"""Overhead of the tuning loop for each trial, and start-up of the command line: python benchmarks/loop.py."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import publish, table

from tunewright.session import Plan, Session
from tunewright.store import Store
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


def overhead(folder: Path, number: int, tuner: str) -> float:
    """Milliseconds for each trial beside the sampler's own time; the target costs microseconds."""
    with Session.create(
        Plan(target="t", tuner=tuner, trust="fast"),
        "a",
        Store(f"sqlite:///{folder}/{tuner}{number}.db"),
        target=Sphere(),
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


def main() -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        overhead(Path(folder), 99, "random")  # warm up
        startup()
        found: dict[str, list[float]] = {"random": [], "tpe": [], "help": []}
        for number in range(ROUNDS):
            for tuner in ("random", "tpe"):
                found[tuner].append(overhead(Path(folder), number, tuner))
            found["help"].append(startup())
    middle = {k: statistics.median(v) for k, v in found.items()}
    rows = [
        (
            f"loop overhead a trial, tuner {t}, ms",
            f"{middle[t]:.2f}",
            f"{min(found[t]):.2f} to {max(found[t]):.2f}",
            "10",
            "2",
        )
        for t in ("random", "tpe")
    ]
    rows.append(
        (
            "`tunewright --help`, warm, s",
            f"{middle['help']:.3f}",
            f"{min(found['help']):.3f} to {max(found['help']):.3f}",
            "0.25",
            "0.12",
        )
    )
    body = table(["what", f"median of {ROUNDS}", "range", "bar", "aim"], rows)
    body += (
        f"\n\n{TRIALS} trials on an in-process target, SQLite store on disk. The overhead is everything but the sampler's ask and tell:"
        " checks, two writes to the store before the configuration is applied and after, statistics."
    )
    publish("loop", "Overhead of the loop, and start-up", "python benchmarks/loop.py", body)


if __name__ == "__main__":
    main()
