"""A tournament's directory: all trials as Parquet, what was run where, and the tables.

================ ===========================================================================================
file             what
================ ===========================================================================================
tournament.json  targets, tuners, trials, seeds; versions, machine facts, the command that runs it again
games.parquet    one row a game: tuner, target, seed, what came of it
trials.parquet   one row a trial, with every single run
targets.parquet  one row a target: metric, known optimum, fingerprint of its space
tables.json      every table that is shown
report.html      the report
rows.jsonl       while it runs: a line for each game that ended
sessions.db      while it runs: the sessions, trial by trial
================ ===========================================================================================
"""

from __future__ import annotations

import json
import math
import shlex
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.comparing.frames import check_frames, read_frame
from tunewright.comparing.leaderboard import write_page
from tunewright.comparing.rows import KEY, TRIAL_COLUMNS
from tunewright.comparing.standings import STATISTICS
from tunewright.errors import ConfigError, missing_extra
from tunewright.sessions import workfolder
from tunewright.space.facts import machine_facts, versions
from tunewright.store.dsn import MASK
from tunewright.store.files import parsing, printable, read_json, read_text

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
SESSIONS, ROWS, CONFIG, TABLES, REPORT = "sessions.db", "rows.jsonl", "tournament.json", "tables.json", "report.html"
_FRAMES = ("games", "trials", "targets")


def pandas() -> Any:
    """Return pandas, with what it needs for Parquet.

    Raises:
        MissingExtraError: it is not installed.
    """
    for package in ("pandas", "pyarrow", "scipy"):
        try:
            __import__(package)
        except ImportError:
            raise missing_extra(package, "compare", "comparing tuners") from None
    import pandas as pd

    return pd


@dataclass
class Bundle:
    """A tournament that was run: its data, tables and figures.

    Attributes:
        folder: its directory.
        config: what was run, and where.
        games, trials, targets: frames, one row each.
        loaded: from files, which somebody may have edited.
    """

    folder: Path
    config: Mapping[str, Any]
    games: pd.DataFrame
    trials: pd.DataFrame
    targets: pd.DataFrame
    loaded: bool = False

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table by name, computed from the trials; see :mod:`tunewright.comparing.standings`."""
        from tunewright.comparing import standings

        with parsing(self.folder, "bundle of a tournament") if self.loaded else nullcontext():
            return standings.tables(self.games, self.trials, self.targets)

    @property
    def older(self) -> bool:
        """Whether the tables that lie in the bundle were computed by an earlier version's statistics."""
        return bool(self.config.get("statistics", 1) != STATISTICS)

    @property
    def leaderboard(self) -> pd.DataFrame:
        """The tuners, best first."""
        return self.tables["leaderboard"]

    @property
    def verdict(self) -> str:
        """What the tournament shows, in words."""
        return str(self.tables["verdict"]["text"].str.cat(sep=" "))

    def never_played(self) -> dict[str, str]:
        """Return the tuners all of whose games failed, each with the reason of its first."""
        lost = self.games.groupby("tuner", sort=False).filter(lambda own: (own["status"] != "done").all())
        return {} if lost.empty else {str(t): str(r) for t, r in lost.groupby("tuner")["reason"].first().items()}

    def report(self, path: Path | str | None = None) -> Path:
        """Write the report as one HTML page; returns where.

        In the bundle itself, tables that an earlier version computed by other statistics are written anew, too.
        """
        if path is None and self.older:
            save_tables(self)
        return write_page(self, Path(path) if path else self.folder / REPORT)

    def __repr__(self) -> str:
        tuners, targets = self.games["tuner"].nunique(), len(self.targets)
        return f"<Bundle in {str(self.folder)!r}: {len(self.games)} games of {tuners} tuners on {targets} targets>"

    def _repr_html_(self) -> str:
        from html import escape

        shown: str = self.leaderboard.to_html(index=False, float_format=lambda v: f"{v:.3g}")
        return f"<p>{escape(self.verdict)}</p>{shown}"


# -- while it runs ----------------------------------------------------------------------------------


def examine(directory: str | Path | None, description: Mapping[str, Any], *, resume: bool) -> None:
    """See whether a tournament may be played in a directory, and write nothing.

    Raises:
        ConfigError: it holds something else, or the tournament has begun and ``resume`` is not given.
    """
    pandas()
    if directory is None:
        return
    folder = Path(directory)
    if (folder / CONFIG).exists():
        there = described(folder)
        different = [k for k in ("targets", "tuners", "trials", "seeds", "trust") if there.get(k) != description[k]]
        if different:
            raise ConfigError(
                f"{folder} holds another tournament: {', '.join(different)} differ; choose another directory, and join"
                " the two with 'tunewright compare merge'"
            )
        if not resume:
            raise ConfigError(
                f"{folder} holds this tournament already; go on with --resume, or choose another directory"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty and holds no tournament; choose another directory")


def begin(directory: str | Path | None, description: Mapping[str, Any]) -> Path:
    """Make, or find again, the directory of a tournament.

    Raises:
        ConfigError: it cannot be made.
    """
    folder = Path(directory) if directory else Path(tempfile.mkdtemp(prefix="tunewright-compare-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the directory {folder}: {error.strerror}") from None
    if (folder / CONFIG).exists():
        return folder
    extra = ("scipy", "pandas", "pyarrow", "torch", "smac")
    record = {
        "format": FORMAT, "id": uuid.uuid4().hex[:8], **description, "versions": versions(*extra),
        "facts": machine_facts(), "command": command(description),
    }  # fmt: skip
    write_json(folder / CONFIG, record)
    return folder


def command(description: Mapping[str, Any]) -> str:
    """Return the command that runs a tournament again; "" where a part of it was an object of a program."""

    def spell(entry: Mapping[str, Any]) -> str:
        words = [entry["spec"], *([entry["workload"]] if entry["workload"] else [])]
        several = [f"objectives={'+'.join(entry['objectives'])}"] if entry.get("objectives") else []
        return "@".join([*words, *(f"{k}={v}" for k, v in entry["options"].items()), *several])

    if any(e["object"] for kind in ("targets", "tuners") for e in description[kind]):
        return ""
    parts = ["tunewright", "compare"]
    for kind in ("targets", "tuners"):
        parts += [f"--{kind}", ",".join(spell(e) for e in description[kind])]
    seeds = description["seeds"]
    counted = list(range(len(seeds))) == list(seeds)
    parts += ["--trials", str(description["trials"])]
    parts += ["--seeds", str(len(seeds)) if counted else ",".join(map(str, seeds))]
    parts += ["--trust", description["trust"], "-o", "AGAIN"]
    return " ".join(shlex.quote(p) for p in parts)


def described(folder: Path) -> dict[str, Any]:
    """Return what a directory says it holds.

    Raises:
        ConfigError: it is no tournament's, or of another version.
    """
    if not (folder / CONFIG).exists():
        raise ConfigError(f"{folder} holds no tournament: there is no {CONFIG} in it")
    config = read_json(folder / CONFIG, "tournament's description")
    if not isinstance(config, dict):
        raise ConfigError(f"{folder / CONFIG} holds no description of a tournament")
    if config.get("format") != FORMAT:
        by = config["versions"].get("tunewright", "?") if isinstance(config.get("versions"), dict) else "?"
        raise ConfigError(
            f"{folder} has format {printable(str(config.get('format')), 40)}, this version of tunewright reads"
            f" {FORMAT}; it was written by tunewright {printable(str(by), 40)}"
        )
    return config


def played(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the games that the directory holds; a line cut off by a crash is left out."""
    rows: dict[str, dict[str, Any]] = {}
    if (folder / "games.parquet").exists():
        ended = load(folder)
        trials = {k: g.to_dict("records") for k, g in ended.trials.groupby(KEY)}
        for game in ended.games.to_dict("records"):
            rows[game["name"]] = {"game": game, "trials": trials.get(tuple(game[k] for k in KEY), [])}
    if (folder / ROWS).exists():
        with parsing(folder / ROWS, "list of games that were played") as place:
            # a game is here and in the table where a crash came between writing one and removing the other
            for place.line, line in enumerate(read_text(folder / ROWS, "list of games").splitlines(), 1):
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                rows[row["game"]["name"]] = {"game": dict(row["game"]), "trials": [dict(t) for t in row["trials"]]}
    return list(rows.values())


def remains(folder: Path) -> str:
    """Say what of a tournament that was stopped is kept, and how to go on with it."""
    if not (folder / CONFIG).exists():
        return f"stopped before a game began: nothing was written to {folder}, and there is nothing to go on with"
    config, rows = described(folder), len(played(folder))
    games = len(config["targets"]) * len(config["tuners"]) * len(config["seeds"])
    kept = (
        f"stopped: {rows} of {games} games are done and kept; games that had begun go on after their last whole trial,"
        " and the trials that were running are measured again"
    )
    if any(e["object"] for kind in ("targets", "tuners") for e in config[kind]):
        return f"{kept}. Go on from the same program, with resume=True and directory={str(folder)!r}"
    if any(MASK in e["options"].values() for kind in ("targets", "tuners") for e in config[kind]):
        return f"{kept}. An option is secret and is not kept: go on with the same command and --resume"
    return f"{kept}. Go on with: tunewright compare --resume -o {shlex.quote(str(folder))}"


class Keeper:
    """Writes down each game that ends, so that only running ones can be cut off."""

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        self.path, self.rows = folder / ROWS, list(rows)
        with self.path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(r) + "\n" for r in self.rows)

    def add(self, game: dict[str, Any], trials: list[dict[str, Any]]) -> None:
        """Write down a game."""
        row = {"game": game, "trials": trials}
        self.rows.append(row)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise ConfigError(
                f"cannot write {self.path}: {error.strerror}; make room, then go on with --resume"
            ) from None


def finish(
    folder: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]], seconds: float
) -> Bundle:
    """Turn the rows into Parquet, write tables and report, and remove what only running needed."""
    pd = pandas()
    if not rows:
        raise ConfigError("no game was played")
    games = pd.DataFrame([r["game"] for r in rows]).sort_values(KEY, ignore_index=True)
    trials = pd.DataFrame([t for r in rows for t in r["trials"]], columns=list(TRIAL_COLUMNS))
    trials = trials.sort_values([*KEY, "number"], ignore_index=True)
    targets = pd.DataFrame([dict(f) for f in facts.values()])
    config = described(folder)
    config["seconds"] = config.get("seconds", 0.0) + seconds
    write_json(folder / CONFIG, config)
    bundle = Bundle(folder, config, games, trials, targets)
    save(bundle)
    for name in (ROWS, SESSIONS, f"{SESSIONS}-wal", f"{SESSIONS}-shm"):
        (folder / name).unlink(missing_ok=True)
    workfolder.remove_all(folder / "work")
    return bundle


def save(bundle: Bundle) -> None:
    """Write a bundle's frames, tables and report."""
    for name in _FRAMES:
        getattr(bundle, name).to_parquet(bundle.folder / f"{name}.parquet", index=False)
    save_tables(bundle)
    bundle.report()


def save_tables(bundle: Bundle) -> None:
    """Write a bundle's tables, and by which statistics they were computed."""
    write_json(bundle.folder / TABLES, {n: records(t) for n, t in bundle.tables.items()})
    bundle.config = {**bundle.config, "statistics": STATISTICS}
    write_json(bundle.folder / CONFIG, bundle.config)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a table's rows, JSON-able: None for what is not a number."""
    return [
        {str(k): None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in json.loads(table.to_json(orient="records", double_precision=12))
    ]


def write_json(path: Path, document: Any) -> None:
    """Write a document whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1, allow_nan=False, default=str) + "\n", encoding="utf-8")
    temporary.replace(path)


# -- reading ----------------------------------------------------------------------------------------


def load(directory: str | Path) -> Bundle:
    """Open a bundle.

    Raises:
        ConfigError: the directory holds none, or one that has not been played to its end.
    """
    pandas()
    folder = Path(directory)
    config = described(folder)
    frames = []
    for name in _FRAMES:
        path = folder / f"{name}.parquet"
        if not path.exists():
            raise ConfigError(
                f"the tournament in {folder} has not ended; go on with: tunewright compare --resume -o {folder}"
            )
        with parsing(path, f"table of {name}"):
            frames.append(read_frame(path, name))
    games, trials, targets = frames
    bundle = Bundle(folder, config, games, trials, targets, loaded=True)
    with parsing(folder, "bundle of a tournament"):
        check_frames(folder, {n: getattr(bundle, n) for n in _FRAMES})
    return bundle
