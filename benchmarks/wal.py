"""What WAL alone gives SQLite at equal durability: python benchmarks/wal.py. Nine interleaved pairs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import publish, table

from tunewright.measuring.isolation import call_isolated, measure_once
from tunewright.measuring.protocol import compare_pairs
from tunewright.plugins import open_target
from tunewright.target import Budget

PAIRS = 9


def main() -> None:
    target = open_target("sqlite")
    default, wal = target.space.default, target.space.fill({"journal_mode": "WAL"})
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for workload in ("write-heavy", "mixed", "read-heavy"):
            budget = Budget(workdir=Path(folder).resolve())
            prepared = call_isolated(target, "prepare", workload=workload, seed=1, budget=budget)
            budget = Budget(workdir=budget.workdir, prepared=prepared)
            pairs = []
            for number in range(PAIRS):
                values = {
                    name: measure_once(target, config, workload=workload, seed=number, budget=budget).values[
                        "throughput"
                    ]
                    for name, config in [("wal", wal), ("default", default)][:: 1 if number % 2 else -1]
                }
                pairs.append((values["wal"], values["default"]))
            found = compare_pairs(target.metrics[0], pairs)
            rows.append((workload, f"{found.value:.2f}", f"{found.low:.2f} to {found.high:.2f}"))
    body = table(["workload", "ratio to the default", "95 % interval"], rows)
    body += f"\n\njournal_mode=WAL, synchronous=FULL, everything else SQLite's default; {PAIRS} alternating pairs."
    publish("wal", "What WAL alone gives at equal durability", "python benchmarks/wal.py", body)


if __name__ == "__main__":
    main()
