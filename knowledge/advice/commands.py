"""The command ``tunewright advise``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from tunewright.cli.options import Json, command
from tunewright.errors import ConfigError, unknown

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.knowledge.advice.servers import Server

app = typer.Typer()
_DISKS = {
    0: "SSD", 1: "disk with moving parts, says the kernel (else --disk ssd)", -1: "disk of unknown kind (give --disk)",
}  # fmt: skip


def _show(screen: Console, document: dict[str, Any]) -> None:
    from rich.text import Text

    from tunewright.cli.terminal import table
    from tunewright.space.amounts import size

    if "as" in document:
        if document["file"] is None:
            screen.print(document["text"], end="", markup=False, soft_wrap=True)
        else:
            screen.print(f"wrote {document['file']}; nothing in service was changed", markup=False)
        return
    facts = document["facts"]
    disk = _DISKS[facts["rotational"]]
    version = f" {facts['version']}" if facts["version"] else ""
    screen.print(Text.assemble(
        ("advice, not measured: ", "bold yellow"), (f"{document['system']}{version}", "bold cyan"),
        f" · {size(facts['memory_bytes'])} of memory · {facts['cores']} cores · {disk} · load {document['load']}"
        f" · {facts['clients']} clients",
    ))  # fmt: skip
    for text in document["notes"]:
        screen.print(Text(text, style="dim"))
    rows = table("setting", "now", "advised", "", "why")
    for entry in document["settings"]:
        if entry["same"]:
            continue
        now = entry["now"] or f"({entry['default']})"
        rows.add_row(
            Text(entry["name"], style="bold"), Text(now), Text(entry["value"], style="cyan"),
            Text("restart" if entry["restart"] else ""), Text(entry["because"]),
        )  # fmt: skip
    if rows.row_count:
        screen.print(rows)
    else:
        screen.print("What is set now is as advised.", markup=False)
    for entry in document["dangers"]:
        screen.print(Text(f"danger: {entry['name']} = {entry['value']}: {entry['because']}", style="red"))
    for entry in document["kernel"]:
        screen.print(Text(f"of the machine: {entry['name']} = {entry['value']}: {entry['because']}"))
    screen.print(Text(
        f"\nWhether this helps your load, only measuring tells: {document['tune']}. Sources: --json.", style="dim"
    ))  # fmt: skip


@command(app, "advise", _show)
def advise(
    system: Annotated[str, typer.Argument(help="postgres, mariadb or redis.")],
    dsn: Annotated[str | None, Option(
        "--dsn", metavar="ADDRESS", help="Ask this server what is set now: 'host=... user=...' or postgresql://..., "
        "mariadb://USER@HOST, redis://HOST, unix:///PATH.")] = None,
    config: Annotated[Path | None, Option(
        "--config", metavar="FILE", help="Or read it from postgresql.conf, my.cnf or redis.conf.")] = None,
    load: Annotated[str, Option("--load", help="oltp, analytics, mixed, or cache (Redis as a cache).")] = "oltp",
    clients: Annotated[int, Option("--clients", min=1, help="Clients that work at the same time.")] = 20,
    memory: Annotated[float | None, Option(
        "--memory", min=0.1, metavar="GIB", help="Memory for the server; default: this machine's.")] = None,
    cores: Annotated[int | None, Option("--cores", min=1, help="Its cores; default: this machine's.")] = None,
    disk: Annotated[str | None, Option("--disk", help="ssd or hdd; default: what holds its data here.")] = None,
    version: Annotated[str | None, Option("--version", help="Of the server; default: as asked or installed.")] = None,
    form: Annotated[str | None, Option(
        "--as", metavar="FORM", help="Print it as conf.d, sql, ansible, or diff (of --config).")] = None,
    output: Annotated[Path | None, Option(
        "--output", "-o", help="With --as: write it to this file, which must not exist yet.")] = None,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Advise settings for a database server, with reasons, in a second and without measuring anything.

    Rules from the systems' manuals, for the memory, cores and disk of this machine: tunewright advise postgres
    What is set now is shown beside them with --dsn or --config. It is advice: 'tunewright tune' measures.
    """
    from tunewright.knowledge.advice.advising import SYSTEMS, rules
    from tunewright.knowledge.advice.advising import advise as advised
    from tunewright.knowledge.advice.servers import Server, configured, live

    if system not in SYSTEMS:
        raise unknown("system to advise on", system, SYSTEMS)
    if form is not None:
        from tunewright.knowledge.advice.written import FORMS, written

        if form not in FORMS:
            raise unknown("form", form, FORMS)
    if output is not None and form is None:
        raise ConfigError("-o is for a form: add --as conf.d, sql, ansible or diff")
    if dsn is not None and config is not None:
        raise ConfigError("give --dsn or --config, not both: each says what is set now")
    if output is not None:
        from tunewright.store.outputs import check_new, write_text

        check_new(output)
    server = live(system, dsn) if dsn else configured(system, config) if config else Server()
    if not server.here and (memory is None or cores is None):
        raise ConfigError("the server is on another machine, whose facts are not known here: give --memory and --cores")
    facts = _facts(system, server, memory, cores, disk, version)
    numbers = {
        "RAM_BYTES": facts["memory_bytes"], "CPU_COUNT": facts["cores"], "ROTATIONAL": facts["rotational"],
        "CLIENTS": clients, "VERSION": facts["number"] or float(rules(system)["version"]),
        "FRAGMENTATION": server.fragmentation,
    }  # fmt: skip
    advice = advised(system, numbers, load, server.now)
    if form is not None:
        text = written(system, advice, form, config)
        if output is not None:
            write_text(output, text)
        return {
            "system": advice.system, "measured": False, "as": form, "text": text,
            "file": None if output is None else str(output),
        }  # fmt: skip
    shown = {k: v for k, v in facts.items() if k != "number"}
    return {
        "system": advice.system, "measured": False, "load": load, "facts": {**shown, "clients": clients},
        "notes": _notes(server, dsn, config), "settings": [asdict(s) for s in advice.settings],
        "dangers": [asdict(w) for w in advice.dangers], "kernel": [asdict(w) for w in advice.kernel],
        "tune": advice.tune,
    }  # fmt: skip


def _facts(
    system: str, server: Server, memory: float | None, cores: int | None, disk: str | None, version: str | None
) -> dict[str, Any]:
    """Return the facts of the server's machine: what was given, else what is found here."""
    from tunewright.knowledge.advice.servers import (
        data_folder,
        installed_version,
        memory_bytes,
        rotational,
        version_number,
    )
    from tunewright.space.facts import machine_facts

    if disk not in (None, "ssd", "hdd"):
        raise ConfigError(f"--disk is ssd or hdd, not {disk!r}")
    number = version_number(version) if version else server.version or (installed_version(system) if server.here else 0)
    turns = {"ssd": 0, "hdd": 1}.get(disk or "", -1)
    if disk is None and server.here:
        turns = rotational(data_folder(system, server))
    return {
        "memory_bytes": int(memory * 2**30) if memory else memory_bytes(),
        "cores": cores or int(machine_facts()["CPU_COUNT"]),
        "rotational": turns,
        "version": version or (f"{int(number)}.{round(100 * (number % 1))}" if number else ""),
        "number": number,
    }


def _notes(server: Server, dsn: str | None, config: Path | None) -> list[str]:
    if dsn:
        return [] if server.here else ["The server is on another machine; memory and cores are as you gave them."]
    if config:
        return [f"What is set now is what {config} says; files that it includes were not read."]
    return ["What is set now was not looked at (--dsn or --config); in brackets stands the system's default."]
