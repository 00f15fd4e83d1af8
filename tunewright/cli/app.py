"""The command line. Only this module prints; everything heavy is imported inside the commands."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunewright.cli import commands, comparing, simulating
from tunewright.cli.commands import Json, StoreUrl, TrustFile, console, document_text, emit, out

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.sessions.session import Session
    from tunewright.sessions.verdict import Verdict
    from tunewright.store.store import Store

app = typer.Typer(
    name="tunewright",
    help="Tune a real system, and trust the answer.\n\nStart with: [bold]tunewright tune sqlite[/bold]",
    epilog="A target is a name (see 'tunewright targets'), table:FILE.csv, or the path of a TOML file for your own program.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-O",
        metavar="KEY=VALUE",
        help="Option of the target; repeatable. 'tunewright show TARGET' lists them.",
    ),
]
SecretOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-O",
        metavar="KEY=VALUE",
        help="Option of the target in the place of the stored one, such as a secret, which is not stored; repeatable.",
    ),
]
_GUIDE, _RUN, _LIMITS = "What to try", "How long", "Limits and guarantees"
_MODEL = "Language model"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line: expected errors become one line and an exit code.

    Args:
        argv: its words, without the program's name; None for those of this process.

    Returns:
        The exit code.
    """
    from tunewright.measuring.interrupts import again, interrupt

    hook, handlers = sys.unraisablehook, {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    sys.unraisablehook = again
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:  # nohup's SIGHUP stays ignored
            signal.signal(number, interrupt)
    try:
        return _exit_code(argv)
    finally:  # for a program that goes on
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _exit_code(argv: Sequence[str] | None) -> int:
    from tunewright.errors import TunewrightError

    try:
        app(args=None if argv is None else list(argv), prog_name="tunewright")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except TunewrightError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UnicodeEncodeError as error:  # a word of the command line holds bytes that are no text
        return _fail(f"{error.object[:200]!a} cannot be written as {error.encoding}; rename it")
    except MemoryError:
        return _fail("there is not enough memory for this; ask for less")
    except OSError as error:
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    return 0


def _fail(message: str) -> int:
    from tunewright.report.words import clean
    from tunewright.store.files import one_line
    from tunewright.store.secrets import redact

    print(f"error: {one_line(clean(redact(message)))}", file=sys.stderr)
    return 1


def _say(text: str) -> None:
    console().print(text, style="yellow", markup=False)


def _open_store(url: str | None) -> Store:
    from tunewright.store.store import Store

    return Store(url)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def tune(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="What to tune: a target's name, table:FILE, or a TOML file.")],
    workload: Annotated[str, typer.Option("--workload", "-w", help="Workload of the target; default: its first.", rich_help_panel=_GUIDE)] = "",
    tuner: Annotated[str, typer.Option("--tuner", "-t", help="auto, or one of 'tunewright tuners'.", rich_help_panel=_GUIDE)] = "auto",
    objective: Annotated[list[str] | None, typer.Option("--objective", help="Metric to optimise; repeat it for a Pareto set. For tables: the column.", rich_help_panel=_GUIDE)] = None,
    direction: Annotated[str | None, typer.Option("--direction", help="min or max; for tables only.", rich_help_panel=_GUIDE)] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Fixes data, suggestions and order.", rich_help_panel=_GUIDE)] = 0,
    option: TargetOption = None,
    tuner_option: Annotated[list[str] | None, typer.Option("--tuner-option", "-T", metavar="KEY=VALUE", help="Option of the tuner, such as startup=3.", rich_help_panel=_GUIDE)] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="For --tuner llm or hybrid: the language model.", rich_help_panel=_MODEL)] = None,
    base_url: Annotated[str | None, typer.Option("--base-url", metavar="URL", help="Its OpenAI-compatible endpoint; the key is taken from OPENAI_API_KEY.", rich_help_panel=_MODEL)] = None,
    manual: Annotated[str | None, typer.Option("--manual", metavar="PATH,...", help="Manuals to look into; playbook and hybrid read them without a model.", rich_help_panel=_MODEL)] = None,
    rules: Annotated[str | None, typer.Option("--rules", metavar="FOLDER", help="Rules learned from earlier sessions, for playbook, hybrid and llm; see 'tunewright rules'.", rich_help_panel=_GUIDE)] = None,
    observed: Annotated[str | None, typer.Option("--trace", metavar="FILE", help="A log of the workload, as 'tunewright trace' reads it; likewise.", rich_help_panel=_MODEL)] = None,
    replay: Annotated[str | None, typer.Option("--replay", metavar="LOG", help="Use the replies of a log instead of a model.", rich_help_panel=_MODEL)] = None,
    repeats: Annotated[bool, typer.Option("--repeats", help="Measure a configuration again when it is proposed again.", rich_help_panel=_GUIDE)] = False,
    trials: Annotated[int | None, typer.Option("--trials", "-n", min=1, help="Configurations to try, the default included. Default: 25, ending early when nothing is gained.", rich_help_panel=_RUN)] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="Start no trial after this time.", rich_help_panel=_RUN)] = None,
    patience: Annotated[int | None, typer.Option("--patience", min=1, help="End after this many trials without a gain.", rich_help_panel=_RUN)] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Then take back each change of the best configuration once, to see what it gives; one more trial for each.", rich_help_panel=_RUN)] = False,
    trust: Annotated[str, typer.Option("--trust", help="fast, normal or strict: how much is spent on knowing that the gain is real.", rich_help_panel=_RUN)] = "normal",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Parallel trials, where the target says it is safe.", rich_help_panel=_RUN)] = 1,
    executor: Annotated[str, typer.Option("--executor", metavar="dask[:ADDRESS]", help="Run trials on Dask: a cluster of --workers processes here, or a scheduler's address.", rich_help_panel=_RUN)] = "",
    require: Annotated[list[str] | None, typer.Option("--require", metavar="METRIC>=X", help="Constraint on a metric; repeatable.", rich_help_panel=_LIMITS)] = None,
    allow: Annotated[list[str] | None, typer.Option("--allow", metavar="GUARANTEE", help="Accept less of a guarantee, such as durability.", rich_help_panel=_LIMITS)] = None,
    never: Annotated[list[str] | None, typer.Option("--never", metavar="EXPRESSION", help="Configurations never to try, such as \"cache_size > 100000\".", rich_help_panel=_LIMITS)] = None,
    limit: Annotated[float | None, typer.Option("--limit", min=0.01, metavar="SECONDS", help="Hard limit of one run; default: 5 times the default's run time, at least 20 s.", rich_help_panel=_LIMITS)] = None,
    memory: Annotated[float | None, typer.Option("--memory", min=1, metavar="MB", help="Hard limit of memory of one run; default: three quarters of the machine's.", rich_help_panel=_LIMITS)] = None,
    directory: Annotated[str, typer.Option("--dir", metavar="DIR", help="Where the target keeps its files; should be on the disk you care about.", rich_help_panel=_LIMITS)] = "",
    trust_file: TrustFile = False,
    name: Annotated[str | None, typer.Option("--name", help="Name of the session; default: made from the target.")] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Tune a target: measure its default, try configurations, verify the best one on fresh runs.

    Options of the target (see 'tunewright show TARGET') may be given as --NAME VALUE too, such as --ttft 2 for 'serving'.
    """
    from tunewright.measuring import executors
    from tunewright.plugins import parse_options
    from tunewright.sessions.session import Session
    from tunewright.store.plan import Plan

    options = {**parse_options(option), **_target_options(context, target)}
    objectives = tuple(objective or ())
    if direction is not None:
        options["direction"] = direction
    if target.startswith("table:") and objectives:
        options["objective"], objectives = objectives[0], ()
    given = {
        "model": model,
        "base_url": base_url,
        "manual": manual,
        "trace": observed,
        "rules": rules,
        "replay": replay,
    }
    tuner_options = {**parse_options(tuner_option), **{k: v for k, v in given.items() if v is not None}}
    plan = Plan(
        target=target, workload=workload, tuner=tuner, objectives=objectives, seed=seed, trust=trust,
        require=tuple(require or ()), allow=tuple(allow or ()), never=tuple(never or ()), options=options,
        tuner_options=tuner_options, limit_s=limit, memory_mb=memory, repeats=repeats,
        workdir=os.path.abspath(directory) if directory else "",
    )  # fmt: skip
    if trials is None and minutes is None:
        trials, patience = 25, patience or 15
    if name is not None:
        _check_name(name)
    opened = _open_store(store)
    name = _free_name(opened, target) if name is None else name
    with (
        executors.opened(executor, workers, threads=True) as pool,
        Session.create(plan, name, opened, workers=workers, executor=pool, trust_file=trust_file) as session,
    ):
        _run(session, trials, minutes, patience, explain, as_json)


def _check_name(name: str) -> None:
    """Check a name given by hand, which is also that of files such as NAME.html.

    Raises:
        ConfigError: it cannot be a session's name, or is a path.
    """
    from tunewright.errors import ConfigError
    from tunewright.store.paths import check_name

    check_name(name)
    if "/" in name:
        raise ConfigError(f"--name {name[:40]!r} cannot be a file's name; leave out the slashes")


def _target_options(context: typer.Context, target: str) -> dict[str, Any]:
    """Read what is left on the command line as options of the target: ``--NAME VALUE`` or ``--NAME=VALUE``.

    Raises:
        UnknownNameError: neither the command nor the target has such an option.
        ConfigError: a value is missing, or something stands alone.
    """
    from tunewright.errors import ConfigError, unknown
    from tunewright.plugins import open_target

    left, found = list(context.args), {}
    known = open_target(target, {}).options if left else {}
    mine = [name.lstrip("-") for p in context.command.params for name in p.opts if name.startswith("--")]
    while left:
        text = left.pop(0)
        name, equals, value = text.partition("=")
        if not name.startswith("--"):
            raise ConfigError(f"what is {text!r}? A command takes one target, and options as --NAME VALUE")
        name = name[2:].replace("-", "_")
        if name not in known:
            raise unknown("option", f"--{name.replace('_', '-')}", sorted({f"--{n}" for n in (*mine, *known)}))
        if not equals:
            if not left or left[0].startswith("--"):
                raise ConfigError(f"--{name} needs a value: {known[name]}")
            value = left.pop(0)
        found[name] = value
    return found


@app.command()
def resume(
    name: Annotated[str, typer.Argument(help="Name of the session; see 'tunewright list'.")],
    trials: Annotated[int | None, typer.Option("--trials", "-n", min=1, help="How many more configurations to try (10).")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="Start no trial after this time.")] = None,
    patience: Annotated[int | None, typer.Option("--patience", min=1, help="End after this many trials without a gain.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Then take back each change of the best configuration once, to see what it gives.")] = False,
    target: Annotated[str | None, typer.Option("--target", help="Target spec to use instead of the stored one, such as a DSN with its password.")] = None,
    option: SecretOption = None,
    tuner_option: Annotated[list[str] | None, typer.Option("--tuner-option", "-T", metavar="KEY=VALUE", help="Option of the tuner in the place of the stored one, such as a secret.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Parallel trials, where the target says it is safe.")] = 1,
    executor: Annotated[str, typer.Option("--executor", metavar="dask[:ADDRESS]", help="Run trials on Dask: a cluster of --workers processes here, or a scheduler's address.")] = "",
    trust_file: TrustFile = False,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Continue a session: after an interruption, a crash, or just for more trials."""
    from tunewright.measuring import executors
    from tunewright.plugins import parse_options
    from tunewright.sessions.session import Session

    with executors.opened(executor, workers, threads=True) as pool:
        how: dict[str, Any] = {"workers": workers, "executor": pool, "trust_file": trust_file}
        how |= {"options": parse_options(option), "tuner_options": parse_options(tuner_option)}
        with Session.resume(name, _open_store(store), spec=target, **how) as session:
            _run(session, 10 if trials is None and minutes is None else trials, minutes, patience, explain, as_json)


def _free_name(store: Store, target: str) -> str:
    from tunewright.plugins import split_spec

    kind, argument = split_spec(target)
    base = Path(argument).name.split(".")[0] if kind in ("table", "command") and argument else kind
    taken = set(store.names())
    return next(f"{base}-{i}" for i in range(1, len(taken) + 2) if f"{base}-{i}" not in taken)


def _run(
    session: Session, trials: int | None, minutes: float | None, patience: int | None, explain: bool, as_json: bool
) -> None:  # fmt: skip
    from rich.text import Text

    from tunewright.cli.progress import Progress
    from tunewright.sessions.verdict import summary

    screen = console()
    done = sum(t.decided for t in session.store.trials(session.name))
    planned = None if trials is None else done + trials
    progress = Progress(screen, trials=planned, minutes=minutes)
    session.watcher = progress
    screen.print(Text.assemble(
        ("tuning ", "bold"), (session.target.name, "bold cyan"), f" · workload {session.workload} · tuner {session.tuner_spec}"
        f" · objective {', '.join(f'{m.name} ({m.direction})' for m in session.objectives)} · session {session.name}",
    ))  # fmt: skip
    try:
        with progress:
            verdict = session.run(trials=trials, minutes=minutes, patience=patience, explain=explain)
    except KeyboardInterrupt:
        screen.print(
            f"stopped. Everything is put back; continue with: tunewright resume {session.name}{_store_hint(session)}",
            markup=False,
        )
        raise SystemExit(130) from None
    if as_json:
        emit(summary(session, verdict))
    elif verdict is not None:
        _conclusion(session, verdict)


def _store_hint(session: Session) -> str:
    from tunewright.store.paths import default_url

    return "" if session.store.url == default_url() else f" --store {session.store.public_url}"


def _conclusion(session: Session, verdict: Verdict) -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from tunewright.report.words import duration, number

    printed = out()
    printed.print(
        Panel(
            Text(verdict.sentence),
            title="verdict",
            border_style="green" if verdict.improved else "yellow",
            expand=False,
        )
    )
    default = session.default_trial
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("metric", "default", "best found", "unit"):
        table.add_column(column, justify="right" if column in ("default", "best found") else "left")
    for metric in session.metrics:
        before = number(default.metrics[metric.name]) if default else ""
        table.add_row(metric.name, before, number(verdict.metrics[metric.name]), metric.unit)
    printed.print(table)
    changes = session.space.changes(verdict.config)
    if changes:
        printed.print(Text("\nBest configuration, in the system's own form:", style="bold"))
        printed.print(Text(session.target.render(verdict.config), style="cyan"))
        table = Table(box=None, pad_edge=False, header_style="dim")
        gives = _gives(session, verdict)
        for column in ("changed", "from", "to", *(["gives"] if gives else [])):
            table.add_column(column, justify="right" if column == "gives" else "left")
        for name, value in changes.items():
            last = [f"{gives[name]:.2f}×" if name in gives else ""] if gives else []
            table.add_row(name, str(session.space.default.get(name, "(not active)")), str(value), *last)
        printed.print()
        printed.print(table)
    if verdict.weaker:
        printed.print(Text("\nNot used, for your information: what weaker guarantees would give on top", style="bold"))
        for entry in verdict.weaker:
            delta = ", ".join(f"{n}={v}" for n, v in entry["config"].items() if verdict.config.get(n) != v)
            printed.print(
                Text(f"  {entry['ratio']:.2f}× ({entry['low']:.2f} to {entry['high']:.2f})  {delta}: {entry['loses']}")
            )
    if verdict.pareto:
        _pareto(printed, session, verdict)
    failed = sum(not t.ok for t in session.decided)
    hint = _store_hint(session)
    printed.print(Text(
        f"\n{len(session.decided)} trials, {failed} failed, {duration(session.seconds)}. Next: tunewright report {session.name}{hint}"
        f" · tunewright resume {session.name}{hint}", style="dim",
    ))  # fmt: skip


def _gives(session: Session, verdict: Verdict) -> dict[str, float]:
    """What each change gives, where the winner was measured without it."""
    from tunewright.sessions.verdict import contributions

    first = verdict.comparisons[session.objectives[0].name]
    tried = [(t.config, t.ratio) for t in session.decided if t.ok]
    found = contributions(tried, verdict.config, session.space.default, first.value)
    return found if first.kind == "ratio" else {}


def _pareto(screen: Console, session: Session, verdict: Verdict) -> None:
    from rich.table import Table
    from rich.text import Text

    from tunewright.report.words import number, settings

    screen.print(Text("\nPareto set: no configuration that was tried is better in every objective", style="bold"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("trial", justify="right")
    for metric in session.objectives:
        table.add_column(f"{metric.name} [{metric.unit}]", justify="right")
    table.add_column("settings")
    for entry in verdict.pareto:
        row = [str(entry["number"])]
        for metric in session.objectives:
            text = number(entry["metrics"][metric.name])
            compared = (entry["comparisons"] or {}).get(metric.name)
            if compared and compared["kind"] == "ratio":
                text += f"  {compared['value']:.2f}× ({compared['low']:.2f} to {compared['high']:.2f})"
            row.append(text)
        table.add_row(*row, settings(session.space.changes(entry["config"]), 6))
    screen.print(table)


@contextmanager
def _ended(what: str, then: str) -> Iterator[None]:
    """Say what a signal did to a command that nothing interrupts half-way."""
    try:
        yield
    except KeyboardInterrupt:
        console().print(f"{what} was stopped; nothing is half done: {then}", markup=False)
        raise SystemExit(130) from None


@contextmanager
def _reading(store: str | None) -> Iterator[Store]:
    opened = _open_store(store)
    try:
        yield opened
    finally:
        opened.close()


@app.command("list")
def list_sessions(store: StoreUrl = None, as_json: Json = False) -> None:
    """List the sessions of a store."""
    from tunewright.store.export import overview

    with _reading(store) as opened:
        rows = [overview(opened, name) for name in opened.names()]
    if as_json:
        emit(rows)
        return
    from tunewright.cli.display import show_sessions

    if not rows:
        out().print(f"no sessions yet in {opened.public_url}; start one with: tunewright tune sqlite", markup=False)
    else:
        show_sessions(out(), rows)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A session's or a target's name.")],
    option: TargetOption = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Show a session (trials, verdict, best configuration) or a target (parameters, metrics, workloads)."""
    from tunewright.cli import display
    from tunewright.plugins import TARGETS, installed, open_target, parse_options, split_spec

    if split_spec(name)[0] in installed(TARGETS) or name.endswith(".toml"):
        target = open_target(name, parse_options(option))
        if as_json:
            emit(display.target_document(target))
        else:
            display.show_target(out(), target)
        return
    from tunewright.store.export import export

    with _reading(store) as opened:
        document = export(opened, name)
    if as_json:
        emit(document)
    else:
        display.show_session(out(), document)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="Name of the session.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: standard output.")
    ] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Write everything needed to repeat a session as JSON: versions, seeds, machine facts, all trials."""
    from tunewright.store.export import export as build

    with _reading(store) as opened:
        document = build(opened, name)
    if output is None:
        emit(document)
        return
    output.write_text(document_text(document) + "\n", encoding="utf-8")
    if as_json:
        emit({"name": name, "file": str(output), "trials": len(document["trials"])})
    else:
        out().print(f"wrote {output}", markup=False)


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="Name of the session.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file to write; default: NAME.html.")
    ] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML file: verdict, best configuration, history, importance, failures, noise."""
    from tunewright.report.report import write_report
    from tunewright.store.export import export as build

    with _reading(store) as opened:
        document = build(opened, name)
        path = output or Path(f"{name}.html")
        write_report(document, path)
    if as_json:
        emit({"name": name, "file": str(path), "bytes": path.stat().st_size})
    else:
        out().print(f"wrote {path}; open it in a browser", markup=False)


@app.command()
def apply(
    name: Annotated[str, typer.Argument(help="Name of the session.")],
    to: Annotated[str | None, typer.Option("--to", help="What to apply to, where the target needs it: a database file, a DSN.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Target spec to use instead of the stored one.")] = None,
    option: SecretOption = None,
    trial: Annotated[int | None, typer.Option("--trial", help="Number of the trial to apply; default: the verified winner.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Apply although no improvement was shown.")] = False,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Put the best configuration into service; 'tunewright rollback' undoes it."""
    from tunewright.plugins import parse_options
    from tunewright.sessions.service import apply_session

    options = parse_options(option)
    with _reading(store) as opened, _ended("apply", f"'tunewright rollback {name}' says whether it took effect"):
        document = apply_session(opened, name, to=to, spec=target, number=trial, force=force, options=options, say=_say)
    if as_json:
        emit(document)
    else:
        printed = out()
        printed.print(
            f"applied trial {document['trial']} of session {name}; undo with: tunewright rollback {name}",
            markup=False,
        )
        printed.print(document["settings"], markup=False, style="cyan")


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Name of the session.")],
    target: Annotated[
        str | None, typer.Option("--target", help="Target spec to use instead of the stored one.")
    ] = None,
    option: SecretOption = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Undo 'apply', or put back what a killed session left changed."""
    from tunewright.measuring.interrupts import uninterrupted
    from tunewright.plugins import parse_options
    from tunewright.sessions.service import rollback_session

    told = "run it again, and it says whether there is anything left"
    with _ended("rollback", told), uninterrupted(), _reading(store) as opened:
        document = rollback_session(opened, name, spec=target, options=parse_options(option), say=_say)
    if as_json:
        emit(document)
    else:
        out().print(document["message"], markup=False)


@app.command()
def targets(as_json: Json = False) -> None:
    """List what can be tuned here."""
    from tunewright.cli import display
    from tunewright.plugins import TARGETS

    _catalogue(display.catalogue(TARGETS), as_json)


@app.command()
def tuners(as_json: Json = False) -> None:
    """List the tuners."""
    from tunewright.cli import display
    from tunewright.plugins import TUNERS

    auto = {
        "name": "auto",
        "available": True,
        "install": "",
        "description": "The best one installed that suits the space: gp or tpe.",
    }
    _catalogue([auto, *display.catalogue(TUNERS)], as_json)


def _catalogue(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        emit(rows)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("name", "ready", "what it is"):
        table.add_column(column)
    for row in rows:
        ready = Text("yes", style="green") if row["available"] else Text(str(row["install"]), style="yellow")
        table.add_row(Text(row["name"], style="bold"), ready, Text(row["description"]))
    out().print(table)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="TOML file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Write a commented TOML file for tuning your own program; it works as it is."""
    from importlib import resources

    from tunewright.errors import ConfigError

    if file.exists() and not force:
        raise ConfigError(f"{file} exists already; name another file, or add --force to overwrite it")
    if file.suffix != ".toml":
        raise ConfigError(f"{file} must end in .toml, so that 'tunewright tune {file}' knows what it is")
    file.write_text(
        resources.files("tunewright.cli").joinpath("starter.toml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    if as_json:
        emit({"file": str(file)})
    else:
        out().print(f"wrote {file}. Edit it, then: tunewright check {file} && tunewright tune {file}", markup=False)


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="A target, usually your TOML file.")],
    workload: Annotated[str, typer.Option("--workload", "-w", help="Workload; default: the target's first.")] = "",
    option: TargetOption = None,
    runs: Annotated[int, typer.Option("--runs", min=2, help="How often to measure the default.")] = 2,
    limit: Annotated[float, typer.Option("--limit", min=0.01, metavar="SECONDS", help="Hard limit of one run.")] = 600.0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Measure the default configuration twice and report the noise: does the target work, and can gains be seen?"""
    from tunewright.plugins import open_target, parse_options
    from tunewright.sessions.service import check_target

    options = parse_options(option)
    opened = open_target(target, options)
    document = check_target(opened, spec=target, options=options, workload=workload, runs=runs, limit_s=limit, say=_say)
    if as_json:
        emit(document)
        return
    from tunewright.cli.display import show_check

    show_check(out(), document)


@app.command()
def dashboard(
    store: StoreUrl = None,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Default: 8080, or the next free one; 0 for any.")] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at. Whoever reaches it sees all sessions, without a password.")] = "127.0.0.1",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Look at all sessions in the browser (optuna-dashboard), verdicts, reasons and costs among them; Ctrl-C ends it."""
    from tunewright.report.dashboard import only_here, serve

    with serve(_open_store(store), host, port) as server:
        url = f"http://{host}:{server.server_port}/dashboard/"
        if not only_here(host):
            console().print(
                f"warning: {host} can be reached from other machines, and the dashboard asks nobody for a password",
                style="yellow", markup=False,
            )  # fmt: skip
        if as_json:
            emit({"url": url})
        else:
            out().print(f"sessions of {_shown_store(store)}: {url}   (Ctrl-C ends it)", markup=False)
        sys.stdout.flush()
        server.serve_forever()


def _shown_store(url: str | None) -> str:
    from tunewright.store.dsn import read_dsn
    from tunewright.store.paths import default_url

    return read_dsn(url or default_url()).public


app.command()(commands.trace)
app.command()(commands.read)
app.command()(commands.place)
app.add_typer(commands.train_app, name="train")
app.add_typer(commands.rules_app, name="rules")
app.add_typer(commands.plan_app, name="plan")
app.add_typer(simulating.simulate_app, name="simulate")
app.add_typer(comparing.compare_app, name="compare")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed_version

        print(f"tunewright {installed_version('tunewright')}")
        raise typer.Exit
