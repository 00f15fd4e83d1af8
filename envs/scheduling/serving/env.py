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

Reward: requests that ended within both limits since the last decision, less those that ended otherwise; at the end those
that were never served count among the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from tunewright.envs.parallelism import clusters, models
from tunewright.envs.parallelism.serving import Service
from tunewright.envs.scheduling.serving import policies as P
from tunewright.envs.scheduling.serving import simulate as M
from tunewright.envs.scheduling.serving import state as S
from tunewright.envs.scheduling.serving.trace import Requests, load

from tunewright.errors import ConfigError

Seen = npt.NDArray[np.float32]
BUDGETS = np.array([0, 128, 256, 512, 1024, 2048])
ORDERS = np.array([S.FCFS, S.SJF, S.SLO])
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

    def open(self) -> tuple[Requests, M.Setup, P.Knobs]:
        """Return requests, system and knobs.

        Raises:
            ConfigError: something does not fit.
        """
        knobs = P.policy(self.policy)
        if knobs.batching != "chunked":
            raise ConfigError(f"the environment needs a policy with chunked prompts, not {self.policy!r}")
        service = Service(model=models.load(self.model), nodes=clusters.load(self.cluster).nodes)
        requests = load(self.trace, self.options, self.data_seed).faster(self.speed)
        if len(requests) < self.requests:
            raise ConfigError(f"{self.trace} has {len(requests)} requests, and an episode needs {self.requests}")
        return requests, M.setup(service, M.default_plan(service, tp=self.tp), knobs), knobs


class ServingVectorEnv(gymnasium.vector.VectorEnv[Seen, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """``n`` systems, each with its own piece of the trace; a system whose episode is over is reset by the next step.

    Args:
        num_envs: how many.
        **scene: see ``Scene``.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 1, **scene: Any) -> None:
        from tunewright.envs.scheduling.serving import decide

        if num_envs < 1:
            raise ConfigError(f"a batch has at least one environment, not {num_envs}")
        self._decide = decide.decide_all
        self.scene, self.num_envs = Scene(**scene), num_envs
        self.requests, self.setup, self.knobs = self.scene.open()
        self.single_observation_space = spaces.Box(0.0, 1.0, (SEEN,), np.float32)
        self.single_action_space = spaces.Discrete(len(BUDGETS) * len(ORDERS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._over = np.ones(num_envs, np.bool_)
        self._systems: list[S.Systems] = []

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        """Start an episode in every system.

        Args:
            seed: of the batch; system k uses ``seed + k``, or the k-th of a list.
            options: ``reset_mask``, bool, (n,): reset only these.
        """
        mask = np.ones(self.num_envs, np.bool_)
        if options and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"], np.bool_)
        if seed is not None or not hasattr(self, "_rngs"):
            seeds = seed if isinstance(seed, list) else [None if seed is None else seed + k for k in range(self.num_envs)]
            if len(seeds) != self.num_envs:
                raise ConfigError(f"{len(seeds)} seeds for {self.num_envs} environments")
            self._rngs = [np.random.default_rng(s) for s in seeds]
        seen = np.zeros((self.num_envs, SEEN), np.float32)
        self._begin(mask, seen)
        return seen, {}

    def _begin(self, mask: npt.NDArray[np.bool_], seen: Seen) -> None:
        if not self._systems:
            self._systems = [self._piece(k) for k in range(self.num_envs)]
            self._table = np.zeros(self.num_envs, S.SYSTEM)
            self._waiting = np.full(self.num_envs, -1)
            mask = np.ones(self.num_envs, np.bool_)
        else:
            for k in np.flatnonzero(mask):
                self._systems[k] = self._piece(int(k))
        for k in np.flatnonzero(mask):
            self._table[k] = self._systems[k].systems[0]
        self._waiting[mask] = -1
        nothing = np.zeros(self.num_envs, np.int64)
        self._go(mask, nothing, nothing, seen)
        self._over[mask] = self._waiting[mask] < 0

    def _piece(self, k: int) -> S.Systems:
        rng, scene = self._rngs[k], self.scene
        start = int(rng.integers(0, len(self.requests) - scene.requests + 1))
        return M.systems(
            [self.requests.first(scene.requests, start)], self.setup, self.knobs, ttft_s=scene.ttft_s, tpot_s=scene.tpot_s,
            error=scene.error, seed=start,
        )  # fmt: skip

    def _go(self, which: Any, chunks: Any, orders: Any, seen: Seen) -> npt.NDArray[np.float64]:
        reward = np.zeros(self.num_envs)
        setup = self.setup
        self._decide(
            self._table.ctypes.data, which, self._waiting, chunks, orders, setup.engine, setup.prefill or setup.engine, seen,
            reward,
        )  # fmt: skip
        return reward

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[Seen, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Take one decision in every system whose episode goes on; begin a new one in the others."""
        actions = np.asarray(actions, np.int64)
        n, count = self.num_envs, len(BUDGETS) * len(ORDERS)
        if actions.shape != (n,) or ((actions < 0) | (actions >= count)).any():
            raise ConfigError(f"actions are {n} numbers from 0 to {count - 1}, not {actions}")
        seen, fresh = np.zeros((n, SEEN), np.float32), self._over.copy()
        chunks, orders = BUDGETS[actions % len(BUDGETS)], ORDERS[actions // len(BUDGETS)]
        reward = self._go(~fresh, chunks, orders, seen)
        over = ~fresh & (self._waiting < 0)
        self._over = over.copy()
        if fresh.any():
            self._begin(fresh, seen)
        return seen, reward, over, np.zeros(n, np.bool_), {}


class ServingEnv(gymnasium.Env[Seen, np.int64]):
    """One system; the batch of one.

    Args:
        **scene: see ``Scene``.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, **scene: Any) -> None:
        self.batch = ServingVectorEnv(1, **scene)
        self.observation_space, self.action_space = self.batch.single_observation_space, self.batch.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.batch._rngs = [self.np_random]
        seen, _ = self.batch.reset()
        return seen[0], {}

    def step(self, action: np.int64) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Take one decision."""
        seen, reward, over, _, _ = self.batch.step(np.array([action]))
        return seen[0], float(reward[0]), bool(over[0]), False, {}
