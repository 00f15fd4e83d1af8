"""Targets that misbehave, for the fault tests; a module, so that isolated children can import it."""

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
