"""A session on each real target: the verified ratio with its interval: python benchmarks/targets.py [NAME...]."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import RESULTS, publish, table

STARTER = "my.toml"
RUNS = {
    "sqlite write-heavy": ["sqlite", "-w", "write-heavy", "-t", "tpe", "-n", "25"],
    "sqlite read-heavy": ["sqlite", "-w", "read-heavy", "-t", "tpe", "-n", "20"],
    "sqlite analytical": ["sqlite", "-w", "analytical", "-t", "tpe", "-n", "20"],
    "rocksdb a": ["rocksdb", "-w", "a", "-t", "tpe", "-n", "25"],
    "postgres tpcb": ["postgres", "-w", "tpcb", "-t", "tpe", "-n", "25"],
    "postgres analytical": ["postgres", "-w", "analytical", "-t", "tpe", "-n", "20"],
    "ann clustered": ["ann", "-w", "clustered", "-t", "tpe", "-n", "30"],
    "table LLVM (replayed)": ["table:../shared/data/tables/moot_LLVM.csv.gz", "-t", "tpe", "-n", "30"],
    "command (starter file)": [STARTER, "-t", "tpe", "-n", "20"],
}


def main() -> None:
    tunewright = str(Path(sys.executable).with_name("tunewright"))
    kept = RESULTS / "targets.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        subprocess.run([tunewright, "init", STARTER], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for name, words in RUNS.items():
            if words[0].startswith("table:"):
                file = (
                    Path(os.environ.get("TUNEWRIGHT_DATA", "../shared/data")).resolve() / "tables" / Path(words[0]).name
                )
                if not file.exists():
                    continue
                words = [f"table:{file}", *words[1:]]
            if sys.argv[1:] and not any(name.startswith(wanted) for wanted in sys.argv[1:]):
                continue
            done = subprocess.run(
                [tunewright, "tune", *words, "--seed", "1", "--store", "sqlite:///s.db", "--json"],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr[-2000:]}")
            summary = json.loads(done.stdout)
            shown = json.loads(
                subprocess.run(
                    [tunewright, "show", summary["name"], "--store", "sqlite:///s.db", "--json"],
                    cwd=folder,
                    capture_output=True,
                    check=True,
                ).stdout
            )
            summary["weaker"] = [(w["ratio"], w["loses"]) for w in shown["verdict"]["weaker"]]
            summary["best"] = None  # the table needs no configurations
            found[name] = summary
            kept.write_text(json.dumps(found, indent=1) + "\n")
    rows = []
    for name in RUNS:
        if name in found:
            f = found[name]
            weaker = "; ".join(f"{ratio:.2f}× ({loses})" for ratio, loses in f["weaker"])
            verdict = "improved" if f["improved"] else "no improvement shown"
            rows.append(
                (
                    name,
                    f"{f['ratio']:.2f}",
                    f"{f['ratio_low']:.2f} to {f['ratio_high']:.2f}",
                    verdict,
                    f["trials"],
                    f["failed"],
                    f"{f['seconds']:.0f}",
                    weaker,
                )
            )
    body = table(
        [
            "target and workload",
            "ratio",
            "95 % interval",
            "verdict",
            "trials",
            "failed",
            "seconds",
            "on top, with weaker guarantees (not used)",
        ],
        rows,
    )
    body += "\n\nTuner TPE, seed 1, trust normal; ratio of the objective to the default's at equal guarantees, from fresh alternating runs."
    publish("targets", "What a session finds on real targets", "python benchmarks/targets.py", body)


if __name__ == "__main__":
    main()
