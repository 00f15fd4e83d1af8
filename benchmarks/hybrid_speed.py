"""Speed of the hybrid-storage kernel, its agents and environments: python benchmarks/hybrid_speed.py."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial

import gymnasium
import numpy as np
from common import publish, table

from tunewright.agents.placement import heuristics, learning, network
from tunewright.agents.placement import policies as P
from tunewright.envs.compiled import jit
from tunewright.envs.storage.hybrid import features
from tunewright.envs.storage.hybrid.devices import load_devices
from tunewright.envs.storage.hybrid.env import PlacementEnv
from tunewright.envs.storage.hybrid.reference import Reference
from tunewright.envs.storage.hybrid.vector import PlacementVectorEnv
from tunewright.envs.storage.hybrid.world import World
from tunewright.knowledge.blocktrace import Trace, paged

ROUNDS, REQUESTS = 9, 1_000_000
DEVICES = load_devices("performance")


def trace(pages, skew, requests=REQUESTS, seed=0):
    """Single pages, half of them writes; popularity falls with rank^-skew."""
    rng = np.random.default_rng(seed)
    weight = np.cumsum(np.arange(1, pages + 1, dtype=float) ** -skew)
    rank = np.minimum(np.searchsorted(weight, rng.random(requests) * weight[-1]), pages - 1)
    return paged(
        Trace(
            name="speed", time_us=np.arange(requests) * 20.0, offset=rng.permutation(pages)[rank] * 4096,
            size=np.full(requests, 4096), write=rng.random(requests) < 0.5,
        )
    )  # fmt: skip


SMALL, LARGE = trace(8000, 1.0), trace(8_500_000, 0.6)


def heuristic(cut, policy):
    world, latency = World(cut, DEVICES, closed=True), np.ones(REQUESTS)  # not zeros: memory that is there
    rest = (np.zeros(1, np.uint64), np.zeros(2, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
    begun = time.perf_counter()
    heuristics.replay(world.sims, 0, P._HEURISTICS[policy], *rest, latency, REQUESTS)
    return REQUESTS / (time.perf_counter() - begun)


def agent(cut, updates, requests=REQUESTS):
    """Harmonia's placement agent alone in the loop, with so many updates of 128 for each 1,000 requests."""
    world, latency = World(cut, DEVICES, closed=True), np.ones(requests)
    pair = learning.make_pair("sibyl-code", 2, 0)
    place, numbers = learning.make_agent(
        learning.replace(learning.HARMONIA_PLACEMENT, updates=updates, epsilon=0.01), 2, 0
    )
    alone = learning.Pair(
        policy="harmonia", tiers=2, place=place, place_numbers=numbers, move=pair.move, move_numbers=pair.move_numbers,
        migrating=False, horizon=50,
    )  # fmt: skip
    begun = time.perf_counter()
    alone.stepper(world)(latency)
    return requests / (time.perf_counter() - begun)


@jit
def _inferences(net, work, count, chained):
    q, scratch = work[0], work[1:]
    total = np.float32(0.0)
    for k in range(count):
        entry = k & 511
        if chained:  # the next input depends on this output
            net.bins[entry, 0] = 1 if q[0] > 0 else 0
        network.values(net.theta[1], net.sizes, net.setting, net.bins[entry], net.scale, scratch, q)
        total += q[0]
    return total


def inference(chained):
    net, _ = learning.make_agent(learning.HARMONIA_PLACEMENT, 2, 0)
    net.bins[:] = np.random.default_rng(0).integers(0, 64, net.bins.shape)
    work, count = np.zeros((4, 256), np.float32), 1_000_000
    begun = time.perf_counter()
    _inferences(net, work, count, chained)
    return (time.perf_counter() - begun) / count * 1e9


def full_net(atoms=1, hidden=(10,)):
    net = network.make_net(
        scale=np.full(7, 1 / 63, np.float32),
        hidden=hidden,
        actions=2,
        atoms=atoms,
        learning_rate=1e-3,
        gamma=0.9,
        epsilon=0,
    )
    rng = np.random.default_rng(0)
    net.bins[:], net.action[:] = rng.integers(0, 64, net.bins.shape), rng.integers(0, 2, 1000)
    net.reward[:], net.count[0] = rng.random(1000), 1000
    return net


def updates(atoms=1, hidden=(10,), count=5000):
    net = full_net(atoms, hidden)
    begun = time.perf_counter()
    for _ in range(count):
        network.update(net)
    return count / (time.perf_counter() - begun)


def torch_updates(count=300):
    import torch

    torch.set_num_threads(1)
    online, target = (
        torch.nn.Sequential(torch.nn.Linear(7, 10), torch.nn.SiLU(), torch.nn.Linear(10, 2)) for _ in range(2)
    )
    adam = torch.optim.Adam(online.parameters(), lr=1e-3)
    state, action, reward = torch.rand(1000, 7), torch.randint(0, 2, (1000,)), torch.rand(1000)
    begun = time.perf_counter()
    for _ in range(count):
        rows = torch.randint(0, 999, (128,))
        with torch.no_grad():
            goal = reward[rows] + 0.9 * target(state[rows + 1]).max(1)[0]
        found = online(state[rows]).gather(1, action[rows, None])[:, 0]
        loss = torch.nn.functional.smooth_l1_loss(found, goal)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return count / (time.perf_counter() - begun)


def sb3(steps=4000):
    """Stable-Baselines3's DQN at the same cadence: 8 updates of 128 for each 1,000 steps."""
    from stable_baselines3 import DQN

    env = PlacementEnv(trace=SMALL, devices=DEVICES)
    model = DQN(
        "MlpPolicy", env, train_freq=1000, gradient_steps=8, batch_size=128, buffer_size=1000, learning_starts=200,
        policy_kwargs={"net_arch": [10]}, device="cpu",
    )  # fmt: skip
    begun = time.perf_counter()
    model.learn(steps)
    return steps / (time.perf_counter() - begun)


class PythonEnv(gymnasium.Env):
    """The same environment in plain Python: the reference simulator behind Gymnasium."""

    def __init__(self):
        self.world = World(SMALL, DEVICES)
        self.action_space, self.observation_space = (
            gymnasium.spaces.Discrete(2),
            gymnasium.spaces.Box(0, 1, (7,), np.float32),
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sim = Reference(self.world)
        self.sim.arrive()
        return self.see(), {}

    def see(self):
        s, first = self.sim, int(SMALL.first[self.sim.clock])

        def octave(value):
            return (
                min((value.bit_length() - 1) * 4 + ((value >> (value.bit_length() - 3)) & 3) - 4, 63)
                if value > 7
                else value
            )

        never = 63
        bins = [
            int(SMALL.trace.write[s.clock]), min(int(SMALL.count[s.clock]).bit_length() - 1, 7),
            octave(s.clock - s.touched[first]) if s.touched[first] >= 0 else never, octave(s.count[first]),
            min(max((s.capacity[0] - s.used[0]) * 8 // s.capacity[0], 0), 7), s.home[first],
            octave(s.clock - s.moved_at[first]) if s.moved_at[first] >= 0 else never,
        ]  # fmt: skip
        return np.array(bins, np.float32) * features.SCALE

    def step(self, action):
        latency = self.sim.serve(int(action))
        self.sim.arrive()
        return self.see(), 10.0 / latency, False, False, {}


def stepping(make, count):
    env = make()
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, count).tolist()
    step = env.step
    begun = time.perf_counter()
    for action in actions:
        step(action)
    return count / (time.perf_counter() - begun)


def batch(n, steps=400):
    env = PlacementVectorEnv(n, trace=BATCH, devices=DEVICES, requests=20_000)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, (steps, n))
    env.step(actions[0])
    begun = time.perf_counter()
    for row in actions:
        env.step(row)
    return n * steps / (time.perf_counter() - begun)


BATCH = trace(2000, 1.0, 100_000)


def compile_time(folder):
    """Seconds from a fresh interpreter's import to the first replay done, less the imports."""
    code = (
        "import time, numpy as np; from tunewright.agents.placement import policies as P;"
        "from tunewright.envs.storage.hybrid.devices import load_devices;"
        "from tunewright.knowledge.blocktrace import paged; from tunewright.knowledge.synthetic import generate;"
        "s = P.Setup(paged=paged(generate('zipf', requests=100)), devices=load_devices('performance'));"
        "t = time.perf_counter(); P.replay(s, 'lru'); print(time.perf_counter() - t)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_CACHE_DIR": folder},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main():
    measured: dict[str, list[float]] = {}
    jobs = {
        "lru, small": partial(heuristic, SMALL, "lru"),
        "lru-write, small": partial(heuristic, SMALL, "lru-write"),
        "slow-only, small": partial(heuristic, SMALL, "slow-only"),
        "lru, large": partial(heuristic, LARGE, "lru"),
        "lru-write, large": partial(heuristic, LARGE, "lru-write"),
        "slow-only, large": partial(heuristic, LARGE, "slow-only"),
        "net, small": partial(agent, SMALL, 0),
        "net, large": partial(agent, LARGE, 0),
        "inference": partial(inference, False),
        "inference chain": partial(inference, True),
        "updates": updates,
        "updates c51": partial(updates, 51, (20, 30), 500),
        "torch": torch_updates,
        "learning": partial(agent, SMALL, 8),
        "sb3": sb3,
        "python env": partial(stepping, PythonEnv, 20_000),
        "env": partial(stepping, lambda: PlacementEnv(trace=SMALL, devices=DEVICES), 200_000),
        "batch 256": partial(batch, 256),
        "batch 1024": partial(batch, 1024, 200),
    }
    for job in jobs.values():
        job()  # compile and warm up
    for _ in range(ROUNDS):  # interleaved
        for name, job in jobs.items():
            measured.setdefault(name, []).append(job())
    first, cached = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            first.append(compile_time(folder))
            cached.append(compile_time(folder))
    mid = {k: statistics.median(v) for k, v in measured.items()}
    ratio = {k: statistics.median(a / b for a, b in zip(measured[x], measured[y], strict=True)) for k, (x, y) in {
        "torch": ("updates", "torch"), "sb3": ("learning", "sb3"), "python": ("env", "python env"),
    }.items()}  # fmt: skip
    pair = learning.make_pair("harmonia", 2, 0)

    def million(name, bar, aim, what):
        low, high = min(measured[name]), max(measured[name])
        return what, f"{mid[name] / 1e6:.3g} M/s", f"{low / 1e6:.3g} to {high / 1e6:.3g}", bar, aim

    def plain(name, bar, aim, what, unit, digits=0):
        low, high = min(measured[name]), max(measured[name])
        return what, f"{mid[name]:,.{digits}f} {unit}", f"{low:,.{digits}f} to {high:,.{digits}f}", bar, aim

    rows = [
        million("lru, small", "40 M/s", "90", "LRU, closed loop, page table of 0.26 MB"),
        million("lru-write, small", "40 M/s", "90", "LRU for writes only, the same"),
        million("slow-only, small", "40 M/s", "90", "slow-only, the same"),
        million("lru, large", "25 M/s", "55", "LRU, page table of 272 MB"),
        million("lru-write, large", "25 M/s", "55", "LRU for writes only, the same"),
        million("slow-only, large", "25 M/s", "55", "slow-only, the same"),
        million("net, small", "12 M/s", "20", "placement network in the loop, small table"),
        million("net, large", "8 M/s", "13", "placement network in the loop, large table"),
        plain("inference", "40 ns", "25", "one inference, throughput", "ns", 1),
        plain("inference chain", "55 ns", "40", "one inference, each waiting for the one before", "ns", 1),
        plain("updates", "25,000", "50,000", "DQN updates of 128, one at a time from Python", "/s"),
        ("the same over torch", f"{ratio['torch']:.0f}x", "", "12x", ""),
        plain("updates c51", "", "", "C51 updates of 128 (6-20-30-102)", "/s"),
        million("learning", "2 M/s", "4", "online learning agent, 8 updates of 128 per 1,000 requests"),
        ("the same over Stable-Baselines3's DQN", f"{ratio['sb3']:.0f}x", f"SB3: {mid['sb3']:,.0f}/s", "300x", "500x"),
        million("env", "1 M/s", "1.8", "one Gymnasium step"),
        ("the same over a pure-Python environment", f"{ratio['python']:.1f}x", f"{mid['python env']:,.0f}/s", "", ""),
        million("batch 256", "8 M/s", "18", "batched steps, n = 256"),
        million("batch 1024", "8 M/s", "18", "batched steps, n = 1,024"),
        ("both Harmonia agents, networks and replay buffers", f"{pair.memory_bytes() / 1024:.1f} KiB", "", "64 KiB", "32"),
        ("compile of the kernel, first call ever", f"{statistics.median(first):.1f} s", "", "15 s", "8"),
        ("the same from the cache", f"{statistics.median(cached):.2f} s", "", "0.4 s", "0.2"),
    ]  # fmt: skip
    notes = (
        "Small: 8,000 pages, popularity ~ rank^-1.0; large: 8.5 million pages, rank^-0.6; half of the single-page requests"
        " are writes, the fast tier holds a tenth, so LRU evicts at every third (small) or nearly every (large) request."
    )
    body = table(("what", f"median of {ROUNDS}", "range", "bar", "aim"), rows) + "\n\n" + notes
    publish("hybrid_speed", "Speed of hybrid storage", "python benchmarks/hybrid_speed.py", body)


if __name__ == "__main__":
    main()
