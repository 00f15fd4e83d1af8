"""Placement policies: learning, networks, saved agents, the command line."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tunewright.agents.placement import learning, network, shadow
from tunewright.agents.placement import policies as P
from tunewright.agents.placement.agentfile import load_agents, save_agents
from tunewright.envs.storage.hybrid.devices import load_devices
from tunewright.envs.storage.hybrid.world import FULL, PLAIN
from tunewright.errors import ConfigError, TunewrightError
from tunewright.knowledge.blocktrace import paged
from tunewright.knowledge.synthetic import generate

TORCH_CASES = [((10,), 1), ((20, 30), 1), ((20, 30), 51)]


def setup_for(kind="mixed", devices="performance", **how):
    options = {"requests": 3000, **how}
    return P.Setup(paged=paged(generate(kind, **options)), devices=load_devices(devices))


@pytest.mark.parametrize("policy", [p for p in P.POLICIES if p != "oracle"])
@pytest.mark.parametrize("devices", ["performance", "quad"])
def test_a_replay_in_pieces_is_the_replay(policy, devices):
    setup = setup_for(pages=4000, devices=devices)
    whole = P.replay(setup, policy, seed=3)
    again = P.replay(setup, policy, seed=3)
    _, step, _ = P.prepare(setup, policy, seed=3)
    pieces = []
    for size in (1, 1, 700, 1, 999, 1298):
        pieces.append(np.zeros(size))
        step(pieces[-1])
    assert np.array_equal(np.concatenate(pieces), whole.latency_us)
    assert np.array_equal(whole.latency_us, again.latency_us)
    assert np.all(whole.latency_us > 0)
    with pytest.raises(ConfigError, match="1 requests were asked for, 0 of the trace are left"):
        step(np.zeros(1))


def test_what_the_simple_policies_must_do():
    setup = setup_for("zipf", pages=3000, skew=1.0)
    done = {p: P.replay(setup, p) for p in ("fast-only", "slow-only", "lru", "lru-write", "second-touch", "random")}
    mean = {p: r.mean_us for p, r in done.items()}
    assert mean["fast-only"] == pytest.approx(10.0, rel=0.02)  # an idle Optane's latency
    assert mean["fast-only"] < min(mean["lru"], mean["second-touch"]) < mean["slow-only"]
    assert done["fast-only"].counters["hits"] == done["fast-only"].counters["served"]
    assert done["slow-only"].counters["hits"] == done["slow-only"].counters["evicted"] == 0
    assert done["lru-write"].counters["promoted"] == 0 < done["second-touch"].counters["promoted"]
    assert done["second-touch"].counters["promoted"] < done["lru"].counters["promoted"]


@pytest.mark.parametrize(("hidden", "atoms"), TORCH_CASES)
def test_the_compiled_gradient_is_torchs(hidden, atoms):
    torch = pytest.importorskip("torch")
    scale = np.full(7, 1 / 63, np.float32)
    net = network.make_net(scale=scale, hidden=hidden, actions=2, atoms=atoms, learning_rate=1e-3, gamma=0.9, epsilon=0)
    rng = np.random.default_rng(0)
    net.bins[:], net.action[:] = rng.integers(0, 64, net.bins.shape), rng.integers(0, 2, 1000)
    net.reward[:], net.count[0] = rng.random(1000), 1000
    before = net.theta[0].copy()
    assert network.update(net)
    rows = 2 * (7 + sum(hidden) + 2 * atoms)
    x, y = torch.tensor(net.work[:7].T.copy()), torch.tensor(net.work[7:14].T.copy())
    action, reward = torch.tensor(net.work[rows].copy()).long(), torch.tensor(net.work[rows + 1].copy())

    def run(theta, h):
        offset, ends = 0, (7, *hidden, 2 * atoms)
        for k, (a, b) in enumerate(itertools.pairwise(ends)):
            columns = network.padded(b)
            weight = theta[offset : offset + (a + 1) * columns].reshape(a + 1, columns)
            h = h @ weight[:a, :b] + weight[a, :b]
            offset += (a + 1) * columns
            h = torch.nn.functional.silu(h) if k < len(ends) - 2 else h
        return h

    theta = torch.tensor(before, requires_grad=True)
    with torch.no_grad():
        coming = run(torch.tensor(before), y)
    if atoms == 1:
        goal = reward + 0.9 * coming.max(1)[0]
        loss = torch.nn.functional.smooth_l1_loss(run(theta, x).gather(1, action[:, None])[:, 0], goal)
    else:
        support = torch.linspace(0, 10, atoms)
        p = torch.softmax(coming.reshape(-1, 2, atoms), -1)
        p = p[torch.arange(128), (p * support).sum(-1).argmax(1)]
        place = (reward[:, None] + 0.9 * support).clamp(0, 10) / (10 / (atoms - 1))
        low = place.floor().long()
        goal = torch.zeros(128, atoms)
        goal.scatter_add_(1, low, p * (1 - (place - low)))
        goal.scatter_add_(1, (low + 1).clamp(max=atoms - 1), p * (place - low))
        logits = torch.log_softmax(run(theta, x).reshape(-1, 2, atoms)[torch.arange(128), action], -1)
        loss = -(goal * logits).sum(1).mean()
    loss.backward()
    assert np.abs(theta.grad.numpy() - net.grad).max() < 1e-6 * max(1.0, np.abs(net.grad).max())
    q = np.zeros(2, np.float32)
    network.values(net.theta[0], net.sizes, net.setting, net.bins[0], net.scale, np.zeros((3, 128), np.float32), q)
    out = run(torch.tensor(net.theta[0]), torch.tensor(net.bins[:1] * scale))
    said = out[0] if atoms == 1 else (torch.softmax(out.reshape(2, atoms), -1) * support).sum(-1)
    assert np.allclose(q, said.numpy(), atol=1e-4)


@pytest.mark.parametrize("tiers", [2, 3, 4])
def test_the_vector_pass_is_the_plain_one(tiers):
    net, _ = learning.make_agent(learning.HARMONIA_PLACEMENT, tiers, 0)
    rng = np.random.default_rng(tiers)
    net.bins[:] = rng.integers(0, 64, net.bins.shape)
    work = np.zeros((4, 256), np.float32)
    for spread in (0.1, 1.0, 5.0):
        theta = (net.theta[1] * rng.uniform(0, spread, net.theta.shape[1])).astype(np.float32)
        for row in net.bins:
            fast, plain = np.zeros(tiers, np.float32), np.zeros(tiers, np.float32)
            network.values(theta, net.sizes, net.setting, row, net.scale, work, fast)
            network.plain_values(theta, net.sizes, net.setting, row, net.scale, work, plain)
            assert np.allclose(fast, plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())


def known_best(requests=6000, seed=0):
    """Hot pages that fit the fast tier, read and written over and over: the best policy puts everything there."""
    return setup_for("zipf", pages=400, skew=1.3, requests=requests, seed=seed)


@pytest.mark.parametrize("policy", ["sibyl", "sibyl-code", "harmonia"])
def test_the_compiled_agents_learn_a_known_best_policy(policy):
    """On a fast tier that holds all, tier 0 is best for every request; random choices cost several times as much."""
    setup = replace(known_best(20_000), fast=1.0)
    better = {
        "epsilon": 0.05,
        "warmup": 500,
        "train_every": 50,
        "updates": 4,
        "sync_every": 100,
        "learning_rate": 1e-3,
        "gamma": 0.5,
    }
    agents = learning.make_pair(policy, 2, 1, **better, penalty=0.0)
    done = P.replay(setup, policy, agents=agents)
    last = done.latency_us[-5000:].mean()
    random = P.replay(setup, "random").latency_us[-5000:].mean()
    fast = P.replay(setup, "fast-only").latency_us[-5000:].mean()
    assert last - fast < 0.25 * (random - fast)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dqn", "ppo", "a2c"])
def test_stable_baselines_learns_the_same_problem(tmp_path, algorithm):
    from tunewright.agents import policy as sb3
    from tunewright.agents.placement.training import evaluate
    from tunewright.envs.storage.hybrid.env import PlacementEnv

    setup = known_best(4000)

    def make():
        return PlacementEnv(trace=setup.paged, devices=setup.devices, fast=1.0)

    extra = {"learning_starts": 500, "exploration_final_eps": 0.05} if algorithm == "dqn" else {}
    sb3.train(make, algorithm=algorithm, steps=16_000, path=tmp_path / "a.zip", seed=1, gamma=0.5, **extra)
    found = evaluate(sb3.load(tmp_path / "a.zip"), make())
    full = replace(setup, fast=1.0)
    random, fast = (P.replay(full, p).mean_us for p in ("random", "fast-only"))
    assert found - fast < 0.25 * (random - fast)


def test_memory_of_both_agents_is_within_64_kib():
    for tiers in (2, 3, 4):
        assert learning.make_pair("harmonia", tiers, 0).memory_bytes() <= 64 * 1024


def test_the_oracle_is_the_best_and_says_whose():
    setup = setup_for("ycsb", requests=2000, pages=3000)
    done = [P.replay(setup, p) for p in ("fast-only", "lru", "lru-write")] + [P.replay(setup, "oracle")]
    best = P.best_known(done)
    assert best.policy == "oracle" and best.extra["of"] in ("oracle", "lru", "lru-write")
    assert best.mean_us == min(r.mean_us for r in done[1:])


@pytest.mark.parametrize(
    ("kind", "devices"), [("sequential", "performance"), ("phases", "cost"), ("mixed", "performance")]
)
def test_tunewright_is_about_as_good_as_the_best_of_its_candidates(kind, devices):
    setup = setup_for(kind, devices, requests=20_000)
    setup = replace(setup, scale=P.time_scale(setup.paged, setup.devices))
    own = P.replay(setup, "tunewright")
    plain = [P.replay(replace(setup, mechanisms=FULL), p).mean_us for p in ("lru", "lru-write", "second-touch")]
    assert own.mean_us < 1.05 * min(plain)
    assert len(np.unique(np.concatenate(own.extra["chosen"]))) >= 1


def test_the_first_candidate_suits_the_device():
    ssd, disk = (load_devices(d).tiers[-1] for d in ("performance", "cost"))
    assert shadow.CANDIDATES[shadow.first_candidate(ssd)] == (shadow.WRITES, 0)
    assert shadow.CANDIDATES[shadow.first_candidate(disk)] == (shadow.ALL, -256)


def test_time_scale_is_the_least_at_which_the_slow_tier_keeps_up():
    setup = setup_for("zipf", "cost", gap_us=1000.0)
    factor = P.time_scale(setup.paged, setup.devices)
    assert factor > 1 and math.log2(factor) % 1 == 0
    slow = [P.replay(replace(setup, scale=s), "slow-only").mean_us for s in (factor / 2, factor, 2.0**20)]
    assert slow[0] > 2 * slow[2] >= slow[1]


def test_saved_agents_go_on_where_they_were(tmp_path):
    setup = setup_for("zipf", requests=2500)
    done = P.replay(setup, "harmonia", seed=2)
    path = tmp_path / "a.npz"
    save_agents(path, done.extra["agents"])
    ready = load_agents(path, "harmonia", 2)
    one = P.replay(setup, "harmonia", agents=ready).latency_us
    two = P.replay(setup, "harmonia", agents=done.extra["agents"]).latency_us
    assert np.array_equal(one, two)
    for policy, tiers, why in (("sibyl", 2, "holds a harmonia agent"), ("harmonia", 3, "for 2 tiers")):
        with pytest.raises(ConfigError, match=why):
            load_agents(path, policy, tiers)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match="not an agent saved"):
        load_agents(path, "harmonia", 2)
    with pytest.raises(ConfigError, match="no agent file"):
        load_agents(tmp_path / "b.npz", "harmonia", 2)
    with pytest.raises(ConfigError, match="does not use a saved agent"):
        P.prepare(setup, "lru", agents=ready)


def test_unknown_policy():
    with pytest.raises(TunewrightError, match="Did you mean 'lru'"):
        P.replay(setup_for(requests=10), "lruu")


KEYS = {
    "policy", "mean_latency_us", "p99_latency_us", "normalised", "evictions", "migrations", "fast_hit_ratio", "requests_per_s",
}  # fmt: skip


def test_the_place_command(cli, tmp_path):
    trace = tmp_path / "t.trace"
    made = generate("mixed", requests=1500, pages=2000, seed=1)
    rows = zip(made.time_us, made.offset, made.size, made.write, strict=True)
    trace.write_text("".join(f"{t / 1000:.3f} 0 {o // 512} {s // 512} {1 - w}\n" for t, o, s, w in rows))
    words = ("place", trace, "--devices", "performance", "--policy", "all", "--fast", "0.10", "--seed", "1", "--json")
    document = json.loads(cli(*words, "-o", tmp_path / "p.html").stdout)
    assert set(document) >= {"trace", "devices", "fast", "seed", "requests", "policies"}
    assert [r["policy"] for r in document["policies"]] == list(P.POLICIES)
    assert all(KEYS <= set(r) for r in document["policies"])
    normalised = {r["policy"]: r["normalised"] for r in document["policies"]}
    assert normalised["fast-only"] == 1.0
    assert normalised["oracle"] == min(v for p, v in normalised.items() if p != "fast-only")
    page = (tmp_path / "p.html").read_text()
    assert page.count("<svg") == 3 and "script" not in page
    text = cli("place", trace, "-p", "lru", "-p", "harmonia").stdout
    assert "harmonia" in text and "fast-only" not in text.split("policy", 1)[1].split("\n", 1)[1]
    cli("place", trace, "--devices", "quad", "--policy", "harmonia", "--save", tmp_path / "agent.npz")
    cli("place", trace, "--devices", "quad", "--policy", "harmonia", "--load", tmp_path / "agent.npz")


@pytest.mark.slow
def test_the_place_command_with_wrong_input(cli, tmp_path):
    for words, why in (
        (("missing.csv",), "there is no trace file missing.csv"),
        (("synthetic:zipf", "-p", "lruu"), "Did you mean 'lru'"),
        (("synthetic:zipf", "-d", "costs"), "Did you mean 'cost'"),
        (("synthetic:zipf", "--fast", "0"), "share of the footprint"),
        (("synthetic:zipf", "--time-scale", "fast"), "auto or a positive number"),
        (("synthetic:zipf", "--mechanisms", "some"), "no set of mechanisms"),
        (("synthetic:zipf", "--save", "a.npz"), "one learning policy"),
        (("synthetic:zipf", "-p", "sibyl", "--save", "a.zip", "--requests", "200"), "must end in .npz"),
        (("synthetic:zipf", "--real", "fast=/dev/shm/x"), "two to four tiers"),
    ):
        assert why in cli("place", *words, code=1, cwd=tmp_path).stderr, words


def test_the_trace_command(cli, tmp_path):
    document = json.loads(cli("trace", "synthetic:sequential", "-O", "requests=3000", "--json").stdout)
    assert document["requests"] == 3000 and document["facts"]
    assert {
        "read_ratio",
        "footprint_pages",
        "size_bytes",
        "sequential",
        "reuse",
        "interarrival_us",
        "hot_share",
    } <= set(document)
    text = cli("trace", "synthetic:zipf", "-O", "requests=3000", "-o", tmp_path / "t.html").stdout
    assert "hot share" in text
    assert (tmp_path / "t.html").read_text().count("<svg") == 5
    bad = tmp_path / "b.csv"
    bad.write_text("time,op,size,lbn\n1,28,512,7\nx,28,512,7\n2,2a,512,9\n")
    assert "b.csv:3" in cli("trace", bad, code=1).stderr
    assert "skipped=1" in cli("trace", bad, "--skip-bad", "1").stdout.replace("\n", "")


@pytest.mark.slow
def test_the_train_command(cli, tmp_path):
    words = (
        "train",
        "placement",
        "--trace",
        "synthetic:zipf",
        "-O",
        "requests=2000",
        "--algo",
        "dqn",
        "--steps",
        "2000",
    )
    document = json.loads(cli(*words, "-o", tmp_path / "p.zip", "--json").stdout)
    assert (tmp_path / "p.zip").is_file()
    assert [r["policy"] for r in document["policies"]][-1] == "dqn"
    assert (
        "Did you mean 'dqn'" in cli("train", "placement", "--trace", "synthetic:zipf", "--algo", "dqm", code=1).stderr
    )


def test_plain_mechanisms_are_plain():
    assert PLAIN.extent == 1 and PLAIN.gate_us == math.inf and PLAIN.reserve == 0
