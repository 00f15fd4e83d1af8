"""The targets ``trainplan`` and ``serveplan``: a plan is a configuration; running out of memory fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tunewright.envs.parallelism import plans as P
from tunewright.envs.parallelism import scenario as X
from tunewright.envs.parallelism import search as R
from tunewright.envs.parallelism import serving as V
from tunewright.envs.parallelism.command import job_of
from tunewright.envs.parallelism.estimate import COLUMNS, estimate_numpy
from tunewright.envs.parallelism.training import OVERLAP, RECOMPUTE, Job
from tunewright.errors import ConfigError, unknown
from tunewright.space import Config, Constraint, Space
from tunewright.space.parameters import Choice, Int, Param
from tunewright.target import BaseTarget, Budget, Measurement, Metric, numeric_options


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
    """Training plans of one job.

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
            found = R.search(self.job, P.Choices(overlap=OVERLAP))
        except ConfigError:
            return {}
        return {"best": float(found.values[0, R.TIME])} if found.feasible else {}

    def plan(self, config: Config) -> P.Plan:
        """Return the plan of a configuration; data parallelism is what is left of the GPUs."""
        return plan_of(config, self.job.nodes.gpus)

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Compute what a plan costs."""
        if workload not in SCENARIOS:
            raise unknown("workload", workload, SCENARIOS)
        job = replace(self.job, imbalance=3.0) if workload == "imbalanced" else self.job
        plan = self.plan(config)
        wrong = P.problems(plan, job)
        if wrong:
            return Measurement(status="rejected", reason="; ".join(wrong))
        out = estimate_numpy(job.numbers, plan.row[None])[0]
        found = R.describe(job, plan.row, out)
        if not found["fits"]:
            total, has = found["memory_gib"]["total"], job.nodes.memory_gb * 1e9 / 2**30
            return Measurement(
                status="failed", reason=f"out of memory: {total:.1f} GiB of {has:.1f}", traces=found["memory_gib"]
            )
        time_s = self._time(job, plan, float(found["time_s"]), config, workload, seed)
        dollars = found["cost"]["dollars_per_iteration"] * time_s / found["time_s"]
        return Measurement(
            values={"time": time_s, "memory": found["memory_gib"]["total"], "cost": dollars},
            traces={"parts_s": found["parts_s"]},
        )

    def _time(self, job: Job, plan: P.Plan, time_s: float, config: Config, workload: str, seed: int) -> float:
        if workload == "lengths":
            lengths = X.lengths_of(job)
            share = float(
                X.sequence_cost(lengths.astype(float), job).sum()
                / (len(lengths) * X.sequence_cost(float(job.seq), job))
            )
            factor = X.batching_factor(lengths, job, min(plan.dp, len(lengths)), str(config["batching"]))
            return time_s * share * factor
        if workload == "failures":
            smaller = None
            if config["on_failure"] == "shrink":
                smaller = X.without_a_rank(job, plan)
            return X.with_failures(
                job,
                time_s,
                smaller,
                X.Failures(),
                60.0 * float(config["checkpoint_minutes"]),
                str(config["on_failure"]),
            )
        return time_s


def train_space(job: Job) -> Space:
    """Return the parameters of a job's plans: those values that some legal plan has."""
    m, n = job.model, job.nodes
    tensor = [t for t in P.divisors(n.gpus) if m.heads % t == 0 and m.ffn % t == 0 and t <= n.per_node * 2]
    pipe = [p for p in P.divisors(n.gpus) if p <= m.layers]
    chunks = sorted({c for p in pipe for c in P.legal_chunks(job, p)})
    context = [c for c in P.contexts(job) if n.gpus % c == 0 and c <= 16]
    micro = [b for b in P.divisors(job.global_batch) if b <= P.MOST_MICRO]
    experts = [e for e in P.divisors(m.experts) if n.gpus % e == 0] if m.experts else [1]
    start = _start(job)

    def choice(name: str, values: list[Any], default: Any, doc: str, *, ordered: bool = True) -> Choice:
        return Choice(name=name, choices=tuple(values), default=default, ordered=ordered, doc=doc)

    params: list[Param] = [
        choice("tp", tensor, start.tp, "tensor-parallel degree: GPUs that split each layer"),
        choice("pp", pipe, start.pp, "pipeline stages"),
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
            "batching", list(X.BATCHING), "pad", "how sequences of unequal length are put together (workload lengths)"
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
        f"tp * pp * cp divides {n.gpus} GPUs (dp is the rest), dp * micro_batch divides the batch of"
        f" {job.global_batch}, chunks"
        " above 1 need micro-batches that are a multiple of pp, and cut the layers into equal pieces, zero 3 needs"
        " pp 1, offload"
        " needs zero above 0, ep divides dp * cp"
    )
    rule = Constraint(
        words=words, names=names, holds=lambda scope: not P.problems(plan_of({**rest, **scope}, n.gpus), job)
    )
    return Space(params, [rule])


def plan_of(config: Mapping[str, Any], gpus: int) -> P.Plan:
    """Return the plan of a configuration; data parallelism is what is left of the GPUs."""
    values = {c: config[c] for c in COLUMNS if c in config and c != "dp"}
    rest = gpus // (int(config["tp"]) * int(config["pp"]) * int(config["cp"]))
    whole = {c: int(v) for c, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    sequence = bool(config["sequence_parallel"]) and int(config["tp"]) > 1
    return P.plan_from({**values, **whole, "dp": max(rest, 1), "sequence_parallel": sequence})


def _start(job: Job) -> P.Plan:
    """The default: Megatron's rule, which people start from."""
    got = R.baselines(job)["megatron"]
    if got is None:
        raise ConfigError(R.shortage(job, R.search(job)))
    return P.from_row(got[0])


def open_train(argument: str, options: Mapping[str, Any]) -> TrainPlanTarget:
    """Open ``trainplan:NAME``; the options name another job.

    Raises:
        ConfigError: an option is wrong, or the job fits nowhere.
    """
    for name in options:
        if name not in TrainPlanTarget.options:
            raise unknown("option of target trainplan", name, TrainPlanTarget.options)
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


LOADS = {
    "chat": ("short prompts, short answers", V.Load(rate=20.0, isl=1000, osl=300, ttft_s=1.0, tpot_s=0.05)),
    "summary": ("long prompts, short answers", V.Load(rate=8.0, isl=6000, osl=250, ttft_s=3.0, tpot_s=0.06)),
    "reasoning": ("short prompts, long answers", V.Load(rate=4.0, isl=800, osl=4000, ttft_s=2.0, tpot_s=0.04)),
}


class ServePlanTarget(BaseTarget):
    """Serving plans of one model on one cluster.

    Args:
        service: model, nodes and engine.
    """

    name = "serveplan"
    isolated = False
    parallel_safe = True
    exact = True
    metrics = (
        Metric(
            name="goodput",
            direction="max",
            unit="requests/s/GPU",
            doc="most requests a second within the limits, for each GPU",
        ),
        Metric(name="ttft", direction="min", unit="s", doc="mean time to the first token at the workload's rate"),
        Metric(name="tpot", direction="min", unit="s", doc="mean time of a further token at the workload's rate"),
    )
    workloads: Mapping[str, str] = {
        n: f"{words}: {x.isl} in, {x.osl} out, {x.rate:g} requests/s" for n, (words, x) in LOADS.items()
    }
    options: Mapping[str, str] = {
        "model": "preset or config.json",
        "cluster": "such as h100:16",
        "backend": "trtllm, sglang or vllm",
    }

    def __init__(self, service: V.Service) -> None:
        self.service = service
        n = service.nodes
        self.facts = {
            "model": service.model.name,
            "parameters": service.model.params,
            "GPUS": n.gpus,
            "gpu": n.gpu,
            "GPUS_PER_NODE": n.per_node,
            "GPU_MEMORY_GB": n.memory_gb,
            "simulated": "a model; see docs/parallelism.md for what it was checked against",
        }
        self.space = serve_space(service)

    def plan(self, config: Config) -> V.ServePlan:
        """Return the plan of a configuration; replicas take all GPUs that prefill workers leave."""
        return serve_plan_of(config, self.service.nodes.gpus)

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Compute what a plan gives."""
        if workload not in LOADS:
            raise unknown("workload", workload, LOADS)
        plan, load = self.plan(config), LOADS[workload][1]
        wrong = V.problems(plan, self.service)
        if wrong:
            return Measurement(status="rejected", reason="; ".join(wrong))
        out = V.evaluate(self.service, load, plan)
        if not math.isfinite(out[1]):
            return Measurement(status="failed", reason="out of memory: weights leave no room for one request")
        most = V.capacity(self.service, load, plan)
        if most <= 0:
            return Measurement(status="failed", reason="no rate of requests meets the limits")
        ttft = float(out[0]) if math.isfinite(out[0]) else 1e3
        return Measurement(values={"goodput": most / self.service.nodes.gpus, "ttft": ttft, "tpot": float(out[1])})

    def render(self, config: Config) -> str:
        """Return the command that starts it."""
        from tunewright.envs.parallelism.emit import emit_serve

        return emit_serve("vllm", self.plan(config), self.service, self.service.model.name)


def serve_plan_of(config: Mapping[str, Any], gpus: int) -> V.ServePlan:
    """Return the plan of a configuration; replicas take all GPUs that prefill workers leave."""
    c = config
    prefill = None
    if c["prefill_gpus"]:
        prefill = V.Part(count=max(int(c["prefill_gpus"]) // int(c["prefill_tp"]), 1), tp=int(c["prefill_tp"]))
    left = gpus - (prefill.gpus if prefill else 0)
    ranks = int(c["tp"]) if c["attention_dp"] else 1
    tp = 1 if c["attention_dp"] else int(c["tp"])
    count = left // (tp * int(c["pp"]) * ranks)
    return V.ServePlan(
        engines=V.Part(count=max(count, 1), tp=tp, pp=int(c["pp"]), ranks=ranks),
        prefill=prefill,
        precision=str(c["precision"]),
        max_batch=int(c["max_batch"]),
        max_tokens=int(c["max_tokens"]),
        kv_share=float(c["kv_share"]),
    )


def serve_space(service: V.Service) -> Space:
    """Return the parameters of a service's plans."""
    m, n = service.model, service.nodes
    degrees = [t for t in P.divisors(m.heads) if t <= min(n.per_node, n.gpus)]
    kinds = V.precisions(service, ("bf16", "fp8"))
    first, stages, kind = _start_serving(service, kinds)
    words = (
        f"prefill workers and at least one replica fit into {n.gpus} GPUs, tp * pp at most; attention_dp needs"
        f" experts, pp 1 and"
        " tp above 1; prefill_tp is at most prefill_gpus"
    )
    shape = ("tp", "pp", "attention_dp", "prefill_gpus", "prefill_tp")
    rest = {"precision": kind, "max_batch": 256, "max_tokens": 8192, "kv_share": 0.9}

    def legal(scope: Mapping[str, Any]) -> bool:
        whole = not scope["prefill_gpus"] or int(scope["prefill_gpus"]) % int(scope["prefill_tp"]) == 0
        alone = not scope["attention_dp"] or (scope["pp"] == 1 and scope["tp"] > 1)
        return (
            whole and alone and not V.problems(serve_plan_of({**rest, **{k: scope[k] for k in shape}}, n.gpus), service)
        )

    rule = Constraint(words=words, names=shape, holds=legal)
    shares = [0, *(g for g in (1, 2, 4, 8, 12, 16, 24, 32, 48) if g < n.gpus)]
    return Space(
        [
            Choice(name="tp", choices=tuple(degrees), default=first, ordered=True, doc="GPUs that split each layer"),
            Choice(name="pp", choices=(1, 2, 4, 8), default=stages, ordered=True, doc="pipeline stages"),
            Choice(
                name="attention_dp",
                choices=(False, True),
                default=False,
                doc="split sequences instead of heads; experts over all GPUs",
            ),
            Choice(
                name="prefill_gpus",
                choices=tuple(shares),
                default=0,
                ordered=True,
                doc="GPUs for workers that only prefill; 0: no such workers",
            ),
            Choice(
                name="prefill_tp",
                choices=tuple(degrees),
                default=first,
                ordered=True,
                doc="GPUs that split each layer of a prefill worker",
            ),
            Choice(name="precision", choices=tuple(kinds), default=kind, doc="of the weights"),
            Int(
                name="max_batch",
                low=1,
                high=1024,
                default=256,
                log=True,
                unit="sequences",
                doc="most sequences of a step",
            ),
            Choice(
                name="max_tokens",
                choices=(512, 1024, 2048, 4096, 8192, 16384),
                default=8192,
                ordered=True,
                doc="tokens of a prompt computed at once",
            ),
            Choice(
                name="kv_share",
                choices=(0.7, 0.8, 0.85, 0.9, 0.95),
                default=0.9,
                ordered=True,
                doc="share of memory for weights and cache",
            ),
        ],
        [rule],
    )


def _start_serving(service: V.Service, kinds: list[str]) -> tuple[int, int, str]:
    """The default: the fewest GPUs for a replica that leave room for a few requests, in the widest weights that fit."""
    for kind in kinds:
        found = V.engines(service, kind, 0.9)
        order = np.lexsort((found.pp, found.gpus))
        for k in order:
            if found.ranks[k] == 1 and found.tokens[k] > 8192:
                return int(found.tp[k]), int(found.pp[k]), kind
    raise ConfigError(V.shortage(service, LOADS["chat"][1], kinds))


def open_serve(argument: str, options: Mapping[str, Any]) -> ServePlanTarget:
    """Open ``serveplan:MODEL`` on the cluster that the options name.

    Raises:
        ConfigError: an option is wrong.
    """
    from tunewright.envs.parallelism import clusters, models

    for name in options:
        if name not in ServePlanTarget.options:
            raise unknown("option of target serveplan", name, ServePlanTarget.options)
    model = str(options.get("model", argument or "llama3-70b"))
    service = V.Service(
        model=models.load(model),
        nodes=clusters.load(str(options.get("cluster", "h100:16"))).nodes,
        backend=str(options.get("backend", "vllm")),
    )
    if service.backend not in ("trtllm", "sglang", "vllm"):
        raise unknown("backend", service.backend, ("trtllm", "sglang", "vllm"))
    return ServePlanTarget(service)
