"""Trained placement agents as files: NumPy archives without pickled objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tunewright.agents import archive as A
from tunewright.agents.placement.learning import Pair, make_pair
from tunewright.errors import ConfigError
from tunewright.store.outputs import write_whole

_MOST_TEXT = 1024  # bytes of the policy's name and the number of tiers
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
    arrays |= {"policy": np.array(agents.policy), "tiers": np.array(agents.tiers)}
    write_whole(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))


def load_agents(path: Path, policy: str, tiers: int) -> Pair:
    """Read agents for a policy and a number of tiers.

    Raises:
        ConfigError: no such file, not an agent file, or one of another policy or number of tiers.
    """
    if not path.is_file():
        raise ConfigError(f"there is no agent file {path}")
    try:
        with A.opened(path, stored=False) as archive:
            held, width = (A.read_array(archive, name, most_bytes=_MOST_TEXT) for name in ("policy", "tiers"))
            if (str(held), int(width)) != (policy, tiers):
                raise ConfigError(f"{path} holds a {held} agent for {width} tiers, not {policy} for {tiers}")
            agents = make_pair(policy, tiers, 0)
            for name, net in (("place", agents.place), ("move", agents.move)):
                for field in _FIELDS:
                    own = getattr(net, field)
                    stored = A.read_array(archive, f"{name}_{field}", most_bytes=own.nbytes)
                    if stored.shape != own.shape or stored.dtype != own.dtype:
                        raise ConfigError(
                            f"{path} holds an agent of another version ({field} has shape {stored.shape})"
                        )
                    own[...] = stored
    except A.DAMAGE:
        raise ConfigError(f"{path} is not an agent saved with --save, is damaged, or is of another version") from None
    return agents
