import gzip
import itertools
import json

import numpy as np
import pytest

from tunewright.envs.tables import open_target
from tunewright.errors import ConfigError, UnknownNameError
from tunewright.measuring.isolation import measure_once
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.target import Budget
from tunewright.testing import check_target, check_tuner
from tunewright.tuners.optuna import TPETuner


def write(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, r)) for r in rows)]) + "\n")
    return str(path)


@pytest.fixture
def grid(tmp_path):
    rows = [(a, b, c, a * 10 + b + (c == "x")) for a, b, c in itertools.product([1, 2, 4], [0, 5], "xyz")]
    return write(tmp_path / "grid.csv", "a,b,c,time-", rows)


@pytest.fixture
def sparse(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        (i, *(f"{v:.4f}" for v in (x, y)), f"{100 - (x - 3) ** 2 - y:.4f}")
        for i, (x, y) in enumerate(rng.uniform(0, 10, (300, 2)))
    ]
    return write(tmp_path / "sparse.csv", ",x,y,tps", rows)


def value(target, config):
    return measure_once(target, config, workload="replay", seed=0, budget=Budget(workdir=None)).values


def test_a_full_grid_is_replayed_exactly(grid):
    target = open_target(grid, {})
    assert target.facts["mode"] == "grid"
    assert target.metrics[0].name == "time"
    assert target.metrics[0].direction == "min"
    assert value(target, {"a": 2, "b": 5, "c": "x"}) == {"time": 26.0}
    assert target.space.size() == 18
    check_target(target)


def test_repeated_rows_become_their_median(tmp_path):
    path = write(tmp_path / "t.csv", "a,y+", [(1, 10), (1, 30), (1, 11), (2, 5)])
    target = open_target(path, {})
    assert value(target, {"a": 1}) == {"y": 11.0}
    assert target.space.default == {"a": 1}, "the most repeated row is the default"


def test_gzip_and_options(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a,b,speed,cost\n1,1,5,9\n1,2,6,8\n2,1,7,7\n2,2,8,6\n", mtime=0))
    target = open_target(str(path), {"objective": "speed", "direction": "max", "ignore": "cost"})
    assert list(target.space.params) == ["a", "b"]
    assert target.known["best"] == 8 and "best" not in target.facts, "tuners are shown the facts"


def test_a_sparse_table_is_a_pool_of_its_rows(sparse):
    target = open_target(sparse, {"direction": "max"})
    assert target.facts["mode"] == "pool"
    assert list(target.space.params) == ["x", "y"], "the nameless row number is no parameter"
    rng = np.random.default_rng(1)
    rows = {target.space.key(r) for r in target.space.rows}
    for _ in range(50):
        config = target.space.decode(rng.random(2))
        assert target.space.key(config) in rows
        assert value(target, config)
    first, second = target.space.rows[:2]
    assert target.space.problems(first) == []
    mixed = target.space.problems({**first, "x": second["x"]})
    assert len(mixed) == 1 and "only measured rows" in mixed[0], "each value was measured, but not both together"
    assert len(target.space.problems({"x": 1.0, "y": 1.0})) == 2, "neither value was measured"
    check_target(target)
    check_tuner(TPETuner, target=target)


def test_a_pool_is_exhausted_not_repeated(tmp_path, store):
    path = write(tmp_path / "t.csv", "a,b,y-", [(1, 1, 5), (2, 3, 4), (3, 2, 1)])
    session = Session.create(Plan(target=f"table:{path}", tuner="tpe"), "a", store)
    session.run(trials=20, verify=False)
    assert len(session.decided) == 3


def test_a_surrogate_shows_its_cross_validated_r2(sparse):
    target = open_target(sparse, {"direction": "max", "mode": "surrogate"})
    assert target.facts["cross_validated_r2"] > 0.9
    assert abs(value(target, {"x": 3.0, "y": 1.0})["tps"] - 99) < 3


def test_a_surrogate_of_noise_admits_it(tmp_path):
    rng = np.random.default_rng(0)
    path = write(tmp_path / "t.csv", "x,y,z-", [(x, y, z) for x, y, z in rng.uniform(0, 1, (200, 3))])
    assert open_target(path, {"mode": "surrogate"}).facts["cross_validated_r2"] < 0.2


def test_a_descriptor_beside_the_table(tmp_path):
    path = write(tmp_path / "t.csv", "a,y", [(1, 240), (2, 100), (3, 300)])
    (tmp_path / "t.toml").write_text(
        'direction = "min"\nunit = "s"\ncensored_at = 240.0\nnoise = 0.05\ndefault = { a = 2 }\n'
    )
    target = open_target(path, {})
    assert target.space.default == {"a": 2}
    assert target.metrics[0].unit == "s"
    found = measure_once(target, {"a": 1}, workload="replay", seed=0, budget=Budget(workdir=None))
    assert (found.status, found.reason) == ("timed out", "the source cut it off at 240")
    values = [
        measure_once(target, {"a": 2}, workload="replay", seed=s, budget=Budget(workdir=None)).values["y"]
        for s in range(200)
    ]
    assert np.std(np.log(values)) == pytest.approx(0.05, rel=0.2)
    assert not target.exact


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a,y\n1,2\n", {}, "is more or less of 'y' better"),
        ("a,y\n1,2\n2,3\n", {"direction": "up"}, "must be min or max"),
        ("a,y-\n1,2\n1\n", {}, "line 3: 1 fields where the header has 2"),
        ("a,y-\n1,2\n2,abc\n", {}, "line 3: the objective 'y-' is 'abc', not a number"),
        ("a,y-\n1,2\n2,nan\n", {}, "line 3: the objective 'y-' is nan, not a finite number"),
        ("a,a,y-\n1,1,2\n", {}, "appears twice"),
        ("a,y-\n", {}, "no rows"),
        ("y-\n1\n", {}, "at least one parameter"),
        ("a,y-\n1,2\n1,3\n", {}, "no column besides the objective varies"),
        ("a,y-\n1,2\n2,3\n", {"objective": "z"}, "no column named 'z'"),
        ("a,b,y-\n1,1,2\n2,2,3\n", {"mode": "grid"}, "do not cover the grid"),
        ("a,y-\n1,2\n2,3\n", {"default": "a=7"}, "no row is the default"),
        ("a,y-\n1,2\n2,3\n", {"noise": "much"}, "must be a number"),
    ],
)
def test_what_is_wrong_with_a_table(tmp_path, text, options, words):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        open_target(str(path), options)


def test_other_mistakes(tmp_path, grid):
    with pytest.raises(ConfigError, match="there is no table"):
        open_target(str(tmp_path / "none.csv"), {})
    with pytest.raises(ConfigError, match="say which table"):
        open_target("", {})
    with pytest.raises(UnknownNameError, match="Did you mean 'mode'"):
        open_target(grid, {"mod": "pool"})
    (tmp_path / "grid.toml").write_text("direction = ")
    with pytest.raises(ConfigError, match=r"grid.toml is not valid TOML"):
        open_target(grid, {})


def test_command_line(grid, cli):
    found = json.loads(cli("tune", f"table:{grid}", "--tuner", "tpe", "--trials", "18", "--seed", "3", "--json").stdout)
    assert found["best"]["metrics"] == {"time": 10.0}
    assert found["ratio"] == pytest.approx(1.1)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "options", "mode", "configurations"),
    [
        ("moot_LLVM", {}, "grid", 1024), ("moot_PostgreSQL", {}, "grid", 864), ("moot_SQL_AllMeasurements", {}, "pool", 4652),
        ("moot_storm_wc-6d-c1-obj1", {"direction": "max"}, "grid", 2880), ("dbtune_JOB_5knob", {"direction": "min", "censored_at": "240"}, "pool", 5161),
        ("dbtune_SYSBENCH_20knob", {"direction": "max"}, "pool", 4996),
    ],
)  # fmt: skip
def test_published_tables(data, name, options, mode, configurations):
    target = open_target(str(data / "tables" / f"{name}.csv.gz"), options)
    assert (target.facts["mode"], target.facts["configurations"]) == (mode, configurations)


@pytest.mark.data
@pytest.mark.slow
def test_published_surrogate_is_as_good_as_the_study_found(data):
    target = open_target(
        str(data / "tables" / "dbtune_SYSBENCH_20knob.csv.gz"), {"direction": "max", "mode": "surrogate"}
    )
    assert target.facts["cross_validated_r2"] == pytest.approx(0.92, abs=0.02)


def test_the_direction_of_a_plain_column_may_be_given_on_the_command_line(tmp_path, cli):
    (tmp_path / "plain.csv").write_text("a,b,c\n1,2,4\n2,2,6\n3,1,4\n")
    words = ["--objective", "c", "--direction", "min", "--trials", "2", "--json"]
    done = cli("tune", f"table:{tmp_path / 'plain.csv'}", *words)
    assert '"c"' in done.stdout
