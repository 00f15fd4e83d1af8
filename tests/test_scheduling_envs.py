"""The scheduling environments: contracts, batches, rewards, and that an agent learns."""

import warnings

import gymnasium
import numpy as np
import pytest

import tunewright.envs  # noqa: F401
from tunewright.envs.scheduling.cluster import decide as cluster_decide
from tunewright.envs.scheduling.cluster import env as cluster_env
from tunewright.envs.scheduling.serving import decide as serving_decide
from tunewright.envs.scheduling.serving import env as serving_env
from tunewright.envs.scheduling.spark import decide as spark_decide
from tunewright.envs.scheduling.spark import env as spark_env
from tunewright.envs.scheduling.spark import simulate as spark
from tunewright.errors import ConfigError
from tunewright.testing import check_env

NAMES = ("Serving", "SparkScheduling", "ClusterScheduling")


@pytest.mark.parametrize("name", NAMES)
def test_contracts(name):
    made = gymnasium.make(f"tunewright/{name}-v0")
    check_env(made)
    from stable_baselines3.common.env_checker import check_env as sb3_check

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check(made.unwrapped)


def play(env, seed, choose):
    seen, info = env.reset(seed=seed)
    total, over, states = 0.0, False, [seen]
    while not over:
        seen, reward, over, _, info = env.step(choose(info["action_mask"]))
        assert env.observation_space.contains(seen)
        total += reward
        states.append(seen)
    return total, np.array(states)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_does_what_single_systems_do(name):
    vector = gymnasium.make_vec(f"tunewright/{name}-v0", num_envs=3).unwrapped
    singles = [gymnasium.make(f"tunewright/{name}-v0").unwrapped for _ in range(3)]
    seen, info = vector.reset(seed=[5, 6, 7])
    alone = []
    for s, seed in zip(singles, (5, 6, 7), strict=True):
        s.batch._rngs = [np.random.default_rng(seed)]
        first, _ = s.batch.reset()
        alone.append(first[0])
    np.testing.assert_array_equal(seen, alone)
    for step in range(60):
        actions = np.array([np.flatnonzero(m)[step % m.sum()] for m in info["action_mask"]])
        seen, reward, over, _, info = vector.step(actions)
        for k, s in enumerate(singles):
            one, gained, done, _, _ = s.batch.step(actions[k : k + 1])
            np.testing.assert_array_equal(one[0], seen[k])
            assert gained[0] == reward[k] and done[0] == over[k]


def test_sizes_are_those_of_the_compiled_code():
    assert serving_env.SEEN == serving_decide.SEEN
    assert (spark_env.SEEN, spark_env.ACTIONS) == (spark_decide.SEEN, spark_decide.ACTIONS)
    assert (cluster_env.SEEN, cluster_env.ACTIONS) == (cluster_decide.SEEN, cluster_decide.ACTIONS)


def test_the_return_is_minus_the_sum_of_response_times():
    """Always the first stage, on all cores: that is FIFO."""
    env = gymnasium.make("tunewright/SparkScheduling-v0").unwrapped
    env.batch.seeds = [3]
    total, _ = play(env, 0, lambda mask: 3)
    wanted = spark.simulate(env.batch.jobs(3), 16, spark.Options(policy="fifo")).response_s.sum()
    assert -60.0 * total == pytest.approx(wanted, rel=1e-9)


def test_waiting_and_placing_are_rewarded_by_job_hours():
    env = gymnasium.make("tunewright/ClusterScheduling-v0").unwrapped
    env.batch.seeds = [2]
    first, _ = play(env, 0, lambda mask: int(np.flatnonzero(mask)[0]))
    rows = env.batch._systems[0].jobs[0]
    assert -first == pytest.approx((rows["done_at"] - rows["submit_s"]).sum() / 3600.0)
    lazy, _ = play(env, 0, lambda mask: 16 if mask[16] else int(np.flatnonzero(mask)[0]))
    assert lazy < first, "waiting for no reason costs time"


def test_serving_counts_good_requests():
    env = gymnasium.make("tunewright/Serving-v0").unwrapped
    total, _ = play(env, 1, lambda mask: 9)  # 512 tokens, first come first served
    asks = env.batch._systems[0].requests[0]
    tpot = (asks["done_at"] - asks["first_at"]) / np.maximum(asks["output"] - 1, 1)
    good = ((asks["first_at"] - asks["arrival_s"] <= 1.0) & (tpot <= 0.05)).sum()
    assert total == 2 * good - len(asks)
    never, _ = play(env, 1, lambda mask: 0)
    assert never < total


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: serving_env.ServingEnv(policy="vllm"), "chunked"),
        (lambda: serving_env.ServingEnv(requests=10**6), "an episode needs"),
        (lambda: cluster_env.ClusterEnv(nodes="32x8"), "up to 16 nodes"),
        (lambda: spark_env.SparkVectorEnv(0), "at least one"),
        (lambda: spark_env.SparkEnv().batch.step(np.array([99])), "numbers from 0 to 63"),
    ],
)
def test_bad_settings(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.slow
def test_an_agent_learns_to_beat_fair_scheduling():
    """One scorer for all candidates, 60,000 decisions; mixes that it has not seen."""
    import torch
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.env_util import make_vec_env

    from tunewright.agents.scheduling import candidate_policy

    torch.set_num_threads(1)
    scene = {"mix": {"load": 1.2}}
    d = spark_decide
    agent = MaskablePPO(
        candidate_policy(d.CANDIDATES, d.FEATURES, d.WORLD, d.LIMITS), make_vec_env(lambda: spark_env.SparkEnv(**scene), 8, seed=1),
        seed=1, n_steps=1024, batch_size=1024, n_epochs=5, gamma=0.999, gae_lambda=0.97, ent_coef=0.01, learning_rate=1e-3,
    ).learn(60_000)  # fmt: skip
    env = spark_env.SparkEnv(held_out=True, **scene)
    ratios = []
    for seed in range(1000, 1040):
        env.batch.seeds = [seed]
        seen, info = env.reset(seed=0)
        total, over = 0.0, False
        while not over:
            action, _ = agent.predict(seen, action_masks=info["action_mask"], deterministic=True)
            seen, reward, over, _, info = env.step(action)
            total -= 60.0 * reward
        ratios.append(total / spark.simulate(env.batch.jobs(seed), 16, spark.Options(policy="fair")).response_s.sum())
    assert np.exp(np.log(ratios).mean()) < 0.97
