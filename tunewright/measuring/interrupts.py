"""Signals that end a session: an orderly end for each, and no end in the middle of putting things back."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_ENDS = (signal.SIGTERM, signal.SIGHUP)
_ALL = (signal.SIGINT, *_ENDS)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def interrupt(signum: int, frame: Any) -> None:
    """Signal handler: end the session as Ctrl-C does.

    Raises:
        KeyboardInterrupt: always.
    """
    if signum == signal.SIGHUP:
        _leave_the_terminal()
    raise KeyboardInterrupt


def _leave_the_terminal() -> None:
    """Send what is still printed nowhere: the terminal is gone, and an error from it must not stop the putting back."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
    os.close(nowhere)


def again(ignored: sys.UnraisableHookArgs) -> None:
    """Hook for what Python cannot raise: an interrupt that came inside a finaliser is sent once more, not lost."""
    if ignored.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(ignored)
        return
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()


@contextmanager
def orderly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt where nobody handles or ignores them (as nohup does)."""
    before: dict[signal.Signals, Any] = {}
    if _in_main_thread():
        for number in _ENDS:
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C, SIGTERM and SIGHUP back until the end of the block; in other threads they do not come anyway."""
    if not _in_main_thread():
        yield
        return
    waiting: list[int] = []

    def note(number: int, frame: Any) -> None:
        waiting.append(number)

    before: dict[signal.Signals, Any] = {}
    for number in _ALL:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])
