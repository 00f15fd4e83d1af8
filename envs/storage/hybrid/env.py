"""Placement and migration as Gymnasium environments: one request a step.

Observation (float32, each in [0, 1]; the bins and units are tabled in ``features``):

| index | meaning | bins |
|---|---|---|
| 0 | type of the request: 0 read, 1 write | 2 |
| 1 | size, log2 of its pages | 8 |
| 2 | requests since its first page was last touched, quarter octaves | 64 |
| 3 | touches of that page so far, quarter octaves | 64 |
| 4 | free capacity of the fastest tier, eighths | 8 |
| 5 | tier that holds that page, 0 is the fastest | tiers |
| 6 | requests since that page last changed its tier, quarter octaves | 64 |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from tunewright.envs.linked import Linked
from tunewright.envs.storage.hybrid import stepping
from tunewright.envs.storage.hybrid.devices import Devices, load_devices
from tunewright.envs.storage.hybrid.reward import INVERSE, LOGARITHM
from tunewright.envs.storage.hybrid.world import PLAIN, Mechanisms, World
from tunewright.errors import ConfigError, unknown
from tunewright.knowledge.blocktrace import PagedTrace, paged
from tunewright.knowledge.synthetic import open_trace

REWARDS = {"inverse": INVERSE, "log": LOGARITHM}
Seen = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the environments of this family replay, and how.

    Attributes:
        trace: a trace in pages, a file, or ``synthetic:KIND``.
        devices: a configuration, or the name of one.
        fast: share of the footprint that the fastest tier holds.
        scale: factor on the trace's inter-arrival times.
        mechanisms: what the storage system does beside the agent.
        reward: ``inverse``: fastest possible latency over latency; ``log``: minus log2 of its inverse.
        requests: length of an episode; None: the whole trace. A shorter one begins at a random request.
    """

    trace: PagedTrace | str = "synthetic:zipf"
    devices: Devices | str = "performance"
    fast: float = 0.10
    scale: float = 1.0
    mechanisms: Mechanisms = PLAIN
    reward: str = "inverse"
    requests: int | None = None

    def open(self, n: int) -> World:
        """Make a batch of n systems.

        Raises:
            ConfigError, UnknownNameError: what is wrong with the trace, the devices or a number.
        """
        if self.reward not in REWARDS:
            raise unknown("reward", self.reward, REWARDS)
        cut = self.trace if isinstance(self.trace, PagedTrace) else paged(open_trace(self.trace))
        devices = self.devices if isinstance(self.devices, Devices) else load_devices(self.devices)
        if self.requests is not None and not 1 <= self.requests <= len(cut.first):
            raise ConfigError(f"an episode has 1 to {len(cut.first)} requests on this trace, not {self.requests}")
        return World(cut, devices, fast=self.fast, scale=self.scale, mechanisms=self.mechanisms, n=n)

    def begin(self, world: World, k: int, rng: np.random.Generator) -> None:
        """Set system ``k``, already reset, to the start of an episode."""
        total = len(world.requests)
        length = self.requests or total
        start = int(rng.integers(0, total - length + 1)) if length < total else 0
        world.sims["clock"][k], world.sims["stop"][k] = start, start + length


class _HybridEnv(Linked, gymnasium.Env[Seen, np.int64]):
    """What placement and migration share; keyword arguments are those of ``Scene``."""

    metadata = {"render_modes": []}  # noqa: RUF012
    derived = ("_batch", "_step")

    def __init__(self, *, render_mode: str | None = None, **scene: Any) -> None:
        if render_mode is not None:
            raise ConfigError(
                f"there is no render mode {render_mode!r}; plots come from 'tunewright place -o FILE.html'"
            )
        self.scene = Scene(**scene)
        self.world = self.scene.open(1)
        tiers = len(self.world.devices.tiers)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (7,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(tiers)
        self._tiers, self._kind = tiers, REWARDS[self.scene.reward]
        self._over = True
        self._link()

    def _link(self) -> None:
        self._batch, self._step = int(self.world.sims.ctypes.data), stepping.step

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        """Start an episode: all pages on the slowest tier."""
        super().reset(seed=seed)
        self.world.reset()
        self.scene.begin(self.world, 0, self.np_random)
        seen = np.zeros(7, np.float32)
        stepping.see(self._batch, 0, seen)
        self._over = False
        return seen, {}

    def _check(self, action: Any) -> None:
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode is over; call reset() first")
        if not 0 <= action < self._tiers:
            raise ConfigError(f"an action is a tier from 0 to {self._tiers - 1}, not {action!r}")


class PlacementEnv(_HybridEnv):
    """Choose the tier for the pages of each request (``tunewright/HybridPlacement-v0``).

    A write goes to the chosen tier. A read is served from where the pages are, and then moves them to the chosen tier.
    Reward: see ``Scene.reward``; ``info["latency_us"]`` is the request's latency.
    """

    def step(self, action: np.int64) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Serve one request."""
        if self._over or not 0 <= action < self._tiers:
            self._check(action)
        seen = np.empty(7, np.float32)
        reward, _, latency, over = self._step(self._batch, int(action), -1, self._kind, seen)
        if over:
            self._over = True
            seen[:] = 0.0
        return seen, reward, over, False, {"latency_us": latency}


class MigrationEnv(_HybridEnv):
    """Choose where the page just requested should live (``tunewright/HybridMigration-v0``).

    Writes go to the fastest tier and reads are served in place; the agent's wish is queued and carried out in idle
    time. Reward: that of a running mean over the last requests, less 0.1 for a page that has moved within fifty.
    """

    def step(self, action: np.int64) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Serve one request, then ask for a migration."""
        if self._over or not 0 <= action < self._tiers:
            self._check(action)
        seen = np.empty(7, np.float32)
        how = stepping.WRITES_FAST
        _, reward, latency, over = self._step(self._batch, how, int(action), self._kind, seen)
        if over:
            self._over = True
            seen[:] = 0.0
        return seen, reward, over, False, {"latency_us": latency}
