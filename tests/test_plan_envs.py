"""The planning environments: contracts, masks, rewards, and that an agent learns."""

import gymnasium
import numpy as np
import pytest

import tunewright.envs  # noqa: F401
from tunewright.envs.parallelism import plans
from tunewright.envs.parallelism.env import WORST
from tunewright.envs.parallelism.pool import HELD_OUT
from tunewright.testing import check_env

NAMES = ("tunewright/TrainPlan-v0", "tunewright/ServePlan-v0")


def make(name, **more):
    return gymnasium.make(name, count=6, **more)


@pytest.mark.parametrize("name", NAMES)
def test_contracts(name):
    check_env(make(name).unwrapped)
    from gymnasium.utils.env_checker import check_env as gymnasium_check

    gymnasium_check(make(name).unwrapped, skip_render_check=True)


def rollout(environment, seed, pick):
    observation, info = environment.reset(seed=seed)
    seen, done, reward = [observation], False, 0.0
    while not done:
        observation, reward, done, _, info = environment.step(pick(info["action_mask"]))
        seen.append(observation)
    return np.array(seen), reward, info


@pytest.mark.parametrize("name", NAMES)
def test_masks_lead_to_legal_plans_and_the_same_seed_to_the_same_episode(name):
    environment = make(name)
    for seed in range(40):
        runs = []
        for _ in range(2):
            rng = np.random.default_rng(seed)
            runs.append(rollout(environment, seed, lambda mask, r=rng: int(r.choice(np.flatnonzero(mask)))))
        (a, first, info), (b, second, _) = runs
        assert np.array_equal(a, b) and first == second and WORST <= first <= 0
        assert (
            ("illegal" not in info and info["regret"] > -1e-9)
            or info.get("fits") is False
            or info.get("meets") is False
        )
        if name == NAMES[0]:
            assert plans.problems(info["plan"], environment.unwrapped.case.job) == []


@pytest.mark.parametrize("name", NAMES)
def test_illegal_actions_end_the_episode(name):
    environment = make(name)
    _, info = environment.reset(seed=3)
    for _ in range(20):
        bad = np.flatnonzero(~info["action_mask"])
        if len(bad):
            _, reward, done, _, info = environment.step(int(bad[-1]))
            assert done and reward == WORST and info["illegal"]
            return
        _, _, done, _, info = environment.step(int(np.flatnonzero(info["action_mask"])[0]))
        assert not done
    pytest.fail("no action was ever illegal")


def test_held_out_jobs_are_published_models():
    test = make(NAMES[0], held_out=True)
    names = {c.job.model.name for c in test.unwrapped.pool()}
    assert names <= set(HELD_OUT) and len(names) >= 8
    assert all(c.job.model.name == "drawn" for c in make(NAMES[0]).unwrapped.pool())


@pytest.mark.slow
def test_an_agent_learns_to_plan():
    """MaskablePPO must plan much better than random legal plans on jobs that it has not seen."""
    contrib = pytest.importorskip("sb3_contrib", reason="needs the extra: pip install 'tunewright[rl]'")
    environment = gymnasium.make(NAMES[0], count=128)
    agent = contrib.MaskablePPO("MlpPolicy", environment, seed=0, n_steps=1024, batch_size=256, gamma=1.0, device="cpu")
    agent.learn(40_000)
    test = make(NAMES[0], held_out=True)
    rng = np.random.default_rng(0)

    def mean(pick):
        rewards = []
        for k in range(len(test.unwrapped.pool())):
            observation, info = test.reset(options={"case": k}, seed=k)
            done = False
            while not done:
                observation, reward, done, _, info = test.step(pick(observation, info["action_mask"]))
            rewards.append(reward)
        return np.mean(rewards)

    learned = mean(lambda o, m: int(agent.predict(o, action_masks=m, deterministic=True)[0]))
    random = mean(lambda o, m: int(rng.choice(np.flatnonzero(m))))
    assert learned > random + 0.8
