import numpy as np
import pytest

pytest.importorskip("rocksdict", reason="needs the extra: pip install 'tunewright[rocksdb]'")

from tunewright.envs.storage.rocksdb import RocksDBTarget, _plan, open_target
from tunewright.errors import ConfigError
from tunewright.measuring.isolation import measure_once
from tunewright.sessions.guards import guarded
from tunewright.target import Budget
from tunewright.testing import check_target

SMALL = RocksDBTarget(rows=3000)


def measured(tmp_path, workload="a", operations=3000, **changes):
    config = SMALL.space.fill(changes)
    budget = Budget(workdir=tmp_path, prepared={"operations": operations}, seconds=60)
    return measure_once(SMALL, config, workload=workload, seed=1, budget=budget)


def test_at_least_twenty_options():
    assert len(SMALL.space) >= 20


def test_contract():
    check_target(SMALL, workload="b", others=2)


@pytest.mark.parametrize("workload", list(SMALL.workloads))
def test_every_workload_runs(tmp_path, workload):
    found = measured(tmp_path, workload, 800)
    assert found.ok, found.reason
    assert found.values["throughput"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("workload", "shares"),
    [("a", {"get": 0.5, "put": 0.5}), ("b", {"get": 0.95, "put": 0.05}), ("c", {"get": 1.0}), ("d", {"get": 0.95, "put": 0.05}),
     ("e", {"scan": 0.95, "put": 0.05}), ("f", {"get": 0.5, "rmw": 0.5})],
)  # fmt: skip
def test_mixes_are_those_of_ycsb(workload, shares):
    kinds = [kind for kind, _ in _plan(workload, 1, 1000, 20_000)]
    for kind, share in shares.items():
        assert kinds.count(kind) / len(kinds) == pytest.approx(share, abs=0.02)
    assert set(kinds) == set(shares)


def test_keys_follow_zipf():
    rows = np.array([row for _, row in _plan("c", 1, 1000, 200_000)])
    counts = np.sort(np.bincount(rows, minlength=1000))[::-1] / len(rows)
    expected = 1 / np.arange(1, 1001) ** 0.99
    expected /= expected.sum()
    assert counts[0] == pytest.approx(expected[0], rel=0.05)
    assert counts[:10].sum() == pytest.approx(expected[:10].sum(), rel=0.05)


def test_inserts_of_d_are_read_soon():
    plan = _plan("d", 1, 1000, 5000)
    assert max(row for kind, row in plan if kind == "put") >= 1000 + 100
    assert any(kind == "get" and row >= 1000 for kind, row in plan)


def test_options_that_refuse_to_open_together_fail_with_the_reason(tmp_path):
    found = measured(tmp_path, unordered_write=True, enable_pipelined_write=True)
    assert found.status == "failed"
    assert "refuses these options together" in found.reason
    assert "unordered_write" in found.reason


def test_stalls_fail_with_the_reason(tmp_path, monkeypatch):
    import tunewright.envs.storage.rocksdb as module

    class Stalled(RocksDBTarget):
        isolated = False

    monkeypatch.setattr(
        module, "_counters", lambda options, calls=[]: calls.append(1) or {"rocksdb.stall.micros": 1e9 * len(calls)}
    )
    budget = Budget(workdir=tmp_path, prepared={"operations": 500})
    found = measure_once(Stalled(rows=1000), SMALL.space.default, workload="a", seed=1, budget=budget)
    assert found.status == "failed"
    assert "writes stalled for 1000.00 s" in found.reason


def test_a_bloom_filter_is_used_when_asked_for(tmp_path):
    assert measured(tmp_path, "c", bloom_bits=10.0).traces["rocksdb.bloom.filter.useful"] >= 0
    small = measured(tmp_path, "c", block_cache=1).traces
    large = measured(tmp_path, "c", block_cache=64).traces
    assert small["rocksdb.block.cache.miss"] > large["rocksdb.block.cache.miss"]


def test_synced_writes_are_slower_and_more_durable(tmp_path):
    loose, tight = measured(tmp_path, operations=500), measured(tmp_path, operations=500, sync=True)
    assert tight.values["durability"] > loose.values["durability"]
    assert tight.values["throughput"] < loose.values["throughput"]


def test_the_guard_keeps_the_log():
    space, rng = guarded(SMALL), np.random.default_rng(0)
    for _ in range(100):
        config = space.decode(rng.random(len(space)))
        assert not config["disable_wal"]
        assert not config["unordered_write"]


def test_render_names_every_section():
    text = SMALL.render(SMALL.space.fill({"bloom_bits": 10.0, "write_buffer_size": 32}))
    assert "write_buffer_size=33554432" in text
    assert "filter_policy=bloomfilter:10:false" in text
    assert "[TableOptions/BlockBasedTable" in text


def test_wrong_input():
    with pytest.raises(ConfigError, match="at least 1000"):
        open_target("", {"rows": "5"})
    with pytest.raises(ConfigError, match="takes no argument"):
        open_target("x", {})
