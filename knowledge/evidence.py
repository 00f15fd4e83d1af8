"""What a trace, log or statistics dump becomes: tables, features with units, and facts in plain words.

All text in it is data. Questions beyond the facts are asked in SQL, see ``sqltables``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError
from tunewright.store.files import open_file, parsing, read_head


@dataclass(frozen=True, kw_only=True)
class Observations:
    """What was observed of a workload or a system.

    Attributes:
        source: where it comes from.
        kind: darshan, llm-requests, postgres-statistics, rocksdb-statistics, strace.
        tables: pandas DataFrames by name.
        features: numbers by name.
        units: of the features; "" where a number has none.
        facts: a page of plain sentences, each on its own.
        missing: what is not in the source, or could not be read, in words.
    """

    source: str
    kind: str
    tables: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return what ``tunewright trace --json`` prints."""
        return {
            "source": self.source,
            "kind": self.kind,
            "features": dict(self.features),
            "units": {k: v for k, v in self.units.items() if v},
            "facts": list(self.facts),
            "missing": list(self.missing),
            "tables": {
                name: {"rows": len(table), "columns": [str(c) for c in table.columns]}
                for name, table in self.tables.items()
            },
        }


def observe(path: Path) -> Observations | None:
    """Read a file whose kind its first bytes tell; None if it is none of these (a block trace, perhaps).

    Raises:
        ConfigError: it is of a known kind and cannot be read.
    """
    from tunewright.knowledge import darshanlog, statistics

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
