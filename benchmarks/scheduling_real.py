"""The scheduling simulators beside real systems: python benchmarks/scheduling_real.py [--part spark|serving].

Spark: PySpark in local mode on two cores, users' jobs of tasks that take a known time, FIFO and fair pools. The cost of a task
is measured on other jobs first. Serving: a small Llama with random weights, really computed for the batches that the
policy under test composes; the step-time model is calibrated on other batches first.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from common import publish, table

from tunewright.envs.scheduling.serving import executor as X
from tunewright.envs.scheduling.serving import policies as P
from tunewright.envs.scheduling.serving import reference as R
from tunewright.envs.scheduling.serving import simulate as M
from tunewright.envs.scheduling.serving import synthetic
from tunewright.envs.scheduling.spark import jobs as J
from tunewright.envs.scheduling.spark import simulate as K
from tunewright.envs.scheduling.spark.session import session

# (user, arrival s, tasks, seconds of a task): one heavy user, three light ones
MIX = [
    (0, 0.0, 16, 0.4), (1, 0.5, 4, 0.2), (2, 0.8, 4, 0.2), (3, 1.2, 6, 0.2), (1, 2.0, 4, 0.2), (0, 2.2, 12, 0.4), (2, 3.0, 4, 0.2), (3, 3.4, 6, 0.2),
    (1, 4.2, 4, 0.2), (2, 5.0, 4, 0.2), (3, 5.5, 6, 0.2), (0, 6.0, 10, 0.4), (1, 6.4, 4, 0.2), (2, 7.0, 4, 0.2),
]  # fmt: skip
CORES = 2


def sleeping(seconds):
    def work(_):
        import time as clock

        clock.sleep(seconds)
        return [1]

    return work


def run_spark(mode, jobs):
    """Response times of jobs, each started at its time by a thread of its own."""
    with tempfile.TemporaryDirectory() as folder:
        spark = session(CORES, Path(folder), {"spark.scheduler.mode": mode})
        context = spark.sparkContext
        for _ in range(3):
            context.parallelize(range(4), 4).mapPartitions(sleeping(0.01)).count()
        took = [0.0] * len(jobs)
        begin = time.perf_counter() + 0.2

        def submit(k, user, at, tasks, seconds):
            context.setLocalProperty("spark.scheduler.pool", f"user{user}")
            time.sleep(max(begin + at - time.perf_counter(), 0))
            start = time.perf_counter()
            context.parallelize(range(tasks), tasks).mapPartitions(sleeping(seconds)).count()
            took[k] = time.perf_counter() - start

        threads = [threading.Thread(target=submit, args=(k, *j)) for k, j in enumerate(jobs)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        spark.stop()
    return np.array(took)


def simulated(mode, jobs, overhead_s, job_s):
    mix = [
        J.Job(name="sleep", stages=(J.Stage(durations=np.array([seconds]), tasks=tasks),), arrival_s=at, user=user)
        for user, at, tasks, seconds in jobs
    ]
    o = K.simulate(mix, CORES, K.Options(policy="fifo" if mode == "FIFO" else "fair", overhead_s=overhead_s))
    return o.response_s + job_s


def spark_part(rounds):
    # what a task and a job cost beyond their time, from jobs alone on the machine, of 2 and of 20 tasks
    calm = [j for k in range(4) for j in ((0, 5.0 * k, 2, 0.2), (0, 5.0 * k + 1.5, 20, 0.2))]
    alone = run_spark("FIFO", calm)
    short, long = np.median(alone[2::2]), np.median(alone[3::2])  # the first two warm up
    overhead = max((long - short - 9 * 0.2) / 9, 0.0)
    job_s = max(short - 0.2 - overhead, 0.0)
    rows = []
    for mode in ("FIFO", "FAIR"):
        real = np.median([run_spark(mode, MIX) for _ in range(rounds)], axis=0)
        ours = simulated(mode, MIX, overhead, job_s)
        heavy = np.array([u == 0 for u, *_ in MIX])
        for name, which in (("all", np.ones(len(MIX), bool)), ("light users", ~heavy), ("heavy user", heavy)):
            rows.append(
                (
                    mode,
                    name,
                    f"{real[which].mean():.2f}",
                    f"{ours[which].mean():.2f}",
                    f"{ours[which].mean() / real[which].mean():.2f}",
                    f"{np.corrcoef(np.argsort(np.argsort(ours[which])), np.argsort(np.argsort(real[which])))[0, 1]:.2f}",
                )
            )
            print(*rows[-1], sep=" | ", flush=True)
    return (
        f"{len(MIX)} jobs of four users on {CORES} cores, medians of {rounds} runs; a task costs {1e3 * overhead:.0f} ms and a job"
        f" {1e3 * job_s:.0f} ms beyond its time, measured on other jobs.\n\n"
        + table(("mode", "jobs", "Spark: mean response [s]", "simulator", "ratio", "rank correlation of jobs"), rows)
    )


def serving_run(x, knobs, requests):
    """Mean TTFT and TPOT of the real model and of the simulator, ms."""
    # the machine's speed drifts, so other batches are timed just before and after each run
    before = X.measure(x, 3, seed=1, count=60)
    real = R.Reference(requests, x.setup(X.calibrate(before)), knobs, step_s=x.step_s).run()
    system = x.setup(X.calibrate(np.vstack([before, X.measure(x, 3, seed=2, count=60)])))
    ours = M.metrics(M.simulate(requests, system, knobs))
    ttft = float(np.mean([a.first_at - a.arrival for a in real]))
    tpot = float(np.mean([(a.done_at - a.first_at) / (a.output - 1) for a in real if a.output > 1]))
    return 1e3 * np.array([ttft, ours["ttft_s"]["mean"], tpot, ours["tpot_s"]["mean"]])


def serving_part(rounds):
    import torch

    torch.set_num_threads(1)
    x = X.LlamaExecutor()
    X.measure(x, 1)
    rows, near, single = [], 0, 0
    for policy, changes in (
        ("vllm", {}),
        ("orca", {}),
        ("sarathi", {}),
        ("splitfuse", {"chunk": 128}),
        ("sjf", {}),
        ("past-future", {}),
    ):
        for rate in (4.0, 8.0):
            knobs = P.policy(policy, **{"max_seqs": 12, "chunk": 64, "max_tokens": 256, "max_output": 200, **changes})
            requests = synthetic.generate(
                "chat", {"requests": 60, "rate": rate, "prompt": 120, "output": 40, "users": 4}, 3
            )
            found = np.array([serving_run(x, knobs, requests) for _ in range(rounds)])
            ratios = found[:, [1, 3]] / found[:, [0, 2]]
            first, token = np.median(ratios, axis=0)
            near += max(abs(first - 1), abs(token - 1)) <= 0.15
            single += int((np.abs(ratios - 1).max(axis=1) <= 0.15).sum())
            middle = np.median(found, axis=0)
            rows.append((
                policy, f"{rate:g}", f"{middle[0]:.1f}", f"{middle[1]:.1f}", f"{first:.2f}", f"{middle[2]:.2f}", f"{middle[3]:.2f}",
                f"{token:.2f}",
            ))  # fmt: skip
            print(*rows[-1], sep=" | ", flush=True)
    return (
        "A Llama of 4 layers and 192 hidden, on one core; the step-time model is fitted to 120 other batches, timed just before"
        f" and after each run. Medians of {rounds} runs, the ratios too. Within 15 % on both times in {near} of {len(rows)} rows (in"
        f" {single} of {rounds * len(rows)} runs alone: the machine's speed changes within a run).\n\n"
        + table(
            ("policy", "requests/s", "real TTFT [ms]", "simulated", "ratio", "real TPOT [ms]", "simulated", "ratio"),
            rows,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("spark", "serving"))
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.part != "serving":
        body = spark_part(given.rounds)
        publish(
            "spark_real", "The Spark simulator beside Spark", "python benchmarks/scheduling_real.py --part spark", body
        )
    if given.part != "spark":
        body = serving_part(given.rounds)
        command = "python benchmarks/scheduling_real.py --part serving"
        publish("serving_real", "The serving simulator beside a real model", command, body)


if __name__ == "__main__":
    main()
