"""Copies of environments, by ``copy`` and ``pickle``: equal, and independent of the original.

Compiled code follows addresses, so a wrong copy may end the process; the cases run in a process of their own, which is
this file as a program: ``test_env_copies.py NAME...`` plays cases, ``test_env_copies.py go-on FILE`` goes on with
pickled environments where another process stopped.
"""

import copy
import functools
import gc
import hashlib
import io
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import tunewright.envs  # noqa: F401  registers the environments
from tunewright.errors import ConfigError
from tunewright.testing import Sphere

#: the first run compiles every kernel there is
pytestmark = pytest.mark.timeout(900)
SERVED = {"requests": 40}
MIX = {"jobs": 12}
#: how each registered environment is made here
ENVS = {
    "tunewright/Tuning-v0": {"target": Sphere(noise=0.1, fail_above=0.9), "budget": 9},
    "tunewright/TuningFamily-v0": {"targets": ["lustre"], "budget": 9},
    "tunewright/HybridPlacement-v0": {"requests": 60},
    "tunewright/HybridMigration-v0": {"requests": 60},
    "tunewright/TrainPlan-v0": {"count": 3},
    "tunewright/ServePlan-v0": {"count": 3},
    "tunewright/Serving-v0": SERVED,
    "tunewright/SparkScheduling-v0": {"mix": MIX},
    "tunewright/ClusterScheduling-v0": {"jobs": 25},
}
CASES = [*ENVS, *(f"{name} x3" for name in ENVS if gymnasium.spec(name).vector_entry_point), "parallel"]
STEPS = 35  # longer than some episodes, shorter than others


def make(case):
    if case == "parallel":
        from tunewright.envs.storage.hybrid.parallel import HybridParallelEnv

        return HybridParallelEnv(requests=60)
    name, _, many = case.partition(" x")
    if many:
        return gymnasium.make_vec(name, num_envs=int(many), vectorization_mode="vector_entry_point", **ENVS[name])
    return gymnasium.make(name, **ENVS[name])


def text(value):
    """Everything that an environment may return, as a text that is equal where the values are."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {text(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(text, value)) + "]"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()[:16]}"
    return repr(value)


def act(env, info, rng):
    """A random action, one that the mask allows where there is one."""
    if hasattr(env, "possible_agents"):
        return {a: int(rng.integers(env.action_space(a).n)) for a in env.possible_agents}
    if isinstance(env.action_space, gymnasium.spaces.Box):
        return rng.random(env.action_space.shape, dtype=np.float32)
    masks = np.atleast_2d(info.get("action_mask", np.ones(getattr(env.action_space, "n", 0), bool)))
    if isinstance(env.action_space, gymnasium.spaces.MultiDiscrete):
        if not masks.size:
            return rng.integers(env.action_space.nvec)
        return np.array([rng.choice(np.flatnonzero(m)) if m.any() else 0 for m in masks])
    return np.int64(rng.choice(np.flatnonzero(masks[0])) if masks.any() else 0)


def play(env, info, seed, steps=STEPS):
    """Play on with random actions; returns what came of each step, and the last info."""
    rng, told = np.random.default_rng(seed), []
    for _ in range(steps):
        observation, reward, over, cut, info = env.step(act(env, info, rng))
        told.append(text([observation, reward, over, cut, info]))
        if over is True or (isinstance(over, dict) and all(over.values())):
            observation, info = env.reset()
            told.append(text([observation, info]))
    return told, info


def begun(case, steps):
    env = make(case)
    _, info = env.reset(seed=3)
    return env, play(env, info, 4, steps)[1]


def out_of_band(env):
    """As Dask and joblib do it: large arrays come in buffers, which cannot be written."""
    buffers = []
    data = pickle.dumps(env, 5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(b.raw()) for b in buffers])


def by_file(env):
    file = io.BytesIO()
    pickle.dump(env, file, 2)
    file.seek(0)
    return pickle.load(file)


WAYS = {
    "copy": lambda env: copy.copy(env.unwrapped) if hasattr(env, "unwrapped") else copy.copy(env),
    "deepcopy": copy.deepcopy,
    "twice": lambda env: pickle.loads(pickle.dumps(copy.deepcopy(env))),
    "protocol 2": by_file,
    "out of band": out_of_band,
}


def check(case):
    for number, (way, copied) in enumerate(WAYS.items()):
        steps = (0, 1, 7, 20, 33)[number]  # at once, in the middle, in a later episode
        env, info = begun(case, steps)
        expected = {seed: play(*begun(case, steps), seed)[0] for seed in (10, 11, 12)}
        other, info_of_other = copied(env), copy.deepcopy(info)
        assert other is not env
        # the original and two copies take turns, with actions of their own
        third = copied(env)
        players = [(env, info, 10), (other, info_of_other, 11), (third, copy.deepcopy(info), 12)]
        runs = [turns(p, i, s) for p, i, s in players]
        told = {10: [], 11: [], 12: []}
        order = np.random.default_rng(number).permutation(np.repeat([0, 1, 2], STEPS))
        for who in order:
            told[players[who][2]] += next(runs[who])
        for seed, steps_told in told.items():
            assert steps_told == expected[seed], f"{way}: {seed} went another way"
        del players, runs
        # the original is gone, and its memory is used for something else
        env, info = begun(case, steps)
        other = copied(env)
        del env
        gc.collect()
        junk = [np.full(2**k, 0x7F7F7F7F7F7F7F7F, np.int64) for k in range(3, 18) for _ in range(20)]
        assert play(other, info, 11)[0] == expected[11], f"{way}: without the original"
        del junk


def check_policies():
    """Every placement policy goes on in a copy of world, step and agents, whatever becomes of the original."""
    from tunewright.agents.placement import policies as P
    from tunewright.envs.storage.hybrid.devices import load_devices
    from tunewright.knowledge.blocktrace import paged
    from tunewright.knowledge.synthetic import generate

    trace = paged(generate("mixed", requests=3000, pages=2000))
    setup = P.Setup(paged=trace, devices=load_devices("performance"))
    for policy in (p for p in P.POLICIES if p != "oracle"):
        whole = P.replay(setup, policy, seed=2)
        for copied in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
            prepared = P.prepare(setup, policy, seed=2)
            prepared[1](np.zeros(1700))
            world, step, _ = copied(prepared)
            rest = [np.zeros(1300), np.zeros(1300)]
            step(rest[0])
            assert world.sims["clock"][0] == 3000
            assert prepared[0].sims["clock"][0] == 1700, policy
            prepared[1](rest[1])
            for latency in rest:
                assert np.array_equal(latency, whole.latency_us[1700:]), policy
            assert np.array_equal(world.pages["tier"][0], whole.tier)
    pair = P.learning.make_pair("harmonia", 2, 1)
    for other in (copy.copy(pair), copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        for net, own in zip((other.place, other.move), (pair.place, pair.move), strict=True):
            assert all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(net, own, strict=True))
            assert not any(np.shares_memory(a, b) for a, b in zip(net, own, strict=True))
            # compiled code reads a byte behind the states and eight numbers of the scale
            assert net.bins.base.nbytes > net.bins.nbytes
            assert net.scale.base.nbytes >= 32
    world = setup.world(P.PLAIN)
    world.keep_journal(1000)
    other = copy.deepcopy(world)
    P.heuristics.replay(
        other.sims, 0, P.heuristics.LRU, np.ones(1, np.uint64), np.zeros(2, np.int64), *np.zeros((2, 0), np.int64), 0,
        np.zeros(50), 50,
    )  # fmt: skip
    assert other.sims["journaled"][0] > 0
    assert other.journal["page"].any()
    assert not world.journal["page"].any()


def check_simulators():
    """Systems that have not begun, copied, run as the original does, which is gone by then."""
    from tunewright.envs.scheduling.cluster import jobs as CJ
    from tunewright.envs.scheduling.cluster import simulate as C
    from tunewright.envs.scheduling.serving import simulate as V
    from tunewright.envs.scheduling.serving.env import Scene
    from tunewright.envs.scheduling.spark import jobs as KJ
    from tunewright.envs.scheduling.spark import simulate as K

    requests, system, knobs = Scene(requests=60).open()
    nodes = CJ.nodes("4x4")
    jobs = CJ.generate(nodes, {"jobs": 40}, 1)
    mix = KJ.generate(8, {"jobs": 10}, 1)
    served = V.simulate(requests.first(60), system, knobs).systems
    ran, done = C.simulate(jobs, nodes).systems, K.simulate(mix, 8).systems
    for copied in (copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), out_of_band):
        made = [
            copied(x) for x in (V.systems([requests.first(60)], system, knobs), C.systems([jobs], nodes, C.Policy()))
        ]
        made += [copied(K.systems([mix], 8, K.Options()))]
        gc.collect()
        junk = [np.full(2**k, -1) for k in range(3, 16) for _ in range(20)]
        from tunewright.envs.scheduling.cluster import kernel as c
        from tunewright.envs.scheduling.serving import kernel as v
        from tunewright.envs.scheduling.spark import kernel as k

        v.run(made[0].address, 0, system.engine, system.engine, V.MOST_WAITING, 0)
        c.run(made[1].address, 0, C.MOST_WAITING)
        k.run(made[2].address, 0, K.MOST_ALIVE)
        assert text(made[0].requests) == text(served.requests)
        assert text(made[1].jobs) == text(ran.jobs)
        assert text(made[2].jobs) == text(done.jobs)
        del junk


OTHERS = {"policies": check_policies, "simulators": check_simulators}


def turns(env, info, seed):
    rng = np.random.default_rng(seed)
    while True:
        observation, reward, over, cut, info = env.step(act(env, info, rng))
        told = [text([observation, reward, over, cut, info])]
        if over is True or (isinstance(over, dict) and all(over.values())):
            observation, info = env.reset()
            told.append(text([observation, info]))
        yield told


def python(*words):
    return subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, timeout=850)


@pytest.fixture(scope="module")
def faults():
    """What went wrong in each case, "" where nothing did; a case that ends the process is left to the next one."""
    left, told = [*CASES, *OTHERS], {}
    if not find_spec("pettingzoo"):
        left.remove("parallel")
    while left:
        done = python(*left)
        passed = done.stdout.split("\n")[:-1]
        told |= dict.fromkeys(passed, "")
        left = left[len(passed) :]
        if left:
            told[left.pop(0)] = f"exit code {done.returncode}\n{done.stderr[-3000:]}"
    return told


def test_every_registered_environment_is_looked_at():
    registered = {name for name in gymnasium.registry if name.startswith("tunewright/")}
    assert registered == set(ENVS)


@pytest.mark.parametrize("case", CASES)
def test_copies_are_equal_and_independent(case, faults):
    if case == "parallel":
        pytest.importorskip("pettingzoo")
    assert not faults[case], faults[case]


@pytest.mark.parametrize("case", OTHERS)
def test_copies_of_what_is_behind_the_environments(case, faults):
    assert not faults[case], faults[case]


def test_another_process_goes_on_where_this_one_stopped(tmp_path):
    cases = [c for c in CASES if c != "parallel"]
    path = tmp_path / "environments.pickle"
    parts, expected = [], []
    for case in cases:
        env, info = begun(case, 9)
        parts.append(pickle.dumps((env, info)))
        expected.append(play(env, info, 5)[0])
    path.write_bytes(pickle.dumps(parts))
    done = python("go-on", str(path))
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[-3000:]}"
    told = done.stdout.split("\n\n")
    for case, here, there in zip(cases, expected, told, strict=True):
        assert there.strip() == "\n".join(here), case


def test_a_copy_of_an_environment_on_a_real_system_has_files_of_its_own(tmp_path):
    class Real(Sphere):
        isolated = True

        def measure(self, config, *, workload, seed, budget):
            (budget.workdir / "data").touch()
            return super().measure(config, workload=workload, seed=seed, budget=budget)

        def cleanup(self, workdir):
            (workdir / "data").unlink()

    env = gymnasium.make("tunewright/Tuning-v0", target=Real(), budget=5).unwrapped
    env.reset(seed=1)
    other = copy.deepcopy(env)
    assert other.workdir != env.workdir
    other.step(np.full(3, 0.5, np.float32))
    assert (other.workdir / "data").exists()
    other.close()
    assert (env.workdir / "data").exists()
    env.close()
    shared = gymnasium.make("tunewright/Tuning-v0", target=Real(), workdir=str(tmp_path)).unwrapped
    for refused in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ConfigError, match="a workdir of its own") as told:
            refused(shared)
        assert "\n" not in str(told.value)


def test_a_target_that_cannot_be_pickled_is_named():
    import threading

    target = Sphere()
    target.lock = threading.Lock()
    env = gymnasium.make("tunewright/Tuning-v0", target=target).unwrapped
    with pytest.raises(ConfigError, match="make a second environment") as told:
        copy.deepcopy(env)
    assert "\n" not in str(told.value)


if __name__ == "__main__":
    if sys.argv[1] == "go-on":
        parts = pickle.loads(Path(sys.argv[2]).read_bytes())
        print("\n\n".join("\n".join(play(*pickle.loads(part), 5)[0]) for part in parts))
    else:
        for name in sys.argv[1:]:
            OTHERS.get(name, functools.partial(check, name))()
            print(name, flush=True)
