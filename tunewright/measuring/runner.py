"""The child that runs one measurement: leads a process group of its own and dies with its parent.

Started by :mod:`.isolation` as ``python -m tunewright.measuring.runner RESULT_FD HOOKS_FD [LOCK_FD ...]``; the job
comes on standard input, which then stays open as a lifeline: when it closes, the parent is gone
and the group kills itself.
Commands of the user's that change a system are run by the parent (:mod:`.hooks`), so that what they start
lives on. The locks are only held, so that nobody else changes the system before this process is gone, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import struct
import sys
import threading
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def _read_exactly(count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            os._exit(1)
        data += piece
    return data


def _message() -> bytes:
    (length,) = struct.unpack("<Q", _read_exactly(8))
    return _read_exactly(length)


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that ends while it is looked at does not."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _childless() -> bool:
    """Whether the kernel says so; a child of one that ended is this process's, see :func:`_become_leader`."""
    if sys.platform != "linux":
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def kill_descendants() -> int:
    """Kill everything this process started, whatever group it moved to; return how many were left."""
    if _childless():  # as after most measurements
        return 0
    import psutil

    killed = 0
    for _ in range(20):  # children may still be forking
        children = [c for c in psutil.Process().children(recursive=True) if alive(c)]
        if not children:
            break
        killed += len(children)
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(children, timeout=0.2)
    return killed


def _die_with_parent(lifeline: int) -> None:
    while os.read(lifeline, 4096):
        pass
    kill_descendants()
    os.killpg(0, signal.SIGKILL)


def _become_leader() -> None:
    if sys.platform == "linux":
        # orphans of the benchmark come to this process, so that none escapes the final kill
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")  # if memory runs out the kernel takes the benchmark, not the session


def _call(job: bytes) -> dict[str, Any]:
    import pickle

    from tunewright.errors import TunewrightError

    try:
        target, method, kwargs, sync = pickle.loads(job)  # written by cloudpickle, imported where the job needs it
        if sync:
            os.sync()  # what earlier runs left to write must not be charged to this one
        result = getattr(target, method)(**kwargs)
    except TunewrightError as error:
        return {"error": str(error), "type": type(error).__name__}
    except BaseException as error:  # whatever a benchmark does is a failed trial, never a failed session
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.lineno}"
        return {"error": f"{type(error).__name__}: {error} ({place})", "type": type(error).__name__}
    return {"result": asdict(result) if is_dataclass(result) and not isinstance(result, type) else result}


def main() -> None:
    """Run the job and write its outcome as JSON to the file descriptor given as first argument."""
    from tunewright.measuring import hooks

    result_fd, hooks_fd, *locks = map(int, sys.argv[1:])
    for fd in (result_fd, *locks):
        os.set_inheritable(fd, False)
    hooks.connect(hooks_fd)
    _become_leader()
    # the parent's module path comes first: the job may need modules that only the parent was told about
    sys.path[:] = json.loads(_message())
    job = _message()
    lifeline = os.dup(0)
    with open(os.devnull, "rb") as nothing:  # the benchmark must not read from, or hold on to, the lifeline
        os.dup2(nothing.fileno(), 0)
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    outcome = _call(job)
    outcome["left"] = kill_descendants()
    with os.fdopen(result_fd, "w", encoding="utf-8") as pipe:
        json.dump(outcome, pipe)
    sys.stdout.flush()
    os._exit(0)  # a benchmark's atexit hooks and threads must not hold the session up


if __name__ == "__main__":
    main()
