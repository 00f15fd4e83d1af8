"""Agents that Stable-Baselines3 itself saved, those of earlier releases among them: pickled Python, opened on request.

Opening a pickle runs whatever its author put into it. So nothing of such a file is unpickled unless the user says that
its author is trusted; what is read before is its table of contents, and JSON.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.agents import archive as A
from tunewright.agents import modelfile
from tunewright.errors import ConfigError

_MARK, _NOTE, _DATA = "tunewright_algorithm.txt", "tunewright_note.json", "data"
_MOST = 2**26  # bytes of SB3's JSON: it may hold a whole rollout, as text
_MOST_PARSED = 2**28  # bytes in memory
# settings that only one algorithm has, the more special first; DDPG is TD3 without its tricks
_SIGNS = (
    ("policy_delay", "td3"), ("target_entropy", "sac"), ("exploration_fraction", "dqn"), ("clip_range", "ppo"),
    ("gae_lambda", "a2c"),
)  # fmt: skip


def about(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the algorithm of an agent that SB3 saved, and the note that an earlier release put beside it.

    Nothing is unpickled.

    Raises:
        ConfigError: the file is no agent.
    """
    try:
        with A.opened(path, stored=False) as archive:
            names = archive.namelist()
            data = dict(json.loads(_read(archive, _DATA)))
            note = dict(json.loads(_read(archive, _NOTE))) if _NOTE in names else {}
            if not all(isinstance(note.get(key, []), list) for key in ("family", "parameters", "facts")):
                raise A.DamagedError("its note cannot be read")
            found = _read(archive, _MARK).decode("ascii") if _MARK in names else _guessed(data)
    except A.DAMAGE:
        raise ConfigError(f"{path} is not an agent saved by tunewright.agents.policy.train") from None
    if found not in modelfile.CLASSES:
        raise ConfigError(f"{path} is an agent of an algorithm that is not known here")
    return found, note


def _guessed(data: Mapping[str, Any]) -> str:
    """Return the algorithm that has the settings which SB3 wrote as JSON; SB3 does not note it."""
    name = next((name for sign, name in _SIGNS if sign in data), "")
    if name == "td3" and data["policy_delay"] == 1 and data.get("target_noise_clip") == 0:
        return "ddpg"
    if name == "ppo" and "maskable" in str(dict(data.get("policy_class", {})).get("__module__")):
        return "maskableppo"
    return name


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    member = archive.getinfo(name)
    if member.file_size > _MOST:
        raise A.DamagedError(f"{name} is too large")
    text = archive.read(member)
    # what JSON makes of a text can be fifty times as large
    if 72 * (text.count(b"[") + text.count(b"{")) + 40 * text.count(b",") > _MOST_PARSED:
        raise A.DamagedError(f"{name} is too large")
    return text


def refused(path: Path) -> ConfigError:
    """Build the error for a file of pickled Python that nobody said is trusted."""
    return ConfigError(
        f"{path} holds pickled Python, as Stable-Baselines3 and earlier releases save it, and opening that can run any"
        " code; if you trust whoever made it, add --trust-file (in Python trust_file=True); 'train ... --resume"
        " --trust-file' writes it anew without pickle"
    )


def load(path: Path, env: Any = None) -> Any:
    """Unpickle an agent whose author the user trusts.

    Raises:
        ConfigError: SB3 cannot load it.
    """
    made = modelfile.algorithm_class(about(path)[0])
    try:
        return made.load(path, device="cpu", env=env)
    except Exception as error:  # pickled code raises what it likes
        raise ConfigError(f"Stable-Baselines3 cannot load {path}: {_line(error)}") from None


def load_replay(path: Path, model: Any) -> None:
    """Unpickle a replay buffer whose author the user trusts.

    Raises:
        ConfigError: SB3 cannot load it, or it is the buffer of another agent.
    """
    expected = model.replay_buffer
    try:
        model.load_replay_buffer(path)
        held = model.replay_buffer
        same = held.n_envs == expected.n_envs and held.observation_space == expected.observation_space
        same = same and held.action_space == expected.action_space and held.buffer_size == expected.buffer_size
    except Exception as error:
        raise ConfigError(f"Stable-Baselines3 cannot load the replay buffer {path}: {_line(error)}") from None
    if not same:
        raise ConfigError(f"{path} is the replay buffer of another agent; move it away to go on without it")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
