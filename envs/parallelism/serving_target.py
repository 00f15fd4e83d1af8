"""The target ``serveplan``: a serving plan is a configuration; running out of memory fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tunewright.envs.parallelism import clusters, models
from tunewright.envs.parallelism.emit import emit_serve
from tunewright.envs.parallelism.serving import (
    Load,
    Part,
    ServePlan,
    Service,
    engines,
    precisions,
    problems,
    tensor_degrees,
)
from tunewright.envs.parallelism.serving_load import capacity, evaluate
from tunewright.envs.parallelism.serving_search import shortage
from tunewright.envs.parallelism.steptime import BACKENDS
from tunewright.errors import ConfigError, unknown
from tunewright.space import Choice, Config, Constraint, Int, Space
from tunewright.target import BaseTarget, Budget, Measurement, Metric, check_options

LOADS = {
    "chat": ("short prompts, short answers", Load(rate=20.0, isl=1000, osl=300, ttft_s=1.0, tpot_s=0.05)),
    "summary": ("long prompts, short answers", Load(rate=8.0, isl=6000, osl=250, ttft_s=3.0, tpot_s=0.06)),
    "reasoning": ("short prompts, long answers", Load(rate=4.0, isl=800, osl=4000, ttft_s=2.0, tpot_s=0.04)),
}


class ServePlanTarget(BaseTarget):
    """Serving deployments of a language model: engines, parallel degrees, batch limits; simulated.

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
        name: f"{words}: {load.isl} in, {load.osl} out, {load.rate:g} requests/s"
        for name, (words, load) in LOADS.items()
    }
    options: Mapping[str, str] = {
        "model": "preset or config.json",
        "cluster": "such as h100:16",
        "backend": "trtllm, sglang or vllm",
    }

    def __init__(self, service: Service) -> None:
        self.service = service
        model, nodes = service.model, service.nodes
        self.facts = {
            "model": model.name,
            "parameters": model.params,
            "GPUS": nodes.gpus,
            "gpu": nodes.gpu,
            "GPUS_PER_NODE": nodes.per_node,
            "GPU_MEMORY_GB": nodes.memory_gb,
            "simulated": "a model; see docs/parallelism.md for what it was checked against",
        }
        self.space = serve_space(service)

    def plan(self, config: Config) -> ServePlan:
        """Return the plan of a configuration; replicas take all GPUs that prefill workers leave."""
        return serve_plan_of(config, self.service.nodes.gpus)

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Compute what a plan gives."""
        if workload not in LOADS:
            raise unknown("workload", workload, LOADS)
        plan, load = self.plan(config), LOADS[workload][1]
        wrong = problems(plan, self.service)
        if wrong:
            return Measurement(status="rejected", reason="; ".join(wrong))
        ttft, tpot = map(float, evaluate(self.service, load, plan)[:2])
        if not math.isfinite(tpot):
            return Measurement(status="failed", reason="out of memory: weights leave no room for one request")
        most = capacity(self.service, load, plan)
        if most <= 0:
            return Measurement(status="failed", reason="no rate of requests meets the limits")
        goodput, ttft = most / self.service.nodes.gpus, ttft if math.isfinite(ttft) else 1e3
        return Measurement(values={"goodput": goodput, "ttft": ttft, "tpot": tpot})

    def render(self, config: Config) -> str:
        """Return the command that starts it."""
        return emit_serve("vllm", self.plan(config), self.service, self.service.model.name)


def serve_plan_of(config: Mapping[str, Any], gpus: int) -> ServePlan:
    """Return the plan of a configuration; replicas take all GPUs that prefill workers leave."""
    prefill = None
    if config["prefill_gpus"]:
        prefill_tp = int(config["prefill_tp"])
        prefill = Part(count=max(int(config["prefill_gpus"]) // prefill_tp, 1), tp=prefill_tp)
    left = gpus - (prefill.gpus if prefill else 0)
    tp, ranks, stages = int(config["tp"]), 1, int(config["pp"])
    if config["attention_dp"]:
        tp, ranks = 1, tp
    count = left // (tp * stages * ranks)
    return ServePlan(
        engines=Part(count=max(count, 1), tp=tp, pp=stages, ranks=ranks),
        prefill=prefill,
        precision=str(config["precision"]),
        max_batch=int(config["max_batch"]),
        max_tokens=int(config["max_tokens"]),
        kv_share=float(config["kv_share"]),
    )


def serve_space(service: Service) -> Space:
    """Return the parameters of a service's plans."""
    nodes = service.nodes
    degrees = [t for t in tensor_degrees(service) if t <= nodes.per_node]
    kinds = precisions(service, ("bf16", "fp8"))
    first, stages, kind = _start_serving(service, kinds)
    words = (
        f"prefill workers and at least one replica fit into {nodes.gpus} GPUs, tp * pp at most; attention_dp needs"
        " experts, pp 1 and tp above 1; prefill_tp is at most prefill_gpus"
    )
    degree_names = ("tp", "pp", "attention_dp", "prefill_gpus", "prefill_tp")
    rest = {"precision": kind, "max_batch": 256, "max_tokens": 8192, "kv_share": 0.9}

    def legal(scope: Mapping[str, Any]) -> bool:
        if scope["prefill_gpus"] and int(scope["prefill_gpus"]) % int(scope["prefill_tp"]):
            return False
        if scope["attention_dp"] and (scope["pp"] != 1 or scope["tp"] <= 1):
            return False
        plan = serve_plan_of({**rest, **{name: scope[name] for name in degree_names}}, nodes.gpus)
        return not problems(plan, service)

    rule = Constraint(words=words, names=degree_names, holds=legal)
    shares = [0, *(g for g in (1, 2, 4, 8, 12, 16, 24, 32, 48) if g < nodes.gpus)]
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


def _start_serving(service: Service, kinds: list[str]) -> tuple[int, int, str]:
    """The default: the fewest GPUs for a replica that leave room for a few requests, in the widest weights that fit."""
    for kind in kinds:
        pool = engines(service, kind, 0.9)
        for k in np.lexsort((pool.pp, pool.gpus)):
            if pool.ranks[k] == 1 and pool.tokens[k] > 8192:
                return int(pool.tp[k]), int(pool.pp[k]), kind
    raise ConfigError(shortage(service, LOADS["chat"][1], kinds))


def open_serve(argument: str, options: Mapping[str, Any]) -> ServePlanTarget:
    """Open ``serveplan:MODEL`` on the cluster that the options name.

    Raises:
        ConfigError: an option is wrong.
    """
    check_options("serveplan", options, ServePlanTarget.options)
    model = str(options.get("model", argument or "llama3-70b"))
    service = Service(
        model=models.load(model),
        nodes=clusters.load(str(options.get("cluster", "h100:16"))).nodes,
        backend=str(options.get("backend", "vllm")),
    )
    if service.backend not in BACKENDS:
        raise unknown("backend", service.backend, BACKENDS)
    return ServePlanTarget(service)
