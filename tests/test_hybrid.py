"""The hybrid-storage simulator: against its reference in plain Python, and against closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.envs.compiled import jit
from tunewright.envs.storage.hybrid.devices import load_devices
from tunewright.envs.storage.hybrid.features import octave
from tunewright.envs.storage.hybrid.kernel import arrive, enqueue, serve
from tunewright.envs.storage.hybrid.reference import Reference
from tunewright.envs.storage.hybrid.state import COUNTERS
from tunewright.envs.storage.hybrid.world import FULL, Mechanisms, World
from tunewright.errors import ConfigError, TunewrightError
from tunewright.knowledge.blocktrace import Trace, paged

CONFIGS = ("performance", "cost", "triple", "quad")


@jit
def one_step(sims, k, target, ahead, cold, page, goal):
    sim = sims[k]
    arrive(sim)
    latency = serve(sim, target, ahead, cold)
    return latency, enqueue(sim, sim.page_at, page, goal)


def random_trace(rng, requests):
    far = rng.random(requests) < 0.3
    return paged(
        Trace(
            name="random",
            time_us=np.cumsum(rng.exponential(rng.choice([20, 300, 5000]), requests)),
            offset=rng.integers(0, 60, requests) * 4096 + far * rng.integers(0, 5000, requests) * 4096,
            size=rng.integers(1, 9 * 4096, requests),
            write=rng.random(requests) < 0.5,
        )
    )


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), config=st.sampled_from(CONFIGS))
def test_the_kernel_does_what_the_reference_does(seed, config):
    rng = np.random.default_rng(seed)
    cut, devices = random_trace(rng, 150), load_devices(config)
    mechanisms = Mechanisms(
        extent=int(rng.choice([1, 8, 64])),
        gate_us=float(rng.choice([np.inf, 0, 3000])),
        reserve=float(rng.choice([0, 0.05, 0.5])),
        idle_us=float(rng.choice([0, 100])),
    )
    world = World(
        cut, devices, fast=float(rng.choice([0.02, 0.1, 0.5])), n=2, mechanisms=mechanisms,
        closed=bool(rng.random() < 0.3), scale=float(rng.choice([0.1, 1, 7])), all_fast=bool(rng.random() < 0.1),
    )  # fmt: skip
    reference, tiers = Reference(world, 1), len(devices.tiers)
    for i in range(150):
        target, ahead = int(rng.integers(-1, tiers)), int(rng.choice([0, 0, 4, 64, -9]))
        cold, page, goal = bool(rng.random() < 0.2), int(rng.integers(0, len(cut.address))), int(rng.integers(0, tiers))
        latency, taken = one_step(world.sims, 1, target, ahead, cold, page, goal)
        reference.arrive()
        assert latency == reference.serve(target, ahead, cold), i
        assert taken == reference.enqueue(page, goal), i
        sim, said = world.sims[1], reference.state()
        assert {k: int(sim[k]) for k in COUNTERS} == {k: said[k] for k in COUNTERS}, i
        assert sim["busy"][:tiers].tolist() == said["busy"] and sim["used"][:tiers].tolist() == said["used"], i
        assert sim["spent"] == reference.spent
    assert world.pages[1]["tier"].tolist() == reference.home
    assert sum(world.sims[1]["used"][:tiers]) == len(cut.address)
    assert np.all(world.sims[1]["used"][: tiers - 1] <= world.sims[1]["capacity"][: tiers - 1])
    assert world.sims[0]["clock"] == 0  # the other system of the batch was left alone


@pytest.mark.parametrize("cold", [False, True])
def test_an_lru_queue_that_is_full_of_empty_seats_is_packed(cold):
    """Pages that are touched again and again without an eviction leave seats behind, until none is free."""
    rng, requests = np.random.default_rng(1), 4000
    cut = paged(
        Trace(
            name="again", time_us=np.arange(requests) * 50.0, offset=rng.integers(0, 40, requests) * 4096,
            size=rng.integers(1, 4 * 4096, requests), write=rng.random(requests) < 0.5,
        )
    )  # fmt: skip
    world = World(cut, load_devices("performance"), fast=0.8)
    reference = Reference(world)
    for i in range(requests):
        latency, _ = one_step(world.sims, 0, 0, 0, cold and i % 3 > 0, 0, 1)
        reference.arrive()
        assert latency == reference.serve(0, 0, cold and i % 3 > 0), i
    sim = world.sims[0]
    assert int(cut.count.sum()) > 4 * (int(sim["mask"][0]) + 1) >= 4 * (sim["newest"][0] - sim["oldest"][0])
    assert world.pages[0]["tier"].tolist() == reference.home


def poisson_reads(rng, requests, gap_us, spread=1):
    pages = rng.integers(0, 1_000_000, requests) * spread
    return paged(
        Trace(
            name="reads", time_us=np.cumsum(rng.exponential(gap_us, requests)), offset=pages * 4096,
            size=np.full(requests, 4096), write=np.zeros(requests, bool),
        )
    )  # fmt: skip


def mean_latency(cut, devices):
    world = World(cut, devices)
    total = sum(one_step(world.sims, 0, -1, 0, False, 0, len(devices.tiers) - 1)[0] for _ in range(len(cut.first)))
    return total / len(cut.first)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_a_device_without_parallelism_is_an_md1_queue(tmp_path, load):
    """Mean wait of M/D/1: load * service / (2 * (1 - load)) (Pollaczek and Khinchine)."""
    path = tmp_path / "d.toml"
    slow = "kind='solid', read_latency_us=100, write_latency_us=100, read_mb_s=4096, write_mb_s=4096, read_iops=10000, write_iops=10000"
    path.write_text(f"[[tier]]\ndevice='optane-p4800x'\n[[tier]]\ndevice={{{slow}}}\n")
    cut = poisson_reads(np.random.default_rng(1), 60_000, 100 / load)
    expected = 100 + load * 100 / (2 * (1 - load))
    assert mean_latency(cut, load_devices(str(path))) == pytest.approx(expected, rel=0.06)


def test_a_disk_takes_its_average_seek_and_half_a_turn():
    """Uniform over the whole disk: average seek 8.5 ms, half of 8.33 ms, overhead 0.1 ms, a page at 210 MB/s."""
    cut = poisson_reads(np.random.default_rng(2), 4000, 1e6, spread=244)
    expected = 8500 + 60e6 / 7200 / 2 + 100 + 4096 / 210
    assert mean_latency(cut, load_devices("cost")) == pytest.approx(expected, rel=0.04)


def test_an_ssd_answers_in_its_latency_and_keeps_its_iops():
    devices = load_devices("performance")
    assert mean_latency(poisson_reads(np.random.default_rng(3), 2000, 1e5), devices) == pytest.approx(90.0)
    cut = poisson_reads(np.random.default_rng(4), 20_000, 0.01)  # all at once
    world = World(cut, devices)
    for _ in range(len(cut.first)):
        one_step(world.sims, 0, -1, 0, False, 0, 1)
    assert len(cut.first) / world.sims["busy"][0, 1] * 1e6 == pytest.approx(97_000, rel=0.01)


def test_sustained_writes_fall_to_the_rate_of_the_flash():
    """Behind its buffer a device writes no faster than it drains; garbage collection takes its share on top."""
    requests = 30_000
    cut = paged(
        Trace(
            name="w", time_us=np.arange(requests) * 1.0, offset=np.arange(requests) * 4096,
            size=np.full(requests, 4096), write=np.ones(requests, bool),
        )
    )  # fmt: skip
    world = World(cut, load_devices("performance"))
    for _ in range(requests):
        one_step(world.sims, 0, 1, 0, False, 0, 1)
    rate = (requests * 4096 - 32e6) / world.sims["busy"][0, 1]  # bytes a us, without what the buffer still holds
    assert 0.75 * 145.4 < rate < 1.02 * 145.4


@given(st.integers(0, 10**9))
def test_octaves_are_quarter_octaves(value):
    found = int(octave(value))
    if value < 8:
        assert found == value
    else:
        steps = (value.bit_length() - 1) * 4 + ((value >> (value.bit_length() - 3)) & 3) - 4
        assert found == min(steps, 63)


def test_capacities_are_shares_of_the_touched_pages():
    cut = random_trace(np.random.default_rng(0), 300)
    world = World(cut, load_devices("quad"), fast=0.05)
    assert world.capacities[:3] == [round(s * cut.footprint) for s in (0.05, 0.1, 0.2)]
    assert len(cut.address) > cut.footprint


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "two to four"),
        ("[[tier]]\ndevice='optane-p4800x'\n", "two to four"),
        ("[[tier]]\ndevice='optan'\n[[tier]]\ndevice='ssd-s4510'\n", "Did you mean 'optane-p4800x'"),
        ("[[tier]]\ndevice={kind='tape'}\n[[tier]]\ndevice='ssd-s4510'\n", "kind = 'solid'"),
        ("[[tier]]\ndevice={kind='disk', rpm=7200}\n[[tier]]\ndevice='ssd-s4510'\n", "lacks average_seek_ms"),
        ("[[tier]]\ndevice='optane-p4800x'\nshare=1.5\n[[tier]]\ndevice='ssd-s4510'\n", "share must be between"),
        ("[[tier]]\ndevice='optane-p4800x'\nsize=1\n[[tier]]\ndevice='ssd-s4510'\n", "unknown size"),
        ("[[tier]\n", "not valid TOML"),
    ],
)
def test_wrong_device_files(tmp_path, text, why):
    path = tmp_path / "d.toml"
    path.write_text(text)
    with pytest.raises(TunewrightError, match=why):
        load_devices(str(path))


def test_wrong_numbers():
    cut = random_trace(np.random.default_rng(0), 20)
    with pytest.raises(ConfigError, match="share of the footprint"):
        World(cut, load_devices("cost"), fast=0)
    with pytest.raises(ConfigError, match="factor on arrival times"):
        World(cut, load_devices("cost"), scale=-1)
    with pytest.raises(ConfigError, match="migration queue"):
        Mechanisms(queue=100)
    with pytest.raises(TunewrightError, match="no device configuration named 'costs'"):
        load_devices("costs")


def test_a_reset_system_starts_anew():
    rng = np.random.default_rng(8)
    cut = random_trace(rng, 200)
    world = World(cut, load_devices("triple"), n=2, mechanisms=FULL)
    first = [one_step(world.sims, 0, i % 3, 0, False, 0, 2)[0] for i in range(200)]
    world.reset(np.array([True, False]))
    assert [one_step(world.sims, 0, i % 3, 0, False, 0, 2)[0] for i in range(200)] == first
