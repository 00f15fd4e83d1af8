"""Synthetic block workloads with stated parameters, for structure that the real traces at hand do not have.

Every kind is a stream of requests over one address range; the parameters, their defaults included, are kept in the
trace's ``info``, so that a result says what it was measured on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tunewright.errors import ConfigError, unknown
from tunewright.knowledge.blocktrace import PAGE_BYTES, Trace, read_trace
from tunewright.store.files import check_size, printable, reason

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Stream = tuple[Ints, Ints, npt.NDArray[np.bool_]]  # first page, pages, write


def _zipf_pages(rng: np.random.Generator, n: int, pages: int, skew: float) -> Ints:
    """Draw pages with probability proportional to rank^-skew; ranks are scattered over the range."""
    weight = np.cumsum(np.arange(1, pages + 1, dtype=np.float64) ** -skew)
    rank = np.searchsorted(weight, rng.random(n) * weight[-1])
    scattered: Ints = rng.permutation(pages)[np.minimum(rank, pages - 1)]
    return scattered


def _zipf(
    rng: np.random.Generator,
    n: int,
    *,
    pages: int = 20_000,
    skew: float = 0.9,
    size_pages: int = 1,
    read_ratio: float = 0.7,
) -> Stream:
    """Independent requests; page popularity falls with rank^-skew."""
    first = np.minimum(_zipf_pages(rng, n, pages, skew), max(pages - size_pages, 0))
    return first, np.full(n, size_pages), rng.random(n) >= read_ratio


def _sequential(
    rng: np.random.Generator,
    n: int,
    *,
    pages: int = 20_000,
    streams: int = 4,
    size_pages: int = 8,
    read_ratio: float = 0.9,
) -> Stream:
    """Interleaved streams, each reading or writing on from where it was; at the end of its part it starts anew."""
    part = max(pages // streams, size_pages)
    stream = rng.integers(0, streams, n)
    step = np.zeros(n, np.int64)
    for k in range(streams):
        mine = stream == k
        step[mine] = np.arange(mine.sum())
    first = stream * part + step * size_pages % (part - part % size_pages)
    return first, np.full(n, size_pages), rng.random(n) >= read_ratio


def _mixed(
    rng: np.random.Generator,
    n: int,
    *,
    pages: int = 40_000,
    skew: float = 0.9,
    scan_share: float = 0.3,
    scan_pages: int = 16,
    read_ratio: float = 0.7,
) -> Stream:
    """A hot set of single pages in the lower half, and scans through the upper half that are read once each."""
    half = pages // 2
    first, size, write = _zipf(rng, n, pages=half, skew=skew, read_ratio=read_ratio)
    scan = rng.random(n) < scan_share
    at = half + np.arange(scan.sum()) * scan_pages % (half - half % scan_pages)
    first[scan], size[scan], write[scan] = at, scan_pages, False
    return first, size, write


def _phases(
    rng: np.random.Generator,
    n: int,
    *,
    pages: int = 20_000,
    skew: float = 1.0,
    phases: int = 4,
    read_ratio: float = 0.8,
) -> Stream:
    """Zipf requests whose popular pages are other ones in every phase; phases take turns between two mixes."""
    first, size = np.zeros(n, np.int64), np.ones(n, np.int64)
    write = np.zeros(n, np.bool_)
    edges = np.linspace(0, n, phases + 1).astype(int)
    for k in range(phases):
        rows = slice(edges[k], edges[k + 1])
        m = edges[k + 1] - edges[k]
        if k % 2 == 0:
            first[rows], size[rows], write[rows] = _zipf(rng, m, pages=pages, skew=skew, read_ratio=read_ratio)
        else:
            first[rows], size[rows], write[rows] = _sequential(rng, m, pages=pages, size_pages=4, read_ratio=read_ratio)
    return first, size, write


def _ycsb(
    rng: np.random.Generator,
    n: int,
    *,
    pages: int = 40_000,
    skew: float = 0.99,
    read_ratio: float = 0.5,
    compaction_every: int = 4000,
    compaction_requests: int = 200,
) -> Stream:
    """YCSB A over a log-structured store: zipfian reads, writes to a log, and now and then a compaction's long scan."""
    first, size, write = _zipf(rng, n, pages=pages, skew=skew, read_ratio=read_ratio)
    log = max(pages // 20, 1)
    first[write] = pages + np.arange(write.sum()) % log
    for begin in range(compaction_every, n, compaction_every):
        rows = np.arange(begin, min(begin + compaction_requests, n))
        base = int(rng.integers(0, pages))
        half = len(rows) // 2
        first[rows] = (base + np.arange(len(rows)) % max(half, 1) * 32) % max(pages - 32, 1)
        size[rows] = 32
        write[rows] = np.arange(len(rows)) >= half
    return first, size, write


def _checkpoint(
    rng: np.random.Generator,
    n: int,
    *,
    pages: int = 30_000,
    skew: float = 0.8,
    every: int = 3000,
    requests: int = 600,
    size_pages: int = 16,
    read_ratio: float = 0.9,
) -> Stream:
    """Training-like: reads of a data set, and every so often a checkpoint is written over the last but one."""
    first, size, write = _zipf(rng, n, pages=pages, skew=skew, read_ratio=read_ratio)
    for turn, begin in enumerate(range(every, n, every)):
        rows = np.arange(begin, min(begin + requests, n))
        first[rows] = pages + (turn % 2) * requests * size_pages + np.arange(len(rows)) * size_pages
        size[rows], write[rows] = size_pages, True
    return first, size, write


def _tenants(
    rng: np.random.Generator, n: int, *, pages: int = 40_000, read_ratio: float = 0.7, shares: int = 4
) -> Stream:
    """Tenants with ranges of their own: hot pages, a loop that is larger than a tenth, scans, and log writes."""
    part = pages // shares
    kind = rng.integers(0, shares, n)
    first, size, write = _zipf(rng, n, pages=part, skew=1.0, read_ratio=read_ratio)
    for k in range(1, shares):
        mine = np.flatnonzero(kind == k)
        steps = np.arange(len(mine))
        if k % 3 == 1:
            first[mine], size[mine] = k * part + steps * 2 % (part // 4 * 2), 2
        elif k % 3 == 2:
            first[mine], size[mine], write[mine] = k * part + steps * 8 % (part - part % 8), 8, False
        else:
            first[mine], write[mine] = k * part + steps % part, True
    return first, size, write


_KINDS: dict[str, Callable[..., Stream]] = {
    "zipf": _zipf,
    "sequential": _sequential,
    "mixed": _mixed,
    "bursts": _zipf,
    "phases": _phases,
    "ycsb": _ycsb,
    "checkpoint": _checkpoint,
    "tenants": _tenants,
}
KINDS = tuple(_KINDS)
_TURNS, MOST_TURNS = ("streams", "phases", "shares"), 10_000  # each takes a pass over all requests
_REQUEST_BYTES, _PAGE_BYTES = 200, 40  # of memory for a request, and for one of what is counted by a parameter


def _arrivals(rng: np.random.Generator, n: int, kind: str, gap_us: float, burst: int) -> Floats:
    gaps = rng.exponential(gap_us, n)
    if kind == "bursts":  # the same mean rate, in bursts ten times as fast
        gaps *= 0.1
        gaps[::burst] += 0.9 * gap_us * burst
    times = np.cumsum(gaps)
    return times - times[0] if n else times


def generate(
    kind: str, *, requests: int = 50_000, seed: int = 0, gap_us: float = 1000.0, burst: int = 50, **parameters: Any
) -> Trace:
    """Generate a workload.

    Args:
        kind: one of ``KINDS``.
        requests: how many.
        seed: same seed, same trace.
        gap_us: mean time between arrivals.
        burst: requests in a burst (kind ``bursts``).
        **parameters: of the kind; see its function for names and defaults.

    Raises:
        UnknownNameError, ConfigError: no such kind or parameter, or a value that makes no sense.
    """
    if kind not in _KINDS:
        raise unknown("kind of synthetic workload", kind, KINDS)
    make = _KINDS[kind]
    known = {n: p.default for n, p in inspect.signature(make).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for name, value in parameters.items():
        if name not in known:
            raise unknown(f"parameter of the workload {kind!r}", name, [*known, "requests", "seed", "gap_us", "burst"])
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
            raise ConfigError(f"{name} of the workload {kind!r} must be a number, zero or more, not {value!r}")
        if isinstance(known[name], int) and (value != int(value) or value < 1):
            raise ConfigError(f"{name} of the workload {kind!r} must be a positive whole number, not {value!r}")
    for name, number in (("requests", requests), ("seed", seed), ("burst", burst)):
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**63:
            raise ConfigError(f"{name} of a workload must be a whole number, zero or more, not {number!r}")
    if requests < 1 or burst < 1 or not 0 < gap_us < 1e12:
        raise ConfigError("a workload needs requests >= 1, burst >= 1 and a gap_us above 0 and below 1e12")
    settings = {n: type(d)(parameters.get(n, d)) for n, d in known.items()}
    check_size(f"{requests:,} requests", requests, _REQUEST_BYTES)
    for name, number in settings.items():
        if isinstance(known[name], int):
            check_size(f"{name}={number:,}", number, _PAGE_BYTES)
    if (turns := max(settings.get(n, 0) for n in _TURNS)) > MOST_TURNS:
        raise ConfigError(f"{', '.join(_TURNS)} of a workload are at most {MOST_TURNS:,}, not {turns:,}")
    rng = np.random.default_rng(seed)
    try:
        with np.errstate(divide="raise", invalid="raise"):
            first, size, write = make(rng, requests, **settings)
    except (ArithmeticError, ValueError, IndexError):
        said = ", ".join(f"{n}={v:g}" for n, v in settings.items())
        raise ConfigError(
            f"no workload {kind!r} can be made of {said}: too few pages for the rest, most likely"
        ) from None
    info = {"generator": kind, "requests": requests, "seed": seed, "gap_us": gap_us, **settings}
    if kind == "bursts":
        info["burst"] = burst
    return Trace(
        name=kind,
        time_us=_arrivals(rng, requests, kind, gap_us, burst),
        offset=first.astype(np.int64) * PAGE_BYTES,
        size=size.astype(np.int64) * PAGE_BYTES,
        write=write,
        info=info,
    )


def open_trace(
    source: str, options: dict[str, str] | None = None, *, skip_bad: int = 0, limit: int | None = None
) -> Trace:
    """Read a trace file, or generate ``synthetic:KIND`` with options such as ``skew=1.1``.

    Raises:
        ConfigError, UnknownNameError: what is wrong with the file, the kind or the options.
    """
    if not source.startswith("synthetic:"):
        if options:
            raise ConfigError(f"options ({', '.join(options)}) are for synthetic workloads; {source} is a file")
        return read_trace(source, skip_bad=skip_bad, limit=limit)
    numbers: dict[str, Any] = {}
    for name, text in (options or {}).items():
        try:
            numbers[name] = int(text) if text.removeprefix("-").isdecimal() else float(text)
        except ValueError as error:
            raise ConfigError(f"{name}={printable(text, 40)}: a number is needed ({reason(error)})") from None
    made = generate(source.removeprefix("synthetic:"), **numbers)
    return made.part(0, limit) if limit is not None else made
