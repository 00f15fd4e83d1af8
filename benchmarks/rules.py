"""Do rules from earlier sessions improve the first guess on an unseen workload? python benchmarks/rules.py [--target sqlite].

Each workload of a target is held out in turn: sessions on the others (tuner gp2, 20 trials, --explain) give rules; then
the first guess on the held-out one is made from rules alone, by the playbook, and by the playbook with rules, and each is
measured against the default in fresh alternating pairs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import publish, table

from tunewright.agents.llm.playbook import Playbook
from tunewright.knowledge import rules as learned
from tunewright.knowledge.workload import traits
from tunewright.measuring import isolation
from tunewright.plugins import open_target
from tunewright.sessions.guards import guarded
from tunewright.sessions.session import Session
from tunewright.store.export import export
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import Budget

TARGETS = ("lustre", "sqlite")
SESSIONS = {"lustre": 3, "sqlite": 1}  # of each workload
PAIRS = {"lustre": 40, "sqlite": 8}


def learn(name, workload, seed, folder):
    """Rules of one session that has seen one workload."""
    store = Store(f"sqlite:///{folder}/{name}-{workload}-{seed}.db")
    trust = "strict" if name == "lustre" else "normal"
    plan = Plan(target=name, workload=workload, tuner="gp2", seed=seed, trust=trust, workdir=str(folder / "work"))
    with Session.create(plan, f"{workload}-{seed}", store) as session:
        session.run(trials=20, explain=True)
        document = export(store, session.name)
    return learned.from_session(document, f"{workload}: {session.target.workloads[workload]}")


def first_guesses(target, workload, rules):
    """Configurations of the three ways, by name."""
    about = f"{workload}: {target.workloads[workload]}"
    fitting = learned.fitting(rules, target.name, traits(about), target.space)
    space = guarded(target, allow=(), never=())
    plain, taught = (Playbook(space, about, target.facts, target.metrics[0], r) for r in ((), fitting))
    only = [a for a in taught.advice() if a.because.startswith("learned")]
    return {
        "rules alone": plain.combine(target.space.default, only)[0],
        "playbook": plain.combine(target.space.default, plain.advice())[0],
        "playbook and rules": taught.combine(target.space.default, taught.advice())[0],
    }, len(only)  # fmt: skip


def ratio(target, workload, config, pairs, folder):
    """Median ratio to the default over alternating pairs, and its 95 % interval by bootstrap."""
    if config == target.space.default:
        return 1.0, 1.0, 1.0
    metric = target.metrics[0]
    budget = Budget(workdir=folder, seconds=300.0)
    if target.isolated:
        made = isolation.call_isolated(target, "prepare", workload=workload, seed=99, budget=budget)
        budget = Budget(workdir=folder, seconds=300.0, prepared=made)
    logs = []
    for k in range(pairs):
        found = {}
        for of in ("default", "candidate") if k % 2 else ("candidate", "default"):
            chosen = target.space.default if of == "default" else config
            seed = 900_000 + k + (of == "default") * 10_000  # noise of a model follows the seed
            seed = seed if not target.isolated else 900_000 + k
            done = isolation.measure_once(target, chosen, workload=workload, seed=seed, budget=budget)
            if not done.ok:
                return 0.0, 0.0, 0.0
            found[of] = done.values[metric.name]
        sign = 1 if metric.direction == "max" else -1
        logs.append(sign * np.log(found["candidate"] / found["default"]))
    rng = np.random.default_rng(0)
    drawn = np.median(rng.choice(logs, (4000, len(logs))), axis=1)
    return tuple(float(np.exp(v)) for v in (np.median(logs), *np.percentile(drawn, [2.5, 97.5])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=TARGETS, help="another one than lustre; nothing is written")
    given = parser.parse_args()
    body = ""
    for name in [given.target or "lustre"]:
        target = open_target(name, {})
        rows = []
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            known = {w: [r for s in range(SESSIONS[name]) for r in learn(name, w, s, folder)] for w in target.workloads}
            for workload in target.workloads:
                others, _ = learned.merge([], [r for w, found in known.items() if w != workload for r in found])
                guesses, count = first_guesses(target, workload, others)
                row = [workload, str(count)]
                for config in guesses.values():
                    work = folder / "verify"
                    work.mkdir(exist_ok=True)
                    middle, low, high = ratio(target, workload, config, PAIRS[name], work)
                    target.cleanup(work)
                    row.append(f"{middle:.2f} ({low:.2f} to {high:.2f})" if middle else "failed")
                print(name, *row, sep=" | ", flush=True)
                rows.append(row)
        heads = ["held-out workload", "parameters with rules", "rules alone", "playbook", "playbook and rules"]
        body += table(heads, rows)
    if given.target is None:
        words = (
            "First guess over the default (above 1 is better), median of fresh alternating pairs and 95 % interval. Each"
            " workload was held out in turn: rules come from sessions on the others alone (three of each; tuner gp2,"
            " 20 trials, then the winner without each of its changes), and are tied to features of workloads, not to names.\n\n"
        )
        publish(
            "rules",
            "Rules of earlier sessions on unseen workloads of the Lustre model",
            "python benchmarks/rules.py",
            words + body,
        )


if __name__ == "__main__":
    main()
