"""Placement and migration agents side by side, as a PettingZoo ``ParallelEnv``."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import numpy.typing as npt

from tunewright.envs.linked import Linked
from tunewright.envs.storage.hybrid import stepping
from tunewright.envs.storage.hybrid.env import REWARDS, Scene
from tunewright.errors import ConfigError, missing_extra

try:
    from pettingzoo import ParallelEnv
except ImportError:
    raise missing_extra("pettingzoo", "rl", "the environment with both agents") from None

Seen = npt.NDArray[np.float32]
AGENTS = ("placement", "migration")


class HybridParallelEnv(Linked, ParallelEnv[str, Seen, int]):  # type: ignore[misc, unused-ignore]
    """Both agents see the same seven numbers and choose a tier each, as in ``PlacementEnv`` and ``MigrationEnv``.

    Args:
        **scene: see ``env.Scene``.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "tunewright_hybrid_v0", "render_modes": []}
    render_mode = None
    derived = ("_batch",)

    def __init__(self, **scene: Any) -> None:
        self.scene = Scene(**scene)
        self.world = self.scene.open(1)
        self.possible_agents = list(AGENTS)
        self.agents: list[str] = []
        box = gymnasium.spaces.Box(0.0, 1.0, (7,), np.float32)
        self.observation_spaces = {a: box for a in AGENTS}
        self.action_spaces = {a: gymnasium.spaces.Discrete(len(self.world.devices.tiers)) for a in AGENTS}
        self._kind = REWARDS[self.scene.reward]
        self._rng = np.random.default_rng()
        self._link()

    def _link(self) -> None:
        self._batch = int(self.world.sims.ctypes.data)

    def observation_space(self, agent: str) -> gymnasium.spaces.Space[Any]:
        """Seven numbers in [0, 1]."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.spaces.Space[Any]:
        """A tier."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Seen], dict[str, dict[str, Any]]]:
        """Start an episode."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents = list(AGENTS)
        self.world.reset()
        self.scene.begin(self.world, 0, self._rng)
        seen = np.zeros(7, np.float32)
        stepping.see(self._batch, 0, seen)
        return {a: seen.copy() for a in AGENTS}, {a: {} for a in AGENTS}

    def step(
        self, actions: dict[str, int]
    ) -> tuple[dict[str, Seen], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Serve one request with the placement agent's tier, and ask for the migration agent's."""
        if not self.agents:
            raise ConfigError("the episode is over; call reset() first")
        for agent in AGENTS:
            if agent not in actions or not self.action_spaces[agent].contains(np.int64(actions[agent])):
                raise ConfigError(f"the {agent} agent needs a tier from 0 to {self.action_spaces[agent].n - 1}")
        seen = np.zeros(7, np.float32)
        place, migrate = int(actions["placement"]), int(actions["migration"])
        rewards = stepping.step(self._batch, place, migrate, self._kind, seen)
        over = bool(rewards[3])
        if over:
            self.agents = []
        return (
            {a: seen.copy() for a in AGENTS},
            {"placement": float(rewards[0]), "migration": float(rewards[1])},
            dict.fromkeys(AGENTS, over),
            dict.fromkeys(AGENTS, False),
            {a: {"latency_us": float(rewards[2])} for a in AGENTS},
        )
