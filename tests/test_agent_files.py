"""Files of agents: no pickle in our own, none opened unasked, and nothing believed that a file says of itself."""

import io
import json
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import tunewright.envs  # noqa: F401 (registers the environments)
from tunewright.agents import archive, modelfile, trained_on
from tunewright.agents import policy as agents
from tunewright.agents.placement.agentfile import load_agents, save_agents
from tunewright.agents.placement.learning import make_pair
from tunewright.agents.replay import Replay
from tunewright.comparing.tournament import compare
from tunewright.envs.family import TuningFamilyEnv
from tunewright.errors import ConfigError, TunerError, TunewrightError
from tunewright.sessions.session import Session
from tunewright.space import Space
from tunewright.space.parameters import Choice, Int, Real
from tunewright.store.plan import Plan
from tunewright.testing import Sphere

sb3 = pytest.importorskip("stable_baselines3", reason="needs the extra: pip install 'tunewright[rl]'")
torch = pytest.importorskip("torch")


def settings(algorithm, **more):
    """Small and quick settings; a fresh mapping each time, for SB3 writes into it."""
    own = {
        "ppo": {"n_steps": 16, "batch_size": 16, "clip_range": 0.1}, "a2c": {}, "dqn": {"target_update_interval": 5},
    }  # fmt: skip
    if algorithm not in ("ppo", "a2c"):
        more = {"learning_starts": 8, "buffer_size": 64, "batch_size": 8, **more}
    return {**own.get(algorithm, {}), "policy_kwargs": {"net_arch": [4]}, **more}


class Drift(gymnasium.Env):
    """A little environment with numbers or choices as actions."""

    def __init__(self, discrete=False, actions=2, size=3):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (size,))
        self.action_space = gymnasium.spaces.Discrete(actions) if discrete else gymnasium.spaces.Box(-1, 1, (actions,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.low * 0.5, {}

    def step(self, action):
        seen = self.np_random.uniform(-1, 1, self.observation_space.shape).astype(np.float32)
        return seen, float(np.sum(action)), bool(self.np_random.random() < 0.1), False, {}

    def action_masks(self):
        return np.ones(self.action_space.n, bool)


def sphere_env():
    return gymnasium.make("tunewright/Tuning-v0", target=Sphere(2), budget=5)


def table_env(path):
    return lambda: gymnasium.make("tunewright/Tuning-v0", target=f"table:{path}", budget=5)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,y-\n" + "".join(f"{a},{b},{1 + a * b}\n" for a in range(4) for b in range(4)))
    return path


@pytest.fixture
def small(tmp_path):
    """A file of our own, trained on the sphere."""
    return agents.train(sphere_env, steps=16, path=tmp_path / "own.zip", note={"a": 1}, **settings("ppo"))


def equal(one, other):
    """Whether two states of networks or optimisers are the same to the last bit, types and keys included."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    if torch.is_tensor(one):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def rewrite(path, change, *, drop=(), add=()):
    """Rewrite an archive with its JSON documents changed, members left out and others put in."""
    with zipfile.ZipFile(path) as before:
        members = {n: before.read(n) for n in before.namelist() if n not in drop} | dict(add)
    with zipfile.ZipFile(path, "w") as after:
        for name, raw in members.items():
            if name.endswith(".json"):
                document = json.loads(raw)
                raw = json.dumps(change(document) or document).encode()
            after.writestr(name, raw)


def one_line(error):
    return "\n" not in str(error) and "Traceback" not in str(error) and len(str(error)) < 700


# -- our own format ---------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", agents.ALGORITHMS)
def test_what_is_read_goes_on_as_what_was_written(algorithm, tmp_path):
    """Weights, optimisers, counters and buffer come back to the last bit, and further learning takes the same course."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    def fresh():
        env = DummyVecEnv([lambda: Drift(discrete=algorithm == "dqn")])
        env.seed(3)
        return env

    made = modelfile.algorithm_class(algorithm)
    first = made("MlpPolicy", fresh(), device="cpu", seed=1, **settings(algorithm)).learn(100)
    agents.save(first, tmp_path / "a.zip")
    second = agents.load(tmp_path / "a.zip", env=fresh())
    if hasattr(first, "replay_buffer"):
        Replay(tmp_path / "a.zip").write(first, {})
        Replay(tmp_path / "a.zip").load(second, {}, trust_file=False)
        assert second.replay_buffer.pos == first.replay_buffer.pos and second.replay_buffer.full
    assert equal(first.get_parameters(), second.get_parameters())
    assert all(equal(getattr(first, n), getattr(second, n)) for n in first._get_torch_save_params()[1])
    assert (second.num_timesteps, second._n_updates) == (first.num_timesteps, first._n_updates)
    seen = np.linspace(-1, 1, 30, dtype=np.float32).reshape(10, 3)
    acting = agents.load(tmp_path / "a.zip")
    assert np.array_equal(acting.predict(seen, deterministic=True)[0], first.predict(seen, deterministic=True)[0])
    first.set_env(fresh())
    for model in (first, second):
        model.set_random_seed(5)
        model.learn(60, reset_num_timesteps=False)
    assert equal(first.get_parameters(), second.get_parameters())


def test_settings_that_are_objects_come_back(tmp_path):
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    noises = (
        NormalActionNoise(np.zeros(2), np.ones(2)),
        OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2), theta=0.3),
    )
    for noise in noises:
        model = sb3.TD3(
            "MlpPolicy", Drift(), device="cpu", action_noise=noise, train_freq=(2, "episode"), **settings("td3")
        )
        agents.save(model, tmp_path / "a.zip")
        read = agents.load(tmp_path / "a.zip", env=model.get_env())
        assert repr(read.action_noise) == repr(noise) and read.train_freq == model.train_freq
    kinds = {"activation_fn": torch.nn.ELU, "optimizer_class": torch.optim.AdamW, "net_arch": {"pi": [3], "vf": [5]}}
    linear = sb3.common.utils.LinearSchedule(0.01, 0.001, 0.5)
    model = sb3.PPO(
        "MlpPolicy", Drift(), device="cpu", learning_rate=linear, policy_kwargs=kinds, n_steps=8, batch_size=8
    )
    agents.save(model, tmp_path / "a.zip")
    read = agents.load(tmp_path / "a.zip")
    assert read.policy_kwargs == kinds and read.lr_schedule(0.8) == model.lr_schedule(0.8) == pytest.approx(0.0064)


def test_a_scheduling_agent_is_kept_too(tmp_path):
    contrib = pytest.importorskip("sb3_contrib")
    from tunewright.agents.scheduling import candidate_policy

    env = Drift(discrete=True, actions=2)
    for policy in ("MlpPolicy", candidate_policy(2, 1, 1, 1, width=6)):
        model = contrib.MaskablePPO(policy, env, device="cpu", n_steps=16, batch_size=16, seed=1).learn(32)
        agents.save(model, tmp_path / "a.zip", make_env=lambda: env)
        read = agents.load(tmp_path / "a.zip")
        assert equal(model.get_parameters(), read.get_parameters())
        assert agents.trained_on(tmp_path / "a.zip")["targets"] == ["Drift"]


def test_a_file_of_ours_holds_no_pickle_and_none_is_looked_for(small, monkeypatch):
    def forbidden(*given, **named):
        raise AssertionError("something was unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, forbidden)
    agents.load(small)
    assert agents.noted(small) == {"a": 1}
    with zipfile.ZipFile(small) as file:
        for member in file.infolist():
            start = file.read(member)[:6]
            assert start == b"\x93NUMPY" or (member.filename == "agent.json" and start[:1] == b"{")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"learning_rate": lambda left: 0.1 * left}, "learning_rate as a function"),
        ({"policy_kwargs": {"activation_fn": type("Own", (torch.nn.Tanh,), {})}}, "activation_fn = Own"),
        ({"rollout_buffer_class": type("Own", (sb3.common.buffers.RolloutBuffer,), {})}, "buffer of the class Own"),
        ({"gamma": float("nan")}, "gamma = nan"),
    ],
)
def test_what_a_file_cannot_keep_is_said_before_learning(how, said, tmp_path, monkeypatch):
    monkeypatch.setattr(sb3.PPO, "learn", lambda *a, **k: pytest.fail("it learned first"))
    with pytest.raises(ConfigError, match=said):
        agents.train(sphere_env, steps=16, path=tmp_path / "a.zip", **settings("ppo", **how))
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("fails", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_is_written_whole_or_not_at_all(fails, small, monkeypatch):
    before = small.read_bytes()
    model = agents.load(small)

    def broken(handle):
        raise fails

    monkeypatch.setattr(archive.os, "fsync", broken)
    with pytest.raises(ConfigError if isinstance(fails, OSError) else KeyboardInterrupt):
        agents.save(model, small)
    assert small.read_bytes() == before
    assert [p.name for p in small.parent.iterdir()] == ["own.zip"], "nothing unfinished is left"


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


# -- damaged and forged files -----------------------------------------------------------------------


def survives(path, most=0):
    """Open a file: a model, or one line, which is returned; and where ``most`` is given, with no more memory."""
    if most:
        tracemalloc.start()
    said = ""
    try:
        for door in (agents.noted, agents.trained_on, agents.load):
            try:
                door(path)
            except TunewrightError as error:
                said = str(error)
                assert one_line(error), error
        assert not most or tracemalloc.get_traced_memory()[1] < most
        return said
    finally:
        tracemalloc.stop()


def test_hundreds_of_damaged_files_are_one_line_each(small):
    rng = np.random.default_rng(0)
    whole = small.read_bytes()
    refused = 0
    for turn in range(300):
        raw = bytearray(whole)
        if turn % 4 == 0:
            raw = raw[: int(rng.integers(len(raw)))]
        elif turn % 4 == 1:
            raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
        elif turn % 4 == 2:
            at = int(rng.integers(len(raw) - 40))
            raw[at : at + 40] = rng.bytes(40)
        else:
            at = int(rng.integers(len(raw)))
            raw[at:at] = rng.bytes(int(rng.integers(1, 60)))
        small.write_bytes(bytes(raw))
        refused += bool(survives(small))
    assert refused > 200


def places(document, path=()):
    """Yield the way to every value of a JSON document."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


STRANGE = (None, True, -1, 0, 1e300, 2**62, 2**31, "", "__import__('os')", "builtins.eval", [], [1] * 9, {}, {"a": []})


def test_every_value_of_a_file_may_be_forged(tmp_path):
    """Every value of the JSON becomes each strange one in turn: a model, or one line."""
    for algorithm in ("ppo", "sac"):
        path = agents.train(sphere_env, algorithm=algorithm, steps=20, path=tmp_path / "a.zip", **settings(algorithm))
        whole = path.read_bytes()
        document = modelfile.head(path)
        rng = np.random.default_rng(0)
        for way in places(document):
            if rng.random() < (0.8 if way[0] in ("versions", "trained_on") else 0.3):
                continue
            strange = STRANGE[int(rng.integers(len(STRANGE)))]

            def forge(d, way=way, strange=strange):
                for step in way[:-1]:
                    d = d[step]
                d[way[-1]] = strange

            path.write_bytes(whole)
            rewrite(path, forge)
            survives(path)


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (lambda d: d["settings"]["policy_kwargs"].update(net_arch=[2**20, 2**20]), "larger than its weights"),
        (lambda d: d["settings"]["policy_kwargs"].update(activation_fn="Module"), "is damaged"),
        (lambda d: d["settings"]["policy_kwargs"].update(features_extractor_class="os.system"), "is damaged"),
        (lambda d: d["settings"].update(rollout_buffer_class="os.system"), "no setting that a file may hold"),
        (lambda d: d["settings"].update(tensorboard_log="/tmp/x"), "no setting that a file may hold"),
        (lambda d: d.update(policy={"name": "CandidatePolicy", "candidates": 2**16, "features": 2**16, "world": 1, "each": 9}), "is damaged"),
        (lambda d: d.update(policy="os.system"), "names no policy"),
        (lambda d: d.update(algorithm="os"), "names no algorithm"),
        (lambda d: d.update(version=2), "this release reads 1"),
        (lambda d: d["settings"].update(n_steps=2**60), "no whole number"),
        (lambda d: d.update(action_space={"kind": "discrete", "n": 2**40, "start": 0}), "no whole number"),
        (lambda d: d["optimizers"]["policy.optimizer"]["groups"][0].update(lr="1"), "no setting of its optimiser"),
        (lambda d: d["counters"].update(policy=1), "no counter"),
    ],
)  # fmt: skip
def test_a_file_cannot_ask_for_what_is_not_on_the_list(forge, said, small):
    rewrite(small, forge)
    told = survives(small, most=100e6)
    assert said in told and str(small) in told


def test_a_buffer_larger_than_memory_is_refused_on_resume(tmp_path):
    path = agents.train(sphere_env, algorithm="sac", steps=10, path=tmp_path / "a.zip", **settings("sac"))
    rewrite(path, lambda d: d["settings"].update(buffer_size=2**39))
    with pytest.raises(ConfigError, match="larger than this machine's memory"):
        agents.train(sphere_env, algorithm="sac", steps=20, path=path, resume=True)


def array_bytes(shape, dtype="<f4", data=b""):
    raw = io.BytesIO()
    np.lib.format.write_array_header_1_0(raw, {"descr": dtype, "fortran_order": False, "shape": shape})
    return raw.getvalue() + data


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20), (-4,), (0, 2**62), (True,)])
def test_an_array_that_claims_to_be_huge_takes_no_memory(shape, small):
    name = "policy/log_std.npy"
    rewrite(small, lambda d: None, drop=[name], add=[(name, array_bytes(shape, data=b"1234"))])
    assert "is damaged" in survives(small, most=50e6)


def test_a_zip_bomb_takes_no_memory(small, tmp_path):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(small) as before, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as after:
        for name in before.namelist():
            after.writestr(name, before.read(name))
        after.writestr("policy/more.npy", array_bytes((2**26,), data=bytes(2**28)))
    assert "a part of it is compressed" in survives(bomb, most=50e6)
    agents_of_placement = tmp_path / "p.npz"
    save_agents(agents_of_placement, make_pair("sibyl", 2, 0))
    with zipfile.ZipFile(agents_of_placement) as before:
        members = {n: before.read(n) for n in before.namelist()}
    members["place_theta.npy"] = array_bytes((2**26,), data=bytes(2**28))
    with zipfile.ZipFile(agents_of_placement, "w", zipfile.ZIP_DEFLATED) as after:
        for name, raw in members.items():
            after.writestr(name, raw)
    del members
    tracemalloc.start()
    with pytest.raises(ConfigError, match="not an agent saved"):
        load_agents(agents_of_placement, "sibyl", 2)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_damaged_placement_agents_are_one_line_each(tmp_path):
    path, rng = tmp_path / "a.npz", np.random.default_rng(0)
    save_agents(path, make_pair("sibyl", 2, 0))
    whole = path.read_bytes()
    for turn in range(60):
        raw = bytearray(whole)
        at = int(rng.integers(len(raw) - 40))
        raw = raw[:at] if turn % 2 else raw[:at] + rng.bytes(40) + raw[at + 40 :]
        path.write_bytes(bytes(raw))
        try:
            load_agents(path, "sibyl", 2)
        except ConfigError as error:
            assert one_line(error)


def test_spaces_and_parameters_are_described_in_plain_data():
    told = trained_on.described(TuningFamilyEnv(["lustre"], 3))
    assert json.loads(json.dumps(told)) == told and told["kind"] == "family"
    assert trained_on.checked(told) == told
    for wrong in ({}, {**told, "kind": "x"}, {**told, "facts": [1]}, {**told, "parameters": [{}]}, None):
        with pytest.raises((ValueError, KeyError, TypeError)):
            trained_on.checked(wrong)


def test_damaged_replay_buffers_are_one_line_each(tmp_path):
    path, rng = tmp_path / "a.zip", np.random.default_rng(0)
    agents.train(sphere_env, algorithm="sac", steps=20, path=path, **settings("sac"))
    model = agents.load(path, env=agents.symmetric(sphere_env()))
    model.learn(30)
    Replay(path).write(model, {})
    buffer = tmp_path / "a.replay.npz"
    whole = buffer.read_bytes()
    for turn in range(100):
        at = int(rng.integers(len(whole) - 40))
        buffer.write_bytes(whole[:at] if turn % 2 else whole[:at] + rng.bytes(40) + whole[at + 40 :])
        try:
            Replay(path).load(model, {}, trust_file=True)
        except ConfigError as error:
            assert one_line(error)
    for change in (
        {"pos": 2**40},
        {"pos": -1},
        {"full": 1},
        {"pos": 63, "full": False},
        {"version": 2},
        {"algorithm": "td3"},
    ):
        buffer.write_bytes(whole)
        rewrite(buffer, lambda document, change=change: document.update(change))
        with pytest.raises(ConfigError) as refused:
            Replay(path).load(model, {}, trust_file=True)
        assert one_line(refused.value), change


def test_json_that_grows_in_memory_is_refused(tmp_path):
    """A text of 60 MB that compresses to 60 kB, and that Python would hold in 1.6 GB."""
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as bomb_file:
        bomb_file.writestr("data", "[" + "[]," * (20 << 20) + "1]")
    tracemalloc.start()
    with pytest.raises(ConfigError, match="not an agent saved"):
        agents.load(bomb)
    assert tracemalloc.get_traced_memory()[1] < 150e6
    tracemalloc.stop()


def test_devices_and_pipes_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.zip").symlink_to("pipe")
    for name in ("pipe", "link.zip"):
        with pytest.raises(ConfigError, match="no ordinary file"):
            archive.write_whole(tmp_path / name, lambda file: None)
    assert (tmp_path / "pipe").is_fifo()
