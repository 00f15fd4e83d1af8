"""Serving plans: engines and their degrees, which are legal, and what each kind of engine holds.

An aggregated plan runs replicas that prefill and decode; a disaggregated one has workers for each. What a plan gives at
a load stands in ``serving_load``, the search for the best one in ``serving_search``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewright.envs.parallelism.clusters import Nodes
from tunewright.envs.parallelism.models import Model
from tunewright.envs.parallelism.plans import divisors, near
from tunewright.envs.parallelism.steptime import (
    Engine,
    Stack,
    cache_bytes_of,
    corrected,
    engine,
    precision_of,
    shape_of,
    stack_of,
    step_factors,
)
from tunewright.envs.parallelism.training import Floats
from tunewright.errors import ConfigError

RESERVED_GB = 3.0  # context, activations of a step, graphs; assumed
STAGES = (1, 2, 4, 8)


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
    known = []
    for name in wanted:
        try:
            precision_of(name, service.nodes.kind)
        except ConfigError:
            if len(wanted) == 1:
                raise
            continue
        known.append(name)
    return known


@dataclass(frozen=True)
class Engines:
    """Engines in one precision, as arrays of the same length.

    Attributes:
        precision: of weights.
        tp, pp, ranks: degrees, as of ``Part``.
        engine: step times of a pipeline stage's GPUs.
        gpus: of one engine.
        tokens: of context that one engine holds, all ranks together.
    """

    precision: str
    tp: Floats
    pp: Floats
    ranks: Floats
    engine: Engine
    gpus: Floats
    tokens: Floats

    def take(self, index: Any) -> Engines:
        """Return some of the engines, each as often as its index occurs."""
        tp, pp, ranks, gpus, tokens = (v[index] for v in (self.tp, self.pp, self.ranks, self.gpus, self.tokens))
        return Engines(self.precision, tp, pp, ranks, Engine(*(v[index] for v in self.engine)), gpus, tokens)

    def index(self, part: Part) -> int:
        """Return the place of the engine with a part's degrees."""
        same = (self.tp == part.tp) & (self.pp == part.pp) & (self.ranks == part.ranks)
        return int(np.flatnonzero(same)[0])


def tensor_degrees(service: Service) -> list[int]:
    """Return the numbers of GPUs that can split a layer."""
    nodes = service.nodes
    return [t for t in divisors(service.model.heads) if t <= max(nodes.per_node, 8) and t <= nodes.gpus]


def engines(service: Service, precision: str, kv_share: float) -> Engines:
    """Return engines of all degrees that the cluster has room for."""
    model, nodes = service.model, service.nodes
    degrees = []
    for t in tensor_degrees(service):
        degrees += [(t, stages, 1) for stages in STAGES if stages <= model.layers and t * stages <= nodes.gpus]
        if model.experts and t > 1:
            degrees.append((1, 1, t))  # attention data-parallel, experts over all
    tp, pp, ranks = (np.array(column, dtype=float) for column in zip(*degrees, strict=True))
    weight_bytes, speed, four = precision_of(precision, nodes.kind)
    width = tp * ranks
    made = engine(
        shape_of(model),
        nodes,
        service.stack,
        gpus=width,
        ranks=ranks,
        weight_bytes=weight_bytes,
        speed=speed,
        cache_bytes=cache_bytes_of(precision),
        four=four,
    )
    made = Engine(*(np.broadcast_to(np.asarray(v, dtype=float), tp.shape) for v in made))
    made = corrected(made, step_factors(service.backend, model.name, nodes.kind, precision))
    free = nodes.memory_gb * 1e9 * kv_share - RESERVED_GB * 1e9 - made.bytes_per_gpu / pp
    tokens = np.maximum(free, 0.0) / np.maximum(made.cache_bytes / pp, 1e-9) * ranks
    return Engines(precision, tp, pp, ranks, made, width * pp, tokens)


def problems(plan: ServePlan, service: Service) -> list[str]:
    """Say which rules a plan breaks, each with the nearest legal values; empty for a legal plan."""
    model, nodes, legal = service.model, service.nodes, tensor_degrees(service)
    broken = []
    for what, part in (("engines", plan.engines), ("prefill", plan.prefill)):
        if part is None:
            continue
        if min(part.count, part.tp, part.pp, part.ranks) < 1:
            broken.append(f"{what}: count, tp, pp and ranks must be at least 1")
            continue
        if part.tp not in legal and part.ranks == 1:
            broken.append(
                f"{what}: tp {part.tp} must divide the {model.heads} attention heads and fit into a node; nearest:"
                f" {near(part.tp, legal)}"
            )
        if part.pp not in STAGES or part.pp > model.layers:
            broken.append(f"{what}: pp {part.pp} must be 1, 2, 4 or 8, and at most the {model.layers} layers")
        if part.ranks > 1 and (not model.experts or part.tp > 1 or part.pp > 1 or part.ranks not in legal):
            broken.append(
                f"{what}: attention ranks need a model with experts, tp 1 and pp 1; nearest number of ranks:"
                f" {near(part.ranks, legal)}"
            )
    if plan.gpus > nodes.gpus:
        broken.append(f"the plan needs {plan.gpus} GPUs, and there are {nodes.gpus}")
    if not 0.1 <= plan.kv_share <= 1:
        broken.append(f"kv_share must be 0.1 to 1, not {plan.kv_share}")
    if plan.max_batch < 1 or plan.max_tokens < 1:
        broken.append("max_batch and max_tokens must be at least 1")
    return broken
