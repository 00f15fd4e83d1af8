"""The command ``rules``: lists, shows, merges, retires and rolls back rules learned from sessions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.errors import ConfigError, TunewrightError
from tunewright.knowledge.rulefiles import RuleBook, entry_of
from tunewright.knowledge.rules import Rule, from_session
from tunewright.store.export import export
from tunewright.store.paths import home
from tunewright.store.store import Store

if TYPE_CHECKING:
    from rich.console import Console


def listing(folder: Path, *, system: str = "", retired: bool = False) -> list[dict[str, Any]]:
    """Return the rules of a folder, the strongest first."""
    book = RuleBook(_there(folder))
    found = [r for r in book.rules if (retired or r.status != "retired") and (not system or r.system == system)]
    return [entry_of(r) for r in sorted(found, key=lambda r: (r.system, -r.pooled[0], r.id))]


def one(folder: Path, name: str) -> dict[str, Any]:
    """Return one rule."""
    return entry_of(RuleBook(_there(folder)).find(name))


def merge(
    folder: Path, sources: list[str], *, store: str | None = None, manual: str = "", model: str = "", base_url: str = ""
) -> dict[str, Any]:
    """Add what sessions or other folders say; returns what was done.

    Raises:
        ConfigError: a source is neither a session nor a folder of rules.
    """
    book, quotes = RuleBook(folder), _quotes(manual)
    done: list[str] = []
    for source in sources:
        if any(Path(source).glob("*.toml")):
            done += book.merge(RuleBook(Path(source)).rules, source)
            continue
        opened = Store(store)
        try:
            document = export(opened, source)
        except TunewrightError as error:
            if Path(source).is_dir():
                raise ConfigError(f"the folder {source} holds no rules (files *.toml), and {error}") from None
            raise
        finally:
            opened.close()
        found = from_session(document, _about(document), quotes)
        if not found:
            done.append(
                f"{source}: no two of its trials differ in one parameter by more than the noise; "
                "'tunewright tune --explain' measures such pairs"
            )
        elif model:
            found, said = _worded(found, document, model, base_url)
            done += said
        done += book.merge(found, source)
    return {"done": done, "rules": len(book.rules), "folder": str(folder)}


def retire(folder: Path, name: str, reason: str) -> dict[str, Any]:
    """Take a rule out of use."""
    rule = RuleBook(_there(folder)).retire(name, reason)
    return {"done": [f"{rule.id}: retired: {rule.reason}"], "folder": str(folder)}


def rollback(folder: Path) -> dict[str, Any]:
    """Undo the last change."""
    return {"done": [f"undone: {RuleBook(_there(folder)).rollback()}"], "folder": str(folder)}


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder of rules {folder}; name one with --rules, or make one with 'rules merge'"
        )
    return folder


def _about(document: dict[str, Any]) -> str:
    """Return a session's workload in words: its name, what it does, and what an analyst saw in its trace."""
    notes = document.get("notes") or {}
    return f"{document['plan']['workload']}: {document.get('about', '')} {notes.get('analysis', '')}"


def _quotes(manual: str) -> dict[str, str]:
    if not manual:
        return {}
    from tunewright.knowledge.reading import read

    docs, _, _ = read([p.strip() for p in manual.split(",")])
    return {d.name: d.effect or d.definition for d in docs if d.effect or d.definition}


def _worded(rules: list[Rule], document: dict[str, Any], model: str, base_url: str) -> tuple[list[Rule], list[str]]:
    from tunewright.agents.llm.client import Ledger, open_model
    from tunewright.agents.llm.reflector import reflect

    names = [document["name"], document["plan"]["workload"]]
    log = home() / "logs" / f"{document['name']}.reflector.jsonl"
    return reflect(open_model(model, base_url), Ledger(log=log), rules, names)


def show_list(console: Console, rules: list[dict[str, Any]], folder: Path) -> None:
    """Print rules as a table."""
    from rich.table import Table
    from rich.text import Text

    if not rules:
        console.print(f"no rules in {folder} yet; make some with: tunewright rules merge SESSION", markup=False)
        return
    for system in dict.fromkeys(r["system"] for r in rules):
        console.print(Text(f"\n{system}", style="bold"))
        table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
        table.add_column("rule", overflow="fold", ratio=9)
        table.add_column("effect", justify="right", no_wrap=True)
        table.add_column("pairs", justify="right", no_wrap=True)
        table.add_column("what it says", overflow="fold", ratio=12)
        for rule in (r for r in rules if r["system"] == system):
            said = Text(rule.get("words") or f"{rule['parameter']} = {rule['value']}, not {rule['instead_of']}")
            said.append(f"  {', '.join(rule['context'])}", style="dim")
            if rule["status"] != "active":
                said.append(f"  {rule['status']}: {rule.get('reason', '')}", style="yellow")
            table.add_row(rule["id"], f"{rule['effect']:.2f}×", str(len(rule["evidence"])), said)
        console.print(table)


def show_one(console: Console, rule: dict[str, Any]) -> None:
    """Print one rule with its evidence."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(rule["sentence"], style="bold"))
    console.print(Text(f"{rule['status']}{': ' + rule['reason'] if rule.get('reason') else ''}"))
    console.print(
        Text(f"{rule['effect']:.3f}× ({rule['low']:.3f} to {rule['high']:.3f}) for {', '.join(rule['context'])}")
    )
    if rule.get("quote"):
        console.print(Text(f"the manual: “{rule['quote']}”", style="dim"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("session", "better trial", "worse trial", "effect", "noise", "runs", "date"):
        table.add_column(column, justify="left" if column in ("session", "date") else "right")
    for e in rule["evidence"]:
        noise = f"{100 * e['noise']:.1f} %"
        table.add_row(
            e["session"], str(e["better"]), str(e["worse"]), f"{e['effect']:.3f}×", noise, str(e["runs"]), e["date"]
        )
    console.print(table)


def show_done(console: Console, document: dict[str, Any], folder: Path) -> None:
    """Print what was done."""
    for line in document["done"] or ["nothing new"]:
        console.print(line, markup=False, soft_wrap=True)
    console.print(
        f"rules are in {folder}; undo with: tunewright rules rollback --rules {folder}", markup=False, style="dim"
    )
