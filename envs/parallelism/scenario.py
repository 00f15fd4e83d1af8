"""What a training run meets beside the plan: sequences of unequal length, mixed nodes, failures.

Each function is plain arithmetic or a short simulation; docs/parallelism.md says what each was checked against.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.parallelism.clusters import Cluster
from tunewright.envs.parallelism.estimate import estimate_one
from tunewright.envs.parallelism.plans import Plan, divisors
from tunewright.envs.parallelism.training import Job
from tunewright.errors import ConfigError

BATCHING = ("pad", "pack", "balance")
SEQUENCES, LENGTHS_SEED = 2048, 7  # lengths that stand for a job: the same for all plans and sessions


# -- sequences of unequal length --------------------------------------------------------------------


def draw_lengths(count: int, most: int, rng: np.random.Generator, spread: float = 1.2) -> NDArray[np.int64]:
    """Draw lengths of sequences: log-normal, with a long tail that is cut.

    Args:
        count: sequences.
        most: the longest [tokens].
        rng: random numbers.
        spread: standard deviation of the logarithm; the median is an eighth of ``most``.

    Returns:
        Tokens, shape (count,).
    """
    return np.clip(np.exp(rng.normal(math.log(most / 8), spread, count)), 16, most).astype(np.int64)


def lengths_of(job: Job) -> NDArray[np.int64]:
    """Return the lengths that stand for a job whose sequences are not full [tokens]."""
    return draw_lengths(min(job.global_batch * 2, SEQUENCES), job.seq, np.random.default_rng(LENGTHS_SEED))


def sequence_cost(lengths: Any, job: Job) -> Any:
    """Operations of a forward pass of sequences: weights for each token, scores for each pair [FLOP]."""
    model = job.model
    pairs = lengths * (1.0 + lengths) / 2.0
    scores = 2.0 * model.layers * model.heads * (model.qk_dim + model.v_dim) * pairs
    return 2.0 * model.active_params * lengths + scores


def batching_factor(lengths: NDArray[np.int64], job: Job, ranks: int, how: str) -> float:
    """Return the time of an iteration over that of perfectly divisible work.

    Args:
        lengths: of the sequences of one iteration.
        job: gives the costs, and the length of a full sequence.
        ranks: data-parallel ranks; the slowest one sets the pace.
        how: ``pad`` fills each sequence up; ``pack`` puts sequences one after the other into full ones (first fit,
            longest first) and deals these out in turn; ``balance`` also deals them out by cost, the dearest first to
            the
            least loaded rank, as FlexSP, ByteScale and Zeppelin do in their own ways.

    Raises:
        ConfigError: ``how`` is none of ``BATCHING``.
    """
    if how not in BATCHING:
        raise ConfigError(f"batching must be one of {', '.join(BATCHING)}, not {how!r}")
    ideal = float(sequence_cost(lengths.astype(float), job).sum()) / ranks
    if how == "pad":
        each = math.ceil(len(lengths) / ranks)
        return each * float(sequence_cost(float(job.seq), job)) / ideal
    bins = _first_fit(np.sort(lengths)[::-1], job.seq)
    # attention stays inside a sequence, so a bin costs what its sequences cost, not what one of its length would
    costs = [float(sequence_cost(np.array(inside, dtype=float), job).sum()) for inside in bins]
    loads = [0.0] * ranks
    if how == "pack":
        for number, cost in enumerate(costs):
            loads[number % ranks] += cost
    else:
        heap = [(0.0, rank) for rank in range(ranks)]
        for cost in sorted(costs, reverse=True):
            load, rank = heapq.heappop(heap)
            loads[rank] = load + cost
            heapq.heappush(heap, (loads[rank], rank))
    return max(loads) / ideal


def _first_fit(lengths: NDArray[np.int64], room: int) -> list[list[int]]:
    """Put lengths into bins, each into the first with room."""
    bins: list[list[int]] = []
    free: list[int] = []
    for length in map(int, lengths):
        first = next((number for number, left in enumerate(free) if left >= length), None)
        if first is None:
            bins.append([])
            free.append(room)
            first = len(bins) - 1
        bins[first].append(length)
        free[first] -= length
    return bins


# -- several kinds of nodes -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """A plan for a cluster of several kinds of nodes: pipeline stages lie inside a kind, and each gets layers by speed.

    Attributes:
        plans: of each kind, of the same tensor- and data-parallel degrees.
        stages: stages of each kind.
        layers: layers of each kind.
        time_s: of an iteration.
        even_s: the same with layers dealt out evenly.
        naive_s: with the slow link inside every data-parallel group, layers dealt out evenly.
    """

    plans: tuple[Plan, ...]
    stages: tuple[int, ...]
    layers: tuple[int, ...]
    time_s: float
    even_s: float
    naive_s: float


def plan_mixed(cluster: Cluster, jobs: Sequence[Job], micro_batch: int = 1) -> Mixed:
    """Find a plan for a cluster of several kinds: data parallelism within a kind, pipelines across, as Holmes does.

    Args:
        cluster: at least two kinds of nodes.
        jobs: the same training on each kind alone.
        micro_batch: sequences.

    Returns:
        The fastest plan that fits.

    Raises:
        ConfigError: none fits.
    """
    model, batch, groups = jobs[0].model, jobs[0].global_batch, cluster.groups
    best: Mixed | None = None
    common = math.gcd(*(nodes.gpus for nodes in groups))
    per_node = min(nodes.per_node for nodes in groups)
    for tp in [t for t in divisors(common) if model.heads % t == 0 and t <= per_node]:
        for dp in [d for d in divisors(common // tp) if batch % (d * micro_batch) == 0]:
            stages = [nodes.gpus // (tp * dp) for nodes in groups]
            if sum(stages) > model.layers:
                continue
            speeds = [_per_layer(job, tp, dp, micro_batch) for job in jobs]
            by_speed = _deal(model.layers, stages, speeds)
            evenly = _deal(model.layers, stages, [1.0] * len(stages))
            rounds = batch // (dp * micro_batch)
            times = [
                _mixed_time(jobs, tp, dp, stages, layers, speeds, rounds, between)
                for layers, between in ((by_speed, None), (evenly, None), (evenly, cluster.between_gb_s))
            ]
            plans = tuple(replace(_layer_plan(tp, dp, micro_batch), pp=max(count, 1)) for count in stages)
            if not _fits(jobs, plans, stages, by_speed):
                continue
            if best is None or times[0] < best.time_s:
                best = Mixed(
                    plans=plans,
                    stages=tuple(stages),
                    layers=tuple(by_speed),
                    time_s=times[0],
                    even_s=times[1],
                    naive_s=times[2],
                )
    if best is None:
        raise ConfigError(f"{model.name} fits into no plan on {cluster.name}; more GPUs of each kind are needed")
    return best


def _layer_plan(tp: int, dp: int, micro_batch: int) -> Plan:
    return Plan(tp=tp, dp=dp, micro_batch=micro_batch, sequence_parallel=tp > 1, recompute="full")


def _per_layer(job: Job, tp: int, dp: int, micro: int) -> float:
    """Time of one layer and micro-batch, forward and backward, on a kind of node."""
    plan = _layer_plan(tp, dp, micro)
    alone = replace(job, nodes=replace(job.nodes, gpus=tp * dp), global_batch=dp * micro)
    cost = estimate_one(alone, plan.row)
    return float(cost.compute_s + cost.tensor_s + cost.overhead_s) / job.model.layers


def _deal(layers: int, stages: Sequence[int], seconds: Sequence[float]) -> list[int]:
    """Give layers to kinds so that the slowest stage is as fast as can be: each to the stage that stays fastest."""
    slots = [(seconds[kind], kind) for kind, count in enumerate(stages) for _ in range(count)]
    heap = [(cost, slot) for slot, (cost, _) in enumerate(slots)]
    heapq.heapify(heap)
    dealt = [0] * len(stages)
    for _ in range(layers):
        after, slot = heapq.heappop(heap)
        cost, kind = slots[slot]
        dealt[kind] += 1
        heapq.heappush(heap, (after + cost, slot))
    return dealt


def _mixed_time(
    jobs: Sequence[Job],
    tp: int,
    dp: int,
    stages: Sequence[int],
    layers: Sequence[int],
    seconds: Sequence[float],
    rounds: int,
    between: float | None,
) -> float:
    """Time of an iteration: the slowest stage sets the pace, and the slowest link the exchange of gradients [s]."""
    fullest = [math.ceil(count / parts) for count, parts in zip(layers, stages, strict=True) if parts]
    paces = [
        math.ceil(count / parts) * cost for count, parts, cost in zip(layers, stages, seconds, strict=True) if parts
    ]
    whole = sum(count * cost for count, cost in zip(layers, seconds, strict=True))
    longest = max(paces)
    model = jobs[0].model
    share = (model.attention_params + model.dense_ffn_params) * max(fullest) / tp
    sync = 0.0
    for job in jobs:
        link = job.nodes.fabric_gb_s if between is None else min(between, job.nodes.fabric_gb_s)
        fit = job.calibration
        sync = max(sync, share * (1 - 1 / dp) * (fit.weight_bytes + fit.gradient_bytes) / (link * 1e9 * fit.fabric))
    return rounds * longest + (whole - longest) + sync


def _fits(jobs: Sequence[Job], plans: Sequence[Plan], stages: Sequence[int], layers: Sequence[int]) -> bool:
    depth = sum(stages)
    for job, plan, count, dealt in zip(jobs, plans, stages, layers, strict=True):
        if not count or not dealt:
            continue
        most = math.ceil(dealt / count)
        alone = replace(job, model=replace(job.model, layers=most), nodes=replace(job.nodes, gpus=plan.tp * plan.dp))
        memory = estimate_one(alone, replace(plan, pp=1).row).memory_gb
        kept = (depth - 1) * most * 2.0 * plan.micro_batch * job.seq * job.model.hidden / plan.tp * 1e-9
        if memory + kept > job.nodes.memory_gb:
            return False
    return True


# -- failures ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Failures:
    """Failures of a long run.

    Attributes:
        node_hours: mean time between failures of one node [h].
        checkpoint_s: writing a checkpoint while training waits.
        restart_s: noticing a failure, loading the checkpoint and starting again.
        repair_h: until a failed node is back.
    """

    node_hours: float = 20_000.0
    checkpoint_s: float = 30.0
    restart_s: float = 600.0
    repair_h: float = 24.0

    def rate(self, nodes: int) -> float:
        """Failures a second."""
        return nodes / (self.node_hours * 3600.0)


def best_interval_s(failures: Failures, nodes: int) -> float:
    """Return the time between checkpoints that loses least, to first order (Young 1974): sqrt(2 * cost / rate)."""
    return math.sqrt(2.0 * failures.checkpoint_s / failures.rate(nodes))


def useful_share(interval_s: float, failures: Failures, nodes: int) -> float:
    """Return the share of the time that makes progress which is kept (Daly 2006, exponential failures).

    In a segment of ``interval_s`` of work and a checkpoint, failures strike at a constant rate; after each one the run
    restarts and the segment begins anew.
    """
    rate = failures.rate(nodes)
    segment = interval_s + failures.checkpoint_s
    expected = (math.exp(rate * segment) - 1.0) * (1.0 / rate + failures.restart_s)
    return interval_s / expected


def simulate_share(interval_s: float, failures: Failures, nodes: int, hours: float, rng: np.random.Generator) -> float:
    """Return the same from a simulation, which the closed form is checked against."""
    rate, end = failures.rate(nodes), hours * 3600.0
    now, kept = 0.0, 0.0
    strike = rng.exponential(1.0 / rate)
    segment = interval_s + failures.checkpoint_s
    while now < end:
        if now + segment <= strike:
            now += segment
            kept += interval_s
        else:
            now = strike + failures.restart_s
            strike = now + rng.exponential(1.0 / rate)
    return kept / now


def without_a_rank(job: Job, plan: Plan) -> float | None:
    """Time of an iteration with one data-parallel rank less, the others taking over its micro-batches [s]."""
    if plan.dp < 2:
        return None
    left = replace(plan, dp=plan.dp - 1)
    gpus = left.tp * left.pp * left.cp * left.dp
    return float(estimate_one(replace(job, nodes=replace(job.nodes, gpus=gpus)), left.row).time_s)


def with_failures(
    job: Job, plan_time_s: float, smaller_time_s: float | None, failures: Failures, interval_s: float, how: str
) -> float:
    """Return the mean time of an iteration's worth of kept work.

    Args:
        job: gives the number of nodes.
        plan_time_s: of an iteration on all nodes.
        smaller_time_s: of an iteration by the best plan without the failed node; needed for ``shrink``.
        failures: how often, and what each costs.
        interval_s: between checkpoints.
        how: ``wait`` stands still until the node is repaired; ``shrink`` plans anew for the nodes that are left (after
            ElasWave); ``spare`` has nodes ready, which are counted as not working.

    Raises:
        ConfigError: ``how`` is none of these.
    """
    nodes = max(job.nodes.gpus // job.nodes.per_node, 1)
    share = useful_share(interval_s, failures, nodes)
    broken = min(failures.rate(nodes) * failures.repair_h * 3600.0, 1.0)  # share of the time with a node away
    if how == "spare":
        spares = max(1, math.ceil(broken * 2))
        return plan_time_s / share * (nodes + spares) / nodes
    if how == "wait":
        return plan_time_s / (share * max(1.0 - broken, 1e-3))
    if how != "shrink":
        raise ConfigError(f"on_failure must be wait, shrink or spare, not {how!r}")
    if smaller_time_s is None:
        return math.inf
    return 1.0 / (share * ((1.0 - broken) / plan_time_s + broken / smaller_time_s))
