"""GlusterFS: bricks and a FUSE mount on 127.0.0.1 from generated volume files, its translators' options as parameters.

The management daemon is not used: each run starts the brick processes and the client by themselves, on a fresh volume,
and ends them. Between the phases of the load the client is mounted anew, so that reads come from the bricks.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunewright.envs.storage.ioload import Load, run_phase
from tunewright.errors import ConfigError, TargetError, unknown
from tunewright.sessions import workfolder
from tunewright.space import Choice, Config, Int, Space
from tunewright.store.trees import remove_tree
from tunewright.target import BaseTarget, Budget, Measurement, Metric, Preflight, numeric_options

START_S = 20.0
KIB, MIB = 1024, 1024**2
_LOADS = {
    "shared-large": (
        "large sequential transfers of 1 MiB, 4 processes write then read one shared file",
        Load(blocks=96),
    ),
    "shared-small": (
        "small random transfers of 8 KiB, 4 processes write then read one shared file",
        Load(transfer=8 * KIB, blocks=1200, random=True),
    ),
    "own-medium": (
        "sequential transfers of 64 KiB, 4 processes write then read a file each",
        Load(transfer=64 * KIB, blocks=800, shared=False),
    ),
    "metadata": (
        "metadata: 4 processes make, stat, read and remove small files of 2 KiB",
        Load(transfer=2 * KIB, files=200),
    ),
}


def _switch(name: str, default: bool, doc: str) -> Choice:
    return Choice(name=name, choices=("off", "on"), default="on" if default else "off", doc=doc)


def space() -> Space:
    """Return the parameters, with the defaults of GlusterFS's own volumes."""
    return Space([
        _switch("write_behind", True, "collect writes on the client and send them in the background"),
        Int(name="write_behind.cache_size", low=512 * KIB, high=64 * MIB, default=MIB, log=True, unit="B",
            when="write_behind == 'on'", doc="most unsent data of a file"),
        Int(name="write_behind.aggregate_size", low=4 * KIB, high=MIB, default=128 * KIB, log=True, unit="B",
            when="write_behind == 'on'", doc="small writes are put together up to this"),
        _switch("read_ahead", False, "fetch ahead of sequential reads"),
        Int(name="read_ahead.page_count", low=1, high=16, default=4, unit="pages", when="read_ahead == 'on'",
            doc="pages of 128 KiB fetched ahead"),
        _switch("io_cache", False, "cache data that was read, on the client"),
        Int(name="io_cache.cache_size", low=4 * MIB, high=256 * MIB, default=32 * MIB, log=True, unit="B",
            when="io_cache == 'on'", doc="size of that cache"),
        _switch("quick_read", True, "small files come with their look-up"),
        Int(name="quick_read.max_file_size", low=KIB, high=MIB, default=64 * KIB, log=True, unit="B",
            when="quick_read == 'on'", doc="files up to this size"),
        _switch("open_behind", True, "open files when they are first used"),
        _switch("md_cache", True, "cache attributes on the client"),
        Int(name="md_cache.timeout", low=1, high=600, default=1, log=True, unit="s", when="md_cache == 'on'",
            doc="how long"),
        _switch("nl_cache", False, "remember names that do not exist"),
        _switch("readdir_ahead", False, "fetch ahead of directory listings"),
        Int(name="io_threads", low=1, high=64, default=16, log=True, unit="threads",
            doc="threads of a brick that do I/O"),
        Int(name="client.event_threads", low=1, high=16, default=2, log=True, unit="threads",
            doc="network threads of the client"),
        Int(name="server.event_threads", low=1, high=16, default=2, log=True, unit="threads",
            doc="network threads of a brick"),
        Choice(name="fuse.direct_io", choices=("disable", "enable"), default="disable",
               doc="keep data out of the kernel's page cache of the mount"),
        Int(name="fuse.attribute_timeout", low=0, high=60, default=1, unit="s",
            doc="how long the kernel keeps attributes"),
        Int(name="fuse.entry_timeout", low=0, high=60, default=1, unit="s", doc="how long the kernel keeps names"),
        Int(name="fuse.reader_threads", low=1, high=16, default=1, log=True, unit="threads",
            doc="threads of the client that take requests from the kernel"),
    ])  # fmt: skip


#: parameter to (translator, option) for numbers
_NUMBERS = {
    "write_behind.cache_size": ("write-behind", "cache-size"),
    "write_behind.aggregate_size": ("write-behind", "aggregate-size"),
    "read_ahead.page_count": ("read-ahead", "page-count"),
    "io_cache.cache_size": ("io-cache", "cache-size"),
    "quick_read.max_file_size": ("quick-read", "max-file-size"),
    "md_cache.timeout": ("md-cache", "md-cache-timeout"),
}
#: client translators from the bricks upwards, as GlusterFS stacks them
_STACK = (
    "write_behind",
    "read_ahead",
    "readdir_ahead",
    "io_cache",
    "open_behind",
    "quick_read",
    "md_cache",
    "nl_cache",
)


def volume(name: str, kind: str, below: str = "", **options: Any) -> str:
    """Return one volume of a volume file."""
    lines = [f"volume {name}", f"    type {kind}", *(f"    option {k} {v}" for k, v in options.items())]
    return "\n".join([*lines, *([f"    subvolumes {below}"] if below else []), "end-volume", ""])


def brick_file(folder: Path, port: int, config: Config) -> str:
    """Return the volume file of a brick that listens on loopback."""
    return "\n".join([
        volume("posix", "storage/posix", directory=folder),
        volume("locks", "features/locks", "posix"),
        volume("io", "performance/io-threads", "locks", **{"thread-count": config["io_threads"]}),
        volume("server", "protocol/server", "io", **{
            "transport-type": "tcp", "transport.socket.bind-address": "127.0.0.1", "transport.socket.listen-port": port,
            "auth.addr.io.allow": "127.0.0.1", "event-threads": config["server.event_threads"],
        }),
    ])  # fmt: skip


def client_file(ports: list[int], config: Config) -> str:
    """Return the volume file of the client."""
    parts = [
        volume(f"brick-{k}", "protocol/client", **{
            "transport-type": "tcp", "remote-host": "127.0.0.1", "remote-port": port, "remote-subvolume": "io",
            "event-threads": config["client.event_threads"],
        })
        for k, port in enumerate(ports)
    ]  # fmt: skip
    below = "files"
    parts.append(volume(below, "cluster/distribute", " ".join(f"brick-{k}" for k in range(len(ports)))))
    for name in _STACK:
        if config[name] == "on":
            kind = name.replace("_", "-")
            options = {option: config[p] for p, (of, option) in _NUMBERS.items() if of == kind}
            parts.append(volume(kind, f"performance/{kind}", below, **options))
            below = kind
    return "\n".join([*parts, volume("top", "debug/io-stats", below)])


def missing() -> str:
    """Say what GlusterFS lacks here; "" if it can run."""
    lacks = [t for t in ("glusterfs", "glusterfsd") if not shutil.which(t)]
    if lacks:
        return f"{' and '.join(lacks)} not installed: apt-get install glusterfs-server"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened: FUSE is missing here, or closed to this user"
    return "" if os.geteuid() == 0 else "mounting needs root"


class GlusterTarget(BaseTarget):
    """GlusterFS: bricks and a FUSE mount on 127.0.0.1, its translators' options as parameters.

    Args:
        bricks: brick processes.
        scale: of the amount of work.

    Raises:
        ConfigError: GlusterFS cannot run here.
    """

    name = "gluster"
    metrics = (Metric(name="seconds", direction="min", unit="s", doc="run time of all phases of the load"),)
    workloads: Mapping[str, str] = {name: words for name, (words, _) in _LOADS.items()}
    options: Mapping[str, str] = {"bricks": "brick processes (2)", "scale": "of the amount of work (1)"}

    def __init__(self, bricks: int = 2, scale: float = 1.0) -> None:
        if why := missing():
            raise ConfigError(f"target 'gluster' cannot run here: {why}")
        self.bricks, self.scale = bricks, scale
        self.space = space()
        version = subprocess.run(["glusterfs", "--version"], capture_output=True, text=True, check=False).stdout
        self.facts = {"glusterfs": (version.split() or ["", "?"])[1], "bricks": bricks}

    def preflight(self, *, workload: str, workdir: Path) -> Preflight:
        """Say what runs and is mounted for every run, and what GlusterFS lacks here."""
        lacks = missing()
        return Preflight(
            creates=[
                "Bricks, a mount and the daemons of GlusterFS for every run, below the work folder and on loopback "
                "alone; all are ended and removed after the run. No volume of yours is touched."
            ],
            missing=[lacks] if lacks else [],
        )

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Make a volume, mount it, run each phase on a client that has cached nothing, and end everything."""
        if workload not in _LOADS:
            raise unknown("workload", workload, _LOADS)
        load = _LOADS[workload][1]
        load = Load(
            **{**vars(load), "blocks": max(1, int(load.blocks * self.scale)), "files": int(load.files * self.scale)}
        )
        base = workfolder.private(budget.workdir, self.name) / "volume"
        clear(base)
        seconds: dict[str, float] = {}
        try:
            with _bricks(base, self.bricks, config) as ports:
                for phase in load.phases:
                    with _mounted(base, ports, config) as folder:
                        seconds[phase] = run_phase(load, phase, folder, seed)
        except TargetError as error:
            return Measurement(status="failed", reason=str(error))
        finally:
            clear(base)
        return Measurement(values={"seconds": sum(seconds.values())}, traces={"phases": seconds})

    def cleanup(self, workdir: Path) -> None:
        """Unmount and remove the volume, also one that a killed run left."""
        clear(workdir / f"tunewright-{self.name}" / "volume")
        workfolder.remove(workdir, self.name)

    def render(self, config: Config) -> str:
        """Return the commands of GlusterFS's own command line, and the mount's options."""
        lines, mount = [], []
        for name, value in self.space.changes(config).items():
            if name.startswith("fuse."):
                option = {"fuse.direct_io": "direct-io-mode", "fuse.reader_threads": "reader-thread-count"}
                mount.append(f"{option.get(name, name[5:].replace('_', '-'))}={value}")
            else:
                option_name = _OFFICIAL.get(name, f"performance.{name.replace('_', '-')}")
                lines.append(f"gluster volume set VOLUME {option_name} {value}")
        if mount:
            lines.append(f"mount -t glusterfs -o {','.join(mount)} HOST:/VOLUME DIRECTORY")
        return "\n".join(lines) or "# the defaults"


_OFFICIAL = {
    "write_behind.cache_size": "performance.write-behind-window-size",
    "write_behind.aggregate_size": "performance.aggregate-size",
    "read_ahead.page_count": "performance.read-ahead-page-count",
    "io_cache.cache_size": "performance.cache-size",
    "quick_read.max_file_size": "performance.cache-max-file-size",
    "md_cache": "performance.stat-prefetch",
    "md_cache.timeout": "performance.md-cache-timeout",
    "io_threads": "performance.io-thread-count",
    "client.event_threads": "client.event-threads",
    "server.event_threads": "server.event-threads",
}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _bricks(base: Path, count: int, config: Config) -> Iterator[list[int]]:
    """Start the bricks; yields their ports."""
    running, ports = [], []
    try:
        for k in range(count):
            folder, port = base / f"brick-{k}", _free_port()
            folder.mkdir(parents=True)
            volume_file, log, pid = (f"{folder}.{suffix}" for suffix in ("vol", "log", "pid"))
            Path(volume_file).write_text(brick_file(folder, port, config), encoding="ascii")
            words = ["glusterfsd", "-N", "-f", volume_file, "-l", log, "-p", pid]
            running.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            ports.append(port)
        for k, port in enumerate(ports):
            _until(functools.partial(_listens, port), running[k], base / f"brick-{k}.log", "a brick")
        yield ports
    finally:
        for process in running:
            _end(process)


@contextmanager
def _mounted(base: Path, ports: list[int], config: Config) -> Iterator[Path]:
    """Mount the volume; yields the directory."""
    folder, log = base / "mnt", base / "client.log"
    folder.mkdir(exist_ok=True)
    (base / "client.vol").write_text(client_file(ports, config), encoding="ascii")
    words = ["glusterfs", "-N", "-f", str(base / "client.vol"), "-l", str(log), "-p", str(base / "client.pid")]
    words += [
        f"--attribute-timeout={config['fuse.attribute_timeout']}",
        f"--entry-timeout={config['fuse.entry_timeout']}",
        f"--direct-io-mode={config['fuse.direct_io']}",
        f"--reader-thread-count={config['fuse.reader_threads']}",
        str(folder),
    ]
    client = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: os.path.ismount(folder) and os.access(folder, os.W_OK), client, log, "the client")
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], capture_output=True, check=False)
        _end(client)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _until(ready: Any, process: subprocess.Popen[bytes], log: Path, what: str) -> None:
    """Wait for something to be there.

    Raises:
        TargetError: its process ended before, or it took too long.
    """
    limit = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > limit:
            text = log.read_text(errors="replace") if log.exists() else ""
            errors = re.findall(r"^\[.*?\] E \[.*?\] (.*)$", text, re.M)
            why = errors[-1][:300] if errors else "its log has no error"
            raise TargetError(f"{what} of GlusterFS did not start: {why}")
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def clear(base: Path) -> None:
    """Unmount a volume that a killed run left, and remove its files; safe to repeat.

    Raises:
        TargetError: it cannot be unmounted; nothing is removed then, as that would go through the mount.
    """
    folder = base / "mnt"
    for _ in range(3):
        with open("/proc/mounts", encoding="utf-8") as mounts:
            if not any(line.split()[1] == str(folder) for line in mounts):
                break
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
    else:
        raise TargetError(f"{folder} cannot be unmounted; do it by hand: umount -l {folder}")
    remove_tree(base)


def open_target(argument: str, options: Mapping[str, Any]) -> GlusterTarget:
    """Open the target.

    Raises:
        ConfigError: an option is wrong, or GlusterFS cannot run here.
    """
    if argument:
        raise ConfigError(f"target 'gluster' takes no argument, not {argument!r}; give options with -O KEY=VALUE")
    given = numeric_options("gluster", options, {"bricks": 2.0, "scale": 1.0})
    if not (1 <= given["bricks"] <= 64 and given["bricks"] == int(given["bricks"]) and 0.01 <= given["scale"] <= 1000):
        raise ConfigError("bricks must be a whole number from 1 to 64, scale 0.01 to 1000")
    return GlusterTarget(int(given["bricks"]), given["scale"])
