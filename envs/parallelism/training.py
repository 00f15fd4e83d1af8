"""What one training iteration of a plan costs: time by part and memory by part, for many plans at once.

The arithmetic is written once, as ``_estimate``; it runs on NumPy arrays as it stands, and is compiled for loops over
plans. Sources: FLOPs and activation memory after Narayanan et al. 2021 (arXiv 2104.04473) and Korthikanti et al. 2022
(2205.05198); ZeRO after Rajbhandari et al. 2020 (1910.02054); which further terms decide the ranking of plans was found
on the BLOOM sweep (see docs/parallelism.md): overhead per layer and micro-batch, the output layer's load on the last
stage, badly shaped attention heads, and layers that do not divide by the stages.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.parallelism.clusters import Nodes
from tunewright.envs.parallelism.models import Model

Floats = NDArray[np.float64]

RECOMPUTE = ("none", "selective", "full")
OVERLAP = ("none", "data", "all")
PRECISION = ("bf16", "fp8")
COLUMNS = (
    "tp",
    "pp",
    "dp",
    "cp",
    "ep",
    "micro_batch",
    "chunks",
    "zero",
    "recompute",
    "sequence_parallel",
    "overlap",
    "offload",
    "precision",
)
RESULTS = (
    "time_s",
    "compute_s",
    "tensor_s",
    "expert_s",
    "context_s",
    "overhead_s",
    "bubble_s",
    "pipeline_s",
    "data_s",
    "optimizer_s",
    "memory_gb",
    "weights_gb",
    "gradients_gb",
    "optimizer_gb",
    "activations_gb",
    "logits_gb",
    "reserved_gb",
)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Efficiencies of a cluster and its software; see docs/parallelism.md for what each was fitted to.

    Attributes:
        gemm: share of the peak that matrix products reach.
        attention: efficiency of attention's products relative to that.
        link, fabric: share of the links' bandwidth that collectives reach.
        overhead_s: fixed time of a layer and micro-batch, forward and backward together [s].
        odd_head: factor on attention whose head dimension is not a multiple of 8.
        straggler: slowdown for each doubling of the GPUs.
        fused: whether attention is one fused kernel; else scores travel through memory.
        softmax: bytes for each score, forward, where it is not fused [passes of 2 bytes].
        elementwise: bytes for each token and hidden unit that element-wise operations move, forward [passes of 2
          bytes].
        optimizer_bytes: bytes moved for each parameter by the optimizer's step.
        rails: whether a data-parallel group with several ranks in a node uses the network cards of all of them.
        latency_s: of one message between nodes [s].
        reserved_gb: memory of context, buffers and fragmentation [10^9 bytes].
        work_bytes: bytes for each token and hidden unit of temporary buffers.
        logit_bytes: bytes for each logit.
        weight_bytes, gradient_bytes: for each parameter.
        fp8: gain of FP8 over bfloat16 in matrix products, as a share of the ratio of the peaks.
        hidden: share of communication that overlapping hides behind computing.
        embedding_slots: whether embedding and output layer count as layers where stages cannot be cut evenly.
        source: what it was fitted to.
    """

    gemm: float = 0.72
    attention: float = 0.8
    link: float = 0.77
    fabric: float = 0.8
    overhead_s: float = 0.001
    odd_head: float = 15.0
    straggler: float = 0.015
    fused: bool = True
    softmax: float = 6.0
    elementwise: float = 12.0
    optimizer_bytes: float = 30.0
    rails: bool = True
    latency_s: float = 1e-5
    reserved_gb: float = 5.0
    work_bytes: float = 35.0
    logit_bytes: float = 15.0
    weight_bytes: float = 2.0
    gradient_bytes: float = 4.0
    fp8: float = 0.7
    hidden: float = 0.7
    embedding_slots: bool = False
    source: str = ""


class Numbers(NamedTuple):
    """A job in numbers, as the compiled code takes them; bytes, seconds, FLOP."""

    layers: float
    slots: float  # 2 where embedding and output count as layers if stages cannot be cut evenly
    hidden: float
    attention_params: float  # of a layer
    dense_params: float  # feed-forward weights that every token uses, mean over layers
    expert_params: float  # routed experts of a layer, all of them, mean over layers
    used_params: float  # of those, what a token uses
    score_width: float  # heads * (dimension of query and key + of value)
    heads: float
    key_value: float  # numbers that a token leaves in keys and values
    width: float  # of intermediate results of a layer that tensor parallelism splits
    top_k: float  # of layers with experts, mean over layers
    vocab: float
    seq: float
    context: float  # tokens that one attends to, mean
    batch: float
    imbalance: float  # busiest expert over the mean
    gpus: float
    per_node: float
    flop_s: float  # time of an operation of matrix products, as reached [s]
    flop8_s: float
    scores_s: float  # the same for attention's products
    byte_s: float  # time of a byte through the GPU's memory [s]
    link_s: float  # and through the links
    fabric_s: float
    host_s: float
    latency: float
    overhead: float
    softmax: float
    elementwise: float
    fused: float
    drag: float  # slowdown of so many GPUs
    optimizer_bytes: float
    rails: float
    reserved: float
    work: float
    logit: float
    weight: float
    gradient: float
    hide: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained, where.

    Attributes:
        model: its shape.
        nodes: the GPUs.
        seq: tokens of a sequence.
        global_batch: sequences of an iteration.
        calibration: efficiencies.
        imbalance: tokens of the busiest expert over the mean; 1 is balanced.
    """

    model: Model
    nodes: Nodes
    seq: int
    global_batch: int
    calibration: Calibration = Calibration()
    imbalance: float = 1.0

    @property
    def numbers(self) -> Numbers:
        """The job as the compiled code takes it."""
        m, n, c = self.model, self.nodes, self.calibration
        moe = m.moe_layers / m.layers
        odd = 1.0 if m.qk_dim % 8 == 0 else c.odd_head
        eight = max(n.bf16_tflops, n.bf16_tflops + c.fp8 * (n.fp8_tflops - n.bf16_tflops))
        shared = m.shared_experts * m.expert_params * moe
        # causal fused attention computes half of the scores, the older kernels all of them
        context = m.context(self.seq) * (0.5 if c.fused else 1.0)
        narrow = 2.0 * m.heads * m.v_dim + m.heads * m.qk_dim + m.kv_heads * (m.qk_dim + m.v_dim)
        ffn = (1 - moe) * m.ffn + moe * (m.top_k + m.shared_experts) * m.expert_ffn
        # without dropout, and with the gate's product computed again, newer stacks keep less
        width = narrow - m.heads * m.v_dim + (2 if c.fused else m.matrices) * ffn
        return Numbers(
            layers=m.layers,
            slots=2.0 * c.embedding_slots,
            hidden=m.hidden,
            attention_params=m.attention_params,
            dense_params=(1 - moe) * m.dense_ffn_params + shared,
            expert_params=moe * m.experts * m.expert_params,
            used_params=moe * m.top_k * m.expert_params,
            score_width=m.heads * (m.qk_dim + m.v_dim),
            heads=m.heads,
            key_value=m.kv_bytes,
            width=width,
            top_k=moe * m.top_k,
            vocab=m.vocab,
            seq=self.seq,
            context=context,
            batch=self.global_batch,
            imbalance=self.imbalance,
            gpus=n.gpus,
            per_node=n.per_node,
            flop_s=1e-12 / (n.bf16_tflops * c.gemm),
            flop8_s=1e-12 / (eight * c.gemm),
            scores_s=1e-12 * odd / (n.bf16_tflops * c.gemm * c.attention),
            byte_s=1e-9 / n.memory_gb_s,
            link_s=1e-9 / (n.link_gb_s * c.link),
            fabric_s=1e-9 / (n.fabric_gb_s * c.fabric),
            host_s=1e-9 / n.host_gb_s,
            latency=c.latency_s,
            overhead=c.overhead_s,
            softmax=c.softmax * 2.0,
            elementwise=c.elementwise * 2.0,
            fused=float(c.fused),
            drag=1.0 + c.straggler * math.log2(n.gpus),
            optimizer_bytes=c.optimizer_bytes,
            rails=float(c.rails),
            reserved=c.reserved_gb * 1e9,
            work=c.work_bytes,
            logit=c.logit_bytes,
            weight=c.weight_bytes,
            gradient=c.gradient_bytes,
            hide=c.hidden,
        )

    @property
    def model_flops(self) -> float:
        """Operations of one iteration that the model needs, recomputation apart (for MFU) [FLOP].

        Six for each weight and token, and for attention all scores where the kernels compute all of them, as the
        papers of Megatron-LM count, and the causal half where they are fused.
        """
        m, tokens = self.model, self.seq * self.global_batch
        weights = m.active_params - m.embedding_params * (0 if m.tied else 1) - m.positions * m.hidden
        half = 0.5 if self.calibration.fused else 1.0
        scores = m.layers * m.heads * (m.qk_dim + m.v_dim) * m.context(self.seq) * half
        return 6.0 * tokens * (weights + scores)


def _estimate(
    k: Numbers,
    tp: Any,
    pp: Any,
    dp: Any,
    cp: Any,
    ep: Any,
    micro: Any,
    chunks: Any,
    zero: Any,
    recompute: Any,
    sp: Any,
    overlap: Any,
    offload: Any,
    fp8: Any,
) -> Any:
    """Return ``RESULTS`` of one plan, or of arrays of plans."""
    full, none = recompute == 2, recompute == 0
    per_tp, per_cp, per_ep, per_chunk = 1.0 / tp, 1.0 / cp, 1.0 / ep, 1.0 / chunks
    rounds = ceil(k.batch / (dp * micro))  # micro-batches of a pipeline
    tokens = micro * k.seq * per_cp  # of a micro-batch on a GPU
    width = tokens * k.hidden
    flop_s = where(fp8 > 0, k.flop8_s, k.flop_s)
    split = where(sp > 0, per_tp, 1.0)
    old = 1.0 - k.fused

    # a layer and micro-batch: forward passes are counted, a backward pass is two
    weights = k.attention_params + k.dense_params + k.used_params * where(ep > 1, k.imbalance, 1.0)
    passes = where(full, 4.0, 3.0)
    gemm = 2.0 * tokens * weights * per_tp * flop_s
    scores = 2.0 * tokens * k.score_width * k.context * per_tp * k.scores_s
    scores = scores + old * k.softmax * k.heads * tokens * k.seq * per_tp * k.byte_s
    # a fused kernel computes scores again in its backward pass; selective recomputation does so without one
    again = where(full, 4.0 + 0.5 * k.fused, where(none, 3.0, 4.0 * old + 3.0 * k.fused) + 0.5 * k.fused)
    light = k.elementwise * width * split * k.byte_s
    compute = gemm * passes + scores * again + light * passes
    wire_s = where(tp <= k.per_node, k.link_s, k.fabric_s)
    hidden = where(overlap > 1, 1.0 - k.hide, 1.0)
    # two all-reduces of activations in a pass, or their halves with sequence parallelism
    tensor = 8.0 * (tp - 1.0) * per_tp * width * wire_s * where(full, 3.0, 2.0) * hidden
    reach_s = where(ep * tp <= k.per_node, k.link_s, k.fabric_s)
    exchange = 4.0 * width * split * k.top_k * (1.0 - per_ep) * reach_s * k.imbalance
    expert = exchange * where(full, 3.0, 2.0) * hidden
    ring_s = where(cp * tp <= k.per_node, k.link_s, k.fabric_s)
    around = 2.0 * tokens * k.key_value * per_tp * (cp - 1.0) * ring_s
    context = maximum(around * passes - scores * again * where(overlap > 1, k.hide, 0.0), 0.0)
    context = context + (cp - 1.0) * k.latency * passes  # a message for each step of the ring
    layer = compute + tensor + expert + context + k.overhead

    # stages: the fullest one sets the pace, and the last one has the output layer; see ``plans.stage_layers``
    many = pp > 1
    most = ceil(k.layers / pp - 1e-9)  # less what a division that is not exact may be too large by
    spare = pp * most - k.layers  # stages with a layer less
    last = most - where(many & (spare >= where(k.slots > 0, 1.0, pp - 1.0)), 1.0, 0.0)
    head = tokens * k.vocab * per_tp * (6.0 * k.hidden * flop_s + 10.0 * k.byte_s)
    whole = k.layers * layer + head
    longest = where(many, maximum(most * layer, last * layer + head), whole)
    steady = rounds * longest
    bubble = (whole - longest) * per_chunk
    far_s = where(tp * cp * dp * pp <= k.per_node, k.link_s, k.fabric_s)
    hop = 2.0 * (k.latency + 2.0 * width * per_tp * far_s)
    pipeline = where(many, (rounds * chunks * 0.5 + pp - 1.0) * hop, 0.0)

    # data parallelism: gradients once an iteration; with ZeRO-3 weights too, for each micro-batch
    group = dp * cp
    per_group = 1.0 / group
    ends = k.vocab * k.hidden * per_tp
    common = most * (k.attention_params + k.dense_params) * per_tp + ends
    routed = most * k.expert_params * per_tp * per_ep
    owned = common + routed
    ranks = where(k.rails > 0, maximum(minimum(k.per_node * per_tp, group), 1.0), 1.0)
    lane_s = where(tp * group <= k.per_node, k.link_s, maximum(k.fabric_s / ranks, k.link_s))
    copies = maximum(group * per_ep, 1.0)  # of a routed expert
    per_copy = 1.0 / copies
    sharded = common * (1.0 - per_group) + routed * (1.0 - per_copy)
    # ZeRO-2 and 3 give gradients away after each micro-batch
    sync = sharded * (k.weight + k.gradient * where(zero > 1, rounds, 1.0)) * lane_s
    sync = sync + where(zero > 2, sharded * k.weight * (2.0 * rounds - 1.0) * lane_s, 0.0)
    behind = where(zero > 1, rounds * longest, longest * minimum(rounds, 2.0)) * 0.6667
    data = where(overlap > 0, maximum(sync - k.hide * behind, sync * 0.05), sync)
    held = where(zero > 0, common * per_group + routed * per_copy, owned)
    optimizer = held * where(offload > 0, 16.0 * k.host_s + HOST_STEP_S, k.optimizer_bytes * k.byte_s)
    time = (steady + bubble + pipeline + data + optimizer) * k.drag

    # memory of the fullest stage: the first holds most activations, the last the logits, both a part of the embedding
    scratch = old * 5.0 * k.heads * tokens * k.seq * per_tp
    inner = 2.0 * tokens * k.width * per_tp
    norms = (10.0 - 4.0 * k.fused) * width * split
    kept = where(full, 2.0 * width * split, norms + inner + where(none, scratch, 0.0))
    flight = minimum(pp, rounds) * where(chunks > 1, 1.0 + (1.0 - 1.0 / pp) * per_chunk, 1.0)
    once = k.work * width * split + inner + where(none, 0.0, scratch)
    logits = k.logit * tokens * k.vocab * per_tp
    per_layer = (owned - ends) / most
    share = held / owned
    bytes_w = (k.weight + where(fp8 > 0, 1.0, 0.0)) * where(zero > 2, share, 1.0)
    bytes_g = k.gradient * where(zero > 1, share, 1.0)
    bytes_o = where(offload > 0, 0.0, 12.0) * share
    each = bytes_w + bytes_g + bytes_o
    first_own = (most - where((k.slots > 0) & (spare >= 2.0), 1.0, 0.0)) * per_layer + ends
    first_acts = flight * most * kept + once
    first_logits = where(many, 0.0, logits)
    last_own = last * per_layer + ends
    last_acts = last * kept + once
    middle_own = owned - ends
    middle_acts = (flight - 1.0) * most * kept + once
    first, end = first_own * each + first_acts + first_logits, last_own * each + last_acts + logits
    middle = where(pp > 2, middle_own * each + middle_acts, 0.0)
    is_middle = (middle > first) & (middle > end)
    is_end = end > first
    own = where(is_middle, middle_own, where(is_end, last_own, first_own))
    acts = where(is_middle, middle_acts, where(is_end, last_acts, first_acts))
    logits = where(is_middle, 0.0, where(is_end, logits, first_logits))
    gathered = where(zero > 2, 2.0 * k.weight * per_layer, 0.0)  # weights of two layers at a time
    memory = k.reserved + own * each + acts + logits + gathered

    pace = rounds * most * k.drag
    return (
        time, pace * compute + rounds * k.drag * (longest - most * layer), pace * tensor, pace * expert, pace * context,
        pace * k.overhead, bubble * k.drag, pipeline * k.drag, data * k.drag, optimizer * k.drag, memory * 1e-9,
        (own * bytes_w + gathered) * 1e-9, own * bytes_g * 1e-9, own * bytes_o * 1e-9, acts * 1e-9, logits * 1e-9,
        k.reserved * 1e-9,
    )  # fmt: skip


def _array_where(condition: Any, yes: Any, no: Any) -> Any:
    return np.where(condition, yes, no)


# what the arithmetic calls, for arrays
where, ceil, maximum, minimum = _array_where, np.ceil, np.maximum, np.minimum
HOST_STEP_S = 2.0e-10  # of a parameter in the optimizer on the host: 16 bytes at 80 GB/s; assumed
BLOCK = 2048  # plans at once, so that intermediate arrays stay in cache


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
        for column, values in enumerate(_estimate(numbers, *part)):
            out[start : start + BLOCK, column] = values
    return out


@functools.cache
def _compiled() -> Callable[[Numbers, Floats, Floats], None]:
    import numba

    # without "numpy" each division is checked for zero, which makes the loop six times slower
    quick: Any = {"error_model": "numpy", "fastmath": {"contract", "reassoc", "arcp"}}

    @numba.njit(inline="always")
    def pick(condition: Any, yes: Any, no: Any) -> Any:
        return yes if condition else no

    @numba.njit(inline="always")
    def more(a: Any, b: Any) -> Any:
        return a if a > b else b

    @numba.njit(inline="always")
    def less(a: Any, b: Any) -> Any:
        return a if a < b else b

    names = {"where": pick, "ceil": np.ceil, "maximum": more, "minimum": less}
    scalar = numba.njit(**quick)(types.FunctionType(_estimate.__code__, {**globals(), **names}, "_scalar"))

    @numba.njit(nogil=True, **quick)  # type: ignore[untyped-decorator]
    def loop(numbers: Numbers, plans: Floats, out: Floats) -> None:
        for i in range(plans.shape[0]):
            p = plans[i]
            values = scalar(numbers, p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12])
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
