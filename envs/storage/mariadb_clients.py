"""The user's own SQL as a load: a process with clients that begin together, and the time of each of their passes.

Run as a program: it reads what to do as JSON from standard input, a password with it, and prints the times as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np

from tunewright.envs.storage.mariadb_dsn import Address, Statements, connect
from tunewright.errors import TargetError

_TOGETHER_S = 60.0  # for all clients to have connected


def split_statements(text: str) -> list[str]:
    r"""Split SQL at the semicolons outside quotes and comments; comments are left out.

    >>> split_statements("SELECT 1; -- a; b\nSELECT ';' /* ; */, `a;b`;")
    ['SELECT 1', "SELECT ';' , `a;b`"]
    """
    parts, piece, at = [], "", 0
    while at < len(text):
        sign, two = text[at], text[at : at + 2]
        if two == "/*" and text[at : at + 3] != "/*!":
            end = text.find("*/", at + 2)
            at = len(text) if end < 0 else end + 2
        elif sign == "#" or (two == "--" and text[at + 2 : at + 3] in ("", " ", "\t", "\n", "\r")):
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        elif sign in "'\"`":
            end = _end_of_quote(text, at)
            piece, at = piece + text[at:end], end
        elif sign == ";":
            parts.append(piece.strip())
            piece, at = "", at + 1
        else:
            piece, at = piece + sign, at + 1
    return [part for part in (*parts, piece.strip()) if part]


def _end_of_quote(text: str, begin: int) -> int:
    at = begin + 1
    while at < len(text):
        if text[at] == "\\" and text[begin] != "`":
            at += 2
        elif text[at] == text[begin]:
            return at + 1
        else:
            at += 1
    return len(text)


def run_clients(address: Address, statements: list[str], *, clients: int, passes: int) -> dict[str, float]:
    """Run statements, one pass after the other, from several connections at once.

    Args:
        address: of the server and database.
        statements: of a pass.
        clients: concurrent connections.
        passes: of all clients together.

    Returns:
        ``tps`` (passes a second) and the ``latency`` (mean), ``p50``, ``p95``, ``p99`` of a pass in ms.

    Raises:
        TargetError: a statement fails; the message is the server's.
    """
    work = {"address": asdict(address), "statements": statements, "clients": clients, "passes": passes}
    done = subprocess.run(
        [sys.executable, "-m", "tunewright.envs.storage.mariadb_clients"],
        input=json.dumps(work),
        capture_output=True,
        text=True,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TargetError(f"the clients of the load ended: {last[:300]}") from None
    if "error" in answer:
        raise TargetError(f"the load fails: {answer['error']}")
    return {name: float(value) for name, value in answer.items()}


def _client(work: dict[str, Any], number: int, together: Barrier, out: Connection) -> None:
    """Run the passes of one client; sends its begin, its end and the times of its passes."""
    try:
        with connect(Address(**work["address"])) as connection:
            ask = Statements(connection)
            passes = work["passes"] // work["clients"] + (number < work["passes"] % work["clients"])
            times = np.empty(passes)
            together.wait(_TOGETHER_S)
            begin = time.monotonic()
            for one in range(passes):
                start = time.monotonic()
                for text in work["statements"]:
                    ask(text)
                times[one] = time.monotonic() - start
            out.send((begin, time.monotonic(), times))
    except Exception as error:
        together.abort()  # no other one waits for this one
        out.send(str(error) or type(error).__name__)


def main() -> None:
    """Do what standard input says."""
    import pymysql  # noqa: F401  # once, before the clients are made

    work = json.load(sys.stdin)
    context = multiprocessing.get_context("fork")  # this process has one thread, and its clients its imports
    together = context.Barrier(work["clients"])
    pipes, processes = [], []
    for number in range(work["clients"]):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_client, args=(work, number, together, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append(mine)
        processes.append(process)
    answers: list[Any] = []
    for pipe in pipes:
        try:
            answers.append(pipe.recv())
        except EOFError:
            answers.append("a client was killed")
    for process in processes:
        process.join()
    wrong = [a for a in answers if isinstance(a, str)]
    if wrong:
        # those that only waited for one that failed have nothing to say
        told = next((a for a in wrong if "Barrier" not in a), wrong[0])
        os.write(1, json.dumps({"error": told}).encode())
        return
    times_ms = np.concatenate([a[2] for a in answers]) * 1000
    seconds = max(a[1] for a in answers) - min(a[0] for a in answers)
    p50, p95, p99 = np.percentile(times_ms, (50, 95, 99))
    found = {"tps": len(times_ms) / seconds, "latency": times_ms.mean(), "p50": p50, "p95": p95, "p99": p99}
    os.write(1, json.dumps({name: float(value) for name, value in found.items()}).encode())


if __name__ == "__main__":
    main()
