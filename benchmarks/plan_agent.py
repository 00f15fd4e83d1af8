"""A planning agent against rules on models that it has not seen: python benchmarks/plan_agent.py [--steps N] [--seeds K].

MaskablePPO (sb3-contrib) learns on drawn models and clusters; it plans for the published models, greedily, with one
attempt each. Rules and random legal plans are judged on the same jobs. About 5 minutes a seed for both environments.
"""

from __future__ import annotations

import argparse
import math

import gymnasium
import numpy as np
from common import publish, table

import tunewright.envs  # noqa: F401
from tunewright.envs.parallelism import search, serving_load, serving_search


def run(env, pick):
    """Returns the ratio to the best of each held-out job (inf where the plan does not do), and the rewards."""
    inner = env.unwrapped
    ratios, rewards = [], []
    for k in range(len(inner.pool())):
        observation, info = env.reset(options={"case": k}, seed=k)
        done = False
        while not done:
            observation, reward, done, _, info = env.step(pick(observation, info["action_mask"]))
        good = info.get("fits", info.get("meets", False))
        ratios.append(1 + info["regret"] if good else math.inf)
        rewards.append(reward)
    return np.array(ratios), np.array(rewards)


def told(ratios):
    good = np.isfinite(ratios)
    mean = np.exp(np.log(ratios[good]).mean()) if good.any() else math.nan
    return (
        f"{mean:.3f}",
        f"{np.quantile(ratios[good], 0.9):.2f}" if good.any() else "-",
        f"{100 * (1 - good.mean()):.0f} %",
    )


def rules(name, pool):
    out = {}
    for case in pool:
        if name == "TrainPlan":
            found = {
                k: (v[1][search.TIME] / case.best if v else math.inf) for k, v in search.baselines(case.job).items()
            }
        else:
            job = case.job
            found = {}
            for kind in ("bf16", "fp8"):
                if kind == "fp8" and job.service.nodes.fp8_tflops <= job.service.nodes.bf16_tflops:
                    continue
                for k, plan in serving_search.baselines(job.service, job.load, kind).items():
                    meets = plan is not None and serving_load.meets(
                        serving_load.evaluate(job.service, job.load, plan), job.load
                    )
                    found[f"{k}, {kind}"] = plan.gpus / case.best if meets else math.inf
        for k, v in found.items():
            out.setdefault(k, []).append(v)
    return {k: np.array(v) for k, v in out.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    import torch
    from sb3_contrib import MaskablePPO

    torch.set_num_threads(1)
    body = ""
    for name in ("TrainPlan", "ServePlan"):
        test = gymnasium.make(f"tunewright/{name}-v0", held_out=True)
        rows = []
        for seed in range(options.seeds):
            env = gymnasium.make(f"tunewright/{name}-v0", count=1024, seed=seed)
            agent = MaskablePPO(
                "MlpPolicy", env, seed=seed, n_steps=2048, batch_size=256, n_epochs=8, learning_rate=lambda left: 6e-4 * left + 2e-5,
                ent_coef=0.01, gamma=1.0, gae_lambda=0.95, policy_kwargs={"net_arch": [128, 128]}, device="cpu",
            )  # fmt: skip
            agent.learn(options.steps)
            ratios, rewards = run(test, lambda o, m, a=agent: int(a.predict(o, action_masks=m, deterministic=True)[0]))
            rows.append([f"MaskablePPO, seed {seed}", *told(ratios), f"{rewards.mean():.3f}"])
            print(rows[-1], flush=True)
        rng = np.random.default_rng(0)
        ratios, rewards = run(test, lambda o, m, r=rng: int(r.choice(np.flatnonzero(m))))
        rows.append(["random legal plan", *told(ratios), f"{rewards.mean():.3f}"])
        for k, ratios in rules(name, test.unwrapped.pool()).items():
            rows.append([f"rule: {k}", *told(ratios), "-"])
        what = "time over the best plan's" if name == "TrainPlan" else "GPUs over the fewest"
        heads = [
            "planner",
            f"{what}, geometric mean",
            "90th percentile",
            "out of memory" if name == "TrainPlan" else "misses the limits",
            "mean reward",
        ]
        body += (
            f"\n## {name}-v0, {len(test.unwrapped.pool())} jobs with published models\n\n" + table(heads, rows) + "\n"
        )
    words = (
        f"The agent learned {options.steps:,} steps on 1,024 drawn jobs, and plans with one attempt, without looking at any"
        " estimate; rules look at memory. Means are over the plans that do. The best is known from enumeration.\n"
    )
    publish("plan_agent", "Learning to plan", "python benchmarks/plan_agent.py", words + body)


if __name__ == "__main__":
    main()
