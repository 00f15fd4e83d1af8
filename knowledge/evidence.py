"""What a trace, log or statistics dump becomes: tables, features with units, and facts in plain words.

All text in it is data. Questions beyond the facts are asked in SQL, see ``sqltables``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
