"""Finds the best training plan of all legal ones, with baselines, a Pareto front and what bounds it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.parallelism import clusters, plans
from tunewright.envs.parallelism.estimate import COLUMNS, RESULTS, estimate
from tunewright.envs.parallelism.training import OVERLAP, PRECISION, Floats, Job
from tunewright.errors import ConfigError

TIME, MEMORY = RESULTS.index("time_s"), RESULTS.index("memory_gb")
PARTS = ("compute", "tensor", "expert", "context", "overhead", "bubble", "pipeline", "data", "optimizer")
MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "reserved")
KEPT = 64  # best plans that are kept while searching


class TooManyPlansError(ConfigError):
    """There are more legal plans than are enumerated."""


@dataclass
class Found:
    """What a search gave.

    Attributes:
        best: rows of the best plans by time, shape (k, 13), and ``values`` their results, shape (k, 17).
        pareto: rows and results of the plans that no other one beats in both time and memory.
        smallest: row and result of the plan that needs least memory, whether it fits or not.
        counted: legal plans; ``feasible`` of them fit into memory.
        seconds: of the search, compiling apart.
    """

    best: Floats = field(default_factory=lambda: np.empty((0, len(COLUMNS))))
    values: Floats = field(default_factory=lambda: np.empty((0, len(RESULTS))))
    pareto: Floats = field(default_factory=lambda: np.empty((0, len(COLUMNS))))
    pareto_values: Floats = field(default_factory=lambda: np.empty((0, len(RESULTS))))
    smallest: tuple[Floats, Floats] | None = None
    counted: int = 0
    feasible: int = 0
    seconds: float = 0.0


def search(job: Job, choices: plans.Choices | None = None) -> Found:
    """Estimate all legal plans.

    Args:
        job: what is trained where.
        choices: what to choose from.

    Raises:
        ConfigError: there is no legal plan.
        TooManyPlansError: there are more than ``plans.LIMIT``.
    """
    numbers = job.numbers
    estimate(numbers, plans.Plan().row[None])  # compiles
    start = time.perf_counter()
    found, buffer = Found(), np.empty((0, len(RESULTS)))
    for rows in plans.enumerate_plans(job, choices):
        if len(buffer) < len(rows):
            buffer = np.empty((len(rows), len(RESULTS)))
        out = estimate(numbers, rows, buffer[: len(rows)])
        if found.counted + len(rows) > plans.LIMIT:
            raise TooManyPlansError(
                f"more than {plans.LIMIT:,} legal plans; fix a part of the plan, or let a tuner search"
            )
        collect(found, rows, out, job)
    found.seconds = time.perf_counter() - start
    if not found.counted:
        raise ConfigError(_nothing_legal(job, choices))
    return found


def collect(found: Found, rows: Floats, out: Floats, job: Job) -> None:
    """Count estimated plans, shapes (n, 13) and (n, 17), and keep the best of them."""
    found.counted += len(rows)
    least = int(out[:, MEMORY].argmin())
    if found.smallest is None or out[least, MEMORY] < found.smallest[1][MEMORY]:
        found.smallest = rows[least].copy(), out[least].copy()
    fits = out[:, MEMORY] <= job.nodes.memory_gb
    found.feasible += int(fits.sum())
    if fits.any():
        _merge(found, rows[fits], out[fits])


def _merge(found: Found, rows: Floats, values: Floats) -> None:
    best = np.argpartition(values[:, TIME], min(KEPT, len(rows) - 1))[:KEPT]
    all_rows, all_values = np.vstack([found.best, rows[best]]), np.vstack([found.values, values[best]])
    # of plans that take equally long, the one that needs less memory
    order = np.lexsort((all_values[:, MEMORY], all_values[:, TIME]))[:KEPT]
    found.best, found.values = all_rows[order], all_values[order]
    front = pareto(values)
    all_rows, all_values = np.vstack([found.pareto, rows[front]]), np.vstack([found.pareto_values, values[front]])
    front = pareto(all_values)
    found.pareto, found.pareto_values = all_rows[front], all_values[front]


def pareto(values: Floats) -> NDArray[np.intp]:
    """Return the indices of results that no other beats in both time and memory, the fastest first."""
    order = np.lexsort((values[:, MEMORY], values[:, TIME]))
    memory = values[order, MEMORY]
    lowest = np.minimum.accumulate(memory)
    first = np.r_[True, memory[1:] < lowest[:-1]]
    return order[first]


def _nothing_legal(job: Job, choices: plans.Choices | None) -> str:
    model, gpus = job.model, job.nodes.gpus
    text = f"no legal plan splits {model.name} over {gpus} GPUs with a global batch of {job.global_batch}"
    if choices and choices.fixed:
        return f"{text} when {', '.join(f'{name} = {value}' for name, value in choices.fixed.items())}; fix less"
    degrees = [t for t in plans.divisors(gpus) if model.heads % t == 0]
    return (
        f"{text}: tp must divide {model.heads} heads and the GPUs ({', '.join(map(str, degrees[:8]))}), pp must be at"
        f" most {model.layers}, and dp, which is what is left, must divide the batch; try another number of GPUs or a"
        " batch that is a multiple of more of them"
    )


def describe(job: Job, row: Floats, values: Floats) -> dict[str, Any]:
    """Return a plan with what it costs, as ``tunewright plan train --json`` prints it."""
    plan, nodes = plans.from_row(row), job.nodes
    cost = dict(zip(RESULTS, map(float, values), strict=True))
    time_s, tokens = cost["time_s"], job.seq * job.global_batch
    mfu = job.model_flops / time_s / nodes.gpus / (nodes.bf16_tflops * 1e12)
    memory = {part: cost[f"{part}_gb"] * 1e9 / 2**30 for part in MEMORY_PARTS}
    return {
        "plan": {name: getattr(plan, name) for name in COLUMNS},
        "short": plan.short,
        "time_s": time_s,
        "tokens_per_s_per_gpu": tokens / time_s / nodes.gpus,
        "mfu": mfu,
        "hfu": mfu * hardware_share(job, plan),
        "memory_gib": memory | {"total": cost["memory_gb"] * 1e9 / 2**30},
        "fits": cost["memory_gb"] <= nodes.memory_gb,
        "parts_s": {part: cost[f"{part}_s"] for part in PARTS},
        "cost": {
            "dollars_per_iteration": time_s / 3600 * nodes.gpus * nodes.dollars_hour,
            "dollars_per_million_tokens": time_s / 3600 * nodes.gpus * nodes.dollars_hour / tokens * 1e6,
            "joules_per_token": time_s * nodes.gpus * nodes.watts / tokens,
        },
    }


def hardware_share(job: Job, plan: plans.Plan) -> float:
    """Operations that the hardware executes over those that the model needs (HFU over MFU)."""
    weights, head = job.used_weights, job.model.embedding_params
    scores = job.model_flops / (6.0 * job.seq * job.global_batch) - weights
    again = {"none": 0.0, "selective": scores, "full": weights - head + scores}[plan.recompute]
    return 1.0 + again / (3.0 * (weights + scores))


# -- what people do by rule -------------------------------------------------------------------------


def baselines(job: Job) -> dict[str, tuple[Floats, Floats] | None]:
    """Return the plans of common rules with what they cost; None where a rule gives nothing that fits.

    - ``megatron``: tensor parallelism as little as fits, at most within a node, then pipeline stages as few as fit,
      ZeRO-1,
      interleaved as far as possible, recomputation only if nothing fits without (Narayanan et al. 2021, section 3).
    - ``zero3``: data parallelism alone with ZeRO-3, the largest micro-batch that fits.
    - ``tensor``: the smallest tensor-parallel degree that fits, times replicas.
    - ``defaults``: what an engine does when nothing is set: data parallelism alone, ZeRO-1, micro-batch 1.
    """
    return {
        "megatron": _megatron(job), "zero3": _zero3(job), "tensor": _tensor(job),
        "defaults": _first_fit(job, [plans.Plan(dp=job.nodes.gpus, zero=1 if job.nodes.gpus > 1 else 0)]),
    }  # fmt: skip


def _first_fit(job: Job, candidates: Sequence[plans.Plan]) -> tuple[Floats, Floats] | None:
    legal = [plan for plan in candidates if not plans.problems(plan, job)]
    if not legal:
        return None
    rows = np.array([plan.row for plan in legal])
    results = estimate(job.numbers, rows)
    fits = np.flatnonzero(results[:, MEMORY] <= job.nodes.memory_gb)
    return (rows[fits[0]], results[fits[0]]) if len(fits) else None


def _recomputes(job: Job) -> tuple[str, ...]:
    return ("none", "full") if job.calibration.fused else ("none", "selective", "full")


def _megatron(job: Job) -> tuple[Floats, Floats] | None:
    gpus, per_node = job.nodes.gpus, job.nodes.per_node
    expert_degrees = [e for e in plans.divisors(job.model.experts) if e <= per_node] if job.model.experts else []
    candidates = []
    for size in plans.divisors(gpus):  # fewest GPUs for a replica first, so most data parallelism
        tp = max(t for t in plans.divisors(size) if t <= per_node)
        for recompute, cp in itertools.product(_recomputes(job), plans.contexts(job)):
            if (gpus // size) % cp:
                continue
            dp = gpus // size // cp
            plan = plans.Plan(
                tp=tp,
                pp=size // tp,
                dp=dp,
                cp=cp,
                ep=max((e for e in expert_degrees if (dp * cp) % e == 0), default=1),
                recompute=recompute,
                zero=1 if dp * cp > 1 else 0,
                sequence_parallel=tp > 1,
            )
            candidates += [replace(plan, chunks=chunks) for chunks in range(plans.MOST_CHUNKS, 0, -1)]
    return _first_fit(job, candidates)


def _micro_batches(job: Job) -> list[int]:
    return [size for size in plans.divisors(job.global_batch) if size <= plans.MOST_MICRO][::-1]


def _zero3(job: Job) -> tuple[Floats, Floats] | None:
    gpus = job.nodes.gpus
    degrees = [cp for cp in plans.contexts(job) if gpus % cp == 0]
    return _first_fit(job, [
        plans.Plan(dp=gpus // cp, cp=cp, zero=3, micro_batch=size, recompute=recompute)
        for cp, recompute, size in itertools.product(degrees, _recomputes(job), _micro_batches(job))
    ])  # fmt: skip


def _tensor(job: Job) -> tuple[Floats, Floats] | None:
    gpus = job.nodes.gpus
    candidates = []
    for tp, recompute, size in itertools.product(plans.divisors(gpus), _recomputes(job), _micro_batches(job)):
        plan = plans.Plan(tp=tp, dp=gpus // tp, micro_batch=size, recompute=recompute, sequence_parallel=tp > 1)
        candidates.append(replace(plan, zero=1 if gpus > tp else 0))
    return _first_fit(job, candidates)


# -- what bounds a plan -----------------------------------------------------------------------------


def neighbours(job: Job, plan: plans.Plan) -> list[tuple[str, plans.Plan]]:
    """Return the legal plans that differ in one choice, each with what was changed, in words.

    Degrees trade a factor of two with another one, so that the number of GPUs stays.
    """
    changes: list[tuple[str, plans.Plan]] = []
    for up, down in itertools.permutations(("tp", "pp", "cp", "dp"), 2):
        more, less = getattr(plan, up), getattr(plan, down)
        if less % 2 == 0:
            other = replace(plan, **{up: more * 2, down: less // 2})
            other = replace(other, sequence_parallel=plan.sequence_parallel and other.tp > 1)
            if other.pp == 1:
                other = replace(other, chunks=1)
            changes.append((f"{up} {more} → {more * 2}, {down} {less} → {less // 2}", other))
    options: list[tuple[str, Sequence[Any]]] = [
        *((name, (getattr(plan, name) * 2, getattr(plan, name) // 2)) for name in ("micro_batch", "chunks", "ep")),
        ("zero", range(4)),
        ("recompute", _recomputes(job)),
        ("overlap", OVERLAP),
        ("precision", PRECISION),
        *((name, (not getattr(plan, name),)) for name in ("sequence_parallel", "offload")),
    ]
    for name, values in options:
        now = getattr(plan, name)
        for value in values:
            if value != now:
                words = [{True: "on", False: "off"}[v] if isinstance(v, bool) else v for v in (now, value)]
                changes.append((f"{name} {words[0]} → {words[1]}", replace(plan, **{name: value})))
    return [(what, other) for what, other in changes if not plans.problems(other, job)]


def explain(job: Job, row: Floats, values: Floats) -> dict[str, Any]:
    """Say what a plan's time goes to, and what changes when one choice does."""
    cost = dict(zip(RESULTS, map(float, values), strict=True))
    shares = sorted(((part, cost[f"{part}_s"] / cost["time_s"]) for part in PARTS), key=lambda share: -share[1])
    near = neighbours(job, plans.from_row(row))
    changes = []
    if near:
        results = estimate(job.numbers, np.array([plan.row for _, plan in near]))
        for (what, _), other in zip(near, results, strict=True):
            changes.append({
                "change": what,
                "time_ratio": float(other[TIME] / values[TIME]),
                "memory_gib": float(other[MEMORY]) * 1e9 / 2**30,
                "fits": bool(other[MEMORY] <= job.nodes.memory_gb),
            })  # fmt: skip
    changes.sort(key=lambda change: (not change["fits"], change["time_ratio"]))
    return {"bound_by": shares[0][0], "shares": dict(shares), "changes": changes}


def shortage(job: Job, found: Found) -> str:
    """Say how much memory is short where nothing fits, and what would help."""
    assert found.smallest is not None
    row, values = found.smallest
    needs, has = float(values[MEMORY]), job.nodes.memory_gb
    larger = [
        f"{kind} ({preset['memory_gb']:.0f} GB)"
        for kind, preset in clusters.presets().items()
        if preset["memory_gb"] >= needs
    ]
    hints = []
    for factor in (2, 4, 8, 16, 32, 64):
        more = replace(job, nodes=replace(job.nodes, gpus=job.nodes.gpus * factor))
        try:
            if search(more).feasible:
                hints.append(f"{more.nodes.gpus} such GPUs")
                break
        except ConfigError:
            continue
    if larger:
        hints.append(f"GPUs with more memory: {', '.join(larger)}")
    if job.seq > 4096:
        hints.append("shorter sequences")
    return (
        f"{job.model.name} does not fit on {job.nodes.gpus} {job.nodes.gpu}: the leanest of {found.counted:,}"
        f" legal plans ({plans.from_row(row).short}) needs {needs:.1f} GB a GPU, {needs - has:.1f} GB more than the"
        f" {has:.0f} GB it has. It would fit with {' or '.join(hints) or 'a smaller model'}."
    )
