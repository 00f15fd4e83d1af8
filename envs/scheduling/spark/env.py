"""Scheduling stages as a sequence of decisions, after Decima: ``tunewright/SparkScheduling-v0``.

An episode runs a mix of jobs. A decision is due whenever a core is free and a stage can run: which of the first sixteen
runnable stages (by job, then stage), and on how many cores its job may run at most (an eighth, a quarter, a half or all
of them; one more than it has in any case). Tasks start up to that limit; then the next decision is due.

Action: a number below 64, ``4 * candidate + limit``; masks leave out places without a stage.

Observation, float32 in [0, 1]; x/(x+h) stands for a number without bound, h in brackets. For each of sixteen
candidates:

===== =====================================================================================
place meaning
===== =====================================================================================
0     whether there is one
1     work left of its job, over the cores (6 s)
2     longest way from the stage to the end of its job (60 s)
3     tasks that wait, over the cores (1)
4     mean time of a task (5 s)
5, 6  cores of its job, and of its user, over all cores
7     time since its job came (60 s)
8     work of the tasks that wait, over the cores (6 s)
===== =====================================================================================

Then the free share of the cores, unfinished jobs (10), runnable stages (10), and the share of the jobs that have come.

Reward: minus the job-seconds that pass until the next decision, in minutes; so a return is minus the sum of the
response times.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.envs.scheduling.batch import BatchEnv, SingleEnv
from tunewright.envs.scheduling.spark import jobs as spark_jobs
from tunewright.envs.scheduling.spark import simulate, state

SEEN, ACTIONS = 148, 64


class SparkVectorEnv(BatchEnv):
    """``n`` clusters, each with its own mix of jobs.

    Args:
        num_envs: how many.
        cores: of each.
        mix: parameters of the jobs, see ``jobs.DEFAULTS``.
        dags: file of measured jobs to draw from (``tpch_dags.json``); made ones if not given.
        partition_s: see ``simulate.Options``.
        pool: mixes to draw from, each drawn once; None: a new one each episode.
        held_out: draw from mixes that no episode without this ever has.
    """

    def __init__(
        self, num_envs: int = 1, *, cores: int = 16, mix: Mapping[str, Any] | None = None, dags: str = "",
        partition_s: float = 0.0, pool: int = 64, held_out: bool = False,
    ) -> None:  # fmt: skip
        self.cores, self.partition_s = cores, partition_s
        self.mix = {"users": 5, "jobs": 20, "load": 1.0, "work": 40.0, **(mix or {})}
        self.bodies = spark_jobs.tpch(Path(dags), sizes=("2g", "5g", "10g")) if dags else []
        self.seeds = range(1000, 1000 + pool) if held_out else range(pool)
        self._made: dict[int, state.Systems] = {}
        super().__init__(num_envs, SEEN, ACTIONS)

    def jobs(self, seed: int) -> list[spark_jobs.Job]:
        """Return the mix of a seed."""
        return spark_jobs.generate(self.cores, self.mix, seed, self.bodies)

    def _decide_all(self) -> Any:
        from tunewright.envs.scheduling.spark.decide import decide_all

        return decide_all

    def _piece(self, rng: np.random.Generator) -> state.Systems:
        seed = self.seeds[int(rng.integers(len(self.seeds)))]
        if seed not in self._made:
            self._made[seed] = simulate.systems(
                [self.jobs(seed)], self.cores, simulate.Options(policy="chosen", partition_s=self.partition_s)
            )
        return self._made[seed].again()


class SparkEnv(SingleEnv):
    """One cluster.

    Args:
        **scene: see ``SparkVectorEnv``.
    """

    def __init__(self, **scene: Any) -> None:
        super().__init__(SparkVectorEnv(1, **scene))
