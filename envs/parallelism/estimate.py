"""What one training iteration of a plan costs: time by part and memory by part, for many plans at once.

The arithmetic is written once, as functions from named numbers to named numbers: a micro-batch, its computing and
communication in a layer, the pipeline, data parallelism, memory. They run on NumPy arrays as they stand, and are
compiled for loops over plans. Sources: FLOPs and activation memory after Narayanan et al. 2021 (arXiv 2104.04473) and
Korthikanti et al. 2022 (2205.05198); ZeRO after Rajbhandari et al. 2020 (1910.02054); which further terms decide the
ranking of plans was found on the BLOOM sweep (see docs/parallelism.md): overhead per layer and micro-batch, the output
layer's load on the last stage, badly shaped attention heads, and layers that do not divide by the stages.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tunewright.envs.parallelism.training import Floats, Job, Numbers

HOST_STEP_S = 2.0e-10  # of a parameter in the optimizer on the host: 16 bytes at 80 GB/s; assumed
BLOCK = 2048  # plans at once, so that intermediate arrays stay in cache


class PlanNumbers(NamedTuple):
    """A plan in numbers, or many plans in arrays of the same length; see ``plans.Plan`` for the meaning."""

    tp: Any
    pp: Any
    dp: Any
    cp: Any
    ep: Any
    micro_batch: Any
    chunks: Any
    zero: Any
    recompute: Any  # place in training.RECOMPUTE
    sequence_parallel: Any
    overlap: Any  # place in training.OVERLAP
    offload: Any
    precision: Any  # place in training.PRECISION


class Estimate(NamedTuple):
    """What a plan costs: seconds of an iteration, and memory of the fullest GPU [10^9 bytes]."""

    time_s: Any
    compute_s: Any
    tensor_s: Any
    expert_s: Any
    context_s: Any
    overhead_s: Any
    bubble_s: Any
    pipeline_s: Any
    data_s: Any
    optimizer_s: Any
    memory_gb: Any
    weights_gb: Any
    gradients_gb: Any
    optimizer_gb: Any
    activations_gb: Any
    logits_gb: Any
    reserved_gb: Any


COLUMNS = PlanNumbers._fields
RESULTS = Estimate._fields


class MicroBatch(NamedTuple):
    """A micro-batch on one GPU, and the share of a whole that each degree leaves it."""

    per_tp: Any
    per_ep: Any
    per_chunk: Any
    rounds: Any  # micro-batches of a pipeline in an iteration
    tokens: Any
    hidden_units: Any  # numbers in the activations between two layers
    split: Any  # share of these that a GPU keeps between the matrix products
    flop_s: Any  # time of an operation of matrix products


class Compute(NamedTuple):
    """Computing of a micro-batch in one layer, forward and backward [s]."""

    total_s: Any
    attention_s: Any  # of that, scores
    passes: Any  # forward passes that all of it counts for


class Communication(NamedTuple):
    """Communication of a micro-batch in one layer, forward and backward [s]."""

    tensor_s: Any
    expert_s: Any
    context_s: Any


class Pipeline(NamedTuple):
    """Stages of a pipeline, and the time of an iteration without data parallelism and optimizer."""

    most_layers: Any  # of a stage
    last_layers: Any  # of the last stage
    shorter_stages: Any  # stages with a layer less than the most
    layer_s: Any  # of a micro-batch, forward and backward
    longest_s: Any  # of a micro-batch in the slowest stage
    bubble_s: Any
    transfer_s: Any


class DataParallel(NamedTuple):
    """Weights of the stage with the most layers on one GPU, and the time that gradients and optimizer take."""

    stage_params: Any
    embedding_params: Any  # of those
    optimizer_params: Any  # those whose optimizer states the GPU keeps
    gradients_s: Any
    optimizer_s: Any


class Memory(NamedTuple):
    """Memory of the fullest stage's GPU [bytes]."""

    total: Any
    weights: Any
    gradients: Any
    optimizer: Any
    activations: Any
    logits: Any


def _micro_batch(job: Numbers, plan: PlanNumbers) -> MicroBatch:
    per_tp, per_cp, per_ep, per_chunk = 1.0 / plan.tp, 1.0 / plan.cp, 1.0 / plan.ep, 1.0 / plan.chunks
    tokens = plan.micro_batch * job.seq * per_cp
    return MicroBatch(
        per_tp,
        per_ep,
        per_chunk,
        ceil(job.batch / (plan.dp * plan.micro_batch)),
        tokens,
        tokens * job.hidden,
        where(plan.sequence_parallel > 0, per_tp, 1.0),
        where(plan.precision > 0, job.flop8_s, job.flop_s),
    )


def _compute(job: Numbers, plan: PlanNumbers, micro: MicroBatch) -> Compute:
    """Forward passes are counted; a backward pass is two, and recomputing everything is one more."""
    full, none = plan.recompute == 2, plan.recompute == 0
    per_tp, unfused = micro.per_tp, 1.0 - job.fused
    used = job.used_params * where(plan.ep > 1, job.imbalance, 1.0)
    weights = job.attention_params + job.dense_params + used
    passes = where(full, 4.0, 3.0)
    products = 2.0 * micro.tokens * weights * per_tp * micro.flop_s
    scores = 2.0 * micro.tokens * job.score_width * job.context * per_tp * job.scores_s
    scores = scores + unfused * job.softmax * job.heads * micro.tokens * job.seq * per_tp * job.byte_s
    # a fused kernel computes scores again in its backward pass; selective recomputation does so without one
    partly = where(none, 3.0, 4.0 * unfused + 3.0 * job.fused) + 0.5 * job.fused
    attention = scores * where(full, 4.0 + 0.5 * job.fused, partly)
    elementwise = job.elementwise * micro.hidden_units * micro.split * job.byte_s
    return Compute(products * passes + attention + elementwise * passes, attention, passes)


def _communication(job: Numbers, plan: PlanNumbers, micro: MicroBatch, compute: Compute) -> Communication:
    per_tp = micro.per_tp
    exchanges = where(plan.recompute == 2, 3.0, 2.0)
    exposed = where(plan.overlap > 1, 1.0 - job.hide, 1.0)
    tensor_byte_s = where(plan.tp <= job.per_node, job.link_s, job.fabric_s)
    # two all-reduces of activations in a pass, or their halves with sequence parallelism
    tensor = 8.0 * (plan.tp - 1.0) * per_tp * micro.hidden_units * tensor_byte_s * exchanges * exposed
    expert_byte_s = where(plan.ep * plan.tp <= job.per_node, job.link_s, job.fabric_s)
    sent = 4.0 * micro.hidden_units * micro.split * job.top_k * (1.0 - micro.per_ep)
    expert = sent * expert_byte_s * job.imbalance * exchanges * exposed
    ring_byte_s = where(plan.cp * plan.tp <= job.per_node, job.link_s, job.fabric_s)
    ring = 2.0 * micro.tokens * job.key_value * per_tp * (plan.cp - 1.0) * ring_byte_s
    behind_attention = compute.attention_s * where(plan.overlap > 1, job.hide, 0.0)
    context = maximum(ring * compute.passes - behind_attention, 0.0)
    context = context + (plan.cp - 1.0) * job.latency * compute.passes  # a message for each step of the ring
    return Communication(tensor, expert, context)


def _pipeline(
    job: Numbers, plan: PlanNumbers, micro: MicroBatch, compute: Compute, communication: Communication
) -> Pipeline:
    """The fullest stage sets the pace, and the last one has the output layer; see ``plans.stage_layers``."""
    per_tp, stages, many = micro.per_tp, plan.pp, plan.pp > 1
    layer = compute.total_s + communication.tensor_s + communication.expert_s + communication.context_s + job.overhead
    most = ceil(job.layers / stages - 1e-9)  # less what a division that is not exact may be too large by
    shorter = stages * most - job.layers
    last = most - where(many & (shorter >= where(job.slots > 0, 1.0, stages - 1.0)), 1.0, 0.0)
    head = micro.tokens * job.vocab * per_tp * (6.0 * job.hidden * micro.flop_s + 10.0 * job.byte_s)
    whole = job.layers * layer + head
    longest = where(many, maximum(most * layer, last * layer + head), whole)
    bubble = (whole - longest) * micro.per_chunk
    stage_byte_s = where(plan.tp * plan.cp * plan.dp * stages <= job.per_node, job.link_s, job.fabric_s)
    hop = 2.0 * (job.latency + 2.0 * micro.hidden_units * per_tp * stage_byte_s)
    transfer = where(many, (micro.rounds * plan.chunks * 0.5 + stages - 1.0) * hop, 0.0)
    return Pipeline(most, last, shorter, layer, longest, bubble, transfer)


def _data_parallel(job: Numbers, plan: PlanNumbers, micro: MicroBatch, pipeline: Pipeline) -> DataParallel:
    """Gradients are exchanged once an iteration; with ZeRO-3 weights too, for each micro-batch."""
    per_tp, per_ep, group = micro.per_tp, micro.per_ep, plan.dp * plan.cp
    per_group = 1.0 / group
    embedding = job.vocab * job.hidden * per_tp
    common = pipeline.most_layers * (job.attention_params + job.dense_params) * per_tp + embedding
    routed = pipeline.most_layers * job.expert_params * per_tp * per_ep
    stage = common + routed
    cards = where(job.rails > 0, maximum(minimum(job.per_node * per_tp, group), 1.0), 1.0)
    byte_s = where(plan.tp * group <= job.per_node, job.link_s, maximum(job.fabric_s / cards, job.link_s))
    per_copy = 1.0 / maximum(group * per_ep, 1.0)  # of a routed expert
    sharded = common * (1.0 - per_group) + routed * (1.0 - per_copy)
    # ZeRO-2 and 3 give gradients away after each micro-batch
    sync = sharded * (job.weight + job.gradient * where(plan.zero > 1, micro.rounds, 1.0)) * byte_s
    sync = sync + where(plan.zero > 2, sharded * job.weight * (2.0 * micro.rounds - 1.0) * byte_s, 0.0)
    longest = pipeline.longest_s
    behind = where(plan.zero > 1, micro.rounds * longest, longest * minimum(micro.rounds, 2.0)) * 0.6667
    gradients = where(plan.overlap > 0, maximum(sync - job.hide * behind, sync * 0.05), sync)
    kept = where(plan.zero > 0, common * per_group + routed * per_copy, stage)
    step_s = where(plan.offload > 0, 16.0 * job.host_s + HOST_STEP_S, job.optimizer_bytes * job.byte_s)
    return DataParallel(stage, embedding, kept, gradients, kept * step_s)


def _memory(job: Numbers, plan: PlanNumbers, micro: MicroBatch, pipeline: Pipeline, data: DataParallel) -> Memory:
    """The first stage holds most activations, the last the logits, both a part of the embedding."""
    full, none, many = plan.recompute == 2, plan.recompute == 0, plan.pp > 1
    per_tp, unfused, most = micro.per_tp, 1.0 - job.fused, pipeline.most_layers
    # activations that a layer keeps of each micro-batch under way, and what is there once
    scores = unfused * 5.0 * job.heads * micro.tokens * job.seq * per_tp
    inner = 2.0 * micro.tokens * job.width * per_tp
    norms = (10.0 - 4.0 * job.fused) * micro.hidden_units * micro.split
    kept = where(full, 2.0 * micro.hidden_units * micro.split, norms + inner + where(none, scores, 0.0))
    interleaved = where(plan.chunks > 1, 1.0 + (1.0 - 1.0 / plan.pp) * micro.per_chunk, 1.0)
    under_way = minimum(plan.pp, micro.rounds) * interleaved
    once = job.work * micro.hidden_units * micro.split + inner + where(none, 0.0, scores)
    logits = job.logit * micro.tokens * job.vocab * per_tp

    per_layer = (data.stage_params - data.embedding_params) / most
    share = data.optimizer_params / data.stage_params
    weight_bytes = (job.weight + where(plan.precision > 0, 1.0, 0.0)) * where(plan.zero > 2, share, 1.0)
    gradient_bytes = job.gradient * where(plan.zero > 1, share, 1.0)
    optimizer_bytes = where(plan.offload > 0, 0.0, 12.0) * share
    param_bytes = weight_bytes + gradient_bytes + optimizer_bytes

    first_layers = most - where((job.slots > 0) & (pipeline.shorter_stages >= 2.0), 1.0, 0.0)
    first_params = first_layers * per_layer + data.embedding_params
    first_activations = under_way * most * kept + once
    first_logits = where(many, 0.0, logits)
    last_params = pipeline.last_layers * per_layer + data.embedding_params
    last_activations = pipeline.last_layers * kept + once
    middle_params = data.stage_params - data.embedding_params
    middle_activations = (under_way - 1.0) * most * kept + once
    first = first_params * param_bytes + first_activations + first_logits
    last = last_params * param_bytes + last_activations + logits
    middle = where(plan.pp > 2, middle_params * param_bytes + middle_activations, 0.0)
    is_middle = (middle > first) & (middle > last)
    is_last = last > first
    params = where(is_middle, middle_params, where(is_last, last_params, first_params))
    activations = where(is_middle, middle_activations, where(is_last, last_activations, first_activations))
    logits = where(is_middle, 0.0, where(is_last, logits, first_logits))
    gathered = where(plan.zero > 2, 2.0 * job.weight * per_layer, 0.0)  # weights of two layers at a time
    return Memory(
        job.reserved + params * param_bytes + activations + logits + gathered,
        params * weight_bytes + gathered,
        params * gradient_bytes,
        params * optimizer_bytes,
        activations,
        logits,
    )


def _estimate(job: Numbers, plan: PlanNumbers) -> Estimate:
    micro = _micro_batch(job, plan)
    compute = _compute(job, plan, micro)
    communication = _communication(job, plan, micro, compute)
    pipeline = _pipeline(job, plan, micro, compute, communication)
    data = _data_parallel(job, plan, micro, pipeline)
    steady = micro.rounds * pipeline.longest_s
    time = steady + pipeline.bubble_s + pipeline.transfer_s + data.gradients_s + data.optimizer_s
    time = time * job.drag
    memory = _memory(job, plan, micro, pipeline, data)
    pace = micro.rounds * pipeline.most_layers * job.drag
    beyond_layers = pipeline.longest_s - pipeline.most_layers * pipeline.layer_s
    return Estimate(
        time,
        pace * compute.total_s + micro.rounds * job.drag * beyond_layers,
        pace * communication.tensor_s,
        pace * communication.expert_s,
        pace * communication.context_s,
        pace * job.overhead,
        pipeline.bubble_s * job.drag,
        pipeline.transfer_s * job.drag,
        data.gradients_s * job.drag,
        data.optimizer_s * job.drag,
        memory.total * 1e-9,
        memory.weights * 1e-9,
        memory.gradients * 1e-9,
        memory.optimizer * 1e-9,
        memory.activations * 1e-9,
        memory.logits * 1e-9,
        job.reserved * 1e-9,
    )


_PARTS = (_micro_batch, _compute, _communication, _pipeline, _data_parallel, _memory)


def _array_where(condition: Any, yes: Any, no: Any) -> Any:
    return np.where(condition, yes, no)


# what the arithmetic calls, for arrays
where, ceil, maximum, minimum = _array_where, np.ceil, np.maximum, np.minimum


def estimate_numpy(numbers: Numbers, plans: Floats) -> Floats:
    """Return what plans cost, with NumPy.

    Args:
        numbers: the job.
        plans: shape (n, 13), the columns of ``COLUMNS``.

    Returns:
        Shape (n, 17), the columns of ``RESULTS``.
    """
    out = np.empty((len(plans), len(RESULTS)))
    for start in range(0, len(plans), BLOCK):
        part = np.ascontiguousarray(plans[start : start + BLOCK].T)
        for column, values in enumerate(_estimate(numbers, PlanNumbers(*part))):
            out[start : start + BLOCK, column] = values
    return out


def estimate_one(job: Job, plan: Floats) -> Estimate:
    """Return what one plan costs, a row of shape (13,)."""
    return Estimate(*estimate_numpy(job.numbers, plan[None])[0].tolist())


@functools.cache
def _compiled() -> Callable[[Numbers, Floats, Floats], None]:
    import numba

    # without "numpy" each division is checked for zero, which makes the loop six times slower
    quick: Any = {"error_model": "numpy", "fastmath": {"contract", "reassoc", "arcp"}}

    @numba.njit
    def pick(condition: Any, yes: Any, no: Any) -> Any:
        return yes if condition else no

    @numba.njit
    def more(a: Any, b: Any) -> Any:
        return a if a > b else b

    @numba.njit
    def less(a: Any, b: Any) -> Any:
        return a if a < b else b

    # the same code again, with names that stand for what compiles; the parts become one function, for across calls
    # sums would be rounded otherwise
    names: dict[str, Any] = {**globals(), "where": pick, "maximum": more, "minimum": less}
    for part in _PARTS:
        scalar = types.FunctionType(part.__code__, names, part.__name__)
        names[part.__name__] = numba.njit(inline="always")(scalar)
    one = numba.njit(**quick)(types.FunctionType(_estimate.__code__, names, "_one"))

    @numba.njit(nogil=True, **quick)  # type: ignore[untyped-decorator]
    def loop(numbers: Numbers, plans: Floats, out: Floats) -> None:
        for i in range(plans.shape[0]):
            p = plans[i]
            plan = PlanNumbers(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12])
            values = one(numbers, plan)
            for j in range(out.shape[1]):
                out[i, j] = values[j]

    return loop  # type: ignore[no-any-return]


def estimate(numbers: Numbers, plans: Floats, out: Floats | None = None) -> Floats:
    """Return what plans cost, compiled; arguments and result as of ``estimate_numpy``.

    Args:
        out: where to write, of the result's shape; a new array costs more than the arithmetic.
    """
    out = np.empty((len(plans), len(RESULTS))) if out is None else out
    _compiled()(Numbers(*map(float, numbers)), np.ascontiguousarray(plans, dtype=np.float64), out)
    return out
