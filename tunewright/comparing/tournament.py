"""Tuner tournaments: every tuner on every target with the same seeds and budgets, each game a stored session.

A game is one tuner on one target with one seed. Its session is written trial by trial, so that an interrupted
tournament goes on where it was. Games of targets that may run side by side are spread over workers; those of real
systems, which would disturb each other, run one at a time and alone.
"""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle

from tunewright.comparing import bundle
from tunewright.comparing.bundle import Bundle
from tunewright.errors import ConfigError, HeldError, TunewrightError, UnknownNameError, unknown
from tunewright.measuring.executors import adopted, first_done
from tunewright.measuring.protocol import trust as trust_level
from tunewright.plugins import TARGETS, TUNERS, installed, open_target, split_spec
from tunewright.sessions.session import Session
from tunewright.store.dsn import MASK, read_dsn
from tunewright.store.plan import Plan
from tunewright.store.secrets import public_options, public_plan, public_spec, redact
from tunewright.store.store import Store
from tunewright.target import BaseTarget
from tunewright.tuner import Problem, Tuner

_HELD_S = 60.0  # how long the session of a lost worker may be held
_CRASHES = 2  # how often a game may take its worker down before it is given up
MakeTuner = Callable[[Problem], Tuner]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A target or a tuner of a tournament.

    Attributes:
        label: its name in tables; unique.
        spec: as ``tunewright tune`` takes it.
        workload: of a target.
        options: of the target or tuner.
        made: the target itself, or what makes the tuner, where it is no spec.
    """

    label: str
    spec: str
    workload: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    made: Any = None


@dataclass(frozen=True, kw_only=True)
class Tournament:
    """What is compared; see :func:`compare` for the fields."""

    targets: Sequence[Entry]
    tuners: Sequence[Entry]
    trials: int = 30
    seeds: Sequence[int] = tuple(range(10))
    trust: str = "fast"
    by: str = ""

    def games(self) -> Iterator[Game]:
        """Yield all games, those of one seed together, so that an unfinished tournament is still paired."""
        for seed in self.seeds:
            for target in self.targets:
                for tuner in self.tuners:
                    yield Game(target=target, tuner=tuner, seed=seed, trials=self.trials, trust=self.trust)


@dataclass(frozen=True, kw_only=True)
class Game:
    """One tuner on one target with one seed."""

    target: Entry
    tuner: Entry
    seed: int
    trials: int
    trust: str
    tournament: str = ""
    trust_file: bool = False

    @property
    def name(self) -> str:
        """Its name in the tournament."""
        return f"{self.target.label} | {self.tuner.label} | {self.seed}"

    @property
    def session(self) -> str:
        """The name of its session; a store may hold those of many tournaments."""
        return f"{self.tournament} {self.name}".strip()


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


# -- reading what is to be compared -----------------------------------------------------------------


def entries(texts: Sequence[Any], kind: str) -> list[Entry]:
    """Read targets or tuners: ``NAME[:ARGUMENT]``, with ``@WORKLOAD`` (targets) and ``@NAME=VALUE`` behind it.

    A target object stands for itself; a tuner that is no spec is (label, function of the problem).

    Example:
        >>> first, second = entries(("tpe@startup=10", "random"), "tuner")
        >>> first.spec, first.options
        ('tpe', {'startup': '10'})

    Raises:
        ConfigError: a text cannot be read, or two entries have one name.
        UnknownNameError: there is no such target or tuner.
    """
    found = [entry(t, kind) for t in texts]
    labels = [e.label for e in found]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"{label!r} stands twice among the {kind}s; tell them apart by their options")
    if not found:
        raise ConfigError(f"name at least one {kind}; 'tunewright {kind}s' lists them")
    return found


def entry(given: Any, kind: str) -> Entry:
    """Read one target or tuner; see :func:`entries`."""
    if isinstance(given, Entry):
        return given
    if isinstance(given, BaseTarget):
        return Entry(label=given.name, spec=given.name, made=given)
    if isinstance(given, tuple) and len(given) == 2 and callable(given[1]):
        return Entry(label=str(given[0]), spec=str(given[0]), made=given[1])
    spec, *rest = str(given).strip().split("@")
    workload, options = "", {}
    for word in rest:
        name, equals, value = word.partition("=")
        if equals:
            options[name.strip()] = value.strip()
        elif kind == "target" and not workload:
            workload = word
        else:
            raise ConfigError(f"cannot read {word!r} in {given!r}; options of a {kind} are written @NAME=VALUE")
    name, argument = split_spec(spec)
    points = installed(TARGETS if kind == "target" else TUNERS)
    if name not in points and not (kind == "tuner" and name == "auto"):
        raise unknown(kind, name, points, plural="Installed")
    if kind == "target" and argument and not workload and not Path(argument).exists():
        with suppress(TunewrightError):  # lustre:ior-16m: the argument may be meant as a workload
            if argument in open_target(name, options).workloads:
                return Entry(label=spec, spec=name, workload=argument, options=options)
    shown = f"{name}:{Path(argument).name.split('.')[0]}" if name in ("table", "command", "policy") else spec
    public = public_options(options)  # the label stands in every table, and in the sessions' names
    words = [w if public.get(k := w.partition("=")[0].strip()) == options.get(k) else f"{k}={public[k]}" for w in rest]
    return Entry(label="@".join([public_spec(shown), *words]), spec=spec, workload=workload, options=options)


def _open(entry: Entry) -> BaseTarget:
    made: BaseTarget | None = entry.made
    if made is not None:
        return made
    try:
        return _opened(entry.spec, tuple(entry.options.items()))
    except TunewrightError as error:
        kind, argument = split_spec(entry.spec)
        known: list[str] = []
        if argument and kind not in ("table", "command"):
            with suppress(TunewrightError):  # a workload that is misspelt, perhaps
                known = list(open_target(kind).workloads)
        if not known:
            raise
        raise ConfigError(f"{error}. Workloads of {kind}, written {kind}@WORKLOAD: {', '.join(known)}") from None


@cache
def _opened(spec: str, options: tuple[tuple[str, str], ...]) -> BaseTarget:
    return open_target(spec, dict(options))  # once in a process: reading a table takes longer than a game on it


def _plan(game: Game, workdir: str = "") -> Plan:
    return Plan(
        target=game.target.spec, workload=game.target.workload, tuner=game.tuner.spec, seed=game.seed, trust=game.trust,
        options=game.target.options, tuner_options=game.tuner.options, workdir=workdir,
    )  # fmt: skip


# -- playing ----------------------------------------------------------------------------------------


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
    opened = {e.label: _open(e) for e in plan.targets}
    unfit = _unfit(plan, opened, skip, watcher, trust_file)  # before anything is written
    folder = bundle.begin(directory, said)
    return play(
        plan, folder, opened, unfit, workers=workers, executor=executor, store=store, watcher=watcher,
        trust_file=trust_file,
    )  # fmt: skip


def description(plan: Tournament, store: str | None) -> dict[str, Any]:
    """Return a tournament as the bundle keeps it, JSON-able and without secrets."""

    def plain(entry: Entry, target: BaseTarget | None) -> dict[str, Any]:
        public = public_plan({"target": entry.spec, "options": entry.options, "tuner_options": {}}, target)
        return {
            "label": entry.label, "spec": public["target"], "workload": entry.workload, "options": public["options"],
            "object": entry.made is not None,
        }  # fmt: skip

    return {
        "targets": [plain(e, _open(e)) for e in plan.targets], "tuners": [plain(e, None) for e in plan.tuners],
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
    held = bundle.described(folder)
    parts = []
    for kind in ("targets", "tuners"):
        made = []
        for e in held[kind]:
            if e["object"]:
                raise ConfigError(f"{e['label']!r} was an object of a program; go on from that program")
            if MASK in e["options"].values():
                raise ConfigError(f"{e['label']!r} has a secret option, which is not kept; run the same command again")
            made.append(Entry(label=e["label"], spec=e["spec"], workload=e["workload"], options=e["options"]))
        parts.append(made)
    return compare(
        parts[0], parts[1], trials=held["trials"], seeds=held["seeds"], directory=folder, trust=held["trust"],
        store=store or held["store"], resume=True, **how,
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
    facts = {e.label: bundle.target_facts(e.label, opened[e.label], e.workload) for e in plan.targets}
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
        _on_executor(shared, executor, url, work, watcher, ended)
        for game in alone:  # real systems: nothing else runs beside them
            _on_executor([game], executor, url, work, watcher, ended)
    else:
        _on_processes(shared, workers or len(os.sched_getaffinity(0)), url, work, watcher, ended)
        for game in alone:
            watcher.running([game.name])
            ended(*_play(_job(game, url, work)))
    return bundle.finish(folder, keep.rows, facts, time.monotonic() - started)


def _unfit(
    plan: Tournament, opened: Mapping[str, BaseTarget], skip: bool, watcher: Watcher, trust_file: bool
) -> set[tuple[str, str]]:
    """Build every tuner for every target once, so that what cannot work is said before hours are spent."""
    found = set()
    for target in plan.targets:
        for tuner in plan.tuners:
            game = Game(target=target, tuner=tuner, seed=plan.seeds[0], trials=plan.trials, trust=plan.trust)
            try:
                Session.probe(_plan(game), opened[target.label], make=tuner.made, trust_file=trust_file)
            except TunewrightError as error:
                what = f"{tuner.label} on {target.label}"
                if not skip:
                    raise ConfigError(f"{what} cannot work: {error}. Leave one of them out, or give --skip") from None
                found.add((target.label, tuner.label))
                watcher.left_out(what, str(error))
    return found


def _job(game: Game, url: str, work: str) -> bytes:
    return bytes(cloudpickle.dumps((game, url, work)))


@cache
def _store(url: str) -> Store:
    return Store(url)


def _play(job: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Play one game, or go on with it; runs in any process that reaches the store."""
    game, url, work = cloudpickle.loads(job)
    _die_with_the_tournament()
    begun = time.monotonic()
    store, target = _store(url), _open(game.target)
    how = {"target": target, "make": game.tuner.made, "trust_file": game.trust_file}
    with _interruptible():
        try:
            _run(game, store, work, how)
            reason = ""
        except TunewrightError as error:
            reason = redact(str(error))
        except Exception as error:  # a fault of a tuner or target costs its game, not the tournament
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            reason = redact(f"{type(error).__name__}: {error} ({place})")
    row, trials = bundle.game_rows(store, game.session, game, target, reason)
    row["wall_s"] = round(time.monotonic() - begun, 6)
    row["host"] = socket.gethostname()
    return row, trials


def _run(game: Game, store: Store, work: str, how: dict[str, Any]) -> None:
    """Run a game's session to its end, wherever it stands."""
    patience = time.monotonic() + _HELD_S
    while True:
        held = _held(store, game.session)
        if held and held.get("status") == "done" and held["verdict"]:
            return
        try:
            if held:
                session = Session.resume(game.session, store, **how)
            else:
                session = Session.create(_plan(game, work), game.session, store, **how)
            session.run(total=game.trials, verify=True)
            return
        except HeldError:  # by a worker that was lost, until the store notices
            if time.monotonic() > patience:
                raise
            time.sleep(0.5)


def _held(store: Store, name: str) -> dict[str, Any]:
    """Return what a store holds of a session; nothing if there is none."""
    try:
        return store.session(name)
    except UnknownNameError:
        return {}


def _on_executor(games: Sequence[Game], executor: Executor, url: str, work: str, watcher: Watcher, ended: Any) -> None:
    """Play on workers that somebody else keeps; a game whose worker is lost is played on by another."""
    pending = {executor.submit(_play, _job(g, url, work)): (g, 0) for g in games}
    try:
        while pending:
            watcher.running([f"{len(pending)} games on {type(executor).__name__}"])
            for future in first_done(pending, executor):
                game, lost = pending.pop(future)
                try:
                    ended(*future.result())
                except TunewrightError:
                    raise
                except Exception as error:
                    if lost + 1 >= _CRASHES:
                        ended(bundle.game_row(game, f"its worker was lost: {type(error).__name__}: {error}"), [])
                    else:
                        pending[executor.submit(_play, _job(game, url, work))] = (game, lost + 1)
    finally:
        for future in pending:
            future.cancel()


def _on_processes(games: Sequence[Game], workers: int, url: str, work: str, watcher: Watcher, ended: Any) -> None:
    """Play on processes of this machine; one that dies costs its games a try, and is replaced."""
    waiting = list(games)[::-1]
    crashes: dict[str, int] = {}
    while waiting:
        context = get_context("spawn")
        ids = context.SimpleQueue()
        pool = ProcessPoolExecutor(
            min(workers, len(waiting)), mp_context=context, initializer=_quiet_worker, initargs=(ids,)
        )
        pending: dict[Future[Any], Game] = {}
        try:
            while waiting or pending:
                while waiting and len(pending) < workers:
                    game = waiting.pop()
                    pending[pool.submit(_play, _job(game, url, work))] = game
                watcher.running([g.name for g in pending.values()])
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    ended(*future.result())
                    del pending[future]
            pool.shutdown()
        except BrokenProcessPool:
            for game in pending.values():
                crashes[game.name] = crashes.get(game.name, 0) + 1
                if crashes[game.name] >= _CRASHES:
                    ended(bundle.game_row(game, "its worker died, twice; see the machine's log for why"), [])
                else:
                    waiting.append(game)
            pool.shutdown(wait=False, cancel_futures=True)
        except BaseException:
            _end_workers(pool, ids)
            raise


def _end_workers(pool: ProcessPoolExecutor, ids: Any) -> None:
    """Let running games put back what they changed, then end the workers: the pool's own, by their ids.

    Args:
        pool: is shut down; a worker that has not begun yet ends by itself then.
        ids: queue on which each worker wrote its id.
    """
    import psutil

    pool.shutdown(wait=False, cancel_futures=True)
    workers = []
    while not ids.empty():
        with suppress(psutil.Error):
            workers.append(psutil.Process(ids.get()))
    mine = os.getpid()
    workers = [w for w in workers if _parent(w) == mine]  # an id may be somebody else's by now
    for worker in workers:
        with suppress(psutil.Error):
            worker.terminate()
    _, alive = psutil.wait_procs(workers, timeout=30)
    for worker in alive:
        with suppress(psutil.Error):
            worker.kill()


def _parent(process: Any) -> int:
    import psutil

    try:
        return int(process.ppid())
    except psutil.Error:
        return 0


_PLAYING = False


def _quiet_worker(ids: Any) -> None:
    ids.put(os.getpid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C goes to all; the parent decides
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop_worker)


def _stop_worker(signum: int, frame: Any) -> None:
    if not _PLAYING:
        os._exit(0)
    raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[None]:
    global _PLAYING
    _PLAYING = True
    try:
        yield
    finally:
        _PLAYING = False


@cache
def _die_with_the_tournament() -> None:
    """End this worker when the process that started it is gone, so that no game goes on unseen."""
    if signal.getsignal(signal.SIGTERM) is not _stop_worker:
        return  # not a worker of ours
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG, linux/prctl.h
