"""What tests of tournaments play: targets and tuners with faults of their own, and small tournaments."""

import os
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from unittest import mock

import tunewright as tw
from tunewright.testing import Sphere
from tunewright.tuner import BaseTuner, Suggestion


class Slow(Sphere):
    """Takes a moment, and writes down when it ran; not to be run side by side."""

    name = "slow"
    parallel_safe = False

    def __init__(self, log, seconds=0.01, **how):
        super().__init__(**how)
        self.log, self.seconds = log, seconds

    def measure(self, config, **how):
        begun = time.monotonic()
        time.sleep(self.seconds)
        with open(self.log, "a") as file:
            file.write(f"{begun} {time.monotonic()}\n")
        return super().measure(config, **how)


class Deadly(Sphere):
    """Takes its process down at some configurations."""

    name = "deadly"

    def __init__(self, mark, always=False):
        super().__init__()
        self.mark, self.always = Path(mark), always

    def measure(self, config, **how):
        if config["x0"] != 0.9 and (self.always or not self.mark.exists()):
            self.mark.touch()
            os._exit(9)
        return super().measure(config, **how)


class Illegal(BaseTuner):
    """Proposes what is out of range, what was tried, and now and then something new."""

    def ask(self, history):
        space = self.problem.space
        if history.attempt == 0:
            return Suggestion(config={**space.default, "x0": 7.0}, why="out of range")
        if history.attempt == 1:
            return Suggestion(config=space.default, why="the default again")
        return Suggestion(config=space.decode(self.problem.rng(history).random(len(space))), why="at last")


class Broken(BaseTuner):
    def ask(self, history):
        raise ZeroDivisionError("a fault of the tuner")


class Here(Executor):
    """Plays in this process: starting a worker takes longer than a game."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def undrawn():
    """While it is entered, tournaments write no report: its figures take longer than the games."""
    return mock.patch("tunewright.comparing.bundle.write_page", lambda bundle, path: path)


def run(folder, targets=None, tuners=("random", "tpe"), **how):
    """A tournament in this process; ``executor=None`` for workers of its own."""
    how = {"trials": 6, "seeds": 3, "executor": Here(), **how}
    return tw.compare(targets or [Sphere()], tuners, directory=folder, **how)
