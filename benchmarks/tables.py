"""Trials to within 5 % of the best on measured tables: python benchmarks/tables.py [--seeds 20] [--data DIR].

The default configuration first; the threshold is best + 5 % of (median - best), as a share of the table's own
spread. Every learner is shown with Optuna's own start-up trials and with few: ten random trials are a waste in
a budget of thirty.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small matrices: a second thread only gets in the way

from common import DATA, publish, quartiles, rehearse, table

from tunewright.envs.tables import open_target
from tunewright.errors import TunerError
from tunewright.plugins import make_tuner
from tunewright.target import Budget
from tunewright.tuner import Problem

# PostgreSQL's own defaults; the other tables come without any, so their first values are taken
POSTGRES_DEFAULT = "fsync=1,synchronousCommit=1,fullPageWrites=1,trackActivities=1,trackCounts=1,SharedBuffers=128,TempBuffers=8,WorkMem=4096"
TABLES = {
    "LLVM": ("moot_LLVM", {}),
    "PostgreSQL": ("moot_PostgreSQL", {"default": POSTGRES_DEFAULT}),
    "Storm": ("moot_storm_wc-6d-c1-obj1", {"direction": "max"}),
}
TUNERS = {
    "random": ("random", {}), "TPE, 10 start-up": ("tpe", {"startup": 10}), "TPE, 3 start-up": ("tpe", {}),
    "SMAC3, 10 start-up": ("smac", {"startup": 10}), "SMAC3, 2 start-up": ("smac", {"startup": 2}),
    "GP, 10 start-up": ("gp", {"startup": 10}), "GP, 2 start-up": ("gp", {}), "gp2": ("gp2", {}), "playbook": ("playbook", {}), "hybrid": ("hybrid", {}), "CMA-ES": ("cmaes", {}), "NSGA-II": ("nsga2", {}),
}  # fmt: skip
TRIALS = 30


def trials_to_goal(target, tuner_name, options, seed, goal) -> int | None:
    """Number of measured configurations until one is at least as good as the goal, or None."""
    metric = target.metrics[0]
    problem = Problem(
        space=target.space,
        metrics=target.metrics,
        objectives=[metric.name],
        seed=seed,
        options=options,
        workload="replay",
        about=target.workloads["replay"],
        workloads=("replay",),
    )
    _, tuner = make_tuner(tuner_name, problem)

    def replayed(config, step):
        return target.measure(config, workload="replay", seed=0, budget=Budget(workdir=Path(".")))

    with suppress(TunerError):
        for trial in rehearse(tuner, target.space, TRIALS, seed, replayed):
            value = trial.scores[metric.name]
            if value == goal or metric.better(value, goal):
                return trial.step + 1
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--tuners", help="only these, separated by semicolons; nothing is written")
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    targets = {n: open_target(str(given.data / "tables" / f"{f}.csv.gz"), o) for n, (f, o) in TABLES.items()}
    rows = []
    for label, (name, options) in TUNERS.items():
        if name == "smac" and importlib.util.find_spec("smac") is None:
            print(f"{label} left out: pip install 'tunewright[smac]'", flush=True)
            continue
        if given.tuners and label not in given.tuners.split(";"):
            continue
        row = [label]
        for target in targets.values():
            goal = target.known["best"] + 0.05 * (target.known["median"] - target.known["best"])
            row.append(
                quartiles([trials_to_goal(target, name, options, seed, goal) for seed in range(given.seeds)], TRIALS)
            )
        print(*row, sep=" | ", flush=True)
        rows.append(row)
    if given.tuners:
        return
    body = f"Quartiles over {given.seeds} seeds, budget {TRIALS} trials, default first.\n\n" + table(
        ["tuner", *targets], rows
    )
    publish(
        "tables",
        "Trials to within 5 % of the best on measured tables",
        f"python benchmarks/tables.py --seeds {given.seeds}",
        body,
    )


if __name__ == "__main__":
    main()
