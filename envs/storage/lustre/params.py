"""Lustre's thirteen parameters that STELLAR tunes, as the manual of Lustre 2.x describes them.

Ranges and defaults of the manual (chapters "Lustre Parameters" and "Managing File Layout"); where STELLAR's testbed had
other defaults (papers.md: RPCs of 256 pages, 2000 MB of dirty data, read-ahead 1024, 256 and 64 MB), those are taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunewright.space import Space
from tunewright.space.parameters import Int, Value

KIB, MIB = 1024, 1024**2


def parameters(targets: int) -> list[Int]:
    """Return the parameters of a file system with so many object storage targets."""
    return [
        Int(name="stripe_count", low=1, high=targets, default=1, special={-1: "all targets"},
            doc="object storage targets that hold one file"),
        Int(name="stripe_size", low=64 * KIB, high=4096 * MIB, step=64 * KIB, default=MIB, log=True, unit="B",
            doc="bytes written to one target before moving to the next; a multiple of 64 KiB"),
        Int(name="llite.max_read_ahead_mb", low=0, high="CLIENT_RAM_MB / 2", default=1024, unit="MiB",
            doc="most data read ahead on a client"),
        Int(name="llite.max_read_ahead_per_file_mb", low=0, high="CLIENT_RAM_MB / 2", default=256, unit="MiB",
            doc="most data read ahead on a file"),
        Int(name="llite.max_read_ahead_whole_mb", low=0, high="CLIENT_RAM_MB / 2", default=64, unit="MiB",
            doc="files up to this size are read as a whole at the first access"),
        Int(name="llite.statahead_max", low=0, high=8192, default=32, unit="files",
            doc="most file attributes fetched ahead of a directory scan; 0 disables it"),
        Int(name="osc.max_rpcs_in_flight", low=1, high=256, default=8, log=True, unit="RPCs",
            doc="concurrent RPCs from a client to one object storage target"),
        Int(name="mdc.max_rpcs_in_flight", low=2, high=256, default=8, log=True, unit="RPCs",
            doc="concurrent metadata RPCs from a client"),
        Int(name="mdc.max_mod_rpcs_in_flight", low=1, high=255, default=7, log=True, unit="RPCs",
            doc="concurrent modifying metadata RPCs from a client; fewer than mdc.max_rpcs_in_flight"),
        Int(name="osc.max_dirty_mb", low=1, high="min(2047, CLIENT_RAM_MB / 4)", default=2000, log=True, unit="MiB",
            doc="dirty data that a client caches for one object storage target"),
        Int(name="mdc.max_dirty_mb", low=1, high="min(2047, CLIENT_RAM_MB / 4)", default=2000, log=True, unit="MiB",
            doc="dirty data that a client caches for a metadata target"),
        Int(name="osc.max_pages_per_rpc", low=1, high=4096, default=256, log=True, unit="pages",
            doc="most 4 KiB pages in one RPC to an object storage target"),
        Int(name="mdc.max_pages_per_rpc", low=1, high=4096, default=256, log=True, unit="pages",
            doc="most 4 KiB pages in one RPC to a metadata target"),
    ]  # fmt: skip


CONSTRAINTS = (
    "mdc.max_mod_rpcs_in_flight < mdc.max_rpcs_in_flight",
    "llite.max_read_ahead_per_file_mb <= llite.max_read_ahead_mb",
)


def space(facts: Mapping[str, Value]) -> Space:
    """Return the space; facts are CLIENT_RAM_MB and OST_COUNT."""
    return Space(parameters(int(facts["OST_COUNT"])), CONSTRAINTS, facts)


def commands(config: Mapping[str, Value], changed: Mapping[str, Value], folder: str) -> list[str]:
    """Return the commands that apply what differs from the default."""
    lines = []
    if "stripe_count" in changed or "stripe_size" in changed:
        lines.append(f"lfs setstripe -c {config['stripe_count']} -S {config['stripe_size']} {folder}")
    for name, value in changed.items():
        kind, _, rest = name.partition(".")
        if rest:
            lines.append(f"lctl set_param {kind}.*.{rest}={value}")
    return lines
