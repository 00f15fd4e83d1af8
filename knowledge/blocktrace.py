"""Block I/O traces: what one is, how it is cut into pages, and how it is read from a file.

A trace holds one entry a request: when it arrived, where it starts, how long it is, and whether it writes. The formats
are in ``block_formats``; ``read_trace`` opens the file (plain, gzip or zstd), detects the format by content and checks
what it read.
"""

from __future__ import annotations

import csv
from array import array
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.errors import ConfigError
from tunewright.knowledge import block_formats
from tunewright.knowledge.block_formats import BadLineError, Untimed
from tunewright.store.files import check_size, open_lines, parsing, printable

PAGE_BYTES = 4096
EXTENT = 64  # pages: 256 KiB
SNIFFED_LINES = 200
# bytes of memory for a request while a trace is read, sorted and cut into pages, and for a page while it is measured
_REQUEST_BYTES, _PAGE_BYTES = 200, 32


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Requests in the order of their arrival.

    Attributes:
        name: file name without its endings, or the generator's kind.
        time_us: arrival in microseconds since the first request, float64, shape (requests,).
        offset: first byte, int64, shape (requests,); several disks lie one after another.
        size: bytes, int64, shape (requests,), each at least 1.
        write: whether the request writes, bool, shape (requests,).
        info: where it came from: format, disks, skipped lines, generator and its parameters.
    """

    name: str
    time_us: npt.NDArray[np.float64]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    write: npt.NDArray[np.bool_]
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.time_us)

    def part(self, start: int, stop: int) -> Trace:
        """Return the requests ``start`` to ``stop``; time starts anew at zero."""
        rows = slice(start, stop)
        time_us = self.time_us[rows]
        return replace(
            self,
            time_us=time_us - (time_us[0] if len(time_us) else 0.0),
            offset=self.offset[rows],
            size=self.size[rows],
            write=self.write[rows],
        )


@dataclass(frozen=True, kw_only=True)
class PagedTrace:
    """A trace in pages, numbered without gaps in the order of their addresses, so that neighbours stay neighbours.

    All pages of every aligned extent that is touched have a number, also those the trace never touches: a policy that
    reads ahead must not be told by the numbering which of them will be needed.

    Attributes:
        trace: the trace it was made from.
        first: first page of each request, int32, shape (requests,).
        count: pages of each request, int32, shape (requests,).
        address: page number on the disk of every page, int64, shape (pages,).
        footprint: number of different pages touched.
        page_bytes: size of a page.
    """

    trace: Trace
    first: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]
    address: npt.NDArray[np.int64]
    footprint: int
    page_bytes: int = PAGE_BYTES

    def touches(self) -> npt.NDArray[np.int64]:
        """Return how often each page is touched, int64, shape (pages,)."""
        change = np.zeros(len(self.address) + 1, np.int64)
        np.add.at(change, self.first, 1)
        np.subtract.at(change, self.first + self.count, 1)
        return np.cumsum(change[:-1])


def _merged(start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> tuple[Any, Any]:
    """Merge intervals; returns the begins and ends of those that remain, in order."""
    order = np.argsort(start, kind="stable")
    low, high = start[order], np.maximum.accumulate(stop[order])
    opens = np.r_[True, low[1:] > high[:-1]]
    return low[opens], high[np.r_[np.flatnonzero(opens)[1:] - 1, len(low) - 1]]


def paged(trace: Trace, page_bytes: int = PAGE_BYTES, extent: int = EXTENT) -> PagedTrace:
    """Cut a trace into pages.

    Args:
        trace: the trace; not empty.
        page_bytes: size of a page.
        extent: pages of an aligned run that gets numbers as a whole.

    >>> t = Trace(name="t", time_us=np.zeros(2), offset=np.array([4000, 1 << 40]), size=np.array([200, 1]),
    ...           write=np.zeros(2, bool))
    >>> p = paged(t)
    >>> p.first.tolist(), p.count.tolist(), p.footprint, len(p.address)
    ([0, 64], [2, 1], 3, 128)
    """
    start = trace.offset // page_bytes
    stop = (trace.offset + trace.size - 1) // page_bytes + 1
    begin, end = _merged(start, stop)
    footprint = int((end - begin).sum())
    begin, end = _merged(start // extent * extent, -(-stop // extent) * extent)
    base = np.r_[0, np.cumsum(end - begin)]
    pages = f"trace {trace.name!r}: {base[-1]:,} pages of {page_bytes} bytes"
    check_size(
        pages, int(base[-1]) * _PAGE_BYTES + len(start) * _REQUEST_BYTES, 1, "use the first requests: --requests N"
    )
    if base[-1] >= 2**31:
        raise ConfigError(f"trace {trace.name!r} needs {base[-1]:,} pages; more than 2^31 are not supported")
    run = np.searchsorted(begin, start, side="right") - 1
    return PagedTrace(
        trace=trace,
        first=(base[run] + start - begin[run]).astype(np.int32),
        count=(stop - start).astype(np.int32),
        address=_addresses(begin, base),
        footprint=footprint,
        page_bytes=page_bytes,
    )


def _addresses(begin: npt.NDArray[np.int64], base: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the page number on the disk of every numbered page; one array and no temporary ones."""
    step = np.ones(int(base[-1]), np.int64)
    step[0] = begin[0]
    step[base[1:-1]] = np.diff(begin) - np.diff(base)[:-1] + 1
    return np.cumsum(step, out=step)


def read_trace(path: Path | str, *, skip_bad: int = 0, limit: int | None = None) -> Trace:
    """Read a trace; its format is detected by content.

    Args:
        path: the file; plain, gzip or zstd.
        skip_bad: tolerate so many bad lines; they are counted in ``info["skipped"]``.
        limit: read no more than so many requests.

    Raises:
        ConfigError: no known format, a bad line (named with its number), a damaged file, or a trace that has no
            usable time stamps or no read/write flag.
    """
    path = Path(path)
    with open_lines(path, "trace file") as lines:
        head = list(islice(lines, SNIFFED_LINES))
    with parsing(path, "block trace"):
        name, parse = block_formats.detect(head, path)
    time_s, device = array("d"), array("q")
    offset, size, write = array("q"), array("q"), array("b")
    bad: list[str] = []
    with open_lines(path, "trace file") as lines, parsing(path, "block trace") as place:
        for place.line, line in enumerate(lines, 1):
            try:
                entry = parse(line)
            except (BadLineError, ValueError, IndexError, OverflowError, csv.Error) as error:
                bad.append(f"{path}:{place.line}: {_reason(error, line)}")
                if len(bad) > skip_bad:
                    raise ConfigError(_too_many(bad, skip_bad)) from None
                continue
            if entry is None:
                continue
            time_s.append(entry[0])
            device.append(entry[1])
            offset.append(entry[2])
            size.append(entry[3])
            write.append(entry[4])
            if limit is not None and len(time_s) >= limit:
                break
            if not len(time_s) & 0xFFFF:
                requests = f"{path}: {len(time_s):,} requests and more"
                check_size(requests, len(time_s), _REQUEST_BYTES, "use the first ones: --requests N")
    if not time_s:
        raise ConfigError(f"{path} holds no read or write request (format {name})")
    info = {"file": str(path), "format": name, "skipped": len(bad)}
    columns = (np.array(c) for c in (time_s, device, offset, size, write))
    return _assemble(path, info, *columns)


def _reason(error: Exception, line: str) -> str:
    shown = printable(line, 80)
    return f"{error if isinstance(error, BadLineError) else 'not a number where one is needed'}: {shown!r}"


def _too_many(bad: list[str], allowed: int) -> str:
    if allowed == 0:
        return f"{bad[-1]}. Mend the file, or go on without such lines: --skip-bad N"
    return f"{bad[-1]}. That is bad line number {len(bad)}; --skip-bad allows {allowed}"


def _assemble(
    path: Path,
    info: dict[str, Any],
    time_s: npt.NDArray[Any],
    device: npt.NDArray[Any],
    offset: npt.NDArray[Any],
    size: npt.NDArray[Any],
    write: npt.NDArray[Any],
) -> Trace:
    if info["format"] == "disksim" and _is_ramp(time_s, write):
        raise Untimed(path, "its arrival times are a ramp of equal steps and its op column never changes")
    order = np.argsort(time_s, kind="stable")
    info["reordered"] = int(np.count_nonzero(np.diff(time_s) < 0))
    time_s, device, offset, size, write = (c[order] for c in (time_s, device, offset, size, write))
    if len(time_s) > 1 and np.all(time_s == np.floor(time_s)) and time_s[-1] > time_s[0]:
        time_s = _spread_seconds(time_s)
        info["spread_whole_seconds"] = True
    disks, index = np.unique(device, return_inverse=True)
    if len(disks) > 1:
        if int(offset.max()) + int(size.max()) > (1 << 62) // len(disks):
            raise ConfigError(f"{path}: {len(disks):,} disks with addresses up to {offset.max():,} are no real ones")
        ends = np.zeros(len(disks), np.int64)
        np.maximum.at(ends, index, offset + size)
        starts = np.r_[0, np.cumsum((ends >> 20) + 1)[:-1]] << 20
        offset = offset + starts[index]
    info["disks"] = len(disks)
    name = path.name
    for ending in (".gz", ".zst", ".csv", ".txt", ".trace"):
        name = name.removesuffix(ending)
    return Trace(
        name=name,
        time_us=(time_s - time_s[0]) * 1e6,
        offset=offset.astype(np.int64),
        size=size.astype(np.int64),
        write=write.astype(np.bool_),
        info=info,
    )


def _is_ramp(time_s: npt.NDArray[Any], write: npt.NDArray[Any]) -> bool:
    """Whether times count lines rather than measure: every step a multiple of one, at a rate no device has."""
    steps = np.rint(np.diff(time_s) * 1e9).astype(np.int64)
    if len(steps) < 100 or write.min() != write.max() or time_s[-1] <= time_s[0]:
        return False
    unit = int(steps[steps > 0].min())
    return bool(np.all(steps % unit == 0)) and len(steps) / (time_s[-1] - time_s[0]) > 1e7


def _spread_seconds(time_s: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Spread requests stamped with one whole second evenly over that second."""
    _, first, count = np.unique(time_s, return_index=True, return_counts=True)
    rank = np.arange(len(time_s)) - np.repeat(first, count)
    return time_s + rank / np.repeat(count, count)
