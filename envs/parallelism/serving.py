"""Serving plans: what each gives at a load, and all of them at once.

An aggregated plan runs replicas that prefill and decode; a disaggregated one has workers for each. At a rate of
requests
the steady batch follows from Little's law, the wait for a prefill from an M/D/1 queue; a plan that cannot carry the
load
says so. Step times are those of ``steptime``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.parallelism.clusters import Nodes, presets
from tunewright.envs.parallelism.models import Model
from tunewright.envs.parallelism.plans import divisors, near
from tunewright.envs.parallelism.steptime import (
    Engine,
    Stack,
    cache_bytes_of,
    corrected,
    decode_s,
    engine,
    precision_of,
    prefill_s,
    shape_of,
    stack_of,
    step_factors,
    tpot_s,
)
from tunewright.envs.parallelism.training import Floats
from tunewright.errors import ConfigError


def unknown_batch(concurrency: Any, isl: Any, osl: Any, fitted: Mapping[str, float]) -> Any:
    """Sequences of one worker where a table says the concurrency but not the number of workers.

    Args:
        concurrency: requests that run at once.
        isl, osl: tokens of prompt and output; long prompts take workers from decoding, long outputs add some.
        fitted: the constants ``scale``, ``power``, ``isl``, ``osl``.
    """
    lengths = (isl / 1024.0) ** fitted["isl"] * (osl / 1024.0) ** fitted["osl"]
    return np.maximum(concurrency ** fitted["power"] * fitted["scale"] * lengths, 1.0)


def first_token_s(prefill_s: Any, step_s: Any, others: Any, stack: Any) -> Any:
    """Return the mean time to the first token in a closed loop.

    Args:
        prefill_s: time of computing the prompt alone.
        step_s: time of an output token.
        others: requests that run at once, this one included.
        stack: ``Stack``, whose constants say how many steps, and what share of the others' prefills, a request waits
          for.
    """
    wave = prefill_s * np.maximum(others - 1.0, 0.0) * stack.wave * (others / 64.0) ** stack.wave_power
    return stack.first_prefill * prefill_s + stack.first_steps * step_s + stack.first_s + wave


MAX_BATCHES = (8, 16, 32, 64, 128, 256, 512)
CHUNKS = (2048, 8192)
RESERVED_GB = 3.0  # context, activations of a step, graphs; assumed


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is to be served.

    Attributes:
        rate: requests a second.
        isl, osl: mean tokens of prompt and output.
        ttft_s, tpot_s: longest mean times to the first and to each further token.
    """

    rate: float
    isl: int
    osl: int
    ttft_s: float = math.inf
    tpot_s: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Service:
    """A model on a cluster with an engine's software.

    Attributes:
        model: its shape.
        nodes: the GPUs.
        backend: trtllm, sglang or vllm.
    """

    model: Model
    nodes: Nodes
    backend: str = "vllm"

    @property
    def stack(self) -> Stack:
        """Constants of the software."""
        return stack_of(self.backend, self.nodes.kind)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Engines of one kind.

    Attributes:
        count: how many (replicas, or workers of a disaggregated plan).
        tp, pp: tensor-parallel degree and pipeline stages of one.
        ranks: attention ranks (data parallelism of attention inside the engine); experts are spread over all GPUs then.
    """

    count: int = 1
    tp: int = 1
    pp: int = 1
    ranks: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of all of them."""
        return self.count * self.tp * self.ranks * self.pp

    @property
    def short(self) -> str:
        """In a line."""
        words = (
            [f"TP{self.tp}"] * (self.tp > 1)
            + [f"PP{self.pp}"] * (self.pp > 1)
            + [f"attention DP{self.ranks}"] * (self.ranks > 1)
        )
        return f"{self.count} × {' '.join(words) or 'one GPU'}"


@dataclass(frozen=True, kw_only=True)
class ServePlan:
    """One serving plan.

    Attributes:
        engines: replicas, or the workers that decode.
        prefill: workers that prefill; None for an aggregated plan.
        precision: of weights.
        max_batch: sequences of an attention rank at most.
        max_tokens: tokens of a prompt that are computed at once.
        kv_share: of the GPU's memory for weights and cache.
    """

    engines: Part
    prefill: Part | None = None
    precision: str = "bf16"
    max_batch: int = 256
    max_tokens: int = 8192
    kv_share: float = 0.9

    @property
    def gpus(self) -> int:
        """GPUs of the plan."""
        return self.engines.gpus + (self.prefill.gpus if self.prefill else 0)

    @property
    def short(self) -> str:
        """The plan in a line."""
        how = f"{self.engines.short} decode + {self.prefill.short} prefill" if self.prefill else self.engines.short
        return f"{how}, {self.precision}, batch {self.max_batch}, {self.max_tokens} tokens"


def precisions(service: Service, wanted: Sequence[str]) -> list[str]:
    """Return those of the wanted precisions that the nodes have."""
    found = []
    for name in wanted:
        try:
            precision_of(name, service.nodes.kind)
        except ConfigError:
            if len(wanted) == 1:
                raise
            continue
        found.append(name)
    return found


@dataclass
class Engines:
    """Engines of all degrees in one precision, as arrays of the same length."""

    precision: str
    tp: Floats
    pp: Floats
    ranks: Floats
    engine: Engine
    gpus: Floats
    tokens: Floats  # of context that one engine holds, all ranks together


def engines(service: Service, precision: str, kv_share: float) -> Engines:
    """Return engines of all degrees that the cluster has room for."""
    m, n = service.model, service.nodes
    degrees = [t for t in divisors(m.heads) if t <= max(n.per_node, 8) and t <= n.gpus]
    found = []
    for t in degrees:
        for stages in (1, 2, 4, 8):
            if stages <= m.layers and t * stages <= n.gpus:
                found.append((t, stages, 1))
        if m.experts and t > 1:
            found.append((1, 1, t))  # attention data-parallel, experts over all
    tp, pp, ranks = (np.array(c, dtype=float) for c in zip(*found, strict=True))
    size, speed, four = precision_of(precision, n.kind)
    width = tp * ranks
    e = engine(
        shape_of(m),
        n,
        service.stack,
        gpus=width,
        ranks=ranks,
        weight_bytes=size,
        speed=speed,
        cache_bytes=cache_bytes_of(precision),
        four=four,
    )
    e = Engine(*(np.broadcast_to(np.asarray(v, dtype=float), tp.shape) for v in e))
    e = corrected(e, step_factors(service.backend, m.name, n.kind, precision))
    free = n.memory_gb * 1e9 * kv_share - RESERVED_GB * 1e9 - e.bytes_per_gpu / pp
    tokens = np.maximum(free, 0.0) / np.maximum(e.cache_bytes / pp, 1e-9) * ranks
    return Engines(precision, tp, pp, ranks, e, width * pp, tokens)


def _take(e: Engine, index: Any) -> Engine:
    return Engine(*(np.asarray(v)[index] for v in e))


def _steady(
    e: Engine, pp: Floats, rate: Floats, load: Load, most: Floats, alone: bool, hop_s: float
) -> tuple[Floats, Floats, Floats]:
    """Return batch, time of an output token and use (load over what is carried), by bisection on the batch.

    By Little's law the batch is rate * output tokens * time of a token, which itself depends on the batch.
    """

    def token(batch: Floats) -> Any:
        group = batch / pp
        if alone:
            return decode_s(e, group, load.isl + 0.5 * load.osl) + (pp - 1.0) * hop_s
        return tpot_s(e, group, load.isl, load.osl) + (pp - 1.0) * hop_s

    use = np.where(most >= 1.0, rate * load.osl * token(np.maximum(most, 1.0)) / np.maximum(most, 1.0), np.inf)
    low, high = np.zeros_like(rate), np.maximum(most, 1e-9)
    for _ in range(36):
        middle = 0.5 * (low + high)
        more = rate * load.osl * token(middle) > middle
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    batch = np.where(use <= 1.0, high, most)
    return batch, token(np.maximum(batch, 1.0)), use


COLUMNS = ("count", "tp", "pp", "ranks", "p_count", "p_tp", "p_pp", "p_ranks", "max_batch", "max_tokens")
RESULTS = ("ttft_s", "tpot_s", "use", "batch", "gpus", "cache_share")


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

    def plan(self, k: int) -> ServePlan:
        """Return a plan."""
        v = dict(zip(COLUMNS, (int(x) for x in self.plans[k]), strict=True))
        prefill = Part(count=v["p_count"], tp=v["p_tp"], pp=v["p_pp"], ranks=v["p_ranks"]) if v["p_count"] else None
        return ServePlan(
            engines=Part(count=v["count"], tp=v["tp"], pp=v["pp"], ranks=v["ranks"]),
            prefill=prefill,
            precision=str(self.precision[k]),
            max_batch=v["max_batch"],
            max_tokens=v["max_tokens"],
            kv_share=self.kv_share,
        )


def _first(service: Service, prefill: Floats, step: Floats, busy: Floats, chunks: Floats) -> Floats:
    """Time to the first token at a random arrival: waiting in an M/D/1 queue for other prefills, its own, and steps."""
    st = service.stack
    wait = np.where(busy < 1.0, prefill * busy / (2.0 * np.maximum(1.0 - busy, 1e-9)), np.inf)
    return wait + st.first_prefill * prefill + (st.first_steps + chunks - 1.0) * step + st.first_s


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
        found = engines(service, precision, kv_share)
        fits = np.flatnonzero(found.tokens >= load.isl + load.osl)
        oom += len(found.tp) - len(fits)
        for rows, out in (
            _aggregated(service, found, fits, load, batches, chunks),
            _split(service, found, fits, load, batches, chunks) if disaggregated else (None, None),
        ):
            if rows is not None and out is not None and len(rows):
                plans.append(rows)
                values.append(out)
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


def _aggregated(
    service: Service, found: Engines, fits: NDArray[Any], load: Load, batches: Sequence[int], chunks: Sequence[int]
) -> tuple[Floats, Floats]:
    gpus = service.nodes.gpus
    index, count = [], []
    for k in fits:
        numbers = _counts(int(gpus // found.gpus[k]))
        index.append(np.repeat(k, len(numbers)))
        count.append(numbers)
    if not index:
        return np.empty((0, len(COLUMNS))), np.empty((0, len(RESULTS)))
    i, c = np.concatenate(index), np.concatenate(count).astype(float)
    i, c, b, t = _product(i, c, batches, chunks)
    e, pp, ranks = _take(found.engine, i), found.pp[i], found.ranks[i]
    rate = load.rate / c
    most = np.minimum(b * ranks * pp, found.tokens[i] / (load.isl + load.osl))
    batch, tpot, use = _steady(e, pp, rate, load, most, False, service.stack.hop_s)
    prefill = prefill_s(e, load.isl)
    busy = rate * prefill / pp
    step = decode_s(e, np.maximum(batch / pp, 1.0), load.isl + 0.5 * load.osl)
    parts = np.ceil(load.isl / t)
    ttft = np.where(use <= 1.0, _first(service, prefill, step, busy, parts), np.inf)
    zero = np.zeros_like(c)
    rows = np.column_stack([c, found.tp[i], pp, ranks, zero, zero, zero, zero, b, t])
    full = batch * (load.isl + 0.5 * load.osl) / found.tokens[i]
    return rows, np.column_stack([ttft, tpot, use, batch, c * found.gpus[i], full])


def _counts(most: int) -> NDArray[np.int64]:
    """Numbers of engines to look at: all of them, or at most 512 in even ratios."""
    if most <= 512:
        return np.arange(1, most + 1)
    return np.unique(np.geomspace(1, most, 512).round().astype(np.int64))


def _product(
    i: NDArray[Any], c: Floats, batches: Sequence[int], chunks: Sequence[int]
) -> tuple[NDArray[Any], Floats, Floats, Floats]:
    size = len(batches) * len(chunks)
    options = np.array([(b, t) for b in batches for t in chunks], dtype=float)
    return np.repeat(i, size), np.repeat(c, size), np.tile(options[:, 0], len(i)), np.tile(options[:, 1], len(i))


def _split(
    service: Service, found: Engines, fits: NDArray[Any], load: Load, batches: Sequence[int], chunks: Sequence[int]
) -> tuple[Floats | None, Floats | None]:
    """Disaggregated plans: for each pair of engines the fewest workers that carry the load, and up to twice."""
    n = service.nodes
    if n.gpus < 2 or not len(fits):
        return None, None
    e, pp = found.engine, found.pp
    prefill = prefill_s(e, load.isl)
    # prefill workers: few enough GPUs, busy below 95 %
    least = np.ceil(load.rate * prefill / pp / 0.95)
    left = [
        (k, x)
        for k in fits
        for x in {int(least[k]), int(np.ceil(least[k] * 1.25)), int(np.ceil(least[k] * 2))}
        if x >= 1 and x * found.gpus[k] < n.gpus
    ]
    right = [(k, y) for k in fits for y in _counts(int((n.gpus - 1) // found.gpus[k]))]
    if not left or not right:
        return None, None
    j, x = np.array([k for k, _ in left]), np.array([v for _, v in left], dtype=float)
    i: NDArray[Any] = np.array([k for k, _ in right])
    y: NDArray[Any] = np.array([v for _, v in right], dtype=float)
    i, y, b, t = _product(i, y, batches, chunks[-1:])
    rate = load.rate / y
    most = np.minimum(b * found.ranks[i] * pp[i], found.tokens[i] / (load.isl + load.osl))
    batch, tpot, use = _steady(_take(e, i), pp[i], rate, load, most, True, service.stack.hop_s)
    keep = (use <= 1.0) & (tpot <= load.tpot_s * 1.5)
    i, y, b, t, batch, tpot, use = (v[keep] for v in (i, y, b, t, batch, tpot, use))
    # more than twice the fewest workers only cost more
    fewest = np.full(len(e.fixed_s), np.inf)
    np.minimum.at(fewest, i.astype(np.int64), y)
    keep = y <= 2.0 * fewest[i] + 1.0
    i, y, b, t, batch, tpot, use = (v[keep] for v in (i, y, b, t, batch, tpot, use))
    # of decode pools with the same engine and number only those that no smaller batch limit equals
    _, first = np.unique(np.column_stack([i, y]), axis=0, return_index=True)
    i, y, b, t, batch, tpot, use = (v[first] for v in (i, y, b, t, batch, tpot, use))
    pairs_i, pairs_j = (v.ravel() for v in np.meshgrid(np.arange(len(i)), np.arange(len(j)), indexing="ij"))
    room = y[pairs_i] * found.gpus[i[pairs_i]] + x[pairs_j] * found.gpus[j[pairs_j]] <= n.gpus
    a, c = pairs_i[room], pairs_j[room]
    busy = load.rate * prefill[j[c]] / pp[j[c]] / x[c]
    moved = load.isl * e.cache_bytes[j[c]] / (n.fabric_gb_s * 1e9 * 0.8)  # each GPU sends its part of the cache
    ttft = _first(service, prefill[j[c]], tpot[a], busy, np.ceil(load.isl / t[a])) + moved
    rows = np.column_stack(
        [
            y[a],
            found.tp[i[a]],
            pp[i[a]],
            found.ranks[i[a]],
            x[c],
            found.tp[j[c]],
            pp[j[c]],
            found.ranks[j[c]],
            b[a],
            t[a],
        ]
    )
    gpus = y[a] * found.gpus[i[a]] + x[c] * found.gpus[j[c]]
    full = batch[a] * (load.isl + 0.5 * load.osl) / found.tokens[i[a]]
    return rows, np.column_stack([ttft, tpot[a], np.maximum(use[a], busy), batch[a], gpus, full])


def rank(found: Served, load: Load) -> NDArray[Any]:
    """Return indices of plans, the best first: those that meet the limits, by GPUs, then by how far they stay below."""
    v = dict(zip(RESULTS, found.values.T, strict=True))
    parts = [v[n] / limit for n, limit in (("ttft_s", load.ttft_s), ("tpot_s", load.tpot_s)) if math.isfinite(limit)]
    over = np.maximum.reduce([np.ones(len(found.values)), *parts])
    late = np.where(v["use"] <= 1.0, over, 1e6 * v["use"])
    calm = v["tpot_s"] + 0.05 * v["ttft_s"]
    return np.lexsort((found.plans[:, COLUMNS.index("max_batch")], calm, v["gpus"], late))


def meets(values: Floats, load: Load) -> bool:
    """Whether a plan carries the load within the limits."""
    v = dict(zip(RESULTS, values, strict=True))
    return bool(v["use"] <= 1.0 and v["ttft_s"] <= load.ttft_s and v["tpot_s"] <= load.tpot_s)


def describe(service: Service, load: Load, plan: ServePlan, values: Floats) -> dict[str, Any]:
    """Return a plan with what it gives, as ``tunewright plan serve --json`` prints it."""
    v = dict(zip(RESULTS, map(float, values), strict=True))
    n, tokens = service.nodes, load.rate * load.osl
    return {
        "plan": asdict(plan),
        "short": plan.short,
        "meets": meets(values, load),
        "stable": v["use"] <= 1.0,
        "use": v["use"] if math.isfinite(v["use"]) else None,
        "ttft_s": v["ttft_s"] if math.isfinite(v["ttft_s"]) else None,
        "tpot_s": v["tpot_s"],
        "gpus": int(v["gpus"]),
        "tokens_per_s_per_gpu": tokens / v["gpus"],
        "batch": v["batch"],
        "kv_use": v["cache_share"],
        "cost": {
            "dollars_per_hour": v["gpus"] * n.dollars_hour,
            "dollars_per_million_tokens": v["gpus"] * n.dollars_hour / 3600 / tokens * 1e6,
            "joules_per_token": v["gpus"] * n.watts / tokens,
        },
    }


def capacity(service: Service, load: Load, plan: ServePlan) -> float:
    """Return the most requests a second that a plan carries within the limits."""
    found = engines(service, plan.precision, plan.kv_share)

    def carries(rate: float) -> bool:
        at = replace(load, rate=rate)
        return meets(_one(service, at, plan, found), at)

    low, high = 0.0, max(load.rate, 1e-3)
    while high < 1e7 and carries(high):
        low, high = high, high * 2
    for _ in range(20):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if carries(middle) else (low, middle)
    return low


def evaluate(service: Service, load: Load, plan: ServePlan) -> Floats:
    """Return what one plan gives, shape (6,), the columns of ``RESULTS``.

    Raises:
        ConfigError: the plan cannot exist.
    """
    wrong = problems(plan, service)
    if wrong:
        raise ConfigError("; ".join(wrong))
    return _one(service, load, plan, engines(service, plan.precision, plan.kv_share))


def _one(service: Service, load: Load, plan: ServePlan, found: Engines) -> Floats:
    def at(part: Part) -> int:
        same = (found.tp == part.tp) & (found.pp == part.pp) & (found.ranks == part.ranks)
        return int(np.flatnonzero(same)[0])

    k = at(plan.engines)
    if found.tokens[k] < load.isl + load.osl:
        return np.array([math.inf, math.inf, math.inf, 0.0, plan.gpus, math.inf])
    e, pp = _take(found.engine, np.array([k])), found.pp[[k]]
    rate = np.array([load.rate / plan.engines.count])
    most = np.minimum(plan.max_batch * found.ranks[[k]] * pp, found.tokens[[k]] / (load.isl + load.osl))
    batch, tpot, use = _steady(e, pp, rate, load, most, plan.prefill is not None, service.stack.hop_s)
    parts = np.ceil(np.array([load.isl / plan.max_tokens]))
    if plan.prefill is None:
        prefill, step = prefill_s(e, load.isl), decode_s(e, np.maximum(batch / pp, 1.0), load.isl + 0.5 * load.osl)
        ttft = _first(service, prefill, step, rate * prefill / pp, parts)
    else:
        p = at(plan.prefill)
        prefill = prefill_s(_take(found.engine, np.array([p])), load.isl)
        busy = load.rate * prefill / found.pp[[p]] / plan.prefill.count
        use = np.maximum(use, busy)
        ttft = _first(service, prefill, tpot, busy, parts) + load.isl * found.engine.cache_bytes[[p]] / (
            service.nodes.fabric_gb_s * 0.8e9
        )
    full = batch * (load.isl + 0.5 * load.osl) / found.tokens[[k]]
    return np.array([ttft[0] if use[0] <= 1.0 else math.inf, tpot[0], use[0], batch[0], plan.gpus, full[0]])


def problems(plan: ServePlan, service: Service) -> list[str]:
    """Say which rules a plan breaks, each with the nearest legal values; empty for a legal plan."""
    m, n, found = service.model, service.nodes, []
    for what, part in (("engines", plan.engines), ("prefill", plan.prefill)):
        if part is None:
            continue
        if min(part.count, part.tp, part.pp, part.ranks) < 1:
            found.append(f"{what}: count, tp, pp and ranks must be at least 1")
            continue
        legal = [t for t in divisors(m.heads) if t <= max(n.per_node, 8) and t <= n.gpus]
        if part.tp not in legal and part.ranks == 1:
            found.append(
                f"{what}: tp {part.tp} must divide the {m.heads} attention heads and fit into a node; nearest:"
                f" {near(part.tp, legal)}"
            )
        if part.pp not in (1, 2, 4, 8) or part.pp > m.layers:
            found.append(f"{what}: pp {part.pp} must be 1, 2, 4 or 8, and at most the {m.layers} layers")
        if part.ranks > 1 and (not m.experts or part.tp > 1 or part.pp > 1 or part.ranks not in legal):
            found.append(
                f"{what}: attention ranks need a model with experts, tp 1 and pp 1; nearest number of ranks:"
                f" {near(part.ranks, legal)}"
            )
    if plan.gpus > n.gpus:
        found.append(f"the plan needs {plan.gpus} GPUs, and there are {n.gpus}")
    if not 0.1 <= plan.kv_share <= 1:
        found.append(f"kv_share must be 0.1 to 1, not {plan.kv_share}")
    if plan.max_batch < 1 or plan.max_tokens < 1:
        found.append("max_batch and max_tokens must be at least 1")
    return found


def baselines(service: Service, load: Load, precision: str) -> dict[str, ServePlan | None]:
    """Return the plans of common rules; None where one does not fit into memory.

    - ``tensor``: the smallest tensor-parallel degree that fits, times as many replicas as there is room for.
    - ``defaults``: what an engine does when nothing is set: one GPU a replica.
    - ``apex``: tensor parallelism over a node, pipeline stages over nodes if the model needs them, replicas for the
      rest
      (the heuristic plan that APEX compares with).
    """
    n = service.nodes
    found = engines(service, precision, 0.9)
    fits = found.tokens >= load.isl + load.osl

    def made(order: Sequence[int]) -> ServePlan | None:
        for k in order:
            if fits[k] and found.ranks[k] == 1:
                part = Part(count=int(n.gpus // found.gpus[k]), tp=int(found.tp[k]), pp=int(found.pp[k]))
                return ServePlan(engines=part, precision=precision)
        return None

    plain = [k for k in range(len(found.tp)) if found.pp[k] == 1]
    node = [k for k in np.lexsort((found.pp, -np.minimum(found.tp, n.per_node))) if found.tp[k] <= n.per_node]
    alone = [k for k in plain if found.tp[k] == 1 and found.ranks[k] == 1]
    return {"tensor": made(plain), "defaults": made(alone), "apex": made(node)}


def shortage(service: Service, load: Load, wanted: Sequence[str]) -> str:
    """Say how much memory is short where no engine fits, and what would help."""
    n, m = service.nodes, service.model
    best = None
    for precision in precisions(service, wanted):
        found = engines(service, precision, 0.9)
        need = (
            found.engine.bytes_per_gpu / found.pp
            + (load.isl + load.osl) * found.engine.cache_bytes / found.pp / found.ranks
        )
        k = int(need.argmin())
        if best is None or need[k] < best[0]:
            best = (float(need[k]), precision, int(found.gpus[k]))
    assert best is not None
    has = n.memory_gb * 0.9 - RESERVED_GB
    larger = [
        f"{k} ({p['memory_gb']:.0f} GB)"
        for k, p in presets().items()
        if p["memory_gb"] * 0.9 - RESERVED_GB >= best[0] / 1e9
    ]
    hints = [f"GPUs with more memory: {', '.join(larger)}"] if larger else []
    hints += [
        f"{n.gpus * 2} or more GPUs",
        "weights of fewer bits (--precision fp8 or fp4)" if best[1] == "bf16" else "a smaller model",
    ]
    return (
        f"{m.name} does not fit on {n.gpus} {n.gpu}: the leanest engine ({best[2]} GPUs, {best[1]}) needs"
        f" {best[0] / 1e9:.1f} GB a GPU"
        f" for weights and one request, {best[0] / 1e9 - has:.1f} GB more than the {has:.1f} GB that are free."
        f" It would fit with"
        f" {' or '.join(hints)}."
    )
