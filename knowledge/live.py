"""Parameters from a running system or its own listing: ``pg_settings`` and ``gluster volume set help``."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tunewright.errors import ConfigError, TargetError, missing_extra
from tunewright.knowledge.parameters import Evidence, ParameterDoc, Range
from tunewright.knowledge.quantities import quantity
from tunewright.space.parameters import Restart, Value
from tunewright.store.dsn import HOW_TO_WRITE, read_dsn

_PG_TYPES = {"bool": "boolean", "integer": "integer", "real": "real", "enum": "enum", "string": "string"}
#: what a change costs, by the context that ``pg_settings`` states; none for the others
PG_RESTART: dict[str, Restart] = {"postmaster": "restart", "sighup": "reload"}
_PG_COLUMNS = ("name", "boot_val", "unit", "vartype", "min_val", "max_val", "enumvals", "context", "short_desc")


def from_pg_settings(rows: Iterable[Mapping[str, Any]], source: str = "pg_settings") -> list[ParameterDoc]:
    """Return what the view ``pg_settings`` says; each row needs the columns of ``_PG_COLUMNS``."""
    docs = []
    for row in rows:
        kind = _PG_TYPES.get(row["vartype"] or "", "string")
        boot = row["boot_val"]
        default: Value | None = boot
        limits = Range()
        if kind == "boolean":
            default = boot in ("on", "true")
        elif kind in ("integer", "real"):
            convert = int if kind == "integer" else float
            default = convert(boot) if boot else None
            limits = Range(low=convert(row["min_val"] or 0), high=convert(row["max_val"] or 0))
        elif kind == "enum":
            raw: Any = row["enumvals"] or ""
            values = raw if isinstance(raw, list) else next(csv.reader([raw.strip("{}")]), [])
            limits = Range(options=tuple(v.strip('"') for v in values))
        said = ", ".join(f"{c}={row[c]}" for c in _PG_COLUMNS if row.get(c))
        described = {
            "definition": (row["short_desc"] or "").strip(),
            "type": kind,
            "unit": row["unit"] or "",
            "default": default,
            "range": limits,
            "restart": PG_RESTART.get(row["context"] or "", "none"),
        }
        proof = tuple(
            Evidence(field=f, quote=said, source=f"{source}:{row['name']}")
            for f, v in described.items()
            if v not in ("", None, Range())
        )
        docs.append(ParameterDoc(name=str(row["name"]), **described, evidence=proof))  # type: ignore[arg-type]
    return docs


def query_pg_settings(dsn: str) -> list[ParameterDoc]:
    """Ask a PostgreSQL server.

    Raises:
        TargetError: it cannot be reached.
        ConfigError: the connection string can be read in more than one way; the driver would quote its password.
    """
    try:
        import psycopg
    except ImportError:
        raise missing_extra("psycopg", "postgres", "reading pg_settings") from None
    if not read_dsn(dsn).clear:
        raise ConfigError(f"cannot read the connection string {read_dsn(dsn).public!r}: {HOW_TO_WRITE}")
    try:
        with psycopg.connect(dsn, connect_timeout=10) as connection:
            rows = connection.execute(f"SELECT {', '.join(_PG_COLUMNS)} FROM pg_settings ORDER BY name").fetchall()
    except psycopg.Error as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TargetError(f"cannot read pg_settings: {said}") from None
    return from_pg_settings(dict(zip(_PG_COLUMNS, row, strict=True)) for row in rows)


def reader_of(head: str) -> Callable[[str, str], list[ParameterDoc]] | None:
    """Return the reader of (text, source) for a listing that begins so; None if it is none."""
    header = next(csv.reader([head.split("\n", 1)[0]]), [])
    if set(_PG_COLUMNS) <= set(header):
        return read_pg_settings
    if len(re.findall(r"^Option: \S+\n(Default Value|Description):", head, re.M)) >= 2:
        return read_gluster_help
    return None


def read_pg_settings(text: str, source: str) -> list[ParameterDoc]:
    """Read the view as CSV."""
    return from_pg_settings(csv.DictReader(io.StringIO(text)), source)


_GLUSTER_OPTION = re.compile(
    r"^Option: (?P<name>\S+)\n(?:Default Value: (?P<value>.*)\n)?"
    r"(?:Description: (?P<said>(?:.*\n?)*?))?(?=^Option: |\Z)",
    re.M,
)


def read_gluster_help(text: str, source: str) -> list[ParameterDoc]:
    """Read what ``gluster volume set help`` prints: Option, Default Value, Description."""
    docs = []
    for match in _GLUSTER_OPTION.finditer(text):
        value = (match["value"] or "").strip()
        said = " ".join((match["said"] or "").split())
        line = text.count("\n", 0, match.start()) + 1
        where = f"{source}:{line}"
        proof = []
        described: dict[str, object] = {}
        if said:
            described["definition"] = said
            proof.append(Evidence(field="definition", quote=said, source=where))
        if value and value not in ("(null)", "(none)"):
            amount = quantity(value)
            word = value.lower()
            default: Value = value
            kind, unit = "string", ""
            if word in ("on", "off", "yes", "no", "true", "false", "enable", "disable"):
                kind, default = "boolean", word in ("on", "yes", "true", "enable")
            elif amount:
                kind, unit = ("integer" if amount[0].is_integer() else "real"), amount[1]
                default = int(amount[0]) if kind == "integer" else amount[0]
            described |= {"type": kind, "default": default, "unit": unit}
            quoted = f"Default Value: {value}"
            proof += [Evidence(field=f, quote=quoted, source=where) for f in ("type", "default")]
            if unit:
                proof.append(Evidence(field="unit", quote=quoted, source=where))
        docs.append(ParameterDoc(name=match["name"], **described, evidence=tuple(proof)))  # type: ignore[arg-type]
    return docs
