"""Tuner tournaments: every tuner on every target with the same seeds and budgets, each game a stored session.

A game is one tuner on one target with one seed. Its session is written trial by trial, so that an interrupted
tournament goes on where it was. Games of targets that may run side by side are spread over workers; those of real
systems, which would disturb each other, run one at a time and alone.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright.comparing import bundle
from tunewright.comparing.bundle import Bundle
from tunewright.comparing.games import Entry, Game, Tournament, entries, open_entry, plan_of
from tunewright.comparing.playing import job_of, on_executor, on_processes, play_game
from tunewright.comparing.rows import objectives_of, target_facts
from tunewright.errors import ConfigError, TunewrightError
from tunewright.measuring.executors import adopted
from tunewright.measuring.protocol import trust as trust_level
from tunewright.measuring.scripts import require_main_guard
from tunewright.sessions.setup import set_up
from tunewright.store.dsn import MASK, read_dsn
from tunewright.store.secrets import public_plan
from tunewright.target import BaseTarget


class Watcher:
    """What a tournament tells while it runs; does nothing by itself."""

    def began(self, games: int, done: int) -> None:
        """All games are known; so many were played before."""

    def running(self, names: Sequence[str]) -> None:
        """These games are being played."""

    def ended(self, row: Mapping[str, Any]) -> None:
        """A game has ended; the row is as in the bundle's table of games."""

    def left_out(self, what: str, why: str) -> None:
        """A pair of target and tuner that does not work is left out."""


def compare(
    targets: Sequence[Any],
    tuners: Sequence[Any] = ("random", "tpe", "gp"),
    *,
    trials: int = 30,
    seeds: int | Sequence[int] = 10,
    directory: str | Path | None = None,
    trust: str = "fast",
    workers: int | None = None,
    executor: Executor | None = None,
    store: str | None = None,
    resume: bool = False,
    skip: bool = False,
    watcher: Watcher | None = None,
    trust_file: bool = False,
) -> Bundle:
    """Run a tournament.

    Args:
        targets: specs as for ``tunewright tune``, with ``@WORKLOAD`` and ``@NAME=VALUE`` behind them, or targets.
        tuners: specs likewise, or (label, function that makes a tuner of a problem).
        trials: configurations of each game, the default included.
        seeds: how many, or which; game k of every tuner shares data, noise and order.
        directory: of the bundle; None for a temporary one.
        trust: ``fast``, ``normal`` or ``strict``: how much is spent on a trial. The winner of every game is measured
            afresh against the default.
        workers: games at once, for targets that allow it; None for one a core.
        executor: where games run instead, such as ``dask.distributed.Client(...).get_executor()``; then give a store
            that all workers reach.
        store: URL of the sessions; None for a file in the bundle.
        resume: go on with the tournament in the directory.
        skip: leave out pairs of target and tuner that do not work, instead of ending.
        watcher: is told what happens.
        trust_file: let ``policy:FILE.zip`` open files that can run code; said anew with ``resume``, never stored.

    Returns:
        The bundle: tables, figures and the report.

    Raises:
        ConfigError: the directory holds something else, or a pair does not work.
        KeyboardInterrupt: nothing is lost; run it again with ``resume``.
    """
    if executor is None:
        require_main_guard("tunewright.compare")
    trust_level(trust)
    if trials < 2:
        raise ConfigError(f"a game needs at least 2 trials, the default's and another, not {trials}")
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ConfigError("seeds must be a number above 0, or different numbers")
    plan = Tournament(
        targets=entries(targets, "target"), tuners=entries(tuners, "tuner"), trials=trials, seeds=numbers, trust=trust,
        by=socket.gethostname(),
    )  # fmt: skip
    watcher, said = watcher or Watcher(), description(plan, store)
    bundle.examine(directory, said, resume=resume)
    opened = {e.label: open_entry(e) for e in plan.targets}
    for entry in plan.targets:
        objectives_of(entry, opened[entry.label])
    unfit = _unfit(plan, opened, skip, watcher, trust_file)  # before anything is written
    folder = bundle.begin(directory, said)
    try:
        return play(
            plan, folder, opened, unfit, workers=workers, executor=executor, store=store, watcher=watcher,
            trust_file=trust_file,
        )  # fmt: skip
    except KeyboardInterrupt as stopped:
        stopped.add_note(bundle.remains(folder))
        raise


def description(plan: Tournament, store: str | None) -> dict[str, Any]:
    """Return a tournament as the bundle keeps it, JSON-able and without secrets."""

    def plain(entry: Entry, target: BaseTarget | None) -> dict[str, Any]:
        public = public_plan({"target": entry.spec, "options": entry.options, "tuner_options": {}}, target)
        several = {"objectives": list(entry.objectives)} if entry.objectives else {}
        return {
            "label": entry.label, "spec": public["target"], "workload": entry.workload, "options": public["options"],
            "object": entry.made is not None, **several,
        }  # fmt: skip

    return {
        "targets": [plain(e, open_entry(e)) for e in plan.targets], "tuners": [plain(e, None) for e in plan.tuners],
        "trials": plan.trials, "seeds": list(plan.seeds), "trust": plan.trust, "by": plan.by,
        "store": store and read_dsn(store).public,
    }  # fmt: skip


def again(folder: Path, *, store: str | None = None, **how: Any) -> Bundle:
    """Go on with the tournament that a directory holds; arguments as for :func:`compare`.

    Args:
        folder: the directory.
        store: URL of the sessions, where the one that was kept lacks its password.
        **how: as for :func:`compare`.

    Raises:
        ConfigError: it holds none, or one of targets or tuners that were objects.
    """
    config = bundle.described(folder)
    parts = []
    for kind in ("targets", "tuners"):
        known = []
        for e in config[kind]:
            if e["object"]:
                raise ConfigError(f"{e['label']!r} was an object of a program; go on from that program")
            if MASK in e["options"].values():
                raise ConfigError(f"{e['label']!r} has a secret option, which is not kept; run the same command again")
            known.append(
                Entry(
                    label=e["label"], spec=e["spec"], workload=e["workload"], options=e["options"],
                    objectives=tuple(e.get("objectives", ())),
                )
            )  # fmt: skip
        parts.append(known)
    return compare(
        parts[0], parts[1], trials=config["trials"], seeds=config["seeds"], directory=folder, trust=config["trust"],
        store=store or config["store"], resume=True, **how,
    )  # fmt: skip


def play(
    plan: Tournament,
    folder: Path,
    opened: Mapping[str, BaseTarget],
    unfit: set[tuple[str, str]],
    *,
    workers: int | None,
    executor: Executor | None,
    store: str | None,
    watcher: Watcher,
    trust_file: bool = False,
) -> Bundle:
    """Play all games that the folder does not hold yet, and write its tables."""
    facts = {e.label: target_facts(e, opened[e.label]) for e in plan.targets}
    number = bundle.described(folder)["id"] if store else ""
    fit = [g for g in plan.games() if (g.target.label, g.tuner.label) not in unfit]
    games = [replace(g, tournament=number, trust_file=trust_file) for g in fit]
    url = store or f"sqlite:///{folder.resolve() / bundle.SESSIONS}"
    keep = bundle.Keeper(folder, bundle.played(folder))
    done = {r["game"]["name"] for r in keep.rows}
    left = [g for g in games if g.name not in done]
    watcher.began(len(games), len(games) - len(left))
    started = time.monotonic()
    shared = [g for g in left if opened[g.target.label].parallel_safe]
    alone = [g for g in left if not opened[g.target.label].parallel_safe]
    work = str(folder.resolve() / "work")

    def ended(row: dict[str, Any], trials: list[dict[str, Any]]) -> None:
        keep.add(row, trials)
        watcher.ended(row)

    executor = adopted(executor)
    if executor is not None:
        on_executor(shared, executor, url, work, watcher.running, ended)
        for game in alone:  # real systems: nothing else runs beside them
            on_executor([game], executor, url, work, watcher.running, ended)
    else:
        on_processes(shared, workers or len(os.sched_getaffinity(0)), url, work, watcher.running, ended)
        for game in alone:
            watcher.running([game.name])
            ended(*play_game(job_of(game, url, work)))
    return bundle.finish(folder, keep.rows, facts, time.monotonic() - started)


def _unfit(
    plan: Tournament, opened: Mapping[str, BaseTarget], skip: bool, watcher: Watcher, trust_file: bool
) -> set[tuple[str, str]]:
    """Build every tuner for every target once, so that what cannot work is said before hours are spent."""
    unfit = set()
    for target in plan.targets:
        for tuner in plan.tuners:
            game = Game(target=target, tuner=tuner, seed=plan.seeds[0], trials=plan.trials, trust=plan.trust)
            try:
                set_up(plan_of(game), "probe", opened[target.label], make=tuner.made, trust_file=trust_file)
            except TunewrightError as error:
                what = f"{tuner.label} on {target.label}"
                if not skip:
                    raise ConfigError(f"{what} cannot work: {error}. Leave one of them out, or give --skip") from None
                unfit.add((target.label, tuner.label))
                watcher.left_out(what, str(error))
    return unfit
