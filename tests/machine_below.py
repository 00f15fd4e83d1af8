"""A folder that stands for a machine, a target that feels its settings, and a session on both that can be killed.

As a program: python machine_below.py ROOT URL NAME, a session that goes on until it is killed.
"""

import sys
import time
from pathlib import Path

from tunewright.envs.machine.keys import read_keys
from tunewright.envs.machine.live import Machine
from tunewright.envs.machine.target import MachineTarget
from tunewright.sessions.session import Session
from tunewright.space import Int, Space
from tunewright.store.plan import Plan
from tunewright.store.store import Store
from tunewright.target import BaseTarget, Measurement, Metric

FILES = {
    "proc/sys/kernel/random/boot_id": "first-start",
    "proc/self/mounts": "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0",
    "proc/sys/vm/swappiness": "60",
    "proc/sys/vm/dirty_ratio": "20",
    "proc/sys/vm/dirty_bytes": "0",
    "proc/sys/vm/dirty_background_ratio": "10",
    "proc/sys/vm/dirty_expire_centisecs": "3000",
    "proc/sys/vm/overcommit_memory": "0",
    "proc/sys/vm/drop_caches": "0",
    "proc/sys/kernel/panic": "0",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "sys/devices/pci/vda/queue/read_ahead_kb": "128",
    "sys/devices/pci/vda/queue/scheduler": "none [mq-deadline] bfq",
    "sys/devices/pci/vda/queue/write_cache": "write back",
    "sys/fs/cgroup/db.slice/memory.high": "max",
    "sys/fs/cgroup/db.slice/io.weight": "default 100",
    "etc/sysctl.d/10-own.conf": "vm.swappiness = 60",
    "etc/tmpfiles.d/own.conf": "",
}
KEYS = "vm.dirty_ratio,vm.dirty_background_ratio,thp,read_ahead_kb@vda,memory.high@/db.slice"


def machine(folder):
    """Make a folder that stands for a machine, unless it is there."""
    root = folder / "root"
    for name, text in FILES.items():
        path = root / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
    (root / "sys/block").mkdir(exist_ok=True)
    if not (root / "sys/block/vda").exists():
        (root / "sys/block/vda").symlink_to("../devices/pci/vda")
    return Machine(root=root)


def set_by_others(root, name, text):
    (root / name).write_text(f"{text}\n")


def contents(root):
    """Everything that a setting of such a machine can be, by its path."""
    return {name: (root / name).read_text() for name in FILES}


class Felt(BaseTarget):
    """Speed grows with the dirty ratio that the machine has while it runs, and is written down beside it."""

    name = "felt"
    limit_seconds = 30.0

    def __init__(self, folder, pause=0.0):
        self.folder, self.pause = Path(folder), pause
        self.space = Space([Int(name="n", low=1, high=1000, default=1)])
        self.metrics = (Metric(name="speed", direction="max"),)
        self.workloads = {"only": "one"}

    def measure(self, config, *, workload, seed, budget):
        ratio = int((self.folder / "root/proc/sys/vm/dirty_ratio").read_text())
        with (self.folder / "felt.log").open("a") as log:
            log.write(f"{ratio}\n")
        time.sleep(self.pause)
        return Measurement(values={"speed": 100.0 + ratio + config["n"] / 1000})


def target(folder, keys=KEYS, *, isolated=True, pause=0.0):
    below = machine(folder)
    made = MachineTarget(Felt(folder, pause), read_keys(keys, below), below)
    made.isolated = isolated  # without a process for each run where a test is not about these
    return made


def main():
    folder, url, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    store, tuned = Store(url), target(folder, pause=0.05)
    if name in store.names():
        session = Session.resume(name, store, target=tuned)
    else:
        session = Session.create(Plan(target="felt", tuner="random", trust="fast"), name, store, target=tuned)
    session.run(trials=10_000, verify=False)


if __name__ == "__main__":
    main()
