import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.errors import SpaceError
from tunewright.space import Choice, Constraint, Int, Real, Space
from tunewright.testing import check_space

SPACE = Space(
    [
        Int(name="stripes", low=1, high=64, default=1, log=True, special={-1: "all"}),
        Real(name="share", low=0.01, high=0.9, default=0.1, log=True),
        Choice(name="family", choices=("graph", "lists"), default="graph"),
        Int(name="lists", low=4, high="256 * 2", default=16, when="family == 'lists'"),
        Int(name="probe", low=1, high="lists", default=1, when="family == 'lists'"),
        Int(name="a", low=1, high=64, default=8),
        Int(name="b", low=1, high=64, default=8),
        Real(name="low", low=0, high=1, default=0.2),
        Real(name="high", low=0, high=1, default=0.8),
        Int(name="threads", low=1, high="max(2 * CPU_COUNT, 2)", default=1),
        Choice(name="flag", choices=(True, False, 1), default=True),
    ],
    ["a * b == 64", "low <= high"],
)


@given(st.lists(st.floats(0, 1), min_size=len(SPACE), max_size=len(SPACE)))
def test_every_point_of_the_cube_is_legal(u):
    assert SPACE.problems(SPACE.decode(np.array(u))) == []


@given(st.lists(st.floats(0, 1), min_size=len(SPACE), max_size=len(SPACE)))
def test_encode_and_decode_are_inverse(u):
    config = SPACE.decode(np.array(u))
    again = SPACE.decode(SPACE.encode(config))
    assert again.keys() == config.keys()
    for name, value in config.items():
        assert again[name] == pytest.approx(value, abs=1e-9) if isinstance(value, float) else again[name] == value


@settings(max_examples=50)
@given(st.integers(0, 2000), st.integers(0, 3000), st.booleans(), st.integers(1, 7))
def test_integers_survive_the_cube(low, span, log, step):
    param = Int(name="x", low=low, high=low + span, default=low, log=log, step=step)
    for value in {low, low + span // step * step, low + span // 2 // step * step}:
        assert param.decode(param.encode(value, {}), {}) == value


def test_contract():
    check_space(SPACE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stripes": 0}, "outside 1 to 64"), ({"stripes": 2.5}, "whole number"), ({"stripes": "many"}, "must be a number"),
        ({"stripes": True}, "must be a number"), ({"share": float("nan")}, "finite"), ({"family": "tree"}, "not one of"),
        ({"probe": 3}, "no effect"), ({"famly": "graph"}, "Did you mean 'family'"), ({"a": 3}, "a * b == 64"),
        ({"low": 0.9, "high": 0.1}, "low <= high"), ({"family": "lists"}, "lists is missing"), ({"flag": 1.5}, "not one of"),
    ],
)  # fmt: skip
def test_problems_in_words(change, words):
    found = SPACE.problems({**SPACE.default, **change})
    assert any(words in problem for problem in found), found


def test_special_values_are_legal_and_reachable():
    assert SPACE.problems({**SPACE.default, "stripes": -1}) == []
    rng = np.random.default_rng(0)
    assert any(SPACE.decode(rng.random(len(SPACE)))["stripes"] == -1 for _ in range(100))


def test_bounds_may_name_machine_facts_and_other_parameters():
    config = SPACE.fill({"family": "lists", "lists": 8, "probe": 8})
    assert SPACE.problems(config) == []
    assert "outside 1 to 8" in SPACE.problems({**config, "probe": 9})[0]


def test_true_and_one_are_different_choices():
    param = SPACE.params["flag"]
    assert param.encode(True, {}) != param.encode(1, {})


def test_constraints_keep_the_rest_of_the_point():
    point = SPACE.encode(SPACE.default)
    point[list(SPACE.params).index("a")] = 0.99
    fixed = SPACE.decode(point)
    assert fixed["a"] * fixed["b"] == 64
    assert fixed["share"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Space([]), "at least one"),
        (lambda: Space([Int(name="a", low=1, high=2, default=1)] * 2), "two parameters"),
        (lambda: Int(name="a", low=3, high=2, default=3), "not a range"),
        (lambda: Int(name="a", low=1, high=2, default=7), "outside"),
        (lambda: Real(name="a", low=0, high=2, default=1, log=True), "low > 0"),
        (lambda: Real(name="a", low=0, high=float("inf"), default=1), "not a range"),
        (lambda: Choice(name="a", choices=("x", "x"), default="x"), "all different"),
        (lambda: Choice(name="a", choices=("x",), default="y"), "not one of"),
        (lambda: Int(name="a", low=1, high=2, default=1, step=0), "step"),
        (lambda: Space([Int(name="a", low=1, high="b", default=1)]), "no parameter or fact named 'b'"),
        (
            lambda: Space([Int(name="a", low=1, high="b", default=1), Int(name="b", low=1, high="a", default=1)]),
            "circle",
        ),
        (lambda: Space([Int(name="a", low=1, high=4, default=1)], ["a >= 2"]), "default configuration is not legal"),
        (lambda: Space([Int(name="a", low=1, high=4, default=1)], ["a >="]), "cannot read"),
    ],
)
def test_what_is_no_space(make, words):
    with pytest.raises(SpaceError, match=words):
        make()


def test_decode_wants_a_finite_point_of_the_right_shape():
    with pytest.raises(SpaceError, match="shape"):
        SPACE.decode(np.zeros(3))
    with pytest.raises(SpaceError, match="finite"):
        SPACE.decode(np.full(len(SPACE), np.nan))


def test_grid_lists_only_legal_configurations_and_respects_conditions():
    space = Space(
        [Choice(name="f", choices=("x", "y"), default="x"), Int(name="n", low=1, high=3, default=1, when="f == 'y'")],
        ["n != 2"],
    )
    assert list(space.grid(10)) == [{"f": "x"}, {"f": "y", "n": 1}, {"f": "y", "n": 3}]


def test_schema_is_json_with_bounds_and_specials():
    schema = json.loads(json.dumps(SPACE.json_schema()))
    assert schema["properties"]["stripes"]["anyOf"][1] == {"const": -1, "description": "all"}
    assert "family == 'lists'" in schema["properties"]["probe"]["description"]
    assert "probe" not in schema["required"]


def test_a_python_predicate_can_be_a_constraint():
    rule = Constraint(words="odd only", names=("n",), holds=lambda scope: scope["n"] % 2 == 1)
    space = Space([Int(name="n", low=1, high=9, default=1)]).with_constraints([rule])
    assert {space.decode(np.array([u]))["n"] for u in np.linspace(0, 1, 50)} == {1, 3, 5, 7, 9}


def test_keys_are_equal_for_equal_configurations():
    assert SPACE.key({"share": 0.1}) == SPACE.key({**SPACE.default, "share": 0.1 + 1e-16})
