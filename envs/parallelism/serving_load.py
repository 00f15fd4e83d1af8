"""What serving plans give at a load: times to the first and to each further token, and how much they carry.

At a rate of requests the steady batch follows from Little's law, the wait for a prefill from an M/D/1 queue; a plan
that cannot carry the load says so. Step times are those of ``steptime``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from tunewright.envs.parallelism.serving import Engines, Load, ServePlan, Service, engines, problems
from tunewright.envs.parallelism.steptime import Stack, decode_s, prefill_s, tpot_s
from tunewright.envs.parallelism.training import Floats
from tunewright.errors import ConfigError

RESULTS = ("ttft_s", "tpot_s", "use", "batch", "gpus", "cache_share")


# -- times of requests that arrive as they please or run in a closed loop ---------------------------


class Steady(NamedTuple):
    """The steady state of engines that decode; arrays of the same length."""

    batch: Floats
    tpot_s: Floats
    use: Floats  # load over what is carried


def steady(service: Service, load: Load, each: Engines, count: Floats, max_batch: Any, *, apart: bool) -> Steady:
    """Return the steady state, by bisection on the batch.

    By Little's law the batch is rate * output tokens * time of a token, which itself depends on the batch.

    Args:
        service: model, nodes and software.
        load: all requests.
        each: the engine of each plan.
        count: engines that share the load.
        max_batch: sequences of an attention rank at most.
        apart: whether other engines prefill.
    """
    hops_s = (each.pp - 1.0) * service.stack.hop_s
    rate = load.rate / count
    most = np.minimum(max_batch * each.ranks * each.pp, each.tokens / (load.isl + load.osl))

    def token_s(batch: Floats) -> Any:
        group = batch / each.pp
        if apart:
            return decode_s(each.engine, group, load.isl + 0.5 * load.osl) + hops_s
        return tpot_s(each.engine, group, load.isl, load.osl) + hops_s

    use = np.where(most >= 1.0, rate * load.osl * token_s(np.maximum(most, 1.0)) / np.maximum(most, 1.0), np.inf)
    low, high = np.zeros_like(rate), np.maximum(most, 1e-9)
    for _ in range(36):
        middle = 0.5 * (low + high)
        more = rate * load.osl * token_s(middle) > middle
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    batch = np.where(use <= 1.0, high, most)
    return Steady(batch, token_s(np.maximum(batch, 1.0)), use)


def first_token_open_s(service: Service, prefill: Floats, step: Floats, busy: Floats, chunks: Any) -> Any:
    """Return the mean time to the first token at random arrivals: an M/D/1 queue for prefills, its own, and steps.

    Args:
        service: gives the constants of the software.
        prefill: time of computing the prompt alone [s].
        step: time of an output token [s].
        busy: share of the time that is spent on prefills.
        chunks: parts in which a prompt is computed.
    """
    stack = service.stack
    wait = np.where(busy < 1.0, prefill * busy / (2.0 * np.maximum(1.0 - busy, 1e-9)), np.inf)
    return wait + stack.first_prefill * prefill + (stack.first_steps + chunks - 1.0) * step + stack.first_s


def first_token_s(prefill_s: Any, step_s: Any, others: Any, stack: Stack) -> Any:
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


def unknown_batch(concurrency: Any, isl: Any, osl: Any, fitted: Mapping[str, float]) -> Any:
    """Sequences of one worker where a table says the concurrency but not the number of workers.

    Args:
        concurrency: requests that run at once.
        isl, osl: tokens of prompt and output; long prompts take workers from decoding, long outputs add some.
        fitted: the constants ``scale``, ``power``, ``isl``, ``osl``.
    """
    lengths = (isl / 1024.0) ** fitted["isl"] * (osl / 1024.0) ** fitted["osl"]
    return np.maximum(concurrency ** fitted["power"] * fitted["scale"] * lengths, 1.0)


# -- values of plans --------------------------------------------------------------------------------


def cache_share(load: Load, batch: Floats, tokens: Floats) -> Floats:
    """Return the share of the cache that a steady batch fills."""
    return batch * (load.isl + 0.5 * load.osl) / tokens


def handover_s(service: Service, load: Load, cache_bytes: Any) -> Any:
    """Return the time of sending a prompt's cache to the engine that decodes; each GPU sends its part."""
    return load.isl * cache_bytes / (service.nodes.fabric_gb_s * 0.8e9)


def aggregated(service: Service, load: Load, each: Engines, count: Floats, max_batch: Any, max_tokens: Any) -> Floats:
    """Return what plans give whose engines prefill and decode.

    Args:
        service: model, nodes and software.
        load: all requests.
        each: the engine of each plan.
        count: engines of each plan.
        max_batch, max_tokens: limits of each plan, as of ``ServePlan``.

    Returns:
        Shape (n, 6), the columns of ``RESULTS``.
    """
    state = steady(service, load, each, count, max_batch, apart=False)
    prefill = prefill_s(each.engine, load.isl)
    busy = load.rate / count * prefill / each.pp
    step = decode_s(each.engine, np.maximum(state.batch / each.pp, 1.0), load.isl + 0.5 * load.osl)
    ttft = first_token_open_s(service, prefill, step, busy, np.ceil(load.isl / max_tokens))
    ttft = np.where(state.use <= 1.0, ttft, np.inf)
    filled = cache_share(load, state.batch, each.tokens)
    return np.column_stack([ttft, state.tpot_s, state.use, state.batch, count * each.gpus, filled])


def evaluate(service: Service, load: Load, plan: ServePlan) -> Floats:
    """Return what one plan gives, shape (6,), the columns of ``RESULTS``.

    Raises:
        ConfigError: the plan cannot exist.
    """
    wrong = problems(plan, service)
    if wrong:
        raise ConfigError("; ".join(wrong))
    return _one(service, load, plan, engines(service, plan.precision, plan.kv_share))


def _one(service: Service, load: Load, plan: ServePlan, pool: Engines) -> Floats:
    each, count = pool.take([pool.index(plan.engines)]), np.array([float(plan.engines.count)])
    if each.tokens[0] < load.isl + load.osl:
        return np.array([math.inf, math.inf, math.inf, 0.0, plan.gpus, math.inf])
    if plan.prefill is None:
        values: Floats = aggregated(service, load, each, count, plan.max_batch, plan.max_tokens)[0]
        return values
    state = steady(service, load, each, count, plan.max_batch, apart=True)
    worker = pool.take([pool.index(plan.prefill)])
    prefill = prefill_s(worker.engine, load.isl)
    busy = load.rate * prefill / worker.pp / plan.prefill.count
    use = np.maximum(state.use, busy)
    ttft = first_token_open_s(service, prefill, state.tpot_s, busy, math.ceil(load.isl / plan.max_tokens))
    ttft = np.where(use <= 1.0, ttft + handover_s(service, load, worker.engine.cache_bytes), math.inf)
    filled = cache_share(load, state.batch, each.tokens)
    return np.array([ttft[0], state.tpot_s[0], use[0], state.batch[0], plan.gpus, filled[0]])


def meets(values: Floats, load: Load) -> bool:
    """Whether a plan carries the load within the limits."""
    of = dict(zip(RESULTS, values, strict=True))
    return bool(of["use"] <= 1.0 and of["ttft_s"] <= load.ttft_s and of["tpot_s"] <= load.tpot_s)


def capacity(service: Service, load: Load, plan: ServePlan) -> float:
    """Return the most requests a second that a plan carries within the limits."""
    pool = engines(service, plan.precision, plan.kv_share)

    def carries(rate: float) -> bool:
        at_rate = replace(load, rate=rate)
        return meets(_one(service, at_rate, plan, pool), at_rate)

    low, high = 0.0, max(load.rate, 1e-3)
    while high < 1e7 and carries(high):
        low, high = high, high * 2
    for _ in range(20):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if carries(middle) else (low, middle)
    return low


def describe(service: Service, load: Load, plan: ServePlan, values: Floats) -> dict[str, Any]:
    """Return a plan with what it gives, as ``tunewright plan serve --json`` prints it."""
    of = dict(zip(RESULTS, map(float, values), strict=True))
    nodes, gpus, tokens = service.nodes, of["gpus"], load.rate * load.osl
    return {
        "plan": asdict(plan),
        "short": plan.short,
        "meets": meets(values, load),
        "stable": of["use"] <= 1.0,
        "use": of["use"] if math.isfinite(of["use"]) else None,
        "ttft_s": of["ttft_s"] if math.isfinite(of["ttft_s"]) else None,
        "tpot_s": of["tpot_s"],
        "gpus": int(gpus),
        "tokens_per_s_per_gpu": tokens / gpus,
        "batch": of["batch"],
        "kv_use": of["cache_share"],
        "cost": {
            "dollars_per_hour": gpus * nodes.dollars_hour,
            "dollars_per_million_tokens": gpus * nodes.dollars_hour / 3600 / tokens * 1e6,
            "joules_per_token": gpus * nodes.watts / tokens,
        },
    }
