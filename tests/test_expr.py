import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import SpaceError
from tunewright.expr import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("2 ** 3 ** 2", 512), ("-2 ** 2", -4), ("7 // 2 + 7 % 2", 4),
        ("1 <= 2 <= 3", True), ("1 <= 4 <= 3", False), ("4 | 12", True), ("5 | 12", False), ("0 | 12", False),
        ("not 1 > 2 and 3 == 3", True), ("'a' in ['a', 'b']", True), ("'x' != 'y' or 1 > 2", True),
        ("min(4, 2, 3) + max(1, 5)", 7), ("floor(2.7) + ceil(2.1)", 5), ("log2(8)", 3), ("1.5e3", 1500),
        ("true and not false", True),
    ],
)  # fmt: skip
def test_value(text, value):
    assert parse(text)({}) == value


def test_names_in_order_of_use():
    assert parse("b * a + b <= RAM_MB").names == ("b", "a", "RAM_MB")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "(1",
        "foo(1)",
        "__import__('os')",
        "a.b.__class__ == 1 +",
        "1 ; 2",
        "lambda: 1",
        "[1",
        "x = 3",
        "a b",
        "@",
    ],
)
def test_what_is_no_expression(text):
    with pytest.raises(SpaceError):
        parse(text)


@pytest.mark.parametrize(
    "text", ["(" * 200 + "1" + ")" * 200, "-" * 900 + "1", "not " * 200 + "true", "2**" * 200 + "2"]
)
def test_deep_nesting_is_refused_not_a_crash(text):
    with pytest.raises(SpaceError, match="deeply"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["1 / 0", "a + 1", "'x' + 1", "log2(0)", "((2**64)**64)**64", "(0-8) ** 0.5", "1e308 * 1e308 ** 64"]
)
def test_arithmetic_that_fails_is_a_space_error(text):
    with pytest.raises(SpaceError):
        parse(text)({})


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 50))
def test_agrees_with_python(a, b, c):
    scope = {"a": a, "b": b, "c": c}
    assert parse("a * b - c // 3 + a % c")(scope) == a * b - c // 3 + a % c
    assert parse("a < b or b == c and not a > c")(scope) == (a < b or (b == c and not a > c))
    assert math.isclose(parse("(a - b) / c")(scope), (a - b) / c)
    assert parse("c | a")(scope) == (a % c == 0)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_a_space_error(text):
    try:
        parse(text)
    except SpaceError:
        pass
