"""A family of targets as a Gymnasium environment: ``tunewright/TuningFamily-v0``, for agents that tune unseen members.

At every reset a member is drawn: a target with its workload and machine. Observation, a float32 vector; with d
parameters, t traits of workloads and f facts:

================ ====== ========= =================================================================
part             size   range     meaning
================ ====== ========= =================================================================
traits           t      {0, 1}    what the workload's description says of it (knowledge/workload.py)
facts            f      [0, 1]    numbers of machine and target, log2(1 + x) / 64; 0 if unknown
best             d      [0, 1]    best configuration so far in the unit cube
last             d      [0, 1]    last configuration
best gain        1      [-5, 5]   log ratio of the objective to the default's, above 0 where better
last gain        1      [-5, 5]   likewise of the last one
outcome          1      {0, 1}    1 if the last configuration failed or broke a constraint
budget           1      [0, 1]    share of the steps that is left
================ ====== ========= =================================================================

Action: a point of the unit cube, shape (d,). Reward: by how much the best log ratio grew, in [0, 5]; -0.1 for a
configuration that fails or breaks a constraint. An episode ends when the budget is spent.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tunewright.envs.linked import Packed
from tunewright.envs.tuning import CLIP, Vector, gain
from tunewright.errors import ConfigError, TargetError
from tunewright.knowledge.workload import FEATURES, traits
from tunewright.measuring.isolation import measure_once
from tunewright.plugins import open_target
from tunewright.sessions.guards import guarded
from tunewright.space import Config, Space
from tunewright.target import BaseTarget, Budget

FAILURE = -0.1
_TRAITS = tuple(FEATURES)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What an agent's observations are made of; kept with a trained one.

    Attributes:
        parameters: names, in order.
        facts: names of facts, in order.
    """

    parameters: tuple[str, ...]
    facts: tuple[str, ...]

    @property
    def size(self) -> int:
        """Length of an observation."""
        return len(_TRAITS) + len(self.facts) + 2 * len(self.parameters) + 4

    def box(self) -> spaces.Box:
        """Return the bounds of an observation."""
        d, ahead = len(self.parameters), len(_TRAITS) + len(self.facts)
        low = np.concatenate([np.zeros(ahead + 2 * d), [-CLIP, -CLIP, 0.0, 0.0]])
        high = np.concatenate([np.ones(ahead + 2 * d), [CLIP, CLIP, 1.0, 1.0]])
        return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def layout_of(target: BaseTarget, space: Space) -> Layout:
    """Return the layout for a target and all that have the same parameters."""
    numbers = [n for n, v in target.facts.items() if isinstance(v, int | float) and not isinstance(v, bool)]
    return Layout(parameters=tuple(space.params), facts=tuple(sorted(numbers)))


class Standing:
    """What is known in the middle of an episode, and what a step earns.

    Args:
        space: the member's, with the default to begin with.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.best = self.last = space.default
        self.best_gain = self.last_gain = 0.0
        self.failed = False

    def advance(self, config: Config, gained: float | None) -> float:
        """Take a measured configuration; returns its reward.

        Args:
            config: the configuration.
            gained: log ratio of the objective to the default's; None if it failed or broke a constraint.
        """
        self.last, self.last_gain, self.failed = config, gained or 0.0, gained is None
        if gained is None:
            return FAILURE
        reward = max(gained - self.best_gain, 0.0)
        if gained > self.best_gain:
            self.best, self.best_gain = config, gained
        return reward

    def observe(self, layout: Layout, *, facts: Mapping[str, Any], about: str, left: float) -> Vector:
        """Build the observation of the module's table, shape (layout.size,)."""
        said = traits(about)
        numbers = [facts.get(n, 0) for n in layout.facts]
        return np.concatenate([
            [float(t in said) for t in _TRAITS],
            [min(math.log2(1 + max(float(v), 0.0)) / 64, 1.0) for v in numbers],
            self.space.encode(self.best), self.space.encode(self.last),
            [self.best_gain, self.last_gain, float(self.failed), left],
        ]).astype(np.float32)  # fmt: skip


class TuningFamilyEnv(Packed, gymnasium.Env[Vector, Vector]):
    """Tune members of a family step by step; see the module's docstring for observation, action and reward.

    Args:
        targets: targets or specs; each draws members of its own, and all have the same parameters.
        budget: steps of an episode.
        members: draw from so many members only, the same ones always; None for new ones without end.
        seed: of the fixed members.

    Example:
        >>> import gymnasium, tunewright.envs
        >>> env = gymnasium.make("tunewright/TuningFamily-v0", targets=["lustre"], budget=4)
        >>> observation, info = env.reset(seed=1)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> info["status"]
        'ok'
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        targets: Sequence[BaseTarget | str],
        budget: int = 8,
        members: int | None = None,
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        self.targets = [open_target(t) if isinstance(t, str) else t for t in targets]
        if not self.targets:
            raise ConfigError("a family needs at least one target")
        if budget < 1:
            raise ConfigError(f"budget must be at least 1 step, not {budget}")
        self.layout = layout_of(self.targets[0], guarded(self.targets[0]))
        for other in self.targets[1:]:
            names = tuple(guarded(other).params)
            if names != self.layout.parameters:
                raise ConfigError(
                    f"targets of a family have the same parameters; {other.name} has {', '.join(names[:4])} ..., "
                    f"{self.targets[0].name} has {', '.join(self.layout.parameters[:4])} ..."
                )
        for target in self.targets:
            if target.isolated:
                raise ConfigError(
                    f"{target.name} is a real system: training takes 100,000 measurements; take a simulated one"
                )
        self.budget, self.members, self._seed, self.render_mode = budget, members, seed, render_mode
        self.action_space: spaces.Space[Any] = spaces.Box(0.0, 1.0, (len(self.layout.parameters),), dtype=np.float32)
        self.observation_space: spaces.Space[Any] = self.layout.box()
        self._folder = Budget(workdir=Path(tempfile.gettempdir()))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Vector, dict[str, Any]]:
        """Draw a member and measure its default.

        Raises:
            TargetError: its default cannot be measured.
        """
        super().reset(seed=seed)
        base = self.targets[int(self.np_random.integers(len(self.targets)))]
        rng = self.np_random
        if self.members is not None:
            rng = np.random.default_rng([self._seed, int(self.np_random.integers(self.members))])
        self.target, self.workload = base.drawn(rng)
        self.space = guarded(self.target)
        self.objective = self.target.metrics[0]
        self.left = self.budget
        found = self._measure(self.space.default)
        if not found.ok:
            raise TargetError(f"the default configuration cannot be measured: {found.status}: {found.reason}")
        self.default = found.values[self.objective.name]
        self.standing = Standing(self.space)
        return self._observe(), {"workload": self.target.workloads[self.workload]}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Measure the configuration that the action decodes to."""
        config = self.space.decode(np.asarray(action, dtype=np.float64))
        found = self._measure(config)
        self.left -= 1
        good = found.ok and all(m.violation(found.values[m.name]) <= 0 for m in self.target.metrics)
        gained = gain(self.objective, found.values[self.objective.name], self.default) if good else None
        reward = self.standing.advance(config, gained)
        best = self.standing.best_gain
        info = {"status": found.status, "reason": found.reason, "config": dict(config), "best_gain": best}
        return self._observe(), reward, self.left == 0, False, info

    def _measure(self, config: Config) -> Any:
        seed = int(self.np_random.integers(2**31))
        return measure_once(self.target, config, workload=self.workload, seed=seed, budget=self._folder)

    def _observe(self) -> Vector:
        about = f"{self.workload} {self.target.workloads[self.workload]}"
        return self.standing.observe(self.layout, facts=self.target.facts, about=about, left=self.left / self.budget)
