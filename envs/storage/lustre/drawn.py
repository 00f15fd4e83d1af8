"""Clusters and workloads drawn at random, for agents that learn to tune more than one of them.

Ranges are chosen to hold STELLAR's testbed and workloads well inside; none of the eight named workloads is drawn.
"""

from __future__ import annotations

import math

import numpy as np

from tunewright.envs.storage.lustre.model import KIB, MIB, Cluster, Data, Metadata, Phase


def draw_cluster(rng: np.random.Generator) -> Cluster:
    """Draw machines around the testbed's: a fifth to four times its clients, targets, speeds."""
    clients = int(rng.integers(2, 21))

    def around(value: float, factor: float) -> float:
        return value * float(np.exp(rng.uniform(-math.log(factor), math.log(factor))))

    base = Cluster()
    link = around(base.link_mb_s, 3.0)
    return Cluster(
        clients=clients, ranks=clients * int(rng.integers(4, 17)), targets=int(rng.integers(2, 17)), link_mb_s=link,
        target_mb_s=around(link, 1.5), latency_s=around(base.latency_s, 2.0), meta_s=around(base.meta_s, 2.0),
        client_ram_mb=int(2 ** rng.integers(14, 18)), meta_modify=around(base.meta_modify, 2.0),
        meta_read=around(base.meta_read, 2.0), lock_s=around(base.lock_s, 2.0),
    )  # fmt: skip


def draw_workload(rng: np.random.Generator, cluster: Cluster) -> tuple[str, tuple[Phase, ...]]:
    """Draw a workload: data in one or many files, small files, or both; returns its words and phases."""
    kind = str(rng.choice(["shared", "own", "files", "both"]))
    words: list[str] = []
    phases: list[Phase] = []
    if kind in ("shared", "own", "both"):
        shared, random = kind == "shared", bool(rng.random() < 0.4)
        size = float(2 ** rng.integers(14, 16)) if random else float(2 ** rng.integers(19, 26))
        volume = float(np.exp(rng.uniform(np.log(4096), np.log(131_072))))
        volume = min(volume, 8192.0) if random else volume
        write, read = bool(rng.random() < 0.8), bool(rng.random() < 0.7)
        compute = float(rng.choice([0.0, 0.0, 2.0]))
        files = 1 if shared else cluster.ranks
        unit = f"{size / MIB:.0f} MiB" if size >= MIB else f"{size / KIB:.0f} KiB"
        done = " then ".join([w for w, on in (("write", write), ("read", read)) if on]) or "read"
        where = "of one shared file" if shared else "of own files"
        words.append(f"{unit} {'at random places' if random else 'in order'} {where}, {done}")
        for writing in [w for w, on in ((True, write), (False, read or not write)) if on]:
            phases.append(
                Data(
                    mb=volume,
                    transfer=size,
                    write=writing,
                    shared=shared,
                    random=random,
                    files=files,
                    compute_s=compute if writing else 0.0,
                )
            )
    if kind in ("files", "both"):
        operations = float(cluster.ranks * int(rng.integers(200, 4000)))
        small = float(rng.choice([0.0, 2.0, 8.0, 32.0])) * KIB
        words.append(f"many files of {small / KIB:.0f} KiB, created, looked at and removed (metadata)")
        phases += [
            Metadata(operations=operations, modify=True, creates=True, small_bytes=small),
            Metadata(operations=operations, modify=False, scan=bool(rng.random() < 0.5)),
            Metadata(operations=operations, modify=True),
        ]
    return "; ".join(words), tuple(phases)
