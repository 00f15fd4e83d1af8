"""Training jobs for the tests of plans."""

import numpy as np

from tunewright.envs.parallelism import calibration, clusters, models, plans
from tunewright.envs.parallelism.training import Job


def job(model="llama3-8b", cluster="h100:16", seq=4096, batch=256, **more):
    nodes = clusters.load(cluster).nodes
    return Job(
        model=models.load(model), nodes=nodes, seq=seq, global_batch=batch, calibration=calibration.of_nodes(nodes.kind)[1], **more
    )  # fmt: skip


def legal_rows(given_job, count=200, seed=0):
    rows = np.concatenate(list(plans.enumerate_plans(given_job)))
    return rows[np.random.default_rng(seed).integers(0, len(rows), count)]
