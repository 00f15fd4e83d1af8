"""The command ``tunewright place``: policies on a trace, as a document, on the terminal, and as a page of plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.agents.placement import policies as P
from tunewright.agents.placement.agentfile import load_agents, save_agents
from tunewright.agents.placement.learning import DESIGNS
from tunewright.envs.storage.hybrid.devices import load_devices
from tunewright.envs.storage.hybrid.world import FULL, PLAIN
from tunewright.errors import ConfigError, unknown
from tunewright.knowledge.blocktrace import PagedTrace, paged
from tunewright.knowledge.synthetic import open_trace

if TYPE_CHECKING:
    from rich.console import Console

Tick = Callable[[int, int, str], None]
_MECHANISMS = {"own": None, "plain": PLAIN, "full": FULL}
REAL_LIMIT_S = 1800.0
LEARNING = tuple(DESIGNS)


def _names(given: Sequence[str]) -> list[str]:
    names = [n for word in given for n in word.split(",") if n]
    if "all" in names:
        return list(P.POLICIES)
    for name in names:
        if name not in P.POLICIES:
            raise unknown("placement policy", name, ["all", *P.POLICIES])
    return list(dict.fromkeys(names))


def _scale(text: str, cut: PagedTrace, devices: Any, least: float = 1.0) -> float:
    if text == "auto":
        return P.time_scale(cut, devices, least=least)
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"--time-scale is auto or a positive number, not {text!r}") from None
    if not 0 < value < math.inf:
        raise ConfigError(f"--time-scale must be positive, not {text}")
    return value


def run(
    source: str,
    options: dict[str, str],
    *,
    devices: str = "performance",
    policies: Sequence[str] = ("all",),
    fast: float = 0.10,
    seed: int = 0,
    scale: str = "auto",
    load: float = 1.0,
    mechanisms: str = "own",
    real: str | None = None,
    save: Path | None = None,
    agent: Path | None = None,
    page: Path | None = None,
    skip_bad: int = 0,
    limit: int | None = None,
    tick: Tick | None = None,
) -> dict[str, Any]:
    """Replay a trace under policies and return what they did; see ``tunewright place --help`` for the arguments."""
    names = _names(policies)
    if mechanisms not in _MECHANISMS:
        raise unknown("set of mechanisms", mechanisms, _MECHANISMS)
    if (save or agent) and (len(names) != 1 or names[0] not in LEARNING):
        raise ConfigError(f"an agent is saved or loaded for one learning policy: --policy {', '.join(LEARNING)}")
    if real is not None:
        if save or agent:
            raise ConfigError("--save and --load are for simulated tiers; leave out --real")
        cut = paged(open_trace(source, options, skip_bad=skip_bad, limit=limit))
        return _run_real(cut, real, names, fast, seed, scale, load, _MECHANISMS[mechanisms], tick)
    tiers = load_devices(devices)
    trained = load_agents(agent, names[0], len(tiers.tiers)) if agent else None
    cut = paged(open_trace(source, options, skip_bad=skip_bad, limit=limit))
    factor = _scale(scale, cut, tiers) / load
    setup = P.Setup(paged=cut, devices=tiers, fast=fast, scale=factor, mechanisms=_MECHANISMS[mechanisms])
    done: dict[str, P.Replay] = {}
    # the floor and the ceiling are always needed; the oracle looks at all
    wanted = list(P.POLICIES) if "oracle" in names else list(dict.fromkeys(["fast-only", "slow-only", *names]))
    for number, name in enumerate(wanted):
        if tick:
            tick(number, len(wanted), name)
        done[name] = P.replay(setup, name, seed=seed, agents=trained if name in LEARNING else None)
    if "oracle" in done:
        done["oracle"] = P.best_known(list(done.values()))
    if save:
        save_agents(save, done[names[0]].extra["agents"])
    document = _document(cut, setup, devices, seed, load, [done[n] for n in names], done)
    if page is not None:
        _write_page(page, document, setup, [done[n] for n in names])
        document["page"] = str(page)
    return document


def _run_real(
    cut: PagedTrace,
    spec: str,
    names: list[str],
    fast: float,
    seed: int,
    scale: str,
    load: float,
    mechanisms: Any,
    tick: Tick | None,
) -> dict[str, Any]:
    """Replay on real directories, after measuring what they are like."""
    from tunewright.agents.placement import real as R
    from tunewright.envs.storage.hybrid.pagestore import parse_places

    places = parse_places(spec)
    names = [n for n in names if n != "oracle"]  # the future is only known to a simulator
    if tick:
        tick(0, len(names), "measuring the tiers")
    start = load_devices("performance")  # replaced by what is measured
    setup = R.real_setup(P.Setup(paged=cut, devices=start, fast=fast, mechanisms=mechanisms), places)
    factor = _scale(scale, cut, setup.devices, least=2.0**-30) / load
    setup = replace(setup, scale=factor)
    seconds = float(cut.trace.time_us[-1]) * factor / 1e6
    if seconds > REAL_LIMIT_S:
        raise ConfigError(
            f"the replay would take {seconds:,.0f} s for each policy; use fewer requests (--requests N) or a smaller"
            " --time-scale"
        )
    rows = []
    for number, name in enumerate(names):

        def inner(done: int, total: int, number: int = number, name: str = name) -> None:
            if tick:
                tick(number, len(names), f"{name}, request {done:,} of {total:,}")

        r = R.replay_real(setup, name, places, seed=seed, tick=inner)
        measured, simulated = float(r.latency_us.mean()), float(r.simulated_us.mean())
        rows.append(
            {
                "policy": name,
                "mean_latency_us": measured,
                "p99_latency_us": float(np.percentile(r.latency_us, 99)),
                "simulated_mean_us": simulated,
                "simulated_over_measured": simulated / measured,
                "late_us": float(r.late_us.mean()),
                "pages_moved": r.moved,
                "pages_checked": r.checked,
            }
        )
    return {
        "trace": cut.trace.name,
        "real": spec,
        "fast": fast,
        "seed": seed,
        "requests": len(cut.first),
        "time_scale": factor * load,
        "load": load,
        "footprint_pages": cut.footprint,
        "tiers": [{"name": t.name, **t.figures} for t in setup.devices.tiers],
        "policies": rows,
    }


def _show_real(console: Console, d: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from tunewright.report.words import number

    console.print(Text(f"trace {d['trace']} · {d['requests']:,} requests on real tiers {d['real']}", style="bold"))
    for t in d["tiers"]:
        console.print(
            f"  {t['name']}: 4 KiB read {number(t['read_latency_us'])} us, write {number(t['write_latency_us'])} us",
            style="dim",
        )
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("policy")
    for column in ("mean us", "p99 us", "simulated us", "over measured", "moved", "checked"):
        table.add_column(column, justify="right")
    for r in d["policies"]:
        table.add_row(
            r["policy"], number(r["mean_latency_us"]), number(r["p99_latency_us"]), number(r["simulated_mean_us"]),
            f"{r['simulated_over_measured']:.3f}", f"{r['pages_moved']:,}", f"{r['pages_checked']:,}",
        )  # fmt: skip
    console.print(table)


def _document(
    cut: PagedTrace,
    setup: P.Setup,
    devices: str,
    seed: int,
    load: float,
    shown: list[P.Replay],
    done: dict[str, P.Replay],
) -> dict[str, Any]:
    floor, slow = done["fast-only"].mean_us, done["slow-only"]
    return {
        "trace": cut.trace.name,
        "devices": devices,
        "fast": setup.fast,
        "seed": seed,
        "requests": len(cut.first),
        "time_scale": setup.scale * load,
        "load": load,
        "footprint_pages": cut.footprint,
        "info": cut.trace.info,
        "policies": [_row(r, floor, slow) for r in shown],
    }


def _row(r: P.Replay, floor: float, slow: P.Replay) -> dict[str, Any]:
    tail = slice(-max(1, len(r.latency_us) // 10), None)
    moved = r.counters["promoted"] + r.counters["fetched"] + r.counters["migrated"]
    row = {
        "policy": r.policy,
        "mean_latency_us": r.mean_us,
        "p99_latency_us": float(np.percentile(r.latency_us, 99)),
        "normalised": r.mean_us / floor,
        "evictions": r.counters["evicted"],
        "migrations": moved,
        "fast_hit_ratio": r.counters["hits"] / max(r.counters["served"], 1),
        "requests_per_s": len(r.latency_us) / max(r.seconds, 1e-9),
        # a policy whose own traffic makes requests wait far longer than the slowest tier alone would
        "saturated": bool(r.latency_us[tail].mean() > 5 * slow.latency_us[tail].mean()),
    }
    return row | {k: r.extra[k] for k in ("of",) if k in r.extra}


def show(console: Console, document: dict[str, Any]) -> None:
    """Print the comparison for a person."""
    if "real" in document:
        _show_real(console, document)
        return
    from rich.table import Table
    from rich.text import Text

    from tunewright.report.svg import short
    from tunewright.report.words import number

    d = document
    console.print(
        Text.assemble(
            ("trace ", "bold"), (d["trace"], "bold cyan"),
            f" · {d['requests']:,} requests · devices {d['devices']} · fast tier {100 * d['fast']:g} % of"
            f" {d['footprint_pages']:,} pages · inter-arrival times x{d['time_scale']:g}"
            + (f" · load x{d['load']:g}" if d["load"] != 1 else ""),
        )
    )  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("policy", no_wrap=True)
    for column in ("mean us", "p99 us", "× fast", "hits", "evicted", "moved", "replayed/s"):
        table.add_column(column, justify="right", no_wrap=True)
    judged = [r for r in d["policies"] if r["policy"] not in ("fast-only", "oracle")]
    best = min((r["mean_latency_us"] for r in judged), default=0.0)
    for r in d["policies"]:
        name = Text(r["policy"], style="bold green" if r["mean_latency_us"] == best and r in judged else "bold")
        if r["saturated"]:
            name.append(" !", style="yellow")
        table.add_row(
            name, number(r["mean_latency_us"]), number(r["p99_latency_us"]), number(r["normalised"]),
            f"{100 * r['fast_hit_ratio']:.1f} %", *(short(r[k]) for k in ("evictions", "migrations", "requests_per_s")),
        )  # fmt: skip
    console.print(table)
    for r in d["policies"]:
        if "of" in r:
            whose = "a clairvoyant variant" if r["of"] == "oracle" else r["of"]
            console.print(Text(f"oracle: the best of all, here {whose}", style="dim"))
    if any(r["saturated"] for r in d["policies"]):
        console.print(Text("!: its own traffic keeps a device busy; the latency grows with the trace", style="yellow"))
    if "page" in d:
        console.print(Text(f"wrote {d['page']}; open it in a browser", style="dim"))


def _write_page(path: Path, document: dict[str, Any], setup: P.Setup, shown: list[P.Replay]) -> None:
    from tunewright.report import pages, svg

    rows = [(r["policy"], r["normalised"], f"{r['normalised']:,.4g}") for r in document["policies"]]
    best = sorted((r for r in shown if r.policy not in ("fast-only", "oracle")), key=lambda r: r.mean_us)[: svg.COLOURS]
    size = max(1, len(setup.paged.first) // 120)
    series = []
    for r in best:
        whole = len(r.latency_us) // size * size
        means = r.latency_us[:whole].reshape(-1, size).mean(axis=1)
        series.append((r.policy, [size * (i + 0.5) for i in range(len(means))], means.tolist()))
    hot = np.argsort(-setup.paged.touches(), kind="stable")[: max(1, setup.paged.footprint // 10)]
    names = [t.name for t in setup.devices.tiers]
    shares = [(r.policy, [float(np.mean(r.tier[hot] == t)) for t in range(len(names))]) for r in shown]
    words = (
        f"{document['requests']:,} requests · {setup.devices.title} · fast tier {100 * setup.fast:g} % of the footprint"
    )
    sections = [
        ("Mean latency over fast-only", svg.bars(rows, "times fast-only, log scale; lower is better", log=True), ""),
        (
            "Latency over time",
            svg.curves(series, "request", "mean latency in us", log_y=True, height=340),
            f"Each point is the mean of {size:,} requests.",
        ),
        (
            "Where the hot pages are at the end",
            svg.stacks(shares, names, "share of the hottest tenth of the pages"),
            "",
        ),
    ]
    pages.write_figures(path, f"placement on {document['trace']}", words, sections)
