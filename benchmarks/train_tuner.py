"""An agent trained on a family, on members that it never saw: python benchmarks/train_tuner.py [--seeds 3] [--steps 60000].

Trials until a configuration is within 10 % of the best known, without noise; tuners see noise. The best known comes from
a search of some thousand configurations without noise. Members whose default is that near already are left out.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import publish, quartiles, rehearse, table

from tunewright.agents import tuning
from tunewright.envs.storage.lustre import model
from tunewright.envs.storage.lustre.target import LustreModel
from tunewright.plugins import make_tuner
from tunewright.target import Budget
from tunewright.tuner import Problem

NEAR, BUDGET, HELD_OUT = 0.10, 20, 7_000_003
BESIDE = {
    "TPE, 3 start-up": ("tpe", {}),
    "TPE, 10 start-up": ("tpe", {"startup": 10}),
    "random": ("random", {}),
    "playbook": ("playbook", {}),
    "hybrid": ("hybrid", {}),
}
FOLDER = Budget(workdir=Path("."))


def members(count):
    """Drawn members by number, then STELLAR's eight workloads by name."""
    return [*range(count), *model.WORKLOADS]


def opened(member):
    """Target and workload of a member."""
    if isinstance(member, str):
        return LustreModel(), member
    return LustreModel().drawn(np.random.default_rng([HELD_OUT, member]))


def clean(target):
    known = target._phases
    return LustreModel(target.cluster, 0.0, known)


def best_known(given, tries=2500):
    target, workload = opened(given)
    exact = clean(target)
    space = exact.space
    rng = np.random.default_rng(1)

    def value(config):
        return exact.measure(config, workload=workload, seed=0, budget=FOLDER).values["seconds"]

    best = (value(space.default), 0, space.default)
    for k in range(tries // 2):
        config = space.decode(rng.random(len(space)))
        best = min(best, (value(config), k + 1, config))
    held, _, config = best
    point = space.encode(config)
    for _ in range(tries):
        moved = point.copy()
        for k in rng.choice(len(moved), size=1 + int(rng.random() < 0.3), replace=False):
            moved[k] = rng.random() if rng.random() < 0.5 else np.clip(moved[k] + rng.normal(0, 0.1), 0, 1)
        candidate = space.decode(moved)
        if (found := value(candidate)) <= held:
            held, point = found, moved
    return held, value(space.default)


def attempts(given):
    """Trials until within the goal, and the gain after the first trial and the last."""
    member, spec, options, seed, best = given
    target, workload = opened(member)
    exact, space, metric = clean(target), target.space, target.metrics[0]
    problem = Problem(
        space=space, metrics=target.metrics, objectives=[metric.name], seed=seed, options=options, facts=target.facts,
        workload=workload, about=target.workloads[workload], workloads=tuple(target.workloads), target="lustre",
        trials=BUDGET + 1, argument=spec.partition(":")[2],
    )  # fmt: skip
    _, tuner = make_tuner(spec, problem)
    reached, values = None, []

    def seen(config, step):
        return target.measure(config, workload=workload, seed=seed * 1000 + step, budget=FOLDER)

    for trial in rehearse(tuner, space, BUDGET + 1, seed, seen):
        values.append(exact.measure(trial.config, workload=workload, seed=0, budget=FOLDER).values[metric.name])
        if reached is None and values[-1] <= best * (1 + NEAR):
            reached = trial.step
    return reached, best / min(values[:2]), best / min(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--members", type=int, default=40)
    parser.add_argument(
        "--agent", type=Path, action="append", help="an agent that is there already; repeatable, nothing is written"
    )
    given = parser.parse_args()
    drawn = members(given.members)
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        known = list(pool.map(best_known, drawn))
        fit = [(m, b) for m, (b, d) in zip(drawn, known, strict=True) if d > b * (1 + NEAR)]
        room = np.median([d / b for (b, d) in known if d > b * (1 + NEAR)])
        agents = given.agent or []
        for seed in range(0 if agents else given.seeds):
            path = Path(folder) / f"agent{seed}.zip"
            print(tuning.run(["lustre"], steps=given.steps, output=path, seed=seed)["held_out"], flush=True)
            agents.append(path)
        named = set(model.WORKLOADS)
        rows = []
        for label, (spec, options) in {
            **{f"agent, seed {k}": (f"policy:{p}", {}) for k, p in enumerate(agents)}, **BESIDE
        }.items():  # fmt: skip
            jobs = [(m, spec, options, seed, b) for m, b in fit for seed in range(3)]
            found = list(pool.map(attempts, jobs))
            old = [f for f, j in zip(found, jobs, strict=True) if j[0] not in named]
            new = [f for f, j in zip(found, jobs, strict=True) if j[0] in named]
            rows.append([
                label, quartiles([f[0] for f in old], BUDGET), f"{100 * np.median([f[1] for f in old]):.0f} %",
                f"{100 * np.median([f[2] for f in old]):.0f} %", quartiles([f[0] for f in new], BUDGET),
                f"{100 * np.median([f[1] for f in new]):.0f} %",
            ])  # fmt: skip
            print(*rows[-1], sep=" | ", flush=True)
    heads = [
        "tuner", "drawn members: trials to 10 %, quartiles", "speed after the first trial", f"after {BUDGET}",
        "STELLAR's workloads: trials to 10 %", "speed after the first trial",
    ]  # fmt: skip
    count = sum(m not in named for m, _ in fit)
    body = (
        f"Agents: PPO, {given.steps:,} trials on drawn clusters and workloads of the Lustre model. Held out: {count} other drawn"
        f" members whose default is not within 10 % already (of {given.members}), and {len(fit) - count} of STELLAR's workloads"
        f" on the testbed, none of which is ever drawn; three seeds of noise each. Speed: of the best known, as the median; in the"
        f" median the best is {room:.2f} times the default. Budget {BUDGET}.\n\n" + table(heads, rows)
    )
    if not given.agent:
        command = f"python benchmarks/train_tuner.py --seeds {given.seeds} --steps {given.steps}"
        publish("train_tuner", "An agent that tunes what it never saw", command, body)


if __name__ == "__main__":
    main()
