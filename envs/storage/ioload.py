"""An IOR-like load: processes that write, read and handle files on a mounted directory, all beginning together.

Run as ``python -m tunewright.envs.storage.ioload JOB`` it is one of the processes: it says ``ready``, waits for a line,
does its phase and prints its seconds. Every block carries its own offset and process, and reads check it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tunewright.errors import TargetError

WAIT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is done.

    Attributes:
        processes: at once.
        transfer: bytes of one call.
        blocks: calls of each process.
        shared: one file for all, else one each.
        random: in random order, else from the beginning.
        files: small files of each process, made, looked at, read and removed; no large ones if above 0.
    """

    processes: int = 4
    transfer: int = 2**20
    blocks: int = 64
    shared: bool = True
    random: bool = False
    files: int = 0

    @property
    def phases(self) -> tuple[str, ...]:
        """Names of the phases, in order; between them the file system should forget what it has cached."""
        return ("make", "look", "remove") if self.files else ("write", "read")


def run_phase(load: Load, phase: str, folder: Path, seed: int) -> float:
    """Run one phase with all its processes; returns the seconds of the slowest.

    Raises:
        TargetError: a process failed.
    """
    workers = []
    for number in range(load.processes):
        job = {"load": asdict(load), "phase": phase, "folder": str(folder), "number": number, "seed": seed}
        words = [sys.executable, "-m", __name__, json.dumps(job)]
        workers.append(
            subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    try:
        for process in workers:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise TargetError(f"a process of the load did not start: {process.communicate()[1].strip()[-300:]}")
        seconds = []
        for process in workers:  # all are waiting for a line
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in workers:
            said, wrong = process.communicate(timeout=WAIT_S * 5)
            if process.returncode:
                message = wrong.strip().splitlines()[-1][:300] if wrong.strip() else "no message"
                raise TargetError(f"phase {phase} of the load failed: {message}")
            seconds.append(float(said))
        return max(seconds)
    finally:
        for process in workers:
            if process.poll() is None:
                process.kill()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            process.wait()


def block(number: int, at: int, size: int, seed: int) -> bytes:
    """Return the content of a block: who wrote it, where, in which run, over and over."""
    head = f"{seed}:{number}:{at};".encode()
    return (head * (size // len(head) + 1))[:size]


def _data(load: Load, phase: str, folder: Path, number: int, seed: int) -> None:
    path = folder / ("shared" if load.shared else f"own-{number}")
    base = number * load.blocks if load.shared else 0
    order = list(range(load.blocks))
    if load.random:
        random.Random(seed * 1000 + number + (phase == "read") * 500).shuffle(order)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for k in order:
            at = (base + k) * load.transfer
            expected = block(number, at, load.transfer, seed)
            if phase == "write":
                if os.pwrite(handle, expected, at) != load.transfer:
                    raise OSError(f"a short write at {at} of {path}")
            elif os.pread(handle, load.transfer, at) != expected:
                raise OSError(f"what is at {at} of {path} is not what was written")
        if phase == "write":
            os.fsync(handle)
    finally:
        os.close(handle)


def _small(load: Load, phase: str, folder: Path, number: int, seed: int) -> None:
    home = folder / f"small-{number}"
    if phase == "make":
        home.mkdir()
    for k in range(load.files):
        path = home / f"{k:05d}"
        expected = block(number, k, load.transfer, seed)
        if phase == "make":
            path.write_bytes(expected)
        elif phase == "look":
            if path.stat().st_size != load.transfer or path.read_bytes() != expected:
                raise OSError(f"{path} is not what was written")
        else:
            path.unlink()
    if phase == "look" and len(os.listdir(home)) != load.files:
        raise OSError(f"{home} has lost files")
    if phase == "remove":
        home.rmdir()


def _main(job: Mapping[str, object]) -> None:
    load, phase = Load(**job["load"]), str(job["phase"])  # type: ignore[arg-type]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    begun = time.perf_counter()
    (_small if load.files else _data)(
        load, phase, Path(str(job["folder"])), int(str(job["number"])), int(str(job["seed"]))
    )
    sys.stdout.write(f"{time.perf_counter() - begun}\n")


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
