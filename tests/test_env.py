import json
import warnings

import gymnasium
import numpy as np
import pytest
from targets import Guarded

import tunewright.envs  # noqa: F401
from tunewright.envs.storage.sqlite import SQLiteTarget
from tunewright.envs.tuning import CLIP, FAILURE
from tunewright.errors import ConfigError, TargetError, UnknownNameError
from tunewright.testing import Sphere, check_env


def make(target=None, **how):
    return gymnasium.make("tunewright/Tuning-v0", target=target or Sphere(), **how)


@pytest.mark.parametrize(
    "target", [Sphere(), Sphere(noise=0.1, fail_above=0.95), Guarded()], ids=["exact", "noisy", "guarded"]
)
def test_gymnasium_contract(target):
    env = make(target, budget=8)
    check_env(env)
    env.close()


def test_stable_baselines_contract():
    check = pytest.importorskip("stable_baselines3.common.env_checker").check_env
    from tunewright.agents.policy import symmetric

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(symmetric(make()))
        # the cube itself is legal for SB3 too; it only recommends the symmetric one
        warnings.filterwarnings("ignore", message=".*symmetric and normalized Box action space.*")
        check(make())


def test_reward_is_log_improvement():
    env = make(budget=3)
    env.reset(seed=1)
    _, reward, _, _, info = env.step(np.array([0.2, 0.2, 0.2], dtype=np.float32))
    assert info["metrics"]["loss"] == pytest.approx(1.0, abs=1e-6)
    assert reward == pytest.approx(np.log(2.47), abs=1e-5)


def test_observation_is_what_the_table_says():
    env = make(Guarded(), budget=4)
    observation, _ = env.reset(seed=3)
    d, m, w = 2, 2, 2
    assert observation.shape == (d + m + 2 + w + 1,)
    assert observation[-1] == 1.0
    assert observation[d : d + m].tolist() == [0, 0]
    assert observation[d + m + 2 : d + m + 2 + w].sum() == 1
    observation, reward, *_ = env.step(np.array([0.99, 0.0], dtype=np.float32))
    assert reward == pytest.approx(np.log(5))
    assert observation[d] == pytest.approx(np.log(5))
    assert observation[d + m + 1] == pytest.approx(np.log(5)), "best so far"
    assert observation[-1] == 0.75


def test_failures_cost_a_fixed_reward():
    env = make(Sphere(fail_above=0.92), budget=3)
    env.reset(seed=1)
    observation, reward, *_, info = env.step(np.ones(3, dtype=np.float32))
    assert (reward, info["status"]) == (FAILURE, "failed")
    assert observation[4] == 1.0


def test_an_episode_ends_with_its_budget():
    env = make(budget=3)
    env.reset(seed=1)
    ends = [env.step(env.action_space.sample())[2] for _ in range(3)]
    assert ends == [False, False, True]


def test_guarantees_hold_in_the_environment():
    env = make(Guarded(), budget=50)
    env.reset(seed=1)
    for _ in range(30):
        *_, info = env.step(env.action_space.sample())
        assert info["config"]["mode"] == "safe"


def test_a_real_database_is_an_environment(tmp_path):
    env = make(SQLiteTarget(rows=500), workload="read-heavy", budget=2, workdir=str(tmp_path))
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    _, reward, *_, info = env.step(env.action_space.sample())
    assert info["status"] == "ok"
    assert abs(reward) <= CLIP


def test_specs_work_by_name(tmp_path):
    (tmp_path / "t.csv").write_text("a,y-\n1,4\n2,2\n")
    env = make(f"table:{tmp_path / 't.csv'}", budget=2)
    env.reset(seed=0)
    assert env.step(np.array([0.9], dtype=np.float32))[1] == pytest.approx(np.log(2))


def test_wrong_input():
    with pytest.raises(ConfigError, match="at least 1 step"):
        make(budget=0)
    with pytest.raises(UnknownNameError, match="workload of guarded"):
        make(Guarded(), workload="three")
    env = make(Sphere(fail_above=0.5))
    with pytest.raises(TargetError, match="default configuration cannot be measured"):
        env.reset()


@pytest.mark.slow
def test_an_agent_learns_and_then_tunes_a_session(tmp_path, store, cli):
    """SAC comes close to the best possible return, then tunes a session."""
    pytest.importorskip("stable_baselines3")
    from tunewright.agents.policy import evaluate, train
    from tunewright.agents.policy import load as load_policy
    from tunewright.sessions.session import Session
    from tunewright.store.plan import Plan

    def make_env():
        return make(Sphere(2), budget=5)

    before = load_policy(train(make_env, algorithm="sac", steps=10, path=tmp_path / "new.zip", seed=1))
    path = train(make_env, algorithm="sac", steps=1500, path=tmp_path / "p.zip", seed=1, learning_starts=100)
    after = load_policy(path)
    best = 5 * np.log(1 + 2 * 0.7**2)  # the optimum at every step
    assert np.mean(evaluate(after, make_env, episodes=3)) > 0.8 * best
    assert np.mean(evaluate(after, make_env, episodes=3)) > np.mean(evaluate(before, make_env, episodes=3))
    session = Session.create(Plan(target="sphere", tuner=f"policy:{path}", seed=1), "a", store, target=Sphere(2))
    verdict = session.run(trials=8)
    assert verdict.improved
    assert verdict.comparisons["loss"].value > 1.7, "the best possible is 1.98"
    assert "trained agent" in session.all[1].why
    (tmp_path / "t.csv").write_text("a,y-\n1,4\n2,2\n")
    done = cli("tune", f"table:{tmp_path / 't.csv'}", "-t", f"policy:{path}", "--store", store.url, code=1)
    assert "was trained for observations of shape" in done.stderr


def test_policies_that_cannot_be_loaded(tmp_path, cli):
    pytest.importorskip("stable_baselines3")
    (tmp_path / "t.csv").write_text("a,y-\n1,4\n2,2\n")
    target = f"table:{tmp_path / 't.csv'}"
    assert (
        "no policy file"
        in cli("tune", target, "-t", "policy:none.zip", "--store", f"sqlite:///{tmp_path}/s.db", code=1).stderr
    )
    (tmp_path / "junk.zip").write_text("junk")
    assert (
        "is not an agent"
        in cli(
            "tune", target, "-t", f"policy:{tmp_path}/junk.zip", "--store", f"sqlite:///{tmp_path}/s.db", code=1
        ).stderr
    )
    assert (
        "say which agent" in cli("tune", target, "-t", "policy", "--store", f"sqlite:///{tmp_path}/s.db", code=1).stderr
    )
    assert json.loads(cli("list", "--store", f"sqlite:///{tmp_path}/s.db", "--json").stdout) == []
