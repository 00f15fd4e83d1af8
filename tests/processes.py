"""Processes that a test started, and no others: every one of them has the test's own home in its environment."""

import os
import time

import psutil


def of_this_test(part: str) -> list[psutil.Process]:
    """Living processes that this test started, itself or through others, with ``part`` in their command line."""
    home, started = os.environ["TUNEWRIGHT_HOME"], []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("TUNEWRIGHT_HOME") == home and process.status() != psutil.STATUS_ZOMBIE
            if mine and process.pid != os.getpid() and part in " ".join(process.cmdline()):
                started.append(process)
        except psutil.Error:
            continue  # it ended, or is another user's
    return started


def appears(part: str, *, count: int = 1, within_s: float = 60.0) -> bool:
    """Wait until this test has ``count`` such processes."""
    return _until(lambda: len(of_this_test(part)) >= count, within_s)


def ends(part: str, *, within_s: float = 30.0) -> bool:
    """Wait until this test has no such process: a killed one takes a moment on a busy machine."""
    return _until(lambda: not of_this_test(part), within_s)


def _until(condition, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return met
