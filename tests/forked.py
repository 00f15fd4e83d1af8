"""Commands and functions in processes of their own, each a fork of one that has imported what they need.

A new interpreter would spend nearly all of its time on imports. Each command has its own memory, streams and
environment; ``Commands`` is the side of the tests, and running this module is the side of the process that forks.
"""

import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: what most commands need, imported once
OURS = (
    "cli.app", "cli.display", "envs.parallelism.cli", "envs.parallelism.check", "envs.parallelism.planning", "envs.scheduling.cli",
    "envs.scheduling.cluster.simulate", "envs.scheduling.serving.simulate", "envs.scheduling.spark.simulate", "envs.tables",
    "knowledge.cli", "knowledge.manuals", "knowledge.tracestats", "report.timeline", "store.store",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended; ``peak_mb`` is the most memory that its process had."""

    returncode: int
    stdout: str
    stderr: str
    peak_mb: int


class Commands:
    """Starts the process that forks at the first command; a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Commands":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._process.communicate(timeout=60)  # the end of its input ends it

    def run(self, *words: object, env: dict[str, str] | None = None) -> Ended:
        """Run a command line of tunewright in a process of its own."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            streams = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
            job = {"words": [*map(str, words)], "env": {**os.environ, **(env or {})}, "streams": streams}
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            reply = json.loads(self._process.stdout.readline())
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        return Ended(**reply, stdout=texts[0], stderr=texts[1])


def ended(function: Callable[..., object], *args: object) -> int:
    """Call a function in a copy of this process, which ends with it; returns its exit code, 0 where it returned."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function(*args)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _child(job: dict, report: int) -> int:
    """Be the command; returns its exit code."""
    os.environ.clear()
    os.environ.update(job["env"])
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the command's, not what came before
    for number, path in enumerate(job["streams"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    sys.stdin = io.StringIO()
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    from tunewright.cli import main

    try:
        return main(job["words"])
    finally:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        os.write(report, str(int(status["VmHWM"].split()[0]) // 1024).encode())
        for stream in (sys.stdout, sys.stderr):
            stream.flush()


def _serve() -> None:
    for name in ("numba", "numpy", "optuna", "pydantic", *(f"tunewright.{part}" for part in OURS)):
        with suppress(ImportError):  # of an extra
            importlib.import_module(name)

    for line in sys.stdin:
        seen, report = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(seen)
            code = 70  # if it raises, which is printed where its errors go
            try:
                code = _child(json.loads(line), report)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(report)
        with open(seen, encoding="ascii") as peak:
            peak_mb = int(peak.read() or 0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"returncode": code, "peak_mb": peak_mb}), flush=True)


if __name__ == "__main__":
    _serve()
