"""A Lustre file system that is mounted here: set by ``lctl`` and ``lfs``, measured by IOR, mdtest or a command.

Nothing is set persistently; every client parameter of the file system is put back, for each of its devices by itself.
Files lie in a directory of their own below the one that was given, with the layout of the trial.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright.envs.storage.lustre.params import CONSTRAINTS, commands, parameters
from tunewright.errors import ConfigError, TargetError, unknown
from tunewright.sessions import workfolder
from tunewright.space import Config, Space
from tunewright.space.parameters import Int
from tunewright.store.trees import remove_tree
from tunewright.target import BaseTarget, Budget, Measurement, Metric

_RUNS = "runs"  # folder of ours below the user's, one folder a run in it
CALL_S = 60.0  # a call of lfs or lctl
#: those that another parameter must stay below: raised before it and lowered after it
CEILINGS = ("mdc.max_rpcs_in_flight", "llite.max_read_ahead_mb")
#: name to what it does, and the command
WORKLOADS = {
    "ior-16m": (
        "IOR, 16 MiB in order in one shared file, write then read",
        "{ior} -w -r -C -t 16m -b 512m -o {dir}/file",
    ),
    "ior-64k": (
        "IOR, 64 KiB at random places of one shared file, write then read",
        "{ior} -w -r -C -z -t 64k -b 32m -o {dir}/file",
    ),
    "mdtest-2k": (
        "mdtest, small files of 2 KiB, 10 directories of 400 a process",
        "{mdtest} -F -u -I 400 -b 10 -z 1 -w 2048 -e 2048 -d {dir}",
    ),
    "mdtest-8k": (
        "mdtest, small files of 8 KiB, 10 directories of 400 a process",
        "{mdtest} -F -u -I 400 -b 10 -z 1 -w 8192 -e 8192 -d {dir}",
    ),
}


def call(words: Sequence[str]) -> str:
    """Run a command of the file system and return what it prints.

    Raises:
        TargetError: it cannot be run, fails, or hangs.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=CALL_S, check=False)
    except FileNotFoundError:
        raise TargetError(f"{words[0]} is not installed here; a Lustre client has it") from None
    except subprocess.TimeoutExpired:
        raise TargetError(f"'{shlex.join(words)}' did not end within {CALL_S:.0f} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise TargetError(f"'{shlex.join(words)}' failed: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


class LustreReal(BaseTarget):
    """A mounted file system.

    Args:
        folder: on it; the workload runs below.
        command: of the user, with ``{dir}``; None for IOR and mdtest.
        tools: how ``ior`` and ``mdtest`` are called, ``launch`` before them.
        remount: before each run, instead of dropping locks and caches.
        caches: file of the kernel that drops its caches; "" to leave them.
        mounts: file that lists what is mounted.

    Raises:
        ConfigError: the directory is not on Lustre, or a parameter's value cannot be read.
    """

    name = "lustre"
    metrics = (Metric(name="seconds", direction="min", unit="s", doc="run time of the workload"),)

    def __init__(
        self,
        folder: Path,
        *,
        command: str | None = None,
        tools: Mapping[str, str] | None = None,
        remount: bool = False,
        caches: str = "/proc/sys/vm/drop_caches",
        mounts: str = "/proc/mounts",
    ) -> None:
        self.folder, self.remount, self.caches, self.mounts = folder, remount, caches, mounts
        tools = {"ior": "ior", "mdtest": "mdtest", "launch": "", **(tools or {})}
        if not folder.is_dir():
            raise ConfigError(
                f"there is no directory {folder}; name one on the Lustre file system, as lustre:DIRECTORY"
            )
        try:
            named = call(["lfs", "getname", str(folder)]).split()
            targets = len(re.findall(r"^\d+: .*\bACTIVE\b", call(["lfs", "osts", str(folder)]), re.M))
        except TargetError as error:
            raise ConfigError(f"{folder} cannot be tuned as Lustre: {error}") from None
        self.system = named[0].rsplit("-", 1)[0] if named else ""
        self.mount = Path(named[-1]) if named else folder
        if not self.system or not targets:
            raise ConfigError(f"{folder} is on no Lustre file system with an active object storage target")
        if command:
            self.workloads, lines = {"command": command}, {"command": command}
        else:
            self.workloads = {name: about for name, (about, _) in WORKLOADS.items()}
            called = {"ior": tools["ior"], "mdtest": tools["mdtest"], "dir": "{dir}"}
            lines = {name: f"{tools['launch']} {line.format(**called)}" for name, (_, line) in WORKLOADS.items()}
        self.commands = {name: shlex.split(line) for name, line in lines.items()}
        ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        facts = {"CLIENT_RAM_MB": ram, "OST_COUNT": targets}
        self.patterns = self._known()
        current = self.read()
        layout = self._layout()
        present = [p for p in parameters(targets) if p.name in layout or self._of(p.name, current)]
        default = {**layout, **{p.name: self._usual(p.name, current) for p in present if p.name not in layout}}
        names = {p.name for p in present}
        self.space = Space(
            [_with_default(p, default[p.name]) for p in present],
            [c for c in CONSTRAINTS if set(re.findall(r"[a-z]+\.[a-z_]+", c)) <= names], facts,
        )  # fmt: skip
        left_out = sorted(p.name for p in parameters(targets) if p.name not in names)
        self.facts = {**facts, "file_system": self.system, "mount": str(self.mount)}
        if left_out:
            self.facts["not_on_this_system"] = ", ".join(left_out)

    # -- reading and setting ------------------------------------------------------------------------

    def read(self) -> dict[str, int]:
        """Return the value of each parameter on each device of the file system."""
        current: dict[str, int] = {}
        for line in call(["lctl", "get_param", *self.patterns]).splitlines():
            device, _, value = line.partition("=")
            with suppress(ValueError):
                current[device.strip()] = int(float(value))
        return current

    def _known(self) -> list[str]:
        """Return the patterns of the parameters that this version has, for ``lctl get_param``."""
        patterns = []
        for param in parameters(1):
            kind, _, rest = param.name.partition(".")
            if rest:
                with suppress(TargetError):
                    call(["lctl", "get_param", f"{kind}.{self.system}-*.{rest}"])
                    patterns.append(f"{kind}.{self.system}-*.{rest}")
        if not patterns:
            raise ConfigError(f"'lctl get_param' shows no parameters of {self.system}; it may need root")
        return patterns

    def _of(self, name: str, current: Mapping[str, int]) -> dict[str, int]:
        """The devices of a parameter, with their values."""
        kind, _, rest = name.partition(".")
        return {d: v for d, v in current.items() if d.startswith(f"{kind}.{self.system}-") and d.endswith(f".{rest}")}

    def _usual(self, name: str, current: Mapping[str, int]) -> int:
        return Counter(self._of(name, current).values()).most_common(1)[0][0]

    def _layout(self) -> dict[str, int]:
        text = call(["lfs", "getstripe", "-d", str(self.folder)])
        layout = dict(re.findall(r"(stripe_count|stripe_size):\s*(-?\d+)", text))
        # 0 stands for the file system's own default
        return {
            "stripe_count": int(layout.get("stripe_count", 1)) or 1,
            "stripe_size": int(layout.get("stripe_size", 2**20)) or 2**20,
        }

    def _set(self, wanted: Mapping[str, int], current: Mapping[str, int] | None = None) -> None:
        """Set devices to values, in an order that is legal at each step; and see that they have them.

        ``current`` is what ``read`` gave just now, if it was called.
        """
        current = self.read() if current is None else current
        changes = {d: v for d, v in wanted.items() if current.get(d) != v}

        def turn(device: str) -> int:
            kind, rest = device.partition(".")[0], device.rpartition(".")[2]
            if f"{kind}.{rest}" not in CEILINGS:
                return 1
            return 0 if changes[device] > current.get(device, 0) else 2

        if changes:  # one call sets them one after the other
            call(["lctl", "set_param", *(f"{d}={changes[d]}" for d in sorted(changes, key=turn))])
        now = self.read() if changes else current
        for device, value in changes.items():
            if now.get(device) != value:
                raise TargetError(f"{device} is {now.get(device)} after it was set to {value}")

    def devices(self, config: Mapping[str, Any], current: Mapping[str, int]) -> dict[str, int]:
        """Return the value of each of the current devices under a configuration."""
        return {d: int(config[n]) for n in config if "." in n for d in self._of(n, current)}

    # -- measuring ----------------------------------------------------------------------------------

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Run the workload once in a fresh directory, with caches dropped or the file system mounted anew."""
        if workload not in self.commands:
            raise unknown("workload", workload, self.commands)
        if self.remount:
            self._remount()
        try:
            current = self.read()
            self._set(self.devices(config, current), current)
        except TargetError as error:
            return Measurement(status="failed", reason=str(error))
        work = workfolder.private(self.folder, _RUNS) / f"{os.getpid()}-{seed}"
        work.mkdir()
        try:
            count, size = config["stripe_count"], config["stripe_size"]
            call(["lfs", "setstripe", "-c", str(count), "-S", str(size), str(work)])
            if not self.remount:
                self._drop()
            words = [w.replace("{dir}", str(work)) for w in self.commands[workload]]
            begun = time.perf_counter()
            try:
                done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=work)
            except FileNotFoundError:
                raise TargetError(
                    f"{words[0]} is not installed here; -O ior=, mdtest=, launch= or command= name others"
                ) from None
            seconds = time.perf_counter() - begun
            if done.returncode:
                said = (done.stderr or done.stdout).strip().splitlines()
                why = said[-1][:300] if said else f"exit code {done.returncode}"
                return Measurement(status="failed", reason=f"the workload failed: {why}")
            return Measurement(values={"seconds": seconds})
        finally:
            remove_tree(work)
            workfolder.give_back(work.parent)

    def _drop(self) -> None:
        call(["lctl", "set_param", "ldlm.namespaces.*.lru_size=clear"])
        if self.caches:
            try:
                os.sync()
                Path(self.caches).write_text("3", encoding="ascii")
            except OSError as error:
                raise TargetError(
                    f"caches cannot be dropped by {self.caches} ({error.strerror}):"
                    " run as root, or leave them with -O drop_caches=no"
                ) from None

    def _remount(self) -> None:
        for line in Path(self.mounts).read_text(encoding="utf-8").splitlines():
            source, at, kind, how = (*line.split(), "", "", "", "")[:4]
            if kind == "lustre" and Path(at) == self.mount:
                call(["umount", str(self.mount)])
                call(["mount", "-t", "lustre", "-o", how, source, str(self.mount)])
                return
        raise TargetError(f"{self.mount} is not among what is mounted, so it cannot be mounted anew")

    # -- putting back and into service ----------------------------------------------------------------

    def changes(self, to: str | None = None) -> Sequence[str]:
        """Return the key of this machine's client of the file system."""
        return (f"lustre client of {self.system}",)

    def snapshot(self, folder: Path) -> dict[str, Any]:
        """Return the value of each device."""
        return {"devices": self.read()}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Set each device back, and remove directories that a killed run left."""
        self._set({str(d): int(v) for d, v in snapshot.get("devices", {}).items()})
        workfolder.remove(self.folder, _RUNS)

    def render(self, config: Config) -> str:
        """Return the commands that apply the configuration."""
        return "\n".join(commands(config, self.space.changes(config), str(self.folder))) or "# as it is"

    def undo(self, folder: Path, to: str | None = None) -> dict[str, Any]:
        """Return the value of each device, and the directory's layout."""
        return {"devices": self.read(), "layout": self._layout()}

    def apply(self, config: Config, to: str | None = None) -> None:
        """Set the clients' parameters here, and the directory's layout for new files; until the next mount."""
        current = self.read()
        self._set(self.devices(config, current), current)
        self._stripe({n: int(config[n]) for n in ("stripe_count", "stripe_size")})

    def rollback(self, undo: Mapping[str, Any]) -> None:
        """Undo ``apply``."""
        self._set({str(d): int(v) for d, v in undo.get("devices", {}).items()})
        self._stripe(undo["layout"])

    def _stripe(self, layout: Mapping[str, Any]) -> None:
        call(
            ["lfs", "setstripe", "-c", str(layout["stripe_count"]), "-S", str(layout["stripe_size"]), str(self.folder)]
        )


def _with_default(param: Int, value: int) -> Int:
    """Return a parameter that has the system's own value as its default, and room for it."""
    if value in param.special:
        return replace(param, default=value)
    low = min(param.low, value) if isinstance(param.low, int) else param.low
    high = max(param.high, value) if isinstance(param.high, int) else f"max({param.high}, {value})"
    return replace(param, default=value, low=low, high=high)
