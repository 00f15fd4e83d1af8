"""Trained placement agents as files: NumPy archives without pickled objects."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from tunewright.agents.placement.learning import Pair, make_pair

from tunewright.errors import ConfigError

_FIELDS = ("theta", "adam", "bins", "action", "reward", "count", "rng")


def save_agents(path: Path, agents: Pair) -> None:
    """Write the agents with their optimiser and replay memory, so that learning can go on."""
    if path.suffix != ".npz":
        raise ConfigError(f"{path} must end in .npz")
    arrays = {
        f"{name}_{f}": getattr(net, f)
        for name, net in (("place", agents.place), ("move", agents.move))
        for f in _FIELDS
    }
    try:
        np.savez_compressed(path, policy=np.array(agents.policy), tiers=np.array(agents.tiers), **arrays)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def load_agents(path: Path, policy: str, tiers: int) -> Pair:
    """Read agents for a policy and a number of tiers.

    Raises:
        ConfigError: no such file, not an agent file, or one of another policy or number of tiers.
    """
    if not path.is_file():
        raise ConfigError(f"there is no agent file {path}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            held, width = str(archive["policy"]), int(archive["tiers"])
            if (held, width) != (policy, tiers):
                raise ConfigError(f"{path} holds a {held} agent for {width} tiers, not {policy} for {tiers}")
            agents = make_pair(policy, tiers, 0)
            for name, net in (("place", agents.place), ("move", agents.move)):
                for field in _FIELDS:
                    stored, own = archive[f"{name}_{field}"], getattr(net, field)
                    if stored.shape != own.shape or stored.dtype != own.dtype:
                        raise ConfigError(
                            f"{path} holds an agent of another version ({field} has shape {stored.shape})"
                        )
                    own[...] = stored
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError):
        raise ConfigError(f"{path} is not an agent saved with --save") from None
    return agents
