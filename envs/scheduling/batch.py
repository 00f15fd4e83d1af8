"""What the scheduling environments share: many systems over one compiled call, and one of them as the batch of one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from tunewright.envs.linked import Independent, Linked
from tunewright.errors import ConfigError

Seen = npt.NDArray[np.float32]


class BatchEnv(Linked, gymnasium.vector.VectorEnv[Seen, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """``n`` systems, each with its own piece of the work; one whose episode is over is reset by the next step.

    Args:
        num_envs: how many.
        observations: numbers that an agent sees, each in [0, 1].
        actions: how many there are.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    derived = ("_compiled",)
    engines: tuple[Any, ...] = ()

    def __init__(self, num_envs: int, observations: int, actions: int) -> None:
        if num_envs < 1:
            raise ConfigError(f"a batch has at least one environment, not {num_envs}")
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(0.0, 1.0, (observations,), np.float32)
        self.single_action_space = spaces.Discrete(actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._over = np.ones(num_envs, np.bool_)
        self._systems: list[Any] = [None] * num_envs
        self._waiting = np.full(num_envs, -1)
        self._mask = np.ones((num_envs, actions), np.bool_)
        self._table: Any = None
        self._link()

    def _link(self) -> None:
        """Set the addresses in the table, which has a copy of each system's record with what has happened since."""
        self._compiled = self._decide_all()
        for index, system in enumerate(self._systems):
            if system is not None:
                system.systems[0] = self._table[index]
                system._link()
                self._table[index] = system.systems[0]

    @abstractmethod
    def _piece(self, rng: np.random.Generator) -> Any:
        """Return the systems (of one) that an episode runs."""

    @abstractmethod
    def _decide_all(self) -> Any:
        """Return the compiled function that takes one decision in each of the marked systems.

        Its arguments are:
            systems: address.
            marked: bool, (n,).
            waiting: what the decision is about: -1 at the beginning of an episode, and filled in as -1 at its end.
            actions: int64, (n,).
            seen: float32, (n, observations), filled in.
            mask: bool, (n, actions), filled in: what may be chosen next.
            reward: float64, (n,), filled in.
            engines: of the class, further arguments.
        """

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        """Start an episode in every system.

        Args:
            seed: of the batch; system k uses ``seed + k``, or the k-th of a list.
            options: ``reset_mask``, bool, (n,): reset only these.
        """
        count = self.num_envs
        which = np.ones(count, np.bool_)
        if options and "reset_mask" in options:
            which = np.asarray(options["reset_mask"], np.bool_)
        if seed is not None or not hasattr(self, "_rngs"):
            seeds = (
                seed if isinstance(seed, list) else [None if seed is None else seed + index for index in range(count)]
            )
            if len(seeds) != count:
                raise ConfigError(f"{len(seeds)} seeds for {count} environments")
            self._rngs = [np.random.default_rng(one) for one in seeds]
        seen = np.zeros((count, *self.single_observation_space.shape), np.float32)  # type: ignore[misc]
        self._begin(which, seen)
        return seen, {"action_mask": self._mask.copy()}

    def _begin(self, which: npt.NDArray[np.bool_], seen: Seen) -> None:
        which = which | np.array([system is None for system in self._systems])
        for index in np.flatnonzero(which):
            self._systems[index] = self._piece(self._rngs[index])
            if self._table is None:
                self._table = np.zeros(self.num_envs, self._systems[index].systems.dtype)
            self._table[index] = self._systems[index].systems[0]
        self._waiting[which] = -1
        self._go(which, np.zeros(self.num_envs, np.int64), seen)
        self._over[which] = self._waiting[which] < 0

    def _go(self, which: npt.NDArray[np.bool_], actions: npt.NDArray[np.int64], seen: Seen) -> npt.NDArray[np.float64]:
        reward = np.zeros(self.num_envs)
        address = int(self._table.ctypes.data)
        self._compiled(address, which, self._waiting, actions, seen, self._mask, reward, *self.engines)
        return reward

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[Seen, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Take one decision in every system whose episode goes on; begin a new one in the others."""
        actions = np.asarray(actions, np.int64)
        size, count = self.num_envs, int(self.single_action_space.n)  # type: ignore[attr-defined]
        if actions.shape != (size,) or ((actions < 0) | (actions >= count)).any():
            raise ConfigError(f"actions are {size} numbers from 0 to {count - 1}, not {actions}")
        seen = np.zeros((size, *self.single_observation_space.shape), np.float32)  # type: ignore[misc]
        fresh = self._over.copy()
        reward = self._go(~fresh, actions, seen)
        over = ~fresh & (self._waiting < 0)
        self._over = over.copy()
        if fresh.any():
            self._begin(fresh, seen)
        return seen, reward, over, np.zeros(size, np.bool_), {"action_mask": self._mask.copy()}


class SingleEnv(Independent, gymnasium.Env[Seen, np.int64]):
    """One system: the batch of one."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, batch: BatchEnv) -> None:
        self.batch = batch
        self.observation_space, self.action_space = batch.single_observation_space, batch.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.batch._rngs = [self.np_random]
        seen, info = self.batch.reset()
        return seen[0], {"action_mask": info["action_mask"][0]}

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return which actions are legal now, bool, (actions,); sb3-contrib's MaskablePPO asks for it."""
        return np.array(self.batch._mask[0], np.bool_)

    def step(self, action: np.int64) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Take one decision."""
        seen, reward, over, _, info = self.batch.step(np.array([action]))
        return seen[0], float(reward[0]), bool(over[0]), False, {"action_mask": info["action_mask"][0]}
