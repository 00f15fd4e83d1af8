"""What the simulator expects of an engine's options under a load, from step times that were measured once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunewright.envs.scheduling.serving import policies, simulate
from tunewright.envs.scheduling.serving.requests import Requests
from tunewright.envs.scheduling.serving.trace import load as read_load
from tunewright.envs.scheduling.vllm import load as loads
from tunewright.envs.scheduling.vllm.calibrate import Calibrated
from tunewright.errors import ConfigError
from tunewright.space import Config

_MOST_WAITING = 20_000


@dataclass(frozen=True, kw_only=True)
class Load:
    """A load as the target ``vllm`` puts it on an engine.

    Attributes:
        trace: file, or ``synthetic:KIND``.
        requests: how many.
        options: of generated requests.
        rate: requests a second; 0: three quarters of what the default does.
        closed: clients that wait for their answers; 0 for none.
        ttft_s, tpot_s: limits of a good request.
        longest: tokens of a prompt and its answer at most; 0: any.
    """

    trace: str
    requests: int
    options: Mapping[str, float]
    rate: float
    closed: int
    ttft_s: float
    tpot_s: float
    longest: int = 0

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Load:
        """Return the load in the facts of a target.

        Raises:
            ConfigError: there is none in them.
        """
        try:
            return cls(**facts["load"])
        except (KeyError, TypeError):
            raise ConfigError("this target has no load that the simulator knows; take the target vllm") from None

    def read(self, seed: int) -> Requests:
        """Return its requests, at their own times."""
        options = {"requests": self.requests, **self.options} if self.trace.startswith("synthetic:") else {}
        requests = read_load(self.trace, options, seed).first(self.requests)
        return requests.within(self.longest) if self.longest else requests


def knobs_of(config: Config, block: int) -> policies.Knobs:
    """Return the simulator's knobs for an engine's options.

    vLLM's scheduler gives every running sequence its token first, and fills what is left of the budget with prompts:
    with parts of them (chunked), or with whole ones only.

    Args:
        config: of the target ``vllm``; what is not in it has the simulator's default.
        block: tokens of a block, where the configuration does not say.
    """
    budget = int(config.get("max_num_batched_tokens", 2048))
    chunked = config.get("enable_chunked_prefill", "on") == "on"
    # a prompt that has been begun keeps its place, so a limit on parts of long ones is not simulated
    return policies.policy(
        "fcfs", batching="chunked" if chunked else "mixed", chunk=budget, max_tokens=budget,
        max_seqs=int(config.get("max_num_seqs", 256)), caching=config.get("enable_prefix_caching", "on") == "on",
        block=int(config.get("block_size", block)),
    )  # fmt: skip


class Predictor:
    """Predicts the metrics of the target ``vllm``.

    Args:
        calibrated: step times of the engine.
        load: what it is put under.
        default: the engine's defaults, by which a rate is chosen where the load has none.
        seed: of generated requests.
    """

    def __init__(self, calibrated: Calibrated, load: Load, default: Config, seed: int = 0) -> None:
        self.calibrated, self.load = calibrated, load
        requests = load.read(seed)
        self.requests = requests
        if not load.closed:
            rate = load.rate or loads.SHARE_OF_MOST * self._most(default)
            self.requests = loads.scaled(requests, rate)

    def _most(self, default: Config) -> float:
        outcome = self._run(default, self.requests, loads.CLIENTS)
        return float(simulate.metrics(outcome)["throughput_requests_per_s"])

    def _run(self, config: Config, requests: Requests, clients: int) -> simulate.Outcome:
        knobs = knobs_of(config, self.calibrated.block)
        # a request costs something before the engine sees it: its limit is that much tighter
        limit_s = max(self.load.ttft_s - self.calibrated.request_s, 1e-6)
        return simulate.simulate(
            requests, self.calibrated.setup(block=knobs.block), knobs, ttft_s=limit_s, tpot_s=self.load.tpot_s,
            clients=clients, most_waiting=_MOST_WAITING,
        )  # fmt: skip

    def outcome(self, config: Config) -> simulate.Outcome:
        """Simulate the load with a configuration."""
        return self._run(config, self.requests, self.load.closed)

    def metrics(self, config: Config) -> dict[str, float]:
        """Return the metrics of the target ``vllm`` that the simulator knows, in the target's units.

        Raises:
            ConfigError: the simulator does not know such a configuration.
        """
        found = simulate.metrics(self.outcome(config))
        values = {"goodput": found["goodput_requests_per_s"], "throughput": found["throughput_tokens_per_s"]}
        for name, its, extra in (
            ("ttft", "ttft_s", self.calibrated.request_s),
            ("tpot", "tpot_s", 0.0),
            ("itl", "tbt_s", 0.0),
            ("response", "response_s", self.calibrated.request_s),
        ):
            values |= {f"{name}_{p}": found[its][p] + extra for p in ("p50", "p99") if found[its].get(p) is not None}
        return {name: float(value) for name, value in values.items()}
