"""The hybrid-storage environments keep Gymnasium's and PettingZoo's contracts."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import tunewright.envs  # noqa: F401
from tunewright.envs.storage.hybrid.env import MigrationEnv, PlacementEnv
from tunewright.envs.storage.hybrid.vector import PlacementVectorEnv
from tunewright.errors import ConfigError, TunewrightError

IDS = ("tunewright/HybridPlacement-v0", "tunewright/HybridMigration-v0")


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("devices", ["performance", "quad"])
def test_check_envs(name, devices):
    from stable_baselines3.common.env_checker import check_env as check_sb3

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(name, devices=devices, requests=200)
        check_env(env.unwrapped, skip_render_check=True)
        check_sb3(env.unwrapped)


def test_pettingzoo():
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    from tunewright.envs.storage.hybrid.parallel import HybridParallelEnv

    parallel_api_test(HybridParallelEnv(requests=100), num_cycles=500)
    parallel_seed_test(lambda: HybridParallelEnv(requests=100), num_cycles=300)


def rollout(env, actions, seed):
    seen, _ = env.reset(seed=seed)
    rows = [seen]
    for action in actions:
        seen, reward, over, _, info = env.step(action)
        rows.append(np.r_[seen, reward, info["latency_us"]])
        if over:
            break
    return np.concatenate(rows)


@pytest.mark.parametrize("kind", [PlacementEnv, MigrationEnv])
def test_same_seed_same_rollout(kind):
    actions = np.random.default_rng(0).integers(0, 2, 500)
    one, two = (rollout(kind(requests=400), actions, 7) for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, rollout(kind(requests=400), actions, 8))
    assert one.shape == (7 + 400 * 9,)


def test_a_batch_is_as_many_single_environments():
    n, steps = 5, 260
    batch = PlacementVectorEnv(n, requests=100, devices="triple")
    singles = [PlacementEnv(requests=100, devices="triple") for _ in range(n)]
    rng = np.random.default_rng(1)
    seen, _ = batch.reset(seed=3)
    for k, env in enumerate(singles):
        env.reset(seed=0)  # makes its generator, which is then the batch's
        env.np_random = np.random.default_rng(3 + k)
        assert np.array_equal(env.reset()[0], seen[k])
    over = np.zeros(n, bool)
    for _ in range(steps):
        actions = rng.integers(0, 3, n)
        seen, reward, ended, truncated, info = batch.step(actions)
        for k, env in enumerate(singles):
            if over[k]:  # the batch resets in the step after an episode's end
                assert np.array_equal(env.reset()[0], seen[k]) and reward[k] == 0 and not ended[k]
                continue
            one = env.step(actions[k])
            assert np.array_equal(one[0], seen[k]) and one[1] == reward[k] and one[2] == ended[k]
            assert one[4]["latency_us"] == info["latency_us"][k]
        over = ended
        assert not truncated.any()


def test_gymnasium_makes_the_batch():
    batch = gymnasium.make_vec(IDS[0], num_envs=3, vectorization_mode="vector_entry_point", requests=50)
    batch.reset(seed=0)
    ends = sum(int(batch.step(batch.action_space.sample())[2].sum()) for _ in range(102))
    assert ends == 3 * 2
    only = np.array([True, False, False])
    batch.reset(options={"reset_mask": only})
    batch.close()


def test_the_placement_action_is_obeyed():
    env = PlacementEnv(trace="synthetic:zipf", requests=300)
    env.reset(seed=0)
    for _ in range(200):
        env.step(0)
    fast = int(env.world.sims["used"][0, 0])
    assert fast > 100
    env.reset(seed=0)
    for _ in range(200):
        env.step(1)
    assert env.world.sims["used"][0, 0] == 0


def test_wrong_use_is_said():
    with pytest.raises(TunewrightError, match="no reward named 'speed'"):
        PlacementEnv(reward="speed")
    with pytest.raises(ConfigError, match="an episode has 1 to"):
        PlacementEnv(requests=10**9)
    with pytest.raises(ConfigError, match="render mode"):
        PlacementEnv(render_mode="human")
    env = PlacementEnv(requests=3)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    env.reset()
    with pytest.raises(ConfigError, match="a tier from 0 to 1"):
        env.step(2)
    batch = PlacementVectorEnv(2, requests=10)
    batch.reset()
    with pytest.raises(ConfigError, match="2 tiers from 0 to 1"):
        batch.step(np.array([0, 5]))
    with pytest.raises(ConfigError, match="at least one"):
        PlacementVectorEnv(0)
