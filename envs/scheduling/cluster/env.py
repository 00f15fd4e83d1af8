"""Placing jobs as a sequence of decisions: ``tunewright/ClusterScheduling-v0``.

An episode runs jobs on at most sixteen nodes with GPUs. A decision is due whenever the first job of the queue fits
somewhere: on which node it goes, or to wait until something else happens.

Action: a number below 17: a node, or 16 to wait; masks leave out nodes where the job does not fit. A job larger than a
node goes to several, which the simulator chooses; any node then means yes.

Observation, float32 in [0, 1]; x/(x+h) stands for a number without bound, h in brackets. For each of sixteen nodes: the
free share, the wholly free share of its GPUs, whether the job fits, whether there is such a node. Then of the job:
GPUs (4), part of a GPU, estimate (1 h), time since it was submitted (1 h); waiting jobs (10), running jobs (32),
share of the jobs that have come; of those that wait behind it: GPUs (16), shortest estimate (1 h).

Reward: minus the job-hours that pass until the next decision, so a return is minus the sum of the response times; jobs
that never ran at the end cost ten hours each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.envs.scheduling.batch import BatchEnv, SingleEnv
from tunewright.envs.scheduling.cluster import jobs as cluster_jobs
from tunewright.envs.scheduling.cluster import simulate, state
from tunewright.errors import ConfigError

SEEN, ACTIONS, NODES = 73, 17, 16


class ClusterVectorEnv(BatchEnv):
    """``n`` clusters, each with its own jobs.

    Args:
        num_envs: how many.
        nodes: such as ``8x4``: 8 nodes of 4 GPUs; at most 16 nodes.
        trace: file of jobs to draw pieces from; made ones if not given.
        jobs: of an episode.
        mix: parameters of made jobs, see ``jobs.DEFAULTS``.
        pool: mixes to draw from.
        held_out: draw from mixes that no episode without this ever has.
    """

    def __init__(
        self, num_envs: int = 1, *, nodes: str = "8x4", trace: str = "", jobs: int = 60,
        mix: Mapping[str, Any] | None = None, pool: int = 64, held_out: bool = False,
    ) -> None:  # fmt: skip
        self.nodes = cluster_jobs.nodes(nodes)
        if len(self.nodes.cpu) > NODES or not self.nodes.gpus.any():
            raise ConfigError(f"the environment has up to {NODES} nodes with GPUs, not {self.nodes.words}")
        self.count, self.mix = jobs, {"load": 1.1, "gpus": 4, "run_cv": 1.5, **(mix or {}), "jobs": jobs}
        self.trace = cluster_jobs.read(Path(trace)) if trace else None
        if self.trace is not None and len(self.trace) < 2 * jobs:
            raise ConfigError(f"{trace} has {len(self.trace)} jobs, and episodes of {jobs} need at least {2 * jobs}")
        self.seeds = range(1000, 1000 + pool) if held_out else range(pool)
        super().__init__(num_envs, SEEN, ACTIONS)

    def jobs(self, seed: int) -> cluster_jobs.Jobs:
        """Return the jobs of a seed; those of a trace come from its first half, held-out ones from its second."""
        if self.trace is None:
            return cluster_jobs.generate(self.nodes, self.mix, seed)
        half = len(self.trace) // 2
        start = int(np.random.default_rng([seed, 5]).integers(0, half - self.count + 1))
        piece = self.trace.first(self.count, start + (half if seed >= 1000 else 0))
        return piece.faster(float(self.mix["load"]) * float(self.nodes.gpus.sum()) / max(piece.demand(), 1e-9))

    def _decide_all(self) -> Any:
        from tunewright.envs.scheduling.cluster.decide import decide_all

        return decide_all

    def _piece(self, rng: np.random.Generator) -> state.Systems:
        seed = self.seeds[int(rng.integers(len(self.seeds)))]
        return simulate.systems([self.jobs(seed)], self.nodes, simulate.Policy())


class ClusterEnv(SingleEnv):
    """One cluster.

    Args:
        **scene: see ``ClusterVectorEnv``.
    """

    def __init__(self, **scene: Any) -> None:
        super().__init__(ClusterVectorEnv(1, **scene))
