"""What is told beside the best plan: others to compare it with, what may go wrong, smaller clusters."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from tunewright.envs.parallelism import clusters, models, plans, scenario, search, serving, serving_load
from tunewright.envs.parallelism.jobs import job_of
from tunewright.envs.parallelism.training import Job
from tunewright.errors import ConfigError

TRIED_SIZES = (1, 2, 4, 8)  # parts of the cluster that --fewer tries


def mixed(model: str, cluster: clusters.Cluster, global_batch: int, seq: int, calibration: str) -> dict[str, Any]:
    """Plan for several kinds of nodes: pipelines across kinds, data parallelism inside each, layers by speed."""
    jobs = [
        job_of(model, f"{g.kind}:{g.gpus}", global_batch=global_batch, seq=seq, calibration=calibration)[0]
        for g in cluster.groups
    ]
    jobs = [replace(j, nodes=g) for j, g in zip(jobs, cluster.groups, strict=True)]
    found = scenario.plan_mixed(cluster, jobs)
    parts = [
        {"kind": g.kind, "gpus": g.gpus, "stages": s, "layers": n, "plan": p.short}
        for g, s, n, p in zip(cluster.groups, found.stages, found.layers, found.plans, strict=True)
    ]
    return {
        "model": model, "cluster": cluster.name, "gpus": cluster.gpus, "mixed": parts, "time_s": found.time_s,
        "tokens_per_s_per_gpu": seq * global_batch / found.time_s / cluster.gpus, "layers_evenly_s": found.even_s,
        "slow_link_inside_groups_s": found.naive_s,
    }  # fmt: skip


def runners(job: Job, found: search.Found, most: int) -> list[dict[str, Any]]:
    """The next best plans that differ in a degree, not in a flag alone."""
    seen = {tuple(found.best[0][:5])}
    made: list[dict[str, Any]] = []
    for row, values in zip(found.best[1:], found.values[1:], strict=True):
        if tuple(row[:5]) not in seen and len(made) < most:
            seen.add(tuple(row[:5]))
            made.append(
                search.describe(job, row, values) | {"ratio": float(values[search.TIME] / found.values[0, search.TIME])}
            )
    return made


def baselines(job: Job, best_s: float) -> dict[str, Any]:
    """The plans of common rules; None for one that does not fit."""
    return {
        name: None if got is None else search.describe(job, *got) | {"ratio": float(got[1][search.TIME]) / best_s}
        for name, got in search.baselines(job).items()
    }


def scenarios(job: Job, found: search.Found) -> dict[str, Any]:
    """What the best plan meets beside full sequences and nodes that never fail."""
    plan, time_s = plans.from_row(found.best[0]), float(found.values[0, search.TIME])
    lengths = scenario.lengths_of(job)
    ranks = min(plan.dp, len(lengths))
    batching = {how: scenario.batching_factor(lengths, job, ranks, how) for how in scenario.BATCHING}
    failures, nodes = scenario.Failures(), max(job.nodes.gpus // job.nodes.per_node, 1)
    interval = scenario.best_interval_s(failures, nodes)
    smaller = scenario.without_a_rank(job, plan)
    return {
        "unequal_lengths": {
            "what": f"{len(lengths):,} drawn lengths, median {int(np.median(lengths)):,} of {job.seq:,} tokens",
            "time_over_divisible_work": batching,
        },
        "failures": {
            "what": f"a node fails every {failures.node_hours:,.0f} h, {nodes} nodes",
            "best_checkpoint_minutes": interval / 60.0,
            "useful_share": scenario.useful_share(interval, failures, nodes),
            "time_over_no_failures": {
                how: finite(scenario.with_failures(job, time_s, smaller, failures, interval, how) / time_s)
                for how in ("wait", "shrink", "spare")
            },
        },
    }


def sizes(job: Job, choices: plans.Choices) -> list[dict[str, Any]]:
    """The best plan on parts of the cluster: time against money."""
    made = []
    for part in TRIED_SIZES:
        if job.nodes.gpus % part:
            continue
        smaller = replace(job, nodes=replace(job.nodes, gpus=job.nodes.gpus // part))
        try:
            found = search.search(smaller, choices)
        except ConfigError:
            continue
        if found.feasible:
            made.append({"gpus": smaller.nodes.gpus, **search.describe(smaller, found.best[0], found.values[0])})
    return made


def finite(value: float) -> float | None:
    """A number as JSON has it: None for one that is not finite."""
    return value if math.isfinite(value) else None


def left_out(model: models.Model) -> dict[str, Any]:
    """What of a model is not counted, if anything."""
    return {"left_out": list(model.left_out)} if model.left_out else {}


def verdict(service: serving.Service, load: serving.Load, best: dict[str, Any]) -> str:
    """Say whether the best serving plan carries the load within the limits."""
    if best["meets"]:
        return f"{best['gpus']} of {service.nodes.gpus} GPUs carry {load.rate:g} requests a second within the limits"
    if not best["stable"]:
        return (
            f"no plan on {service.nodes.gpus} {service.nodes.gpu} carries {load.rate:g} requests a second: the"
            f" best one would"
            f" need {best['use']:.2f} times as much; more GPUs, fewer requests, or weights of fewer bits"
        )
    return "no plan meets the limits at this load; the one that misses them least is shown"


def other_plans(
    service: serving.Service, load: serving.Load, found: Any, order: Any, most: int
) -> list[dict[str, Any]]:
    """The next best serving plans that differ in a degree, not in a limit alone."""
    seen = {tuple(found.plans[order[0], :8])}
    made: list[dict[str, Any]] = []
    for k in order[1:2000]:
        key = tuple(found.plans[k, :8])
        if key not in seen and len(made) < most:
            seen.add(key)
            made.append(serving_load.describe(service, load, found.plan(int(k)), found.values[k]))
    return made
