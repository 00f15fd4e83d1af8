"""The target ``serving``: the knobs of a serving system, for one trace on one cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tunewright.envs.parallelism import clusters, models
from tunewright.envs.parallelism.serving import Part, ServePlan, Service
from tunewright.envs.scheduling.serving import policies, simulate, synthetic
from tunewright.envs.scheduling.serving.requests import Requests
from tunewright.envs.scheduling.serving.trace import load, read
from tunewright.envs.scheduling.simulated import SIMULATED, SimulatedTarget, numbers_of
from tunewright.envs.scheduling.traces import real_file
from tunewright.errors import ConfigError, unknown
from tunewright.space import Config, Constraint, Space
from tunewright.space.parameters import Choice, Int, Real
from tunewright.target import Budget, Measurement, Metric

REAL = {
    "azure-conv": ("llm/AzureLLMInferenceTrace_conv.csv.gz", "Azure's chat service, November 2023"),
    "mooncake-conv": (
        "llm/conversation_trace.jsonl.gz",
        "Kimi's chat service with prefixes that requests share (Mooncake)",
    ),
}
GOOD_AT_DEFAULT = 0.7  # share of good requests that the trace's speed leaves to the default, unless it is given
MOST_WAITING = 3000
OPTIONS = {
    "model": "preset or config.json (llama3-70b)",
    "cluster": "such as h100:8",
    "ttft": "limit on the time to the first token, s (2)",
    "tpot": "limit on the time of each further token, s (0.1)",
    "speed": (
        f"arrivals so many times as dense; default: so that {100 * GOOD_AT_DEFAULT:.0f} % are good with the default"
    ),
    "requests": "first requests of the trace that are served (4000)",
    "trace": "a file of your own, as the workload 'trace'",
    "error": "standard deviation of the log of predicted over true output lengths (0.3)",
}


class ServingTarget(SimulatedTarget):
    """A serving system for a language model under one trace: its batching and scheduling knobs; simulated.

    Args:
        service: model, nodes and engine.
        trace: file of the workload ``trace``; "" for none.
        numbers: the numeric options.
    """

    name = "serving"
    options: Mapping[str, str] = OPTIONS

    def __init__(self, service: Service, trace: str, numbers: Mapping[str, float]) -> None:
        self.service, self.trace, self.numbers = service, trace, dict(numbers)
        self.ttft_s, self.tpot_s = float(numbers["ttft"]), float(numbers["tpot"])
        if not (self.ttft_s > 0 and self.tpot_s > 0 and numbers["requests"] >= 50 and numbers["speed"] >= 0):
            raise ConfigError("ttft and tpot must be above 0, requests at least 50, and speed at least 0")
        self.metrics = (
            Metric(
                name="goodput", direction="max", unit="requests/s",
                doc=f"requests a second with the first token within {self.ttft_s:g} s and further ones within"
                f" {self.tpot_s:g} s",
            ),
            Metric(name="ttft_p99", direction="min", unit="s", doc="99th percentile of the time to the first token"),
            Metric(name="tpot_p99", direction="min", unit="s", doc="99th percentile of the time of a further token"),
            Metric(name="throughput", direction="max", unit="tokens/s", doc="output tokens a second"),
            Metric(name="fairness", direction="max",
                   doc="how evenly users are served: Jain's index of their parts of an equal share"),
        )  # fmt: skip
        found = {"trace": f"the file {trace}"} if trace else {}
        found |= {n: f"{words}; needs the project's data directory" for n, (_, words) in REAL.items()}
        found |= {n: f"synthetic: {words}" for n, (words, _) in synthetic.KINDS.items() if n != "questions"}
        self.workloads: Mapping[str, str] = found
        n = service.nodes
        self.facts = {
            "model": service.model.name, "parameters": service.model.params, "GPUS": n.gpus, "gpu": n.gpu,
            "GPU_MEMORY_GB": n.memory_gb, "ttft_limit_s": self.ttft_s, "tpot_limit_s": self.tpot_s,
            "simulated": SIMULATED,
        }  # fmt: skip
        self.space = space_of(service)
        self._loads: dict[str, tuple[Requests, float]] = {}

    def plan(self, config: Config) -> ServePlan:
        """Return the serving plan of a configuration: replicas take the GPUs that prefill workers leave."""
        tp, prefill = int(config["tp"]), int(config["prefill_gpus"])
        first = Part(count=prefill // tp, tp=tp) if prefill else None
        tokens = config["chunk"] if config["batching"] == "chunked" else config["max_tokens"]
        return ServePlan(
            engines=Part(count=(self.service.nodes.gpus - prefill) // tp, tp=tp), prefill=first,
            max_batch=int(config["max_seqs"]), max_tokens=int(tokens), kv_share=round(float(config["kv_share"]), 3),
        )  # fmt: skip

    def knobs(self, config: Config) -> policies.Knobs:
        """Return the knobs of a configuration."""
        known = {name: config[name] for name in policies.Knobs.__dataclass_fields__ if name in config}
        return policies.policy("vllm", **known)

    def _run(self, config: Config, requests: Requests) -> simulate.Outcome:
        knobs = self.knobs(config)
        return simulate.simulate(
            requests, simulate.setup(self.service, self.plan(config), knobs), knobs, ttft_s=self.ttft_s,
            tpot_s=self.tpot_s, error=float(self.numbers["error"]), most_waiting=MOST_WAITING,
        )  # fmt: skip

    def load(self, workload: str) -> tuple[Requests, float]:
        """Return the requests of a workload at its speed, and that speed.

        Raises:
            ConfigError: the data is not there.
            UnknownNameError: there is no such workload.
        """
        if workload not in self._loads:
            requests = self._requests(workload).first(int(self.numbers["requests"]))
            speed = float(self.numbers["speed"]) or self._speed(requests)
            self._loads[workload] = requests.faster(speed), speed
        return self._loads[workload]

    def _requests(self, workload: str) -> Requests:
        if workload == "trace" and self.trace:
            return load(self.trace)
        if workload in REAL:
            return read(real_file(workload, REAL))
        if workload in self.workloads:
            return load(f"synthetic:{workload}", {"requests": self.numbers["requests"]}, seed=1)
        raise unknown("workload", workload, self.workloads)

    def _speed(self, requests: Requests) -> float:
        """The speed at which the default leaves the wanted share of requests good, by bisection on its logarithm."""
        low, high = 1 / 64, 4096.0
        for _ in range(24):
            middle = (low * high) ** 0.5
            good = simulate.metrics(self._run(self.space.default, requests.faster(middle)))["good_share"]
            low, high = (middle, high) if good >= GOOD_AT_DEFAULT else (low, middle)
        return low

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Serve the trace."""
        requests, speed = self.load(workload)
        try:
            outcome = self._run(config, requests)
        except ConfigError as error:
            return Measurement(status="rejected", reason=str(error))
        found = simulate.metrics(outcome)
        stable, words = simulate.stability(outcome)
        if outcome.given_up or found["ttft_s"]["p99"] is None:
            return Measurement(status="failed", reason=words or "no request was served")
        values = {
            "goodput": found["goodput_requests_per_s"], "ttft_p99": found["ttft_s"]["p99"],
            "tpot_p99": found["tpot_s"]["p99"] or 0.0, "throughput": found["throughput_tokens_per_s"],
            "fairness": found["fairness"],
        }  # fmt: skip
        traces = {"speed": speed, "stable": stable, "unstable_because": words}
        more = ("good_share", "kv_use_peak", "preemptions", "prefix_hit_share", "batch_mean", "busy")
        return Measurement(
            values=values, seconds=outcome.seconds, traces={**traces, **{name: found[name] for name in more}}
        )

    def render(self, config: Config) -> str:
        """Return the command that starts vLLM, and in words what it has no option for."""
        from tunewright.envs.parallelism.emit import emit_serve

        text = emit_serve("vllm", self.plan(config), self.service, self.service.model.name)
        more = [
            "--enable-chunked-prefill" if config["batching"] == "chunked" else "--no-enable-chunked-prefill",
            "--enable-prefix-caching" if config["caching"] else "--no-enable-prefix-caching",
        ]
        wanted = {
            name: config[name]
            for name in ("order", "quantum", "admission", "reserve", "preemption", "routing")
            if name in config
        }
        changed = ", ".join(
            f"{name}={value}" for name, value in wanted.items() if value != self.space.params[name].default
        )
        note = f"\n# for the scheduler and the router, vLLM has no option for these: {changed}" if changed else ""
        share = "--gpu-memory-utilization"  # the flags go to every command, after this one
        return re.sub(rf"({share} \S+)", lambda match: f"{match[1]} \\\n  {' '.join(more)}", text).rstrip() + note


def space_of(service: Service) -> Space:
    """Return the knobs that are tuned."""
    nodes = service.nodes
    fits = []
    for tp in (1, 2, 4, 8):
        try:
            simulate.setup(service, simulate.default_plan(service, tp=tp), policies.Knobs())
            fits.append(tp)
        except ConfigError:
            continue
    if not fits:
        simulate.default_plan(service)  # says why

    def choice(name: str, choices: tuple[Any, ...], default: Any, doc: str, *, ordered: bool = False) -> Choice:
        return Choice(name=name, choices=choices, default=default, doc=doc, ordered=ordered)

    shares = tuple(count for count in (0, 1, 2, 4, 6, 8, 12, 16) if count < nodes.gpus)
    start = simulate.default_plan(service).engines.tp

    def whole_engines(config: Mapping[str, Any]) -> bool:
        tp, prefill = int(config["tp"]), int(config["prefill_gpus"])
        return prefill % tp == 0 and nodes.gpus - prefill >= tp

    rule = Constraint(
        words="prefill_gpus and the other GPUs are multiples of tp that leave at least one engine",
        names=("tp", "prefill_gpus"), holds=whole_engines,
    )  # fmt: skip
    return Space(
        [
            choice("tp", tuple(fits), start, "GPUs of an engine; the rest are replicas", ordered=True),
            choice("prefill_gpus", shares, 0, "GPUs of workers that only prefill; 0: none", ordered=True),
            choice("batching", ("prefill-first", "mixed", "chunked"), "prefill-first", "what prompts do to decoding"),
            Int(name="chunk", low=64, high=8192, default=512, log=True, unit="tokens", when="batching == 'chunked'",
                doc="of an iteration, decoded ones included"),
            Int(name="max_tokens", low=512, high=32768, default=8192, log=True, unit="tokens",
                doc="of whole prompts in an iteration", when="batching != 'chunked'"),
            Int(name="max_seqs", low=8, high=1024, default=256, log=True, unit="sequences",
                doc="that run on a replica at most"),
            choice("order", policies.ORDER[:4], "fcfs", "which waiting request comes first"),
            Int(name="quantum", low=0, high=16384, default=0, special={0: "no preemption for the order's sake"},
                unit="tokens", when="order == 'fair'",
                doc="that a running request may be ahead before it is preempted"),
            choice("admission", policies.ADMISSION, "aggressive", "blocks that must be free before a request runs"),
            Real(name="reserve", low=0.0, high=0.3, default=0.05, when="admission == 'past-future'",
                 doc="share of the cache that past-future admission leaves free at the fullest moment ahead"),
            choice("preemption", policies.PREEMPTION, "recompute", "what happens to a sequence whose blocks are taken"),
            choice("caching", (False, True), False, "keep and share prefixes"),
            choice("routing", policies.ROUTING, "least-loaded", "which replica a request goes to"),
            Real(name="kv_share", low=0.6, high=0.95, default=0.9, doc="of a GPU's memory for weights and cache"),
        ],
        [rule],
    )  # fmt: skip


def open_target(argument: str, options: Mapping[str, Any]) -> ServingTarget:
    """Open ``serving``, or ``serving:TRACE`` for a file of one's own.

    Raises:
        ConfigError: an option is wrong, or the model fits nowhere.
    """
    defaults = {"ttft": 2.0, "tpot": 0.1, "speed": 0.0, "requests": 4000, "error": 0.3}
    numbers = numbers_of("serving", options, OPTIONS, defaults)
    service = Service(
        model=models.load(str(options.get("model", "llama3-70b"))),
        nodes=clusters.load(str(options.get("cluster", "h100:8"))).nodes,
    )
    return ServingTarget(service, str(options.get("trace", argument)), numbers)
