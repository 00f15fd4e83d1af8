"""Planning as a sequence of decisions: ``tunewright/TrainPlan-v0`` and ``tunewright/ServePlan-v0``.

An episode plans for one job, drawn from a pool of models and clusters. Each step sets one part of the plan; masks
(``action_masks``, and ``info["action_mask"]``) leave out values that break a rule. The last step
gives the reward. Observation, a float32 vector:

================ ==== ========= ==============================================================================
part             size range     meaning
================ ==== ========= ==============================================================================
job              j    [-3, 3]   logarithms of sizes of model, cluster and load, centred and scaled
chosen           s    [0, 1]    the value of each part so far, its place among the options; 0 before it is set
step             s    {0, 1}    which part is to be set, one-hot
================ ==== ========= ==============================================================================

Action: the number of an option of the part at hand. Reward of the last step, training: log(best time / time), 0 for the
best plan, at least -3; a plan that runs out of memory gets -3 - log(needed memory / memory), at least -5. Serving:
log(fewest GPUs / GPUs) if the plan carries the load within its limits, else -3 - log(how far it misses), at least -5.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from tunewright.envs.linked import Independent
from tunewright.envs.parallelism import plans, search
from tunewright.envs.parallelism.clusters import Nodes
from tunewright.envs.parallelism.estimate import estimate
from tunewright.envs.parallelism.models import Model
from tunewright.envs.parallelism.pool import Case, ServingJob, held_out_serve, held_out_train, serve_pool, train_pool
from tunewright.envs.parallelism.serving import Part, ServePlan, problems
from tunewright.envs.parallelism.serving_load import evaluate, meets
from tunewright.envs.parallelism.training import RECOMPUTE, Floats, Job
from tunewright.errors import ConfigError

Vector = NDArray[np.float32]
WORST, LOST = -5.0, -3.0
OPTIONS = 8


def _size(model: Model) -> list[float]:
    values = [
        math.log(model.params / 2e10),
        math.log(model.active_params / 1e10),
        math.log(model.layers / 40),
        math.log(model.hidden / 5000),
        math.log(model.heads / 48),
        math.log(model.heads / model.kv_heads) - 1.0,
        math.log(model.vocab / 6e4),
        math.log1p(model.experts) - 1.0,
    ]
    return [value * 0.6 for value in values]


def _hardware(nodes: Nodes) -> list[float]:
    return [
        0.5 * math.log(nodes.gpus / 64),
        math.log(nodes.bf16_tflops / 700),
        math.log(nodes.memory_gb / 90),
        math.log(nodes.link_gb_s / 300),
        math.log(nodes.fabric_gb_s / 35),
    ]


class PlanEnv(Independent, gymnasium.Env[Vector, np.int64], ABC):
    """What both environments share: one part of the plan after the other.

    Args:
        parts: (name, options) in the order in which they are set.
        size: numbers that describe a job.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, parts: Sequence[tuple[str, Sequence[Any]]], size: int) -> None:
        self.parts = [(name, tuple(options)) for name, options in parts]
        self.action_space: spaces.Space[Any] = spaces.Discrete(OPTIONS)
        low = [-3.0] * size + [0.0] * (2 * len(self.parts))
        high = [3.0] * size + [1.0] * (2 * len(self.parts))
        self.observation_space: spaces.Space[Any] = spaces.Box(
            np.array(low, dtype=np.float32), np.array(high, dtype=np.float32), dtype=np.float32
        )
        self.chosen: dict[str, Any] = {}
        self.case: Case | None = None

    # what the two differ in
    @abstractmethod
    def pool(self) -> Sequence[Case]:
        """Return all jobs."""

    @abstractmethod
    def describe(self, job: Any) -> list[float]:
        """Describe a job in numbers."""

    @abstractmethod
    def legal(self, chosen: dict[str, Any]) -> bool:
        """Whether a partial plan can still become a legal one."""

    @abstractmethod
    def score(self) -> tuple[float, dict[str, Any]]:
        """Return the reward of the complete plan, and what to tell of it."""

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which options of the part at hand are legal, shape (8,)."""
        mask = np.zeros(OPTIONS, dtype=np.bool_)
        if len(self.chosen) < len(self.parts):
            name, options = self.parts[len(self.chosen)]
            for k, value in enumerate(options):
                mask[k] = self.legal({**self.chosen, name: value})
        return mask

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Vector, dict[str, Any]]:
        """Draw a job and start with an empty plan; ``options={"case": n}`` takes a certain job of the pool."""
        super().reset(seed=seed)
        pool = self.pool()
        if options and "case" in options:
            self.case = pool[int(options["case"]) % len(pool)]
        else:
            self.case = pool[int(self.np_random.integers(len(pool)))]
        self.chosen = {}
        return self._observe(), {"action_mask": self.action_masks()}

    def step(self, action: np.int64) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Set one part of the plan; an option that the mask forbids ends the episode with the worst reward."""
        if self.case is None:
            raise ConfigError("call reset before step")
        mask = self.action_masks()
        if not 0 <= int(action) < OPTIONS or not mask[int(action)]:
            info = {"illegal": True, "action_mask": np.zeros(OPTIONS, dtype=np.bool_)}
            return self._observe(), WORST, True, False, info
        name, options = self.parts[len(self.chosen)]
        self.chosen[name] = options[int(action)]
        if len(self.chosen) < len(self.parts):
            return self._observe(), 0.0, False, False, {"action_mask": self.action_masks()}
        reward, told = self.score()
        return self._observe(), reward, True, False, {**told, "action_mask": self.action_masks()}

    def _observe(self) -> Vector:
        assert self.case is not None
        done = []
        for name, options in self.parts:
            done.append((1 + options.index(self.chosen[name])) / len(options) if name in self.chosen else 0.0)
        now = [float(k == len(self.chosen)) for k in range(len(self.parts))]
        out = np.array([*self.describe(self.case.job), *done, *now], dtype=np.float32)
        return np.clip(out, self.observation_space.low, self.observation_space.high)  # type: ignore[attr-defined]


class TrainPlanEnv(PlanEnv):
    """Plan the training of a model; see the module's docstring for observation, action and reward.

    Args:
        count: jobs in the pool.
        seed: of the pool.
        held_out: take the published models instead of drawn ones.

    Example:
        >>> import gymnasium, tunewright.envs
        >>> env = gymnasium.make("tunewright/TrainPlan-v0", count=4)
        >>> observation, info = env.reset(seed=1)
        >>> action = env.action_space.sample(info["action_mask"].astype("int8"))
        >>> observation, reward, terminated, truncated, info = env.step(action)
        >>> terminated
        False
    """

    def __init__(self, count: int = 256, seed: int = 0, held_out: bool = False, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.count, self.seed, self.held_out = count, seed, held_out
        super().__init__(
            [
                ("tp", (1, 2, 4, 8, 16)),
                ("cp", (1, 2, 4, 8)),
                ("pp", (1, 2, 4, 8, 16, 32, 64)),
                ("ep", (1, 2, 4, 8, 16, 32, 64, 128)),
                ("micro_batch", (1, 2, 4, 8, 16)),
                ("chunks", (1, 2, 4, 8)),
                ("zero", (0, 1, 2, 3)),
                ("recompute", RECOMPUTE),
                ("offload", (False, True)),
            ],
            15,
        )

    def pool(self) -> Sequence[Case]:
        """Return all jobs."""
        return held_out_train() if self.held_out else train_pool(self.count, self.seed)

    def describe(self, job: Job) -> list[float]:
        """Describe a job in 15 numbers."""
        return [
            *_size(job.model),
            *_hardware(job.nodes),
            math.log(job.seq / 4096),
            0.5 * math.log(job.global_batch / job.nodes.gpus / 6),
        ]

    def plan(self, chosen: dict[str, Any]) -> plans.Plan:
        """Return the plan of what was chosen; data parallelism is what is left of the GPUs."""
        assert self.case is not None
        base = plans.Plan(zero=1, recompute="full")
        made = replace(base, **chosen)
        dp = self.case.job.nodes.gpus // (made.tp * made.pp * made.cp)
        zero = chosen.get("zero", 1 if dp * made.cp > 1 else 0)
        return replace(made, dp=max(dp, 1), zero=zero, sequence_parallel=made.tp > 1)

    def legal(self, chosen: dict[str, Any]) -> bool:
        """Whether the plan is legal with the rest at its defaults; later parts depend on the degrees set before."""
        assert self.case is not None
        plan = self.plan(chosen)
        same = chosen.get("recompute") != "selective" or not self.case.job.calibration.fused
        alone = plan.dp * plan.cp > 1 or "zero" not in chosen or chosen["zero"] == 0
        return same and alone and not plans.problems(plan, self.case.job)

    def score(self) -> tuple[float, dict[str, Any]]:
        """Return the reward, and the plan with its time and memory."""
        assert self.case is not None
        plan, job = self.plan(self.chosen), self.case.job
        out: Floats = estimate(job.numbers, plan.row[None])[0]
        time_s, memory = float(out[search.TIME]), float(out[search.MEMORY])
        told = {
            "plan": plan,
            "time_s": time_s,
            "memory_gb": memory,
            "fits": memory <= job.nodes.memory_gb,
            "regret": time_s / self.case.best - 1,
        }
        if memory > job.nodes.memory_gb:
            return max(LOST - math.log(memory / job.nodes.memory_gb), WORST), told
        return float(np.clip(math.log(self.case.best / time_s), LOST, 0.0)), told


class ServePlanEnv(PlanEnv):
    """Plan the serving of a model; see the module's docstring for observation, action and reward.

    Args:
        count: jobs in the pool.
        seed: of the pool.
        held_out: take the published models instead of drawn ones.
    """

    def __init__(self, count: int = 256, seed: int = 0, held_out: bool = False, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.count, self.seed, self.held_out = count, seed, held_out
        super().__init__(
            [
                ("precision", ("bf16", "fp8")),
                ("tp", (1, 2, 4, 8)),
                ("pp", (1, 2, 4, 8)),
                ("attention_dp", (False, True)),
                ("replicas", (1, 2, 3, 4, 6, 8, 12, 16)),
                ("prefill_tp", (0, 1, 2, 4, 8)),
                ("prefill_workers", (1, 2, 3, 4, 6, 8, 12, 16)),
                ("max_batch", (8, 16, 32, 64, 128, 256, 512)),
            ],
            18,
        )

    def pool(self) -> Sequence[Case]:
        """Return all jobs."""
        return held_out_serve() if self.held_out else serve_pool(self.count, self.seed)

    def describe(self, job: ServingJob) -> list[float]:
        """Describe a load in 18 numbers."""
        load = job.load
        asked = [
            0.4 * math.log(load.rate / 5),
            math.log(load.isl / 2000),
            math.log(load.osl / 300),
            math.log(load.ttft_s),
            math.log(load.tpot_s / 0.05),
        ]
        return [*_size(job.service.model), *_hardware(job.service.nodes), *asked]

    def plan(self, chosen: dict[str, Any]) -> ServePlan:
        """Return the plan of what was chosen."""
        ranks = chosen.get("tp", 1) if chosen.get("attention_dp") else 1
        tp = 1 if chosen.get("attention_dp") else chosen.get("tp", 1)
        prefill = (
            Part(count=chosen.get("prefill_workers", 1), tp=chosen["prefill_tp"]) if chosen.get("prefill_tp") else None
        )
        return ServePlan(
            engines=Part(count=chosen.get("replicas", 1), tp=tp, pp=chosen.get("pp", 1), ranks=ranks),
            prefill=prefill,
            precision=chosen.get("precision", "bf16"),
            max_batch=chosen.get("max_batch", 256),
        )

    def legal(self, chosen: dict[str, Any]) -> bool:
        """Whether the plan is legal with the rest at its defaults."""
        assert self.case is not None
        service = self.case.job.service
        if chosen.get("precision") == "fp8" and service.nodes.fp8_tflops <= service.nodes.bf16_tflops:
            return False
        if not chosen.get("prefill_tp") and chosen.get("prefill_workers", 1) != 1:
            return False
        if chosen.get("attention_dp") and (chosen["tp"] == 1 or chosen["pp"] > 1):
            return False
        return not problems(self.plan(chosen), service)

    def score(self) -> tuple[float, dict[str, Any]]:
        """Return the reward, and the plan with what it gives."""
        assert self.case is not None
        job, plan = self.case.job, self.plan(self.chosen)
        out = evaluate(job.service, job.load, plan)
        ttft, tpot, use = float(out[0]), float(out[1]), float(out[2])
        told = {
            "plan": plan,
            "ttft_s": ttft,
            "tpot_s": tpot,
            "meets": meets(out, job.load),
            "gpus": plan.gpus,
            "regret": plan.gpus / self.case.best - 1,
        }
        if told["meets"]:
            return float(np.clip(math.log(self.case.best / plan.gpus), LOST, 0.0)), told
        over = max(use, 1.0) if not math.isfinite(ttft) else max(ttft / job.load.ttft_s, tpot / job.load.tpot_s, 1.0)
        return max(LOST - (math.log(over) if math.isfinite(over) else 2.0), WORST), told
