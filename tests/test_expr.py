import math
import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.errors import SpaceError
from tunewright.space import Int, Space
from tunewright.space.expressions import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("2 ** 3 ** 2", 512), ("-2 ** 2", -4), ("7 // 2 + 7 % 2", 4),
        ("1 <= 2 <= 3", True), ("1 <= 4 <= 3", False), ("4 | 12", True), ("5 | 12", False), ("0 | 12", False),
        ("not 1 > 2 and 3 == 3", True), ("'a' in ['a', 'b']", True), ("'x' != 'y' or 1 > 2", True),
        ("min(4, 2, 3) + max(1, 5)", 7), ("floor(2.7) + ceil(2.1)", 5), ("log2(8)", 3), ("1.5e3", 1500),
        ("true and not false", True), ("true or 1 / 0", True), ("false and 1 / 0", False), ("2 > 1 > 1 / 1", False),
        ("3 not in [1, 2]", True), ("'b' in ('a', 'b')", True), ("007 + 1.", 8), ("'\\n' == '\\n'", True), ("2 ** -1", 0.5),
    ],
)  # fmt: skip
def test_value(text, value):
    assert parse(text)({}) == value


def test_a_name_with_dashes_stands_in_braces():
    expression = parse("{io-threads} - {n} > 2 and min({io-threads}, 9) == 4")
    assert expression.names == ("io-threads", "n")
    assert expression({"io-threads": 4, "n": 1}) is True
    assert parse("a-b")({"a": 3, "b": 1}) == 2
    for text in ("{}", "{a", "{a b}", "{__class__}", "{1}"):
        with pytest.raises(SpaceError):
            parse(text)


def test_a_dash_without_braces_is_explained():
    threads, mode = Int(name="io-threads", low=1, high=8, default=1), Int(name="io", low=1, high=2, default=1)
    with pytest.raises(SpaceError, match=r"named 'threads'. Write \{io-threads\} in braces"):
        Space([threads, mode], ["io-threads > 1"])
    with pytest.raises(SpaceError, match=r"Write \{io-threads\} in braces"):
        Space([threads], ["io-threads > 1"])
    assert Space([threads, mode], ["{io-threads} >= io"]).problems({"io-threads": 1, "io": 2})


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


def test_or_stops_as_soon_as_it_is_true():
    """A default was illegal because the part behind a true ``or`` cannot be evaluated for it."""
    assert parse("x == 0 or 10 / x > 2")({"x": 0}) is True
    assert parse("x == 0 or 10 / x > 2")({"x": 5}) is False
    space = Space([Int(name="x", low=0, high=9, default=0)], ["x == 0 or 10 / x > 2"])
    assert space.problems({"x": 4}) == []
    assert space.problems({"x": 5}) == ["x == 0 or 10 / x > 2 does not hold (x = 5)"]


@pytest.mark.parametrize(
    ("text", "scope", "value"),
    [
        ("osc.max_dirty_mb <= 2 * osc.rpcs", {"osc.max_dirty_mb": 8, "osc.rpcs": 4}, True),
        ("lambda + if > class", {"lambda": 1, "if": 2, "class": 2}, True),
        ("True == n0 and min < min(max, 3)", {"True": 5, "n0": 5, "min": 1, "max": 9}, True),
        ("scope + __builtins", {"scope": 1, "__builtins": 2}, 3),
        ("mode in ['C:\\temp', '{x}', '%s']", {"mode": "C:\\temp"}, True),
        ("levels == [1, two]", {"levels": [1, 2], "two": 2}, True),
    ],
)
def test_any_name_and_text_may_stand_in_it(text, scope, value):
    expression = parse(text)
    assert set(expression.names) == set(scope)
    assert expression(scope) == value


def test_an_expression_travels_and_is_a_key():
    expression = parse("a + b == 3")
    again = pickle.loads(pickle.dumps(expression))
    assert again == expression and hash(again) == hash(expression)
    assert again({"a": 1, "b": 2}) is True


HOSTILE = [
    "x.__class__", "().__class__", "''.__class__.__mro__", "(1).real", "a.b.__class__ == 1", "__import__('os')",
    "open('/etc/passwd')", "exec('1')", "min.__self__", "lambda: 1", "lambda x: x", "[x for x in [1]]", "(x for x in [1])",
    "{x for x in [1]}", "{}", "f'{1}'", "b'1' == 1", "u'1' == 1", "(x := 1)", "x = 1", "'abc'[0]", "x[0]", "[1][0]", "x[1:2]",
    "1 if true else 2", "await x", "yield 1", "*[1]", "min(*[1])", "min(**x)", "min(key=1)", "min()", "[]", "()", "1, 2", "(1, 2)",
    "(1, 2) == 3", "1 << 99999999", "1 >> 1", "1 ^ 1", "1 & 1", "~1", "+1", "1 is 1", "x!", "x; y", "x # y", "1j", "0x10", "1_000",
    "'a' 'b' == 'ab'", "'a' * 99999999999", "'a' + 'b'", "'%99999999999d' % 1", "-'a'", "not 'a'", "min('a', 'b')",
    "[1] * 99999999999", "[1] + [2]", "min(['a', 'b'])", "9 ** 9 ** 9 ** 9", "9 ** 64 ** 64", "10 ** 400", "2 ** 1024", "1e999", "1e308 * 10",
    "1e308 * 1e308 - 1e308 * 1e308", "9" * 400, "9" * 999, "(" * 10_000 + "1" + ")" * 10_000, "(" * 10_000, ")" * 10_000, "(" * 400,
    "[" * 300 + "1" + "]" * 300, "-" * 999 + "1", "not " * 249 + "1", "min(" * 200 + "1" + ")" * 200, "2**" * 300 + "2",
    "\x00", "1 + \x00", "\ud800", "1 \udcff", "\u0661 + 1", "\uff41 == 1", "1\u2028+ +1", "x" * 1001, "'" + "a" * 998, "1 if", "in", "not", "1 not 2",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:30]))
def test_hostile_texts_are_refused_in_one_line_and_at_once(text):
    began = time.process_time()
    with pytest.raises(SpaceError) as caught:
        parse(text)({})
    assert time.process_time() - began < 2
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 2500
    message.encode()  # nothing in it that a terminal cannot be given


@pytest.mark.parametrize(
    "text", ["x * 99999999999", "99999999999 * x", "x + x", "x % 1", "-x", "x ** 2", "1 | x", "max(x, x)", "abs(x)"]
)
@pytest.mark.parametrize("value", ["a", "%99999999999d", [1], None])
def test_values_that_are_no_numbers_have_no_arithmetic(text, value):
    with pytest.raises(SpaceError, match="cannot be evaluated"):
        parse(text)({"x": value})


@pytest.mark.parametrize("value", [1, None, 2.5, b"x > 1"])
def test_only_a_text_is_an_expression(value):
    with pytest.raises(SpaceError, match="is a text"):
        parse(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a +", "ends too early"),
        ("", "ends too early"),
        ("(a b)", "unexpected 'b' at column 4"),
        ("a + * b", "unexpected '*' at column 5"),
        ("min(a, [b)", "unexpected ')' at column 10"),
        ("[a, (b", "expected"),
        ("a ; b", "unexpected ';' at column 3"),
        ("foo(a)", "no function 'foo'; known: abs, ceil"),
        ("a $ b", "unexpected '$' at column 3"),
        ("a == 'b", 'unexpected "\'" at column 6'),
    ],
)
def test_the_message_says_where(text, said):
    with pytest.raises(SpaceError) as caught:
        parse(text)
    assert said in str(caught.value)


def test_a_long_sum_is_no_deep_nesting():
    assert parse("+".join("1" * 500))({}) == 500
    assert parse(" or ".join(["a"] * 200))({"a": 0}) is False


NAMES = {"a": 3, "b": -2, "c": 0, "x.y": 0.5, "mode": "fast", "on": True}
_LEAVES = st.one_of(
    st.integers(0, 40).map(lambda n: ("value", n)),
    st.floats(0, 100, allow_subnormal=False).map(lambda n: ("value", n)),
    st.sampled_from(["fast", "slow", "it's", "\\"]).map(lambda t: ("value", t)),
    st.booleans().map(lambda b: ("value", b)),
    st.sampled_from(sorted(NAMES)).map(lambda n: ("name", n)),
)
_BINARY = ["+", "-", "*", "/", "//", "%", "**", "|", "and", "or", "==", "!=", "<", "<=", ">", ">="]


def _grow(inner):
    return st.one_of(
        st.tuples(st.sampled_from(_BINARY), inner, inner),
        st.tuples(st.sampled_from(["not", "-"]), inner),
        st.tuples(
            st.just("chain"),
            inner,
            st.sampled_from(["<", "<=", "=="]),
            inner,
            st.sampled_from(["<", ">=", "!="]),
            inner,
        ),
        st.tuples(st.just("in"), inner, st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner),
        st.tuples(st.sampled_from(["abs", "floor", "ceil", "log2"]), inner),
    )


TREES = st.recursive(_LEAVES, _grow, max_leaves=12)


def _write(tree):
    kind, *rest = tree
    if kind == "value":
        value = rest[0]
        if isinstance(value, bool):
            return str(value).lower()
        return (f'"{value}"' if "'" in value else f"'{value}'") if isinstance(value, str) else repr(value)
    if kind == "name":
        return rest[0]
    if kind in _BINARY and len(rest) == 2:
        return f"({_write(rest[0])}) {kind} ({_write(rest[1])})"
    if kind in ("not", "-"):
        return f"({kind} ({_write(rest[0])}))"
    if kind == "chain":
        return "(" + " ".join(part if i % 2 else f"({_write(part)})" for i, part in enumerate(rest)) + ")"
    if kind == "in":
        return f"(({_write(rest[0])}) in [{', '.join(map(_write, rest[1]))}])"
    return f"{kind}({', '.join(map(_write, rest))})"


def _numeric(*values):
    if not all(isinstance(v, (int, float)) for v in values):
        raise TypeError
    return values


_COMPARED = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}  # fmt: skip
_COUNTED = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b, "//": lambda a, b: a // b,
    "%": lambda a, b: a % b, "|": lambda a, b: a != 0 and b % a == 0, "min": min, "max": max, "abs": abs, "floor": math.floor,
    "ceil": math.ceil, "log2": math.log2, "-1": lambda a: -a,
}  # fmt: skip


def _reference(tree):
    """Evaluate a tree in plain Python; any error of arithmetic means that there is no value."""
    kind, *rest = tree
    if kind == "value":
        return rest[0]
    if kind == "name":
        return NAMES[rest[0]]
    if kind == "and":
        return bool(_reference(rest[0]) and _reference(rest[1]))
    if kind == "or":
        return bool(_reference(rest[0]) or _reference(rest[1]))
    if kind == "not":
        return not _reference(rest[0])
    if kind == "in":
        return _reference(rest[0]) in [_reference(item) for item in rest[1]]
    if kind in _COMPARED:
        return _COMPARED[kind](_reference(rest[0]), _reference(rest[1]))
    if kind == "chain":
        first, *links = rest
        left = _reference(first)
        for sign, node in zip(links[::2], links[1::2], strict=True):
            right = _reference(node)
            if not _COMPARED[sign](left, right):
                return False
            left = right
        return True
    values = _numeric(*map(_reference, rest))
    if kind == "**":
        base, exponent = values
        if abs(exponent) > 64:
            raise ValueError
        if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
            if base.bit_length() * exponent > 1024:
                raise ValueError
            return base**exponent
        if isinstance(power := float(base) ** exponent, complex):
            raise ValueError
        return power
    return _COUNTED["-1" if kind == "-" and len(rest) == 1 else kind](*values)


def _only_compared(tree, compared=False):
    """Whether every text of a tree is an operand of a comparison, as the grammar demands."""
    kind, *rest = tree
    if kind == "value":
        return compared or not isinstance(rest[0], str)
    if kind == "in":
        return all(_only_compared(t, True) for t in (rest[0], *rest[1]))
    compares = kind in _COMPARED or kind == "chain"
    return all(_only_compared(t, compares) for t in rest if isinstance(t, tuple))


@settings(max_examples=400, deadline=None)
@given(TREES)
def test_agrees_with_plain_python(tree):
    text = _write(tree)
    if len(text) > 1000:
        return
    try:
        expression = parse(text)
    except SpaceError as error:
        assert not _only_compared(tree) or "deeply" in str(error), text
        return
    assert _only_compared(tree), text
    assert set(expression.names) <= set(NAMES)
    try:
        wanted = _reference(tree)
        if isinstance(wanted, (int, float)) and not abs(wanted) <= 1.7976931348623157e308:
            raise OverflowError
    except (ArithmeticError, TypeError, ValueError):
        with pytest.raises(SpaceError):
            expression(NAMES)
        return
    value = expression(NAMES)
    assert type(value) is type(wanted) and value == wanted, text
