"""What caution costs, and what it spares: sessions with and without --careful on simulated servers with cliffs.

``python benchmarks/careful.py --sessions 50`` prints the table of docs/results/careful.md. Each session has a server of
its own: where the optimum of each parameter lies, which of them have a cliff, how far it is from today's value and how
steep, is drawn by lot. A part of the cliffs is as sudden as they come.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from common import publish, table

from tunewright.sessions.session import Session
from tunewright.space import Choice, Int, Real, Space
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Budget, Measurement, Metric

TRIALS = 25


class Cliffs(BaseTarget):
    """A server whose speed falls off at places that nobody knows.

    Args:
        seed: of the server.
        noise: standard deviation of the log of a run's speed.
        told: the target's list of dangerous settings names its worst choices, as a target's author would.
        sudden: share of the cliffs that have no slope before them.
    """

    name = "cliffs"
    isolated = False

    def __init__(self, seed: int, *, noise: float = 0.03, told: bool = True, sudden: float = 0.2) -> None:
        rng = self.rng = np.random.default_rng([seed, 19])
        self.noise, self.told = noise, told
        params = [
            Int(name="work_mem", low=64, high=4_194_304, default=4096, log=True, unit="kB"),
            Int(name="buffers", low=16, high=65536, default=128, log=True, unit="MB"),
            Int(name="segments", low=2, high=2048, default=64, log=True),
            Real(name="cost", low=0.1, high=16.0, default=4.0, log=True),
            Int(name="workers", low=0, high=16, default=2),
            Real(name="delay", low=0.0, high=100.0, default=20.0),
            Choice(name="method", choices=("sync", "threads", "uring"), default="threads"),
            Choice(name="compress", choices=("off", "fast", "high"), default="off"),
        ]  # fmt: skip
        self.space = Space(params)
        self.metrics = (
            Metric(name="tps", direction="max", unit="1/s"), Metric(name="latency", direction="min", unit="ms"),
        )  # fmt: skip
        self.workloads = {"only": "one"}
        home = self.space.encode(self.space.default)
        self.peaks: dict[str, tuple[float, float]] = {}
        self.cliffs: list[tuple[str, float, float, float, float]] = []
        for i, param in enumerate(params[:6]):
            self.peaks[param.name] = (float(rng.uniform(0, 1)), float(rng.uniform(0.0, 0.35)))
            for sign in (-1.0, 1.0):
                room = home[i] if sign < 0 else 1 - home[i]
                if rng.random() < 0.4 and room > 0.2:
                    slope = 0.003 if rng.random() < sudden else float(rng.uniform(0.03, 0.12))
                    self.cliffs.append((param.name, sign, float(home[i] + sign * rng.uniform(0.15, room)),
                                        slope, float(rng.uniform(0.05, 0.35))))  # fmt: skip
        self.worst = {p.name: str(rng.choice([c for c in p.choices if c != p.default])) for p in params[6:]}
        self.factors = {
            p.name: {
                c: 1.0 if c == p.default else float(rng.uniform(0.1, 0.4) if c == self.worst[p.name] else rng.uniform(0.85, 1.25))
                for c in p.choices
            }
            for p in params[6:]
        }  # fmt: skip
        self.base = self._log_speed(self.space.default)

    def dangerous(self) -> dict[str, str]:
        """Name what is known to be bad of such servers."""
        if not self.told:
            return {}
        known = {f"{name} == '{choice}'": "it is slow on every server" for name, choice in self.worst.items()}
        return {"work_mem < 4096": "sorts and hashes spill to disk", **known}

    def _log_speed(self, config: dict[str, object]) -> float:
        at = dict(zip(self.space.params, self.space.encode(config), strict=True))
        total = math.log(1000.0)
        for name, (peak, height) in self.peaks.items():
            total += height * math.exp(-(((at[name] - peak) / 0.3) ** 2))
        for name, sign, place, slope, depth in self.cliffs:
            share = 1 / (1 + math.exp(min(max(-sign * (at[name] - place) / slope, -60), 60)))
            total += math.log(1 - (1 - depth) * share)
        # what sorts in PostgreSQL lose below the default: 64 kB is at 0.19 of 4 MB
        total += 0.4 * min(math.log(float(config["work_mem"]) / 4096), 0.0)  # type: ignore[arg-type]
        return total + sum(math.log(self.factors[name][str(config[name])]) for name in self.factors)

    def ratio(self, config: dict[str, object]) -> float:
        """Return the true speed over the default's."""
        return math.exp(self._log_speed(config) - self.base)

    def measure(self, config: dict[str, object], *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Return speed and latency with noise."""
        speed = math.exp(self._log_speed(config) + self.rng.normal(0, self.noise))
        return Measurement(values={"tps": speed, "latency": 4000.0 / speed})


def play(seed: int, *, careful: bool, tuner: str, told: bool, sudden: float, trials: int = TRIALS) -> dict[str, float]:
    """Run one session, and return what its trials truly were.

    Returns:
        ``worst`` and ``best``, ratios of the true speed to the default's (``best`` of the trial that measured best),
        ``bad``, how many trials lay below half of it, and ``tried``, how many there were.
    """
    target = Cliffs(seed, told=told, sudden=sudden)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{Path(folder, 's.db')}")
        plan = Plan(target="cliffs", tuner=tuner, seed=seed, careful=careful)
        with Session.create(plan, "a", store, target=target) as session:
            session.run(trials=trials, verify=False)
            ratios = [target.ratio(t.config) for t in session.decided if t.step]
            best = session.best
            gain = target.ratio(best.config) if best is not None else 1.0
    return {"worst": min(ratios), "best": gain, "bad": sum(r < 0.5 for r in ratios), "tried": len(ratios)}


def line(sessions: int, pool: Executor, **how: object) -> list[str]:
    """Return one line of the table."""
    played = list(pool.map(partial(play, **how), range(sessions)))  # type: ignore[arg-type]
    worst, best = (np.array([one[what] for one in played]) for what in ("worst", "best"))
    low, high = np.percentile(best, [25, 75])
    tried = sum(one["tried"] for one in played)
    return [
        f"{100 * float(np.mean(worst >= 0.5)):.0f} %", f"{np.median(worst):.2f}", f"{worst.min():.2f}",
        f"{100 * sum(one['bad'] for one in played) / tried:.1f} %", f"{np.median(best):.2f} ({low:.2f} to {high:.2f})",
    ]  # fmt: skip


def main() -> None:
    """Print the table, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--tuner", default="tpe")
    given = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(2) as pool:
        for careful, told, sudden, says in (
            (False, True, 0.0, "off"),
            (True, True, 0.0, "on"),
            (True, False, 0.0, "on, with nothing named as dangerous"),
            (True, True, 0.3, "on, three in ten cliffs sudden"),
        ):
            how = {"careful": careful, "tuner": given.tuner, "told": told, "sudden": sudden}
            rows.append([says, *line(given.sessions, pool, **how)])
            print(*rows[-1], sep=" | ", flush=True)
    head = [
        "careful mode", "sessions whose worst trial is ≥ 0.5×", "median of the worst", "worst of all",
        "trials below 0.5×", "best found (quartiles)",
    ]  # fmt: skip
    about = (
        f"{given.sessions} sessions of {TRIALS} trials behind each line, with the tuner `{given.tuner}` at "
        "`--trust normal`, on simulated servers with eight parameters, 3 % noise and about five cliffs each, behind "
        "which the speed falls to between 0.05 and 0.35 of what it was. A cliff has a slope of 3 to 12 % of its "
        "parameter's range, but for three in ten of the last line. One parameter is PostgreSQL's `work_mem`, where 64 kB "
        "lie at 0.19× of the default. Ratios are true speeds over the default's, without noise; the best found is the "
        "trial that measured best.\n\n"
    )
    command = f"python benchmarks/careful.py --sessions {given.sessions}"
    publish("careful", "Careful mode: what caution costs, and what it spares", command, about + table(head, rows))


if __name__ == "__main__":
    main()
