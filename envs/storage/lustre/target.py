"""Lustre: STELLAR's parameters and workloads on a modelled cluster, or a file system that is mounted here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.envs.storage.lustre import model
from tunewright.envs.storage.lustre.params import commands, space
from tunewright.errors import ConfigError, unknown
from tunewright.space import Config
from tunewright.target import BaseTarget, Budget, Measurement, Metric, check_options, numeric_options


class LustreModel(BaseTarget):
    """A modelled cluster; measuring costs nothing, and noise is part of it.

    Args:
        cluster: the machines.
        noise: coefficient of variation of a run.
        known: workloads by name: what they do, and their phases.
    """

    name = "lustre"
    isolated = False
    parallel_safe = True
    metrics = (Metric(name="seconds", direction="min", unit="s", doc="run time of the workload"),)
    workloads: Mapping[str, str] = {name: words for name, (words, _) in model.WORKLOADS.items()}
    options: Mapping[str, str] = {
        "noise": f"coefficient of variation of a run ({model.NOISE})",
        "ram_mb": "memory of a client",
        "targets": "object storage targets",
        "command": "with lustre:DIRECTORY: what to run, with {dir} for its directory; default: IOR and mdtest",
        "ior": "with lustre:DIRECTORY: how IOR is called (ior); so are mdtest, and launch for what stands before both",
        "remount": "with lustre:DIRECTORY: yes to mount anew before each run (no: locks and caches are dropped)",
        "drop_caches": "with lustre:DIRECTORY: no to leave the kernel's caches, which only root may drop",
    }

    def __init__(
        self,
        cluster: model.Cluster | None = None,
        noise: float = model.NOISE,
        known: Mapping[str, tuple[str, tuple[model.Phase, ...]]] = model.WORKLOADS,
    ) -> None:
        self.cluster, self.noise, self._phases = cluster or model.Cluster(), noise, known
        self.workloads = {name: words for name, (words, _) in known.items()}
        self.exact = noise == 0
        c = self.cluster
        self.facts = {
            "CLIENT_RAM_MB": c.client_ram_mb, "OST_COUNT": c.targets, "clients": c.clients, "ranks": c.ranks,
            "network": "10 Gb/s", "simulated": "a model; see docs/lustre.md for what it was checked against",
        }  # fmt: skip
        self.space = space({"CLIENT_RAM_MB": c.client_ram_mb, "OST_COUNT": c.targets})

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Compute the run time, with noise by the seed."""
        if workload not in self._phases:
            raise unknown("workload", workload, self._phases)
        seconds, parts = model.run_time(config, self._phases[workload][1], self.cluster)
        rng = np.random.default_rng([seed, *self.space.key(config).encode()])
        factor = math.exp(rng.normal(0.0, self.noise)) if self.noise else 1.0
        return Measurement(values={"seconds": seconds * factor}, traces={"parts": parts})

    def drawn(self, rng: np.random.Generator) -> tuple[LustreModel, str]:
        """Draw a cluster and a workload; see :mod:`tunewright.envs.storage.lustre.drawn`."""
        from tunewright.envs.storage.lustre.drawn import draw_cluster, draw_workload

        cluster = draw_cluster(rng)
        return LustreModel(cluster, self.noise, {"drawn": draw_workload(rng, cluster)}), "drawn"

    def render(self, config: Config) -> str:
        """Return the commands that apply the configuration."""
        return "\n".join(commands(config, self.space.changes(config), "DIRECTORY")) or "# the defaults"


MODEL = ("noise", "ram_mb", "targets")
REAL = ("command", "ior", "mdtest", "launch", "remount", "drop_caches", "mounts")


def open_target(argument: str, options: Mapping[str, Any]) -> BaseTarget:
    """Open the model, or with a directory as argument the file system on which it lies; see the options of both.

    Raises:
        ConfigError: an option is wrong, or the directory is not on Lustre.
    """
    known = REAL if argument else MODEL
    check_options(f"lustre{':DIRECTORY' if argument else ''}", options, known)
    if not argument:
        return _open_model(options)
    from tunewright.envs.storage.lustre.real import LustreReal

    told = {k: str(options.get(k, "no" if k == "remount" else "yes")) for k in ("remount", "drop_caches")}
    for name, value in told.items():
        if value not in ("yes", "no") and not (name == "drop_caches" and value.startswith("/")):
            raise ConfigError(f"option {name} must be yes or no, not {value!r}")
    where = {"yes": "/proc/sys/vm/drop_caches", "no": ""}.get(told["drop_caches"], told["drop_caches"])
    return LustreReal(
        Path(argument), command=options.get("command"), caches=where, remount=told["remount"] == "yes",
        tools={k: str(options[k]) for k in ("ior", "mdtest", "launch") if k in options},
        mounts=str(options.get("mounts", "/proc/mounts")),
    )  # fmt: skip


def _open_model(options: Mapping[str, Any]) -> LustreModel:
    given = numeric_options("lustre", options, {"targets": 5.0, "ram_mb": 65_536.0, "noise": model.NOISE})
    targets, ram = given["targets"], given["ram_mb"]
    if not (targets == int(targets) and 1 <= targets <= 1000 and ram >= 1024 and 0 <= given["noise"] < 1):
        raise ConfigError("targets must be 1 to 1000, ram_mb at least 1024, noise at least 0 and below 1")
    cluster = model.Cluster(targets=int(targets), client_ram_mb=int(ram))
    return LustreModel(cluster, given["noise"])
