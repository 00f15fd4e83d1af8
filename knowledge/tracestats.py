"""What a block trace is like: the numbers, the facts in plain words, and the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from tunewright.knowledge.blocktrace import EXTENT, PagedTrace

MOST_TOUCHES = 10_000_000  # reuse distances are computed over the first so many page touches
PERCENTILES = (1, 10, 25, 50, 75, 90, 99)
_STREAMS = 16


@njit(cache=True, nogil=True)
def reuse_distances(first: Any, count: Any, pages: int, most: int) -> Any:
    """Number of different pages touched between two touches of a page (LRU stack distance).

    Args:
        first, count: first page and pages of each request.
        pages: how many pages there are.
        most: stop after so many touches.

    Returns:
        One distance a touch, int64; -1 for a page's first touch. A Fenwick tree over touches holds a one at each
        page's latest touch, so a distance is a sum over the touches since.
    """
    total = min(most, count.sum())
    tree = np.zeros(total + 1, np.int32)
    latest = np.full(pages, -1, np.int64)
    result = np.empty(total, np.int64)
    alive = 0
    now = 0
    for i in range(len(first)):
        for page in range(first[i], first[i] + count[i]):
            if now == total:
                return result
            before = latest[page]
            if before < 0:
                result[now] = -1
                alive += 1
            else:
                earlier = 0
                k = before + 1
                while k > 0:
                    earlier += tree[k]
                    k -= k & -k
                result[now] = alive - earlier
                k = before + 1
                while k <= total:
                    tree[k] -= 1
                    k += k & -k
            latest[page] = now
            k = now + 1
            while k <= total:
                tree[k] += 1
                k += k & -k
            now += 1
    return result


def _spread(values: npt.NDArray[Any]) -> dict[str, float]:
    return {f"p{p}": float(v) for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}


def _sequential(trace: PagedTrace) -> tuple[float, float]:
    """Share of requests that begin where the one before ended, and where one of the last few did."""
    offset, size = trace.trace.offset, trace.trace.size
    end = offset + size
    strict = float(np.mean(offset[1:] == end[:-1])) if len(offset) > 1 else 0.0
    near = np.zeros(len(offset), np.bool_)
    for back in range(1, min(_STREAMS, len(offset) - 1) + 1):
        near[back:] |= offset[back:] == end[:-back]
    return strict, float(near.mean())


def measure(trace: PagedTrace) -> dict[str, Any]:
    """Return the features of a trace; sizes in bytes, times in microseconds, distances in pages."""
    raw = trace.trace
    touches = trace.touches()
    hot = np.sort(touches[touches > 0])[::-1]
    share = np.cumsum(hot) / hot.sum()
    distance = reuse_distances(trace.first, trace.count, len(trace.address), MOST_TOUCHES)
    again = distance[distance >= 0]
    gaps = np.diff(raw.time_us) if len(raw) > 1 else np.zeros(1)
    strict, near = _sequential(trace)
    duration = float(raw.time_us[-1])
    return {
        "trace": raw.name, "info": raw.info, "requests": len(raw), "duration_s": duration / 1e6,
        "requests_per_s": len(raw) / duration * 1e6 if duration > 0 else None,
        "read_ratio": float(1 - raw.write.mean()), "footprint_pages": trace.footprint,
        "footprint_bytes": trace.footprint * trace.page_bytes, "bytes": int(raw.size.sum()),
        "size_bytes": {"mean": float(raw.size.mean()), **_spread(raw.size)}, "sequential": strict,
        "sequential_16_streams": near, "touched_once": float(np.mean(hot == 1)),
        "hot_share": {f"{p}%": float(share[max(0, round(p / 100 * len(hot)) - 1)]) for p in (1, 5, 10, 20)},
        "extents_touched": len(trace.address) // EXTENT, "extent_fill": trace.footprint / len(trace.address),
        "reuse": {
            "touches": len(distance),
            "first_touches": float(np.mean(distance < 0)),
            "distance_pages": _spread(again) if len(again) else None,
            "within_10%": float(np.mean((distance >= 0) & (distance < 0.1 * trace.footprint))),
        },
        "interarrival_us": {"mean": float(gaps.mean()), "cv": float(gaps.std() / gaps.mean()) if gaps.any() else 0.0}
        | _spread(gaps),
    }  # fmt: skip


def facts(m: dict[str, Any]) -> list[str]:
    """Say in plain words what matters for placement."""
    said = []
    reads = m["read_ratio"]
    kind = "only reads" if reads == 1 else "only writes" if reads == 0 else f"{100 * reads:.0f} % reads"
    said.append(f"{kind}; {m['size_bytes']['mean'] / 1024:.3g} KiB a request in the mean")
    sequential = m["sequential_16_streams"]
    said.append(
        "mostly sequential streams: reading ahead should pay"
        if sequential > 0.5
        else f"{100 * sequential:.0f} % of the requests go on where one of the last sixteen ended"
    )
    if m["touched_once"] > 0.9:
        said.append(
            f"{100 * m['touched_once']:.0f} % of the pages are touched once: placement can only help through writes and"
            " reading ahead"
        )
    elif m["reuse"]["within_10%"] > 0.5:
        said.append(
            f"{100 * m['reuse']['within_10%']:.0f} % of the page touches would hit a fast tier of a tenth of the"
            " footprint"
        )
    if m["hot_share"]["10%"] > 0.5:
        said.append(f"the hottest tenth of the pages gets {100 * m['hot_share']['10%']:.0f} % of the touches")
    if m["interarrival_us"]["cv"] > 2:
        said.append(
            f"requests come in bursts (their gaps vary by {m['interarrival_us']['cv']:.1f} times their mean): there is"
            " idle time to use"
        )
    return said


def write_page(cut: PagedTrace, m: dict[str, Any], path: Path) -> None:
    """Write a page of figures on what ``measure`` and ``facts`` found."""
    from tunewright.report import pages, svg

    raw = cut.trace
    cells, _, _ = np.histogram2d(cut.first, raw.time_us, bins=(40, 90))
    seconds = f"{m['duration_s']:,.6g} s"
    distance = reuse_distances(cut.first, cut.count, len(cut.address), MOST_TOUCHES)
    again = np.sort(distance[distance >= 0])
    gaps = np.sort(np.diff(raw.time_us))
    touches = np.bincount(np.repeat(cut.first, 1), minlength=1)
    touches = np.sort(touches[touches > 0])[::-1]

    def curve(values: npt.NDArray[Any], first: float = 0.0) -> tuple[list[float], list[float]]:
        keep: Any = np.unique(np.linspace(0, len(values) - 1, 200).astype(int)) if len(values) else []
        return [float(values[k]) for k in keep], [first + (1 - first) * (k + 1) / len(values) for k in keep]

    xs, ys = curve(again)
    hits = [y * len(again) / len(distance) for y in ys]
    sizes, counts = np.unique(np.minimum(cut.count, 1024), return_counts=True)
    rank = np.unique(np.geomspace(1, len(touches), 120).astype(int))
    sections = [
        (
            "Where and when",
            svg.heat(cells.tolist(), "time", "address (touched pages, in order)", ("0", seconds)),
            "",
        ),
        (
            "What a cache of a size would hit",
            svg.curves(
                [("hit ratio", [x + 1 for x in xs], hits)], "pages held (LRU)", "share of page touches", log_x=True
            ),
            f"{100 * m['reuse']['first_touches']:.1f} % of the page touches are the first of their page.",
        ),
        (
            "Popularity",
            svg.curves(
                [("requests", rank.tolist(), touches[rank - 1].tolist())], "rank of the first page", "requests",
                log_x=True, log_y=True,
            ),
            f"The hottest tenth of the pages gets {100 * m['hot_share']['10%']:.0f} % of the touches.",
        ),
        (
            "Time between arrivals",
            svg.curves([("share", *curve(gaps))], "gap in us", "share of gaps up to it", log_x=True),
            "",
        ),
        (
            "Sizes",
            svg.bars(
                [
                    (f"{s} page{'s' if s > 1 else ''}", c / len(cut.count), f"{100 * c / len(cut.count):.1f} %")
                    for c, s in sorted(zip(counts.tolist(), sizes.tolist(), strict=True), reverse=True)[:12]
                ],
                "share of requests, commonest sizes",
            ),
            "",
        ),
    ]  # fmt: skip
    pages.write_figures(path, f"trace {raw.name}", " · ".join(m["facts"]), sections)
