"""An agent that schedules Spark stages, against fair scheduling on held-out mixes: python benchmarks/spark_agent.py.

MaskablePPO (sb3-contrib), with one scorer for all candidate stages, learns on ``tunewright/SparkScheduling-v0``; each seed's agent is then compared on mixes that no
episode of training ever had, paired by mix: the ratio of mean response times with its 95 % interval.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from common import publish, table

from tunewright.agents.scheduling import candidate_policy
from tunewright.envs.scheduling.spark import decide
from tunewright.envs.scheduling.spark import simulate as M
from tunewright.envs.scheduling.spark.env import SparkEnv


def train(seed, steps, scene):
    import torch
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    env = make_vec_env(lambda: SparkEnv(pool=512, **scene), n_envs=8, seed=seed)
    agent = MaskablePPO(
        candidate_policy(decide.CANDIDATES, decide.FEATURES, decide.WORLD, decide.LIMITS), env, seed=seed, n_steps=1024, batch_size=1024,
        n_epochs=5, gamma=0.999, gae_lambda=0.97, ent_coef=0.01, learning_rate=1e-3,
    )  # fmt: skip
    agent.learn(steps)
    return agent


def responses(agent, env, seed):
    """Mean response time of the mix of a seed under an agent."""
    env.batch.seeds = [seed]
    seen, info = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        action, _ = agent.predict(seen, action_masks=info["action_mask"], deterministic=True)
        seen, reward, over, _, info = env.step(action)
        total -= reward
    return total * 60.0 / len(env.batch.jobs(seed))


def interval(logs):
    """Geometric mean of ratios with its bootstrap 95 % interval, from their logarithms."""
    draws = np.random.default_rng(0).choice(logs, (4000, len(logs))).mean(1)
    return np.exp(logs.mean()), *np.exp(np.percentile(draws, [2.5, 97.5]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--mixes", type=int, default=100)
    given = parser.parse_args()
    scene = {"cores": 16, "mix": {"jobs": 20, "users": 5, "load": 1.2}}
    held = range(1000, 1000 + given.mixes)
    env = SparkEnv(held_out=True, **scene)
    base = {
        p: np.array([M.simulate(env.batch.jobs(s), 16, M.Options(policy=p)).response_s.mean() for s in held])
        for p in ("fair", "fair-jobs", "fifo", "sjf", "uwfq")
    }
    rows = []
    for p, values in base.items():
        rows.append(
            (p, f"{values.mean():.2f}", "{:.3f} ({:.3f} to {:.3f})".format(*interval(np.log(values / base["fair"]))))
        )
    for seed in range(given.seeds):
        start = time.perf_counter()
        agent = train(seed, given.steps, scene)
        took = time.perf_counter() - start
        values = np.array([responses(agent, env, s) for s in held])
        rows.append(
            (
                f"agent, seed {seed} ({took:.0f} s of training)",
                f"{values.mean():.2f}",
                "{:.3f} ({:.3f} to {:.3f})".format(*interval(np.log(values / base["fair"]))),
            )
        )
        print(*rows[-1], flush=True)
    body = (
        f"{given.mixes} held-out mixes of 20 jobs on 16 cores. The ratio is the geometric mean over mixes of mean response times"
        " over those under fair pools, with its bootstrap 95 % interval; below 1 is better.\n\n"
        + table(("policy", "mean response [s]", "over fair pools"), rows)
    )
    publish(
        "spark_agent",
        "An agent that schedules Spark stages",
        f"python benchmarks/spark_agent.py --seeds {given.seeds} --steps {given.steps}",
        body,
    )


if __name__ == "__main__":
    main()
