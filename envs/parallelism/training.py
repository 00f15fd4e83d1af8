"""What is trained where: a job, how efficient its cluster is, and both in numbers for ``estimate``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.parallelism.clusters import Nodes
from tunewright.envs.parallelism.models import Model

Floats = NDArray[np.float64]

RECOMPUTE = ("none", "selective", "full")
OVERLAP = ("none", "data", "all")
PRECISION = ("bf16", "fp8")


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
        model, nodes, fit = self.model, self.nodes, self.calibration
        moe = model.moe_layers / model.layers
        odd = 1.0 if model.qk_dim % 8 == 0 else fit.odd_head
        eight = max(nodes.bf16_tflops, nodes.bf16_tflops + fit.fp8 * (nodes.fp8_tflops - nodes.bf16_tflops))
        shared = model.shared_experts * model.expert_params * moe
        # causal fused attention computes half of the scores, the older kernels all of them
        context = model.context(self.seq) * (0.5 if fit.fused else 1.0)
        narrow = (
            2.0 * model.heads * model.v_dim + model.heads * model.qk_dim + model.kv_heads * (model.qk_dim + model.v_dim)
        )
        ffn = (1 - moe) * model.ffn + moe * (model.top_k + model.shared_experts) * model.expert_ffn
        # without dropout, and with the gate's product computed again, newer stacks keep less
        width = narrow - model.heads * model.v_dim + (2 if fit.fused else model.matrices) * ffn
        return Numbers(
            layers=model.layers,
            slots=2.0 * fit.embedding_slots,
            hidden=model.hidden,
            attention_params=model.attention_params,
            dense_params=(1 - moe) * model.dense_ffn_params + shared,
            expert_params=moe * model.experts * model.expert_params,
            used_params=moe * model.top_k * model.expert_params,
            score_width=model.heads * (model.qk_dim + model.v_dim),
            heads=model.heads,
            key_value=model.kv_bytes,
            width=width,
            top_k=moe * model.top_k,
            vocab=model.vocab,
            seq=self.seq,
            context=context,
            batch=self.global_batch,
            imbalance=self.imbalance,
            gpus=nodes.gpus,
            per_node=nodes.per_node,
            flop_s=1e-12 / (nodes.bf16_tflops * fit.gemm),
            flop8_s=1e-12 / (eight * fit.gemm),
            scores_s=1e-12 * odd / (nodes.bf16_tflops * fit.gemm * fit.attention),
            byte_s=1e-9 / nodes.memory_gb_s,
            link_s=1e-9 / (nodes.link_gb_s * fit.link),
            fabric_s=1e-9 / (nodes.fabric_gb_s * fit.fabric),
            host_s=1e-9 / nodes.host_gb_s,
            latency=fit.latency_s,
            overhead=fit.overhead_s,
            softmax=fit.softmax * 2.0,
            elementwise=fit.elementwise * 2.0,
            fused=float(fit.fused),
            drag=1.0 + fit.straggler * math.log2(nodes.gpus),
            optimizer_bytes=fit.optimizer_bytes,
            rails=float(fit.rails),
            reserved=fit.reserved_gb * 1e9,
            work=fit.work_bytes,
            logit=fit.logit_bytes,
            weight=fit.weight_bytes,
            gradient=fit.gradient_bytes,
            hide=fit.hidden,
        )

    @property
    def model_flops(self) -> float:
        """Operations of one iteration that the model needs, recomputation apart (for MFU) [FLOP].

        Six for each weight and token, and for attention all scores where the kernels compute all of them, as the
        papers of Megatron-LM count, and the causal half where they are fused.
        """
        half = 0.5 if self.calibration.fused else 1.0
        model = self.model
        scores = model.layers * model.heads * (model.qk_dim + model.v_dim) * model.context(self.seq) * half
        return 6.0 * (self.seq * self.global_batch) * (self.used_weights + scores)

    @property
    def used_weights(self) -> int:
        """Weights that a token is multiplied with; looking an embedding up is no product."""
        model = self.model
        return model.active_params - model.embedding_params * (0 if model.tied else 1) - model.positions * model.hidden
