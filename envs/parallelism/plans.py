"""Training plans: which are legal, and how to enumerate them all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewright.envs.parallelism.estimate import COLUMNS
from tunewright.envs.parallelism.training import OVERLAP, PRECISION, RECOMPUTE, Floats, Job
from tunewright.errors import ConfigError, unknown

MOST_MICRO = 16  # sequences of a micro-batch
MOST_CHUNKS = 8  # model chunks of a stage (interleaving)
MOST_CP = 64
LIMIT = 10**8  # plans that are enumerated at most


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One training plan.

    Attributes:
        tp, pp, dp, cp, ep: degrees of tensor, pipeline, data, context and expert parallelism; tp * pp * dp * cp GPUs,
            and experts are spread over ep of the dp * cp ranks.
        micro_batch: sequences of a micro-batch.
        chunks: model chunks of a stage; above 1 the pipeline is interleaved.
        zero: what the data-parallel ranks share: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too.
        recompute: activations computed again: none, selective (attention), full.
        sequence_parallel: whether tensor-parallel ranks split what lies between the matrix products.
        overlap: communication that hides behind computing: none, data (gradients), all.
        offload: whether optimizer states live in the host's memory.
        precision: of matrix products.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    micro_batch: int = 1
    chunks: int = 1
    zero: int = 1
    recompute: str = "none"
    sequence_parallel: bool = False
    overlap: str = "all"
    offload: bool = False
    precision: str = "bf16"

    @property
    def row(self) -> Floats:
        """The plan as a row of the model, shape (13,)."""
        return np.array([
            self.tp, self.pp, self.dp, self.cp, self.ep, self.micro_batch, self.chunks, self.zero,
            RECOMPUTE.index(self.recompute), self.sequence_parallel, OVERLAP.index(self.overlap), self.offload,
            PRECISION.index(self.precision),
        ], dtype=np.float64)  # fmt: skip

    @property
    def short(self) -> str:
        """The plan in a line, what is at its default left out."""
        degrees = [
            f"{name.upper()}{getattr(self, name)}" for name in ("tp", "cp", "pp", "dp", "ep") if getattr(self, name) > 1
        ]
        words = [
            *(degrees or ["one GPU"]),
            f"micro-batch {self.micro_batch}",
            *([f"{self.chunks} chunks"] if self.chunks > 1 else []),
            f"ZeRO-{self.zero}",
            *([f"{self.recompute} recomputation"] if self.recompute != "none" else []),
            *(["sequence parallel"] if self.sequence_parallel else []),
            *(["offload"] if self.offload else []),
            *(["FP8"] if self.precision == "fp8" else []),
        ]
        return ", ".join(words)


def from_row(row: Sequence[float] | Floats) -> Plan:
    """Return the plan of a row of the model."""
    of = dict(zip(COLUMNS, (int(value) for value in row), strict=True))
    return Plan(
        **{name: of[name] for name in ("tp", "pp", "dp", "cp", "ep", "micro_batch", "chunks", "zero")},
        recompute=RECOMPUTE[of["recompute"]],
        sequence_parallel=bool(of["sequence_parallel"]),
        overlap=OVERLAP[of["overlap"]],
        offload=bool(of["offload"]),
        precision=PRECISION[of["precision"]],
    )


def plan_from(values: Mapping[str, Any]) -> Plan:
    """Return a plan from names and values, such as a configuration.

    Raises:
        ConfigError: a value is not one that the plan knows.
        UnknownNameError: a name is none of a plan's.
    """
    known = Plan()
    for name in values:
        if not hasattr(known, name) or name in ("row", "short"):
            raise unknown("part of a plan", name, COLUMNS)
    for name, options in (("recompute", RECOMPUTE), ("overlap", OVERLAP), ("precision", PRECISION)):
        if values.get(name, options[0]) not in options:
            raise ConfigError(f"{name} must be one of {', '.join(options)}, not {values[name]!r}")
    parts: dict[str, Any] = {
        name: bool(value) if isinstance(getattr(known, name), bool) else value for name, value in values.items()
    }
    for name, value in parts.items():
        if isinstance(getattr(known, name), int) and not isinstance(value, int):
            raise ConfigError(f"{name} must be a whole number, not {value!r}")
    return Plan(**parts)


def divisors(n: int) -> list[int]:
    """Return all divisors of a number, ascending.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [k for k in range(1, int(n**0.5) + 1) if n % k == 0]
    return sorted({*small, *(n // k for k in small)})


def evenly(layers: int, pieces: int, *, ends: bool) -> bool:
    """Whether so many pieces of a pipeline have equally many layers, as interleaving needs.

    Args:
        layers: of the model.
        pieces: pipeline stages times chunks.
        ends: whether embedding and output layer may count as a layer each (Megatron's
            ``--account-for-embedding-in-pipeline-split`` and ``--account-for-loss-in-pipeline-split``).
    """
    return layers % pieces == 0 or (ends and (layers + 2) % pieces == 0)


def legal_chunks(job: Job, pp: int) -> list[int]:
    """Return the chunks of a stage that cut the layers evenly: 1 always, for stages may differ by a layer."""
    ends = job.calibration.embedding_slots
    more = [c for c in range(2, MOST_CHUNKS + 1) if evenly(job.model.layers, pp * c, ends=ends)]
    return [1, *(more if pp > 1 else [])]


def stage_layers(job: Job, pp: int) -> list[int]:
    """Return the layers of each pipeline stage, as the estimate counts them: at most one more than in any other.

    Where stages are uneven, the last one, which has the output layer, and then the first one have a layer less if
    embedding and output count as layers, else those in the middle.
    """
    most = -(-job.model.layers // pp)
    middle = list(range(1, pp - 1))
    order = [pp - 1, 0, *middle] if job.calibration.embedding_slots else [*middle, pp - 1, 0]
    fewer = set(order[: pp * most - job.model.layers])
    return [most - (stage in fewer) for stage in range(pp)]


def near(value: int, legal: Sequence[int]) -> str:
    """Return the legal values on both sides of a value, in words."""
    below, above = [v for v in legal if v < value], [v for v in legal if v > value]
    return " or ".join(str(v) for v in (*below[-1:], *above[:1])) or "none"


def problems(plan: Plan, job: Job) -> list[str]:
    """Say which rules a plan breaks, each with the nearest legal values; empty for a legal plan."""
    model, nodes = job.model, job.nodes
    broken = []
    for name in ("tp", "pp", "dp", "cp", "ep", "micro_batch", "chunks"):
        if getattr(plan, name) < 1:
            broken.append(f"{name} must be at least 1, not {getattr(plan, name)}")
    if broken:
        return broken
    size = plan.tp * plan.pp * plan.dp * plan.cp
    if size != nodes.gpus:
        others = plan.tp * plan.pp * plan.cp
        if nodes.gpus % others == 0:
            hint = f"dp = {nodes.gpus // others} would"
        else:
            hint = f"{others} does not divide {nodes.gpus}; tp can be {near(plan.tp, divisors(nodes.gpus))}"
        broken.append(
            f"tp {plan.tp} * pp {plan.pp} * dp {plan.dp} * cp {plan.cp} is {size}, not the {nodes.gpus} GPUs; {hint}"
        )
    for _, count, what in _split_by_tp(job):
        if count % plan.tp:
            broken.append(f"tp {plan.tp} does not divide the {count} {what}; nearest: {near(plan.tp, divisors(count))}")
            break
    if plan.pp > model.layers:
        broken.append(f"pp {plan.pp} is more than the {model.layers} layers")
    elif plan.chunks > 1 and not evenly(model.layers, plan.pp * plan.chunks, ends=job.calibration.embedding_slots):
        broken.append(
            f"chunks {plan.chunks} of {plan.pp} stages do not cut the {model.layers} layers evenly, as interleaving"
            f" needs; nearest: {near(plan.chunks, legal_chunks(job, plan.pp))}"
        )
    if job.global_batch % (plan.dp * plan.micro_batch):
        legal = divisors(job.global_batch // plan.dp) if job.global_batch % plan.dp == 0 else []
        said = (
            f"micro_batch could be {near(plan.micro_batch, legal)}"
            if legal
            else f"dp could be {near(plan.dp, divisors(job.global_batch))}"
        )
        broken.append(
            f"dp {plan.dp} * micro_batch {plan.micro_batch} does not divide the global batch of"
            f" {job.global_batch}; {said}"
        )
    elif plan.chunks > 1 and (plan.pp == 1 or (job.global_batch // (plan.dp * plan.micro_batch)) % plan.pp):
        broken.append(
            f"interleaving (chunks {plan.chunks}) needs a pipeline, and micro-batches that are a multiple of pp"
            f" {plan.pp}; there are {job.global_batch // (plan.dp * plan.micro_batch)}"
        )
    if plan.cp > 1 and job.seq % (2 * plan.cp):
        broken.append(
            f"cp {plan.cp} needs sequences that 2 * cp divides, not {job.seq}; nearest: {near(plan.cp, contexts(job))}"
        )
    if plan.ep > 1 and not model.experts:
        broken.append(f"ep {plan.ep} needs a model with experts, and {model.name} has none")
    elif plan.ep > 1 and (model.experts % plan.ep or (plan.dp * plan.cp) % plan.ep):
        legal = [e for e in divisors(model.experts) if (plan.dp * plan.cp) % e == 0]
        broken.append(
            f"ep {plan.ep} must divide the {model.experts} experts and dp * cp = {plan.dp * plan.cp}; nearest:"
            f" {near(plan.ep, legal)}"
        )
    if plan.sequence_parallel and plan.tp == 1:
        broken.append("sequence_parallel needs tp above 1")
    if plan.zero not in (0, 1, 2, 3):
        broken.append(f"zero must be 0, 1, 2 or 3, not {plan.zero}")
    elif plan.zero == 3 and plan.pp > 1:
        broken.append(
            "zero 3 gathers weights for each micro-batch and is not combined with a pipeline; take zero 1 or 2, or pp 1"
        )
    if plan.offload and plan.zero == 0:
        broken.append("offload needs zero 1 or more")
    if plan.precision == "fp8" and nodes.fp8_tflops <= nodes.bf16_tflops:
        broken.append(f"{nodes.gpu} has no FP8")
    return broken


def _split_by_tp(job: Job) -> list[tuple[str, int, str]]:
    model = job.model
    split = [("heads", model.heads, "attention heads"), ("ffn", model.ffn, "hidden units of a feed-forward layer")]
    return [*split, ("experts", model.expert_ffn, "hidden units of an expert")] if model.experts else split


def contexts(job: Job) -> list[int]:
    """Return the context-parallel degrees that are looked at: at least 1,024 tokens of a sequence on a GPU."""
    return [
        1,
        *(c for c in (2**k for k in range(1, 20)) if c <= MOST_CP and job.seq % (2 * c) == 0 and job.seq // c >= 1024),
    ]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What to choose from, beside the degrees.

    Attributes:
        zero, recompute, overlap, offload, precision: values to try.
        fixed: parts of the plan that are set.
    """

    zero: tuple[int, ...] = (0, 1, 2, 3)
    recompute: tuple[str, ...] = RECOMPUTE
    overlap: tuple[str, ...] = ("all",)
    offload: tuple[bool, ...] = (False, True)
    precision: tuple[str, ...] = ("bf16",)
    fixed: Mapping[str, Any] | None = None


def enumerate_plans(job: Job, choices: Choices | None = None) -> Iterator[Floats]:
    """Yield all legal plans, as arrays of rows of the model, shape (n, 13).

    Degrees and micro-batches go over all divisors, chunks over ``legal_chunks``.
    """
    choices = choices or Choices()
    fixed = dict(choices.fixed or {})

    def only(name: str, values: Sequence[int]) -> list[int]:
        return [v for v in values if v == fixed.get(name, v)]

    model, nodes, batch = job.model, job.nodes, job.global_batch
    # a fused kernel has nothing that selective recomputation could save
    recompute = [
        RECOMPUTE.index(r)
        for r in choices.recompute
        if r == fixed.get("recompute", r)
        and not (
            job.calibration.fused and r == "selective" and "none" in choices.recompute and "recompute" not in fixed
        )
    ]
    precision = [
        PRECISION.index(p) for p in choices.precision
        if p == fixed.get("precision", p) and (p == "bf16" or nodes.fp8_tflops > nodes.bf16_tflops)
    ]  # fmt: skip
    overlap = [OVERLAP.index(o) for o in choices.overlap if o == fixed.get("overlap", o)]
    degrees = [
        t
        for t in divisors(nodes.gpus)
        if all(count % t == 0 for _, count, _ in _split_by_tp(job)) and t <= max(nodes.per_node, 8) * 2
    ]
    for tp, cp in itertools.product(only("tp", degrees), only("cp", contexts(job))):
        if nodes.gpus % (tp * cp):
            continue
        for pp in only("pp", [p for p in divisors(nodes.gpus // (tp * cp)) if p <= model.layers]):
            dp = nodes.gpus // (tp * cp * pp)
            if batch % dp or dp != fixed.get("dp", dp):
                continue
            rounds = batch // dp
            interleaved = legal_chunks(job, pp)
            micro = only("micro_batch", [b for b in divisors(rounds) if b <= MOST_MICRO])
            experts = only("ep", [e for e in divisors(model.experts) if (dp * cp) % e == 0] if model.experts else [1])
            zero = [
                z for z in choices.zero if z == fixed.get("zero", z) and (z < 3 or pp == 1) and (z == 0 or dp * cp > 1)
            ]
            if dp * cp == 1 and not zero:
                zero = [0] if "zero" not in fixed else [int(fixed["zero"])]
            flags = [(0,), (0, 1)][tp > 1]
            sequence = [f for f in flags if f == int(fixed.get("sequence_parallel", f))]
            offload = [int(o) for o in choices.offload if o == fixed.get("offload", o)]
            rest = np.array(
                list(itertools.product(zero, recompute, sequence, overlap, offload, precision)), dtype=np.float64
            )
            if not len(rest):
                continue
            rest = rest[~((rest[:, 4] > 0) & (rest[:, 0] == 0))]
            heads = []
            for b in micro:
                chunks = interleaved if (rounds // b) % pp == 0 else [1]
                heads += [(tp, pp, dp, cp, e, b, c) for e in experts for c in only("chunks", chunks)]
            if not heads or not len(rest):
                continue
            left = np.array(heads, dtype=np.float64)
            yield np.hstack([np.repeat(left, len(rest), axis=0), np.tile(rest, (len(left), 1))])
