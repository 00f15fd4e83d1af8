"""Worlds of the kill scenes with settings of the machine: sysctls and a disk of this machine, a control group's limits.

The sysctls are this machine's own and harmless, the disk is a loop device. The control group is one of our own where
version 2 has the controller for memory, else a folder that stands for one. Commands run in a mount namespace in which
the name of this start of the machine and the folders that set values at a start are the world's: a restart can be
played, and nothing is written to /etc.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from random import Random

from kill_worlds import World
from users_world import tree

from tunewright.envs.machine.live import Machine, chosen

# harmless ones, each in one world at a time: name, what candidates are, and what others set
_SYSCTLS = [
    ("vm.stat_interval", (1, 40), (61, 119)),
    ("vm.page-cluster", (0, 4), (5, 7)),
    ("vm.compaction_proactiveness", (0, 40), (61, 99)),
    ("net.core.netdev_max_backlog", (900, 2000), (3000, 9000)),
]
_TOML = """
[target]
name = "below"
command = ["sh", "-c", "sleep 0.05; read a < {sysctl}; read b < {disk}; read c < {group}; echo v: $((a + b))"]
limit = 60
[[parameter]]
sysctl = "{name}"
low = {low}
high = {high}
[[parameter]]
sysfs = "{disk}"
low = 64
high = 1024
[[parameter]]
cgroup = "memory.high"
group = "/{group_name}"
low = 64
high = 128
[[metric]]
name = "v"
direction = "max"
regex = 'v: ([0-9.]+)'
"""
_PLACES = ("/proc/sys/kernel/random/boot_id", "/etc/sysctl.d", "/etc/tmpfiles.d")
_MOUNTED = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 99; shift 2; done; shift; exec "$@"'


class Below(World):
    """Settings of the machine below a program; others set some meanwhile, and the machine is started anew."""

    name = "machine"
    life_s, most_s = 8.0, 6.0
    next_commands = {"rollback": 5, "resume": 2, "new": 2}

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.sysctl, self.low_high, self.theirs = _SYSCTLS.pop()
        image = base / "disk.img"
        base.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as file:
            file.truncate(4 << 20)
        self.disk = _said(["losetup", "--find", "--show", str(image)])
        self.group = Path(Machine().groups()) / f"tunewright-{os.getpid()}-{Path(self.disk).name}"
        self.group.mkdir()
        self.stands_for = None if (self.group / "memory.high").exists() else base / "group"
        if self.stands_for:
            self.stands_for.mkdir()
        self.paths = {
            self.sysctl: Path("/proc/sys") / self.sysctl.replace(".", "/"),
            "read_ahead_kb": Path(f"/sys/block/{Path(self.disk).name}/queue/read_ahead_kb"),
            "memory.high": (self.stands_for or self.group) / "memory.high",
        }
        self.listed = {**self.paths, "memory.high": self.group / "memory.high"}  # as the commands see them
        self.write({"memory.high": "max"})
        self.original = self.values()

    @staticmethod
    def unavailable() -> str:
        if os.geteuid() != 0 or not os.access("/proc/sys/vm/stat_interval", os.W_OK):
            return "settings of this machine cannot be written: it needs root outside a container"
        if not Machine().groups() or not all(Path(place).exists() for place in _PLACES):
            return "no control groups of version 2 are mounted, or there is no " + " or ".join(_PLACES[1:])
        if missing := [tool for tool in ("losetup", "unshare", "mount") if shutil.which(tool) is None]:
            return f"{missing[0]} is not installed"
        tried = subprocess.run(["unshare", "--mount", "losetup", "--find"], capture_output=True, text=True)
        return f"no loop device and mount namespace here: {tried.stderr.strip()}" if tried.returncode else ""

    def furnish(self, rng: Random) -> None:
        self.rng, self.boots = rng, 1
        self.foreign: dict[str, str] = {}  # what the user set
        self.expected: dict[float, list[str]] = {}
        self.write(self.original)
        (self.var / "boot").write_text("start-1\n")
        for part in ("sysctl.d", "tmpfiles.d"):
            (self.var / part).mkdir()
            (self.var / part / "10-mine.conf").write_text("# mine\n")
        low, high = self.low_high
        fills = {"sysctl": self.paths[self.sysctl], "disk": self.paths["read_ahead_kb"], "name": self.sysctl,
                 "group": self.group / "memory.high", "group_name": self.group.name, "low": low, "high": high}  # fmt: skip
        text = _TOML
        for word, value in fills.items():
            text = text.replace(f"{{{word}}}", str(value))
        (self.folder / "below.toml").write_text(text)

    @property
    def launcher(self) -> list[str]:
        binds = [
            (self.var / "boot", _PLACES[0]),
            (self.var / "sysctl.d", _PLACES[1]),
            (self.var / "tmpfiles.d", _PLACES[2]),
        ]
        binds += [(self.stands_for, self.group)] if self.stands_for else []
        words = [str(word) for bind in binds for word in bind]
        return ["unshare", "--mount", "sh", "-c", _MOUNTED, "below", *words, "--"]

    def spec(self) -> list[str]:
        return ["below.toml"]

    def values(self) -> dict[str, str]:
        return {name: chosen(path.read_text()) for name, path in self.paths.items()}

    def write(self, values: dict[str, str]) -> None:
        for name, value in values.items():
            self.paths[name].write_text(f"{value}\n")

    def state(self) -> dict[str, object]:
        files = {part: sorted(tree(self.var / part).items()) for part in ("sysctl.d", "tmpfiles.d")}
        return {**tree(self.folder), **self.values(), **files}

    def changed(self) -> bool:
        return any(value != self.before[name] for name, value in self.values().items())

    # -- what else happens to the machine between two commands ------------------------------------------

    def meanwhile(self) -> str:
        """Let somebody set something, or start the machine anew; say what was done."""
        happens = self.rng.random()
        if happens < 0.25:
            return self.set_by_others()
        return self.start_anew() if happens < 0.45 else ""

    def set_by_others(self) -> str:
        name = self.rng.choice([self.sysctl, "read_ahead_kb"])
        choices = range(*self.theirs) if name == self.sysctl else range(2048, 4096, 4)
        value = str(self.rng.choice([c for c in choices if str(c) != self.before[name]]))
        self.write({name: value})
        self.before[name] = self.foreign[name] = value
        self.expect()
        return f"somebody set {name} to {value}"

    def start_anew(self) -> str:
        self.boots += 1
        (self.var / "boot").write_text(f"start-{self.boots}\n")
        edited = self.rng.random() < 0.5
        if edited:  # the user had changed what sets it at a start
            self.before[self.sysctl] = self.foreign[self.sysctl] = str(self.rng.choice(range(*self.theirs)))
        self.write({name: str(self.before[name]) for name in self.paths})
        self.expect()
        return "the machine was started anew" + (f" with {self.sysctl} = {self.before[self.sysctl]}" if edited else "")

    def journals(self) -> dict[float, dict]:
        """What killed sessions wrote down and nobody has put back, by the time of it."""
        said = [json.loads(path.read_text()) for path in self.home.glob("changes/*/journal.json")]
        return {journal["at"]: journal["state"]["machine"] for journal in said}

    def expect(self) -> None:
        """Note what has to be said when these journals are put back: what the user set stays."""
        boot = (self.var / "boot").read_text().strip()
        self.expected = {
            at: [
                f" is {value} and was {entry['before']} before: "
                + ("the machine was started anew since" if part["boot"] != boot and "files" not in part
                   else "somebody else set it meanwhile")
                for name, value in self.foreign.items()
                for entry in part["values"].values()
                if entry["path"] == str(self.listed[name]) and entry["before"] != value
            ]
            for at, part in self.journals().items()
        }  # fmt: skip

    def untold(self, text: str) -> list[str]:
        left = self.journals()
        lines = [line for at in [*self.expected] if at not in left for line in self.expected.pop(at)]
        return [f"not a word of{line}" for line in lines if line not in text]

    def close(self) -> None:
        self.write(self.original)
        subprocess.run(["losetup", "--detach", self.disk], check=False)
        self.group.rmdir()
        _SYSCTLS.append((self.sysctl, self.low_high, self.theirs))


def _said(words: list[str]) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


class AppliedBelow(Below):
    """Putting settings of the machine into service, with the files that set them at each start."""

    name = "machine-apply"
    life_s = 1.2
    applies = True
    next_commands = {"rollback": 3, "apply": 2}

    def furnish(self, rng: Random) -> None:
        super().furnish(rng)
        disk = Path(self.disk).name
        self.applied = {self.sysctl: str(self.low_high[0] + 1), "read_ahead_kb": "512", "memory.high": str(100 << 20)}
        names = (
            self.sysctl.replace("-", "_"),
            f"read_ahead_kb.{disk}",
            f"memory.high.{self.group.name}".replace("-", "_"),
        )
        self.fabricate("below.toml", {}, dict(zip(names, (self.low_high[0] + 1, 512, 100), strict=True)))

    def apply_words(self) -> list[str]:
        return ["--trial", "0", "--force"]

    def start_anew(self) -> str:
        if self.foreign:
            return ""
        self.boots += 1
        (self.var / "boot").write_text(f"start-{self.boots}\n")
        at_start = " ".join(path.read_text() for path in self.var.glob("*.d/*tunewright*"))
        names = {self.sysctl: f"{self.sysctl} = ", "read_ahead_kb": " - - - - "}
        lasting = {name: self.applied[name] for name, words in names.items() if words in at_start}
        self.write({**{name: str(self.before[name]) for name in self.paths}, **lasting})
        return f"the machine was started anew with {lasting}"

    def half_applied(self) -> list[str]:
        now = {name: value for name, value in self.values().items() if name not in self.foreign}
        as_before = [name for name, value in now.items() if value == self.before[name]]
        files = len(list(self.var.glob("*.d/*tunewright*")))
        wanted = 0 if len(as_before) == len(now) else 2
        odd = [
            f"{name} is {value}" for name, value in now.items() if value not in (self.before[name], self.applied[name])
        ]
        halves = [f"{name} is as it was, others are not" for name in as_before] if len(as_before) < len(now) else []
        return [*odd, *halves, *([f"{files} files set them at a start"] if files != wanted and now else [])]


WORLDS: dict[str, type[World]] = {w.name: w for w in (Below, AppliedBelow)}
