"""Logs and statistics dumps: which reader a file is for, by its first bytes."""

from __future__ import annotations

import math
from pathlib import Path

from tunewright.errors import ConfigError
from tunewright.knowledge import darshanlog, statistics
from tunewright.knowledge.evidence import Observations
from tunewright.store.files import open_file, parsing, read_head


def observe(path: Path) -> Observations | None:
    """Read a file whose kind its first bytes tell; None if it is none of these (a block trace, perhaps).

    Raises:
        ConfigError: it is of a known kind and cannot be read.
    """
    with open_file(path, "log") as file:
        packed = file.read(4096)  # a Darshan log is packed inside, and its reader opens it itself
    if darshanlog.is_log(packed):
        seen: Observations | None = darshanlog.read(path)
    else:
        with parsing(path, "log or statistics"):
            seen = statistics.read(path, read_head(path, "log"))
    if seen is not None:
        for name, value in seen.features.items():
            if not math.isfinite(value):
                raise ConfigError(f"{path} holds a number that is infinite, or none: {name} is {value}")
    return seen
