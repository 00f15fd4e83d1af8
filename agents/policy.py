"""Stable-Baselines3 agents on any environment: train, save, load, evaluate."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from tunewright.errors import ConfigError, missing_extra, unknown

ALGORITHMS = ("ppo", "sac", "td3", "a2c", "ddpg", "dqn")
_MARK = "tunewright_algorithm.txt"
MakeEnv = Callable[[], "gymnasium.Env[Any, Any]"]


def _algorithm(name: str) -> Any:
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    try:
        import stable_baselines3
    except ImportError:
        raise missing_extra("stable-baselines3", "rl", "a learning policy") from None
    return getattr(stable_baselines3, name.upper())


def symmetric(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Return the environment with box actions rescaled to [-1, 1], as Gaussian policies need."""
    if isinstance(env.action_space, gymnasium.spaces.Box):
        one = np.float32(1.0)
        return gymnasium.wrappers.RescaleAction(env, -one, one)
    return env


def train(
    make_env: MakeEnv,
    *,
    algorithm: str = "ppo",
    steps: int,
    path: Path | str,
    seed: int = 0,
    progress: bool = False,
    **settings: Any,
) -> Path:
    """Train an agent and save it.

    Args:
        make_env: makes a fresh environment.
        algorithm: one of ``ALGORITHMS``.
        steps: environment steps to learn from.
        path: file to write, ending in ``.zip``.
        seed: seed of agent and environment.
        progress: draw a progress bar.
        **settings: keyword arguments of the algorithm's constructor.

    Returns:
        The path.

    Raises:
        MissingExtraError: Stable-Baselines3 is not installed.
    """
    target = Path(path)
    if target.suffix != ".zip":
        raise ConfigError(f"{path} must end in .zip")
    made = _algorithm(algorithm)
    env = symmetric(make_env())
    try:
        model = made("MlpPolicy", env, seed=seed, device="cpu", **settings)
        model.learn(total_timesteps=steps, progress_bar=progress)
        model.save(target)
        with zipfile.ZipFile(target, "a") as archive:  # SB3 does not note which algorithm an archive is of
            archive.writestr(_MARK, algorithm)
    finally:
        env.close()
    return target


def load(path: Path | str) -> Any:
    """Load a saved agent.

    Raises:
        ConfigError: there is no such file, or it is not a saved agent.
    """
    target = Path(path)
    if not target.is_file():
        raise ConfigError(f"there is no policy file {path}")
    try:
        with zipfile.ZipFile(target) as archive:
            name = archive.read(_MARK).decode("ascii")
    except (zipfile.BadZipFile, KeyError):
        raise ConfigError(f"{path} is not an agent saved by tunewright.agents.policy.train") from None
    return _algorithm(name).load(target, device="cpu")


def evaluate(model: Any, make_env: MakeEnv, *, episodes: int = 10, seed: int = 0) -> list[float]:
    """Return the sum of rewards of each episode, actions chosen without exploration."""
    env = symmetric(make_env())
    try:
        returns = []
        for episode in range(episodes):
            observation, _ = env.reset(seed=seed + episode)
            total, over = 0.0, False
            while not over:
                action, _ = model.predict(observation, deterministic=True)
                observation, reward, terminated, truncated, _ = env.step(action)
                total, over = total + float(reward), terminated or truncated
            returns.append(total)
        return returns
    finally:
        env.close()
