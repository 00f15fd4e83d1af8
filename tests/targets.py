"""Targets that misbehave, for the fault tests; a module, so that isolated children can import it."""

import math
import os
import signal
import subprocess
import sys
import time

from tunewright.space import Choice, Int, Space
from tunewright.target import BaseTarget, Measurement, Metric, Weaker

MARK = "tunewright-test-orphan"


class Misbehaving(BaseTarget):
    """Does what its ``how`` parameter says."""

    name = "misbehaving"
    metrics = (Metric(name="speed", direction="max"),)
    ways = (
        "well", "hang", "exit", "segfault", "raise", "fork", "escape", "eat", "nan", "infinite", "text", "missing", "none", "kill",
    )  # fmt: skip

    def __init__(self, first="well"):
        self.space = Space([Choice(name="how", choices=self.ways, default=first)])

    def measure(self, config, *, workload, seed, budget):
        how = config["how"]
        print("about to", how, flush=True)
        if how == "hang":
            subprocess.Popen([sys.executable, "-c", f"import time; '{MARK}'; time.sleep(600)"])
            time.sleep(600)
        if how == "exit":
            os._exit(3)
        if how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "raise":
            raise ValueError("no luck")
        if how in ("fork", "escape"):
            subprocess.Popen(
                [sys.executable, "-c", f"import time; '{MARK}'; time.sleep(600)"], start_new_session=how == "escape"
            )
            time.sleep(0.3)
        if how == "eat":
            hoard = []
            while True:
                hoard.append(bytearray(32 * 2**20))
                time.sleep(0.01)
        value = {"nan": float("nan"), "infinite": float("inf"), "text": "fast"}.get(how, 1.0)
        if how == "missing":
            return Measurement(values={"sped": 1.0})
        if how == "none":
            return Measurement(values={})
        return Measurement(values={"speed": value})


class Guarded(BaseTarget):
    """Speed grows with n; mode 'loose' doubles it and loses safety."""

    name = "guarded"
    isolated = False
    exact = True
    metrics = (Metric(name="speed", direction="max"), Metric(name="safety", direction="max"))
    workloads = {"one": "the first", "two": "the second"}

    def __init__(self):
        self.space = Space(
            [Int(name="n", low=1, high=5, default=1), Choice(name="mode", choices=("safe", "loose"), default="safe")]
        )

    def guarantees(self, config):
        return {"safety": float(config["mode"] == "safe")}

    def guarantee_names(self):
        return ("mode",)

    def weaker(self, config):
        return [Weaker(config={**config, "mode": "loose"}, loses="safety")]

    def measure(self, config, *, workload, seed, budget):
        return Measurement(
            values={
                "speed": config["n"] * (2.0 if config["mode"] == "loose" else 1.0),
                "safety": float(config["mode"] == "safe"),
            }
        )


class Logged(BaseTarget):
    """Changes a file of the user's, and writes down every measurement outside the store."""

    name = "logged"
    metrics = (Metric(name="speed", direction="max"),)

    def __init__(self, folder):
        self.conf, self.log, self.saved = folder / "server.conf", folder / "measured.log", folder / "saved"
        self.space = Space([Int(name="n", low=1, high=100_000, default=1)])

    def snapshot(self, workdir):
        self.saved.write_text(self.conf.read_text())
        return {"saved": str(self.saved)}

    def restore(self, snapshot):
        self.conf.write_text(self.saved.read_text())

    def measure(self, config, *, workload, seed, budget):
        self.conf.write_text(f"n = {config['n']}\n")
        with self.log.open("a") as file:
            file.write(f"{config['n']}\n")
        time.sleep(0.01)
        return Measurement(values={"speed": float(config["n"])})


class Stumbling(BaseTarget):
    """A target some of whose runs fail, by their number: of all runs, or of those of the better choice alone.

    Args:
        folder: where the runs are counted.
        fails: numbers of runs, from 0, that fail.
        better_only: only runs of the better choice are counted.
    """

    name = "stumbling"
    isolated = False  # what is done about a failed run does not depend on the process that it failed in
    limit_seconds = 60.0

    def __init__(self, folder, fails, better_only=False):
        self.folder, self.fails, self.better_only = folder, fails, better_only
        self.space = Space([Choice(name="mode", choices=("plain", "better"), default="plain")])
        self.metrics = [Metric(name="speed", direction="max")]
        self.workloads = {"only": "one"}

    def measure(self, config, *, workload, seed, budget):
        better = config["mode"] == "better"
        counted = self.folder / "runs"
        number = counted.stat().st_size if counted.exists() else 0
        if better or not self.better_only:
            with counted.open("a") as file:
                file.write(".")
            if number in self.fails:
                return Measurement(status="failed", reason="it stumbled")
        return Measurement(values={"speed": (150.0 if better else 100.0) * (1 + 0.05 * (seed * 7 % 11) / 11)})


class Bounded(BaseTarget):
    """Throughput and latency both grow with ``load``; only up to a load of 50 the latency is 15 ms or less.

    Args:
        noise: standard deviation of the log of a run's latency; throughput has a tenth of it.
        seed: of the noise.
        default: the default's load.
        better: throughput grows with the load; False where it falls, so that a smaller load is better in both.
    """

    name = "bounded"
    isolated = False

    def __init__(self, noise=0.08, seed=0, default=20, better=True):
        import numpy as np  # not for the other targets, whose children start faster without

        self.noise, self.rng, self.better = noise, np.random.default_rng([seed, 77]), better
        self.space = Space([Int(name="load", low=1, high=100, default=default)])
        self.metrics = (
            Metric(name="ops", direction="max"), Metric(name="lat", direction="min", unit="ms"),
        )  # fmt: skip
        self.workloads = {"only": "one"}

    @staticmethod
    def latency(config):
        return 10 + 0.1 * config["load"]

    def measure(self, config, *, workload, seed, budget):
        ops = 100 + (1 if self.better else -0.5) * config["load"]
        lat = self.latency(config) * math.exp(self.rng.normal(0, self.noise))
        return Measurement(values={"ops": ops * math.exp(self.rng.normal(0, self.noise / 10)), "lat": lat})
