"""From a service, its knobs and requests to a simulation, and from that to metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.parallelism.serving import RESERVED_GB, Part, ServePlan, Service, problems
from tunewright.envs.parallelism.steptime import (
    Engine,
    cache_bytes_of,
    corrected,
    decode_s,
    engine,
    precision_of,
    prefill_s,
    shape_of,
    step_factors,
)  # fmt: skip
from tunewright.envs.scheduling import limits
from tunewright.envs.scheduling.outcomes import jain, spread
from tunewright.envs.scheduling.serving import policies, state
from tunewright.envs.scheduling.serving.requests import CHUNK_TOKENS, Requests
from tunewright.errors import ConfigError

HOST_SHARE = 0.7  # of the link to the host that swapping reaches; assumed
SWAP_OPERATION_S = 1e-5  # of starting a copy; FastSwitch reports that starting small copies dominates; assumed
FABRIC_SHARE = 0.8  # of the fabric that moving a cache reaches; assumed
MOVE_S = 1e-3  # of starting to move a cache; assumed
LOOKUP_S = 0.03  # of finding a kept answer; assumed
WATERMARK = 0.01  # of all blocks stay free when a request is admitted beside others (vLLM)
TYPICAL_BATCH = 32  # at which the time of a token is expected for the order of requests
MOST_WAITING = 200_000
MOST_PREDICTED = 1e12  # tokens; a wild error must not leave the range of whole numbers


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A serving system.

    Attributes:
        engine: of the replicas that decode (or do both), in numbers.
        replicas: how many.
        blocks: of its cache.
        prefill: engine of replicas that only prefill; None for an aggregated system.
        prefillers: how many of these.
        prefill_blocks: of the cache of one.
        swap_block_s: time of moving a block to the host.
        move_block_s: time of moving a block between replicas.
        gpus: of all replicas.
        dollars_hour: price of all GPUs.
        words: the system in a line.
    """

    engine: Engine
    replicas: int
    blocks: int
    prefill: Engine | None = None
    prefillers: int = 0
    prefill_blocks: int = 0
    swap_block_s: float = 0.0
    move_block_s: float = 0.0
    gpus: int = 1
    dollars_hour: float = 0.0
    words: str = ""


def setup(service: Service, plan: ServePlan, knobs: policies.Knobs) -> Setup:
    """Return the system that a serving plan describes.

    Raises:
        ConfigError: the plan cannot exist, or the model does not fit.
    """
    wrong = problems(plan, service)
    if plan.engines.pp > 1 or (plan.prefill and plan.prefill.pp > 1):
        wrong.append("pipeline stages are not simulated; take pp 1")
    if wrong:
        raise ConfigError("; ".join(wrong))
    nodes = service.nodes

    def engine_of(part: Part) -> tuple[Engine, int]:
        size, speed, four = precision_of(plan.precision, nodes.kind)
        raw = engine(
            shape_of(service.model), nodes, service.stack, gpus=part.tp * part.ranks, ranks=float(part.ranks),
            weight_bytes=size, speed=speed, cache_bytes=cache_bytes_of(plan.precision), four=four,
        )  # fmt: skip
        factors = step_factors(service.backend, service.model.name, nodes.kind, plan.precision)
        fitted = Engine(*(float(value) for value in corrected(raw, factors)))
        free = nodes.memory_gb * 1e9 * knobs.kv_share - RESERVED_GB * 1e9 - fitted.bytes_per_gpu
        return fitted, int(max(free, 0.0) / (fitted.cache_bytes * knobs.block) * part.ranks)

    first, blocks = engine_of(plan.engines)
    second, other = engine_of(plan.prefill) if plan.prefill else (None, 0)
    for what, count in (("an engine", blocks), *([("a prefill worker", other)] if second else [])):
        if count < 1:
            need = first.bytes_per_gpu / 1e9
            raise ConfigError(
                f"{service.model.name} does not fit: {what} needs {need:.1f} GB a GPU for weights, and"
                f" {nodes.memory_gb * knobs.kv_share - RESERVED_GB:.1f} GB are free; take more GPUs for each (--tp),"
                " fewer bits (--precision), or a larger kv_share"
            )
    block = first.cache_bytes * knobs.block
    return Setup(
        engine=first, replicas=plan.engines.count, blocks=blocks, prefill=second,
        prefillers=plan.prefill.count if plan.prefill else 0, prefill_blocks=other,
        swap_block_s=block / (nodes.host_gb_s * 1e9 * HOST_SHARE),
        move_block_s=block / (nodes.fabric_gb_s * 1e9 * FABRIC_SHARE),
        gpus=plan.gpus, dollars_hour=plan.gpus * nodes.dollars_hour, words=f"{service.model.name} on {plan.short}",
    )  # fmt: skip


def default_plan(service: Service, *, tp: int = 0, precision: str = "bf16", prefill_gpus: int = 0) -> ServePlan:
    """Return replicas over the whole cluster: of the smallest tensor-parallel degree that fits, unless one is given.

    Raises:
        ConfigError: no degree fits.
    """
    nodes = service.nodes
    size = precision_of(precision, nodes.kind)[0]
    legal = [t for t in (1, 2, 4, 8) if service.model.heads % t == 0 and t <= min(nodes.per_node, nodes.gpus)]
    if not tp:
        room = nodes.memory_gb * 0.9 - RESERVED_GB
        fitting = [t for t in legal if service.model.params * size / 1e9 / t < 0.85 * room]
        if not fitting:
            most = legal[-1] if legal else 1
            raise ConfigError(
                f"{service.model.name} in {precision} needs {service.model.params * size / 1e9:.0f} GB, and {most}"
                f" {nodes.gpu} have {room * most:.0f} GB free; take another cluster or --precision"
            )
        tp = fitting[0]
    left = nodes.gpus - prefill_gpus
    if left < tp or (prefill_gpus and prefill_gpus < tp):
        raise ConfigError(f"an engine needs {tp} GPUs: {nodes.gpus} GPUs with {prefill_gpus} for prefills leave none")
    prefill = Part(count=prefill_gpus // tp, tp=tp) if prefill_gpus else None
    return ServePlan(engines=Part(count=left // tp, tp=tp), prefill=prefill, precision=precision)


def predicted(output: NDArray[np.int64], error: float, seed: int) -> NDArray[np.int64]:
    """Return lengths as a predictor would give them.

    Args:
        output: true lengths.
        error: standard deviation of the log of predicted over true; 0 for a perfect one.
        seed: of the errors.
    """
    if error == 0:
        return output.copy()
    noise = np.random.default_rng([seed, 7]).normal(0.0, error, len(output))
    return np.clip(np.rint(output * np.exp(noise)), 1, MOST_PREDICTED).astype(np.int64)


def systems(
    loads: list[Requests], system: Setup, knobs: policies.Knobs, *, ttft_s: float = 2.0, tpot_s: float = 0.1,
    error: float = 0.0, seed: int = 0, log: int = 0, clients: int = 0,
) -> state.Systems:  # fmt: skip
    """Return systems that have not begun, one for each load; loads have equally many requests.

    Args:
        loads: requests of each system.
        system: what they run on.
        knobs: how.
        ttft_s, tpot_s: limits, for goodput and for the order ``slo``.
        error: of predicted lengths, see ``predicted``.
        seed: of these errors.
        log: iterations to keep for a picture.
        clients: who send their next request when they have the answer to the last; 0: requests come when the trace
            says.
    """
    count = len(loads[0])
    limits.check(ttft=ttft_s, tpot=tpot_s, error=error)
    if any(len(load) != count for load in loads):
        raise ConfigError("all systems of a batch have equally many requests")
    replicas = system.replicas + system.prefillers
    prompt_chunks = np.concatenate([load.chunks for load in loads])
    if not len(prompt_chunks):
        prompt_chunks = np.zeros(1, np.int64)
    offsets = np.cumsum([0, *(len(load.chunks) for load in loads)])
    distinct = int(prompt_chunks.max()) + 1 if offsets[-1] else 0
    chunk_blocks = CHUNK_TOKENS // knobs.block
    most_blocks = max(system.blocks, system.prefill_blocks)
    users, questions, categories = (
        max(int(getattr(load, name).max()) for load in loads) + 1 for name in ("user", "question", "category")
    )
    batch = state.Systems(
        len(loads), requests=count, replicas=replicas, most_running=min(knobs.max_seqs, count),
        block_tokens=knobs.block, chunks=distinct,
        places=4 * min(distinct, most_blocks // chunk_blocks + 1) + 64 if distinct else 0, users=users,
        questions=questions, categories=categories, log=log, prompt_chunks=prompt_chunks,
    )  # fmt: skip
    step_s = float(decode_s(system.engine, TYPICAL_BATCH, 1000.0)) / TYPICAL_BATCH
    rows = batch.requests
    for name in ("arrival_s", "prompt", "output", "user", "chunk_count", "question", "category", "version"):
        rows[name] = [getattr(load, name) for load in loads]
    rows["first_chunk"] = [load.first_chunk + offset for load, offset in zip(loads, offsets, strict=False)]
    rows["predicted"] = [predicted(load.output, error, seed + k) for k, load in enumerate(loads)]
    first_work_s = prefill_s(system.prefill or system.engine, rows["prompt"].astype(float))
    rows["first_work_s"], rows["work_s"] = first_work_s, first_work_s + rows["predicted"] * step_s
    rows["rank"] = [_groups(load) for load in loads]
    if clients:
        rows["arrival_s"][:, clients:] = np.inf
    batch._set(
        prefiller_count=system.prefillers, batching=policies.BATCHING.index(knobs.batching),
        order=policies.ORDER.index(knobs.order), admission=policies.ADMISSION.index(knobs.admission),
        routing=policies.ROUTING.index(knobs.routing), swap=knobs.preemption == "swap", swap_async=knobs.swap_async,
        swap_group_blocks=knobs.swap_group, caching=knobs.caching and distinct > 0, most_tokens=knobs.max_tokens,
        chunk_tokens=knobs.chunk, most_output_tokens=knobs.max_output, quantum_tokens=knobs.quantum,
        guesses=knobs.guesses, closed=clients > 0, released=clients, chunk_blocks=chunk_blocks, hash_chunks=2,
        most_answers=knobs.answers, ttft_limit_s=ttft_s, tpot_limit_s=tpot_s, usable_share=1 - knobs.reserve,
        swap_operation_s=SWAP_OPERATION_S, swap_block_s=system.swap_block_s, move_s=MOVE_S,
        move_block_s=system.move_block_s, draft_share=knobs.draft, lookup_s=LOOKUP_S,
        # tokens of a step: those that were guessed right in a row, and one more
        tokens_per_step=sum(knobs.accept**ahead for ahead in range(knobs.guesses + 1)),
    )  # fmt: skip
    blocks = np.full(replicas, system.blocks)
    blocks[: system.prefillers] = system.prefill_blocks
    batch.replicas["total_blocks"] = batch.replicas["free_blocks"] = blocks
    batch.replicas["watermark_blocks"] = np.maximum((blocks * WATERMARK).astype(int), 1)
    batch.ttl_s[:] = knobs.answer_ttl_s
    if knobs.answer_fresh_s >= 0:
        batch.ttl_s[:, 0] = knobs.answer_fresh_s
    return batch


def _groups(requests: Requests) -> NDArray[np.int64]:
    """Rank of each request's group: those that share their first chunk, in the order in which groups appear."""
    if not len(requests.chunks):
        return np.arange(len(requests))
    place = np.minimum(requests.first_chunk, len(requests.chunks) - 1)
    first = np.where(requests.chunk_count > 0, requests.chunks[place], -1)
    seen: dict[int, int] = {}
    return np.array([seen.setdefault(int(chunk), i) if chunk >= 0 else i for i, chunk in enumerate(first)])


@dataclass
class Outcome:
    """What came of a simulation.

    Attributes:
        systems: the state at its end, of one system.
        requests: what was served.
        setup, knobs: on what, and how.
        ttft_s, tpot_s: limits of goodput.
        seconds: that simulating took.
        given_up: too many requests waited, so it was ended.
        notes: for people.
    """

    systems: state.Systems
    requests: Requests
    setup: Setup
    knobs: policies.Knobs
    ttft_s: float
    tpot_s: float
    seconds: float
    given_up: bool
    notes: list[str] = field(default_factory=list)


def simulate(
    requests: Requests, system: Setup, knobs: policies.Knobs, *, ttft_s: float = 2.0, tpot_s: float = 0.1,
    error: float = 0.0, seed: int = 0, log: int = 0, clients: int = 0, most_waiting: int = MOST_WAITING,
) -> Outcome:  # fmt: skip
    """Serve requests until none is left; see ``systems`` for the arguments.

    Raises:
        ConfigError: a limit is not above 0.
    """
    from tunewright.envs.scheduling.serving import kernel

    batch = systems(
        [requests], system, knobs, ttft_s=ttft_s, tpot_s=tpot_s, error=error, seed=seed, log=log, clients=clients
    )
    start = time.perf_counter()
    ended = kernel.run(batch.address, 0, system.engine, system.prefill or system.engine, most_waiting, 0)
    return Outcome(batch, requests, system, knobs, ttft_s, tpot_s, time.perf_counter() - start, ended == -2)


def _counted(counts: NDArray[np.int64]) -> dict[str, float | None]:
    """Spread of times between tokens, from their counts by length; each is the middle of its bin, to 3 %."""
    total = int(counts.sum())
    if not total:
        return spread(counts[:0])
    middle_s = state.GAP_LEAST_S * state.GAP_STEP ** (np.arange(state.GAP_BINS) + 0.5)
    passed = np.cumsum(counts)
    percentiles = {f"p{p}": float(middle_s[np.searchsorted(passed, p / 100 * total)]) for p in (50, 90, 99)}
    return {"mean": float((middle_s * counts).sum() / total), **percentiles}


def metrics(outcome: Outcome) -> dict[str, Any]:
    """Return the metrics of an outcome.

    TTFT is from arrival to the first token, TPOT the mean time of each further one of a request, TBT the time between
    any two tokens of a sequence. A request is good if both are within their limits. Fairness is explained at
    ``fairness``.
    """
    requests, replicas, system = (
        records[0] for records in (outcome.systems.requests, outcome.systems.replicas, outcome.systems.systems)
    )
    done = requests["phase"] == state.DONE
    arrival_s, output = requests["arrival_s"], requests["output"]
    first_s, last_s = (np.where(done, requests[name], arrival_s) for name in ("first_at", "done_at"))
    ttft_s, tpot_s = first_s - arrival_s, (last_s - first_s) / np.maximum(output - 1, 1)
    answered = done & (requests["replica"] < 0)
    longer = done & (output > 1)
    good = done & (ttft_s <= outcome.ttft_s) & ((tpot_s <= outcome.tpot_s) | (output <= 1))
    end_s = float(max(requests["done_at"][done].max(initial=0.0), system["now_s"]))
    span_s = max(end_s - float(arrival_s[0]), 1e-9)
    tokens = float(output[done].sum())
    work = requests["prompt"][done] + state.DECODE_WEIGHT * output[done]
    busy_s = np.maximum(replicas["busy_s"], 1e-12)
    prompts = float(requests["prompt"][done].sum())
    found = {
        "ttft_s": spread(ttft_s[done]),
        "tpot_s": spread(tpot_s[longer]),
        "tbt_s": _counted(outcome.systems.gaps[0]["value"]),
        "response_s": spread((requests["done_at"] - arrival_s)[done]),
        "throughput_tokens_per_s": tokens / span_s,
        "throughput_requests_per_s": float(done.sum()) / span_s,
        "goodput_requests_per_s": float(good.sum()) / span_s,
        "good_share": float(good.sum()) / len(outcome.requests),
        "fairness": fairness(requests["user"][done], arrival_s[done], last_s[done], work),
        "dollars_per_million_tokens": outcome.setup.dollars_hour / 3600 * span_s / tokens * 1e6 if tokens else None,
        "kv_use_mean": float((replicas["used_s"] / busy_s).mean()),
        "kv_use_peak": float((replicas["peak_blocks"] / replicas["total_blocks"]).max()),
        "busy": float(busy_s.mean() / span_s),
        "batch_mean": float((replicas["batched_s"] / busy_s).mean()),
        "iterations": int(replicas["iterations"].sum()),
        "preemptions": int(system["preemptions"]),
        "longest_stall_s": float(requests["stall_s"][done].max(initial=0.0)),
        "prefix_hit_share": float(requests["hit_tokens"][done].sum() / prompts) if prompts else 0.0,
    }
    if outcome.knobs.answers:
        asked = max(int((requests["question"] >= 0).sum()), 1)
        found["answered_share"] = float(answered.sum()) / asked
        found["stale_share"] = float(system["stale"]) / max(int(system["answered"]), 1)
    return found


def fairness(user: Any, start: Any, end: Any, work: Any) -> float:
    """Return how evenly users were served, 1 where everybody got an equal part, or all that was asked for.

    A user's due is an equal part of all service in every moment in which the user has unfinished requests. The index is
    Jain's, over the users' parts of their dues, each at most 1.

    Args:
        user, start, end, work: of each request: its user, when it came and ended (s), and its service (weighted
            tokens).
    """
    if not len(user):
        return 1.0
    order = np.lexsort((start, user))
    stays: list[tuple[int, float, float]] = []  # when a user had something unfinished
    for who, came, went in zip(user[order].tolist(), start[order].tolist(), end[order].tolist(), strict=True):
        if stays and stays[-1][0] == who and came <= stays[-1][2]:
            stays[-1] = (who, stays[-1][1], max(stays[-1][2], went))
        else:
            stays.append((who, came, went))
    owners, begins, ends = (np.array(column) for column in zip(*stays, strict=True))
    times = np.concatenate([begins, ends])
    steps = np.concatenate([np.ones(len(begins)), -np.ones(len(ends))])
    at = np.argsort(times, kind="stable")
    times, here = times[at], np.cumsum(steps[at])
    gaps = np.diff(times)
    busy = float(gaps[here[:-1] > 0].sum())
    passed = np.concatenate([[0.0], np.cumsum(np.where(here[:-1] > 0, gaps / np.maximum(here[:-1], 1), 0.0))])
    equal = np.interp(ends, times, passed) - np.interp(begins, times, passed)
    people = np.unique(user)
    due = np.array([equal[owners == person].sum() for person in people]) * float(work.sum()) / max(busy, 1e-12)
    got = np.array([work[user == person].sum() for person in people])
    return jain(np.minimum(got / np.maximum(due, 1e-12), 1.0))


def stability(outcome: Outcome) -> tuple[bool, str]:
    """Say whether the system keeps up with its load, and if not, by how much it falls behind."""
    requests, system = outcome.systems.requests[0], outcome.systems.systems[0]
    served = requests["phase"] == state.DONE
    waiting = int((~served & (requests["phase"] != state.REJECTED)).sum())
    if outcome.given_up:
        return False, (
            f"given up at {system['now_s']:,.0f} s with more than the allowed requests waiting; {waiting:,} were not"
            " served: the load is more than the system carries"
        )
    last_s = float(requests["arrival_s"][-1])
    drain_s = float(requests["done_at"][served].max(initial=last_s)) - last_s
    span_s = max(outcome.requests.duration_s, 1e-9)
    ttft_s = requests["first_at"] - requests["arrival_s"]
    half = len(ttft_s) // 2
    if served[half:].any() and served[:half].any() and len(ttft_s) >= 200:
        early_s, late_s = (float(np.median(ttft_s[part][served[part]])) for part in (slice(half), slice(half, None)))
        if drain_s > 0.1 * span_s and late_s > 2 * early_s and late_s > 2 * outcome.ttft_s:
            return False, (
                f"unstable: the queue grows to the end; serving what was left took {drain_s:,.1f} s after"
                f" {span_s:,.1f} s of arrivals, and the median wait for a first token rose from {early_s:.2f} to"
                f" {late_s:.2f} s. Lower the load by about {100 * (1 - span_s / (span_s + drain_s)):.0f} %, or add"
                " replicas"
            )
    return True, ""
