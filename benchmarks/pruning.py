"""Whether what is recommended is exactly what matters: python benchmarks/pruning.py.

Whole sessions, as users run them, on programs in memory whose settings have known effects: some pay, the others are
placebos. ``--sessions N`` sets how many sessions each figure comes from, ``--half`` which half of the programs runs.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from common import publish, table
from noise_sessions import rate

from tunewright.measuring.protocol import TRUST
from tunewright.sessions import reduction, setup
from tunewright.sessions.session import Session
from tunewright.space import Choice, Config, Space
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Budget, Measurement, Metric
from tunewright.tuners.basic import RandomTuner

TRIALS = 12
STAGES = ("search", "verification", "second verification", "pruning", "staircase")
Effect = Callable[[frozenset[str]], float]  # names that are on -> logarithm of the speed


def each(**ratios: float) -> Effect:
    """Every name gives its own ratio."""
    return lambda on: math.fsum(math.log(ratios[name]) for name in on if name in ratios)


def together(ratio: float, alone: float = 1.0) -> Effect:
    """``p`` and ``q`` give the ratio only if both are on, and another one each on its own."""
    gains = {0: 0.0, 1: math.log(alone), 2: math.log(ratio)}
    return lambda on: gains[len(on & {"p", "q"})]


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program, and what its settings do.

    Attributes:
        says: what pays, for the table.
        names: settings that matter, or may.
        placebos: how many do nothing.
        effect: what those that are on give.
        noise: standard deviations of the logarithm of a run.
        choices: values of a setting; ``off`` is the default, and one that matters does so at ``on``.
        outliers: share of runs with ten times that noise.
        times: sessions of it come so many times, for a more exact figure.
    """

    says: str
    names: tuple[str, ...]
    placebos: int
    effect: Effect
    noise: tuple[float, ...]
    choices: tuple[str, ...] = ("off", "on", "x", "y")
    outliers: float = 0.0
    times: int = 1

    def on(self, config: Config) -> frozenset[str]:
        return frozenset(n for n in self.names if config[n] == "on")

    def needed(self, config: Config) -> list[frozenset[str]]:
        """The smallest sets of a configuration's settings that give all that it gives."""
        on = self.on(config)
        for size in range(len(on) + 1):
            found = [frozenset(s) for s in itertools.combinations(sorted(on), size)]
            enough = [s for s in found if self.effect(s) > self.effect(on) - 1e-9]
            if enough:
                return enough
        return []


CHOSEN_ON = (
    Program(says="one of five, 1.6×", names=("p",), placebos=4, effect=each(p=1.6), noise=(0.1, 0.2)),
    Program(
        says="one of nine, 2.5×", names=("p",), placebos=8, effect=each(p=2.5), noise=(0.1, 0.3), choices=("off", "on")
    ),
    Program(
        says="two that only pay together, 1.8×, and two placebos",
        names=("p", "q"), placebos=2, effect=together(1.8), noise=(0.1,), choices=("off", "on"),
    ),
    Program(
        says="three of six, 1.4× each",
        names=("p", "q", "r"), placebos=3, effect=each(p=1.4, q=1.4, r=1.4), noise=(0.05,), choices=("off", "on"),
    ),
)  # fmt: skip
JUDGED_ON = (
    Program(says="one of five, 2×", names=("p",), placebos=4, effect=each(p=2.0), noise=(0.15,), times=3),
    Program(says="one of five, 2×", names=("p",), placebos=4, effect=each(p=2.0), noise=(0.05, 0.3)),
    Program(
        says="one of five, 2×; one run in ten far off",
        names=("p",), placebos=4, effect=each(p=2.0), noise=(0.05,), outliers=0.1,
    ),
    Program(says="one of five, 1.3×", names=("p",), placebos=4, effect=each(p=1.3), noise=(0.05,)),
    Program(says="one of twelve, 2×", names=("p",), placebos=11, effect=each(p=2.0), noise=(0.15,)),
    Program(
        says="two that only pay together, 2×, and four placebos",
        names=("p", "q"), placebos=4, effect=together(2.0), noise=(0.05, 0.15), choices=("off", "on"),
    ),
    Program(
        says="two that pay together, 2×, and cost 0.8× alone",
        names=("p", "q"), placebos=3, effect=together(2.0, alone=0.8), noise=(0.1,), choices=("off", "on"),
    ),
    Program(
        says="two of which either gives all, 2×",
        names=("p", "q"), placebos=3, effect=together(2.0, alone=2.0), noise=(0.1,), choices=("off", "on"),
    ),
    Program(
        says="three of six, 1.3×, 1.5×, 2×",
        names=("p", "q", "r"), placebos=3, effect=each(p=1.3, q=1.5, r=2.0), noise=(0.05, 0.1), choices=("off", "on"),
    ),
)  # fmt: skip
HALVES = {"chosen": CHOSEN_ON, "judged": JUDGED_ON}
TITLES = {
    "judged": "Programs to judge by",
    "chosen": "Programs on which the constants were chosen",
}


class Simulated(BaseTarget):
    """A program in memory, which counts its runs by what they are for.

    Args:
        program: what it does.
        noise: standard deviation of the logarithm of a run.
        seed: of the session; its noise and the order of its settings follow from it.
    """

    name = "simulated"
    isolated = False
    metrics = (Metric(name="speed", direction="max", unit="1/s"),)

    def __init__(self, program: Program, noise: float, seed: int) -> None:
        self.program, self.noise, self.rng = program, noise, np.random.default_rng([7, seed])
        names = [*program.names, *(f"n{i}" for i in range(program.placebos))]
        names = [names[i] for i in self.rng.permutation(len(names))]
        self.space = Space([Choice(name=n, choices=program.choices, default="off") for n in names])
        self.first, self.runs = seed * setup.SEEDS + setup.VERIFICATION_SEEDS, dict.fromkeys(STAGES, 0)

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        self.runs[STAGES[max((seed - self.first) // reduction.SEEDS, -1) + 1]] += 1
        scale = 10 if self.rng.random() < self.program.outliers else 1
        log = self.program.effect(self.program.on(config)) + self.rng.normal(0, scale * self.noise)
        return Measurement(values={"speed": 100 * math.exp(log)})


@dataclass
class Counts:
    """What came of the sessions with one program, at one level of trust and noise.

    Attributes:
        sessions: all of them.
        shown: an improvement was, by a winner that holds something that matters; the others say nothing of pruning.
        exact: exactly what matters was recommended.
        lost: something that matters was taken back.
        kept: nothing was lost, and something that does not matter was recommended, too.
        runs: what they were for -> how many, in sessions that are ``shown``.
    """

    sessions: int = 0
    shown: int = 0
    exact: int = 0
    lost: int = 0
    kept: int = 0
    runs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))

    def __add__(self, other: Counts) -> Counts:
        both = {n: getattr(self, n) + getattr(other, n) for n in ("sessions", "shown", "exact", "lost", "kept")}
        return Counts(**both, runs={n: self.runs[n] + other.runs[n] for n in STAGES})


def play(store: Store, program: Program, noise: float, level: str, seed: int) -> Counts:
    """Run one session, and say what came of it."""
    target = Simulated(program, noise, seed)
    plan = Plan(target="simulated", tuner="random", trust=level, seed=seed)
    verdict = Session.create(plan, f"s{seed}", store, target=target, make=RandomTuner).run(trials=TRIALS)
    assert verdict is not None
    winner = verdict.pruned["config"] if verdict.pruned else verdict.config
    needed = program.needed(winner)
    if not verdict.improved or needed == [frozenset()]:
        return Counts(sessions=1)
    left = frozenset(verdict.changes)
    exact, lost = left in needed, not any(it <= left for it in needed)
    return Counts(sessions=1, shown=1, exact=exact, lost=lost, kept=not exact and not lost, runs=target.runs)


def sessions(program: Program, noise: float, level: str, number: int, seed: int = 0) -> Counts:
    """Run sessions with one program, each with noise of its own."""
    counts, memory = Counts(), Path("/dev/shm")  # stores that nobody waits for a disk to write
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        for first in range(0, number, 20):  # a store of few sessions is quick to read
            store = Store(f"sqlite:///{folder}/{first}.db")
            for i in range(first, min(first + 20, number)):
                counts += play(store, program, noise, level, seed + i)
            store.close()
    return counts


def timed(half: str, place: int, noise: float, level: str, number: int) -> tuple[Counts, float]:
    """Run sessions with one program of a half; also returns the seconds of processor time."""
    begun = time.process_time()
    program = HALVES[half][place]
    return sessions(program, noise, level, number * program.times), time.process_time() - begun


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def line(found: Counts) -> list[str]:
    """The figures of a row."""
    shown = max(found.shown, 1)
    pruning = found.runs["pruning"] + found.runs["second verification"] + found.runs["staircase"]
    before = found.runs["search"] + found.runs["verification"]
    return [
        f"{found.shown} of {found.sessions}", rate(found.exact, found.shown) if found.shown else "-",
        share(found.lost, found.shown), share(found.kept, found.shown), f"{before / shown:.0f}",
        f"{found.runs['pruning'] / shown:.0f}", f"{pruning / shown:.0f}",
    ]  # fmt: skip


HEAD = ["improvement shown", "exactly what matters", "something lost", "something too many", "runs before", "runs of the tests", "runs of all that pruning adds"]  # fmt: skip


def of_half(half: str, number: int, pool: ProcessPoolExecutor) -> tuple[str, str, float]:
    """Run the programs of a half; returns the table of each, the table of all together, and the processor time."""
    futures = {
        (place, noise, level): pool.submit(timed, half, place, noise, level, number)
        for place, program in enumerate(HALVES[half])
        for noise in program.noise
        for level in TRUST
    }
    rows, totals, seconds = [], {level: Counts() for level in TRUST}, 0.0
    for (place, noise, level), future in futures.items():
        found, took = future.result()
        seconds, totals[level] = seconds + took, totals[level] + found
        rows.append([HALVES[half][place].says, f"{100 * noise:.0f} %", level, *line(found)])
        print(*rows[-1], sep=" | ", flush=True)
    sums = [[level, *line(total)] for level, total in totals.items()]
    return table(["what pays", "noise of a run", "trust", *HEAD], rows), table(["trust", *HEAD], sums), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100, help="sessions behind each figure")
    parser.add_argument(
        "--half",
        choices=[*HALVES, "both"],
        default="judged",
        help="which programs: those to judge by, those that constants of pruning were chosen on, or both",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    given = parser.parse_args()
    with ProcessPoolExecutor(given.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        halves = [h for h in reversed(HALVES) if given.half in (h, "both")]
        found = {half: of_half(half, given.sessions, pool) for half in halves}
    parts = [
        f"## {TITLES[half]}\n\nAll of them together:\n\n{all_of_it}\n\nEach:\n\n{rows}"
        for half, (rows, all_of_it, _) in found.items()
    ]
    body = "\n\n".join(parts)
    most = given.sessions * max(p.times for h in halves for p in HALVES[h])
    publish(
        "pruning",
        "Pruning: is what is recommended exactly what matters?",
        f"python benchmarks/pruning.py --sessions {given.sessions} --half {given.half}",
        f"""Whole sessions of {TRIALS} trials with the tuner `random`, {given.sessions} behind each line or {most} where it says so, on programs in memory whose
settings have known effects. A setting has four values or two; the default is `off`, one that pays does so at `on`, and the others
do nothing. *Exactly what matters*: the recommendation changes the smallest set of settings that gives the winner's whole gain, and nothing else. *Something
lost*: a setting that the winner had and needs is not in it. *Something too many*: nothing is lost, but a setting that does nothing is
changed, too. The three are shares of the sessions that showed an improvement by a winner with something that pays. *Runs of all that
pruning adds*: those of its tests, of the second verification, and of the staircase.

How many pairs a test may take and how long the second verification goes on were chosen on other programs than those to judge
by (`--half chosen` prints these). The errors of the tests are older; they were set with a program like the first one in view. It took
{sum(seconds for *_, seconds in found.values()):.0f} s of processor time.

{body}""",
    )


if __name__ == "__main__":
    main()
