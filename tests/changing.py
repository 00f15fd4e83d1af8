"""What the tests of changes share: a command target that fills in a file, and sessions that are killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tunewright.envs.command import open_target
from tunewright.sessions.changes import Owner

ROOT = os.geteuid() == 0


OWNER = Owner(what="session 'a'", store="sqlite:////nowhere/s.db", name="a", target="my.toml", options={})


def python(code, *words, **how):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how
    )


HOLDER = """
import sys, time
from pathlib import Path
from tunewright.sessions.locks import file_keys, holding
with holding(file_keys(Path(sys.argv[1])), "session 'first'"):
    print("held", flush=True)
    time.sleep(60)
"""


def state(path):
    """Everything about a file that putting back must bring again."""
    if not os.path.lexists(path):
        return None
    about = path.lstat()
    found = [path.is_symlink() and os.readlink(path)]
    if path.exists():
        real = path.stat()
        found += [
            path.read_bytes(),
            real.st_mode,
            real.st_uid,
            real.st_gid,
            real.st_ino,
            real.st_nlink,
            real.st_mtime_ns,
        ]
        found.append({n: os.getxattr(path, n) for n in os.listxattr(path)})
    return [*found, about.st_ino]


def command(folder, name="my.toml", file="server.conf", extra=""):
    path = folder / name
    path.write_text(f"""
[target]
name = "{name.split(".")[0]}"
command = ["sh", "-c", "cat {file}; sleep {{pause}}"]
[[file]]
path = "{file}"
content = "v: {{x}}"
[[parameter]]
name = "x"
type = "int"
low = 1
high = 1000
default = 1
[[parameter]]
name = "pause"
type = "real"
low = 0.02
high = 0.1
default = 0.05
[[metric]]
name = "v"
direction = "max"
regex = 'v: ([0-9.]+)'
{extra}
""")
    return open_target(str(path), {})


def killed_session(folder, store, name, home=None):
    """Run a session, kill it while a candidate is in the file, and return what it left."""
    conf = folder / "server.conf"
    before = conf.read_bytes()
    command_line = [
        str(Path(sys.executable).with_name("tunewright")),
        "tune",
        str(folder / "my.toml"),
        "--store",
        store,
    ]
    env = {**os.environ, **({"TUNEWRIGHT_HOME": str(home)} if home else {})}
    session = subprocess.Popen(
        [*command_line, "--name", name, "-n", "500", "--tuner", "random"], env=env, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 60
    while conf.read_bytes() == before and time.monotonic() < end:
        time.sleep(0.02)
    session.kill()
    session.communicate()
    assert conf.read_bytes() != before, "it was killed before it changed anything"


def begun(folder, *words, cwd=None):
    """Start a command and return it once a candidate is in the file."""
    conf = folder / "server.conf"
    before = conf.read_bytes() if conf.exists() else None
    program = str(Path(sys.executable).with_name("tunewright"))
    run = subprocess.Popen(
        [program, *map(str, words)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while (conf.read_bytes() if conf.exists() else None) == before and time.monotonic() < end:
        time.sleep(0.02)
    return run
