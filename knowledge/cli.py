"""The command ``tunewright trace``, and the options of all commands that read a trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from tunewright.cli.options import Json, command

if TYPE_CHECKING:
    from rich.console import Console

TRACES = (
    "A block trace (MSR Cambridge, blkparse, DiskSim/MQSim, CSV; plain, gzip, zstd), or synthetic:KIND (zipf, "
    "sequential, mixed, bursts, phases, ycsb, checkpoint, tenants)."
)
TraceOption = Annotated[list[str] | None, Option(
    "--option", "-O", metavar="KEY=VALUE", help="Parameter of a synthetic workload, such as skew=1.1; repeatable."
)]  # fmt: skip
SkipBad = Annotated[int, Option(
    "--skip-bad", min=0, metavar="N", help="Tolerate N bad lines in a trace; they are counted."
)]  # fmt: skip
Requests = Annotated[int | None, Option("--requests", min=1, metavar="N", help="Use the first N requests only.")]
Page = Annotated[Path | None, Option("--output", "-o", help="HTML page with plots to write.")]

app = typer.Typer()


def _show_observations(console: Console, m: dict[str, Any]) -> None:
    from rich.text import Text

    from tunewright.cli.terminal import table

    console.print(Text(f"{m['source']} ({m['kind']})", style="bold"))
    for fact in m["facts"]:
        console.print(Text(f"• {fact}"))
    rows = table()
    for name, value in m["features"].items():
        shown = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
        rows.add_row(Text(name, style="dim"), Text(f"{shown} {m['units'].get(name, '')}".strip()))
    console.print(rows)
    for name in m["missing"]:
        console.print(Text(f"- {name}", style="dim"))


def _show(console: Console, m: dict[str, Any]) -> None:
    if "kind" in m:
        _show_observations(console, m)
        return
    from rich.text import Text

    from tunewright.cli.terminal import table

    rows = table()
    rows.add_column(style="dim")
    rows.add_column()

    def row(name: str, value: str) -> None:
        rows.add_row(name, Text(value))

    rate = f", {m['requests_per_s']:,.4g} a second" if m["requests_per_s"] else ""
    row("requests", f"{m['requests']:,} in {m['duration_s']:,.4g} s{rate}; {100 * m['read_ratio']:.1f} % reads")
    row(
        "footprint",
        f"{m['footprint_pages']:,} pages, {m['footprint_bytes'] / 2**20:,.4g} MiB;"
        f" {100 * m['touched_once']:.0f} % touched once",
    )
    s = m["size_bytes"]
    row(
        "size",
        f"mean {s['mean'] / 1024:,.4g} KiB, median {s['p50'] / 1024:,.4g}, 99th percentile {s['p99'] / 1024:,.4g}",
    )
    row(
        "sequential",
        f"{100 * m['sequential']:.1f} % after the one before,"
        f" {100 * m['sequential_16_streams']:.1f} % after one of sixteen",
    )
    row("hot share", ", ".join(f"{p} of pages: {100 * v:.0f} % of touches" for p, v in m["hot_share"].items()))
    d = m["reuse"]["distance_pages"]
    spread = f"; distance median {d['p50']:,.0f} pages, 90th percentile {d['p90']:,.0f}" if d else ""
    row("reuse", f"{100 * (1 - m['reuse']['first_touches']):.1f} % of page touches{spread}")
    g = m["interarrival_us"]
    row(
        "gaps",
        f"mean {g['mean']:,.4g} us, median {g['p50']:,.4g}, 99th percentile {g['p99']:,.4g}, variation {g['cv']:.2f}",
    )
    source = m["info"]
    made = ", ".join(f"{k}={v}" for k, v in source.items() if k not in ("file",))
    row("source", made)
    console.print(Text(f"trace {m['trace']}", style="bold"))
    console.print(rows)
    for fact in m["facts"]:
        console.print(Text(f"• {fact}"))
    if "page" in m:
        console.print(Text(f"wrote {m['page']}; open it in a browser", style="dim"))


@command(app, "trace", _show)
def trace(
    source: Annotated[str, typer.Argument(metavar="TRACE", help=TRACES)],
    option: TraceOption = None,
    output: Page = None,
    skip_bad: SkipBad = 0,
    requests: Requests = None,
    as_json: Json = False,
) -> dict[str, Any]:
    """Summarise a block trace: mix, sizes, sequentiality, reuse, bursts, hot pages, and what it means for placement."""
    from tunewright.errors import ConfigError
    from tunewright.knowledge.blocktrace import paged
    from tunewright.knowledge.logs import observe
    from tunewright.knowledge.synthetic import open_trace
    from tunewright.knowledge.tracestats import facts, measure, write_page
    from tunewright.plugins import parse_options
    from tunewright.store.outputs import check_output

    options = parse_options(option)
    if not source.startswith("synthetic:") and Path(source).is_file():
        seen = observe(Path(source))
        if seen is not None:
            if output is not None:
                raise ConfigError(f"plots are drawn for block traces only; {source} is of kind {seen.kind}")
            return seen.document()
    cut = paged(open_trace(source, options, skip_bad=skip_bad, limit=requests))
    if output is not None:
        check_output(output)
    document = measure(cut)
    document["facts"] = facts(document)
    if output is not None:
        write_page(cut, document, output)
        document["page"] = str(output)
    return document
