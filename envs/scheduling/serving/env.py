"""Scheduling requests as a sequence of decisions: ``tunewright/Serving-v0``.

An episode serves a piece of a trace. A decision is due before each iteration of a replica that has requests waiting:
how many tokens the iteration takes (those of prompts are what the sequences that decode leave of them), and which
waiting requests come first.

Action: a number below 18, ``6 * order + budget``, with orders first come, shortest expected service, and shortest that
can still meet its limit, and budgets of 0, 128, 256, 512, 1024 and 2048 tokens. Where nothing decodes, 0 counts as 128.

Observation, float32 in [0, 1], of the replica at hand; x/(x+h) stands for a number without bound, h in brackets:

====== ========================================================================================
place  meaning
====== ========================================================================================
0, 1   waiting requests (16), their prompts' tokens (8192)
2, 3   service that they need until their first tokens, longest wait (both: the limit on TTFT)
4      share of them that will miss that limit
5      expected service of the shortest (4 s)
6, 7   places taken of ``max_seqs``, sequences that decode (32)
8      free share of the cache
9, 10  tokens of context (65536), tokens that a sequence has so far (256)
11     tokens that the replica still has to compute (65536)
12     mean time of its iterations (the limit on TPOT)
13     share of the episode's requests that have come
====== ========================================================================================

Reward: requests that ended within both limits since the last decision, less those that ended otherwise; at the end
those that were never served count among the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunewright.envs.parallelism import clusters, models
from tunewright.envs.parallelism.serving import Service
from tunewright.envs.scheduling.batch import BatchEnv, SingleEnv
from tunewright.envs.scheduling.serving import policies, simulate, state
from tunewright.envs.scheduling.serving.requests import Requests
from tunewright.envs.scheduling.serving.trace import load
from tunewright.errors import ConfigError

SEEN = 14


@dataclass(kw_only=True)
class Scene:
    """What an environment serves.

    Attributes:
        trace: file, or ``synthetic:KIND``.
        options: of the generator.
        model, cluster, tp: what serves; see ``tunewright simulate serving``.
        policy: whose other knobs are used.
        requests: of an episode.
        speed: arrivals are so many times as dense.
        ttft_s, tpot_s: limits.
        error: of predicted lengths.
        data_seed: of generated requests; episodes are pieces of them.
    """

    trace: str = "synthetic:mixed"
    options: dict[str, Any] = field(default_factory=dict)
    model: str = "llama3-8b"
    cluster: str = "h100:1"
    tp: int = 0
    policy: str = "sarathi"
    requests: int = 200
    speed: float = 4.0
    ttft_s: float = 1.0
    tpot_s: float = 0.05
    error: float = 0.3
    data_seed: int = 1

    def open(self) -> tuple[Requests, simulate.Setup, policies.Knobs]:
        """Return requests, system and knobs.

        Raises:
            ConfigError: something does not fit.
        """
        knobs = policies.policy(self.policy)
        if knobs.batching != "chunked":
            raise ConfigError(f"the environment needs a policy with chunked prompts, not {self.policy!r}")
        service = Service(model=models.load(self.model), nodes=clusters.load(self.cluster).nodes)
        requests = load(self.trace, self.options, self.data_seed).faster(self.speed)
        if len(requests) < self.requests:
            raise ConfigError(f"{self.trace} has {len(requests)} requests, and an episode needs {self.requests}")
        return requests, simulate.setup(service, simulate.default_plan(service, tp=self.tp), knobs), knobs


class ServingVectorEnv(BatchEnv):
    """``n`` serving systems, each with its own piece of the trace.

    Args:
        num_envs: how many.
        **scene: see ``Scene``.
    """

    def __init__(self, num_envs: int = 1, **scene: Any) -> None:
        self.scene = Scene(**scene)
        self.requests, self.setup, self.knobs = self.scene.open()
        self.engines = (self.setup.engine, self.setup.prefill or self.setup.engine)
        super().__init__(num_envs, SEEN, len(state.BUDGETS) * len(state.ORDERS))

    def _decide_all(self) -> Any:
        from tunewright.envs.scheduling.serving.decide import decide_all

        return decide_all

    def _piece(self, rng: np.random.Generator) -> state.Systems:
        scene = self.scene
        start = int(rng.integers(0, len(self.requests) - scene.requests + 1))
        return simulate.systems(
            [self.requests.first(scene.requests, start)], self.setup, self.knobs, ttft_s=scene.ttft_s,
            tpot_s=scene.tpot_s, error=scene.error, seed=start,
        )  # fmt: skip


class ServingEnv(SingleEnv):
    """One serving system.

    Args:
        **scene: see ``Scene``.
    """

    def __init__(self, **scene: Any) -> None:
        super().__init__(ServingVectorEnv(1, **scene))
