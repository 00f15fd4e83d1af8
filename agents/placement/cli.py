"""The command ``tunewright place``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from tunewright.cli.options import Json, command, steps
from tunewright.knowledge.cli import TRACES, Page, Requests, SkipBad, TraceOption

if TYPE_CHECKING:
    from rich.console import Console

Devices = Annotated[str, Option("--devices", "-d", help="performance, cost, triple, quad, or a TOML file.")]

app = typer.Typer()


def _show_real(console: Console, d: dict[str, Any]) -> None:
    from rich.text import Text

    from tunewright.cli.terminal import table
    from tunewright.report.words import number

    console.print(Text(f"trace {d['trace']} · {d['requests']:,} requests on real tiers {d['real']}", style="bold"))
    for t in d["tiers"]:
        console.print(
            f"  {t['name']}: 4 KiB read {number(t['read_latency_us'])} us, write {number(t['write_latency_us'])} us",
            style="dim",
        )
    heads = ("mean us", "p99 us", "simulated us", "over measured", "moved", "checked")
    rows = table("policy", *heads, numbers=heads)
    for r in d["policies"]:
        rows.add_row(
            r["policy"], number(r["mean_latency_us"]), number(r["p99_latency_us"]), number(r["simulated_mean_us"]),
            f"{r['simulated_over_measured']:.3f}", f"{r['pages_moved']:,}", f"{r['pages_checked']:,}",
        )  # fmt: skip
    console.print(rows)


def _show(console: Console, document: dict[str, Any]) -> None:
    if "real" in document:
        _show_real(console, document)
        return
    from rich.text import Text

    from tunewright.cli.terminal import table
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
    heads = ("mean us", "p99 us", "× fast", "hits", "evicted", "moved", "replayed/s")
    rows = table("policy", *heads, numbers=heads, no_wrap=True)
    judged = [r for r in d["policies"] if r["policy"] not in ("fast-only", "oracle")]
    best = min((r["mean_latency_us"] for r in judged), default=0.0)
    for r in d["policies"]:
        name = Text(r["policy"], style="bold green" if r["mean_latency_us"] == best and r in judged else "bold")
        if r["saturated"]:
            name.append(" !", style="yellow")
        rows.add_row(
            name, number(r["mean_latency_us"]), number(r["p99_latency_us"]), number(r["normalised"]),
            f"{100 * r['fast_hit_ratio']:.1f} %", *(short(r[k]) for k in ("evictions", "migrations", "requests_per_s")),
        )  # fmt: skip
    console.print(rows)
    for r in d["policies"]:
        if "of" in r:
            whose = "a clairvoyant variant" if r["of"] == "oracle" else r["of"]
            console.print(Text(f"oracle: the best of all, here {whose}", style="dim"))
    if any(r["saturated"] for r in d["policies"]):
        console.print(Text("!: its own traffic keeps a device busy; the latency grows with the trace", style="yellow"))
    if "page" in d:
        console.print(Text(f"wrote {d['page']}; open it in a browser", style="dim"))


@command(app, "place", _show)
def place(
    source: Annotated[str, typer.Argument(metavar="TRACE", help=TRACES)],
    devices: Devices = "performance",
    policy: Annotated[list[str] | None, Option(
        "--policy", "-p", help="all, or a policy's name; repeatable.")] = None,
    fast: Annotated[float, Option(
        "--fast", help="Share of the trace's footprint that the fastest tier holds.")] = 0.10,
    seed: Annotated[int, Option("--seed", min=0, help="Of initial weights and random choices.")] = 0,
    option: TraceOption = None,
    scale: Annotated[str, Option(
        "--time-scale", help="Factor on the trace's inter-arrival times; auto: as little as the slowest tier alone "
        "needs to keep up.")] = "auto",
    load: Annotated[float, Option(
        "--speed", min=0.001, help="Replay so many times as fast as that: 4 is four times the load.")] = 1.0,
    mechanisms: Annotated[str, Option(
        "--mechanisms", help="own: each policy's own; full: extent eviction, backlog gating and idle reserve for all; "
        "plain: for none.")] = "own",
    real: Annotated[str | None, Option(
        "--real", metavar="TIERS", help="Replay on real directories instead, such as "
        "fast=/dev/shm/t,slow=DIR?delay=2ms; files are made there and deleted again.")] = None,
    save: Annotated[Path | None, Option(
        "--save", help="Write the agent after the replay (one learning policy).")] = None,
    agent: Annotated[Path | None, Option(
        "--load", metavar="FILE", help="Go on with an agent that --save wrote.")] = None,
    output: Page = None,
    skip_bad: SkipBad = 0,
    requests: Requests = None,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Replay a block trace on simulated tiers under placement policies, and compare their latencies."""
    from tunewright.agents.placement import comparison
    from tunewright.agents.placement import policies as P
    from tunewright.agents.placement.agentfile import load_agents, save_agents
    from tunewright.agents.placement.learning import DESIGNS
    from tunewright.envs.storage.hybrid.devices import load_devices
    from tunewright.errors import ConfigError, unknown
    from tunewright.knowledge.blocktrace import paged
    from tunewright.knowledge.synthetic import open_trace
    from tunewright.plugins import parse_options
    from tunewright.store.outputs import check_output

    options, names = parse_options(option), comparison.policies_of(policy or ["all"])
    if mechanisms not in comparison.MECHANISMS:
        raise unknown("set of mechanisms", mechanisms, comparison.MECHANISMS)
    forced = comparison.MECHANISMS[mechanisms]
    if (save or agent) and (len(names) != 1 or names[0] not in DESIGNS):
        raise ConfigError(f"an agent is saved or loaded for one learning policy: --policy {', '.join(DESIGNS)}")
    if real is not None and (save or agent):
        raise ConfigError("--save and --load are for simulated tiers; leave out --real")
    with steps("placing") as tick:
        if real is not None:
            cut = paged(open_trace(source, options, skip_bad=skip_bad, limit=requests))
            return comparison.on_real_tiers(
                cut, real, names, fast=fast, seed=seed, scale=scale, load=load, mechanisms=forced, tick=tick
            )
        tiers = load_devices(devices)
        agents = load_agents(agent, names[0], len(tiers.tiers)) if agent else None
        cut = paged(open_trace(source, options, skip_bad=skip_bad, limit=requests))
        for file in (output, save):
            if file is not None:
                check_output(file)  # before hours of learning
        factor = comparison.time_scale(scale, cut, tiers) / load
        setup = P.Setup(paged=cut, devices=tiers, fast=fast, scale=factor, mechanisms=forced)
        done: dict[str, P.Replay] = {}
        # the floor and the ceiling are always needed; the oracle looks at all
        wanted = list(P.POLICIES) if "oracle" in names else list(dict.fromkeys(["fast-only", "slow-only", *names]))
        for number, name in enumerate(wanted):
            tick(number, len(wanted), name)
            done[name] = P.replay(setup, name, seed=seed, agents=agents if name in DESIGNS else None)
    if "oracle" in done:
        done["oracle"] = P.best_known(list(done.values()))
    if save:
        save_agents(save, done[names[0]].extra["agents"])
    shown = [done[n] for n in names]
    document = comparison.document_of(setup, shown, done, devices=devices, seed=seed, load=load)
    if output is not None:
        comparison.write_page(output, document, setup, shown)
        document["page"] = str(output)
    return document
