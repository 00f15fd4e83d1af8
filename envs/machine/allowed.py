"""What of a machine may be tuned: the allow-list, with ranges, units, effects and what each setting may break.

Nothing on the list can take a machine down, lock anybody out, or weaken what a written file survives. Ranges end well
before values that the kernel's manuals warn of. The texts follow the kernel's own documentation
(Documentation/admin-guide/sysctl, admin-guide/mm/transhuge.rst, block/queue-sysfs.rst, admin-guide/cgroup-v2.rst).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """How one setting may be tuned.

    Attributes:
        low: lowest value that is tried; None for a setting with choices.
        high: highest, a number or an expression over the facts of the machine.
        choices: values of a setting that has names for them; the kernel's own list narrows them where it shows one.
            Empty together with ``low`` None: whatever the kernel lists.
        choices_in: path of the file that lists the choices, where it is another one.
        step: the kernel takes multiples of it, counted from ``low``; a page of memory, for instance.
        log: search on a logarithmic scale.
        unit: of the values.
        bytes_in_unit: above 1 where the file holds bytes and the parameter a larger unit.
        special: values outside the range and what they mean; -1 is written as ``max``.
        doc: the effect, in a sentence.
        breaks: what a bad value may do to the machine's other users, in a sentence.
        careful: what careful mode never tries, an expression in which ``{name}`` is the parameter and ``{default}``
            today's value; "" for nothing.
        twin: path of the setting that replaces this one; where that is in force, this one reads 0.
    """

    low: int | None = None
    high: int | str = 0
    choices: tuple[str, ...] = ()
    choices_in: str = ""
    step: int = 1
    log: bool = False
    unit: str = ""
    bytes_in_unit: int = 1
    special: Mapping[int, str] = field(default_factory=dict)
    doc: str = ""
    breaks: str = ""
    careful: str = ""
    twin: str = ""


_STALLS = "Higher values let more unwritten data pile up, so that everybody who writes may wait longer at once."
_LOSES = "Higher values let a power cut lose more of what programs wrote without syncing it."
_VM = "/proc/sys/vm/"

SYSCTL: dict[str, Allowed] = {
    "vm.swappiness": Allowed(
        low=1, high=200, doc="How readily the kernel swaps out memory of programs instead of dropping cached files.",
        breaks="Higher values may swap out parts of other programs, which then answer later.",
    ),
    "vm.dirty_ratio": Allowed(
        low=5, high=60, unit="%", twin=_VM + "dirty_bytes", breaks=_STALLS,
        doc="Share of memory with unwritten data at which a program that writes must wait for the disk.",
    ),
    "vm.dirty_background_ratio": Allowed(
        low=1, high=40, unit="%", twin=_VM + "dirty_background_bytes", breaks=_STALLS,
        doc="Share of memory with unwritten data at which the kernel begins to write in the background.",
    ),
    "vm.dirty_bytes": Allowed(
        low=32, high="RAM_MB / 2", unit="MB", bytes_in_unit=2**20, log=True, twin=_VM + "dirty_ratio", breaks=_STALLS,
        doc="Unwritten data at which a program that writes must wait for the disk.",
    ),
    "vm.dirty_background_bytes": Allowed(
        low=8, high="RAM_MB / 4", unit="MB", bytes_in_unit=2**20, log=True, twin=_VM + "dirty_background_ratio",
        doc="Unwritten data at which the kernel begins to write in the background.", breaks=_STALLS,
    ),
    "vm.dirty_expire_centisecs": Allowed(
        low=100, high=6000, unit="cs", log=True, breaks=_LOSES, careful="{name} > {default}",
        doc="Age at which unwritten data is written in the background.",
    ),
    "vm.dirty_writeback_centisecs": Allowed(
        low=50, high=3000, unit="cs", log=True, breaks=_LOSES, careful="{name} > {default}",
        doc="How often the kernel looks for unwritten data that is old enough.",
    ),
    "vm.vfs_cache_pressure": Allowed(
        low=10, high=500, log=True, doc="How readily the kernel drops cached directory entries and inodes.",
        breaks="Low values keep such entries in memory that other programs may need.",
    ),
    "vm.page-cluster": Allowed(
        low=0, high=6, doc="Pages read from swap at once, as a power of two.",
        breaks="It matters only where the machine swaps.",
    ),
    "vm.watermark_scale_factor": Allowed(
        low=10, high=500, unit="1/10000", log=True, doc="How early background reclaim of memory begins.",
        breaks="Higher values keep more memory free that caches would use.",
    ),
    "vm.compaction_proactiveness": Allowed(
        low=0, high=100, doc="How hard the kernel works in the background to have large free pages.",
        breaks="Higher values take processor time from everybody.",
    ),
    "vm.zone_reclaim_mode": Allowed(
        choices=("0", "1"), doc="1 frees memory of the same NUMA node before it takes some of another.",
        breaks="1 drops cached files earlier.",
    ),
    "vm.stat_interval": Allowed(low=1, high=120, unit="s", log=True, doc="How often counters of memory are updated."),
    "kernel.sched_autogroup_enabled": Allowed(
        choices=("0", "1"), doc="1 shares the processor by terminal session instead of by process.",
        breaks="It changes how much of the processor other sessions get.",
    ),
    "kernel.numa_balancing": Allowed(
        choices=("0", "1"), doc="1 moves memory to the NUMA node of the processor that uses it.",
        breaks="1 costs page faults in every program.",
    ),
    "kernel.timer_migration": Allowed(choices=("0", "1"), doc="1 moves timers away from idle processors."),
    "fs.aio-max-nr": Allowed(
        low=65536, high=4194304, log=True, doc="Asynchronous requests that all programs together may have open.",
        breaks="Programs that have more open now keep them; new ones are refused below that.",
        careful="{name} < {default}",
    ),
    "net.core.somaxconn": Allowed(
        low=128, high=65535, log=True, doc="Longest queue of connections that a program has not accepted yet.",
        breaks="Small queues refuse connections under bursts.", careful="{name} < {default}",
    ),
    "net.core.netdev_max_backlog": Allowed(
        low=300, high=50000, log=True, unit="packets", doc="Packets that wait for each processor.",
        breaks="Small queues drop packets under bursts.", careful="{name} < {default}",
    ),
    "net.core.busy_poll": Allowed(
        low=0, high=200, unit="us", doc="How long poll and select wait actively for packets.",
        breaks="Higher values take processor time from everybody.",
    ),
    "net.core.busy_read": Allowed(
        low=0, high=200, unit="us", doc="How long reads of sockets wait actively for packets.",
        breaks="Higher values take processor time from everybody.",
    ),
    "net.core.rmem_max": Allowed(
        low=131072, high=67108864, log=True, unit="B", doc="Largest receive buffer that a program may ask for.",
        careful="{name} < {default}",
    ),
    "net.core.wmem_max": Allowed(
        low=131072, high=67108864, log=True, unit="B", doc="Largest send buffer that a program may ask for.",
        careful="{name} < {default}",
    ),
    "net.ipv4.tcp_max_syn_backlog": Allowed(
        low=128, high=65536, log=True, doc="Half-open connections that are remembered.",
        breaks="Small queues refuse connections under bursts.", careful="{name} < {default}",
    ),
    "net.ipv4.tcp_slow_start_after_idle": Allowed(
        choices=("0", "1"), doc="1 begins slowly again on connections that were idle.",
        breaks="0 may send bursts into a network that has become narrow.",
    ),
    "net.ipv4.tcp_congestion_control": Allowed(
        choices_in="/proc/sys/net/ipv4/tcp_available_congestion_control", doc="Congestion control of new connections.",
        breaks="It changes how new connections of all programs share the network.",
    ),
}  # fmt: skip

_THP = "/sys/kernel/mm/transparent_hugepage/"
#: names for files that have one place
NAMES = {
    "thp": _THP + "enabled",
    "thp_defrag": _THP + "defrag",
    "thp_shmem": _THP + "shmem_enabled",
    "thp_scan_sleep": _THP + "khugepaged/scan_sleep_millisecs",
}
_HUGE = "Programs with scattered memory may use much more of it with 'always'."
#: by a pattern of the path
SYSFS: dict[str, Allowed] = {
    NAMES["thp"]: Allowed(
        choices=("always", "madvise", "never"), breaks=_HUGE,
        doc="Which memory gets huge pages: all, what programs ask for, or none; for memory that is taken from then on.",
    ),
    NAMES["thp_defrag"]: Allowed(
        choices=("always", "defer", "defer+madvise", "madvise", "never"),
        doc="Whether a program waits until a huge page was made free.", breaks="'always' lets programs wait for that.",
    ),
    NAMES["thp_shmem"]: Allowed(
        choices=("always", "within_size", "advise", "never"), doc="Likewise for shared memory and tmpfs.", breaks=_HUGE,
    ),
    NAMES["thp_scan_sleep"]: Allowed(
        low=100, high=60000, log=True, unit="ms", doc="Pause between looks for memory to make huge pages of.",
        breaks="Small values take processor time.",
    ),
    "/sys/block/*/queue/read_ahead_kb": Allowed(
        low=4, high=16384, step=4, log=True, unit="kB", special={0: "none"}, careful="{name} == 0",
        doc="How much is read ahead of a program that reads a file in order.",
        breaks="Large values waste the disk's time for everybody who reads here and there.",
    ),
    "/sys/block/*/queue/scheduler": Allowed(
        doc="Which request goes to the disk next.", breaks="Requests in flight are waited for when it changes.",
    ),
    "/sys/block/*/queue/nr_requests": Allowed(
        low=32, high=1024, log=True, unit="requests", doc="Requests that may wait for the disk.",
        breaks="Long queues let everybody's requests wait longer.",
    ),
    "/sys/block/*/queue/rq_affinity": Allowed(
        choices=("0", "1", "2"), doc="Which processor ends a request: any, one near the program's, or the same.",
    ),
    "/sys/block/*/queue/nomerges": Allowed(
        choices=("0", "1", "2"), doc="How hard requests are merged: fully, simply, or not.",
        breaks="Without merging the disk sees more and smaller requests.",
    ),
}  # fmt: skip

_THROTTLES = "Programs of the group that use more are slowed down, by very much if it is far more."
CGROUP: dict[str, Allowed] = {
    "memory.high": Allowed(
        low=64, high="RAM_MB", unit="MB", bytes_in_unit=2**20, log=True, special={-1: "max: no limit"},
        doc="Memory, caches included, above which the group is slowed down and its memory reclaimed.",
        breaks=_THROTTLES,
    ),
    "memory.low": Allowed(
        low=0, high="RAM_MB / 2", unit="MB", bytes_in_unit=2**20, doc="Memory that is not taken from the group as long "
        "as others have some to give.", breaks="What is kept for one group is not there for the others.",
    ),
    "cpu.weight": Allowed(
        low=10, high=1000, log=True, doc="Share of the processor where all want it; 100 is usual.",
        breaks="What one group gets more of, the others get less of.",
    ),
    "io.weight": Allowed(
        low=10, high=1000, log=True, doc="Share of the disk where all want it; 100 is usual.",
        breaks="What one group gets more of, the others get less of.",
    ),
}  # fmt: skip

#: never, whatever the user says: they stop the machine, close it, cannot be taken back, or are no settings
_NEVER = (
    "/proc/sys/kernel/panic*", "/proc/sys/kernel/*_panic*", "/proc/sys/vm/panic*", "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/modules_disabled", "/proc/sys/kernel/kexec*", "/proc/sys/kernel/core_*",
    "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/kernel/yama/*", "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/threads-max", "/proc/sys/kernel/unprivileged_*", "/proc/sys/kernel/cap*",
    "/proc/sys/kernel/random/*", "/proc/sys/kernel/ns_last_pid", "/proc/sys/fs/file-max", "/proc/sys/fs/nr_open",
    "/proc/sys/fs/protected_*", "/proc/sys/fs/suid_dumpable", "/proc/sys/fs/binfmt_misc/*", "/proc/sys/user/*",
    "/proc/sys/vm/drop_caches", "/proc/sys/vm/compact_memory", "/proc/sys/vm/oom*", "/proc/sys/vm/mmap_*",
    "/proc/sys/vm/*reserve*",
    "/proc/sys/net/*/ip_forward*", "/proc/sys/net/*/conf/*", "/proc/sys/net/*/neigh/*", "/proc/sys/net/*/route/*",
    "/proc/sys/net/netfilter/*", "/proc/sys/net/*/icmp*", "/proc/sys/net/*/ip_local*", "/proc/sys/net/ipv6/bindv6only",
    "/sys/power/*", "/sys/kernel/kexec*", "/sys/kernel/debug/*", "/sys/firmware/*", "/sys/bus/*", "/sys/class/net/*",
    "*/queue/write_cache", "*/queue/fua", "*/device/*", "*/queue/*poll*",
    "*/online", "*/offline", "*/remove", "*/delete", "*/reset", "*/cgroup.kill", "*/cgroup.freeze", "*/cgroup.procs",
    "*/cgroup.*", "*/memory.max", "*/memory.swap.max", "*/memory.reclaim", "*/pids.max", "*/cpuset.*",
)  # fmt: skip


def forbidden(path: str) -> bool:
    """Whether a file is one that is never written, whatever the user says.

    >>> forbidden("/proc/sys/kernel/panic_on_oops"), forbidden("/proc/sys/vm/swappiness")
    (True, False)
    """
    return any(fnmatchcase(path, pattern) for pattern in _NEVER)


def of_sysfs(path: str) -> Allowed | None:
    """Return what the list says of a file of sysfs; None where it is not on it."""
    for pattern, allowed in SYSFS.items():
        if re.fullmatch(re.escape(pattern).replace(r"\*", "[^/]+"), path):
            return allowed
    return None
