"""Agents' files of others and of earlier releases run no code, and fit what they are used for."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from agent_files import Drift, one_line, rewrite, sb3, settings, sphere_env, table_env, train_small

import tunewright.envs  # noqa: F401 (registers the environments)
from tunewright.agents import modelfile
from tunewright.agents import policy as agents
from tunewright.agents.replay import Replay
from tunewright.comparing.tournament import compare
from tunewright.envs.family import TuningFamilyEnv
from tunewright.errors import ConfigError, TunerError
from tunewright.sessions.session import Session
from tunewright.space import Space
from tunewright.space.parameters import Choice, Int, Real
from tunewright.store.plan import Plan
from tunewright.testing import Sphere


@pytest.fixture
def small(tmp_path):
    return train_small(tmp_path)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,y-\n" + "".join(f"{a},{b},{1 + a * b}\n" for a in range(4) for b in range(4)))
    return path


# -- files that would run code ----------------------------------------------------------------------


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


def armed(path, canary):
    """Put code into a file that SB3 saved: it runs when the file is opened."""
    import base64

    with zipfile.ZipFile(path) as file:
        members = {n: file.read(n) for n in file.namelist()}
    data = json.loads(members["data"])
    data["_last_obs"] = {":type:": "bomb", ":serialized:": base64.b64encode(pickle.dumps(Bomb(canary))).decode()}
    members["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, raw in members.items():
            file.writestr(name, raw)
    return path


def foreign(path, make_env, algorithm="ppo"):
    """An agent as Stable-Baselines3 itself saves it."""
    modelfile.algorithm_class(algorithm)(
        "MlpPolicy", agents.symmetric(make_env()), device="cpu", **settings(algorithm)
    ).save(path)
    return path


def older(path, make_env, note, algorithm="ppo"):
    """An agent as earlier releases saved it."""
    foreign(path, make_env, algorithm)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("tunewright_algorithm.txt", algorithm)
        file.writestr("tunewright_note.json", json.dumps(note))
    return path


def lustre():
    return TuningFamilyEnv(["lustre"], 8)


def lustre_note():
    layout = lustre().layout
    return {"family": ["lustre"], "parameters": list(layout.parameters), "facts": list(layout.facts), "budget": 8}


@pytest.mark.slow
def test_no_command_opens_a_pickle_unasked(tmp_path, canary, table, cli):
    store = ("--store", f"sqlite:///{tmp_path}/s.db")
    evil = armed(foreign(tmp_path / "evil.zip", table_env(table)), canary)
    old = armed(older(tmp_path / "old.zip", lustre, lustre_note()), canary)
    train = ("train", "tuner", "--targets", "lustre", "--steps", "32", "--resume")
    for words in (
        ("tune", f"table:{table}", "-t", f"policy:{evil}", *store),
        (
            "compare",
            "--targets",
            f"table:{table}",
            "--tuners",
            f"policy:{evil}",
            "-o",
            tmp_path / "out",
            "-n",
            2,
            "--seeds",
            1,
        ),
        (*train, "-o", evil),
        (*train, "-o", old),
    ):
        before = evil.read_bytes(), old.read_bytes()
        said = cli(*words, code=1).stderr
        assert "holds pickled Python" in said and "--trust-file" in said, words
        assert len(said.strip().splitlines()) == 1, said
        assert not canary.exists(), words
        assert (evil.read_bytes(), old.read_bytes()) == before
    # the flag opens it: the file is what it seems to be
    cli("tune", f"table:{table}", "-t", f"policy:{evil}", "-n", 3, "--name", "a", "--trust-file", *store)
    assert canary.exists()
    canary.unlink()
    cli(
        *("compare", "--targets", f"table:{table}", "--tuners", f"policy:{evil}", "-n", 2, "--seeds", 1),
        "-o",
        tmp_path / "out",
        "--trust-file",
    )
    assert canary.exists()
    canary.unlink()
    # trust is not stored: a session that somebody else began opens nothing on resume
    assert "--trust-file" in cli("resume", "a", *store, code=1).stderr
    assert not canary.exists()
    cli("resume", "a", "-n", 1, "--trust-file", *store)
    assert canary.exists()


def test_no_function_opens_a_pickle_unasked(tmp_path, canary, store):
    evil = armed(foreign(tmp_path / "evil.zip", sphere_env), canary)
    plan = Plan(target="sphere", tuner=f"policy:{evil}", trust="fast")
    doors = {
        "load": lambda **how: agents.load(evil, **how),
        "session": lambda **how: Session.create(plan, "a", store, target=Sphere(2), **how),
        "train": lambda **how: agents.train(sphere_env, steps=16, path=evil, resume=True, **how),
    }
    for name, door in doors.items():
        with pytest.raises(ConfigError, match="trust_file=True") as refused:
            door()
        assert one_line(refused.value) and not canary.exists(), name
    assert agents.noted(evil) == {} and agents.trained_on(evil) is None and not canary.exists()
    for name, door in doors.items():
        door(trust_file=True)
        assert canary.exists(), name
        canary.unlink()
    agents.load(evil)  # 'train' has written it anew: without pickle
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["pickle", "renamed", "array"])
def test_no_replay_buffer_is_unpickled_unasked(kind, tmp_path, canary):
    path = agents.train(sphere_env, algorithm="sac", steps=10, path=tmp_path / "a.zip", **settings("sac"))
    before = path.read_bytes()
    buffer = tmp_path / ("a.replay.pkl" if kind == "pickle" else "a.replay.npz")
    if kind == "array":
        model = agents.load(path, env=agents.symmetric(sphere_env()))
        extra = {"note": {}, "trained_on": agents.trained_on(path)}
        Replay(path).write(model, extra)
        raw = io.BytesIO()
        np.save(raw, np.array([Bomb(canary)], dtype=object), allow_pickle=True)
        rewrite(buffer, lambda d: None, drop=["rewards.npy"], add=[("rewards.npy", raw.getvalue())])
    else:
        buffer.write_bytes(pickle.dumps(Bomb(canary)))
    for how in ({}, {"trust_file": True}) if kind != "pickle" else ({},):
        with pytest.raises(ConfigError) as refused:
            agents.train(sphere_env, algorithm="sac", steps=20, path=path, resume=True, **how, **settings("sac"))
        assert one_line(refused.value) and str(buffer) in str(refused.value)
        assert not canary.exists() and path.read_bytes() == before and buffer.exists()


def test_an_object_array_in_a_file_of_ours_runs_nothing(small, canary):
    raw = io.BytesIO()
    np.save(raw, np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    name = "policy/log_std.npy"
    rewrite(small, lambda d: None, drop=[name], add=[(name, raw.getvalue())])
    with pytest.raises(ConfigError, match="does not hold numbers"):
        agents.load(small, trust_file=True)
    rewrite(small, lambda d: None, drop=[name], add=[("policy.pth", pickle.dumps(Bomb(canary)))])
    with pytest.raises(ConfigError, match="is damaged"):
        agents.load(small, trust_file=True)
    assert not canary.exists()


def test_no_tournament_opens_a_pickle_unasked(tmp_path, canary):
    evil = armed(foreign(tmp_path / "evil.zip", sphere_env), canary)
    with pytest.raises(ConfigError, match="holds pickled Python"):
        compare([Sphere(2)], [f"policy:{evil}"], trials=2, seeds=1, directory=tmp_path / "out")
    assert not canary.exists() and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_agent_of_an_earlier_release_is_written_anew(tmp_path, cli, canary):
    path = older(tmp_path / "old.zip", lustre, lustre_note(), "sac")
    buffer = tmp_path / "old.replay.pkl"
    model = agents.load(path, env=agents.symmetric(lustre()), trust_file=True)
    model.learn(10)
    model.save_replay_buffer(buffer)
    words = ("train", "tuner", "--targets", "lustre", "--algo", "sac", "--steps", "12", "--resume", "-o", path)
    assert "old.zip holds pickled Python" in cli(*words, code=1).stderr
    cli(*words, "--trust-file")
    assert modelfile.is_own(path) and not buffer.exists(), "the buffer was ours, and training is done"
    assert agents.noted(path) == lustre_note()
    cli("tune", "lustre", "-t", f"policy:{path}", "-n", 2, "--store", f"sqlite:///{tmp_path}/s.db")


# -- going on ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_command_destroys_an_agent_of_another_algorithm(tmp_path, cli):
    path = agents.train(lustre, steps=16, path=tmp_path / "own.zip", note=lustre_note(), **settings("ppo"))
    before = path.read_bytes()
    said = cli("train", "tuner", "--targets", "lustre", "--algo", "sac", "--resume", "-o", path, code=1).stderr
    assert "holds an agent of ppo" in said and "--algo ppo" in said and len(said.strip().splitlines()) == 1
    assert path.read_bytes() == before


def test_another_algorithm_does_not_destroy_an_agent(tmp_path):
    for path in (
        agents.train(sphere_env, steps=16, path=tmp_path / "own.zip", **settings("ppo")),
        older(tmp_path / "old.zip", sphere_env, {}),
        foreign(tmp_path / "sb3.zip", sphere_env),
    ):
        before = path.read_bytes()
        for other in ("td3", "a2c"):
            for trusted in (False, True):
                with pytest.raises(ConfigError, match="holds an agent of ppo.*--algo ppo") as refused:
                    agents.train(sphere_env, algorithm=other, steps=20, path=path, resume=True, trust_file=trusted)
                assert one_line(refused.value) and path.read_bytes() == before


@pytest.mark.parametrize("algorithm", ["ppo", "sac", "td3", "a2c", "ddpg", "dqn"])
def test_the_algorithm_of_a_foreign_file_is_known_without_opening_it(algorithm, tmp_path):
    how = {"n_steps": 8} if algorithm in ("ppo", "a2c") else {"buffer_size": 8}
    how |= {"batch_size": 8} if algorithm == "ppo" else {}
    model = modelfile.algorithm_class(algorithm)("MlpPolicy", Drift(discrete=algorithm == "dqn"), device="cpu", **how)
    model.save(tmp_path / "a.zip")
    assert modelfile.algorithm_of(agents.load(tmp_path / "a.zip", trust_file=True)) == algorithm


def test_an_interrupted_training_goes_on_with_its_buffer(tmp_path, monkeypatch):
    path, how = tmp_path / "a.zip", {"algorithm": "sac", "checkpoint": 10, **settings("sac")}

    class Stopping(gymnasium.Wrapper):
        steps = 0

        def step(self, action):
            Stopping.steps += 1
            if Stopping.steps == 26:
                raise KeyboardInterrupt
            return self.env.step(action)

    with pytest.raises(KeyboardInterrupt):
        agents.train(lambda: Stopping(sphere_env()), steps=50, path=path, **how)
    buffer = tmp_path / "a.replay.npz"
    assert buffer.is_file() and agents.load(path).num_timesteps == 25
    seen = []
    load = Replay.load

    def watched(self, model, *given, **named):
        load(self, model, *given, **named)
        seen.append(model.replay_buffer.pos)

    monkeypatch.setattr(Replay, "load", watched)
    agents.train(sphere_env, steps=40, path=path, resume=True, **how)
    assert seen == [25] and agents.load(path).num_timesteps == 40
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"], "the buffer is gone with the training's end"


def test_a_buffer_of_another_agent_is_refused(tmp_path):
    for name, size in (("a", 2), ("b", 3)):
        agents.train(
            lambda n=size: gymnasium.make("tunewright/Tuning-v0", target=Sphere(n), budget=5), algorithm="sac", steps=10,
            path=tmp_path / f"{name}.zip", **settings("sac"),
        )  # fmt: skip
    env = agents.symmetric(gymnasium.make("tunewright/Tuning-v0", target=Sphere(3), budget=5))
    other = agents.load(tmp_path / "b.zip", env=env)
    Replay(tmp_path / "a.zip").write(other, {})
    with pytest.raises(ConfigError, match="the replay buffer of another agent"):
        agents.train(sphere_env, algorithm="sac", steps=20, path=tmp_path / "a.zip", resume=True, **settings("sac"))


# -- other parameters -------------------------------------------------------------------------------


class Knobs(Sphere):
    """A target with the given parameters, all of them numbers in the unit cube to an agent."""

    name = "knobs"

    def __init__(self, *params):
        super().__init__(len(params))
        self.space = Space(params)
        self.facts = {}

    def measure(self, config, **how):
        return Sphere(1).measure({"x0": 0.5}, **how)

    def drawn(self, rng):
        return self, next(iter(self.workloads))


X = Int(name="x", low=1, high=8, default=2)


C = Choice(name="c", choices=("a", "b"), default="a")


OTHERS = [
    ((Int(name="z", low=1, high=8, default=2), C), "x (only the agent knows it); z (unknown to the agent)"),
    ((C, X), "another order (x, c)"),
    ((Real(name="x", low=1, high=8, default=2), C), "x: int for the agent, real here"),
    ((Int(name="x", low=1, high=80, default=2), C), "x: 1 to 8 for the agent, 1 to 80 here"),
    ((Int(name="x", low=1, high=8, default=2, log=True), C), "x: log False for the agent, True here"),
    ((Int(name="x", low=1, high=8, default=2, step=2), C), "x: step 1 for the agent, 2 here"),
    ((Int(name="x", low=1, high=8, default=2, special={-1: "all"}), C), "x: special"),
    ((X, Choice(name="c", choices=("b", "a"), default="a")), "c: choices a, b for the agent, b, a here"),
    ((X, Choice(name="c", choices=("a", "b"), default="a", when="x > 2")), "c: when"),
]


@pytest.mark.parametrize(("params", "said"), OTHERS, ids=[said for _, said in OTHERS])
@pytest.mark.parametrize("kind", ["target", "family"])
def test_an_agent_of_other_parameters_is_refused_though_shapes_agree(kind, params, said, tmp_path, store):
    def make_env(target):
        if kind == "family":
            return TuningFamilyEnv([target], 3)
        return gymnasium.make("tunewright/Tuning-v0", target=target, budget=3)

    path = agents.train(lambda: make_env(Knobs(X, C)), steps=16, path=tmp_path / "a.zip", **settings("ppo"))
    plan = Plan(target="knobs", tuner=f"policy:{path}", trust="fast")
    Session.create(plan, "same", store, target=Knobs(X, C))
    with pytest.raises(TunerError) as refused:
        Session.create(plan, "other", store, target=Knobs(*params))
    assert said in str(refused.value) and "trained on knobs" in str(refused.value) and one_line(refused.value)
    before = path.read_bytes()
    with pytest.raises(ConfigError) as refused:
        agents.train(lambda: make_env(Knobs(*params)), steps=32, path=path, resume=True)
    assert said in str(refused.value) and one_line(refused.value) and path.read_bytes() == before


def test_what_varies_in_a_family_is_not_held_against_a_member(tmp_path, store):
    class Grown(Knobs):
        def drawn(self, rng):
            return Grown(Int(name="x", low=1, high=int(rng.integers(9, 99)), default=2), C), "default"

    path = agents.train(lambda: TuningFamilyEnv([Grown(X, C)], 3), steps=16, path=tmp_path / "a.zip", **settings("ppo"))
    assert agents.trained_on(path)["parameters"][0]["high"] is None
    plan = Plan(target="knobs", tuner=f"policy:{path}", trust="fast")
    Session.create(plan, "a", store, target=Knobs(Int(name="x", low=1, high=500, default=2), C))
    with pytest.raises(TunerError, match="x: 1 to .* for the agent, 2 to 8 here"):
        Session.create(plan, "b", store, target=Knobs(Int(name="x", low=2, high=8, default=2), C))


def test_an_agent_that_never_tuned_is_refused(tmp_path, store):
    class Alike(Drift):
        def __init__(self):
            super().__init__(size=sphere_env().observation_space.shape[0])

    path = agents.train(Alike, steps=16, path=tmp_path / "a.zip", **settings("ppo"))
    with pytest.raises(TunerError, match=r"something else than tuning \(Alike\)"):
        Session.create(Plan(target="sphere", tuner=f"policy:{path}"), "a", store, target=Sphere(2))
    path = agents.train(
        lambda: Drift(discrete=True), algorithm="dqn", steps=16, path=tmp_path / "d.zip", **settings("dqn")
    )
    with pytest.raises(ConfigError, match="something else: .*Drift then"):
        agents.train(sphere_env, algorithm="dqn", steps=32, path=path, resume=True)


def test_a_foreign_agent_acts_in_the_box_that_it_learned_in(tmp_path, store):
    """SB3 trains in the environment's own [0, 1]; ours are trained in [-1, 1]."""
    path = tmp_path / "a.zip"
    sb3.SAC("MlpPolicy", sphere_env(), device="cpu", seed=1, **settings("sac")).save(path)
    model = agents.load(path, trust_file=True)
    plan = Plan(target="sphere", tuner=f"policy:{path}", trust="fast")
    session = Session.create(plan, "a", store, target=Sphere(2), trust_file=True)
    session.run(trials=2)
    seen = sphere_env()
    observation, _ = seen.reset()
    expected = Sphere(2).space.decode(model.predict(observation, deterministic=True)[0].astype(float))
    assert session.decided[1].config == pytest.approx(expected, abs=0.1), "the other box gives 0.2 more"
