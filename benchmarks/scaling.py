"""Trials on Dask workers, with PostgreSQL as store: python benchmarks/scaling.py [--trials 64] [--seconds 1].

The target sleeps, so that the workers' number is what is measured and not this machine's cores. Efficiency: the time that so
many sleeping workers need at least, over the time that the session took after the default was measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from common import publish, table

from tunewright.envs.storage import postgres_server as own
from tunewright.measuring import executors
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.testing import Sphere

WORKERS, ROUNDS = (1, 2, 4, 8), 3


class Sleeper(Sphere):
    name = "sleeper"

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def measure(self, config, **how):
        time.sleep(self.seconds)
        return super().measure(config, **how)


def took(pool, url, workers, trials, seconds, name):
    """Seconds of a session beside the default's trial."""
    store = Store(url)
    plan = Plan(target="t", tuner="random", trust="fast")
    with Session.create(plan, name, store, target=Sleeper(seconds), workers=workers, executor=pool) as session:
        session.run(trials=1, verify=False)
        begun = time.perf_counter()
        session.run(trials=trials, verify=False)
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    os.chmod(folder, 0o711)
    own.make_cluster(folder / "cluster", {})
    found = {w: [] for w in WORKERS}
    with own.Server(folder / "cluster", {}) as server:
        url = f"postgresql://postgres@/postgres?host={server.socket}"
        for workers in WORKERS:
            with executors.opened("dask", workers) as pool:
                for round_ in range(ROUNDS):
                    spent = took(pool, url, workers, given.trials, given.seconds, f"{workers}-{round_}")
                    found[workers].append(given.trials * given.seconds / workers / spent)
                    print(workers, round_, f"{spent:.2f} s", flush=True)
    shutil.rmtree(folder)
    rows = [
        (w, f"{100 * statistics.median(v):.1f} %", f"{100 * min(v):.1f} to {100 * max(v):.1f} %", "90 %")
        for w, v in found.items()
    ]
    body = (
        f"{given.trials} trials of {given.seconds:g} s, medians of {ROUNDS} sessions; Dask's workers as processes of one machine with"
        " two cores, PostgreSQL beside them.\n\n" + table(["workers", "efficiency", "range", "bar"], rows)
    )
    publish("scaling", "Trials on many workers", "python benchmarks/scaling.py", body)


if __name__ == "__main__":
    main()
