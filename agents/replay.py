"""The replay buffer beside an agent that is being trained: a file without pickle, ``NAME.replay.npz``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.agents import archive as A
from tunewright.agents import foreign, modelfile
from tunewright.agents import modelparts as P
from tunewright.agents.modelfile import VERSION, told, versioned
from tunewright.errors import ConfigError

_DOCUMENT = "replay.json"
_STORED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class Replay:
    """The replay buffer beside an agent that is being trained; gone when the training is done.

    Args:
        agent: the agent's file.
    """

    def __init__(self, agent: Path) -> None:
        self.path, self._pickled = agent.with_suffix(".replay.npz"), agent.with_suffix(".replay.pkl")
        self._used: list[Path] = []  # what this training read or wrote, and may therefore remove

    def load(self, model: Any, extra: Mapping[str, Any], *, trust_file: bool) -> None:
        """Fill a model's buffer from what an interrupted training left.

        Raises:
            ConfigError: it is damaged, belongs to another agent, or is a pickle that nobody said is trusted.
        """
        if not hasattr(model, "replay_buffer"):
            return
        if self.path.is_file():
            _read(self.path, model, {"algorithm": modelfile.algorithm_of(model), **extra})
            self._used.append(self.path)
        elif self._pickled.is_file():
            if not trust_file:
                raise foreign.refused(self._pickled)
            foreign.load_replay(self._pickled, model)
            self._used.append(self._pickled)

    def write(self, model: Any, extra: Mapping[str, Any]) -> None:
        """Write a model's buffer, if it has one."""
        if hasattr(model, "replay_buffer"):
            _write(self.path, model, {"algorithm": modelfile.algorithm_of(model), **extra})
            if self._pickled in self._used:
                self._pickled.unlink(missing_ok=True)  # all of it is in the new file
            self._used = [self.path]

    def remove(self) -> None:
        """Remove the files that this training has read or written."""
        for path in self._used:
            path.unlink(missing_ok=True)


def _write(path: Path, model: Any, extra: Mapping[str, Any]) -> None:
    """Write what a model's replay buffer holds; the empty rest is not written."""
    buffer = model.replay_buffer
    rows = buffer.buffer_size if buffer.full or buffer.optimize_memory_usage else buffer.pos
    document = {"format": "tunewright replay buffer", "version": VERSION, "pos": buffer.pos, "full": buffer.full}
    arrays = {name: getattr(buffer, name)[:rows] for name in _STORED if hasattr(buffer, name)}
    A.write(path, {_DOCUMENT: {**document, **extra}}, arrays)


def _read(path: Path, model: Any, expected: Mapping[str, Any]) -> None:
    """Fill a model's replay buffer from a file.

    Args:
        path: the file.
        model: a model that was built with environments.
        expected: entries that the document must have, as they were given when it was written.

    Raises:
        ConfigError: the file is damaged, or is the buffer of another agent.
    """
    buffer = model.replay_buffer
    with told(path, "a replay buffer"), A.opened(path, stored=True) as archive:
        document = A.read_json(archive, _DOCUMENT)
        versioned(document)
        pos, full = P.whole(0, buffer.buffer_size - 1)(document["pos"]), P.flag(document["full"])
        names = [name for name in _STORED if hasattr(buffer, name)]
        arrays = {name: A.read_array(archive, name) for name in names}
    rows = buffer.buffer_size if full or buffer.optimize_memory_usage else pos
    same = all(
        a.shape == (rows, *getattr(buffer, n).shape[1:]) and a.dtype == getattr(buffer, n).dtype
        for n, a in arrays.items()
    )
    if not same or any(document.get(key) != value for key, value in expected.items()):
        raise ConfigError(f"{path} is the replay buffer of another agent; move it away to go on without it")
    for name, array in arrays.items():
        getattr(buffer, name)[:rows] = array
    buffer.pos, buffer.full = pos, full
