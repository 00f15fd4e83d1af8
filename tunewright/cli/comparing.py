"""The commands ``tunewright compare``: tournaments of tuners, their bundles and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from tunewright.cli.options import Json, StoreUrl, TrustFile, command, console, emit, listed, out

if TYPE_CHECKING:
    from rich.console import Console

    from tunewright.comparing.bundle import Bundle

compare_app = typer.Typer(
    help="Compare tuners: every tuner on every target, same seeds and budgets, with statistics and one report.",
    epilog="Such as: tunewright compare --targets lustre:ior-16m,trainplan:bloom --tuners random,tpe,hybrid -o results",
    no_args_is_help=True,
    invoke_without_command=True,
)
_SHOWN = ("leaderboard", "targets", "results", "ranks", "regret", "hypervolume")  # tables of the documents
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a tournament.")]


@compare_app.callback()
def compare(
    context: typer.Context,
    targets: Annotated[list[str] | None, Option(
        "--targets", metavar="A,B,...", help="As for 'tune', each with @WORKLOAD and @OPTION=VALUE behind it: "
        "sqlite@read-heavy, serving@chat@ttft=2; repeatable.")] = None,
    tuners: Annotated[list[str] | None, Option(
        "--tuners", metavar="A,B,...", help="As for 'tune', each with @OPTION=VALUE behind it: tpe@startup=10, "
        "policy:FILE.zip; repeatable.")] = None,
    trials: Annotated[int, Option(
        "--trials", "-n", min=2, help="Configurations of a game, the default included.")] = 30,
    seeds: Annotated[str, Option(
        "--seeds", metavar="N", help="How many, or which: 20, or 3,5,8. All tuners get the same.")] = "10",
    output: Annotated[Path | None, Option(
        "--output", "-o", metavar="DIR", help="Directory of the bundle: all data, tables, report.")] = None,
    trust: Annotated[str, Option(
        "--trust", help="fast, normal or strict: what is spent on a trial. Winners are always measured "
        "afresh.")] = "fast",
    workers: Annotated[int | None, Option(
        "--workers", min=1, help="Games at once, where a target says that it is safe; default: one a core.")] = None,
    executor: Annotated[str, Option(
        "--executor", metavar="dask[:ADDRESS]",
        help="Play games on Dask: a cluster on this machine, or a scheduler's address.")] = "",
    store: StoreUrl = None,
    resume: Annotated[bool, Option(
        "--resume", help="Go on with the tournament in DIR; needs nothing but -o.")] = False,
    trust_file: TrustFile = False,
    skip: Annotated[bool, Option(
        "--skip", help="Leave out tuners on targets where they do not work, instead of ending.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Compare tuners: every tuner on every target, same seeds and budgets, with statistics and one report."""
    if context.invoked_subcommand is not None:
        return
    from tunewright.comparing import tournament
    from tunewright.errors import ConfigError, TunerError
    from tunewright.measuring.executors import opened
    from tunewright.store.dsn import MASK, read_dsn

    if output is None:
        raise ConfigError("say where to keep the results: -o DIR")
    if not resume and not targets:
        raise ConfigError("say what to tune: --targets lustre:ior-16m,trainplan:bloom; 'tunewright targets' lists all")
    try:
        with opened(executor, workers) as pool, _Progress() as watcher:
            how: dict[str, Any] = {
                "workers": workers, "executor": pool, "skip": skip, "watcher": watcher, "trust_file": trust_file,
            }  # fmt: skip
            if resume and not targets:
                bundle = tournament.again(output, store=store, **how)
            else:
                bundle = tournament.compare(
                    _listed(targets), _listed(tuners or ["random,tpe,gp"]), trials=trials, seeds=_seeds(seeds),
                    directory=output, trust=trust, store=store, resume=resume, **how,
                )  # fmt: skip
    except KeyboardInterrupt:
        from tunewright.comparing.bundle import remains

        said = remains(output)
        if "--resume -o" in said:  # what is not kept with the tournament must be said again
            again = {"--skip": skip, "--trust-file": trust_file, f"--workers {workers}": workers is not None}
            again[f"--executor {executor}"] = bool(executor)
            said = " ".join([said, *(words for words, given in again.items() if given)])
            said += f" --store {MASK}" if store and MASK in read_dsn(store).public else ""
        console().print(said, markup=False, soft_wrap=True)
        raise SystemExit(130) from None
    emit(_document(bundle)) if as_json else _show(out(), bundle)
    if lost := bundle.never_played():
        raise TunerError(
            f"{', '.join(lost)} failed in every game, so that its score of 0 says nothing of it; the first reason: "
            f"{next(iter(lost.values()))}. The bundle in {output} is kept"
        )


def _listed(texts: Sequence[str] | None) -> list[str]:
    return [part for text in texts or () for part in listed(text)]


def _seeds(text: str) -> int | list[int]:
    from tunewright.errors import ConfigError

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds is how many, such as 20, or which, such as 3,5,8; not {text!r}") from None
    if min(numbers) < 0 or (len(numbers) == 1 and numbers[0] < 1):
        raise ConfigError(f"--seeds must not be negative, and at least one: {text}")
    return numbers[0] if len(numbers) == 1 else numbers


class _Progress:
    """A bar with the time left, and what is being played; nothing but lines where there is no terminal."""

    def __enter__(self) -> _Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        screen = console()
        self.bar = Progress(
            TextColumn("comparing"), BarColumn(), MofNCompleteColumn(), TextColumn("games,"), TimeRemainingColumn(),
            TextColumn("left  {task.description}", style="dim", markup=False), console=screen, transient=True,
            disable=not screen.is_terminal,
        )  # fmt: skip
        self.bar.start()
        self.task = self.bar.add_task("", total=None)
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()

    def began(self, games: int, done: int) -> None:
        """All games are known."""
        self.bar.update(self.task, total=games, completed=done)
        if done:
            self.bar.console.print(f"{done} of {games} games were played before", style="dim")

    def running(self, names: Sequence[str]) -> None:
        """These games are being played."""
        shown = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
        self.bar.update(self.task, description=shown.replace(" | ", " "))

    def ended(self, row: Mapping[str, Any]) -> None:
        """A game has ended."""
        self.bar.advance(self.task)
        if row["status"] != "done":
            self.bar.console.print(f"failed: {row['name']}: {row['reason']}", style="yellow", markup=False)

    def left_out(self, what: str, why: str) -> None:
        """A pair does not work."""
        self.bar.console.print(f"left out: {what}: {why}", style="yellow", markup=False)


def _show(screen: Console, bundle: Bundle) -> None:
    from rich.panel import Panel
    from rich.text import Text

    from tunewright.cli.terminal import table
    from tunewright.comparing.statistics import seeds_needed
    from tunewright.comparing.values import SEEN

    board = bundle.leaderboard
    screen.print(Panel(Text(bundle.verdict), title="verdict", expand=False))
    heads = ("score", "95 % int.", "rank", "won/tied/lost", "near", "failed", "own time")
    few = f"needs {seeds_needed()} seeds"
    rows = table("tuner", *heads, numbers=heads, no_wrap=True)
    for r in board.to_dict("records"):
        rank = f"{r['mean_rank']:.2f}" if r["mean_rank"] == r["mean_rank"] else "–"
        rows.add_row(
            Text(r["tuner"], style="bold"), f"{100 * r['score']:.0f} %",
            f"{100 * r['low']:.0f} to {100 * r['high']:.0f}" if r["low"] == r["low"] else few, rank,
            f"{r['wins']}/{r['ties']}/{r['losses']}", f"{100 * r['near_share']:.0f} %",
            str(r["failed_trials"]), f"{1000 * r['tuner_s_per_trial']:.1f} ms",
        )  # fmt: skip
    screen.print(rows)
    seen = (bundle.tables["targets"]["best_is"] == SEEN).any()
    best = "best known, or best seen where no optimum is known" if seen else "best known"
    screen.print(
        Text(f"score: part of the way from the default to the {best}; near: games within 5 % of it", style="dim")
    )
    _show_gaps(screen, bundle)
    screen.print(Text(f"report: {bundle.folder / 'report.html'}", style="dim"))


def _show_gaps(screen: Console, bundle: Bundle) -> None:
    """Print what of the way to the best each tuner had still to go after stated numbers of trials."""
    from rich.text import Text

    from tunewright.cli.terminal import table
    from tunewright.comparing.standings import ALL, order

    rows = bundle.tables["regret"]
    target = ALL if (rows["target"] == ALL).any() else str(rows["target"].iloc[0])
    own = rows[rows["target"] == target]
    counts = sorted(set(own["trial"]))
    heads = tuple(f"{c} trials" for c in counts)
    listed = table("still to go after", *heads, numbers=heads, no_wrap=True)
    gaps = own.set_index(["tuner", "trial"])["gap"]
    for tuner in order(bundle.leaderboard):
        if tuner in gaps.index:
            listed.add_row(Text(tuner, style="bold"), *(f"{100 * gaps[tuner, c]:.0f} %" for c in counts))
    screen.print(listed)


def _document(bundle: Bundle) -> dict[str, Any]:
    from tunewright.comparing.bundle import records

    tables = {n: records(t) for n, t in bundle.tables.items() if n in _SHOWN}
    return {
        "bundle": str(bundle.folder), "verdict": bundle.verdict, "games": len(bundle.games),
        "trials": len(bundle.trials), "report": str(bundle.folder / "report.html"), **tables,
    }  # fmt: skip


@compare_app.command("show")
def show(directory: Directory, as_json: Json = False) -> None:
    """Show the leaderboard of a tournament."""
    from tunewright.comparing.bundle import load

    bundle = load(directory)
    emit(_document(bundle)) if as_json else _show(out(), bundle)


@compare_app.command("verify")
def verify(directory: Directory, as_json: Json = False) -> None:
    """Compute every table again from the raw trials, and say whether they agree; exit code 1 if not."""
    from tunewright.comparing.checking import verify as check

    checked = check(directory)
    if as_json:
        emit(checked)
    else:
        printed = out()
        if checked["agrees"] and checked["older"]:
            printed.print(
                f"the {checked['trials']:,} trials of {checked['games']:,} games are as they were written; the tables"
                " are an earlier version's, by other statistics."
                f" Write them anew: tunewright compare report {directory}",
                markup=False,
                soft_wrap=True,
            )
        elif checked["agrees"]:
            printed.print(
                f"agrees: all tables follow from the {checked['trials']:,} trials of {checked['games']:,} games"
            )
        for line in [*checked["edited"], *checked["tables"]][:40]:
            printed.print(f"differs: {line}", style="red", markup=False)
        more = len(checked["edited"]) + len(checked["tables"]) - 40
        if more > 0:
            printed.print(f"and {more} more; --json lists all")
    if not checked["agrees"]:
        raise typer.Exit(1)


@compare_app.command("merge")
def merge(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Directories of tournaments.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Directory to write.")],
    as_json: Json = False,
) -> None:
    """Join the tournaments of several people into one leaderboard."""
    from tunewright.comparing.checking import merge as join

    bundle = join(directories, output)
    emit(_document(bundle)) if as_json else _show(out(), bundle)


@command(compare_app, "report", lambda screen, document: screen.print(
    f"wrote {document['file']}; open it in a browser", markup=False
))  # fmt: skip
def report(
    directory: Directory,
    output: Annotated[Path | None, Option(
        "--output", "-o", help="HTML file to write; default: DIR/report.html.")] = None,
    as_json: Json = False,
) -> dict[str, Any]:  # fmt: skip
    """Write the report again: one self-contained HTML page."""
    from tunewright.comparing.bundle import load

    path = load(directory).report(output)
    return {"file": str(path), "bytes": path.stat().st_size}
