"""The command ``tunewright recipes``: descriptions of known systems that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from tunewright.cli.options import Json, command, emit, out

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Known systems, ready to be tuned: 'tunewright tune recipe:redis'. They use what the distribution's packages "
    "install, in private copies on free ports; nothing of yours is touched.",
)


def _show(screen: Console, rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    from tunewright.cli.terminal import table

    listed = table("recipe", "ready", "parameters", "what is measured", numbers=("parameters",))
    for row in rows:
        missing = ", ".join(row["missing"])
        ready = Text(f"needs {missing}", style="yellow") if missing else Text("yes", style="green")
        listed.add_row(Text(row["name"], style="bold"), ready, str(len(row["parameters"])), Text(row["about"]))
    screen.print(listed)


@app.callback(invoke_without_command=True)
def recipes(context: typer.Context, as_json: Json = False) -> None:
    """List the recipes, and whether the programs that they need are here."""
    from tunewright.envs.recipes import facts, names

    if context.invoked_subcommand is None:
        rows = [facts(name) for name in names()]
        emit(rows) if as_json else _show(out(), rows)


def _show_copied(screen: Console, document: dict[str, Any]) -> None:
    file = document["file"]
    screen.print(f"wrote {file}. Edit it, then: tunewright check {file} && tunewright tune {file}", markup=False)


@command(app, "copy", _show_copied)
def copy(
    name: Annotated[str, Argument(help="The recipe.")],
    file: Annotated[Path | None, Argument(help="TOML file to write; NAME.toml by default.")] = None,
    force: Annotated[bool, Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Json = False,
) -> dict[str, Any]:
    """Copy a recipe to a file of yours, to change its load or its parameters."""
    from tunewright.envs.recipes import path_of
    from tunewright.errors import ConfigError
    from tunewright.store.outputs import write_text

    recipe, file = path_of(name), file or Path(f"{name}.toml")
    if file.exists() and not force:
        raise ConfigError(f"{file} exists already; name another file, or add --force to overwrite it")
    if file.suffix != ".toml":
        raise ConfigError(f"{file} must end in .toml, so that 'tunewright tune {file}' knows what it is")
    write_text(file, recipe.read_text(encoding="utf-8"))
    return {"file": str(file)}
