"""Many placement environments over one kernel call, as a ``gymnasium.vector.VectorEnv``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from tunewright.envs.linked import Linked
from tunewright.envs.storage.hybrid import stepping
from tunewright.envs.storage.hybrid.env import REWARDS, Scene
from tunewright.errors import ConfigError

Seen = npt.NDArray[np.float32]


class PlacementVectorEnv(Linked, gymnasium.vector.VectorEnv[Seen, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """``n`` systems that replay one trace, each from its own start.

    A system whose episode is over is reset by the next step, which returns its first observation and reward 0.

    Args:
        num_envs: how many.
        **scene: see ``env.Scene``.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    derived = ("_batch",)

    def __init__(self, num_envs: int = 1, **scene: Any) -> None:
        if num_envs < 1:
            raise ConfigError(f"a batch has at least one environment, not {num_envs}")
        self.scene, self.num_envs = Scene(**scene), num_envs
        self.world = self.scene.open(num_envs)
        self.single_observation_space = gymnasium.spaces.Box(0.0, 1.0, (7,), np.float32)
        self._tiers = len(self.world.devices.tiers)
        self.single_action_space = gymnasium.spaces.Discrete(self._tiers)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._kind = REWARDS[self.scene.reward]
        self._over = np.ones(num_envs, np.bool_)
        self._link()

    def _link(self) -> None:
        self._batch = int(self.world.sims.ctypes.data)

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
            seeds = (
                seed if isinstance(seed, list) else [None if seed is None else seed + k for k in range(self.num_envs)]
            )
            if len(seeds) != self.num_envs:
                raise ConfigError(f"{len(seeds)} seeds for {self.num_envs} environments")
            self._rngs = [np.random.default_rng(s) for s in seeds]
        seen = np.zeros((self.num_envs, 7), np.float32)
        self._begin(mask, seen)
        return seen, {}

    def _begin(self, mask: npt.NDArray[np.bool_], seen: Seen) -> None:
        self.world.reset(mask)
        for k in np.flatnonzero(mask):
            self.scene.begin(self.world, int(k), self._rngs[k])
            stepping.see(self._batch, int(k), seen[k])
        self._over[mask] = False

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[Seen, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Serve one request in every system whose episode goes on; begin a new one in the others."""
        actions = np.asarray(actions, np.int64)
        n = self.num_envs
        seen, reward = np.zeros((n, 7), np.float32), np.zeros(n)
        latency, over = np.zeros(n), np.zeros(n, np.bool_)
        fresh = self._over
        if actions.shape != (n,) or not stepping.step_all(
            self._batch, ~fresh, actions, self._kind, seen, reward, latency, over
        ):
            raise ConfigError(f"actions are {n} tiers from 0 to {self._tiers - 1}, not {actions}")
        if fresh.any():
            self._begin(fresh, seen)
        self._over = over
        return seen, reward, over.copy(), np.zeros(n, np.bool_), {"latency_us": latency}
