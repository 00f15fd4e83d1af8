"""Stable-Baselines3 agents on any environment: train, save, load, evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from tunewright.agents import archive, foreign, modelfile
from tunewright.agents import trained_on as about
from tunewright.agents.replay import Replay
from tunewright.errors import ConfigError, missing_extra, unknown

ALGORITHMS = ("ppo", "sac", "td3", "a2c", "ddpg", "dqn")
MakeEnv = Callable[[], "gymnasium.Env[Any, Any]"]


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
    trust_file: bool = False,
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
        trust_file: go on, too, with a file of pickled Python, which can run any code; it is written anew without.
        **settings: keyword arguments of the algorithm's constructor, plain data.

    Returns:
        The path.

    Raises:
        MissingExtraError: Stable-Baselines3 or TensorBoard is not installed.
        ConfigError: the file cannot be gone on with, or could not keep this model; it stays as it is.
        KeyboardInterrupt: after what was learned is written, if checkpoints are.
    """
    target = Path(path)
    if target.suffix != ".zip":
        raise ConfigError(f"{path} must end in .zip")
    if log is not None and find_spec("tensorboard") is None:
        raise missing_extra("tensorboard", "rl", "writing logs for TensorBoard")
    if algorithm not in ALGORITHMS:
        raise unknown("algorithm", algorithm, ALGORITHMS)
    if target.is_dir() or not target.parent.is_dir():
        raise ConfigError(f"{target} cannot be written: it is a directory, or there is none to hold it")
    made = modelfile.algorithm_class(algorithm)
    import torch
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import DummyVecEnv

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these networks are small: further threads only wait for each other
    env = DummyVecEnv([lambda: symmetric(make_env())] * copies)
    env.seed(seed)
    replay = Replay(target)
    try:
        # through JSON, so that it is equal to what a file says
        extra = json.loads(json.dumps({"note": dict(note or {}), "trained_on": about.described(env.envs[0])}))
        if extra["trained_on"]["kind"] == "family":
            extra["trained_on"]["targets"] = extra["note"].get("family", extra["trained_on"]["targets"])
        if resume and target.is_file():
            _may_go_on(target, algorithm, extra, trust_file=trust_file)
            model = load(target, env=env, trust_file=trust_file)
            replay.load(model, extra, trust_file=trust_file)
        else:
            model = made("MlpPolicy", env, seed=seed, device="cpu", **settings)
            if prepare is not None:
                prepare(model)
        modelfile.described(model)  # what a file cannot keep is said now, not after hours of learning
        if log is not None:
            model.tensorboard_log = str(log)
        elif not model.verbose and model.tensorboard_log is None:
            model.set_logger(Logger(folder=None, output_formats=[]))  # its own makes a folder that stays empty
        left = steps - int(model.num_timesteps)

        def write() -> None:
            modelfile.write(target, model, extra)
            if checkpoint:
                replay.write(model, extra)

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
        modelfile.write(target, model, extra)
        replay.remove()
    finally:
        env.close()
        torch.set_num_threads(threads)
    return target


def _may_go_on(target: Path, algorithm: str, extra: Mapping[str, Any], *, trust_file: bool) -> None:
    """Check that training can go on with a file, by what it says of itself; nothing of it is unpickled.

    Raises:
        ConfigError: it holds an agent of another algorithm, or one that was trained on something else.
    """
    if modelfile.is_own(target):
        document = modelfile.head(target)
        stored, note, before = str(document["algorithm"]), document.get("note"), trained_on(target)
    else:
        stored, note = foreign.about(target)
        before = trained_on(target)
    if stored != algorithm:
        raise ConfigError(
            f"{target} holds an agent of {stored}, and going on with {algorithm} would destroy it;"
            f" take --algo {stored}, or name another file with -o"
        )
    if not modelfile.is_own(target) and not trust_file:
        raise foreign.refused(target)
    here = extra["trained_on"]
    told: list[str] = []
    if before is not None:
        told = about.differences(before["parameters"], here["parameters"])
        told += [
            f"{key} {', '.join(before[key])} then, {', '.join(here.get(key, ()))} now"
            for key in ("metrics", "workloads", "facts")
            if key in before and before[key] != here.get(key)
        ]
        if before["kind"] != here["kind"] or (here["kind"] == "environment" and before["targets"] != here["targets"]):
            told = [f"{', '.join(before['targets'])} then, {', '.join(here['targets'])} now"]
    if not told and note != extra["note"] and (note or modelfile.is_own(target)):
        told = [f"{json.dumps(note)[:80]} then, {json.dumps(extra['note'])[:80]} now"]
    if told:
        raise ConfigError(f"{target} was trained on something else: {about.listed(told)}; name another file with -o")


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
    target = Path(path)
    return dict(modelfile.head(target)["note"]) if modelfile.is_own(target) else foreign.about(target)[1]


def trained_on(path: Path | str) -> dict[str, Any] | None:
    """Return what an agent was trained on, as :func:`tunewright.agents.trained_on.described` gave it.

    Returns:
        None if the file does not say, as those of Stable-Baselines3 itself.

    Raises:
        ConfigError: the file is damaged, or no agent.
    """
    target = Path(path)
    if modelfile.is_own(target):
        try:
            return about.checked(modelfile.head(target).get("trained_on"))
        except archive.DAMAGE as error:
            raise archive.damaged(target, "an agent file", error) from None
    note = foreign.about(target)[1]
    if not {"family", "parameters", "facts"} <= set(note):
        return None
    targets, names, facts = (list(map(str, note[key])) for key in ("family", "parameters", "facts"))
    # earlier releases kept no more of the parameters than their names
    return {"kind": "family", "targets": targets, "parameters": [{"name": n} for n in names], "facts": facts}


def save(
    model: Any, path: Path | str, *, make_env: MakeEnv | None = None, note: Mapping[str, Any] | None = None
) -> None:
    """Write an agent that was trained by other means, such as MaskablePPO with a policy of ours, without pickle.

    Args:
        model: of Stable-Baselines3 or sb3-contrib.
        path: file to write, ending in ``.zip``.
        make_env: makes the environment that it learned in; what was tuned there is kept in the file.
        note: kept in the file, JSON-able.

    Raises:
        ConfigError: it cannot be written, or holds what a file without pickle has no place for.
    """
    if Path(path).suffix != ".zip":
        raise ConfigError(f"{path} must end in .zip")
    if make_env is None:
        learned: dict[str, Any] = {"kind": "environment", "targets": [], "parameters": []}
    else:
        env = make_env()
        learned = about.described(env)
        env.close()
    modelfile.write(Path(path), model, {"note": dict(note or {}), "trained_on": learned})


def load(path: Path | str, *, env: Any = None, trust_file: bool = False) -> Any:
    """Load a saved agent, to go on learning if an environment is given.

    Args:
        path: the file.
        env: environments, as Stable-Baselines3 takes them.
        trust_file: open a file of pickled Python as well, which can run any code.

    Raises:
        ConfigError: there is no such file, it is no saved agent, it is damaged, or it is a pickle and not trusted.
    """
    target = Path(path)
    if not target.is_file():
        raise ConfigError(f"there is no policy file {path}")
    if modelfile.is_own(target):
        return modelfile.read(target, env)
    foreign.about(target)
    if not trust_file:
        raise foreign.refused(target)
    return foreign.load(target, env)


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
