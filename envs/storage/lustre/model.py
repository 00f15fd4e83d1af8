"""A model of clients, network, object and metadata servers: run time of a workload under a configuration.

Every constant says where it comes from: [paper] STELLAR's testbed (arXiv 2602.23220), [data] fitted to a client's log
by ``benchmarks/lustre.py``, [ratio] chosen so that best over default comes near the ratios which STELLAR reports,
[manual] the Lustre manual, [assumed] nothing but experience. docs/lustre.md says what is checked against what, and what
is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

KIB, MIB, PAGE = 1024.0, 1024.0**2, 4096.0
#: [data] client throughput over the pages in flight: cap / (1 + (KNEE / pages)^SHAPE)
KNEE, SHAPE = 6.0, 1.2
NOISE = 0.04  # [assumed] coefficient of variation of a run


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines.

    Attributes:
        clients, ranks, targets: [paper] 5 clients, 50 ranks, 5 object servers; one target each is [assumed].
        link_mb_s: [paper] 10 Gb/s, less the usual 6 % of headers.
        target_mb_s: sequential rate of a target [assumed: a little below the link].
        target_request_s: what a request costs a target beside its bytes, sequential and random [assumed].
        lock_s: what it costs when clients take a lock on one object from each other [ratio].
        latency_s: round trip of an RPC [assumed].
        client_ram_mb: [assumed]; the manual bounds several ranges by it.
        meta_s: latency of a metadata operation; meta_modify, meta_read: operations a second that the server does at
            most [ratio].
        queue_share: how much longer an operation takes for each process of its client that waits for a slot [ratio].
        object_s: what a further object of a file costs at creation and removal [assumed].
    """

    clients: int = 5
    ranks: int = 50
    targets: int = 5
    link_mb_s: float = 1175.0
    target_mb_s: float = 1050.0
    target_request_s: tuple[float, float] = (60e-6, 350e-6)
    lock_s: float = 400e-6
    latency_s: float = 250e-6
    client_ram_mb: int = 65_536
    meta_s: float = 1.3e-3
    meta_modify: float = 60_000.0
    meta_read: float = 120_000.0
    queue_share: float = 0.06
    object_s: float = 250e-6

    @property
    def per_client(self) -> float:
        """Ranks on a client."""
        return self.ranks / self.clients


@dataclass(frozen=True, kw_only=True)
class Data:
    """Moving data.

    Attributes:
        mb: all processes together.
        transfer: bytes of one call.
        write, shared, random: as they say; own files if not shared.
        files: all together.
        compute_s: time between bursts in which cached data can drain.
    """

    mb: float
    transfer: float
    write: bool
    shared: bool
    random: bool = False
    files: int = 1
    compute_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Metadata operations; ``scan`` if they walk a directory in order, so that attributes can be fetched ahead."""

    operations: float
    modify: bool
    scan: bool = False
    creates: bool = False
    small_bytes: float = 0.0


Phase = Data | Metadata
Kind = Literal["data", "metadata"]


def run_time(config: Mapping[str, Any], phases: tuple[Phase, ...], cluster: Cluster) -> tuple[float, dict[str, float]]:
    """Return seconds of all phases, one after the other, and the seconds of each part."""
    parts: dict[str, float] = {}
    for phase in phases:
        if isinstance(phase, Data):
            name = "write" if phase.write else "read"
            parts[name] = parts.get(name, 0.0) + data_time(config, phase, cluster)
        else:
            parts["metadata"] = parts.get("metadata", 0.0) + metadata_time(config, phase, cluster)
    return sum(parts.values()), parts


def stripes(config: Mapping[str, Any], cluster: Cluster) -> int:
    """Return the targets that one file lies on."""
    count = int(config["stripe_count"])
    return cluster.targets if count == -1 else min(count, cluster.targets)


def request_bytes(config: Mapping[str, Any], phase: Data) -> float:
    """Return the bytes of one RPC: contiguous on a target, within the limits of pages and dirty data."""
    most = min(config["osc.max_pages_per_rpc"] * PAGE, float(config["stripe_size"]))
    if phase.write:
        most = min(most, config["osc.max_dirty_mb"] * MIB)
    if phase.random:
        most = min(most, phase.transfer)
    elif not phase.write:
        window = min(config["llite.max_read_ahead_per_file_mb"], config["llite.max_read_ahead_mb"] / 4) * MIB
        most = min(most, max(window, phase.transfer))
    return float(max(most, PAGE))


def pipeline(rpcs: float, size: float, cap: float) -> float:
    """Return MB/s of one client to one target with so many RPCs of so many bytes in flight."""
    pages = max(rpcs * size / PAGE, 1e-9)
    return float(cap / (1.0 + (KNEE / pages) ** SHAPE))


def data_time(config: Mapping[str, Any], phase: Data, cluster: Cluster) -> float:
    """Seconds of a data phase: the slower of clients and targets, then what cannot overlap."""
    per_file = stripes(config, cluster)
    streams = max(phase.files, 1) * per_file
    # files of their own are spread over all targets by the allocator, a shared one over its stripes
    used = per_file if phase.files == 1 else min(cluster.targets, streams)
    # with few objects some targets get more of them than others
    uneven = 1.0 if phase.files == 1 or streams % used == 0 else math.ceil(streams / used) * used / streams
    size = request_bytes(config, phase)

    # clients
    rpcs = float(config["osc.max_rpcs_in_flight"])
    if not phase.write:
        if phase.random:  # each process waits for its own read
            rpcs = min(rpcs, cluster.per_client * max(phase.transfer / size, 1.0) / used)
        else:
            per_file_mb, all_mb = config["llite.max_read_ahead_per_file_mb"], config["llite.max_read_ahead_mb"]
            window = min(per_file_mb * cluster.per_client, all_mb)
            ahead = max(window * MIB, phase.transfer * cluster.per_client)
            rpcs = min(rpcs, ahead / size / used)
    elif phase.write:
        rpcs = min(rpcs, max(config["osc.max_dirty_mb"] * MIB / size, 1.0))
    rpcs = max(rpcs, 0.05)
    service = cluster.latency_s + size / (cluster.link_mb_s * MIB)
    by_latency = rpcs * size / service / MIB
    a_client = min(cluster.link_mb_s, used * min(pipeline(rpcs, size, cluster.link_mb_s), by_latency))

    # targets
    cost = cluster.target_request_s[phase.random] + size / (cluster.target_mb_s * MIB)
    if phase.shared and phase.write:
        cost += cluster.lock_s * _conflicts(config, phase, cluster, per_file)
    objects = streams / used
    crowd = 1.0 + 0.01 * max(objects - cluster.ranks / cluster.targets, 0.0)  # more objects, more seeking [assumed]
    a_target = min(cluster.link_mb_s, size / cost / MIB / crowd)

    rate = min(cluster.clients * a_client, used * a_target / uneven)
    seconds = phase.mb / rate
    # what fits into the clients' caches is written while the application computes
    if phase.write and phase.compute_s > 0:
        cached = min(phase.mb, cluster.clients * used * config["osc.max_dirty_mb"])
        hidden = min(cached / rate, phase.compute_s) * 0.8
        seconds -= hidden * min(1.0, cached / phase.mb)
    opening = phase.files * (cluster.meta_s + cluster.object_s * per_file)
    return seconds + opening / (cluster.clients * _modifying(config, cluster))


def _conflicts(config: Mapping[str, Any], phase: Data, cluster: Cluster, per_file: int) -> float:
    """Share of writes that must take their lock from another client, divided over the objects of the file."""
    others = (cluster.clients - 1) / cluster.clients
    if phase.random:
        return others / per_file
    # in order: only where processes meet within one stripe
    wider = float(config["stripe_size"]) / max(phase.transfer, PAGE)
    meeting = min(1.0, wider) if wider > 1.0 else 0.05
    return others * meeting / per_file


def _modifying(config: Mapping[str, Any], cluster: Cluster) -> float:
    return float(min(cluster.per_client, config["mdc.max_mod_rpcs_in_flight"]))


def metadata_time(config: Mapping[str, Any], phase: Metadata, cluster: Cluster) -> float:
    """Seconds of a metadata phase: operations in flight against the server's limit, smoothly."""
    flight = float(min(cluster.per_client, config["mdc.max_rpcs_in_flight"]))
    if phase.modify:
        flight = min(flight, _modifying(config, cluster))
    latency = cluster.meta_s * (1.0 if phase.modify else 0.7)
    if phase.scan:  # attributes come ahead, as many as the RPCs in flight allow
        ahead = min(float(config["llite.statahead_max"]), float(config["mdc.max_rpcs_in_flight"]))
        flight = max(flight, min(ahead, 4 * cluster.per_client))
    per_file = stripes(config, cluster)
    if phase.creates:
        latency += cluster.object_s * (per_file - 1) + cluster.object_s
    if phase.small_bytes > 0:  # its data, in one RPC, if the page limit allows
        calls = math.ceil(phase.small_bytes / (config["osc.max_pages_per_rpc"] * PAGE))
        latency += calls * (cluster.latency_s + cluster.target_request_s[1])
    latency *= 1.0 + cluster.queue_share * max(cluster.per_client - flight, 0.0)
    demand = cluster.clients * flight / latency
    limit = cluster.meta_modify if phase.modify else cluster.meta_read
    rate = (demand**-4 + limit**-4) ** -0.25
    return float(phase.operations / rate)


def _own(total_mb: float, transfer: float, write: bool, compute: float = 0.0, files: int = 50) -> Data:
    return Data(mb=total_mb, transfer=transfer, write=write, shared=False, files=files, compute_s=compute)


def _shared(total_mb: float, transfer: float, write: bool, random: bool = False, compute: float = 0.0) -> Data:
    return Data(mb=total_mb, transfer=transfer, write=write, shared=True, random=random, compute_s=compute)


def _workbench(size: float) -> tuple[Phase, ...]:
    """MDWorkbench: 10 directories of 400 files a process [paper]: stat, read, delete, create for each."""
    files = 50 * 10 * 400.0
    return (
        Metadata(operations=files, modify=True, creates=True, small_bytes=size),
        Metadata(operations=files, modify=False),
        Metadata(operations=files, modify=False, small_bytes=size),
        Metadata(operations=files, modify=True, creates=True),
    )


#: STELLAR's eight workloads [paper]; volumes are [assumed]
WORKLOADS: dict[str, tuple[str, tuple[Phase, ...]]] = {
    "ior-64k": (
        "IOR, 64 KiB at random places of one shared file, write then read",
        (_shared(8192, 64 * KIB, True, random=True), _shared(8192, 64 * KIB, False, random=True)),
    ),
    "ior-16m": (
        "IOR, 16 MiB in order in one shared file, write then read",
        (_shared(65536, 16 * MIB, True), _shared(65536, 16 * MIB, False)),
    ),
    "mdworkbench-2k": ("MDWorkbench, files of 2 KiB, 10 directories of 400 a process", _workbench(2 * KIB)),
    "mdworkbench-8k": ("MDWorkbench, files of 8 KiB, 10 directories of 400 a process", _workbench(8 * KIB)),
    "io500": (
        "IO500: easy and hard IOR, easy and hard mdtest, find",
        (
            _own(32768, 2 * MIB, True),
            _shared(4096, 47008, True, random=True),
            Metadata(operations=100_000, modify=True, creates=True),
            Metadata(operations=50_000, modify=True, creates=True, small_bytes=3901),
            Metadata(operations=150_000, modify=False, scan=True),
            _own(32768, 2 * MIB, False),
            _shared(4096, 47008, False, random=True),
            Metadata(operations=150_000, modify=False, scan=True),
        ),
    ),
    "amrex": (
        "AMReX plot files: bursts of large writes to a few shared files, between computing",
        (_own(98304, 8 * MIB, True, 4.0, files=3), Metadata(operations=2_000, modify=True, creates=True)),
    ),
    "macsio-512k": ("MACSio, objects of 512 KiB written to one shared file", (_shared(16384, 512 * KIB, True),)),
    "macsio-16m": (
        "MACSio, objects of 16 MiB written to one shared file",
        (_shared(32768, 16 * MIB, True, compute=0.5),),
    ),
}
