"""Commands that look at stored sessions: ``list``, ``show``, ``export``, ``report``, ``dashboard``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from tunewright.cli.options import Json, SessionName, StoreUrl, TargetOption, command, console, document_text, emit, out

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.store.store import Store

app = typer.Typer()


@contextmanager
def reading(url: str | None) -> Iterator[Store]:
    """Open a store for as long as a command reads it."""
    from tunewright.store.store import Store

    store = Store(url)
    try:
        yield store
    finally:
        store.close()


@app.command("list")
def list_sessions(store: StoreUrl = None, as_json: Json = False) -> None:
    """List the sessions of a store."""
    from tunewright.store.export import overview

    with reading(store) as opened:
        rows = [overview(opened, name) for name in opened.names()]
    if as_json:
        emit(rows)
        return
    from tunewright.cli.display import show_sessions

    if not rows:
        out().print(f"no sessions yet in {opened.public_url}; start one with: tunewright tune sqlite", markup=False)
    else:
        show_sessions(out(), rows)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A session's or a target's name.")],
    option: TargetOption = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Show a session (trials, verdict, best configuration) or a target (parameters, metrics, workloads)."""
    from tunewright.cli import display
    from tunewright.plugins import TARGETS, installed, load, open_target, parse_options, split_spec

    point = installed(TARGETS).get(split_spec(name)[0])
    if point is not None:
        what = display.description(load(point, "target"))
        document = display.target_document(open_target(name, parse_options(option)), what)
        emit(document) if as_json else display.show_target(out(), document)
        return
    from tunewright.store.export import export

    with reading(store) as opened:
        document = export(opened, name)
    emit(document) if as_json else display.show_session(out(), document)


@app.command("export")
def export(
    name: SessionName,
    output: Annotated[Path | None, Option(
        "--output", "-o", help="File to write; default: standard output.")] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Write everything needed to repeat a session as JSON: versions, seeds, machine facts, all trials."""
    from tunewright.store.export import export as build
    from tunewright.store.outputs import write_text

    with reading(store) as opened:
        document = build(opened, name)
    if output is None:
        emit(document)
        return
    write_text(output, document_text(document) + "\n")
    if as_json:
        emit({"name": name, "file": str(output), "trials": len(document["trials"])})
    else:
        out().print(f"wrote {output}", markup=False)


def _show_page(screen: Console, document: dict[str, Any]) -> None:
    screen.print(f"wrote {document['file']}; open it in a browser", markup=False)


@command(app, "report", _show_page)
def report(
    name: SessionName,
    output: Annotated[Path | None, Option("--output", "-o", help="HTML file to write; default: NAME.html.")] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> dict[str, Any]:
    """Write one self-contained HTML file: verdict, best configuration, history, importance, failures, noise."""
    from tunewright.report.report import write_report
    from tunewright.store.export import export as build

    with reading(store) as opened:
        document = build(opened, name)
        path = output or Path(f"{name}.html")
        write_report(document, path)
    return {"name": name, "file": str(path), "bytes": path.stat().st_size}


@app.command("dashboard")
def dashboard(
    store: StoreUrl = None,
    port: Annotated[int | None, Option(
        "--port", min=0, max=65535, help="Default: 8080, or the next free one; 0 for any.")] = None,
    host: Annotated[str, Option(
        "--host",
        help="Address to listen at. Whoever reaches it sees all sessions, without a password.")] = "127.0.0.1",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Look at all sessions in the browser (optuna-dashboard), with verdicts, reasons and costs; Ctrl-C ends it."""
    from tunewright.report.dashboard import only_here, serve
    from tunewright.store.dsn import read_dsn
    from tunewright.store.paths import default_url
    from tunewright.store.store import Store

    with serve(Store(store), host, port) as server:
        url = f"http://{host}:{server.server_port}/dashboard/"
        if not only_here(host):
            console().print(
                f"warning: {host} can be reached from other machines, and the dashboard asks nobody for a password",
                style="yellow", markup=False,
            )  # fmt: skip
        if as_json:
            emit({"url": url})
        else:
            shown = read_dsn(store or default_url()).public
            out().print(f"sessions of {shown}: {url}   (Ctrl-C ends it)", markup=False)
        sys.stdout.flush()
        server.serve_forever()
