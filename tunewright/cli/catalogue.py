"""What can be tuned and by whom: ``targets``, ``tuners``, ``init``, ``check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from tunewright.cli.options import Json, TargetOption, command, say

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer()


def _show_rows(screen: Console, rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    from tunewright.cli.terminal import table

    listed = table("name", "ready", "what it is")
    for row in rows:
        ready = Text("yes", style="green") if row["available"] else Text(str(row["install"]), style="yellow")
        listed.add_row(Text(row["name"], style="bold"), ready, Text(row["description"]))
    screen.print(listed)


@command(app, "targets", _show_rows)
def targets(as_json: Json = False) -> list[dict[str, Any]]:
    """List what can be tuned here."""
    from tunewright.cli.display import catalogue
    from tunewright.plugins import TARGETS

    return catalogue(TARGETS)


@command(app, "tuners", _show_rows)
def tuners(as_json: Json = False) -> list[dict[str, Any]]:
    """List the tuners."""
    from tunewright.cli.display import catalogue
    from tunewright.plugins import TUNERS

    what = "The best one installed that suits the space: gp or tpe."
    return [{"name": "auto", "available": True, "install": "", "description": what}, *catalogue(TUNERS)]


def _show_begun(screen: Console, document: dict[str, Any]) -> None:
    file = document["file"]
    screen.print(f"wrote {file}. Edit it, then: tunewright check {file} && tunewright tune {file}", markup=False)


@command(app, "init", _show_begun)
def init(
    file: Annotated[Path, typer.Argument(help="TOML file to write.")],
    service: Annotated[bool, Option("--service", help="For a server: started, put under load, stopped.")] = False,
    force: Annotated[bool, Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Json = False,
) -> dict[str, Any]:
    """Write a commented TOML file for tuning your own program or server; it works as it is."""
    from importlib import resources

    from tunewright.errors import ConfigError
    from tunewright.store.outputs import write_text

    if file.exists() and not force:
        raise ConfigError(f"{file} exists already; name another file, or add --force to overwrite it")
    if file.suffix != ".toml":
        raise ConfigError(f"{file} must end in .toml, so that 'tunewright tune {file}' knows what it is")
    starter = resources.files("tunewright.cli").joinpath("starter_service.toml" if service else "starter.toml")
    write_text(file, starter.read_text(encoding="utf-8"))
    return {"file": str(file)}


def _show_check(screen: Console, document: dict[str, Any]) -> None:
    from tunewright.cli.display import show_check

    show_check(screen, document)


@command(app, "check", _show_check)
def check(
    target: Annotated[str, typer.Argument(help="A target, usually your TOML file.")],
    workload: Annotated[str, Option("--workload", "-w", help="Workload; default: the target's first.")] = "",
    option: TargetOption = None,
    runs: Annotated[int, Option("--runs", min=2, help="How often to measure the default.")] = 2,
    limit: Annotated[float, Option("--limit", min=0.01, metavar="SECONDS", help="Hard limit of one run.")] = 600.0,
    as_json: Json = False,
) -> dict[str, Any]:
    """Measure the default configuration twice and report the noise: does the target work, and can gains be seen?"""
    from tunewright.plugins import open_target, parse_options
    from tunewright.sessions.service import check_target

    options = parse_options(option)
    opened = open_target(target, options)
    return check_target(opened, spec=target, options=options, workload=workload, runs=runs, limit_s=limit, say=say)
