"""Speed of tournaments: python benchmarks/compare.py [--seeds 20] [--trials 50] [--workers N].

Five measured tables, five tuners: the overhead of a trial beside target and tuner, the time of the whole, of the report, and
of computing all tables again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import DATA, publish, table

import tunewright as tw
from tunewright.comparing.bundle import load
from tunewright.comparing.checking import verify

TABLES = (
    "moot_LLVM", "moot_PostgreSQL", "moot_storm_wc-6d-c1-obj1@direction=max", "moot_SQL_AllMeasurements",
    "dbtune_JOB_5knob@direction=min",
)  # fmt: skip
TUNERS = ("random", "tpe", "cmaes", "nsga2", "playbook")


def specs(names=TABLES):
    made = []
    for name in names:
        file, *rest = name.split("@")
        made.append("@".join([f"table:{DATA / 'tables' / file}.csv.gz", *rest]))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        made = tw.compare(
            specs(), TUNERS, trials=given.trials, seeds=given.seeds, directory=Path(folder) / "b", workers=given.workers
        )
        whole = time.perf_counter() - begun
        fresh = load(made.folder)
        begun = time.perf_counter()
        page = fresh.report()
        report, size = time.perf_counter() - begun, page.stat().st_size / 1e6
        begun = time.perf_counter()
        agrees = verify(made.folder)["agrees"]
        checked = time.perf_counter() - begun
        games = made.games
        spent = games["wall_s"] - games["tuner_s"] - games["measured_s"]
        # a process's first games load packages and compile
        warm = games.index[games["seed"] > 0]
        overhead = 1e3 * spent[warm].sum() / games["trials"][warm].sum()
        total = sum(f.stat().st_size for f in made.folder.iterdir()) / 1e6
        rows = [
            ("overhead a trial beside target and tuner", f"{overhead:.2f} ms", "5 ms"),
            (f"{len(games):,} games, {int(games['trials'].sum()):,} trials", f"{whole / 60:.1f} min", "30 min"),
            ("of it tuners' own time", f"{games['tuner_s'].sum() / 60:.1f} CPU min", ""),
            ("the report, tables computed again", f"{report:.1f} s, {size:.2f} MB", "20 s, 5 MB"),
            (
                "verify: every table again from the raw trials",
                f"{checked:.1f} s, {'agrees' if agrees else 'DIFFERS'}",
                "",
            ),
            ("the bundle", f"{total:.1f} MB", ""),
        ]
        verdict = made.verdict
    body = f"{len(TABLES)} tables, tuners {', '.join(TUNERS)}.\n\n" + table(["what", "measured", "bar"], rows)
    body += f"\n\nWhat it shows: {verdict}"
    publish("compare_speed", "Speed of tournaments", f"python benchmarks/compare.py --seeds {given.seeds}", body)


if __name__ == "__main__":
    main()
