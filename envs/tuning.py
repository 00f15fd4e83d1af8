"""Any target as a Gymnasium environment: ``tunewright/Tuning-v0``.

Observation, a float32 vector; with d parameters, m metrics and w workloads:

================ ====== ========= =================================================================
part             size   range     meaning
================ ====== ========= =================================================================
configuration    d      [0, 1]    last configuration in the unit cube; inactive parameters at 0.5
metrics          m      [-5, 5]   log ratio of each metric to the default's, above 0 where better
outcome          1      {0, 1}    1 if the last configuration failed or broke a constraint
best             1      [-5, 5]   best log ratio of the objective so far
workload         w      {0, 1}    one-hot
budget           1      [0, 1]    share of the steps that is left
================ ====== ========= =================================================================

Action: a point of the unit cube, shape (d,). Reward: log improvement of the objective over the default, in
[-5, 5]; -1 for a configuration that fails or breaks a constraint. An episode ends when the budget is spent.
"""

from __future__ import annotations

import tempfile
import uuid
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from tunewright.envs.linked import Packed
from tunewright.errors import ConfigError, TargetError, unknown
from tunewright.measuring.isolation import Runs, call_isolated, measure_once
from tunewright.measuring.protocol import improvement
from tunewright.plugins import open_target
from tunewright.sessions.changes import Owner, protected
from tunewright.sessions.guards import guarded
from tunewright.space import Config, Space
from tunewright.store.trees import remove_tree
from tunewright.target import BaseTarget, Budget, Measurement, Metric

Vector = NDArray[np.float32]
CLIP, FAILURE = 5.0, -1.0


def observe(
    space: Space,
    metrics: Sequence[Metric],
    workloads: Sequence[str],
    *,
    workload: str,
    config: Config,
    values: Mapping[str, float] | None,
    default: Mapping[str, float],
    best: float,
    left: float,
) -> Vector:
    """Build the observation of the module's table.

    Args:
        space: parameters.
        metrics: metrics, in order.
        workloads: names of all workloads, in order.
        workload: the present one.
        config: the last configuration.
        values: what it gave; None if it failed or broke a constraint.
        default: what the default gave.
        best: best log ratio so far.
        left: share of the budget that is left.

    Returns:
        Shape (d + m + 1 + 1 + w + 1,).
    """
    gains = [gain(m, values[m.name], default[m.name]) if values is not None else 0.0 for m in metrics]
    parts: list[Any] = [
        space.encode(config),
        gains,
        [float(values is None)],
        [best],
        [float(w == workload) for w in workloads],
        [left],
    ]
    return np.concatenate(parts).astype(np.float32)


def observation_space(parameters: int, metrics: int, workloads: int) -> spaces.Box:
    """Return the bounds of ``observe``'s vector."""
    low = np.concatenate([np.zeros(parameters), np.full(metrics, -CLIP), [0.0, -CLIP], np.zeros(workloads), [0.0]])
    high = np.concatenate([np.ones(parameters), np.full(metrics, CLIP), [1.0, CLIP], np.ones(workloads), [1.0]])
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def gain(metric: Metric, value: float, default: float) -> float:
    """Log improvement over the default, clipped to [-5, 5]; 0 where there is no ratio."""
    found = improvement(metric, value, default)
    return 0.0 if found is None else float(np.clip(found, -CLIP, CLIP))


class TuningEnv(Packed, gymnasium.Env[Vector, Vector]):
    """Tune a target step by step; see the module's docstring for observation, action and reward.

    Args:
        target: a target or its spec, such as ``"sqlite"`` or ``"table:FILE"``.
        workload: a workload's name; None draws one at every reset.
        budget: steps of an episode.
        options: target options, with a spec.
        workdir: directory for the target's files; None for a temporary one.

    Example:
        >>> import gymnasium, tunewright.envs
        >>> from tunewright.testing import Sphere
        >>> env = gymnasium.make("tunewright/Tuning-v0", target=Sphere(), budget=5)
        >>> observation, info = env.reset(seed=1)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> info["status"]
        'ok'
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        target: BaseTarget | str,
        workload: str | None = None,
        budget: int = 20,
        options: Mapping[str, str] | None = None,
        workdir: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.target = open_target(target, options) if isinstance(target, str) else target
        if budget < 1:
            raise ConfigError(f"budget must be at least 1 step, not {budget}")
        if workload is not None and workload not in self.target.workloads:
            raise unknown(f"workload of {self.target.name}", workload, self.target.workloads)
        self.render_mode = render_mode
        self.workloads = list(self.target.workloads)
        self.fixed_workload, self.budget = workload, budget
        self.metrics = list(self.target.metrics)
        self.objective = self.metrics[0]
        self.space = guarded(self.target)
        self.action_space: spaces.Space[Any] = spaces.Box(0.0, 1.0, (len(self.space),), dtype=np.float32)
        self.observation_space: spaces.Space[Any] = observation_space(
            len(self.space), len(self.metrics), len(self.workloads)
        )
        self._workdir, self._made = workdir, ""
        self._runs: Runs | None = None
        self._guard: weakref.finalize[Any, Any] | None = None
        self._prepared: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._data_seed = 0

    def _state(self) -> dict[str, Any]:
        """Return the attributes that a copy begins with: it makes files of its own.

        Raises:
            ConfigError: the files of a real system lie in a directory that was given, which a copy would share.
        """
        if self.target.isolated and self._workdir is not None:
            raise ConfigError(
                f"a copy of this environment would share the files of {self.target.name} in {self._workdir}; make a"
                " second environment with a workdir of its own, or leave workdir out"
            )
        prepared = {} if self.target.isolated else self._prepared
        return {**self.__dict__, "_made": "", "_runs": None, "_guard": None, "_prepared": prepared}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Vector, dict[str, Any]]:
        """Measure the default and start an episode.

        Raises:
            TargetError: the default cannot be measured.
        """
        super().reset(seed=seed)
        self.workload = self.fixed_workload or self.workloads[int(self.np_random.integers(len(self.workloads)))]
        self.left, self.best = self.budget, 0.0
        found = self._measure(self.space.default)
        if not found.ok:
            raise TargetError(f"the default configuration cannot be measured: {found.status}: {found.reason}")
        self.default = dict(found.values)
        return self._observe(self.space.default, self.default), self._info(self.space.default, found)

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Measure the configuration that the action decodes to."""
        config = self.space.decode(np.asarray(action, dtype=np.float64))
        found = self._measure(config)
        self.left -= 1
        good = found.ok and all(m.violation(found.values[m.name]) <= 0 for m in self.metrics)
        reward = (
            gain(self.objective, found.values[self.objective.name], self.default[self.objective.name])
            if good
            else FAILURE
        )
        if good:
            self.best = max(self.best, reward)
        observation = self._observe(config, found.values if good else None)
        return observation, reward, self.left == 0, False, self._info(config, found)

    def close(self) -> None:
        """Put back what measuring changed, and remove temporary files."""
        if self._guard is not None:
            self._guard()  # once
            self._runs = self._guard = None
        if self._made:
            remove_tree(Path(self._made))
            self._made = ""
            self._prepared.clear()

    @property
    def workdir(self) -> Path:
        """Directory for the target's files, made on first use."""
        if self._workdir is None and not self._made:
            self._made = tempfile.mkdtemp(prefix="tunewright-env-")
            # for who forgets to close; finalizers made later, such as the putting back, run before
            weakref.finalize(self, remove_tree, Path(self._made))
        return Path(self._workdir or self._made)

    def _measure(self, config: Config) -> Measurement:
        key = (self.workload, self._data_seed)
        # tables and simulators need no files
        workdir = self.workdir if self.target.isolated else Path(tempfile.gettempdir())
        if self.target.isolated and self._runs is None:
            self._runs = self._protect(workdir)
        budget = Budget(
            workdir=workdir, seconds=self.target.limit_seconds or 600.0, memory_bytes=self.target.memory_bytes
        )
        if key not in self._prepared:
            self._prepared[key] = call_isolated(
                self.target, "prepare", workload=self.workload, seed=self._data_seed, budget=budget, runs=self._runs
            )
        budget = Budget(
            workdir=budget.workdir,
            seconds=budget.seconds,
            memory_bytes=budget.memory_bytes,
            prepared=self._prepared[key],
        )
        seed = int(self.np_random.integers(2**31))
        return measure_once(self.target, config, workload=self.workload, seed=seed, budget=budget, runs=self._runs)

    def _protect(self, workdir: Path) -> Runs:
        """Hold and write down what measuring changes, until ``close``, or until the environment is forgotten."""
        name = f"the environment of {self.target.name!r}"
        owner = Owner(what=name, name=f"environment-{uuid.uuid4().hex[:12]}", target="", options={})
        stack = ExitStack()
        runs = stack.enter_context(protected(self.target, owner, workdir))
        self._guard = weakref.finalize(self, stack.close)
        return runs

    def _observe(self, config: Config, values: Mapping[str, float] | None) -> Vector:
        return observe(
            self.space,
            self.metrics,
            self.workloads,
            workload=self.workload,
            config=config,
            values=values,
            default=self.default,
            best=self.best,
            left=self.left / self.budget,
        )

    def _info(self, config: Config, found: Measurement) -> dict[str, Any]:
        return {
            "config": dict(config),
            "metrics": dict(found.values),
            "status": found.status,
            "reason": found.reason,
        }
