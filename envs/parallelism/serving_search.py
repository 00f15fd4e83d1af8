"""All serving plans of a service at once, the best of them, and the plans of common rules beside."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.parallelism.clusters import presets
from tunewright.envs.parallelism.serving import (
    RESERVED_GB,
    Engines,
    Load,
    Part,
    ServePlan,
    Service,
    engines,
    precisions,
)
from tunewright.envs.parallelism.serving_load import (
    RESULTS,
    aggregated,
    cache_share,
    first_token_open_s,
    handover_s,
    steady,
)
from tunewright.envs.parallelism.steptime import prefill_s
from tunewright.envs.parallelism.training import Floats

MAX_BATCHES = (8, 16, 32, 64, 128, 256, 512)
CHUNKS = (2048, 8192)
COLUMNS = ("count", "tp", "pp", "ranks", "p_count", "p_tp", "p_pp", "p_ranks", "max_batch", "max_tokens")
Indices = NDArray[np.int64]


@dataclass
class Served:
    """All plans of a search.

    Attributes:
        precision: of each plan.
        plans: shape (n, 10), the columns of ``COLUMNS``.
        values: shape (n, 6), the columns of ``RESULTS``.
        seconds: of the search.
        counted: plans estimated, of which those that do not fit into memory are ``oom``.
    """

    precision: NDArray[Any]
    plans: Floats
    values: Floats
    seconds: float
    counted: int
    oom: int
    kv_share: float = 0.9

    def plan(self, number: int) -> ServePlan:
        """Return a plan."""
        of = dict(zip(COLUMNS, (int(v) for v in self.plans[number]), strict=True))
        prefill = Part(count=of["p_count"], tp=of["p_tp"], pp=of["p_pp"], ranks=of["p_ranks"])
        return ServePlan(
            engines=Part(count=of["count"], tp=of["tp"], pp=of["pp"], ranks=of["ranks"]),
            prefill=prefill if of["p_count"] else None,
            precision=str(self.precision[number]),
            max_batch=of["max_batch"],
            max_tokens=of["max_tokens"],
            kv_share=self.kv_share,
        )


def search(
    service: Service,
    load: Load,
    *,
    wanted: Sequence[str] = ("bf16", "fp8"),
    disaggregated: bool = True,
    kv_share: float = 0.9,
    batches: Sequence[int] = MAX_BATCHES,
    chunks: Sequence[int] = CHUNKS,
) -> Served:
    """Estimate all serving plans that the cluster has room for.

    Raises:
        ConfigError: the nodes have none of the precisions.
    """
    start = time.perf_counter()
    kinds, plans, values, oom = [], [], [], 0
    for precision in precisions(service, wanted):
        pool = engines(service, precision, kv_share)
        fits = np.flatnonzero(pool.tokens >= load.isl + load.osl)
        oom += len(pool.tp) - len(fits)
        for estimated in (_aggregated, _disaggregated) if disaggregated else (_aggregated,):
            rows, results = estimated(service, pool, fits, load, batches, chunks)
            if len(rows):
                plans.append(rows)
                values.append(results)
                kinds.append(np.repeat(precision, len(rows)))
    counted = sum(map(len, plans)) + oom
    empty = np.empty((0, 0))
    return Served(
        np.concatenate(kinds) if kinds else np.array([]),
        np.vstack(plans) if plans else empty,
        np.vstack(values) if values else empty,
        time.perf_counter() - start,
        counted,
        oom,
        kv_share,
    )


def _nothing() -> tuple[Floats, Floats]:
    return np.empty((0, len(COLUMNS))), np.empty((0, len(RESULTS)))


def _aggregated(
    service: Service, pool: Engines, fits: Indices, load: Load, batches: Sequence[int], chunks: Sequence[int]
) -> tuple[Floats, Floats]:
    """Rows of ``COLUMNS`` and ``RESULTS`` of the plans whose engines prefill and decode."""
    counts = [_counts(int(service.nodes.gpus // pool.gpus[k])) for k in fits]
    if not counts:
        return _nothing()
    index, count = np.repeat(fits, [len(c) for c in counts]), np.concatenate(counts).astype(float)
    index, count, max_batch, max_tokens = _with_limits(index, count, batches, chunks)
    each = pool.take(index)
    none = np.zeros_like(count)
    rows = np.column_stack([count, each.tp, each.pp, each.ranks, none, none, none, none, max_batch, max_tokens])
    return rows, aggregated(service, load, each, count, max_batch, max_tokens)


def _counts(most: int) -> Indices:
    """Numbers of engines to look at: all of them, or at most 512 in even ratios."""
    if most <= 512:
        return np.arange(1, most + 1)
    return np.unique(np.geomspace(1, most, 512).round().astype(np.int64))


def _with_limits(
    index: Indices, count: Floats, batches: Sequence[int], chunks: Sequence[int]
) -> tuple[Indices, Floats, Floats, Floats]:
    """Engines and their numbers with each batch limit and each length of a prompt's parts."""
    limits = np.array([(batch, tokens) for batch in batches for tokens in chunks], dtype=float)
    times = len(index)
    return (
        np.repeat(index, len(limits)),
        np.repeat(count, len(limits)),
        np.tile(limits[:, 0], times),
        np.tile(limits[:, 1], times),
    )


def _disaggregated(
    service: Service, pool: Engines, fits: Indices, load: Load, batches: Sequence[int], chunks: Sequence[int]
) -> tuple[Floats, Floats]:
    """The same for plans with workers for each: for each pair of engines the fewest that carry the load, to twice."""
    gpus = service.nodes.gpus
    if gpus < 2 or not len(fits):
        return _nothing()
    alone_s = prefill_s(pool.engine, load.isl)
    # prefill workers: few enough GPUs, busy below 95 %
    least = np.ceil(load.rate * alone_s / pool.pp / 0.95)
    prefills = [
        (k, workers)
        for k in fits
        for workers in {int(least[k]), int(np.ceil(least[k] * 1.25)), int(np.ceil(least[k] * 2))}
        if workers >= 1 and workers * pool.gpus[k] < gpus
    ]
    decodes = [(k, workers) for k in fits for workers in _counts(int((gpus - 1) // pool.gpus[k]))]
    if not prefills or not decodes:
        return _nothing()
    prefill, prefill_workers = np.array([k for k, _ in prefills]), np.array([float(w) for _, w in prefills])
    decode, workers = np.array([k for k, _ in decodes]), np.array([float(w) for _, w in decodes])
    decode, workers, max_batch, max_tokens = _with_limits(decode, workers, batches, chunks[-1:])
    batch, tpot, use = steady(service, load, pool.take(decode), workers, max_batch, apart=True)

    chosen = np.flatnonzero((use <= 1.0) & (tpot <= load.tpot_s * 1.5))
    # more than twice the fewest workers only cost more
    fewest = np.full(len(pool.tp), np.inf)
    np.minimum.at(fewest, decode[chosen], workers[chosen])
    chosen = chosen[workers[chosen] <= 2.0 * fewest[decode[chosen]] + 1.0]
    # of decode pools with the same engine and number only those that no smaller batch limit equals
    _, first = np.unique(np.column_stack([decode, workers])[chosen], axis=0, return_index=True)
    chosen = chosen[first]

    d, p = (v.ravel() for v in np.meshgrid(chosen, np.arange(len(prefill)), indexing="ij"))
    needed = workers[d] * pool.gpus[decode[d]] + prefill_workers[p] * pool.gpus[prefill[p]]
    room = needed <= gpus
    d, p, needed = d[room], p[room], needed[room]
    decoder, prefiller = decode[d], prefill[p]
    busy = load.rate * alone_s[prefiller] / pool.pp[prefiller] / prefill_workers[p]
    ttft = first_token_open_s(service, alone_s[prefiller], tpot[d], busy, np.ceil(load.isl / max_tokens[d]))
    ttft = ttft + handover_s(service, load, pool.engine.cache_bytes[prefiller])
    rows = [workers[d], *(degree[decoder] for degree in (pool.tp, pool.pp, pool.ranks))]
    rows += [prefill_workers[p], *(degree[prefiller] for degree in (pool.tp, pool.pp, pool.ranks))]
    filled = cache_share(load, batch[d], pool.tokens[decoder])
    values = [ttft, tpot[d], np.maximum(use[d], busy), batch[d], needed, filled]
    return np.column_stack([*rows, max_batch[d], max_tokens[d]]), np.column_stack(values)


def rank(served: Served, load: Load) -> NDArray[Any]:
    """Return indices of plans, the best first: those that meet the limits, by GPUs, then by how far they stay below."""
    of = dict(zip(RESULTS, served.values.T, strict=True))
    parts = [of[n] / limit for n, limit in (("ttft_s", load.ttft_s), ("tpot_s", load.tpot_s)) if math.isfinite(limit)]
    over = np.maximum.reduce([np.ones(len(served.values)), *parts])
    late = np.where(of["use"] <= 1.0, over, 1e6 * of["use"])
    calm = of["tpot_s"] + 0.05 * of["ttft_s"]
    return np.lexsort((served.plans[:, COLUMNS.index("max_batch")], calm, of["gpus"], late))


# -- what people do by rule, and what is missing where nothing fits ---------------------------------


def baselines(service: Service, load: Load, precision: str) -> dict[str, ServePlan | None]:
    """Return the plans of common rules; None where one does not fit into memory.

    - ``tensor``: the smallest tensor-parallel degree that fits, times as many replicas as there is room for.
    - ``defaults``: what an engine does when nothing is set: one GPU a replica.
    - ``apex``: tensor parallelism over a node, pipeline stages over nodes if the model needs them, replicas for the
      rest (the heuristic plan that APEX compares with).
    """
    nodes = service.nodes
    pool = engines(service, precision, 0.9)
    fits = pool.tokens >= load.isl + load.osl

    def first_that_fits(order: Sequence[int]) -> ServePlan | None:
        for k in order:
            if fits[k] and pool.ranks[k] == 1:
                part = Part(count=int(nodes.gpus // pool.gpus[k]), tp=int(pool.tp[k]), pp=int(pool.pp[k]))
                return ServePlan(engines=part, precision=precision)
        return None

    plain = [k for k in range(len(pool.tp)) if pool.pp[k] == 1]
    by_node = np.lexsort((pool.pp, -np.minimum(pool.tp, nodes.per_node)))
    return {
        "tensor": first_that_fits(plain),
        "defaults": first_that_fits([k for k in plain if pool.tp[k] == 1]),
        "apex": first_that_fits([k for k in by_node if pool.tp[k] <= nodes.per_node]),
    }


def shortage(service: Service, load: Load, wanted: Sequence[str]) -> str:
    """Say how much memory is short where no engine fits, and what would help."""
    nodes = service.nodes
    leanest: list[tuple[float, str, int]] = []
    for precision in precisions(service, wanted):
        pool = engines(service, precision, 0.9)
        cache = (load.isl + load.osl) * pool.engine.cache_bytes / pool.pp / pool.ranks
        need = pool.engine.bytes_per_gpu / pool.pp + cache
        k = int(need.argmin())
        leanest.append((float(need[k]) / 1e9, precision, int(pool.gpus[k])))
    needs_gb, precision, gpus = min(leanest, key=lambda one: one[0])
    has_gb = nodes.memory_gb * 0.9 - RESERVED_GB
    larger = [
        f"{kind} ({preset['memory_gb']:.0f} GB)"
        for kind, preset in presets().items()
        if preset["memory_gb"] * 0.9 - RESERVED_GB >= needs_gb
    ]
    hints = [f"GPUs with more memory: {', '.join(larger)}"] if larger else []
    fewer_bits = "weights of fewer bits (--precision fp8 or fp4)" if precision == "bf16" else "a smaller model"
    return (
        f"{service.model.name} does not fit on {nodes.gpus} {nodes.gpu}: the leanest engine ({gpus} GPUs, {precision})"
        f" needs {needs_gb:.1f} GB a GPU for weights and one request, {needs_gb - has_gb:.1f} GB more than the"
        f" {has_gb:.1f} GB that are free. It would fit with"
        f" {' or '.join([*hints, f'{nodes.gpus * 2} or more GPUs', fewer_bits])}."
    )
