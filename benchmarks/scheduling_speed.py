"""Speed of the scheduling simulators and environments: python benchmarks/scheduling_speed.py.

Medians of seven runs on one core. Public simulators, measured on such a machine before (papers.md): spark-sched-sim 450 to 800
steps/s, decima-sim 1,900 to 2,600 steps/s. A step of these is a decision: a stage and its parallelism.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from common import DATA, publish, table

from tunewright.envs.parallelism import clusters, models
from tunewright.envs.parallelism.serving import Service
from tunewright.envs.scheduling.cluster import jobs as CJ
from tunewright.envs.scheduling.cluster import simulate as C
from tunewright.envs.scheduling.cluster.env import ClusterVectorEnv
from tunewright.envs.scheduling.serving import policies as P
from tunewright.envs.scheduling.serving import simulate as M
from tunewright.envs.scheduling.serving import synthetic, trace
from tunewright.envs.scheduling.serving.env import ServingVectorEnv
from tunewright.envs.scheduling.spark import jobs as J
from tunewright.envs.scheduling.spark import simulate as K
from tunewright.envs.scheduling.spark.env import SparkVectorEnv

RUNS = 7


def median(run):
    run()
    return float(np.median([run() for _ in range(RUNS)]))


def serving(name, requests, model, cluster, policy, tp=0):
    service = Service(model=models.load(model), nodes=clusters.load(cluster).nodes)
    knobs = P.policy(policy)
    system = M.setup(service, M.default_plan(service, tp=tp), knobs)
    rate = median(lambda: len(requests) / M.simulate(requests, system, knobs, error=0.3).seconds)
    return f"serving, {name}, {policy}", f"{rate:,.0f} requests/s", "50,000"


def env_steps(make, n, steps, masked):
    env = make(n)
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=1)
    masks = info["action_mask"]

    def run():
        nonlocal masks
        spent = 0.0
        for _ in range(steps):
            actions = (rng.random(masks.shape) * masks).argmax(1) if masked else np.full(n, 9)
            start = time.perf_counter()
            masks = env.step(actions)[4]["action_mask"]
            spent += time.perf_counter() - start  # choosing is the agent's time
        return n * steps / spent

    return median(run)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = []
    file = DATA / "llm/AzureLLMInferenceTrace_conv.csv.gz"
    azure = trace.read(file) if file.exists() else synthetic.generate("chat", {"requests": 20_000, "rate": 5.5}, 1)
    for policy in ("vllm", "sarathi", "slo", "fair", "past-future"):
        rows.append(serving("Azure's trace on 8 H100", azure, "llama3-70b", "h100:8", policy, 4))
    busy = azure.faster(3.0)
    for policy in ("vllm", "sarathi", "slo"):
        rows.append(serving("the same three times as dense", busy, "llama3-70b", "h100:8", policy, 4))
    kimi = DATA / "llm/conversation_trace.jsonl.gz"
    if kimi.exists():
        for policy in ("prefix", "dualmap"):
            rows.append(serving("Mooncake's trace on 8 replicas", trace.read(kimi), "llama3-8b", "h100:8", policy, 1))
    mix = J.generate(64, {"jobs": 3000, "load": 0.8}, 1)
    for policy in ("fifo", "fair", "uwfq"):
        for part in (0.0, 1.0):
            how = K.Options(policy=policy, partition_s=part)

            def run(how=how):
                o = K.simulate(mix, 64, how)
                return o.tasks / o.seconds

            rows.append(
                (f"Spark, 64 cores, {policy}{', partitioned' if part else ''}", f"{median(run):,.0f} tasks/s", "")
            )

    def decisions():
        o = K.simulate(mix, 64, K.Options(policy="uwfq"))
        return o.decisions / o.seconds

    rows.append(
        ("Spark, decisions of a policy", f"{median(decisions):,.0f} decisions/s", "260,000 (100 times decima-sim)")
    )
    rate = env_steps(lambda n: SparkVectorEnv(n), 256, 200, True)
    rows.append(("Spark environment, 256 at once, random legal decisions", f"{rate:,.0f} steps/s", "260,000"))
    rows.append(
        (
            "cluster environment, 256 at once",
            f"{env_steps(lambda n: ClusterVectorEnv(n), 256, 200, True):,.0f} steps/s",
            "",
        )
    )
    rows.append(
        (
            "serving environment, 256 at once",
            f"{env_steps(lambda n: ServingVectorEnv(n), 256, 200, False):,.0f} steps/s",
            "",
        )
    )
    for name, nodes, size in (
        ("sched/philly.csv.gz", "auto", 20_000),
        ("sched/NASA-iPSC-1993-3.1-cln.swf.gz", "auto", 18_239),
    ):
        path = DATA / name
        if path.exists():
            jobs = CJ.read(path).first(size)
            where = CJ.nodes(nodes, jobs)
            for policy in ("fifo", "backfill", "las"):
                rate = median(
                    lambda jobs=jobs, where=where, policy=policy: (
                        len(jobs) / C.simulate(jobs, where, C.policy(policy)).seconds
                    )
                )
                rows.append((f"cluster, {path.name}, {where.words}, {policy}", f"{rate:,.0f} jobs/s", ""))
    publish(
        "scheduling_speed",
        "Speed of the scheduling simulators",
        "python benchmarks/scheduling_speed.py",
        "Medians of seven, one core. Public simulators on such a machine: spark-sched-sim 450 to 800 steps/s, decima-sim 1,900 to 2,600"
        " steps/s; a step is a decision on a stage and its parallelism.\n\n" + table(("what", "measured", "bar"), rows),
    )


if __name__ == "__main__":
    main()
