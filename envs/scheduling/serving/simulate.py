"""From a service, its knobs and requests to a simulation, and from that to metrics."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.parallelism.serving import RESERVED_GB, Part, ServePlan, Service
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
)
from tunewright.envs.scheduling import limits as L
from tunewright.envs.scheduling.serving import policies as P
from tunewright.envs.scheduling.serving import state as S
from tunewright.envs.scheduling.serving.trace import CHUNK_TOKENS, Requests
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


def setup(service: Service, plan: ServePlan, knobs: P.Knobs) -> Setup:
    """Return the system that a serving plan describes.

    Raises:
        ConfigError: the plan cannot exist, or the model does not fit.
    """
    from tunewright.envs.parallelism.serving import problems

    wrong = problems(plan, service)
    if plan.engines.pp > 1 or (plan.prefill and plan.prefill.pp > 1):
        wrong.append("pipeline stages are not simulated; take pp 1")
    if wrong:
        raise ConfigError("; ".join(wrong))
    n = service.nodes

    def made(part: Part) -> tuple[Engine, int]:
        size, speed, four = precision_of(plan.precision, n.kind)
        raw = engine(
            shape_of(service.model), n, service.stack, gpus=part.tp * part.ranks, ranks=float(part.ranks), weight_bytes=size,
            speed=speed, cache_bytes=cache_bytes_of(plan.precision), four=four,
        )  # fmt: skip
        e = corrected(raw, step_factors(service.backend, service.model.name, n.kind, plan.precision))
        e = Engine(*(float(v) for v in e))
        free = n.memory_gb * 1e9 * knobs.kv_share - RESERVED_GB * 1e9 - e.bytes_per_gpu
        return e, int(max(free, 0.0) / (e.cache_bytes * knobs.block) * part.ranks)

    first, blocks = made(plan.engines)
    second, other = made(plan.prefill) if plan.prefill else (None, 0)
    for what, count in (("an engine", blocks), *([("a prefill worker", other)] if second else [])):
        if count < 1:
            need = first.bytes_per_gpu / 1e9
            raise ConfigError(
                f"{service.model.name} does not fit: {what} needs {need:.1f} GB a GPU for weights, and"
                f" {n.memory_gb * knobs.kv_share - RESERVED_GB:.1f} GB are free; take more GPUs for each (--tp), fewer bits"
                " (--precision), or a larger kv_share"
            )
    block = first.cache_bytes * knobs.block
    return Setup(
        engine=first, replicas=plan.engines.count, blocks=blocks, prefill=second,
        prefillers=plan.prefill.count if plan.prefill else 0, prefill_blocks=other,
        swap_block_s=block / (n.host_gb_s * 1e9 * HOST_SHARE), move_block_s=block / (n.fabric_gb_s * 1e9 * FABRIC_SHARE),
        gpus=plan.gpus, dollars_hour=plan.gpus * n.dollars_hour, words=f"{service.model.name} on {plan.short}",
    )  # fmt: skip


def default_plan(service: Service, *, tp: int = 0, precision: str = "bf16", prefill_gpus: int = 0) -> ServePlan:
    """Return replicas over the whole cluster: of the smallest tensor-parallel degree that fits, unless one is given.

    Raises:
        ConfigError: no degree fits.
    """
    n = service.nodes
    size = precision_of(precision, n.kind)[0]
    legal = [t for t in (1, 2, 4, 8) if service.model.heads % t == 0 and t <= min(n.per_node, n.gpus)]
    if not tp:
        room = n.memory_gb * 0.9 - RESERVED_GB
        fitting = [t for t in legal if service.model.params * size / 1e9 / t < 0.85 * room]
        if not fitting:
            raise ConfigError(
                f"{service.model.name} in {precision} needs {service.model.params * size / 1e9:.0f} GB, and {legal[-1] if legal else 1}"
                f" {n.gpu} have {room * (legal[-1] if legal else 1):.0f} GB free; take another cluster or --precision"
            )
        tp = fitting[0]
    left = n.gpus - prefill_gpus
    if left < tp or (prefill_gpus and prefill_gpus < tp):
        raise ConfigError(f"an engine needs {tp} GPUs: {n.gpus} GPUs with {prefill_gpus} for prefills leave none")
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
    loads: list[Requests], system: Setup, knobs: P.Knobs, *, ttft_s: float = 2.0, tpot_s: float = 0.1, error: float = 0.0,
    seed: int = 0, log: int = 0, clients: int = 0,
) -> S.Systems:  # fmt: skip
    """Return systems that have not begun, one for each load; loads have equally many requests.

    Args:
        loads: requests of each system.
        system: what they run on.
        knobs: how.
        ttft_s, tpot_s: limits, for goodput and for the order ``slo``.
        error: of predicted lengths, see ``predicted``.
        seed: of these errors.
        log: iterations to keep for a picture.
        clients: who send their next request when they have the answer to the last; 0: requests come when the trace says.
    """
    n, count = len(loads), len(loads[0])
    L.check(ttft=ttft_s, tpot=tpot_s, error=error)
    if any(len(x) != count for x in loads):
        raise ConfigError("all systems of a batch have equally many requests")
    replicas = system.replicas + system.prefillers
    offset, pieces, at = 0, [], []
    for x in loads:
        at.append(x.chunk_at + offset)
        pieces.append(x.chunks)
        offset += len(x.chunks)
    flat = np.concatenate(pieces) if offset else np.zeros(1, np.int64)
    distinct = int(flat.max()) + 1 if offset else 0
    chunk_blocks = CHUNK_TOKENS // knobs.block
    most_blocks = max(system.blocks, system.prefill_blocks)
    users = max(int(x.user.max()) for x in loads) + 1
    questions = max(int(x.question.max()) for x in loads) + 1
    categories = max(int(x.category.max()) for x in loads) + 1
    most = min(knobs.max_seqs, count)
    s = S.Systems(
        n, requests=count, replicas=replicas, most_running=most, block=knobs.block, chunks=distinct,
        places=4 * min(distinct, most_blocks // chunk_blocks + 1) + 64 if distinct else 0, users=users,
        questions=questions, categories=categories, log=log, flat=flat,
    )  # fmt: skip
    step = float(decode_s(system.engine, TYPICAL_BATCH, 1000.0)) / TYPICAL_BATCH
    asks = s.requests
    for name in ("prompt", "output", "user", "chunk_n", "question", "category", "version"):
        asks[name] = [getattr(x, name) for x in loads]
    asks["arrival"], asks["chunk_at"] = [x.arrival_s for x in loads], at
    asks["predicted"] = [predicted(x.output, error, seed + k) for k, x in enumerate(loads)]
    first = prefill_s(system.prefill or system.engine, asks["prompt"].astype(float))
    asks["work_first"], asks["work"] = first, first + asks["predicted"] * step
    asks["rank"] = [_groups(x) for x in loads]
    if clients:
        asks["arrival"][:, clients:] = np.inf
    a = knobs.accept
    values = {
        "replicas": replicas, "prefillers": system.prefillers, "requests": count, "left": count,
        "batching": P.BATCHING.index(knobs.batching), "order": P.ORDER.index(knobs.order),
        "admission": P.ADMISSION.index(knobs.admission), "routing": P.ROUTING.index(knobs.routing),
        "swap": knobs.preemption == "swap", "swap_async": knobs.swap_async, "swap_group": knobs.swap_group,
        "caching": knobs.caching and distinct > 0, "most_running": most, "most_tokens": knobs.max_tokens,
        "chunk": knobs.chunk, "most_output": knobs.max_output, "quantum": knobs.quantum, "guesses": knobs.guesses,
        "block": knobs.block, "closed": clients > 0, "released": clients, "chunk_blocks": chunk_blocks, "hash_chunks": 2, "answers": knobs.answers,
        "limit_ttft": ttft_s, "limit_tpot": tpot_s, "usable": 1 - knobs.reserve, "swap_operation_s": SWAP_OPERATION_S,
        "swap_block_s": system.swap_block_s, "move_s": MOVE_S, "move_block_s": system.move_block_s,
        # tokens of a step: those that were guessed right in a row, and one more
        "tokens_step": sum(a**j for j in range(knobs.guesses + 1)), "draft": knobs.draft, "lookup_s": LOOKUP_S,
    }  # fmt: skip
    for where, value in values.items():
        s.systems[where] = value
    blocks = np.full(replicas, system.blocks)
    blocks[: system.prefillers] = system.prefill_blocks
    s.replicas["total"] = s.replicas["free"] = blocks
    s.replicas["watermark"] = np.maximum((blocks * WATERMARK).astype(int), 1)
    s.ttl[:] = knobs.answer_ttl_s
    if knobs.answer_fresh_s >= 0:
        s.ttl[:, 0] = knobs.answer_fresh_s
    return s


def _groups(x: Requests) -> NDArray[np.int64]:
    """Rank of each request's group: those that share their first chunk, in the order in which groups appear."""
    if not len(x.chunks):
        return np.arange(len(x))
    first = np.where(x.chunk_n > 0, x.chunks[np.minimum(x.chunk_at, len(x.chunks) - 1)], -1)
    seen: dict[int, int] = {}
    return np.array([seen.setdefault(int(c), i) if c >= 0 else i for i, c in enumerate(first)])


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

    systems: S.Systems
    requests: Requests
    setup: Setup
    knobs: P.Knobs
    ttft_s: float
    tpot_s: float
    seconds: float
    given_up: bool
    notes: list[str] = field(default_factory=list)


def simulate(
    requests: Requests, system: Setup, knobs: P.Knobs, *, ttft_s: float = 2.0, tpot_s: float = 0.1, error: float = 0.0,
    seed: int = 0, log: int = 0, clients: int = 0, most_waiting: int = MOST_WAITING,
) -> Outcome:  # fmt: skip
    """Serve requests until none is left; see ``systems`` for the arguments.

    Raises:
        ConfigError: a limit is not above 0.
    """
    from tunewright.envs.scheduling.serving import kernel

    s = systems(
        [requests], system, knobs, ttft_s=ttft_s, tpot_s=tpot_s, error=error, seed=seed, log=log, clients=clients
    )
    start = time.perf_counter()
    ended = kernel.run_one(s.address, 0, system.engine, system.prefill or system.engine, most_waiting, 0)
    return Outcome(s, requests, system, knobs, ttft_s, tpot_s, time.perf_counter() - start, ended == -2)


def _spread(values: NDArray[np.float64]) -> dict[str, float | None]:
    if not len(values):
        return {"mean": None, "p50": None, "p90": None, "p99": None}
    p50, p90, p99 = np.percentile(values, [50, 90, 99])
    return {"mean": float(values.mean()), "p50": float(p50), "p90": float(p90), "p99": float(p99)}


def _counted(counts: NDArray[np.int64]) -> dict[str, float | None]:
    """Spread of times between tokens, from their counts by length; each is the middle of its bin (3 % to either side)."""
    total = int(counts.sum())
    if not total:
        return {"mean": None, "p50": None, "p90": None, "p99": None}
    middle = S.GAP_LEAST_S * S.GAP_STEP ** (np.arange(S.GAP_BINS) + 0.5)
    passed = np.cumsum(counts)
    found = {f"p{q}": float(middle[np.searchsorted(passed, q / 100 * total)]) for q in (50, 90, 99)}
    return {"mean": float((middle * counts).sum() / total), **found}


def metrics(o: Outcome) -> dict[str, Any]:
    """Return the metrics of an outcome.

    TTFT is from arrival to the first token, TPOT the mean time of each further one of a request, TBT the time between any two
    tokens of a sequence. A request is good if both are
    within their limits. Fairness is explained at ``fairness``.
    """
    asks, reps, w = o.systems.requests[0], o.systems.replicas[0], o.systems.systems[0]
    done = asks["phase"] == S.DONE
    arrival, output = asks["arrival"], asks["output"]
    first, last = np.where(done, asks["first_at"], arrival), np.where(done, asks["done_at"], arrival)
    ttft, tpot = first - arrival, (last - first) / np.maximum(output - 1, 1)
    answered = done & (asks["replica"] < 0)
    longer = done & (output > 1)
    good = done & (ttft <= o.ttft_s) & ((tpot <= o.tpot_s) | (output <= 1))
    end = float(max(asks["done_at"][done].max(initial=0.0), w["now"]))
    span = max(end - float(arrival[0]), 1e-9)
    tokens = float(output[done].sum())
    work = asks["prompt"][done] + S.DECODE_WEIGHT * output[done]
    busy = np.maximum(reps["busy"], 1e-12)
    prompts = float(asks["prompt"][done].sum())
    found = {
        "ttft_s": _spread(ttft[done]),
        "tpot_s": _spread(tpot[longer]),
        "tbt_s": _counted(o.systems.gaps[0]["v"]),
        "response_s": _spread((asks["done_at"] - arrival)[done]),
        "throughput_tokens_per_s": tokens / span,
        "throughput_requests_per_s": float(done.sum()) / span,
        "goodput_requests_per_s": float(good.sum()) / span,
        "good_share": float(good.sum()) / len(o.requests),
        "fairness": fairness(asks["user"][done], arrival[done], last[done], work),
        "dollars_per_million_tokens": o.setup.dollars_hour / 3600 * span / tokens * 1e6 if tokens else None,
        "kv_use_mean": float((reps["used"] / busy).mean()),
        "kv_use_peak": float((reps["peak"] / reps["total"]).max()),
        "busy": float(busy.mean() / span),
        "batch_mean": float((reps["batched"] / busy).mean()),
        "iterations": int(reps["iterations"].sum()),
        "preemptions": int(w["preemptions"]),
        "longest_stall_s": float(asks["stall"][done].max(initial=0.0)),
        "prefix_hit_share": float(asks["hit_tokens"][done].sum() / prompts) if prompts else 0.0,
    }
    if o.knobs.answers:
        asked = max(int((asks["question"] >= 0).sum()), 1)
        found["answered_share"] = float(answered.sum()) / asked
        found["stale_share"] = float(w["stale"]) / max(int(w["answered"]), 1)
    return found


def jain(values: Any) -> float:
    """Return Jain's fairness index, 1 for equal values and 1/n where one has all."""
    x = np.asarray(values, dtype=float)
    return float(x.sum() ** 2 / (len(x) * (x**2).sum())) if len(x) and (x > 0).any() else 1.0


def fairness(user: Any, start: Any, end: Any, work: Any) -> float:
    """Return how evenly users were served, 1 where everybody got an equal part, or all that was asked for.

    A user's due is an equal part of all service in every moment in which the user has unfinished requests. The index is
    Jain's, over the users' parts of their dues, each at most 1.

    Args:
        user, start, end, work: of each request: its user, when it came and ended (s), and its service (weighted tokens).
    """
    if not len(user):
        return 1.0
    order = np.lexsort((start, user))
    stays: list[tuple[int, float, float]] = []  # when a user had something unfinished
    for u, a, b in zip(user[order].tolist(), start[order].tolist(), end[order].tolist(), strict=True):
        if stays and stays[-1][0] == u and a <= stays[-1][2]:
            stays[-1] = (u, stays[-1][1], max(stays[-1][2], b))
        else:
            stays.append((u, a, b))
    who, begins, ends = (np.array(c) for c in zip(*stays, strict=True))
    times = np.concatenate([begins, ends])
    steps = np.concatenate([np.ones(len(begins)), -np.ones(len(ends))])
    at = np.argsort(times, kind="stable")
    times, here = times[at], np.cumsum(steps[at])
    gaps = np.diff(times)
    busy = float(gaps[here[:-1] > 0].sum())
    passed = np.concatenate([[0.0], np.cumsum(np.where(here[:-1] > 0, gaps / np.maximum(here[:-1], 1), 0.0))])
    equal = np.interp(ends, times, passed) - np.interp(begins, times, passed)
    people = np.unique(user)
    due = np.array([equal[who == u].sum() for u in people]) * float(work.sum()) / max(busy, 1e-12)
    got = np.array([work[user == u].sum() for u in people])
    return jain(np.minimum(got / np.maximum(due, 1e-12), 1.0))


def stability(o: Outcome) -> tuple[bool, str]:
    """Say whether the system keeps up with its load, and if not, by how much it falls behind."""
    asks, w = o.systems.requests[0], o.systems.systems[0]
    served = asks["phase"] == S.DONE
    waiting = int((~served & (asks["phase"] != S.REJECTED)).sum())
    if o.given_up:
        return False, (
            f"given up at {w['now']:,.0f} s with more than the allowed requests waiting; {waiting:,} were not served:"
            " the load is more than the system carries"
        )
    last = float(asks["arrival"][-1])
    drain = float(asks["done_at"][served].max(initial=last)) - last
    span = max(o.requests.duration_s, 1e-9)
    late, done = asks["first_at"] - asks["arrival"], served
    half = len(late) // 2
    if done[half:].any() and done[:half].any() and len(late) >= 200:
        early, then = float(np.median(late[:half][done[:half]])), float(np.median(late[half:][done[half:]]))
        if drain > 0.1 * span and then > 2 * early and then > 2 * o.ttft_s:
            return False, (
                f"unstable: the queue grows to the end; serving what was left took {drain:,.1f} s after {span:,.1f} s of arrivals,"
                f" and the median wait for a first token rose from {early:.2f} to {then:.2f} s. Lower the load by about"
                f" {100 * (1 - span / (span + drain)):.0f} %, or add replicas"
            )
    return True, ""


def finite(document: Any) -> Any:
    """Return a document without infinite numbers, which JSON cannot hold."""
    if isinstance(document, dict):
        return {k: finite(v) for k, v in document.items()}
    if isinstance(document, list | tuple):
        return [finite(v) for v in document]
    if isinstance(document, float) and not math.isfinite(document):
        return None
    return document
