"""What whole sessions claim where there is nothing to gain: python benchmarks/noise_sessions.py.

Sessions run as users run them, with trials, racing and verification, on a machine that exists in memory: a run takes
virtual seconds, so that nothing waits. ``--sessions N`` sets how many sessions each figure comes from.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import publish, table

from tunewright.errors import TunewrightError
from tunewright.measuring.protocol import TRUST
from tunewright.sessions.session import Session
from tunewright.space import Real, Space
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Budget, Measurement, Metric
from tunewright.tuners.basic import RandomTuner

TRIALS = 10
BOUND_MS = 15.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A kind of machine.

    Attributes:
        says: what it is, for the table.
        hang, fail: share of runs that hang or fail, whatever the configuration.
        level: (virtual seconds, generator's draw in [0, 1]) -> logarithm of the machine's speed then.
        changes: whether the machine really changes in every session.
        gain: what the objective gains from 0 to 1 of ``x0``; 0 where nothing helps.
        bound: the latency, which is better at low ``x0``, must stay below the bound.
        noise: standard deviation of the logarithm of a run.
        tail: share of runs with ten times that noise.
    """

    says: str
    hang: float = 0.0
    fail: float = 0.0
    level: Callable[[float, float], float] = lambda clock_s, draw: 0.0
    changes: bool = False
    gain: float = 0.0
    bound: bool = False
    noise: float = 0.1
    tail: float = 0.0


def _step(clock_s: float, draw: float) -> float:
    return math.log(0.5) if clock_s > 4 + 30 * draw else 0.0


def _trend(clock_s: float, draw: float) -> float:
    return -0.01 * (0.5 + draw) * clock_s


def _periodic(clock_s: float, draw: float) -> float:
    return 0.15 * math.sin(2 * math.pi * (clock_s / 4 + draw))


SCENES = {
    "noise": Scene(says="10 % noise"),
    "outliers": Scene(says="5 % noise, one run in ten far off", noise=0.05, tail=0.1),
    "hangs5": Scene(says="5 % of runs hang", hang=0.05),
    "fails10": Scene(says="10 % of runs hang or fail", hang=0.05, fail=0.05),
    "step": Scene(says="drift: at some time half as fast", level=_step, changes=True),
    "trend": Scene(says="drift: ever slower", level=_trend, changes=True),
    "periodic": Scene(says="drift: faster and slower with a period of four runs", level=_periodic),
    "bound": Scene(says="a bound on the latency", bound=True, noise=0.08),
    "bound_gain": Scene(says="a bound, and speed that costs latency", bound=True, noise=0.08, gain=0.5),
    "all": Scene(
        says="all at once: 10 % failures, a step, a bound", hang=0.05, fail=0.05, level=_step, changes=True, bound=True
    ),
}


class Machine(BaseTarget):
    """A machine in memory: its runs advance a clock of its own.

    Args:
        scene: what kind of machine.
        seed: of its noise.
    """

    name = "machine"
    isolated = False

    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene, self.rng, self.clock_s = scene, np.random.default_rng(seed), 0.0
        self.draw = float(self.rng.random())
        self.space = Space([Real(name=f"x{i}", low=0.0, high=1.0, default=0.2) for i in range(4)])
        self.metrics = (Metric(name="speed", direction="max", unit="ops/s"),)
        if scene.bound:
            self.metrics += (Metric(name="latency", direction="min", unit="ms"),)

    def latency_ms(self, config) -> float:
        """The true latency; at the default 12 ms, and over the bound from x0 = 0.5."""
        return 10 + 10 * config["x0"]

    def measure(self, config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        scene, rng = self.scene, self.rng
        if rng.random() < scene.hang:
            self.clock_s += 20
            return Measurement(status="timed out", reason="it hung")
        self.clock_s += 1
        if rng.random() < scene.fail:
            return Measurement(status="failed", reason="it failed")
        level = scene.level(self.clock_s, self.draw)
        values = {"speed": 100 * (1 + scene.gain * config["x0"]) * math.exp(level + self._noise())}
        if scene.bound:
            values["latency"] = self.latency_ms(config) * math.exp(self._noise())
        return Measurement(values=values)

    def _noise(self) -> float:
        scale = 10 if self.rng.random() < self.scene.tail else 1
        return self.rng.normal(0, scale * self.scene.noise)


@dataclass
class Counts:
    """What came of sessions of one kind at one level."""

    sessions: int = 0
    improved: int = 0
    lost: int = 0
    violating: int = 0
    said_changed: int = 0
    runs: int = 0


def play(store: Store, name: str, scene: Scene, level: str, seed: int, counts: Counts) -> None:
    """Run one session, and count what it claims."""
    target = Machine(scene, seed)
    require = (f"latency<={BOUND_MS:g}",) if scene.bound else ()
    plan = Plan(target="machine", tuner="random", trust=level, seed=seed, require=require)
    counts.sessions += 1
    session = Session.create(plan, name, store, target=target, make=RandomTuner)
    try:
        verdict = session.run(trials=TRIALS)
    except TunewrightError:
        counts.lost += 1
        return
    assert verdict is not None
    counts.improved += verdict.improved
    counts.violating += verdict.improved and scene.bound and target.latency_ms(verdict.config) > BOUND_MS
    counts.said_changed += bool((store.session(name).get("drift") or {}).get("changes"))
    counts.runs += sum(len(t.runs) for t in session.decided) + len(verdict.runs)


def sessions(scene: Scene, level: str, number: int, seed: int = 0) -> Counts:
    """Run sessions of one kind at one level, each with noise of its own."""
    counts = Counts()
    memory = Path("/dev/shm")  # stores that nobody waits for a disk to write
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        for first in range(0, number, 20):  # a store of few sessions is quick to read
            store = Store(f"sqlite:///{folder}/{first}.db")
            for i in range(first, min(first + 20, number)):
                play(store, f"s{i}", scene, level, seed + i, counts)
            store.close()
    return counts


def timed(scene: str, level: str, number: int, seed: int) -> tuple[Counts, float]:
    """Run sessions of one kind at one level; also returns the seconds of processor time."""
    begun = time.process_time()
    return sessions(SCENES[scene], level, number, seed), time.process_time() - begun


def clopper_pearson(hits: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a rate (Clopper and Pearson, Biometrika 1934), by bisection.

    >>> [round(v, 4) for v in clopper_pearson(0, 200)], [round(v, 4) for v in clopper_pearson(5, 200)]
    ([0.0, 0.0183], [0.0082, 0.0574])
    """
    tail = (1 - confidence) / 2

    def at_most(k: int, rate: float) -> float:
        if rate in (0.0, 1.0):
            return float(rate == 0.0 or k >= of)
        logs = (  # a binomial coefficient of a thousand is beyond a float
            math.lgamma(of + 1) - math.lgamma(i + 1) - math.lgamma(of - i + 1) + i * math.log(rate)
            + (of - i) * math.log1p(-rate)
            for i in range(k + 1)
        )  # fmt: skip
        return math.fsum(map(math.exp, logs))

    def root(larger: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if larger(middle) else (low, middle)
        return low

    lower = 0.0 if hits == 0 else root(lambda rate: 1 - at_most(hits - 1, rate) < tail)
    upper = 1.0 if hits == of else root(lambda rate: at_most(hits, rate) > tail)
    return lower, upper


def rate(hits: int, of: int) -> str:
    low, high = clopper_pearson(hits, of)
    return f"{hits} ({100 * hits / of:.1f} %, {100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=200, help="sessions behind each figure")
    parser.add_argument("--scenes", default=",".join(SCENES), help="kinds of machine, by commas")
    parser.add_argument("--levels", default=",".join(TRUST), help="levels of trust, by commas")
    parser.add_argument("--seed", type=int, default=0, help="of the first session of each line")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    given = parser.parse_args()
    rows, totals, seconds = [], {}, 0.0
    names, levels = given.scenes.split(","), given.levels.split(",")
    changed = [f"--{n} {getattr(given, n)}" for n in ("levels", "seed") if getattr(given, n) != parser.get_default(n)]
    with ProcessPoolExecutor(given.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        played = {
            (n, level): pool.submit(timed, n, level, given.sessions, given.seed) for n in names for level in levels
        }
        for (name, level), future in played.items():
            scene = SCENES[name]
            found, took = future.result()
            seconds += took
            true_gain = scene.gain > 0
            rows.append([
                scene.says, level, "a true gain" if true_gain else rate(found.improved, found.sessions),
                found.lost, rate(found.violating, found.sessions) if scene.bound else "",
                ("" if not TRUST[level].paired else f"{100 * found.said_changed / found.sessions:.1f} %"
                 + ("" if scene.changes else " (falsely)")),
                f"{found.runs / max(found.sessions - found.lost, 1):.0f}",
            ])  # fmt: skip
            print(*rows[-1], sep=" | ", flush=True)
            if not true_gain:
                total = totals.setdefault(level, Counts())
                total.sessions, total.improved = total.sessions + found.sessions, total.improved + found.improved
    head = ["machine", "trust", "false Improved", "lost", "violating", "said that the machine changed", "runs"]
    sums = [[level, total.sessions, rate(total.improved, total.sessions)] for level, total in totals.items()]
    publish(
        "noise_sessions",
        "Sessions on noise: what is claimed where there is nothing to gain",
        " ".join(
            ["python benchmarks/noise_sessions.py --sessions", str(given.sessions), "--scenes", given.scenes, *changed]
        ),
        f"""Whole sessions of {TRIALS} trials with the tuner `random`, {given.sessions} behind each line, on a machine in memory whose runs
take virtual seconds. Rates have exact 95 % intervals (Clopper-Pearson). *False Improved*: the verdict says "Improved" where no setting
has any effect on the objective. *Lost*: the session ended in an error. *Violating*: the verdict says "Improved" and its configuration
truly misses the bound (a latency of {BOUND_MS:g} ms, default 12 ms). *Said that the machine changed*: the drift watch did, which works at
`normal` and `strict`. The lines of a level share the seeds of their sessions, so they are not independent of each other. It took
{seconds:.0f} s of processor time.

{table(head, rows)}

All kinds of machine without a true gain together:

{table(["trust", "sessions", "false Improved"], sums)}""",
    )


if __name__ == "__main__":
    main()
