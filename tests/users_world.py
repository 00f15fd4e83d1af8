"""What a user owns, before and after: files with all that belongs to them, processes, and runs of the command line."""

import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil

# parts of descriptions of programs: a parameter, and a metric that prints it
X = """[[parameter]]
name = "x"
type = "int"
low = 1
high = 9
default = 1
"""
V = """[[metric]]
name = "v"
direction = "max"
regex = 'v: ([0-9.]+)'
"""
# one whose command is filled in: HEAD.replace("{run}", ...)
HEAD = (
    """
[target]
name = "app"
command = ["sh", "-c", "{run}; echo v: {x}"]
"""
    + X
    + V
)
TUNEWRIGHT = str(Path(sys.executable).with_name("tunewright"))
MARKER = "TUNEWRIGHT_TEST_SCENE"  # in the environment of all that a scene starts, to find what is left of it
FOREIGN = 1234  # an owner and a group that are not ours
SHELL = "/bin/sh"

# names that look like those of the targets' own work files
TEMPTING = (
    "run-2025-precious/data.txt",
    "template-index.html",
    "run-tests.sh",
    "run-17.db",
    "original/0",
    "original/1",
    "cluster-1",
    "postgres/notes.txt",
    "gluster/notes.txt",
    "template-200-4096-NONE.db",
    "rocksdb-notes/readme.txt",
    "ann-1.npz",
    "customers.db",
    ".hidden.conf.x7",
)


def plant(folder: Path) -> None:
    """Put a user's files with tempting names into a folder."""
    for name in TEMPTING:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} is precious\n")


def give_away(path: Path) -> None:
    """Make somebody else the owner, where we may."""
    if os.geteuid() == 0:
        os.chown(path, FOREIGN, FOREIGN, follow_symlinks=False)


def note(path: Path, text: str = "keep me") -> None:
    """Set an extended attribute, where the file system takes it."""
    try:
        os.setxattr(path, "user.note", text.encode())
    except OSError:
        pass


# -- states -------------------------------------------------------------------------------------------


def facts(path: Path) -> dict[str, object]:
    """Everything about one path that must be the same afterwards; times are not."""
    try:
        about = os.lstat(path)
    except FileNotFoundError:
        return {"kind": "nothing"}
    found: dict[str, object] = {
        "kind": stat.filemode(about.st_mode)[0],
        "mode": oct(stat.S_IMODE(about.st_mode)),
        "owner": f"{about.st_uid}:{about.st_gid}",
    }
    if stat.S_ISLNK(about.st_mode):
        found["target"] = os.readlink(path)
        return found
    names = [n for n in os.listxattr(path) if n.startswith("user.")]
    found["attributes"] = {n: os.getxattr(path, n) for n in sorted(names)}
    if stat.S_ISREG(about.st_mode):
        found["bytes"] = path.read_bytes()
        found["links"] = about.st_nlink
        if about.st_nlink > 1:  # other names of the file are only told from copies by this
            found["inode"] = about.st_ino
    return found


def tree(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, dict[str, object]]:
    """The facts of everything below a folder, by relative path; ``without`` names parts to leave out."""
    found = {}
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [f for f in folders if str((here / f).relative_to(folder)) not in without]
        for name in [*folders, *files]:
            path = here / name
            if str(path.relative_to(folder)) not in without:
                found[str(path.relative_to(folder))] = facts(path)
    return found


def differences(before: dict, after: dict, *, more_below: tuple[str, ...] = ()) -> list[str]:
    """What changed, one line each. New files are allowed below the folders of ``more_below``."""
    lines = []
    for name in sorted({*before, *after}):
        if name not in after:
            lines.append(f"{name} is gone")
        elif name not in before:
            if not any(name.startswith(f"{folder}/") for folder in more_below):
                lines.append(f"{name} is new")
        elif not isinstance(before[name], dict):
            if before[name] != after[name]:
                lines.append(f"{name} was {before[name]!r}, is {after[name]!r}")
        else:
            for key in sorted({*before[name], *after[name]}):
                was, now = before[name].get(key, "nothing"), after[name].get(key, "nothing")
                if was != now:
                    lines.append(f"{name}: {key} was {_short(was)}, is {_short(now)}")
    return lines


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 120 else f"{text[:100]}... ({len(text)} characters)"


# -- processes ----------------------------------------------------------------------------------------


def processes(mark: str) -> list[psutil.Process]:
    """Living processes that were started with this mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def strays(mark: str, *, allowed: str = "\0", within_s: float = 30.0) -> list[str]:
    """Command lines of the processes still there after a while; those that contain ``allowed`` may stay."""
    end = time.monotonic() + within_s
    while True:
        left = []
        for process in processes(mark):
            try:
                line = shlex.join(process.cmdline())
            except psutil.Error:
                continue
            if line and allowed not in line:
                left.append(f"{process.pid}: {line[:150]}")
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.05)


def kill_marked(mark: str) -> None:
    """End what a scene started; nothing else bears its mark."""
    for process in processes(mark):
        try:
            process.kill()
        except psutil.Error:
            continue


# -- the command line ---------------------------------------------------------------------------------


class Run:
    """A run of the command line as a process that leads a session of its own.

    Args:
        words: after ``tunewright``.
        cwd: where it runs.
        home: its TUNEWRIGHT_HOME.
        output: file for what it says.
        mark: in its environment and that of all it starts.
        launcher: words before it, of a program that becomes it.
        more: further variables of the environment.
    """

    def __init__(self, words, *, cwd: Path, home: Path, output: Path, mark: str = "", launcher=(), **more: str) -> None:
        self.words = [str(w) for w in words]
        self.output = output
        output.parent.mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if k not in ("TUNEWRIGHT_STORE", "TUNEWRIGHT_POSTGRES_DSN")}
        environment = {**kept, "TUNEWRIGHT_HOME": str(home), "COLUMNS": "250", MARKER: mark, **more}
        with open(output, "wb") as file:
            self.process = subprocess.Popen(
                [*launcher, TUNEWRIGHT, *self.words],
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.begun = time.monotonic()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def last_line(self) -> str:
        return (self.text.strip().splitlines() or ["(it said nothing)"])[-1][:300]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the main process alone."""
        self.process.send_signal(number)

    def wait(self, limit_s: float) -> int | None:
        """Wait for the end; returns the exit code, None where it takes longer."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Make sure that it is gone."""
        if not self.ended:
            self.process.kill()
        self.process.wait()


def until(condition, limit_s: float, run: Run | None = None, poll_s: float = 0.004) -> bool:
    """Wait until the condition holds; False where it does not in time or the run ends first."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end or (run is not None and run.ended):
            return condition()
        time.sleep(poll_s)
    return True
