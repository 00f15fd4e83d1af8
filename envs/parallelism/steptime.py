"""How long one iteration of an LLM engine takes: the one step-time model, for serving plans and the simulator.

An engine decodes a batch of sequences and runs prefills between or beside the decode steps. The time of a step is
what the
weights need to come through memory or the products to be computed, whichever is longer, plus the key-value cache's way
through memory, plus all-reduces, plus fixed times of the software. Everything is arithmetic on numbers or arrays, so it
runs on whole tables of engines and inside compiled loops. Constants were fitted to measured plans; docs/parallelism.md
says how well they hold.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tunewright.envs.parallelism.clusters import Nodes
from tunewright.envs.parallelism.models import Model
from tunewright.errors import ConfigError, unknown

_FILE = Path(__file__).with_name("presets") / "serving.toml"
BACKENDS = ("trtllm", "sglang", "vllm")
# bytes of a weight (with scales), and how much faster than bfloat16 products are where the GPU has them
PRECISIONS = {"bf16": (2.0, 1.0), "fp8": (1.0, 2.0), "int4": (0.53, 1.0), "fp4": (0.5625, 4.0)}


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Constants of an engine's software on a kind of node; times in seconds, shares without unit.

    Attributes:
        base_s: of a step.
        layer_s: of a layer in a step.
        expert_s: of a layer with experts in a step, beside that.
        host: factor on these three, by the host's speed.
        memory: share of the memory's bandwidth that weights reach.
        flops: share of the peak that decode steps reach.
        cache: share of the bandwidth that reading keys and values reaches.
        latent: factor on reading the cache of latent attention.
        hop_s: latency of an all-reduce for each doubling of the GPUs.
        link: share of the links' bandwidth.
        far: factor on all-reduces across nodes.
        sequence_s: of each sequence in a step.
        prefill: factor on a prefill's ideal time.
        prefill_fp4: the same with 4-bit weights, beside that.
        step_fp4: factor on weights and products of a step with 4-bit weights.
        admit_s: of admitting a request, while others wait.
        most: sequences of a step and attention rank that the engine batches at most by default.
        first_s: fixed part of the time to the first token.
        first_steps: decode steps that a first token waits for.
        first_prefill: factor on a prefill's time for the request itself.
        wave: share of the other requests' prefills that a request waits for, in a closed loop.
        wave_power: how that grows with their number.
    """

    base_s: float = 5e-4
    layer_s: float = 3e-5
    expert_s: float = 3e-5
    host: float = 1.0
    memory: float = 0.7
    flops: float = 0.6
    cache: float = 0.8
    latent: float = 0.6
    hop_s: float = 5e-6
    link: float = 0.9
    far: float = 5.0
    sequence_s: float = 3e-5
    prefill: float = 1.7
    prefill_fp4: float = 1.2
    step_fp4: float = 0.85
    admit_s: float = 0.005
    most: float = 330.0
    first_s: float = 0.06
    first_steps: float = 9.0
    first_prefill: float = 1.4
    wave: float = 0.09
    wave_power: float = 0.1


class Engine(NamedTuple):
    """An engine in numbers, as compiled code takes it; every field may be an array."""

    ranks: Any  # attention ranks that split the sequences
    fixed_s: Any  # of a step
    weights_s: Any  # of a step: weights that every step reads
    experts_s: Any  # of a step that touches all experts
    chance: Any  # that a token leaves an expert alone
    token_s: Any  # products of a token whose weights are split over all GPUs
    rank_token_s: Any  # products of a token on its attention rank
    reduce_s: Any  # all-reduces of a token, bandwidth
    cache_s: Any  # reading one token of context
    sequence_s: Any
    prefill_s: Any  # of a prompt's token
    prefill_pair_s: Any  # of a prompt's token for each token before it
    admit_s: Any
    most: Any
    bytes_per_gpu: Any  # weights
    cache_bytes: Any  # of a token of context on each GPU of a rank
    # neither is known apart from the rest for real engines
    part_s: Any = 0.0  # of each prompt of which an iteration computes a part
    both_s: Any = 0.0  # of an iteration that decodes and computes prompts, where these are passes of their own


def larger(a: Any, b: Any) -> Any:
    """Return the larger of two numbers or arrays, in a form that compiles."""
    return 0.5 * (a + b + abs(a - b))


def missed(chance: Any, tokens: Any) -> Any:
    """Return the share of experts that no token uses."""
    return chance**tokens


def decode_s(engine: Engine, batch: Any, context: Any) -> Any:
    """Return the time of a step that decodes.

    Args:
        engine: the engine.
        batch: sequences, all attention ranks together.
        context: mean tokens of a sequence so far.

    Returns:
        Seconds.
    """
    share = batch / engine.ranks
    touched = 1.0 - missed(engine.chance, batch)
    heavy = larger(engine.weights_s + engine.experts_s * touched, engine.token_s * batch + engine.rank_token_s * share)
    return engine.fixed_s + heavy + engine.reduce_s * batch + (engine.cache_s * context + engine.sequence_s) * share


def prefill_s(engine: Engine, tokens: Any, before: Any = 0.0) -> Any:
    """Return the time of computing a prompt, or a chunk of one.

    Args:
        engine: the engine.
        tokens: tokens of the chunk.
        before: tokens of the prompt that were computed already.

    Returns:
        Seconds.
    """
    return engine.prefill_s * tokens + engine.prefill_pair_s * tokens * (before + 0.5 * tokens)


def tpot_s(engine: Engine, batch: Any, isl: Any, osl: Any) -> Any:
    """Return the mean time of an output token at a steady batch, with prefills between the steps."""
    return decode_s(engine, batch, isl + 0.5 * osl) + batch / osl * (prefill_s(engine, isl) + engine.admit_s)


def iteration_s(engine: Engine, batch: Any, context: Any, tokens: Any, pairs: Any) -> Any:
    """Return the time of an iteration that decodes and computes parts of prompts at once.

    Decoding waits for the memory and prompts for arithmetic, so the weights come once, beside the products; without
    prompts it is ``decode_s``. Attention is not shared.

    Args:
        engine: the engine.
        batch: tokens that are decoded, all attention ranks together.
        context: tokens that they look back at, summed over the sequences.
        tokens: of prompts.
        pairs: tokens that those look back at, summed over the tokens.

    Returns:
        Seconds.
    """
    touched = 1.0 - missed(engine.chance, batch + tokens)
    computed = (engine.token_s + engine.rank_token_s / engine.ranks) * batch + engine.prefill_s * tokens
    heavy = larger(engine.weights_s + engine.experts_s * touched, computed)
    looked = (engine.cache_s * context + engine.sequence_s * batch) / engine.ranks
    both = engine.both_s * ((batch > 0) * (tokens > 0))
    return engine.fixed_s + both + heavy + engine.reduce_s * batch + looked + engine.prefill_pair_s * pairs


class Shape(NamedTuple):
    """What of a model the step time depends on; every field may be an array."""

    layers: Any
    attention: Any  # weights of a layer
    dense: Any  # feed-forward weights that every token uses, all layers
    expert: Any  # weights of one expert
    experts: Any
    top_k: Any
    moe_layers: Any
    hidden: Any
    cache: Any  # numbers a token leaves in a layer
    full_every: Any
    head: Any  # weights of the output layer
    scores: Any  # heads * (dimension of query and key + of value)
    latent: Any
    kv_heads: Any


def shape_of(model: Model) -> Shape:
    """Return the shape of a model."""
    dense_layers = model.layers - model.moe_layers
    shared = model.moe_layers * model.shared_experts * model.expert_params
    return Shape(
        layers=model.layers,
        attention=model.attention_params,
        dense=dense_layers * model.dense_ffn_params + shared,
        expert=model.expert_params,
        experts=model.experts,
        top_k=model.top_k,
        moe_layers=model.moe_layers,
        hidden=model.hidden,
        cache=model.kv_bytes,
        full_every=model.full_every,
        head=model.embedding_params,
        scores=model.heads * (model.qk_dim + model.v_dim),
        latent=float(model.kv_rank > 0),
        kv_heads=model.kv_heads,
    )


def engine(
    shape: Shape, nodes: Nodes | Any, stack: Stack | Any, *, gpus: Any, ranks: Any = 1.0, weight_bytes: Any = 2.0,
    speed: Any = 1.0, cache_bytes: Any = 1.0, four: Any = 0.0,
) -> Engine:  # fmt: skip
    """Return an engine in numbers; arguments may be arrays.

    Args:
        shape: the model.
        nodes: the nodes.
        stack: constants of the software.
        gpus: GPUs of the engine.
        ranks: attention ranks (data parallelism inside the engine); ``gpus / ranks`` GPUs split the heads.
        weight_bytes: of a weight.
        speed: of products over bfloat16's peak.
        cache_bytes: of a number in the key-value cache.
        four: 1 for 4-bit weights.
    """
    peak, rate, link = nodes.bf16_tflops * 1e12, nodes.memory_gb_s * 1e9, nodes.link_gb_s * 1e9 * stack.link
    tp = gpus / ranks
    both = 1.0 / gpus
    far = np.where(gpus > nodes.per_node, stack.far, 1.0)
    thin = np.where(four > 0, stack.step_fp4, 1.0)
    attention = shape.layers * shape.attention
    static = (attention / tp + shape.dense * both) * weight_bytes + shape.head * 2.0 * both
    routed = shape.moe_layers * shape.experts * shape.expert * weight_bytes * both
    per_flop = 2.0 / (peak * speed * stack.flops)
    split = np.where(shape.latent > 0, 1.0, np.minimum(tp, shape.kv_heads))
    per_context = shape.cache * shape.layers / shape.full_every * cache_bytes / split
    moved = 4.0 * shape.layers * shape.hidden * (1.0 - both) / link
    work = attention + shape.dense + shape.moe_layers * shape.top_k * shape.expert
    slow = stack.prefill * np.where(four > 0, stack.prefill_fp4, 1.0)
    hops = 2.0 * shape.layers * stack.hop_s * np.log2(np.maximum(gpus, 1.0)) * far
    return Engine(
        ranks=ranks,
        fixed_s=(stack.base_s + shape.layers * stack.layer_s + shape.moe_layers * stack.expert_s) * stack.host + hops,
        weights_s=static / (rate * stack.memory) * thin,
        experts_s=routed / (rate * stack.memory) * thin,
        chance=np.where(shape.experts > 0, 1.0 - shape.top_k / np.maximum(shape.experts, 1.0), 1.0),
        token_s=per_flop * (shape.dense + shape.moe_layers * shape.top_k * shape.expert + shape.head) * both * thin,
        rank_token_s=per_flop * attention / tp * thin,
        reduce_s=moved * far,
        cache_s=per_context / (rate * stack.cache) * np.where(shape.latent > 0, stack.latent, 1.0),
        sequence_s=stack.sequence_s,
        prefill_s=2.0 * work / (peak * speed * gpus) * slow + moved,
        prefill_pair_s=4.0 * shape.scores * shape.layers / shape.full_every / (peak * gpus) * slow,
        admit_s=stack.admit_s,
        most=stack.most,
        bytes_per_gpu=static + routed,
        cache_bytes=per_context,
    )


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def constants() -> dict[str, Any]:
    """Return all fitted constants, as they stand in the file."""
    return _file()


def stack_of(backend: str, kind: str) -> Stack:
    """Return the constants of a backend on a kind of node.

    Raises:
        UnknownNameError: there is no such backend.
    """
    data = _file()
    if backend not in data["backend"]:
        raise unknown("backend", backend, list(data["backend"]))
    common: Mapping[str, float] = data["common"]
    return Stack(**{**common, **data["backend"][backend], "host": data["host"].get(kind, 1.0)})


class Factors(NamedTuple):
    """By what the measured parts of a stack's step differ from the model's."""

    fixed: float = 1.0
    weights: float = 1.0  # with products and all-reduces
    cache: float = 1.0
    prefill: float = 1.0


def stack_name(backend: str, model: str, kind: str, precision: str, mode: str) -> str:
    """Return how the table of corrections names a stack."""
    return f"{mode} {backend} {model} {kind} {precision}"


def _of_version(what: str, stack: str, version: str | None) -> float:
    table: Mapping[str, float] = _file().get("correction", {}).get(what, {})
    return 1.0 if version is None else table.get(f"{stack} {version or '-'}", 1.0)


def step_factors(
    backend: str, model: str, kind: str, precision: str, mode: str = "agg", version: str | None = None
) -> Factors:
    """Return the factors of a stack's steps; all 1 where none was measured, as those of other GPUs do not fit.

    Args:
        backend, model, kind, precision, mode: the stack.
        version: of the backend, as the measured table writes it, "" where it names none; None for the middle of all.
    """
    stack = stack_name(backend, model, kind, precision, mode)
    parts: list[float] = _file().get("correction", {}).get("parts", {}).get(stack, [1.0] * 4)
    whole = _of_version("version", stack, version)
    return Factors(*(whole * f for f in parts))


def first_factor(
    backend: str, model: str, kind: str, precision: str, mode: str = "agg", version: str | None = None
) -> float:
    """Return the factor of a stack's time to the first token in the closed formula; arguments as ``step_factors``."""
    stack = stack_name(backend, model, kind, precision, mode)
    table: Mapping[str, float] = _file().get("correction", {}).get("first", {})
    return table.get(stack, 1.0) * _of_version("first", stack, version)


_PARTS = {
    "fixed": ("fixed_s", "both_s"),
    "weights": ("weights_s", "experts_s", "token_s", "rank_token_s", "reduce_s"),
    "cache": ("cache_s", "sequence_s"),
    "prefill": ("prefill_s", "prefill_pair_s", "admit_s", "part_s"),
}


def corrected(engine: Engine, factors: Factors) -> Engine:
    """Return an engine whose parts take longer by factors."""
    return engine._replace(
        **{
            field: getattr(engine, field) * getattr(factors, part)
            for part, fields in _PARTS.items()
            for field in fields
        }
    )


def cache_bytes_of(precision: str) -> float:
    """Return bytes of a number in the key-value cache, by the precision of weights (engines' defaults)."""
    return 2.0 if precision == "bf16" else 1.0


def precision_of(name: str, kind: str) -> tuple[float, float, float]:
    """Return bytes of a weight, speed over bfloat16 and whether weights have four bits.

    Raises:
        ConfigError: the kind of node has no such products.
        UnknownNameError: there is no such precision.
    """
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    size, speed = PRECISIONS[name]
    if kind in ("a100", "mi250x", "jean-zay") and name in ("fp8", "fp4"):
        raise ConfigError(f"{kind} has no {name.upper()}; take bf16 or int4")
    if name == "fp4" and not kind.startswith(("b", "gb")):
        speed = 1.0  # weights are unpacked before the products
    return size, speed, float(name == "fp4")
