"""Whether a bundle's tables follow from its trials, and the bundles of several people as one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.comparing.bundle import CONFIG, FORMAT, TABLES, Bundle, load, pandas, records, save, write_json
from tunewright.comparing.rows import KEY, digest, plain, summary
from tunewright.errors import ConfigError
from tunewright.space.facts import machine_facts, versions
from tunewright.store.files import parsing, read_json
from tunewright.target import Metric

_CLOSE = 1e-9


def verify(directory: str | Path) -> dict[str, Any]:
    """Compute every table again from the raw trials, and say whether it is what the bundle shows.

    Returns:
        ``{"agrees", "edited": trials and games that were changed, "tables": cells that differ, "older": whether the
        tables are an earlier version's, by other statistics, and were not compared, "trials", "games"}``.

    Raises:
        ConfigError: the bundle cannot be read.
    """
    bundle = load(directory)
    with parsing(bundle.folder, "bundle of a tournament"):
        return _verified(bundle)


def _verified(bundle: Bundle) -> dict[str, Any]:
    edited = []
    for row in bundle.trials.to_dict("records"):
        where = f"trial {row['number']:.0f} of {row['tuner']} on {row['target']}, seed {row['seed']:.0f}"
        if digest(row) != row["digest"]:
            edited.append(f"{where}: it was changed after it was written")
        elif said := _wrong_value(row):
            edited.append(f"{where}: {said}")
    groups = {k: g.to_dict("records") for k, g in bundle.trials.groupby(KEY)}
    for game in bundle.games.to_dict("records"):
        rows = groups.get(tuple(game[k] for k in KEY), [])
        metric = Metric(name="m", direction=game["direction"] or "min")
        for name, value in summary(rows, json.loads(game["verification"]), metric).items():
            if not _same(value, game[name]):
                edited.append(f"game {game['name']}: {name} is {game[name]}, its trials say {value}")
    differ = [] if bundle.older else _differing_tables(bundle)
    return {
        "agrees": not edited and not differ, "edited": edited, "tables": differ, "older": bundle.older,
        "trials": len(bundle.trials), "games": len(bundle.games), "bundle": str(bundle.folder),
    }  # fmt: skip


def _differing_tables(bundle: Bundle) -> list[str]:
    stored = read_json(bundle.folder / TABLES, "file of tables")
    differ = []
    for name, table in bundle.tables.items():
        differ += [f"{name}: {d}" for d in _differences(records(table), stored.get(name))]
    return [*differ, *(f"{name}: there is no such table" for name in stored if name not in bundle.tables)]


def _wrong_value(row: Mapping[str, Any]) -> str:
    """Say what is wrong with a trial whose ratio does not follow from its runs."""
    runs = json.loads(row["runs"])
    if row["status"] == "ok" and not any(r["of"] == "candidate" and r["status"] == "ok" for r in runs):
        return "it is called measured, and has no run that gave values"
    return ""


def _same(a: Any, b: Any) -> bool:
    a, b = plain(a), plain(b)
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=_CLOSE, abs_tol=_CLOSE)
    return bool(a == b) or (not a and not b)


def _differences(now: Sequence[Mapping[str, Any]], then: Sequence[Mapping[str, Any]] | None) -> list[str]:
    if then is None:
        return ["the bundle does not hold this table"]
    if len(now) != len(then):
        return [f"{len(then)} rows, {len(now)} when computed again"]
    return [
        f"row {i + 1}, {column}: {b.get(column)!r}, {a[column]!r} when computed again"
        for i, (a, b) in enumerate(zip(now, then, strict=True))
        for column in a
        if not _same(a[column], b.get(column))
    ]


def merge(directories: Sequence[str | Path], output: str | Path) -> Bundle:
    """Join bundles of several people into one, with one leaderboard.

    Games of one bundle stay paired with each other; a game of which two bundles hold the same values counts once.

    Raises:
        ConfigError: fewer than two bundles, edited trials, other formats, or targets of one name that differ.
    """
    pd = pandas()
    if len(directories) < 2:
        raise ConfigError("name at least two bundles to join")
    bundles = [load(d) for d in directories]
    for one in bundles:
        checked = verify(one.folder)
        if checked["edited"]:
            raise ConfigError(f"{one.folder} is not joined: {checked['edited'][0]}")
    prints: dict[str, tuple[str, Path]] = {}
    for one in bundles:
        for row in one.targets.to_dict("records"):
            same, where = prints.setdefault(row["target"], (row["fingerprint"], one.folder))
            if same != row["fingerprint"]:
                raise ConfigError(
                    f"the target {row['target']!r} has other parameters in {one.folder} than in {where}, so results"
                    " cannot be compared; run one of them again with the same version"
                )
    output = Path(output)
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty; choose another directory")
    output.mkdir(parents=True, exist_ok=True)
    games, trials, seen = [], [], dict[tuple[Any, ...], str]()
    for number, one in enumerate(bundles):
        groups = dict(list(one.trials.groupby(KEY)))
        by = (
            one.folder.name
            if [h.folder.name for h in bundles].count(one.folder.name) == 1
            else f"{one.folder.name}-{number + 1}"
        )
        for row in one.games.to_dict("records"):
            own = groups.get(tuple(row[k] for k in KEY))
            text = "" if own is None else repr(own[["config", "status", "value"]].to_numpy().tolist())
            key = (row["target"], row["tuner"], row["seed"], text)
            if text and key in seen:
                continue
            seen[key] = text
            who = row["by"] or by
            games.append({**row, "by": who})
            if own is not None:
                trials.append(own.assign(by=who))
    targets = pd.concat([h.targets for h in bundles]).drop_duplicates("target", ignore_index=True)
    config = {
        "format": FORMAT, "merged": [{"folder": str(h.folder), **h.config} for h in bundles], "command": "",
        "versions": versions(), "facts": machine_facts(), "by": "", "trials": max(h.config["trials"] for h in bundles),
        "seeds": sorted({s for h in bundles for s in h.config["seeds"]}), "trust": bundles[0].config["trust"],
        "targets": [], "tuners": [], "seconds": sum(h.config.get("seconds", 0.0) for h in bundles),
    }  # fmt: skip
    write_json(output / CONFIG, config)
    merged = Bundle(
        output, config, pd.DataFrame(games).sort_values(KEY, ignore_index=True),
        pd.concat(trials).sort_values([*KEY, "number"], ignore_index=True), targets,
    )  # fmt: skip
    save(merged)
    return merged
