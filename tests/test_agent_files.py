"""Files of our own format: whole, bit by bit the same, and safe when damaged or forged."""

import io
import json
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from agent_files import Drift, equal, one_line, rewrite, sb3, settings, sphere_env, torch, train_small

import tunewright.envs  # noqa: F401 (registers the environments)
from tunewright.agents import archive, modelfile, trained_on
from tunewright.agents import policy as agents
from tunewright.agents.placement.agentfile import load_agents, save_agents
from tunewright.agents.placement.learning import make_pair
from tunewright.agents.replay import Replay
from tunewright.envs.family import TuningFamilyEnv
from tunewright.errors import ConfigError, TunewrightError


@pytest.fixture
def small(tmp_path):
    return train_small(tmp_path)


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
