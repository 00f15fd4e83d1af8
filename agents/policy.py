"""Stable-Baselines3 agents on any environment: train, save, load, evaluate."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from tunewright.errors import ConfigError, missing_extra, unknown

ALGORITHMS = ("ppo", "sac", "td3", "a2c", "ddpg", "dqn")
_MARK, _NOTE = "tunewright_algorithm.txt", "tunewright_note.json"
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
    copies: int = 1,
    note: Mapping[str, Any] | None = None,
    checkpoint: int = 0,
    resume: bool = False,
    log: Path | str | None = None,
    prepare: Callable[[Any], None] | None = None,
    **settings: Any,
) -> Path:
    """Train an agent and save it.

    Args:
        make_env: makes a fresh environment.
        algorithm: one of ``ALGORITHMS``.
        steps: environment steps to learn from, those of earlier runs included.
        path: file to write, ending in ``.zip``.
        seed: seed of agent and environment.
        progress: draw a progress bar.
        copies: environments that are stepped together.
        note: kept in the file, JSON-able; :func:`noted` returns it.
        checkpoint: write the file every so many steps, and when interrupted; 0 only at the end.
        resume: go on with the file where there is one.
        log: directory for TensorBoard.
        prepare: is called with the model before it learns, such as to fill its replay buffer.
        **settings: keyword arguments of the algorithm's constructor.

    Returns:
        The path.

    Raises:
        MissingExtraError: Stable-Baselines3 or TensorBoard is not installed.
        KeyboardInterrupt: after what was learned is written, if checkpoints are.
    """
    target = Path(path)
    if target.suffix != ".zip":
        raise ConfigError(f"{path} must end in .zip")
    if log is not None and find_spec("tensorboard") is None:
        raise missing_extra("tensorboard", "rl", "writing logs for TensorBoard")
    made = _algorithm(algorithm)
    import torch
    from stable_baselines3.common.vec_env import DummyVecEnv

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these networks are small: further threads only wait for each other
    env = DummyVecEnv([lambda: symmetric(make_env())] * copies)
    env.seed(seed)
    buffer = target.with_suffix(".replay.pkl")
    try:
        if resume and target.is_file():
            model = load(target, env=env)
            if noted(target) != dict(note or {}):
                raise ConfigError(f"{target} was trained on something else; name another file with -o")
            if hasattr(model, "load_replay_buffer") and buffer.is_file():
                model.load_replay_buffer(buffer)
        else:
            model = made("MlpPolicy", env, seed=seed, device="cpu", **settings)
            if prepare is not None:
                prepare(model)
        if log is not None:
            model.tensorboard_log = str(log)
        left = steps - int(model.num_timesteps)

        def write() -> None:
            _write(model, target, algorithm, note)
            if checkpoint and hasattr(model, "save_replay_buffer"):
                model.save_replay_buffer(buffer)

        try:
            if left > 0:
                model.learn(
                    total_timesteps=left,
                    progress_bar=progress,
                    reset_num_timesteps=not model.num_timesteps,
                    callback=_checkpoints(write, checkpoint) if checkpoint else None,
                )
        except KeyboardInterrupt:
            if checkpoint:
                write()
            raise
        write()
        buffer.unlink(missing_ok=True)
    finally:
        env.close()
        torch.set_num_threads(threads)
    return target


def _write(model: Any, target: Path, algorithm: str, note: Mapping[str, Any] | None) -> None:
    """Write an agent whole or not at all."""
    temporary = target.with_suffix(".part.zip")
    try:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:  # SB3 does not note which algorithm an archive is of
            archive.writestr(_MARK, algorithm)
            archive.writestr(_NOTE, json.dumps(dict(note or {})))
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {target}: {error.strerror}") from None


def _checkpoints(write: Callable[[], None], every: int) -> Any:
    from stable_baselines3.common.callbacks import BaseCallback

    class Checkpoints(BaseCallback):
        written = 0

        def _on_step(self) -> bool:
            if self.num_timesteps - self.written >= every:
                self.written = self.num_timesteps
                write()
            return True

    return Checkpoints()


def noted(path: Path | str) -> dict[str, Any]:
    """Return the note that an agent was saved with; empty if there is none."""
    with zipfile.ZipFile(path) as archive:
        return dict(json.loads(archive.read(_NOTE))) if _NOTE in archive.namelist() else {}


def load(path: Path | str, *, env: Any = None) -> Any:
    """Load a saved agent, to go on learning if an environment is given.

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
    return _algorithm(name).load(target, device="cpu", env=env)


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
