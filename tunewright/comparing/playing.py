"""Playing games: in this process, on processes of this machine, or on workers that somebody else keeps."""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle

from tunewright.comparing.games import Game, open_entry, plan_of
from tunewright.comparing.rows import game_row, game_rows
from tunewright.errors import HeldError, TunewrightError, UnknownNameError
from tunewright.measuring.executors import first_done
from tunewright.measuring.threads import one_thread
from tunewright.sessions.session import Session
from tunewright.store.secrets import redact
from tunewright.store.store import Store

_HELD_S = 60.0  # how long the session of a lost worker may be held
_CRASHES = 2  # how often a game may take its worker down before it is given up
Row = dict[str, Any]
Running = Callable[[Sequence[str]], None]  # is told the names of the games that are being played
Ended = Callable[[Row, list[Row]], None]  # is given the rows of a game that has ended, and of its trials


def job_of(game: Game, url: str, work: str) -> bytes:
    """Return a game as any process can be given it, for :func:`play_game`.

    Args:
        game: the game.
        url: of the store with its session.
        work: directory for the target's files.
    """
    return bytes(cloudpickle.dumps((game, url, work)))


@cache
def _store(url: str) -> Store:
    return Store(url)


def play_game(job: bytes) -> tuple[Row, list[Row]]:
    """Play one game, or go on with it; runs in any process that reaches the store."""
    game, url, work = cloudpickle.loads(job)
    _die_with_the_tournament()
    begun = time.monotonic()
    store, target = _store(url), open_entry(game.target)
    how = {"target": target, "make": game.tuner.made, "trust_file": game.trust_file}
    with _interruptible(), one_thread():
        try:
            _run(game, store, work, how)
            reason = ""
        except TunewrightError as error:
            reason = redact(str(error))
        except Exception as error:  # a fault of a tuner or target costs its game, not the tournament
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            reason = redact(f"{type(error).__name__}: {error} ({place})")
    row, trials = game_rows(store, game.session, game, target, reason)
    row["wall_s"] = round(time.monotonic() - begun, 6)
    row["host"] = socket.gethostname()
    return row, trials


def _run(game: Game, store: Store, work: str, how: dict[str, Any]) -> None:
    """Run a game's session to its end, wherever it stands."""
    patience = time.monotonic() + _HELD_S
    while True:
        record = _record(store, game.session)
        if record and record.get("status") == "done" and record["verdict"]:
            return
        try:
            if record:
                session = Session.resume(game.session, store, **how)
            else:
                session = Session.create(plan_of(game, work), game.session, store, **how)
            session.run(total=game.trials, verify=True)
            return
        except HeldError:  # by a worker that was lost, until the store notices
            if time.monotonic() > patience:
                raise
            time.sleep(0.5)


def _record(store: Store, name: str) -> dict[str, Any]:
    """Return what a store holds of a session; nothing if there is none, or it was killed while it was made."""
    try:
        return {} if store.unborn(name) else store.session(name)
    except UnknownNameError:
        return {}


def on_executor(games: Sequence[Game], executor: Executor, url: str, work: str, running: Running, ended: Ended) -> None:
    """Play on workers that somebody else keeps; a game whose worker is lost is played on by another."""
    pending = {executor.submit(play_game, job_of(g, url, work)): (g, 0) for g in games}
    try:
        while pending:
            running([f"{len(pending)} games on {type(executor).__name__}"])
            for future in first_done(pending, executor):
                game, lost = pending.pop(future)
                try:
                    ended(*future.result())
                except TunewrightError:
                    raise
                except Exception as error:
                    if lost + 1 >= _CRASHES:
                        ended(game_row(game, f"its worker was lost: {type(error).__name__}: {error}"), [])
                    else:
                        pending[executor.submit(play_game, job_of(game, url, work))] = (game, lost + 1)
    finally:
        for future in pending:
            future.cancel()


def on_processes(games: Sequence[Game], workers: int, url: str, work: str, running: Running, ended: Ended) -> None:
    """Play on processes of this machine; one that dies is replaced.

    All processes end with it. So the games that were running are played again one at a time: of these, the one that
    takes its process down again is given up, and no other is lost with it.
    """
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
                while waiting and len(pending) < (1 if _suspects(crashes, waiting, pending.values()) else workers):
                    game = waiting.pop()
                    pending[pool.submit(play_game, job_of(game, url, work))] = game
                running([g.name for g in pending.values()])
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    ended(*future.result())
                    del pending[future]
            pool.shutdown()
        except BrokenProcessPool:
            for game in pending.values():
                crashes[game.name] = crashes.get(game.name, 0) + 1
                if crashes[game.name] >= _CRASHES:
                    ended(game_row(game, "its worker died, twice; see the machine's log for why"), [])
                else:
                    waiting.append(game)
            pool.shutdown(wait=False, cancel_futures=True)
        except BaseException:
            _end_workers(pool, ids)
            raise


def _suspects(crashes: Mapping[str, int], *games: Iterable[Game]) -> bool:
    return any(game.name in crashes for some in games for game in some)


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
