"""Worlds of the kill scenes with servers: described ones of the session's own, and a MariaDB of the user's."""

import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import mariadb_server
import psutil
from kill_worlds import World
from users_world import plant, processes, tree

from tunewright.errors import TargetError

_SERVER = """
import os, signal, socket, sys
port, conf = int(sys.argv[1]), sys.argv[2]
def read(*_):
    global value
    value = open(conf).read().split()[-1]
read()
signal.signal(signal.SIGHUP, read)
server = socket.create_server(("127.0.0.1", port))
while True:
    peer, _ = server.accept()
    if peer.recv(64):
        peer.sendall(value.encode())
    peer.close()
"""
_LOAD = """
import socket, sys, time
time.sleep(0.05)
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as s:
    s.sendall(b"load")
    print("rate:", 10 * int(s.recv(200)))
"""
_TOML = """
[target]
name = "served"
limit = 60
[service]
start = ["{python}", "{server}", "{port}", "{rundir}/s.conf"]
load = ["{python}", "{load}", "{port}"]
KEEP
[[file]]
path = "{rundir}/s.conf"
content = "value {n}"
[[parameter]]
name = "n"
type = "int"
low = 1
high = 9
default = 2
restart = RESTART
[[metric]]
name = "rate"
direction = "max"
regex = 'rate: ([0-9.]+)'
"""


class Service(World):
    """A server that is started for each run, in a folder with the user's files."""

    name = "service"
    keep = False
    work_folders = ("results",)

    def furnish(self, rng: Random) -> None:
        (self.folder / "results").mkdir()
        plant(self.folder / "results")
        (self.folder / "server.py").write_text(_SERVER)
        (self.folder / "load.py").write_text(_LOAD)
        keep = 'keep = true\nreload = "HUP"' if self.keep else ""
        text = _TOML.replace("KEEP", keep).replace("RESTART", "true" if rng.random() < 0.5 else "false")
        for word, path in (
            ("python", sys.executable),
            ("server", self.folder / "server.py"),
            ("load", self.folder / "load.py"),
        ):
            text = text.replace(f"{{{word}}}", str(path))
        (self.folder / "served.toml").write_text(text)

    def spec(self) -> list[str]:
        return ["served.toml", "--dir", "results"]

    def servers(self) -> list[int]:
        found = []
        for process in processes(self.mark):
            with suppress(psutil.Error):  # it has just ended
                if str(self.folder / "server.py") in process.cmdline():
                    found.append(process.pid)
        return found

    def events(self) -> dict[str, object]:
        return {"a server": lambda: bool(self.servers())}

    def more_wrong(self) -> list[str]:
        end = time.monotonic() + 5
        while (left := self.servers()) and time.monotonic() < end:
            time.sleep(0.1)
        return [f"servers are left: {left}"] if left else []


class KeptService(Service):
    """A server that is kept between runs; one that a killed session left goes with the next command."""

    name = "service-kept"
    keep = True
    daemon = "server.py"


# -- MariaDB ---------------------------------------------------------------------------------------------


class MariaDB(World):
    """A server of the user's by its address, with a restart command and an option file of ours."""

    name = "mariadb"
    life_s, most_s, grace_s = 18.0, 14.0, 20.0
    next_commands = {"rollback": 8, "resume": 1, "new": 1}
    daemon = "mariadbd"
    names = ("sort_buffer_size", "innodb_log_buffer_size", "innodb_io_capacity")
    small = {"tables": "1", "size": "100", "threads": "1", "events": "20", "reset": "none", "writes": "yes"}
    unavailable = staticmethod(mariadb_server.unavailable)

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.theirs: mariadb_server.Theirs | None = None

    def furnish(self, rng: Random) -> None:
        if self.theirs is None:
            self.theirs = mariadb_server.Theirs()
            self.theirs.__enter__()
            self.settings = self.theirs.variables()
        self.file = self.theirs.config / "99-tuned.cnf"
        self.file.unlink(missing_ok=True)
        if "variables" not in self.state() or self.theirs.variables() != self.settings:
            self.theirs.restart()
            self.theirs.ask("SET GLOBAL lock_wait_timeout = 77")
            self.theirs.ask("SET GLOBAL sort_buffer_size = 3145728")

    def spec(self) -> list[str]:
        options = {**self.small, "parameters": ",".join(self.names), **self.restarting()}
        address = f"mariadb:mariadb://root@localhost/?socket={self.theirs.socket}"
        return [address, *(word for name, value in options.items() for word in ("-O", f"{name}={value}"))]

    def restarting(self) -> dict[str, str]:
        return {"restart": self.theirs.restart_command, "config": str(self.file)}

    def state(self) -> dict[str, object]:
        found: dict[str, object] = {**tree(self.folder), "files": sorted(p.name for p in self.theirs.config.iterdir())}
        try:
            return {**found, "variables": self.theirs.variables(), "databases": sorted(self.theirs.databases())}
        except TargetError:
            return {**found, "the server": "down"}

    def changed(self) -> bool:
        try:
            return self.file.exists() or self.theirs.variables() != self.settings
        except TargetError:
            return True

    def events(self) -> dict[str, object]:
        return {"changed": self.changed, "restarting": lambda: not self.theirs.pid_file.exists()}

    def close(self) -> None:
        if self.theirs is not None:
            self.theirs.__exit__()


class LiveMariaDB(MariaDB):
    """Likewise, with settings alone that need no restart."""

    name = "mariadb-live"
    life_s, most_s = 8.0, 6.0

    def restarting(self) -> dict[str, str]:
        return {}

    def events(self) -> dict[str, object]:
        return {"changed": self.changed}


WORLDS: dict[str, type[World]] = {w.name: w for w in (Service, KeptService, MariaDB, LiveMariaDB)}
