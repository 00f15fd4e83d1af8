"""Attempts to near-optimal, by tuner: python benchmarks/attempts.py [--seeds 20] [--part model|real|sqlite|postgres].

An attempt is a configuration after the default. On the Lustre model an attempt counts by its value without noise, the
tuner sees noise; the best known value comes from a search of 9,000 configurations without noise. On real systems a trial
counts by its ratio to the default measured beside it, and the best known is the best that any of the sessions verified.
The parts sqlite and postgres play all seeds on one real workload, half an hour and an hour.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from common import RESULTS, publish, quartiles, rehearse, table
from lustre import best_known

from tunewright.envs.storage.lustre import model
from tunewright.envs.storage.lustre.target import LustreModel
from tunewright.errors import ConfigError, MissingExtraError
from tunewright.plugins import make_tuner, open_target
from tunewright.sessions.session import Session
from tunewright.store.export import export
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import Budget, Measurement
from tunewright.tuner import Problem, best_trial

TUNERS = {
    "playbook": ("playbook", {}), "random": ("random", {}), "TPE, 3 start-up": ("tpe", {}),
    "TPE, 10 start-up": ("tpe", {"startup": 10}), "hybrid": ("hybrid", {}), "GP, 2 start-up": ("gp", {}),
}  # fmt: skip
ATTEMPTS = 8
REAL = {"sqlite": ("write-heavy", "read-heavy", "analytical"), "postgres": ("analytical",)}
ALL_REAL = ("playbook", "hybrid", "random", "TPE, 3 start-up", "GP, 2 start-up")
REAL_TUNERS = {"sqlite": ALL_REAL, "postgres": ("playbook", "TPE, 3 start-up")}  # five minutes each
REAL_ATTEMPTS = 8
#: one workload of a real system for all seeds, small enough for a hundred sessions; trials of one pair of runs
SEEDED = {
    "sqlite": ("SQLite", "write-heavy", {"rows": "5000"}),
    "postgres": ("PostgreSQL", "analytical", {"scale": "2", "clients": "2"}),
}
SEEDED_ATTEMPTS = 5


def trace(workload, name, options, seed):
    """Values without noise of the attempts of one session, and of what it would choose at the end of five."""
    noisy, clean = LustreModel(), LustreModel(noise=0.0)
    space, metric = noisy.space, noisy.metrics[0]
    problem = Problem(
        space=space, metrics=noisy.metrics, objectives=[metric.name], seed=seed, options=options, facts=noisy.facts,
        workload=workload, about=noisy.workloads[workload], workloads=tuple(noisy.workloads), target="lustre",
    )  # fmt: skip
    _, tuner = make_tuner(name, problem)
    trials, found, after_five = [], [], None
    budget = Budget(workdir=Path("."))

    def value(target, config, k):
        return target.measure(config, workload=workload, seed=seed * 1000 + k, budget=budget).values[metric.name]

    def seen(config, step):
        return Measurement(
            values={metric.name: float(np.median([value(noisy, config, 10 * step + r) for r in range(3)]))}
        )

    for trial in rehearse(tuner, space, ATTEMPTS + 1, seed, seen):
        trials.append(trial)
        found.append(value(clean, trial.config, 0))
        if trial.step == 5:
            after_five = value(clean, best_trial(trials, metric).config, 0)
    return found, after_five


def first_within(values, best, share):
    return next((k for k, v in enumerate(values) if k and v <= best * (1 + share)), None)


def on_the_model(seeds, only):
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        return _on_the_model(seeds, only, pool)


def published(name):
    """Rows of the page as it stands, by their first cell."""
    lines = (RESULTS / f"{name}.md").read_text(encoding="utf-8").splitlines()
    return {
        cells[0]: cells
        for cells in ([c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|")
    }


def _on_the_model(seeds, only, pool):
    known = {w: best_known(w)[1] for w in model.WORKLOADS}
    rows = []
    for label, (name, options) in TUNERS.items():
        if only and label not in only:  # nothing about it has changed, and one row takes hours
            rows.append(published("attempts_lustre")[label])
            continue
        row, near, lost = [label], 0, 0
        for workload, best in known.items():
            made = list(pool.map(trace, [workload] * seeds, [name] * seeds, [options] * seeds, range(seeds)))
            row.append(quartiles([first_within(values, best, 0.05) for values, _ in made], ATTEMPTS))
            near += np.median([after / best for _, after in made]) <= 1.10
            lost += sum(after > values[0] * 1.001 for values, after in made)
        row += [f"{near} of {len(known)}", str(lost)]
        print(*row, sep=" | ", flush=True)
        rows.append(row)
    heads = [
        "tuner",
        *known,
        "within 10 % after five attempts (median)",
        f"worse than the default then (of {seeds * len(known)})",
    ]
    return (
        f"Attempts until a configuration is within 5 % of the best known, quartiles over {seeds} seeds;"
        f" at most {ATTEMPTS}. The last columns: the configuration that the session would choose after five attempts."
        + (" Made in parts, with `--tuners`." if only else "")
        + "\n\n"
        + table(heads, rows)
    )


def ratios_of(document):
    """Each decided trial's ratio to the default beside it; None where it failed or missed a constraint."""
    decided = [t for t in document["trials"] if t["status"] not in ("rejected", "interrupted")]
    fine = [t["status"] == "ok" and all((v or 0) <= 0 for v in t["violations"].values()) for t in decided]
    return [t["ratio"] if ok else None for t, ok in zip(decided, fine, strict=True)]


def on_a_real_system(name, workload, folder):
    """Ratios of the attempts and the verified one, by tuner; sessions that the folder has already are not run again."""
    made = {}
    for label in ALL_REAL:
        tuner, options = TUNERS[label]
        store = Store(f"sqlite:///{folder}/{name}-{workload}-{tuner}.db")
        done = "a" in store.names() and store.session("a").get("verdict")
        if not done and label not in REAL_TUNERS[name]:
            continue
        if not done:
            work = str(folder / "work")
            plan = Plan(target=name, workload=workload, tuner=tuner, seed=1, tuner_options=options, workdir=work)
            with Session.create(plan, "a", store) as session:
                session.run(trials=(5 if label == "playbook" else REAL_ATTEMPTS) + 1)
            store = Store(f"sqlite:///{folder}/{name}-{workload}-{tuner}.db")
        document = export(store, "a")
        store.close()
        shown = document["verdict"]["comparisons"][document["objectives"][0]]
        made[label] = (ratios_of(document), shown)
        print(name, workload, label, f"{shown['value']:.2f}", flush=True)
    return made


def on_real_systems(folder):
    rows = []
    for name, workloads in REAL.items():
        try:
            open_target(name, {})
        except (ConfigError, MissingExtraError) as error:
            print(f"{name} left out: {error}", flush=True)
            continue
        for workload in workloads:
            made = on_a_real_system(name, workload, folder)
            best = max(shown["value"] for _, shown in made.values())
            row = [name, workload, f"{best:.2f}"]
            for label in ALL_REAL:
                ratios, shown = made.get(label, ([], None))
                first = next((k for k, r in enumerate(ratios) if k and r is not None and r >= best / 1.05), "-")
                text = (
                    "not run"
                    if shown is None
                    else f"{shown['value']:.2f} ({shown['low']:.2f} to {shown['high']:.2f}), {first}"
                )
                row.append(text)
            rows.append(row)
    heads = ["system", "workload", "best known", *(f"{t}: ratio, attempt" for t in ALL_REAL)]
    return (
        f"One session each (seed 1): five attempts of the playbook, {REAL_ATTEMPTS} of the others. Verified ratio to"
        " the default with its 95 % interval, and the first attempt within 5 % of the best known (- for none). Other work ran"
        " on the machine beside some of them; the ratios are paired, but read small differences as none.\n\n"
        + table(heads, rows)
    )


def on_seeds(system, seeds, folder, fresh):
    """All seeds on one real workload; seeds outside, tuners inside, so that drift of the machine hits all alike."""
    shown, workload, settings = SEEDED[system]
    made, verified = ({label: [] for label in ALL_REAL} for _ in range(2))
    for seed in range(seeds):
        for label in ALL_REAL:
            tuner, options = TUNERS[label]
            store = Store(f"sqlite:///{folder}/{system}-{tuner}-{seed}.db")
            plan = Plan(
                target=system, workload=workload, tuner=tuner, seed=seed, tuner_options=options, workdir=str(folder / "work"),
                options=settings, trust="fast",
            )  # fmt: skip
            begun = "a" in store.names()
            held = store.session("a") if begun else {}
            if held.get("status") != "done" or (label in fresh and not held["verdict"]):
                with Session.resume("a", store) if begun else Session.create(plan, "a", store) as session:
                    session.run(total=SEEDED_ATTEMPTS + 1, verify=label in fresh)
            document = export(store, "a")
            store.close()
            made[label].append(ratios_of(document))
            if document["verdict"]:
                verified[label].append(document["verdict"]["comparisons"][document["objectives"][0]])
        print(
            seed, *(f"{label} {max(r for r in made[label][-1] if r):.2f}" for label in ALL_REAL), sep=" | ", flush=True
        )
    # the best of so many noisy ratios is luck in part: a high quantile of the fresh ones stands for what can be had
    best = float(np.quantile([v["value"] for games in verified.values() for v in games], 0.9))
    rows = []
    for label, games in made.items():
        near = [
            [next((k for k, r in enumerate(g) if k and r and r >= best / (1 + share)), None) for g in games]
            for share in (0.05, 0.10)
        ]
        reached = sum(first is not None for first in near[1])
        row = [label, *(quartiles(first, SEEDED_ATTEMPTS) for first in near), f"{reached} of {len(games)}"]
        ends = np.array([v["value"] for v in verified[label]])
        if len(ends) == len(games):
            row += [
                f"{np.median(ends):.2f} ({ends.min():.2f} to {ends.max():.2f})",
                f"{sum(ends >= best / 1.1)} of {len(ends)}",
            ]
            row += [f"{min(v['low'] for v in verified[label]):.2f}", sum(v["high"] < 1 for v in verified[label])]
        rows.append([*row, *["not measured"] * (8 - len(row))])
    told = ", ".join(f"{n} {v}" for n, v in settings.items())
    return (
        f"{shown}, {workload}, {told}, {seeds} seeds, {SEEDED_ATTEMPTS} attempts each, on the real database. At the end each session's"
        " choice is measured afresh beside the default, several pairs (where the table gives it). The best known ratio to the"
        f" default, {best:.2f}, is the 90 % quantile of all these. An attempt counts by one pair of runs (trust `fast`), whose noise is large"
        " beside a tenth, so attempts are partly luck; they are quartiles.\n\n"
        + table(
            (
                "tuner", "attempts to 5 %", "attempts to 10 %", "sessions within 10 %", "choice afresh, median (range)",
                "choices within 10 % afresh", "lowest end of their intervals", "worse than the default",
            ),
            rows,
        )
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--part", choices=("model", "real", *SEEDED), help="only this one")
    parser.add_argument(
        "--tuners", help="of the model's rows only these, separated by semicolons; the page keeps the others"
    )
    parser.add_argument(
        "--fresh",
        default=";".join(ALL_REAL),
        help="tuners whose choices are measured afresh, of a real system over seeds",
    )
    parser.add_argument("--keep", type=Path, help="folder for the real sessions; those in it are not run again")
    given = parser.parse_args()
    command = f"python benchmarks/attempts.py --seeds {given.seeds}"
    if given.part in (None, "model"):
        publish(
            "attempts_lustre",
            "Attempts to near-optimal on the Lustre model",
            command,
            on_the_model(given.seeds, given.tuners and given.tuners.split(";")),
        )
    if given.part in (None, "real"):
        with tempfile.TemporaryDirectory() as fresh:
            body = on_real_systems(given.keep or Path(fresh))
        publish("attempts_real", "Attempts to near-optimal on real systems", command, body)
    if given.part in SEEDED:
        with tempfile.TemporaryDirectory() as fresh:
            body = on_seeds(given.part, given.seeds, given.keep or Path(fresh), given.fresh.split(";"))
        title = f"Attempts to near-optimal on {SEEDED[given.part][0]}"
        command += f" --part {given.part}" + ("" if given.fresh == ";".join(ALL_REAL) else f" --fresh '{given.fresh}'")
        publish(f"attempts_{given.part}", title, command, body)


if __name__ == "__main__":
    main()
