"""From jobs, nodes and a policy to a simulation of a cluster, and from that to metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling import limits as L
from tunewright.envs.scheduling.cluster import state as S
from tunewright.envs.scheduling.cluster.jobs import Jobs, Nodes
from tunewright.envs.scheduling.serving.simulate import jain
from tunewright.errors import ConfigError, unknown

ORDERS = ("fifo", "sjf", "las")
BACKFILLS = ("none", "easy", "conservative")
PLACEMENTS = ("first", "best", "worst", "fragmentation", "best-all")
KINDS = 16  # of jobs that fragmentation looks at
BOUND_S = 10.0  # shortest run time that a slowdown is taken of (bounded slowdown, Feitelson 2001)
MOST_WAITING = 200_000
MOST_LOOKS = 1e8  # at the balance of nodes; more take hours


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How jobs are scheduled.

    Attributes:
        order: ``fifo``, ``sjf`` (shortest estimate first), or ``las`` (least attained service in queues, preemptive).
        backfill: none, ``easy`` (nothing may delay the first of the queue) or ``conservative`` (nothing may delay any).
        placement: ``first`` node that fits, ``best`` (fewest free GPUs, or CPUs where there are none), ``best-all`` (least
            free over CPU, memory and GPUs), ``worst`` (most free GPUs), or ``fragmentation`` (the least growth of what the
            usual jobs cannot use).
        depth: jobs of the queue that are looked at.
        levels, level_s: queues of ``las``, and GPU-seconds that a job may have in the first; ten times as many in the next.
        restart_s: cost of going on after a preemption.
        balance: difference of loads between two nodes above which a job is moved; 0 or ``every_s`` 0: never.
        every_s: time between looks at the balance.
        migrate_s: pause of a job that is moved.
        refuse: jobs that do not fit when they come are refused instead of queued.
    """

    order: str = "fifo"
    backfill: str = "none"
    placement: str = "first"
    depth: int = 100
    levels: int = 3
    level_s: float = 3600.0
    restart_s: float = 30.0
    balance: float = 0.3
    every_s: float = 0.0
    migrate_s: float = 30.0
    refuse: bool = False


POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "fifo": ("first come first served", {}),
    "backfill": ("EASY backfill: nothing may delay the first of the queue", {"backfill": "easy"}),
    "conservative": ("conservative backfill: nothing may delay anything before it", {"backfill": "conservative"}),
    "sjf": ("shortest estimate first", {"order": "sjf"}),
    "sjf-backfill": ("shortest estimate first, with EASY backfill", {"order": "sjf", "backfill": "easy"}),
    "las": ("least attained service, preemptive (Tiresias, NSDI 2019)", {"order": "las"}),
    "best-fit": ("EASY backfill; the fullest node that fits", {"backfill": "easy", "placement": "best"}),
    "fragmentation": (
        "EASY backfill; the node whose free part the usual jobs can use best afterwards (FGD, ATC 2023)",
        {"backfill": "easy", "placement": "fragmentation"},
    ),
    "balance": (
        "EASY backfill; the emptiest node, and jobs are moved for balance",
        {"backfill": "easy", "placement": "worst", "every_s": 600.0},
    ),
}


def policy(name: str, **changes: Any) -> Policy:
    """Return a policy by name, some settings changed.

    Raises:
        UnknownNameError: there is no such policy or setting.
        ConfigError: a value is out of range.
    """
    if name not in POLICIES:
        raise unknown("cluster policy", name, POLICIES)
    known = Policy.__dataclass_fields__
    for key in changes:
        if key not in known:
            raise unknown("setting of a cluster policy", key, known)
    found = Policy(**{**POLICIES[name][1], **changes})
    check(found)
    return found


def check(p: Policy) -> None:
    """Raise ConfigError where a setting is out of range."""
    for name, value, legal in (
        ("order", p.order, ORDERS),
        ("backfill", p.backfill, BACKFILLS),
        ("placement", p.placement, PLACEMENTS),
    ):
        if value not in legal:
            raise unknown(name, value, legal)
    if not 1 <= p.levels <= 8:
        raise ConfigError(f"levels must be 1 to 8, not {p.levels}")
    L.check(
        depth=p.depth, level_s=p.level_s, restart_s=p.restart_s, balance=p.balance, every_s=p.every_s, migrate_s=p.migrate_s
    )  # fmt: skip
    if p.order == "las" and (p.backfill != "none" or p.refuse):
        raise ConfigError("las preempts instead of backfilling or refusing; take backfill none and refuse off")


def kinds_of(jobs: Jobs) -> NDArray[Any]:
    """Return the most frequent kinds of jobs and how often they come, (kinds,) of ``state.KIND``."""
    seen = Counter(zip(jobs.gpus.tolist(), jobs.milli.tolist(), jobs.cpu.tolist(), jobs.memory.tolist(), strict=True))
    top = [(k, c) for k, c in seen.most_common(4 * KINDS) if k[0] > 0][:KINDS]
    found = np.zeros(len(top), S.KIND)
    total = sum(c for _, c in top) or 1
    for i, ((gpus, milli, cpu, memory), count) in enumerate(top):
        found[i] = (count / total, gpus, milli, cpu, memory)
    return found


def systems(loads: Sequence[Jobs], where: Nodes, p: Policy, log: int = 0) -> S.Systems:
    """Return clusters that have not begun, one for each list of jobs; the lists are equally long."""
    check(p)
    n, count = len(loads), len(loads[0])
    rows = np.zeros((n, count), S.JOB)
    for k, jobs in enumerate(loads):
        for name in ("submit", "run", "estimate"):
            rows[name][k] = getattr(jobs, f"{name}_s")
        for name in ("gpus", "milli", "cpu", "memory", "user"):
            rows[name][k] = getattr(jobs, name)
    rows["left"] = rows["run"]
    looks = float((rows["submit"] + rows["run"]).max()) / p.every_s if p.every_s else 0.0
    if looks > MOST_LOOKS:
        raise ConfigError(
            f"every_s {p.every_s:g} would look {looks:.3g} times at the balance; take a longer one, for at most {MOST_LOOKS:g}"
        )
    kinds = kinds_of(loads[0]) if p.placement == "fragmentation" else np.zeros(0, S.KIND)
    made = S.Systems(rows, where.cpu, where.memory, where.gpus, kinds, log)
    values = {
        "order": ORDERS.index(p.order), "backfill": BACKFILLS.index(p.backfill), "placement": PLACEMENTS.index(p.placement),
        "depth": p.depth, "levels": p.levels, "level_s": p.level_s, "restart_s": p.restart_s, "migrate_s": p.migrate_s,
        "balance": p.balance, "refuse": p.refuse, "every_s": p.every_s if len(where.cpu) > 1 and p.balance > 0 else 0.0, "next_balance": p.every_s,
        "most_cpu": max(where.cpu.max(initial=0), 1), "most_memory": max(where.memory.max(initial=0), 1),
    }  # fmt: skip
    for name, value in values.items():
        made.systems[name] = value
    return made


@dataclass
class Outcome:
    """What came of a simulation.

    Attributes:
        jobs, nodes, policy: of what, on what, how.
        systems: the state at the end.
        seconds: that simulating took.
        finished: it came to its end.
    """

    jobs: Jobs
    nodes: Nodes
    policy: Policy
    systems: S.Systems
    seconds: float
    finished: bool


def simulate(
    jobs: Jobs, where: Nodes, p: Policy | None = None, *, log: int = 0, most_waiting: int = MOST_WAITING
) -> Outcome:
    """Run jobs on nodes; see ``systems``."""
    from tunewright.envs.scheduling.cluster import kernel

    chosen = p or Policy()
    made = systems([jobs], where, chosen, log)
    start = time.perf_counter()
    finished = bool(kernel.run_one(made.address, 0, most_waiting))
    return Outcome(jobs, where, chosen, made, time.perf_counter() - start, finished)


def metrics(o: Outcome) -> dict[str, Any]:
    """Return the metrics of an outcome.

    Waiting is until a job first starts. Bounded slowdown is response over run time, with at least ten seconds of the latter.
    Fairness is Jain's index of the users' mean bounded slowdowns. Utilisation is until the last job ends.
    """
    rows, w = o.systems.jobs[0], o.systems.systems[0]
    done = rows["phase"] == S.DONE
    first = np.where(done, rows["first_start"], rows["submit"])
    wait, response = first - rows["submit"], np.where(done, rows["done_at"], rows["submit"]) - rows["submit"]
    slow = np.maximum(response / np.maximum(rows["run"], BOUND_S), 1.0)

    def spread(x: Any) -> dict[str, float | None]:
        if not len(x):
            return {"mean": None, "p50": None, "p90": None, "p99": None}
        p50, p90, p99 = np.percentile(x, [50, 90, 99])
        return {"mean": float(x.mean()), "p50": float(p50), "p90": float(p90), "p99": float(p99)}

    users, number = np.unique(rows["user"][done], return_inverse=True)
    per_user = np.bincount(number, slow[done], len(users)) / np.maximum(np.bincount(number, minlength=len(users)), 1)
    total = float(w["gpu_total"] or w["cpu_total"])
    end = float(np.where(done, rows["done_at"], 0.0).max(initial=1e-9))
    return {
        "wait_s": spread(wait[done]), "response_s": spread(response[done]), "bounded_slowdown": spread(slow[done]),
        "fairness": jain(per_user), "utilisation": float(w["used"]) / (total * end), "makespan_s": end,
        "preemptions": int(w["preemptions"]), "migrations": int(w["migrations"]),
    }  # fmt: skip


def stability(o: Outcome) -> tuple[bool, str]:
    """Say whether the cluster keeps up with its jobs."""
    if not o.finished:
        return (
            False,
            f"given up with {int(o.systems.systems[0]['waiting']):,} jobs waiting: more work comes than the cluster does",
        )
    rows = o.systems.jobs[0]
    done = rows["phase"] == S.DONE
    if not done.any():
        return True, ""
    last = float(rows["submit"][-1])
    wait = (rows["first_start"] - rows["submit"])[done]
    demand, total = o.jobs.demand(), float(o.nodes.gpus.sum() or o.nodes.cpu.sum() / S.WHOLE)
    half = len(wait) // 2
    longest = float(rows["run"][done].max())
    drain = float(rows["first_start"][done].max()) - last
    if half >= 50 and demand > total and drain > 0.1 * last and drain > 0.2 * longest:
        return False, (
            f"unstable: the jobs would keep {demand:,.1f} of {total:,.0f} {'GPUs' if o.jobs.uses_gpus else 'CPUs'} busy;"
            f" the last of them started {drain:,.0f} s after the last submission"
        )
    return True, ""
