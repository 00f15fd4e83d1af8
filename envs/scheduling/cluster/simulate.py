"""From jobs, nodes and a policy to a simulation of a cluster, and from that to metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling import limits
from tunewright.envs.scheduling.cluster import state
from tunewright.envs.scheduling.cluster.jobs import Jobs, Nodes
from tunewright.envs.scheduling.outcomes import jain, spread
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
        placement: ``first`` node that fits, ``best`` (fewest free GPUs, or CPUs where there are none), ``best-all``
            (least free over CPU, memory and GPUs), ``worst`` (most free GPUs), or ``fragmentation`` (the least growth
            of what the usual jobs cannot use).
        depth: jobs of the queue that are looked at.
        levels, level_s: queues of ``las``, and GPU-seconds that a job may have in the first; ten times as many in the
            next.
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
    chosen = Policy(**{**POLICIES[name][1], **changes})
    check(chosen)
    return chosen


def check(policy: Policy) -> None:
    """Raise ConfigError where a setting is out of range."""
    for name, legal in (("order", ORDERS), ("backfill", BACKFILLS), ("placement", PLACEMENTS)):
        if getattr(policy, name) not in legal:
            raise unknown(name, getattr(policy, name), legal)
    if not 1 <= policy.levels <= 8:
        raise ConfigError(f"levels must be 1 to 8, not {policy.levels}")
    numeric = ("depth", "level_s", "restart_s", "balance", "every_s", "migrate_s")
    limits.check(**{name: getattr(policy, name) for name in numeric})
    if policy.order == "las" and (policy.backfill != "none" or policy.refuse):
        raise ConfigError("las preempts instead of backfilling or refusing; take backfill none and refuse off")


def kinds_of(jobs: Jobs) -> NDArray[Any]:
    """Return the most frequent kinds of jobs and how often they come, (kinds,) of ``state.KIND``."""
    seen = Counter(zip(jobs.gpus.tolist(), jobs.milli.tolist(), jobs.cpu.tolist(), jobs.memory.tolist(), strict=True))
    top = [(kind, count) for kind, count in seen.most_common(4 * KINDS) if kind[0] > 0][:KINDS]
    total = sum(count for _, count in top) or 1
    return np.array([(count / total, *kind) for kind, count in top], state.KIND)


def systems(loads: Sequence[Jobs], nodes: Nodes, policy: Policy, log: int = 0) -> state.Systems:
    """Return clusters that have not begun, one for each list of jobs; the lists are equally long."""
    check(policy)
    rows = np.zeros((len(loads), len(loads[0])), state.JOB)
    for row, jobs in zip(rows, loads, strict=True):
        for name in ("submit_s", "run_s", "estimate_s", "gpus", "milli", "cpu", "user"):
            row[name] = getattr(jobs, name)
        row["memory_mib"] = jobs.memory
    rows["left_s"] = rows["run_s"]
    looks = float((rows["submit_s"] + rows["run_s"]).max()) / policy.every_s if policy.every_s else 0.0
    if looks > MOST_LOOKS:
        raise ConfigError(
            f"every_s {policy.every_s:g} would look {looks:.3g} times at the balance; take a longer one, for at most"
            f" {MOST_LOOKS:g}"
        )
    kinds = kinds_of(loads[0]) if policy.placement == "fragmentation" else np.zeros(0, state.KIND)
    batch = state.Systems(rows, nodes.cpu, nodes.memory, nodes.gpus, kinds, log)
    batch._set(
        order=ORDERS.index(policy.order), backfill=BACKFILLS.index(policy.backfill),
        placement=PLACEMENTS.index(policy.placement), depth=policy.depth, level_count=policy.levels,
        level_s=policy.level_s, restart_s=policy.restart_s, migrate_s=policy.migrate_s, balance=policy.balance,
        refuse=policy.refuse, every_s=policy.every_s if len(nodes.cpu) > 1 and policy.balance > 0 else 0.0,
        next_balance_at=policy.every_s, most_milli_cpu=max(nodes.cpu.max(initial=0), 1),
        most_memory_mib=max(nodes.memory.max(initial=0), 1),
    )  # fmt: skip
    return batch


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
    systems: state.Systems
    seconds: float
    finished: bool


def simulate(
    jobs: Jobs, nodes: Nodes, policy: Policy | None = None, *, log: int = 0, most_waiting: int = MOST_WAITING
) -> Outcome:
    """Run jobs on nodes; see ``systems``."""
    from tunewright.envs.scheduling.cluster import kernel

    chosen = policy or Policy()
    batch = systems([jobs], nodes, chosen, log)
    start = time.perf_counter()
    finished = bool(kernel.run(batch.address, 0, most_waiting))
    return Outcome(jobs, nodes, chosen, batch, time.perf_counter() - start, finished)


def metrics(outcome: Outcome) -> dict[str, Any]:
    """Return the metrics of an outcome.

    Waiting is until a job first starts. Bounded slowdown is response over run time, with at least ten seconds of the
    latter. Fairness is Jain's index of the users' mean bounded slowdowns. Utilisation is until the last job ends.
    """
    rows, system = outcome.systems.jobs[0], outcome.systems.systems[0]
    done = rows["phase"] == state.DONE
    wait_s, response_s = (
        np.where(done, rows[name], rows["submit_s"]) - rows["submit_s"] for name in ("first_start_at", "done_at")
    )
    slowdown = np.maximum(response_s / np.maximum(rows["run_s"], BOUND_S), 1.0)
    users, number = np.unique(rows["user"][done], return_inverse=True)
    per_user = np.bincount(number, slowdown[done], len(users)) / np.maximum(
        np.bincount(number, minlength=len(users)), 1
    )
    total_milli = float(system["total_milli_gpus"] or system["total_milli_cpus"])
    end_s = float(np.where(done, rows["done_at"], 0.0).max(initial=1e-9))
    return {
        "wait_s": spread(wait_s[done]), "response_s": spread(response_s[done]),
        "bounded_slowdown": spread(slowdown[done]), "fairness": jain(per_user),
        "utilisation": float(system["used_milli_s"]) / (total_milli * end_s),
        "makespan_s": end_s, "preemptions": int(system["preemptions"]), "migrations": int(system["migrations"]),
    }  # fmt: skip


def stability(outcome: Outcome) -> tuple[bool, str]:
    """Say whether the cluster keeps up with its jobs."""
    if not outcome.finished:
        waiting = int(outcome.systems.systems[0]["waiting_count"])
        return False, f"given up with {waiting:,} jobs waiting: more work comes than the cluster does"
    rows, nodes = outcome.systems.jobs[0], outcome.nodes
    done = rows["phase"] == state.DONE
    if not done.any():
        return True, ""
    last_s = float(rows["submit_s"][-1])
    demand, total = outcome.jobs.demand(), float(nodes.gpus.sum() or nodes.cpu.sum() / state.WHOLE)
    longest_s = float(rows["run_s"][done].max())
    drain_s = float(rows["first_start_at"][done].max()) - last_s
    if done.sum() // 2 >= 50 and demand > total and drain_s > 0.1 * last_s and drain_s > 0.2 * longest_s:
        return False, (
            f"unstable: the jobs would keep {demand:,.1f} of {total:,.0f}"
            f" {'GPUs' if outcome.jobs.uses_gpus else 'CPUs'} busy; the last of them started"
            f" {drain_s:,.0f} s after the last submission"
        )
    return True, ""
