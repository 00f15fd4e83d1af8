"""The text formats of block traces, told apart by their first lines.

Every parser takes a line and returns ``(time_s, device, offset_bytes, size_bytes, write)``, or None for a line that is
no request (headers, other blktrace events, flushes). A line that should be a request and is not raises.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tunewright.errors import ConfigError

Entry = tuple[float, int, int, int, int]
Parser = Callable[[str], Entry | None]
SECTOR = 512
#: block of the Tectonic block-cache traces: 8 MiB, the largest I/O in the samples
CHUNK = 8 << 20


class BadLineError(ValueError):
    """A line does not hold what its format asks for."""


class Untimed(ConfigError):
    """A file of addresses alone cannot be replayed in time."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} is no timed trace: {why}. Placement needs arrival times and a read/write flag; "
            "take another trace, or generate one: synthetic:zipf"
        )


def _entry(time_s: float, device: int, offset: int, size: int, write: int) -> Entry:
    if size <= 0:
        raise BadLineError(f"size {size} is not positive")
    if offset < 0 or offset + size >= 1 << 62:
        raise BadLineError(f"address {offset} is out of range")
    if not abs(device) < 1 << 62:
        raise BadLineError(f"device {device} is out of range")
    if not abs(time_s) < 1e12:
        raise BadLineError(f"time {time_s} is out of range")
    return time_s, device, offset, size, write


def _fields(line: str, count: int) -> list[str]:
    words = line.split()
    if len(words) != count:
        raise BadLineError(f"{len(words)} columns instead of {count}")
    return words


def _msr(line: str) -> Entry | None:
    """MSR Cambridge: ``timestamp (100 ns), host, disk, Read|Write, offset, size, response time``."""
    words = line.strip().split(",")
    if words == [""] or words[0].lower() == "timestamp":  # some copies have a header
        return None
    if len(words) != 7:
        raise BadLineError(f"{len(words)} columns instead of 7")
    return _entry(int(words[0]) * 1e-7, int(words[2]), int(words[4]), int(words[5]), _flag(words[3]))


_READS = {"r", "read", "rs", "ra", "1r", "get", "28", "8", "08", "88", "a8"}
_WRITES = {"w", "write", "ws", "put", "set", "2a", "a", "0a", "8a", "aa"}


def _flag(word: str) -> int:
    """Return 1 for a write, 0 for a read; SCSI operation codes are those of READ and WRITE (6, 10, 12, 16)."""
    key = word.strip().strip('"').lower()
    if key in _READS or key.startswith(("read", "get")):
        return 0
    if key in _WRITES or key.startswith(("write", "put")):
        return 1
    raise BadLineError(f"{word!r} is neither a read nor a write")


_BLKPARSE = re.compile(r"\s*(\d+),(\d+)\s+\d+\s+\d+\s+(\d+\.\d+)\s+\d+\s+([A-Za-z]+)\s+([A-Z]+)\b(.*)")
_SECTORS = re.compile(r"\s*(\d+) \+ (\d+)")


def _blkparse(line: str) -> Entry | None:
    """Read blkparse's default output; a request is a queue (Q) event with sectors that reads or writes."""
    match = _BLKPARSE.match(line)
    if match is None:
        if line[:1].isdigit() or re.match(r"\s+\d+,\d+\s", line):
            raise BadLineError("not a blkparse event")
        return None  # the summary at the end
    major, minor, time, action, flags, rest = match.groups()
    if action != "Q" or "D" in flags or not ("R" in flags or "W" in flags):
        return None
    sectors = _SECTORS.match(rest)
    if sectors is None and "F" in flags:
        return None  # a flush of the cache carries no data, and the tool prints no sectors for it
    if sectors is None:
        raise BadLineError("a queue event without 'sector + count'")
    if int(sectors[2]) == 0:
        return None  # a flush carries no data
    device = int(major) << 20 | int(minor)
    return _entry(float(time), device, int(sectors[1]) * SECTOR, int(sectors[2]) * SECTOR, int("W" in flags))


def _ascii(time_unit_s: float, address_unit: int) -> Parser:
    """DiskSim and MQSim ASCII: ``time device start size flags``, bit 0 of flags set for a read."""

    def parse(line: str) -> Entry | None:
        if not line.strip():
            return None
        time, device, start, size, flags = _fields(line, 5)
        return _entry(
            float(time) * time_unit_s,
            int(device),
            int(start) * address_unit,
            int(size) * address_unit,
            1 - (int(flags, 0) & 1),
        )

    return parse


# column name -> unit of the value, in seconds or bytes
_TIMES = {
    "time": 1.0,
    "time_s": 1.0,
    "timestamp": 1.0,
    "op_time": 1.0,
    "time_ms": 1e-3,
    "time_us": 1e-6,
    "time_ns": 1e-9,
}
_STARTS = {
    "lbn": SECTOR,
    "lba": SECTOR,
    "sector": SECTOR,
    "offset": 1,
    "offset_bytes": 1,
    "io_offset": 1,
    "obj_id": 4096,
}
_SIZES = {"size": 1, "size_bytes": 1, "obj_size": 1, "io_size": 1, "sectors": SECTOR}
_OPS = ("op", "opcode", "op_name", "type", "rw")
_DEVICES = ("dev", "device", "disk")


def _named(header: str, path: Path) -> Parser:
    """CSV with a header, as libCacheSim's and the other samples have; columns are found by name."""
    names = [n.strip().lower() for n in next(csv.reader([header]))]

    def find(known: Sequence[str], what: str) -> int:
        for name in known:
            if name in names:
                return names.index(name)
        raise ConfigError(
            f"{path} has no column for the {what}; looked for: {', '.join(known)}; it has: {', '.join(names)}"
        )

    missing = [w for w, k in (("time stamps", _TIMES), ("read/write flag", _OPS)) if not any(n in names for n in k)]
    if missing:
        raise Untimed(path, f"it has no {' and no '.join(missing)}")
    when, start, size, op = (
        find(list(k), w) for k, w in ((_TIMES, "time"), (_STARTS, "address"), (_SIZES, "size"), (_OPS, "operation"))
    )
    unit_s, start_unit, size_unit = _TIMES[names[when]], _STARTS[names[start]], _SIZES[names[size]]
    device = next((names.index(n) for n in _DEVICES if n in names), None)
    block = names.index("block_id") if "block_id" in names else None
    blocks: dict[int, int] = {}  # by the hash of their names, which may be long

    def parse(line: str) -> Entry | None:
        if line.strip() in ("", header.strip()):
            return None
        words = next(csv.reader([line]))
        if len(words) != len(names):
            raise BadLineError(f"{len(words)} columns instead of {len(names)}")
        base = blocks.setdefault(hash(words[block]), len(blocks)) * CHUNK if block is not None else 0
        return _entry(
            float(words[when]) * unit_s,
            int(words[device]) if device is not None else 0,
            base + int(words[start]) * start_unit,
            int(words[size]) * size_unit,
            _flag(words[op]),
        )

    return parse


def detect(head: Sequence[str], path: Path) -> tuple[str, Parser]:
    """Return the name and the parser of the format that most of the first lines have.

    Raises:
        ConfigError: no format fits; ``Untimed`` if the file holds addresses alone.
    """
    lines = [line for line in head if line.strip()]
    if not lines:
        raise ConfigError(f"{path} is empty")
    words = [line.split() for line in lines]
    commas = [line.split(",") for line in lines]
    most = 0.5 * len(lines)

    def common(test: Callable[[int], bool]) -> bool:
        return sum(test(i) for i in range(len(lines))) > most

    if common(
        lambda i: (
            len(commas[i]) == 7 and commas[i][0].strip().isdigit() and commas[i][3].strip().lower() in ("read", "write")
        )
    ):
        return "msr", _msr
    if common(lambda i: _BLKPARSE.match(lines[i]) is not None):
        return "blkparse", _blkparse
    if common(lambda i: len(words[i]) == 4 and all(w.isdigit() for w in words[i])):
        raise Untimed(path, "it holds addresses and lengths only (ARC format: start, blocks, ignored, number)")
    if common(lambda i: len(words[i]) == 5 and all(_is_number(w) for w in words[i])):
        rows = [w for w in words if len(w) == 5 and all(_is_number(x) for x in w)]
        milliseconds = any("." in row[0] for row in rows)
        # 512-byte sectors are the rule; where every address and size is a multiple of 512, they are bytes
        in_bytes = all(float(row[2]) % SECTOR == 0 and float(row[3]) % SECTOR == 0 for row in rows)
        return ("disksim-bytes" if in_bytes else "disksim"), _ascii(
            1e-3 if milliseconds else 1e-9, 1 if in_bytes else SECTOR
        )
    if "," in lines[0] and any(c.isalpha() for c in lines[0]):
        return "csv", _named(lines[0], path)
    raise ConfigError(
        f"{path} has no format that is known here: MSR Cambridge CSV, blkparse text, DiskSim or MQSim ASCII "
        f"(time device start size flags), or CSV with named columns. Its first line is {lines[0].strip()[:80]!r}"
    )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
