"""Stable-Baselines3 agents on the placement environment, beside simple policies."""

from __future__ import annotations

from typing import Any

import numpy as np

from tunewright.envs.storage.hybrid.env import PlacementEnv

ALGORITHMS = ("dqn", "ppo", "a2c")
#: what the policies are compared with
BESIDE = ("fast-only", "slow-only", "lru", "lru-write")
#: small networks and long horizons of nothing: what the published agents use, as far as Stable-Baselines3 has it
SETTINGS: dict[str, Any] = {"policy_kwargs": {"net_arch": [20, 30]}, "gamma": 0.9}


def settings_of(algorithm: str, steps: int) -> dict[str, Any]:
    """Return what an algorithm is trained with, for so many steps."""
    if algorithm != "dqn":
        return SETTINGS
    return SETTINGS | {"learning_starts": min(500, steps // 4), "buffer_size": 10_000, "exploration_final_eps": 0.02}


def evaluate(model: Any, env: PlacementEnv) -> float:
    """Return the mean latency of one episode in us, actions chosen without exploration."""
    seen, _ = env.reset(seed=0)
    latencies, over = [], False
    while not over:
        action, _ = model.predict(seen, deterministic=True)
        seen, _, over, _, info = env.step(action)
        latencies.append(info["latency_us"])
    return float(np.mean(latencies))
