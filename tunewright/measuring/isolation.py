"""How one configuration is run once: isolation, hard limits, and the check of what comes back."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

from tunewright.errors import TargetError, TunewrightError
from tunewright.measuring import guarding, hooks
from tunewright.measuring.interrupts import uninterrupted
from tunewright.measuring.runner import alive
from tunewright.space import Config
from tunewright.space.facts import machine_facts
from tunewright.target import BaseTarget, Budget, Measurement, Metric

_FIRST_POLL_S, _LAST_POLL_S = 0.05, 0.4
_OUTPUT_TAIL = 2000
_STOPPING_S = 10.0


class _Outcome:
    def __init__(self, status: str, reason: str = "", result: Any = None, seconds: float = 0.0, left: int = 0) -> None:
        self.status, self.reason, self.result, self.seconds, self.left = status, reason, result, seconds, left


class Runs:
    """The measuring processes of one session, which knows its own by their ids and ends no others; thread-safe.

    At the end of a ``with`` block none of them runs any more, so that what comes next, such as putting things back, has
    nothing beside it.

    Args:
        locks: descriptors of locks that every child holds until it is gone.
        note: folder where the user's commands are noted while they run, see :func:`tunewright.measuring.hooks.noting`.
        log: path that the names of these commands' logs begin with.
    """

    def __init__(self, locks: tuple[int, ...] = (), note: Path | None = None, log: Path | None = None) -> None:
        self.locks, self.records = locks, hooks.Records(note=note, log=log)
        #: with the thread that waits for it, and what runs the commands that it asks for
        self._children: dict[int, tuple[subprocess.Popen[bytes], int, hooks.Server]] = {}
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *exc: object) -> None:
        with uninterrupted():
            self.stop()

    def add(self, child: subprocess.Popen[bytes], server: hooks.Server) -> bool:
        """Take a child in; False if no more are to run."""
        with self._lock:
            self._children[child.pid] = child, threading.get_ident(), server
            return not self._stopped

    def remove(self, child: subprocess.Popen[bytes]) -> None:
        """Forget a child that has ended."""
        with self._lock:
            self._children.pop(child.pid, None)

    def stop(self) -> None:
        """Kill every child with all that its measurement started, and let none start any more.

        Returns when each is gone and the commands of the user's that they had begun are through, so that nothing runs
        beside what comes next.
        """
        with self._lock:
            self._stopped = True
            children = list(self._children.values())
        for child, *_ in children:
            kill_tree(child)
        end, me = time.monotonic() + hooks.LIMIT_S + _STOPPING_S, threading.get_ident()
        for child, thread, server in children:
            if thread == me:  # a second signal may have cut the wait for it short
                child.wait()
                server.join()
                self.remove(child)
        while any(thread != me for _, thread, _ in [*self._children.values()]) and time.monotonic() < end:
            time.sleep(0.01)  # other threads wait for theirs


def _tree(pid: int) -> list[psutil.Process]:
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return []


def _processes(numbers: Collection[int]) -> list[psutil.Process]:
    found = []
    for number in numbers:
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(number))
    return found


def _memory(processes: list[psutil.Process]) -> int:
    """Resident bytes of the processes; what they share is counted once, by the largest share."""
    private = shared = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            info = process.memory_info()
            part = getattr(info, "shared", 0)
            private += info.rss - part
            shared = max(shared, part)
    return private + shared


def kill_tree(child: subprocess.Popen[bytes], seen: Mapping[int, psutil.Process] | None = None) -> None:
    """Kill a child's process group with all descendants, also those that moved to a group of their own.

    Args:
        child: leader of a group; one that was waited for is not killed: its id may be another's by now.
        seen: descendants that were seen while it ran.
    """
    for _ in range(50):
        there = {} if child.returncode is not None else {p.pid: p for p in _tree(child.pid)}
        there.update({n: p for n, p in (seen or {}).items() if alive(p)})
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
        targets = [p for p in there.values() if p.pid != os.getpid()]
        for process in targets:
            with contextlib.suppress(psutil.Error):
                process.kill()
        _, rest = psutil.wait_procs(targets, timeout=0.1)
        if not any(alive(p) for p in rest):
            return


def run_isolated(
    target: BaseTarget, method: str, *, sync: bool = False, runs: Runs | None = None, **kwargs: Any
) -> _Outcome:
    """Call a method of the target in a process group of its own, under the limits of ``kwargs['budget']``.

    The group is killed whole when it ends, overruns its time or memory, or when this process goes away. What commands
    of :func:`tunewright.measuring.hooks.run` start is not in the group, and is left alone.
    """
    runs = runs or Runs()
    budget: Budget = kwargs["budget"]
    limit_bytes = budget.memory_bytes or int(machine_facts()["RAM_BYTES"] * 0.75)
    read_fd, write_fd = os.pipe()
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory(prefix="tw-") as folder:
        if budget.bounds is not None:
            budget = kwargs["budget"] = replace(budget, progress=Path(folder, "progress"))
        job = cloudpickle.dumps((target, method, kwargs, sync))
        server = hooks.Server(runs.records)
        given = (write_fd, server.theirs.fileno(), *runs.locks)
        seen: dict[int, psutil.Process] = {}
        child: subprocess.Popen[bytes] | None = None
        try:
            with uninterrupted():  # a child that nobody knows of could not be ended
                child = subprocess.Popen(
                    [sys.executable, "-P", "-m", "tunewright.measuring.runner", *map(str, given)],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    pass_fds=given,
                    start_new_session=True,
                )
                os.close(write_fd)
                server.start()
                wanted = runs.add(child, server)
            if not wanted:
                return _Outcome("interrupted", "the session was stopped")
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                for message in (json.dumps(sys.path).encode(), job):
                    child.stdin.write(struct.pack("<Q", len(message)) + message)
                child.stdin.flush()
            beside = partial(target.processes, budget.workdir, child.pid)
            status, reason, raw = _wait(child, read_fd, start + budget.seconds, budget, limit_bytes, seen, beside)
            if not status:  # it closed its pipe, so it is about to end; its exit code tells how
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(5)
        finally:  # also on Ctrl-C; a second one must not cut this short
            with uninterrupted():
                os.close(read_fd)
                if child is not None:
                    if child.returncode is None or seen:
                        kill_tree(child, seen)
                    with contextlib.suppress(BrokenPipeError):
                        child.stdin.close()  # type: ignore[union-attr]
                    child.wait()
                    server.join()
                    runs.remove(child)
        seconds = time.perf_counter() - start
        if status:
            return _Outcome(status, reason, seconds=seconds)
        try:
            outcome = json.loads(raw)
        except ValueError:
            return _Outcome("failed", _crash(child.returncode, output), seconds=seconds)
    if "error" in outcome:
        return _Outcome("failed", outcome["error"], outcome["type"], seconds, outcome["left"])
    return _Outcome("ok", "", outcome["result"], seconds, outcome["left"])


def _wait(
    child: subprocess.Popen[bytes],
    read_fd: int,
    deadline: float,
    budget: Budget,
    limit_bytes: int,
    seen: dict[int, psutil.Process],
    beside: Callable[[], Collection[int]],
) -> tuple[str, str, bytes]:
    """Collect the child's answer; return (status if it was stopped, reason, answer)."""
    raw, poll_s, checked = b"", _FIRST_POLL_S, time.perf_counter()
    while True:
        readable, _, _ = select.select([read_fd], [], [], poll_s)
        if readable:
            piece = os.read(read_fd, 1 << 16)
            if not piece:
                return "", "", raw
            raw += piece
            continue
        now = time.perf_counter()
        if now >= deadline:
            return "timed out", f"it ran longer than its limit of {budget.seconds:.3g} s and was killed", b""
        if now - checked >= poll_s:
            processes = _tree(child.pid)
            seen.update({p.pid: p for p in processes if p.pid != child.pid})
            others = _processes(beside())
            used = _memory([*processes, *others])
            if used > limit_bytes:
                for process in others:
                    with contextlib.suppress(psutil.Error):
                        process.kill()
                gib = 2**30
                return (
                    "killed",
                    f"it used {used / gib:.2f} GiB of memory, limit {limit_bytes / gib:.2f} GiB",
                    b"",
                )
            if budget.bounds is not None and (ended := _watched(budget)):
                return *ended, b""
            checked, poll_s = now, min(poll_s * 1.5, _LAST_POLL_S)
        poll_s = min(poll_s, max(deadline - now, 0.001))


def _watched(budget: Budget) -> tuple[str, str] | None:
    """Return the status and reason of a run that is to be ended, None of one that may go on."""
    if (share := guarding.memory_share()) > guarding.FULL:
        return "killed", f"{100 * share:.0f} % of the memory was in use, limit {100 * guarding.FULL:.0f} %"
    if budget.progress is not None and (told := budget.bounds.broken(guarding.reports(budget.progress))):
        return "timed out", f"it was ended early: {told}"
    return None


def _crash(code: int, output: Any) -> str:
    output.seek(0, os.SEEK_END)
    output.seek(max(0, output.tell() - _OUTPUT_TAIL))
    tail = output.read().decode(errors="replace").strip().splitlines()
    said = f"; it last said: {tail[-1][:300]}" if tail else ""
    if code < 0:
        name = signal.Signals(-code).name
        why = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"the process was ended by {name}{why}{said}"
    return f"the process exited with code {code} before it gave a result{said}"


def call_isolated(target: BaseTarget, method: str, *, runs: Runs | None = None, **kwargs: Any) -> Any:
    """Call a method such as ``prepare`` in isolation and return its JSON-able result.

    Raises:
        TargetError: it failed, hung or was killed; the message says how.
    """
    if not target.isolated:
        return getattr(target, method)(**kwargs)
    outcome = run_isolated(target, method, runs=runs, **kwargs)
    if outcome.status != "ok":
        raise TargetError(f"target {target.name!r}, {method}: {outcome.reason}")
    return outcome.result


def measure_once(
    target: BaseTarget, config: Config, *, workload: str, seed: int, budget: Budget, runs: Runs | None = None
) -> Measurement:
    """Run one configuration once; every way it can go wrong becomes the measurement's status and reason.

    Args:
        target: what to measure.
        config: a legal configuration.
        workload: name of the workload.
        seed: of the run.
        budget: its limits.
        runs: the session's measuring processes, so that it can end them; None outside a session.
    """
    start = time.perf_counter()
    kwargs: dict[str, Any] = {"config": dict(config), "workload": workload, "seed": seed, "budget": budget}
    if target.isolated:
        outcome = run_isolated(target, "measure", sync=True, runs=runs, **kwargs)
        if outcome.status != "ok":
            status: Any = outcome.status
            return Measurement(status=status, reason=outcome.reason, seconds=outcome.seconds)
        found = Measurement(**{**outcome.result, "seconds": outcome.seconds})
        if outcome.left:
            traces = {
                **found.traces,
                "outlived": f"{outcome.left} processes outlived the run and were killed",
            }
            found = Measurement(**{**outcome.result, "seconds": outcome.seconds, "traces": traces})
    else:
        try:
            found = target.measure(**kwargs)
        except TunewrightError as error:
            found = Measurement(status="failed", reason=str(error))
        except Exception as error:
            found = Measurement(status="failed", reason=f"{type(error).__name__}: {error}")
        found = Measurement(
            values=found.values,
            status=found.status,
            reason=found.reason,
            traces=found.traces,
            seconds=time.perf_counter() - start,
        )
    return checked(found, target.metrics)


def checked(found: Measurement, metrics: Any) -> Measurement:
    """Return the measurement, or a failed one if a metric is missing, not a number, NaN or infinite."""
    if not found.ok:
        return found
    wanted: list[Metric] = list(metrics)
    values = {}
    for metric in wanted:
        value = found.values.get(metric.name)
        if value is None:
            given = ", ".join(found.values) or "none"
            reason = f"the run gave no value for metric {metric.name!r} (it gave: {given})"
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            reason = f"metric {metric.name!r} is {value!r}, which is not a finite number"
        else:
            values[metric.name] = float(value)
            continue
        return Measurement(status="failed", reason=reason, seconds=found.seconds, traces=found.traces)
    return Measurement(values=values, seconds=found.seconds, traces=found.traces)
