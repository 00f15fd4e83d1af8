"""Runs and kills one session many times: python kill_nursery.py FOLDER URL KILLS SEED.

Forks from a process that has everything imported, so that the kills fall on the session and not on start-up.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from targets import Logged

from tunewright.errors import UnknownNameError
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.store.store import Store


def run(folder: Path, url: str, trials: int) -> None:
    store, target = Store(url), Logged(folder)
    try:
        session = Session.resume("a", store, target=target)
    except UnknownNameError:
        session = Session.create(Plan(target="logged", tuner="tpe", trust="fast"), "a", store, target=target)
    session.run(trials=trials, verify=False)


def main() -> None:
    folder, url, kills, rng = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), random.Random(int(sys.argv[4]))
    Store(url).close()
    Logged(folder)
    import optuna.samplers  # noqa: F401

    begun = time.monotonic()
    run(folder, url, 5)
    most = max(
        1.0, time.monotonic() - begun
    )  # on a slow machine kills come later, so that trials still end between them
    for _ in range(kills):
        pid = os.fork()
        if pid == 0:
            try:
                run(folder, url, 10_000)
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0.02, most))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"the session ended by itself with status {status}")
    run(folder, url, 5)


if __name__ == "__main__":
    main()
