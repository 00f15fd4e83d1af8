"""The command line. Only this module prints; everything heavy is imported inside the commands."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.session import Session
    from tunewright.store import Store
    from tunewright.verdict import Verdict

app = typer.Typer(
    name="tunewright",
    help="Tune a real system, and trust the answer.\n\nStart with: [bold]tunewright tune sqlite[/bold]",
    epilog="A target is a name (see 'tunewright targets'), table:FILE.csv, or the path of a TOML file for your own program.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="Where sessions are kept: sqlite:///FILE or postgresql://HOST/DB. Default: a file in your data directory.", envvar="TUNEWRIGHT_STORE"),
]  # fmt: skip
TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-O",
        metavar="KEY=VALUE",
        help="Option of the target; repeatable. 'tunewright show TARGET' lists them.",
    ),
]
_GUIDE, _RUN, _LIMITS = "What to try", "How long", "Limits and guarantees"
_MODEL = "Language model"


def main() -> None:
    """Entry point: turns expected errors into one line and an exit code."""
    from tunewright.errors import TunewrightError

    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except TunewrightError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


def _fail(message: str) -> None:
    from tunewright.guard import redact

    print(f"error: {redact(message)}", file=sys.stderr)
    sys.exit(1)


def _terminate(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _out() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _emit(document: Any) -> None:
    print(json.dumps(document, indent=2, default=str, allow_nan=False))


def _open_store(url: str | None) -> Store:
    from tunewright.store import Store

    return Store(url)


@app.command()
def tune(
    target: Annotated[str, typer.Argument(help="What to tune: a target's name, table:FILE, or a TOML file.")],
    workload: Annotated[str, typer.Option("--workload", "-w", help="Workload of the target; default: its first.", rich_help_panel=_GUIDE)] = "",
    tuner: Annotated[str, typer.Option("--tuner", "-t", help="auto, or one of 'tunewright tuners'.", rich_help_panel=_GUIDE)] = "auto",
    objective: Annotated[list[str] | None, typer.Option("--objective", help="Metric to optimise; repeat it for a Pareto set. For tables: the column.", rich_help_panel=_GUIDE)] = None,
    direction: Annotated[str | None, typer.Option("--direction", help="min or max; for tables only.", rich_help_panel=_GUIDE)] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Fixes data, suggestions and order.", rich_help_panel=_GUIDE)] = 0,
    option: TargetOption = None,
    tuner_option: Annotated[list[str] | None, typer.Option("--tuner-option", "-T", metavar="KEY=VALUE", help="Option of the tuner, such as startup=3.", rich_help_panel=_GUIDE)] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="For --tuner llm: the language model.", rich_help_panel=_MODEL)] = None,
    base_url: Annotated[str | None, typer.Option("--base-url", metavar="URL", help="Its OpenAI-compatible endpoint; the key is taken from OPENAI_API_KEY.", rich_help_panel=_MODEL)] = None,
    manual: Annotated[str | None, typer.Option("--manual", metavar="PATH,...", help="Manuals that it may look into.", rich_help_panel=_MODEL)] = None,
    observed: Annotated[str | None, typer.Option("--trace", metavar="FILE", help="A log of the workload that it may ask about.", rich_help_panel=_MODEL)] = None,
    replay: Annotated[str | None, typer.Option("--replay", metavar="LOG", help="Use the replies of a log instead of a model.", rich_help_panel=_MODEL)] = None,
    repeats: Annotated[bool, typer.Option("--repeats", help="Measure a configuration again when it is proposed again.", rich_help_panel=_GUIDE)] = False,
    trials: Annotated[int | None, typer.Option("--trials", "-n", min=1, help="Configurations to try, the default included. Default: 25, ending early when nothing is gained.", rich_help_panel=_RUN)] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="Start no trial after this time.", rich_help_panel=_RUN)] = None,
    patience: Annotated[int | None, typer.Option("--patience", min=1, help="End after this many trials without a gain.", rich_help_panel=_RUN)] = None,
    trust: Annotated[str, typer.Option("--trust", help="fast, normal or strict: how much is spent on knowing that the gain is real.", rich_help_panel=_RUN)] = "normal",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Parallel trials, where the target says it is safe.", rich_help_panel=_RUN)] = 1,
    require: Annotated[list[str] | None, typer.Option("--require", metavar="METRIC>=X", help="Constraint on a metric; repeatable.", rich_help_panel=_LIMITS)] = None,
    allow: Annotated[list[str] | None, typer.Option("--allow", metavar="GUARANTEE", help="Accept less of a guarantee, such as durability.", rich_help_panel=_LIMITS)] = None,
    never: Annotated[list[str] | None, typer.Option("--never", metavar="EXPRESSION", help="Configurations never to try, such as \"cache_size > 100000\".", rich_help_panel=_LIMITS)] = None,
    limit: Annotated[float | None, typer.Option("--limit", min=0.01, metavar="SECONDS", help="Hard limit of one run; default: 5 times the default's run time, at least 20 s.", rich_help_panel=_LIMITS)] = None,
    memory: Annotated[float | None, typer.Option("--memory", min=1, metavar="MB", help="Hard limit of memory of one run; default: three quarters of the machine's.", rich_help_panel=_LIMITS)] = None,
    directory: Annotated[str, typer.Option("--dir", metavar="DIR", help="Where the target keeps its files; should be on the disk you care about.", rich_help_panel=_LIMITS)] = "",
    name: Annotated[str | None, typer.Option("--name", help="Name of the session; default: made from the target.")] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Tune a target: measure its default, try configurations, verify the best one on fresh runs."""
    from tunewright.plan import Plan
    from tunewright.plugins import parse_options
    from tunewright.session import Session

    options = parse_options(option)
    objectives = tuple(objective or ())
    if direction is not None:
        options["direction"] = direction
    if target.startswith("table:") and objectives:
        options["objective"], objectives = objectives[0], ()
    given = {"model": model, "base_url": base_url, "manual": manual, "trace": observed, "replay": replay}
    tuner_options = {**parse_options(tuner_option), **{k: v for k, v in given.items() if v is not None}}
    plan = Plan(
        target=target, workload=workload, tuner=tuner, objectives=objectives, seed=seed, trust=trust,
        require=tuple(require or ()), allow=tuple(allow or ()), never=tuple(never or ()), options=options,
        tuner_options=tuner_options, limit_s=limit, memory_mb=memory, repeats=repeats, workdir=directory,
    )  # fmt: skip
    if trials is None and minutes is None:
        trials, patience = 25, patience or 15
    opened = _open_store(store)
    name = name or _free_name(opened, target)
    with Session.create(plan, name, opened, workers=workers, executor=_executor(workers)) as session:
        _run(session, trials, minutes, patience, as_json)


@app.command()
def resume(
    name: Annotated[str, typer.Argument(help="Name of the session; see 'tunewright list'.")],
    trials: Annotated[int | None, typer.Option("--trials", "-n", min=1, help="How many more configurations to try (10).")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="Start no trial after this time.")] = None,
    patience: Annotated[int | None, typer.Option("--patience", min=1, help="End after this many trials without a gain.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Target spec to use instead of the stored one, such as a DSN with its password.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Parallel trials, where the target says it is safe.")] = 1,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Continue a session: after an interruption, a crash, or just for more trials."""
    from tunewright.session import Session

    how = {"workers": workers, "executor": _executor(workers)}
    with Session.resume(name, _open_store(store), spec=target, **how) as session:
        _run(session, 10 if trials is None and minutes is None else trials, minutes, patience, as_json)


def _executor(workers: int) -> Any:
    if workers == 1:
        return None
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(workers)  # each trial runs in processes of its own; the thread only waits


def _free_name(store: Store, target: str) -> str:
    from tunewright.plugins import split_spec

    kind, argument = split_spec(target)
    base = Path(argument).name.split(".")[0] if kind in ("table", "command") and argument else kind
    taken = set(store.names())
    return next(f"{base}-{i}" for i in range(1, len(taken) + 2) if f"{base}-{i}" not in taken)


def _run(session: Session, trials: int | None, minutes: float | None, patience: int | None, as_json: bool) -> None:
    from rich.text import Text

    from tunewright.progress import Progress
    from tunewright.verdict import summary

    console = _console()
    done = sum(t.decided for t in session.store.trials(session.name))
    planned = None if trials is None else done + trials
    progress = Progress(console, trials=planned, minutes=minutes)
    session.watcher = progress
    console.print(Text.assemble(
        ("tuning ", "bold"), (session.target.name, "bold cyan"), f" · workload {session.workload} · tuner {session.tuner_spec}"
        f" · objective {', '.join(f'{m.name} ({m.direction})' for m in session.objectives)} · session {session.name}",
    ))  # fmt: skip
    try:
        with progress:
            verdict = session.run(trials=trials, minutes=minutes, patience=patience)
    except KeyboardInterrupt:
        console.print(
            f"stopped. Everything is put back; continue with: tunewright resume {session.name}{_store_hint(session)}",
            markup=False,
        )
        raise SystemExit(130) from None
    if as_json:
        _emit(summary(session, verdict))
    elif verdict is not None:
        _conclusion(session, verdict)


def _store_hint(session: Session) -> str:
    from tunewright.guard import redact
    from tunewright.store import default_url

    return "" if session.store.url == default_url() else f" --store {redact(session.store.url)}"


def _conclusion(session: Session, verdict: Verdict) -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from tunewright.progress import duration, number

    out = _out()
    out.print(
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
    out.print(table)
    changes = session.space.changes(verdict.config)
    if changes:
        out.print(Text("\nBest configuration, in the system's own form:", style="bold"))
        out.print(Text(session.target.render(verdict.config), style="cyan"))
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("changed", "from", "to"):
            table.add_column(column)
        for name, value in changes.items():
            table.add_row(name, str(session.space.default.get(name, "(not active)")), str(value))
        out.print()
        out.print(table)
    if verdict.weaker:
        out.print(Text("\nNot used, for your information: what weaker guarantees would give on top", style="bold"))
        for entry in verdict.weaker:
            delta = ", ".join(f"{n}={v}" for n, v in entry["config"].items() if verdict.config.get(n) != v)
            out.print(
                Text(f"  {entry['ratio']:.2f}× ({entry['low']:.2f} to {entry['high']:.2f})  {delta}: {entry['loses']}")
            )
    if verdict.pareto:
        _pareto(out, session, verdict)
    failed = sum(not t.ok for t in session.decided)
    hint = _store_hint(session)
    out.print(Text(
        f"\n{len(session.decided)} trials, {failed} failed, {duration(session.seconds)}. Next: tunewright report {session.name}{hint}"
        f" · tunewright resume {session.name}{hint}", style="dim",
    ))  # fmt: skip


def _pareto(out: Console, session: Session, verdict: Verdict) -> None:
    from rich.table import Table
    from rich.text import Text

    from tunewright.progress import number, settings

    out.print(Text("\nPareto set: no configuration that was tried is better in every objective", style="bold"))
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
    out.print(table)


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
    from tunewright.export import overview

    with _reading(store) as opened:
        rows = [overview(opened, name) for name in opened.names()]
    if as_json:
        _emit(rows)
        return
    from rich.table import Table
    from rich.text import Text

    if not rows:
        _out().print(f"no sessions yet in {opened.url}; start one with: tunewright tune sqlite", markup=False)
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("session", "target", "workload", "tuner", "trials", "ratio", "status", "created"):
        table.add_column(column, justify="right" if column in ("trials", "ratio") else "left")
    for row in rows:
        ratio = f"{row['ratio']:.2f}×" if row["ratio"] is not None else ""
        table.add_row(
            *(Text(str(row[c])) for c in ("name", "target", "workload", "tuner", "trials")),
            ratio,
            row["status"],
            row["created"][:16],
        )
    _out().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A session's or a target's name.")],
    option: TargetOption = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Show a session (trials, verdict, best configuration) or a target (parameters, metrics, workloads)."""
    from tunewright import display
    from tunewright.plugins import TARGETS, installed, open_target, parse_options, split_spec

    if split_spec(name)[0] in installed(TARGETS) or name.endswith(".toml"):
        target = open_target(name, parse_options(option))
        if as_json:
            _emit(display.target_document(target))
        else:
            display.show_target(_out(), target)
        return
    from tunewright.export import export

    with _reading(store) as opened:
        document = export(opened, name)
    if as_json:
        _emit(document)
    else:
        display.show_session(_out(), document)


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
    from tunewright.export import export as build

    with _reading(store) as opened:
        document = build(opened, name)
    if output is None:
        _emit(document)
        return
    output.write_text(json.dumps(document, indent=2, default=str, allow_nan=False) + "\n", encoding="utf-8")
    if as_json:
        _emit({"name": name, "file": str(output), "trials": len(document["trials"])})
    else:
        _out().print(f"wrote {output}", markup=False)


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
    from tunewright.export import export as build
    from tunewright.report import write_report

    with _reading(store) as opened:
        document = build(opened, name)
        path = output or Path(f"{name}.html")
        write_report(document, path)
    if as_json:
        _emit({"name": name, "file": str(path), "bytes": path.stat().st_size})
    else:
        _out().print(f"wrote {path}; open it in a browser", markup=False)


@app.command()
def apply(
    name: Annotated[str, typer.Argument(help="Name of the session.")],
    to: Annotated[str | None, typer.Option("--to", help="What to apply to, where the target needs it: a database file, a DSN.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Target spec to use instead of the stored one.")] = None,
    trial: Annotated[int | None, typer.Option("--trial", help="Number of the trial to apply; default: the verified winner.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Apply although no improvement was shown.")] = False,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Put the best configuration into service; 'tunewright rollback' undoes it."""
    from tunewright.service import apply_session

    with _reading(store) as opened:
        document = apply_session(opened, name, to=to, spec=target, number=trial, force=force)
    if as_json:
        _emit(document)
    else:
        out = _out()
        out.print(
            f"applied trial {document['trial']} of session {name}; undo with: tunewright rollback {name}",
            markup=False,
        )
        out.print(document["settings"], markup=False, style="cyan")


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Name of the session.")],
    target: Annotated[
        str | None, typer.Option("--target", help="Target spec to use instead of the stored one.")
    ] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Undo 'apply', or put back what a killed session left changed."""
    from tunewright.service import rollback_session

    with _reading(store) as opened:
        document = rollback_session(opened, name, spec=target)
    if as_json:
        _emit(document)
    else:
        _out().print(document["message"], markup=False)


@app.command()
def targets(as_json: Json = False) -> None:
    """List what can be tuned here."""
    from tunewright import display
    from tunewright.plugins import TARGETS

    _catalogue(display.catalogue(TARGETS), as_json)


@app.command()
def tuners(as_json: Json = False) -> None:
    """List the tuners."""
    from tunewright import display
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
        _emit(rows)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("name", "ready", "what it is"):
        table.add_column(column)
    for row in rows:
        ready = Text("yes", style="green") if row["available"] else Text(str(row["install"]), style="yellow")
        table.add_row(Text(row["name"], style="bold"), ready, Text(row["description"]))
    _out().print(table)


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
        resources.files("tunewright").joinpath("starter.toml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    if as_json:
        _emit({"file": str(file)})
    else:
        _out().print(f"wrote {file}. Edit it, then: tunewright check {file} && tunewright tune {file}", markup=False)


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
    from tunewright.service import check_target

    opened = open_target(target, parse_options(option))
    document = check_target(opened, workload=workload, runs=runs, limit_s=limit)
    if as_json:
        _emit(document)
        return
    from tunewright.display import show_check

    show_check(_out(), document)


_TRACE = typer.Argument(
    metavar="TRACE",
    help="A block trace (MSR Cambridge, blkparse, DiskSim/MQSim, CSV; plain, gzip, zstd), or synthetic:KIND (zipf, sequential, mixed, bursts, phases, ycsb, checkpoint, tenants).",
)
_TraceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-O", metavar="KEY=VALUE", help="Parameter of a synthetic workload, such as skew=1.1; repeatable."
    ),
]
_SkipBad = Annotated[
    int, typer.Option("--skip-bad", min=0, metavar="N", help="Tolerate N bad lines in a trace; they are counted.")
]
_Limit = Annotated[int | None, typer.Option("--requests", min=1, metavar="N", help="Use the first N requests only.")]


def _command(name: str) -> Any:
    from tunewright.plugins import COMMANDS, installed

    return installed(COMMANDS)[name].load()


@app.command()
def trace(
    source: Annotated[str, _TRACE],
    option: _TraceOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML page with plots to write.")] = None,
    skip_bad: _SkipBad = 0,
    requests: _Limit = None,
    as_json: Json = False,
) -> None:
    """Summarise a block trace: mix, sizes, sequentiality, reuse, bursts, hot pages, and what that means for placement."""
    from tunewright.plugins import parse_options

    module = _command("trace")
    document = module.run(source, parse_options(option), skip_bad=skip_bad, limit=requests, page=output)
    if as_json:
        _emit(document)
    else:
        module.show(_out(), document)


@app.command()
def read(
    manuals: Annotated[list[str], typer.Argument(metavar="MANUAL...", help="Files or folders (Markdown, HTML, reStructuredText, PDF, man pages, settings with comments), pg_settings as CSV, the text of 'gluster volume set help', or postgresql://HOST/DB.")],
    system: Annotated[str, typer.Option("--system", "-s", help="Name of the system; default: from the first file.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File of parameters to write (JSON).")] = None,
    ask: Annotated[str, typer.Option("--ask", metavar="QUESTION", help="Show the passages that fit a question best.")] = "",
    count: Annotated[int, typer.Option("--count", min=1, help="How many passages.")] = 5,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Read manuals: parameters with type, unit, default, range and effect, each claim with its quote."""
    module = _command("read")
    with _steps("reading") as tick:
        document = module.run(manuals, system=system, output=output, ask=ask, count=count, tick=tick)
    if as_json:
        _emit(document)
    else:
        module.show(_out(), document)


@app.command()
def place(
    source: Annotated[str, _TRACE],
    devices: Annotated[str, typer.Option("--devices", "-d", help="performance, cost, triple, quad, or a TOML file.")] = "performance",
    policy: Annotated[list[str] | None, typer.Option("--policy", "-p", help="all, or a policy's name; repeatable.")] = None,
    fast: Annotated[float, typer.Option("--fast", help="Share of the trace's footprint that the fastest tier holds.")] = 0.10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of initial weights and random choices.")] = 0,
    option: _TraceOption = None,
    scale: Annotated[str, typer.Option("--time-scale", help="Factor on the trace's inter-arrival times; auto: as little as the slowest tier alone needs to keep up.")] = "auto",
    speed: Annotated[float, typer.Option("--speed", min=0.001, help="Replay so many times as fast as that: 4 is four times the load.")] = 1.0,
    mechanisms: Annotated[str, typer.Option("--mechanisms", help="own: each policy's own; full: extent eviction, backlog gating and idle reserve for all; plain: for none.")] = "own",
    real: Annotated[str | None, typer.Option("--real", metavar="TIERS", help="Replay on real directories instead, such as fast=/dev/shm/t,slow=DIR?delay=2ms; files are made there and deleted again.")] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Write the agent after the replay (one learning policy).")] = None,
    saved: Annotated[Path | None, typer.Option("--load", metavar="FILE", help="Go on with an agent that --save wrote.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML page with plots to write.")] = None,
    skip_bad: _SkipBad = 0,
    requests: _Limit = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Replay a block trace on simulated tiers under placement policies, and compare their latencies."""
    from tunewright.plugins import parse_options

    module = _command("place")
    with _steps("placing") as tick:
        document = module.run(
            source, parse_options(option), devices=devices, policies=policy or ["all"], fast=fast, seed=seed,
            scale=scale, load=speed, mechanisms=mechanisms, real=real, save=save, agent=saved, page=output, skip_bad=skip_bad,
            limit=requests, tick=tick,
        )  # fmt: skip
    if as_json:
        _emit(document)
    else:
        module.show(_out(), document)


train_app = typer.Typer(help="Train agents; they are saved as a file.", no_args_is_help=True)
app.add_typer(train_app, name="train")


@train_app.command("placement")
def train_placement(
    source: Annotated[str, typer.Option("--trace", metavar="TRACE", help="A block trace, or synthetic:KIND.")],
    algorithm: Annotated[str, typer.Option("--algo", help="dqn, ppo or a2c.")] = "dqn",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Requests to learn from.")] = 100_000,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, ending in .zip.")] = Path("policy.zip"),
    devices: Annotated[str, typer.Option("--devices", "-d", help="performance, cost, triple, quad, or a TOML file.")] = "performance",
    fast: Annotated[float, typer.Option("--fast", help="Share of the footprint that the fastest tier holds.")] = 0.10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the agent.")] = 0,
    option: _TraceOption = None,
    skip_bad: _SkipBad = 0,
    requests: _Limit = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Train a Stable-Baselines3 agent on the placement environment, and say how it compares with simple policies."""
    from tunewright.plugins import parse_options

    module = _command("train-placement")
    document = module.run(
        source, parse_options(option), algorithm=algorithm, steps=steps, output=output, devices=devices, fast=fast,
        seed=seed, skip_bad=skip_bad, limit=requests, progress=not as_json and sys.stderr.isatty(),
    )  # fmt: skip
    if as_json:
        _emit(document)
    else:
        module.show(_out(), document)


@contextmanager
def _steps(what: str) -> Iterator[Any]:
    """Show a progress bar on the terminal; yields ``tick(done, total, words)``."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} {task.description}"),
        TimeElapsedColumn(),
    )
    console = _console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1)

        def tick(done: int, total: int, words: str) -> None:
            bar.update(task, completed=done, total=total, description=words)

        yield tick


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed_version

        print(f"tunewright {installed_version('tunewright')}")
        raise typer.Exit
