"""The worlds of the kill scenes: what a user owns there, how it is tuned, and what must be as before."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from users_world import MARKER, TUNEWRIGHT, V, X, differences, facts, give_away, note, plant, processes, tree

SESSION = ["--tuner", "random", "--trust", "fast", "--trials", "2"]

# Makes a session "tuned" with one measured trial: apply needs no more, and a real one takes half a minute.
_FABRICATE = """
import json, sys
from dataclasses import replace
from tunewright.store.plan import Plan
from tunewright.sessions.session import Session
from tunewright.store.store import Store
from tunewright.tuner import Trial
spec, options, config = json.loads(sys.argv[1])
store = Store()
plan = Plan(target=spec, options=options, tuner="random", trust="fast")
with Session.create(plan, "tuned", store) as session:
    config = dict(session.space.fill({**session.space.default, **config}))
    trial = store.start("tuned", Trial(number=-1, config=config, status="running", why="a test"), session.space)
    values = {m.name: 1.0 for m in session.metrics}
    store.finish("tuned", replace(trial, status="ok", metrics=values, scores=values), session.problem.objectives)
"""


class World:
    """What the scenes share.

    Args:
        base: folder of this worker; the world lies in ``base/world``, the product's home in ``base/home``.
    """

    name = ""
    life_s = 5.0  # how long a session takes on an idle machine
    most_s = 60.0  # kills come before this, nearly always
    next_commands = {"rollback": 5, "resume": 2, "new": 2}
    grace_s = 0.0  # how long after the last process a server may take to answer
    work_folders: tuple[str, ...] = ()  # where a killed session may leave files of its own
    daemon = "\0"  # part of the command line of a process that may stay
    applies = False
    launcher: list[str] = []  # what a command is started by

    def __init__(self, base: Path) -> None:
        self.folder, self.home = base / "world", base / "home"
        self.var = base / "var"  # what hooks and benchmarks write; nobody's precious file
        self.mark = ""
        self.lasts: dict[str, float] = {}  # how long commands took that nobody killed
        self.started_changed = False  # whether the original was changed when the last command began

    @staticmethod
    def unavailable() -> str:
        """Why the scene cannot be played here; "" where it can."""
        return ""

    def build(self, rng: Random, mark: str) -> None:
        """Make the world afresh."""
        self.mark = mark
        for folder in (self.folder, self.home, self.var):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.furnish(rng)
        self.before = self.state()

    def furnish(self, rng: Random) -> None:
        """Make what belongs to this world."""
        raise NotImplementedError

    def spec(self) -> list[str]:
        """The target and its options, on the command line."""
        raise NotImplementedError

    def command(self, kind: str, name: str) -> list[str]:
        """The words of a command: tune, resume, new (a session of another name), rollback or apply."""
        if kind in ("tune", "new"):
            return ["tune", *self.spec(), *SESSION, "--name", name]
        return {
            "resume": ["resume", name, "--trials", "1"],
            "rollback": ["rollback", name],
            "apply": ["apply", name, *self.apply_words()],
        }[kind]

    def apply_words(self) -> list[str]:
        return []

    def state(self) -> dict[str, object]:
        """Everything that must be as it was."""
        return tree(self.folder)

    def changed(self) -> bool:
        """Whether what is tuned differs from the original at this moment; cheap."""
        return False

    def events(self) -> dict[str, object]:
        """Moments to kill at, beside those of the clock: conditions by name."""
        return {"changed": self.changed}

    def wrong(self, *, exact: bool) -> list[str]:
        """What is not as it was; ``exact`` allows no work files of a killed session either."""
        end = time.monotonic() + self.grace_s
        while True:
            found = differences(self.before, self.state(), more_below=() if exact else self.work_folders)
            if not found or time.monotonic() > end:
                return [*found, *self.more_wrong()]
            time.sleep(0.2)

    def more_wrong(self) -> list[str]:
        return []

    def meanwhile(self) -> str:
        """Let something else happen between two commands; say what."""
        return ""

    def untold(self, text: str) -> list[str]:
        """What a command did and should have said, and did not; ``text`` is what it said."""
        return []

    def half_applied(self) -> list[str]:
        """What an interrupted apply left neither as it was nor applied."""
        return []

    def fabricate(self, spec: str, options: dict[str, str], config: dict[str, object]) -> None:
        """Put a session "tuned" into the home, made once and copied after that."""
        kept = self.home.with_name("home-template")
        if not kept.exists():
            words = [*self.launcher, sys.executable, "-c", _FABRICATE, json.dumps([spec, options, config])]
            environment = {**os.environ, "TUNEWRIGHT_HOME": str(self.home)}
            environment.pop("TUNEWRIGHT_STORE", None)
            done = subprocess.run(words, env=environment, cwd=self.folder, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"no session could be made to apply: {done.stderr[-500:]}")
            shutil.copytree(self.home, kept)
        shutil.rmtree(self.home)
        shutil.copytree(kept, self.home)

    def close(self) -> None:
        """Give back what outlives one life."""


# -- the user's own files --------------------------------------------------------------------------------

_FILES = (
    """
[target]
name = "app"
command = ["sh", "-c", "sleep 0.05; . etc/app.conf; . etc/linked.conf; echo v: $((x * 10 + y))"]
[[file]]
path = "etc/app.conf"
content = "x={x}\\n"
[[file]]
path = "etc/linked.conf"
content = "y={y}\\n"
[[file]]
path = "etc/new.conf"
content = "x={x} y={y}\\n"
[[file]]
path = "etc/filled.conf"
template = "filled.tmpl"
"""
    + X
    + X.replace('"x"', '"y"')
    + V
)
_FILE_HOOKS = """
[hooks]
apply = ["sh", "-c", "touch {var}/applying; sleep 0.1"]
rollback = ["sh", "-c", "touch {var}/restoring; sleep 0.2"]
"""


def make_files(folder: Path) -> None:
    """The user's files: plain and foreign with a second name, a link, one that is missing, one by template."""
    for part in ("etc", "real", "backup", "results"):
        (folder / part).mkdir()
    plain = folder / "etc/app.conf"
    plain.write_text("x=1 # mine, café\n")
    note(plain)
    plain.chmod(0o640)
    os.link(plain, folder / "backup/app.conf")
    give_away(plain)
    linked = folder / "real/linked.conf"
    linked.write_text("y=1\n\n\n# three lines below\n")
    linked.chmod(0o604)
    note(linked, "of the target")
    give_away(linked)
    (folder / "etc/linked.conf").symlink_to("../real/linked.conf")
    give_away(folder / "etc/linked.conf")
    filled = folder / "etc/filled.conf"
    filled.write_bytes(b"\xff\xfe no text at all \x00\n")
    filled.chmod(0o4755)
    (folder / "filled.tmpl").write_text("x is {x}\ny is {y}\nbraces {stay}\n")


class Files(World):
    """A command file with [[file]] entries, with and without hooks, with and without a directory of the user's."""

    name = "files"
    work_folders = ("results",)

    def furnish(self, rng: Random) -> None:
        make_files(self.folder)
        plant(self.folder / "results")
        plant(self.folder / "etc")
        self.hooks = rng.random() < 0.5
        text = _FILES + (_FILE_HOOKS.replace("{var}", str(self.var)) if self.hooks else "")
        (self.folder / "app.toml").write_text(text)
        self.directory = rng.random() < 0.5
        self.original = facts(self.folder / "etc/app.conf")["bytes"]

    def spec(self) -> list[str]:
        return ["app.toml", *(["--dir", "results"] if self.directory else [])]

    def changed(self) -> bool:
        found = [facts(self.folder / f"etc/{n}.conf") for n in ("app", "new")]
        return found[0].get("bytes") != self.original or found[1]["kind"] != "nothing"

    def events(self) -> dict[str, object]:
        flags = {n: (self.var / n).exists for n in ("applying", "restoring") if self.hooks}
        return {"changed": self.changed, **flags}


class AppliedFiles(Files):
    """Applying to the same files."""

    name = "files-apply"
    life_s = 1.2
    applies = True
    next_commands = {"rollback": 3, "apply": 2}

    def furnish(self, rng: Random) -> None:
        super().furnish(rng)
        self.directory = False
        kept = self.home.with_name("home-template")
        if not kept.exists():
            # with a tuner that finds a better value among the first for certain
            words = [
                TUNEWRIGHT,
                "tune",
                "app.toml",
                "--tuner",
                "random",
                "--trust",
                "fast",
                "-n",
                "4",
                "--name",
                "tuned",
            ]
            environment = {**os.environ, "TUNEWRIGHT_HOME": str(self.home)}
            done = subprocess.run(words, env=environment, cwd=self.folder, capture_output=True, text=True)
            if done.returncode or "Improved" not in done.stdout:
                raise RuntimeError(f"no session could be made to apply: {done.stdout[-300:]}{done.stderr[-500:]}")
            shutil.copytree(self.home, kept)
            shutil.rmtree(self.folder)  # what the session did to the files is the business of another scene
            self.folder.mkdir()
            super().furnish(rng)
        shutil.rmtree(self.home)
        shutil.copytree(kept, self.home)

    def half_applied(self) -> list[str]:
        now = self.state()
        parts = ("etc/app.conf", "real/linked.conf", "etc/filled.conf", "etc/new.conf")
        same = [p for p in parts if self.before.get(p) == now.get(p)]
        return [f"{p} is as it was, others are not" for p in same] if len(same) < len(parts) else []


# -- a daemon that hooks restart ---------------------------------------------------------------------------

_DAEMON = (
    """
[target]
name = "daemon"
command = ["sh", "-c", "sleep 0.05; read pid < {var}/pid; kill -0 $pid && echo run alive >> {var}/log || echo run dead >> {var}/log; cat {var}/serving"]
[[file]]
path = "server.conf"
content = "v: {x}\\n"
"""
    + X
    + V
    + """[hooks]
reset = ["sh", "-c", "test ! -f {var}/pid || { read pid < {var}/pid; kill -0 $pid || echo reset dead >> {var}/log; }"]
apply = ["sh", "service.sh", "restart"]
rollback = ["sh", "service.sh", "{rollback}"]
"""
)
# one at a time, as every service manager has it; the daemon does not inherit the lock
_SERVICE = """
exec 9> {var}/lock
flock 9
touch {var}/hooking
if test -f {var}/pid; then
    read pid < {var}/pid
    kill $pid 2> /dev/null
    while kill -0 $pid 2> /dev/null; do sleep 0.01; done
    rm -f {var}/pid
fi
if test "$1" = restart; then
    cp server.conf {var}/serving
    setsid nohup sleep 3000.25 > /dev/null 2>&1 9>&- &
    echo $! > {var}/pid.new
    mv {var}/pid.new {var}/pid
fi
exit 0
"""


class Daemon(World):
    """A detached daemon that the apply hook restarts; the user's own ran before, or there was none."""

    name = "daemon"
    daemon = "sleep 3000.25"

    def furnish(self, rng: Random) -> None:
        self.users = rng.random() < 0.5
        (self.folder / "server.conf").write_text("v: 1\n# the user's\n")
        fills = {"{var}": str(self.var), "{rollback}": "restart" if self.users else "stop"}
        for name, text in (("daemon.toml", _DAEMON), ("service.sh", _SERVICE)):
            for key, value in fills.items():
                text = text.replace(key, value)
            (self.folder / name).write_text(text)
        if self.users:
            environment = {**os.environ, MARKER: self.mark}
            subprocess.run(["sh", "service.sh", "restart"], cwd=self.folder, env=environment, check=True)

    def spec(self) -> list[str]:
        return ["daemon.toml"]

    def changed(self) -> bool:
        return "the user's" not in (self.folder / "server.conf").read_text(errors="replace")

    def events(self) -> dict[str, object]:
        return {"changed": self.changed, "hook": (self.var / "hooking").exists}

    def state(self) -> dict[str, object]:
        alive = [p.pid for p in processes(self.mark) if self.daemon in " ".join(p.cmdline())]
        serving = (self.var / "serving").read_text() if alive and (self.var / "serving").exists() else ""
        known = (self.var / "pid").read_text().split() if (self.var / "pid").exists() else []
        return {
            **tree(self.folder),
            "daemons": len(alive),
            "the daemon serves": serving,
            "the daemon in the file pid is the living one": known == [str(p) for p in alive],
        }

    def more_wrong(self) -> list[str]:
        log = self.var / "log"
        dead = [line for line in log.read_text().splitlines() if "dead" in line] if log.exists() else []
        return [f"the daemon was dead {len(dead)} times during a session: {dead[0]}"] if dead else []
