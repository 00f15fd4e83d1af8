"""The commands ``tune`` and ``resume``."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from tunewright.cli.given import Asked, target_options
from tunewright.cli.options import Json, SecretOption, StoreUrl, TargetOption, TrustFile, console, emit, out

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.cli.dry import Told
    from tunewright.sessions.session import Session
    from tunewright.sessions.verdict import Verdict

app = typer.Typer()


_guide = partial(Option, rich_help_panel="What to try")
_run_for = partial(Option, rich_help_panel="How long")
_limit = partial(Option, rich_help_panel="Limits and guarantees")
_model = partial(Option, rich_help_panel="Language model")


DryRun = Annotated[bool, Option(
    "--dry-run", help="Show what would be changed, restarted, created and left behind, and what is missing for that; "
    "then stop. Nothing is stored or touched. Exit code 1 if something is missing.")]  # fmt: skip
Keep = Annotated[bool, Option(
    "--keep", help="Leave what was prepared (databases, files of the work folder) for the next run of this session, "
    "instead of removing it at the end.")]  # fmt: skip


_ASKS_A_MODEL = ("llm", "hybrid", "playbook")  # tuners that --model and --trace are for


@app.command("tune", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def tune(
    context: typer.Context,
    target: Annotated[str, typer.Argument(
        help="What to tune: a target's name, table:FILE, a TOML file, or a server's address (postgresql://, mariadb://).")],
    workload: Annotated[str, _guide("--workload", "-w", help="Workload of the target; default: its first.")] = "",
    tuner: Annotated[str, _guide("--tuner", "-t", help="auto, or one of 'tunewright tuners'.")] = "auto",
    objective: Annotated[list[str] | None, _guide(
        "--objective", help="Metric to optimise; repeat it for a Pareto set. For tables: the column.")] = None,
    direction: Annotated[str | None, _guide("--direction", help="min or max; for tables only.")] = None,
    seed: Annotated[int, _guide("--seed", min=0, help="Fixes data, suggestions and order.")] = 0,
    option: TargetOption = None,
    machine: Annotated[str, _guide(
        "--machine", metavar="NAME,...", help="Settings of the machine to tune as well, such as vm.swappiness, thp, "
        "read_ahead_kb@sda or memory.high@/my/group; each is put back after every run.")] = "",
    tuner_option: Annotated[list[str] | None, _guide(
        "--tuner-option", "-T", metavar="KEY=VALUE", help="Option of the tuner, such as startup=3.")] = None,
    model: Annotated[str | None, _model(
        "--model", metavar="NAME", help="For --tuner llm or hybrid: the language model.")] = None,
    base_url: Annotated[str | None, _model(
        "--base-url", metavar="URL",
        help="Its OpenAI-compatible endpoint; the key is taken from OPENAI_API_KEY.")] = None,
    manual: Annotated[str | None, _model(
        "--manual", metavar="PATH,...",
        help="Manuals to look into; playbook and hybrid read them without a model.")] = None,
    rules: Annotated[str | None, _guide(
        "--rules", metavar="FOLDER",
        help="Rules learned from earlier sessions, for playbook, hybrid and llm; see 'tunewright rules'.")] = None,
    observed: Annotated[str | None, _model(
        "--trace", metavar="FILE", help="A log of the workload, as 'tunewright trace' reads it; likewise.")] = None,
    replay: Annotated[str | None, _model(
        "--replay", metavar="LOG", help="Use the replies of a log instead of a model.")] = None,
    repeats: Annotated[bool, _guide(
        "--repeats", help="Measure a configuration again when it is proposed again.")] = False,
    trials: Annotated[int | None, _run_for(
        "--trials", "-n", min=1, help="Configurations to try, the default included. Default: 25, ending early when "
        "nothing is gained.")] = None,
    minutes: Annotated[float | None, _run_for("--minutes", min=0.01, help="Start no trial after this time.")] = None,
    patience: Annotated[int | None, _run_for(
        "--patience", min=1, help="End after this many trials without a gain.")] = None,
    explain: Annotated[bool, _run_for(
        "--explain", help="Then take back each change of the best configuration once, as a trial of its own that "
        "'tunewright rules' learns from; and see what each gives with --keep-all, too.")] = False,
    trust: Annotated[str, _run_for(
        "--trust", help="fast, normal or strict: how much is spent on knowing that the gain is real.")] = "normal",
    estimate: Annotated[str, _run_for(
        "--estimate", metavar="WHAT",
        help="What the verdict compares: pairs (the median of the pairs' ratios), or the ratio of medians (median), of "
        "means (mean), or of a quantile such as p90, which takes more runs.")] = "pairs",
    workers: Annotated[int, _run_for(
        "--workers", min=1, help="Parallel trials, where the target says it is safe.")] = 1,
    executor: Annotated[str, _run_for(
        "--executor", metavar="dask[:ADDRESS]",
        help="Run trials on Dask: a cluster of --workers processes here, or a scheduler's address.")] = "",
    require: Annotated[list[str] | None, _limit(
        "--require", metavar="METRIC>=X", help="Constraint on a metric; repeatable.")] = None,
    allow: Annotated[list[str] | None, _limit(
        "--allow", metavar="GUARANTEE", help="Accept less of a guarantee, such as durability.")] = None,
    believe: Annotated[list[str] | None, _limit(
        "--believe", metavar="METRIC",
        help="Its values are real, also where their sign changes or they are far better than all others.")] = None,
    never: Annotated[list[str] | None, _limit(
        "--never", metavar="EXPRESSION",
        help="Configurations never to try, such as \"cache_size > 100000\".")] = None,
    limit: Annotated[float | None, _limit(
        "--limit", min=0.01, metavar="SECONDS",
        help="Hard limit of one run; default: 5 times the default's run time, at least 20 s.")] = None,
    memory: Annotated[float | None, _limit(
        "--memory", min=1, metavar="MB",
        help="Hard limit of memory of one run; default: three quarters of the machine's.")] = None,
    careful: Annotated[bool, _limit(
        "--careful", help="For systems that others use, such as staging servers and replicas: small steps from today's "
        "values that grow with success, runs ended early where they are clearly worse or memory is full, nothing "
        "the target calls dangerous. See docs/guides/careful.md.")] = False,
    keep_all: Annotated[bool, _limit(
        "--keep-all", help="Recommend all changes of the winner, also those that may not be needed.")] = False,
    directory: Annotated[str, _limit(
        "--dir", metavar="DIR",
        help="Where the target keeps its files; should be on the disk you care about.")] = "",
    keep: Keep = False,
    trust_file: TrustFile = False,
    dry_run: DryRun = False,
    name: Annotated[str | None, Option("--name", help="Name of the session; default: made from the target.")] = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Tune a target: measure its default, try configurations, verify the best one on fresh runs.

    Options of the target (see 'tunewright show TARGET') may be given as --NAME VALUE too: --ttft 2 for 'serving'.
    """
    from tunewright.cli import dry
    from tunewright.measuring import executors
    from tunewright.plugins import options_of, parse_options
    from tunewright.sessions.opening import Ahead
    from tunewright.sessions.session import Session
    from tunewright.store.plan import Plan
    from tunewright.store.store import Store

    options = {**parse_options(option), **target_options(context, target)}
    options |= {"machine": machine} if machine else {}
    objectives = tuple(objective or ())
    if direction is not None:
        options["direction"] = direction
    given = {
        "model": model, "base_url": base_url, "manual": manual, "trace": observed, "rules": rules, "replay": replay,
    }  # fmt: skip
    its = options_of(target) if objectives or model or observed else {}
    if "objective" in its and objectives:
        options["objective"], objectives = objectives[0], ()
    if tuner not in _ASKS_A_MODEL:  # then nobody but the target has a model, or a trace
        options |= {n: given.pop(n) for n in ("model", "trace") if n in its and given[n] is not None}
    tuner_options = {**parse_options(tuner_option), **{k: v for k, v in given.items() if v is not None}}
    plan = Plan(
        target=target, workload=workload, tuner=tuner, objectives=objectives, seed=seed, trust=trust,
        require=tuple(require or ()), allow=tuple(allow or ()), never=tuple(never or ()), options=options,
        tuner_options=tuner_options, limit_s=limit, memory_mb=memory, repeats=repeats,
        keep_all=keep_all, workdir=os.path.abspath(directory) if directory else "", estimate=estimate,
        believe=tuple(believe or ()), careful=careful,
    )  # fmt: skip
    if trials is None and minutes is None:
        trials, patience = 25, patience or 15
    if name is not None:
        _check_name(name)
    if dry_run:
        dry.new(plan, name, store, trials=trials, minutes=minutes, as_json=as_json, trust_file=trust_file)
        return
    opened = Store(store)
    name = dry.free_name(opened, target) if name is None else name
    told = dry.Told(as_json)
    ahead = Ahead(told=told, trials=trials, minutes=minutes, lists=True)
    how: dict[str, Any] = {"ahead": ahead, "trust_file": trust_file}
    with (
        executors.opened(executor, workers, threads=True) as pool,
        Session.create(plan, name, opened, workers=workers, executor=pool, **how) as session,
    ):
        if session.replaced:
            console().print(
                f"The session {name} was started before and measured nothing; it is started anew.", markup=False
            )
        asked = {
            "trials": trials, "minutes": minutes, "patience": patience, "explain": explain, "keep": keep,
            "workers": workers, "executor": executor,
        }  # fmt: skip
        opened.update(name, asked=asked)
        _run(session, trials, minutes, patience, explain, as_json, told=told, keep=keep)


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


@app.command("resume")
def resume(
    name: Annotated[str, typer.Argument(help="Name of the session; see 'tunewright list'.")],
    trials: Annotated[int | None, Option(
        "--trials", "-n", min=1, help="How many more configurations to try. Default: those left of what 'tune' was "
        "given, or as many again where none are.")] = None,
    minutes: Annotated[float | None, Option(
        "--minutes", min=0.01, help="Start no trial after this time. Default: as 'tune' was given.")] = None,
    patience: Annotated[int | None, Option(
        "--patience", min=1, help="End after this many trials without a gain. Default: likewise.")] = None,
    explain: Annotated[bool, Option(
        "--explain",
        help="Then take back each change of the best configuration once, to see what it gives.")] = False,
    believe: Annotated[list[str] | None, Option(
        "--believe", metavar="METRIC", help="Its values are real, also those that were not believed.")] = None,
    target: Annotated[str | None, Option(
        "--target", help="Target spec to use instead of the stored one, such as a DSN with its password.")] = None,
    option: SecretOption = None,
    tuner_option: Annotated[list[str] | None, Option(
        "--tuner-option", "-T", metavar="KEY=VALUE",
        help="Option of the tuner in the place of the stored one, such as a secret.")] = None,
    workers: Annotated[int | None, Option(
        "--workers", min=1, help="Parallel trials, where the target says it is safe. Default: as 'tune' was given."
    )] = None,
    executor: Annotated[str | None, Option(
        "--executor", metavar="dask[:ADDRESS]", help="Run trials on Dask: a cluster of --workers processes here, or a "
        "scheduler's address. Default: as 'tune' was given.")] = None,
    keep: Keep = False,
    trust_file: TrustFile = False,
    dry_run: DryRun = False,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Continue a session: after an interruption, a crash, or just for more trials.

    How long it goes on, and how, is what 'tune' was given unless it is said anew; its trust, limits and options are
    the session's own.
    """
    from tunewright.cli import dry
    from tunewright.measuring import executors
    from tunewright.plugins import parse_options
    from tunewright.sessions.opening import Ahead
    from tunewright.sessions.session import Session
    from tunewright.store.store import Store

    with dry.existing(store) as found:
        before = Asked.of(found, name)
    if trials is None and minutes is None:
        trials, minutes = before.trials, before.minutes
    patience, explain, keep = patience or before.patience, explain or before.explain, keep or before.keep
    workers, executor = workers or before.workers, before.executor if executor is None else executor
    if dry_run:
        dry.stored(
            name, store, target, parse_options(option), parse_options(tuner_option), trials=trials, minutes=minutes,
            as_json=as_json,
        )  # fmt: skip
        return
    told = dry.Told(as_json)
    with executors.opened(executor, workers, threads=True) as pool:
        how: dict[str, Any] = {"workers": workers, "executor": pool, "trust_file": trust_file}
        ahead = Ahead(told=told, trials=trials, minutes=minutes, lists=True)
        how |= {"believe": believe or (), "ahead": ahead}
        how |= {"options": parse_options(option), "tuner_options": parse_options(tuner_option)}
        with Session.resume(name, Store(store), spec=target, **how) as session:
            _run(session, trials, minutes, patience, explain, as_json, told=told, keep=keep)


def _run(
    session: Session, trials: int | None, minutes: float | None, patience: int | None, explain: bool, as_json: bool,
    *, told: Told, keep: bool,
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
        ("tuning ", "bold"), (session.target.name, "bold cyan"),
        f" · workload {session.workload} · tuner {session.tuner_spec}"
        f" · objective {', '.join(f'{m.name} ({m.direction})' for m in session.objectives)} · session {session.name}",
    ))  # fmt: skip
    try:
        with progress:
            verdict = session.run(trials=trials, minutes=minutes, patience=patience, explain=explain, keep=keep)
    except KeyboardInterrupt:
        told.left(screen, session, keep)
        screen.print(
            f"stopped. Everything is put back; continue with: tunewright resume {session.name}{_store_hint(session)}",
            markup=False,
        )
        raise SystemExit(130) from None
    if as_json:
        emit(told.beside(summary(session, verdict)))
    elif verdict is not None:
        _conclusion(session, verdict)
    told.left(screen, session, keep)


def _store_hint(session: Session) -> str:
    from tunewright.store.paths import default_url

    return "" if session.store.url == default_url() else f" --store {session.store.public_url}"


def _conclusion(session: Session, verdict: Verdict) -> None:
    from rich.text import Text

    from tunewright.cli.display import show_settings, show_verdict
    from tunewright.cli.terminal import table
    from tunewright.report.verdicts import beside_search, fresh_values, heading
    from tunewright.report.words import duration, number

    printed, stored = out(), verdict.stored()
    show_verdict(printed, stored)
    tried = [(t.number, t.config, t.ratio) for t in session.decided if t.ok]
    if said := beside_search(stored, session.objectives[0].name, tried):
        printed.print(Text(said))
    rows = table("metric, fresh runs", "default", "winner", "unit", numbers=("default", "winner"))
    for metric in session.metrics:
        if values := fresh_values(stored, metric.name):
            rows.add_row(metric.name, *map(number, values), metric.unit)
    if rows.row_count:
        printed.print(rows)
    changes = session.space.changes(verdict.config)
    if changes:
        printed.print(Text(f"\n{heading(verdict.improved)}:", style="bold"))
        show_settings(printed, verdict.settings)
        rows = table("changed", "from", "to")
        for name, value in changes.items():
            rows.add_row(name, str(session.space.default.get(name, "(not active)")), str(value))
        printed.print()
        printed.print(rows)
    if verdict.taken_back:
        told = ", ".join(f"{n} = {v}" for n, v in verdict.taken_back.items())
        printed.print(Text(f"Taken back, since no measurement showed that they matter: {told}"))
    if verdict.steps:
        printed.print(Text("\nWhat each change gives, from the default on, one more at a time:", style="bold"))
        rows = table("with", "gives", "95 % interval", "so far", numbers=("gives", "95 % interval", "so far"))
        for step in verdict.steps:
            low, high = (f"{step[end]:.2f}" if math.isfinite(step[end]) else "…" for end in ("low", "high"))
            ratios = f"{step['ratio']:.2f}×", f"{low} to {high}", f"{step['total']:.2f}×"
            rows.add_row(", ".join(step["names"]), *ratios)
        printed.print(rows)
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
        f"\n{len(session.decided)} trials, {failed} failed, {duration(session.seconds)}."
        f" Next: tunewright report {session.name}{hint} · tunewright resume {session.name}{hint}", style="dim",
    ))  # fmt: skip


def _pareto(screen: Console, session: Session, verdict: Verdict) -> None:
    from rich.text import Text

    from tunewright.cli.terminal import table
    from tunewright.report.words import number, settings

    screen.print(Text("\nPareto set: no configuration that was tried is better in every objective", style="bold"))
    numbers = ("trial", *(f"{metric.name} [{metric.unit}]" for metric in session.objectives))
    rows = table(*numbers, "settings", numbers=numbers)
    for entry in verdict.pareto:
        row = [str(entry["number"])]
        for metric in session.objectives:
            text = number(entry["metrics"][metric.name])
            compared = (entry["comparisons"] or {}).get(metric.name)
            if compared and compared["kind"] == "ratio":
                text += f"  {compared['value']:.2f}× ({compared['low']:.2f} to {compared['high']:.2f})"
            row.append(text)
        unsure = f" ({entry['unsure']})" if entry.get("unsure") else ""
        rows.add_row(*row, settings(session.space.changes(entry["config"]), 6) + unsure)
    screen.print(rows)
