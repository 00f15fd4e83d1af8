"""The commands ``tunewright read`` and ``tunewright rules``: from manuals and sessions to parameters and rules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from tunewright.cli.options import BaseUrl, Json, ModelName, StoreUrl, command, emit, listed, out, steps

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.knowledge.rulefiles import RuleBook
    from tunewright.knowledge.rules import Rule

reading = typer.Typer()
rules = typer.Typer(
    help="Rules learned from sessions: text files in a folder, which 'tune --rules FOLDER' uses.", no_args_is_help=True
)
Folder = Annotated[Path, Option(
    "--rules", "-r", metavar="FOLDER", help="The folder; it can be kept in git.", envvar="TUNEWRIGHT_RULES"
)]  # fmt: skip
_RULES = Path("rules")


def _show_reading(console: Console, document: dict[str, Any]) -> None:
    """Print passages if a question was asked, else the parameters by importance."""
    from rich.table import Table
    from rich.text import Text

    from tunewright.knowledge.sections import bare

    if "passages" in document:
        for passage in document["passages"]:
            console.print(Text(f"{' › '.join(passage['path'])}  ({passage['source']})", style="bold"))
            console.print(Text(bare(passage["text"])[:700]), soft_wrap=False)
            console.print()
        if not document["passages"]:
            console.print("no passage shares a word with the question")
        return
    rows = sorted(document["parameters"], key=lambda p: -p["importance"])
    known = sum(p["default"] is not None for p in rows)
    console.print(
        Text(f"{document['system']}: {len(rows)} parameters in {document['sections']} sections, {known} with a"
             f" default, {len(document['tunable'])} described well enough to be tuned")
    )  # fmt: skip
    table = Table(box=None, pad_edge=False, header_style="dim", expand=console.is_terminal)
    for column, ratio in (("parameter", 8), ("type", 2), ("default", 3), ("range", 4), ("what it is", 11)):
        last = column == "what it is"
        table.add_column(column, overflow="ellipsis" if last else "fold", no_wrap=last, ratio=ratio)
    for p in rows[:25]:
        unit = f" {p['unit']}" if p["unit"] else ""
        table.add_row(
            p["name"], p["type"], Text("" if p["default"] is None else f"{p['default']}{unit}"),
            Text(_span(p["range"])), Text(bare(p["definition"])),
        )  # fmt: skip
    console.print(table)
    if len(rows) > 25:
        console.print(Text(f"… and {len(rows) - 25} more", style="dim"))
    if document["dropped"]:
        console.print(
            Text(f"{len(document['dropped'])} claims were dropped: their quotes are not in the text", style="dim")
        )
    ended = next((d for d in document["dropped"] if d.startswith("the reading ended")), "")
    if ended:
        console.print(Text(ended, style="yellow"))
    if "file" in document:
        console.print(Text(f"written: {document['file']}"))


def _span(limits: dict[str, Any] | None) -> str:
    if not limits:
        return ""
    if limits.get("options"):
        return ", ".join(map(str, limits["options"]))
    low, high = limits.get("low"), limits.get("high")
    return f"{'' if low is None else low} to {'' if high is None else high}"


@command(reading, "read", _show_reading)
def read(
    manuals: Annotated[list[str], Argument(
        metavar="MANUAL...", help="Files or folders (Markdown, HTML, reStructuredText, PDF, man pages, settings with "
        "comments), pg_settings as CSV, the text of 'gluster volume set help', or postgresql://HOST/DB.")],
    system: Annotated[str, Option(
        "--system", "-s", help="Name of the system; default: from the first file.")] = "",
    output: Annotated[Path | None, Option("--output", "-o", help="File of parameters to write (JSON).")] = None,
    model: ModelName = None,
    base_url: BaseUrl = None,
    names: Annotated[str, Option(
        "--names", metavar="NAME,...", help="With --model: the parameters to read; default: those that are not fully "
        "described, up to --most.")] = "",
    most: Annotated[int, Option(
        "--most", min=1, help="With --model: most parameters to read, by importance.")] = 40,
    ask: Annotated[str, Option(
        "--ask", metavar="QUESTION", help="Show the passages that fit a question best.")] = "",
    embeddings: Annotated[str | None, Option(
        "--embeddings", metavar="NAME", help="With --ask: a model of the endpoint, to search by meaning too.")] = None,
    count: Annotated[int, Option("--count", min=1, help="How many passages.")] = 5,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Read manuals: parameters with type, unit, default, range and effect, each claim with its quote.

    Structure and common phrases are read without a model; prose needs one (--model).
    """
    from tunewright.errors import SpaceError
    from tunewright.knowledge.parameters import save, to_json, to_space
    from tunewright.knowledge.reading import nothing_found, read_prose
    from tunewright.knowledge.reading import read as read_manuals
    from tunewright.store.outputs import check_output

    asked, meanings = None, None
    if model:
        from tunewright.agents.llm.extractor import reader

        asked = reader(model, base_url or "")
    if embeddings:
        from tunewright.agents.llm.client import open_embeddings

        meanings = open_embeddings(embeddings, base_url or "")
    with steps("reading") as tick:
        docs, sections, dropped = read_manuals(manuals, tick)
        if output is not None:
            check_output(output)
        if asked is not None:
            docs, more = read_prose(docs, sections, asked, listed(names), most, tick)
            dropped += more
        if not docs and not ask:
            raise nothing_found(manuals)
        name = system or Path(manuals[0]).stem
        if output is not None:
            save(output, name, docs)
        document: dict[str, Any] = {
            "system": name, "sections": len(sections), "parameters": [to_json(d) for d in docs], "dropped": dropped,
        }  # fmt: skip
        if asked is not None:
            document["spent"] = asked.spent()
        try:
            document["tunable"] = list(to_space(docs)[0].params)
        except SpaceError:
            document["tunable"] = []
        if output is not None:
            document["file"] = str(output)
        if ask:
            from tunewright.knowledge.retrieval import Index
            from tunewright.knowledge.sections import chunks

            passages = Index(chunks(sections), meanings).search(ask, count)
            document["passages"] = [{"path": list(c.path), "text": c.text, "source": c.source} for c in passages]
    return document


def _show_list(console: Console, rules: list[dict[str, Any]], folder: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rules:
        console.print(f"no rules in {folder} yet; make some with: tunewright rules merge SESSION", markup=False)
        return
    for system in dict.fromkeys(r["system"] for r in rules):
        console.print(Text(f"\n{system}", style="bold"))
        table = Table(box=None, pad_edge=False, header_style="dim", expand=console.is_terminal)
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


def _show_rule(console: Console, rule: dict[str, Any]) -> None:
    from rich.text import Text

    from tunewright.cli.terminal import table

    console.print(Text(rule["sentence"], style="bold"))
    console.print(Text(f"{rule['status']}{': ' + rule['reason'] if rule.get('reason') else ''}"))
    console.print(
        Text(f"{rule['effect']:.3f}× ({rule['low']:.3f} to {rule['high']:.3f}) for {', '.join(rule['context'])}")
    )
    if rule.get("quote"):
        console.print(Text(f"the manual: “{rule['quote']}”", style="dim"))
    numbers = ("better trial", "worse trial", "effect", "noise", "runs")
    trials = table("session", *numbers, "date", numbers=numbers)
    for e in rule["evidence"]:
        noise = f"{100 * e['noise']:.1f} %"
        trials.add_row(
            e["session"], str(e["better"]), str(e["worse"]), f"{e['effect']:.3f}×", noise, str(e["runs"]), e["date"]
        )
    console.print(trials)


def _show_done(console: Console, document: dict[str, Any]) -> None:
    for line in document["done"] or ["nothing new"]:
        console.print(line, markup=False, soft_wrap=True)
    folder = document["folder"]
    console.print(
        f"rules are in {folder}; undo with: tunewright rules rollback --rules {folder}", markup=False, style="dim"
    )


@rules.command("list")
def list_rules(
    folder: Folder = _RULES,
    system: Annotated[str, Option("--system", "-s", help="Only those of one system.")] = "",
    retired: Annotated[bool, Option("--all", help="Retired ones too.")] = False,
    as_json: Json = False,
) -> None:
    """List the rules of a folder."""
    from tunewright.knowledge.rulefiles import entry_of

    wanted = [
        r for r in _book(folder).rules
        if (retired or r.status != "retired") and (not system or r.system == system)
    ]  # fmt: skip
    entries = [entry_of(r) for r in sorted(wanted, key=lambda r: (r.system, -r.pooled[0], r.id))]
    emit(entries) if as_json else _show_list(out(), entries, folder)


@command(rules, "show", _show_rule)
def show_rule(
    name: Annotated[str, Argument(help="A rule's name; see 'tunewright rules list'.")],
    folder: Folder = _RULES,
    as_json: Json = False,
) -> dict[str, Any]:
    """Show a rule: what it says, where it holds, and the trials that it rests on."""
    from tunewright.knowledge.rulefiles import entry_of

    return entry_of(_book(folder).find(name))


@command(rules, "merge", _show_done)
def merge(
    sources: Annotated[list[str], Argument(metavar="SOURCE...", help="Sessions, or folders of rules.")],
    folder: Folder = _RULES,
    manual: Annotated[str | None, Option(
        "--manual", metavar="PATH,...", help="Manuals, for a quote in each rule.")] = None,
    model: ModelName = None,
    base_url: BaseUrl = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Add what sessions show about single parameters, or another folder's rules. A model, if given, words them."""
    from tunewright.knowledge.rulefiles import RuleBook
    from tunewright.knowledge.rules import from_session

    book, quotes = RuleBook(folder), _quotes(manual)
    done: list[str] = []
    for source in sources:
        if any(Path(source).glob("*.toml")):
            done += book.merge(RuleBook(Path(source)).rules, source)
            continue
        session = _exported(source, store)
        learned = from_session(session, _about(session), quotes)
        if not learned:
            done.append(
                f"{source}: no two of its trials differ in one parameter by more than the noise; "
                "'tunewright tune --explain' measures such pairs"
            )
        elif model:
            learned, said = _worded(learned, session, model, base_url or "")
            done += said
        done += book.merge(learned, source)
    return {"done": done, "rules": len(book.rules), "folder": str(folder)}


@command(rules, "retire", _show_done)
def retire(
    name: Annotated[str, Argument(help="A rule's name.")],
    reason: Annotated[str, Option("--reason", help="Why; it is kept in the file.")] = "",
    folder: Folder = _RULES,
    as_json: Json = False,
) -> dict[str, Any]:
    """Take a rule out of use; it stays in its file."""
    rule = _book(folder).retire(name, reason)
    return {"done": [f"{rule.id}: retired: {rule.reason}"], "folder": str(folder)}


@command(rules, "rollback", _show_done)
def rollback(folder: Folder = _RULES, as_json: Json = False) -> dict[str, Any]:
    """Undo the last change of a folder."""
    return {"done": [f"undone: {_book(folder).rollback()}"], "folder": str(folder)}


def _book(folder: Path) -> RuleBook:
    """Open a folder of rules that is there already.

    Raises:
        ConfigError: it is not.
    """
    from tunewright.errors import ConfigError
    from tunewright.knowledge.rulefiles import RuleBook

    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder of rules {folder}; name one with --rules, or make one with 'rules merge'"
        )
    return RuleBook(folder)


def _exported(source: str, url: str | None) -> dict[str, Any]:
    """Return a stored session as a document.

    Raises:
        ConfigError: a source is neither a session nor a folder of rules.
    """
    from tunewright.errors import ConfigError, TunewrightError
    from tunewright.store.export import export
    from tunewright.store.store import Store

    store = Store(url)
    try:
        return export(store, source)
    except TunewrightError as error:
        if Path(source).is_dir():
            raise ConfigError(f"the folder {source} holds no rules (files *.toml), and {error}") from None
        raise
    finally:
        store.close()


def _about(session: dict[str, Any]) -> str:
    """Return a session's workload in words: its name, what it does, and what an analyst saw in its trace."""
    notes = session.get("notes") or {}
    return f"{session['plan']['workload']}: {session.get('about', '')} {notes.get('analysis', '')}"


def _quotes(manuals: str | None) -> dict[str, str]:
    if not manuals:
        return {}
    from tunewright.knowledge.reading import read as read_manuals

    docs, _, _ = read_manuals([p.strip() for p in manuals.split(",")])
    return {d.name: d.effect or d.definition for d in docs if d.effect or d.definition}


def _worded(learned: list[Rule], session: dict[str, Any], model: str, base_url: str) -> tuple[list[Rule], list[str]]:
    from tunewright.agents.llm.client import Ledger, open_model
    from tunewright.agents.llm.reflector import reflect
    from tunewright.store.paths import home

    names = [session["name"], session["plan"]["workload"]]
    log = home() / "logs" / f"{session['name']}.reflector.jsonl"
    return reflect(open_model(model, base_url), Ledger(log=log), learned, names)
