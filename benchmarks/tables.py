"""Trials to within 5 % of the best on measured tables: python benchmarks/tables.py [--seeds 20] [--data DIR].

With ``--tables DIR`` on those that collect_tables.py made, of one ``--half`` of tables_split.toml.

The default configuration first; the threshold is best + 5 % of (median - best), as a share of the table's own
spread. Every learner is shown with Optuna's own start-up trials and with few: ten random trials are a waste in
a budget of thirty.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small matrices: a second thread only gets in the way

import numpy as np
from collect_tables import SPLIT
from common import DATA, publish, quartiles, rehearse, table
from peers import Nevergrad, OrderedGP, auto_sampler

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
    "GP, 10 start-up": ("gp", {"startup": 10}), "GP, 2 start-up": ("gp", {}), "gp2": ("gp2", {}), "ensemble": ("ensemble", {}), "playbook": ("playbook", {}), "hybrid": ("hybrid", {}), "CMA-ES": ("cmaes", {}), "NSGA-II": ("nsga2", {}),
}  # fmt: skip
# on tables whose parameters have no meaning for a playbook; what stands for a name makes a tuner of a problem
SPLIT_TUNERS = {
    "random": ("random", {}), "TPE, 3 start-up": ("tpe", {}), "SMAC3, 2 start-up": ("smac", {"startup": 2}),
    "GP, 2 start-up, all categories": ("gp", {}), "GP, 2 start-up": (OrderedGP, {}), "Nevergrad NGOpt": (Nevergrad, {}),
    "gp2": ("gp2", {}), "ensemble": ("ensemble", {}),
}  # fmt: skip
TRIALS = 30


def curve(target, make: str | Callable, options, seed) -> list[float]:
    """Return the best value after each trial, up to the goal or the end of the budget; infinity while all failed."""
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
    tuner = make_tuner(make, problem)[1] if isinstance(make, str) else make(problem)
    sign = 1.0 if metric.direction == "min" else -1.0
    best, found = float("inf"), []

    def replayed(config, step):
        return target.measure(config, workload="replay", seed=0, budget=Budget(workdir=Path(".")))

    with suppress(TunerError):
        for trial in rehearse(tuner, target.space, TRIALS, seed, replayed):
            best = min(best, sign * trial.scores[metric.name])
            found.append(best)
            if best <= sign * goal(target):
                break
    return found


def goal(target) -> float:
    """Return the value that is within 5 % of the best, as a share of the way from the median to it."""
    return target.known["best"] + 0.05 * (target.known["median"] - target.known["best"])


def trials_to_goal(target, make: str | Callable, options, seed) -> int | None:
    """Number of measured configurations until one is at least as good as the goal, or None."""
    found = curve(target, make, options, seed)
    sign = 1.0 if target.metrics[0].direction == "min" else -1.0
    return len(found) if found[-1] <= sign * goal(target) else None


def missing(found: list[float], target, trials: int) -> float:
    """Return the share of the way from the default to the best that is missing after so many trials."""
    best = target.known["best"] * (1.0 if target.metrics[0].direction == "min" else -1.0)
    return (found[min(trials, len(found)) - 1] - best) / (found[0] - best)


def on_split(given: argparse.Namespace) -> None:
    """Run the tuners on one half of the split; runs are added to a file, and what is there is not run again."""
    entries = tomllib.loads(SPLIT.read_text(encoding="utf-8"))["tables"]
    names = [name for name, entry in entries.items() if entry["half"] == given.half]
    targets = {name: open_target(str(given.tables / f"{name}.csv.gz"), {}) for name in names}
    tuners = dict(SPLIT_TUNERS)
    if given.registry:
        tuners["AutoSampler"] = (auto_sampler(given.registry), {})
    store = given.tables / f"runs-{given.half}.json"
    runs = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    for label, (make, options) in tuners.items():
        if given.tuners is not None and label not in given.tuners.split(";"):
            continue
        for name, target in targets.items():
            for seed in range(given.seeds):
                key = f"{label}|{name}|{seed}"
                if key not in runs:
                    runs[key] = curve(target, make, options, seed)
            store.write_text(json.dumps(runs), encoding="utf-8")
        print(label, "done", flush=True)
    rows, shares = [], []
    counts: dict[str, dict[str, list[int]]] = {}  # by tuner and table; a run that missed counts as TRIALS + 1
    for label in [*SPLIT_TUNERS, "AutoSampler"]:
        row, lost = [label], []
        for name, target in targets.items():
            found = [runs[key] for seed in range(given.seeds) if (key := f"{label}|{name}|{seed}") in runs]
            if len(found) < given.seeds:
                row.append("not run")
                continue
            sign = 1.0 if target.metrics[0].direction == "min" else -1.0
            reached = [len(f) if f[-1] <= sign * goal(target) else None for f in found]
            row.append(quartiles(reached, TRIALS))
            counts.setdefault(label, {})[name] = [r or TRIALS + 1 for r in reached]
            lost.append([sorted(missing(f, target, k) for f in found)[len(found) // 2] for k in (5, 10, 20, 30)])
        if lost:
            rows.append(row)
        if len(lost) == len(targets):
            shares.append([label, *(f"{sum(column) / len(lost):.2f}" for column in zip(*lost, strict=True))])
    within = [n for n in targets if any(sorted(c[n])[given.seeds // 2] <= TRIALS for c in counts.values() if n in c)]
    for row in rows:
        mine = counts[row[0]]
        row.append(f"{np.mean([mine[n] for n in within]):.1f}" if within and all(n in mine for n in within) else "")
    body = (
        f"Quartiles over {given.seeds} seeds, budget {TRIALS} trials, the row of median performance first. The "
        f"{given.half} half of tables_split.toml. The mean is over the {len(within)} tables on which some tuner's median is "
        f"within the budget; a run that did not come within 5 % counts {TRIALS + 1}.\n\n"
        + table(["tuner", *targets, "mean"], rows)
        + "\n\nShare of the way from the first configuration to the best that is still missing, median over seeds, mean "
        "over tables; a run that came within 5 % counts with what it had then.\n\n"
        + table(["tuner", "5 trials", "10", "20", "30"], shares)
    )  # fmt: skip
    if given.tuners:
        print(body)
        return
    publish(
        f"tables_{given.half.replace('-', '_')}",
        f"Trials to within 5 % of the best, {given.half} tables",
        f"python benchmarks/tables.py --tables TABLES --half {given.half} --seeds {given.seeds}"
        + (" --registry REGISTRY" if given.registry else ""),
        body,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--tuners",
        help="only these, separated by semicolons; nothing is written. "
        "With --tables and an empty text the page is written from the runs that are there",
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--tables", type=Path, help="folder that collect_tables.py filled")
    parser.add_argument("--half", choices=["development", "seen", "held-out"], default="held-out")
    parser.add_argument("--registry", type=Path, help="clone of OptunaHub's registry, for AutoSampler")
    given = parser.parse_args()
    if given.tables:
        on_split(given)
        return
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
            row.append(quartiles([trials_to_goal(target, name, options, s) for s in range(given.seeds)], TRIALS))
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
