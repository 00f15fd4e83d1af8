"""The target ``trainplan``: a training plan is a configuration; running out of memory fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tunewright.envs.parallelism import plans, scenario, search
from tunewright.envs.parallelism.estimate import COLUMNS, estimate_numpy
from tunewright.envs.parallelism.jobs import job_of
from tunewright.envs.parallelism.training import OVERLAP, RECOMPUTE, Job
from tunewright.errors import ConfigError, unknown
from tunewright.space import Config, Constraint, Space
from tunewright.space.parameters import Choice, Int, Param
from tunewright.target import BaseTarget, Budget, Measurement, Metric, check_options, numeric_options


@dataclass(frozen=True)
class Preset:
    """A training job by name."""

    about: str
    model: str
    cluster: str
    seq: int
    batch: int


PRESETS = {
    "bloom": Preset("BLOOM 176B on 384 A100 of Jean Zay", "bloom-176b", "jean-zay:384", 2048, 2048),
    "megatron-1t": Preset("1T parameters on 3,072 A100", "megatron-1t", "a100:3072", 2048, 3072),
    "llama3-405b": Preset("Llama 3 405B on 2,048 H100", "llama3-405b", "h100:2048", 8192, 2048),
    "llama3-8b": Preset("Llama 3 8B on 16 H100", "llama3-8b", "h100:16", 8192, 512),
    "mixtral": Preset("Mixtral 8x7B on 64 H100", "mixtral-8x7b", "h100:64", 4096, 1024),
    "deepseek": Preset("DeepSeek-V3 on 2,048 H100", "deepseek-v3", "h100:2048", 4096, 15360),
}
SCENARIOS = {
    "plain": "full sequences, balanced experts, no failures",
    "imbalanced": "the busiest expert gets three times the mean (what LLEP and Hecate are about)",
    "lengths": "sequences of unequal length; the parameter batching says how they are put together",
    "failures": "nodes fail; checkpoint_minutes and on_failure say what is done",
}


class TrainPlanTarget(BaseTarget):
    """Training plans of a language model: parallel degrees, micro-batch, ZeRO, recomputation; simulated.

    Args:
        job: what is trained where.
        about: the job in words.
    """

    name = "trainplan"
    isolated = False
    parallel_safe = True
    exact = True
    metrics = (
        Metric(name="time", direction="min", unit="s", doc="time of an iteration"),
        Metric(name="memory", direction="min", unit="GiB", doc="memory of the fullest GPU"),
        Metric(name="cost", direction="min", unit="$", doc="GPU hours of an iteration at list price"),
    )
    workloads: Mapping[str, str] = SCENARIOS
    options: Mapping[str, str] = {
        "model": "preset or config.json",
        "cluster": "such as h100:64",
        "seq": "tokens of a sequence",
        "global_batch": "sequences",
    }

    def __init__(self, job: Job, about: str = "") -> None:
        self.job = job
        self.facts = {
            "model": job.model.name,
            "parameters": job.model.params,
            "layers": job.model.layers,
            "heads": job.model.heads,
            "experts": job.model.experts,
            "GPUS": job.nodes.gpus,
            "gpu": job.nodes.gpu,
            "GPUS_PER_NODE": job.nodes.per_node,
            "GPU_MEMORY_GB": job.nodes.memory_gb,
            "seq": job.seq,
            "GLOBAL_BATCH": job.global_batch,
            "about": about,
            "simulated": "a model; see docs/parallelism.md for what it was checked against",
        }
        self.space = train_space(job)

    @cached_property
    def known(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The best time of the first workload, of all legal plans; nothing where these are too many to compute."""
        try:
            result = search.search(self.job, plans.Choices(overlap=OVERLAP))
        except ConfigError:
            return {}
        return {"best": float(result.values[0, search.TIME])} if result.feasible else {}

    def plan(self, config: Config) -> plans.Plan:
        """Return the plan of a configuration; data parallelism is what is left of the GPUs."""
        return plan_of(config, self.job.nodes.gpus)

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Compute what a plan costs."""
        if workload not in SCENARIOS:
            raise unknown("workload", workload, SCENARIOS)
        job = replace(self.job, imbalance=3.0) if workload == "imbalanced" else self.job
        plan = self.plan(config)
        wrong = plans.problems(plan, job)
        if wrong:
            return Measurement(status="rejected", reason="; ".join(wrong))
        told = search.describe(job, plan.row, estimate_numpy(job.numbers, plan.row[None])[0])
        memory = told["memory_gib"]
        if not told["fits"]:
            has = job.nodes.memory_gb * 1e9 / 2**30
            reason = f"out of memory: {memory['total']:.1f} GiB of {has:.1f}"
            return Measurement(status="failed", reason=reason, traces=memory)
        time_s = self._time(job, plan, float(told["time_s"]), config, workload)
        dollars = told["cost"]["dollars_per_iteration"] * time_s / told["time_s"]
        return Measurement(
            values={"time": time_s, "memory": memory["total"], "cost": dollars}, traces={"parts_s": told["parts_s"]}
        )

    def _time(self, job: Job, plan: plans.Plan, time_s: float, config: Config, workload: str) -> float:
        """Return the time of an iteration in a scenario [s]."""
        if workload == "lengths":
            lengths = scenario.lengths_of(job)
            cost = scenario.sequence_cost(lengths.astype(float), job).sum()
            share = float(cost / (len(lengths) * scenario.sequence_cost(float(job.seq), job)))
            ranks = min(plan.dp, len(lengths))
            return time_s * share * scenario.batching_factor(lengths, job, ranks, str(config["batching"]))
        if workload == "failures":
            how, interval_s = str(config["on_failure"]), 60.0 * float(config["checkpoint_minutes"])
            smaller = scenario.without_a_rank(job, plan) if how == "shrink" else None
            return scenario.with_failures(job, time_s, smaller, scenario.Failures(), interval_s, how)
        return time_s


def train_space(job: Job) -> Space:
    """Return the parameters of a job's plans: those values that some legal plan has."""
    model, gpus, batch = job.model, job.nodes.gpus, job.global_batch
    divisors = plans.divisors(gpus)
    tensor = [t for t in divisors if model.heads % t == 0 and model.ffn % t == 0 and t <= job.nodes.per_node * 2]
    stages = [p for p in divisors if p <= model.layers]
    chunks = sorted({c for p in stages for c in plans.legal_chunks(job, p)})
    context = [c for c in plans.contexts(job) if gpus % c == 0 and c <= 16]
    micro = [b for b in plans.divisors(batch) if b <= plans.MOST_MICRO]
    experts = [e for e in plans.divisors(model.experts) if gpus % e == 0] if model.experts else [1]
    start = _start(job)

    def choice(name: str, values: list[Any], default: Any, doc: str, *, ordered: bool = True) -> Choice:
        return Choice(name=name, choices=tuple(values), default=default, ordered=ordered, doc=doc)

    params: list[Param] = [
        choice("tp", tensor, start.tp, "tensor-parallel degree: GPUs that split each layer"),
        choice("pp", stages, start.pp, "pipeline stages"),
        choice("cp", context, start.cp, "context-parallel degree: GPUs that split each sequence"),
        choice("ep", experts, start.ep, "expert-parallel degree: ranks over which experts are spread"),
        choice("micro_batch", micro, start.micro_batch, "sequences of a micro-batch"),
        choice("chunks", chunks, start.chunks, "model chunks of a stage (interleaving)"),
        choice(
            "zero",
            [0, 1, 2, 3],
            start.zero,
            "what data-parallel ranks share: 1 optimizer states, 2 gradients too, 3 weights too",
        ),
        choice("recompute", list(RECOMPUTE), start.recompute, "activations computed again in the backward pass"),
        choice("overlap", list(OVERLAP), "all", "communication hidden behind computing"),
        choice(
            "sequence_parallel",
            [False, True],
            start.sequence_parallel,
            "split what lies between the matrix products",
            ordered=False,
        ),
        choice("offload", [False, True], False, "optimizer states in the host's memory", ordered=False),
        choice(
            "batching",
            list(scenario.BATCHING),
            "pad",
            "how sequences of unequal length are put together (workload lengths)",
        ),
        Int(
            name="checkpoint_minutes",
            low=1,
            high=240,
            default=60,
            log=True,
            unit="min",
            doc="time between checkpoints (workload failures)",
        ),
        choice(
            "on_failure",
            ["wait", "shrink", "spare"],
            "wait",
            "when a node fails: wait for it, go on without it, or have spares (workload failures)",
            ordered=False,
        ),
    ]
    names = ("tp", "pp", "cp", "ep", "micro_batch", "chunks", "zero", "sequence_parallel", "offload")
    rest = {"recompute": "none", "overlap": "all"}
    words = (
        f"tp * pp * cp divides {gpus} GPUs (dp is the rest), dp * micro_batch divides the batch of {batch}, chunks"
        " above 1 need micro-batches that are a multiple of pp, and cut the layers into equal pieces, zero 3 needs"
        " pp 1, offload needs zero above 0, ep divides dp * cp"
    )
    rule = Constraint(
        words=words, names=names, holds=lambda scope: not plans.problems(plan_of({**rest, **scope}, gpus), job)
    )
    return Space(params, [rule])


def plan_of(config: Mapping[str, Any], gpus: int) -> plans.Plan:
    """Return the plan of a configuration; data parallelism is what is left of the GPUs."""
    values = {c: config[c] for c in COLUMNS if c in config and c != "dp"}
    rest = gpus // (int(config["tp"]) * int(config["pp"]) * int(config["cp"]))
    whole = {c: int(v) for c, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    sequence = bool(config["sequence_parallel"]) and int(config["tp"]) > 1
    return plans.plan_from({**values, **whole, "dp": max(rest, 1), "sequence_parallel": sequence})


def _start(job: Job) -> plans.Plan:
    """The default: Megatron's rule, which people start from."""
    rule = search.baselines(job)["megatron"]
    if rule is None:
        raise ConfigError(search.shortage(job, search.search(job)))
    return plans.from_row(rule[0])


def open_train(argument: str, options: Mapping[str, Any]) -> TrainPlanTarget:
    """Open ``trainplan:NAME``; the options name another job.

    Raises:
        ConfigError: an option is wrong, or the job fits nowhere.
    """
    check_options("trainplan", options, TrainPlanTarget.options)
    name = argument or "bloom"
    if name not in PRESETS:
        raise unknown("training job", name, PRESETS)
    preset = PRESETS[name]
    given = numeric_options(
        "trainplan",
        {k: v for k, v in options.items() if k in ("seq", "global_batch")},
        {"seq": float(preset.seq), "global_batch": float(preset.batch)},
    )
    model, cluster = str(options.get("model", preset.model)), str(options.get("cluster", preset.cluster))
    job, _ = job_of(model, cluster, global_batch=int(given["global_batch"]), seq=int(given["seq"]))
    same = model == preset.model and cluster == preset.cluster
    return TrainPlanTarget(job, preset.about if same else f"{model} on {cluster}")
