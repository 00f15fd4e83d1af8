"""Expressions over parameters and machine facts: a small grammar of our own, never ``eval``.

Grammar, loosest first::

    or    and    not
    ==  !=  <  <=  >  >=  in        (comparisons chain: ``1 <= a <= b``)
    |                               (``a | b``: a divides b)
    +  -
    *  /  //  %
    - (sign)    **                  (exponent between -64 and 64)
    number  'text'  true  false  name  (...)  [a, b]  min(...)  max(...)  abs(x)  floor(x)  ceil(x)  log2(x)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tunewright.errors import SpaceError

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_.]*)|(?P<op>\*\*|//|==|!=|<=|>=|[-+*/%()\[\],<>|]))"
)
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "log2": math.log2,
}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
}
_WORDS = {"and", "or", "not", "in", "true", "false"}
_MAX_LENGTH, _MAX_DEPTH = 1000, 40

Scope = Mapping[str, Any]
_Node = Callable[[Scope], Any]


@dataclass(frozen=True, kw_only=True)
class Expr:
    """A parsed expression.

    Attributes:
        text: the source text.
        names: names of the parameters and facts it reads, in order of first use.
    """

    text: str
    names: tuple[str, ...]
    _run: _Node = field(repr=False, compare=False)

    def __call__(self, scope: Scope) -> Any:
        """Evaluate with values for every name.

        Raises:
            SpaceError: a name has no value, or the arithmetic fails.
        """
        try:
            return self._run(scope)
        except KeyError as error:
            raise SpaceError(f"{self.text!r} needs a value for {error.args[0]!r}") from None
        except (ArithmeticError, TypeError, ValueError) as error:
            raise SpaceError(f"{self.text!r} cannot be evaluated: {error}") from None


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.names, self.depth = text, list[str](), 0
        self.tokens = list(self._scan())
        self.at = 0

    def _scan(self) -> Iterator[tuple[str, str]]:
        position, text = 0, self.text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self.wrong(f"unexpected {text[position:].strip()[:1]!r} at column {position + 1}")
            kind = str(match.lastgroup)
            value = match[kind]
            yield ("op" if kind == "name" and value in _WORDS else kind), value
            position = match.end()

    def wrong(self, why: str) -> SpaceError:
        return SpaceError(f"cannot read the expression {self.text!r}: {why}")

    def peek(self) -> str | None:
        return self.tokens[self.at][1] if self.at < len(self.tokens) and self.tokens[self.at][0] == "op" else None

    def take(self, *operators: str) -> str | None:
        found = self.peek()
        if found in operators:
            self.at += 1
            return found
        return None

    def expect(self, operator: str) -> None:
        if not self.take(operator):
            raise self.wrong(f"expected {operator!r}")

    def deeper(self, rule: Callable[[], _Node]) -> _Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.wrong("nested too deeply")
        node = rule()
        self.depth -= 1
        return node

    def any_of(self) -> _Node:
        left = self.all_of()
        while self.take("or"):
            left = _binary(lambda a, b: bool(a) or bool(b), left, self.all_of())
        return left

    def all_of(self) -> _Node:
        left = self.negated()
        while self.take("and"):
            right = self.negated()
            left = _short_and(left, right)
        return left

    def negated(self) -> _Node:
        if self.take("not"):
            inner = self.deeper(self.negated)
            return lambda scope: not inner(scope)
        return self.compared()

    def compared(self) -> _Node:
        first = self.divided()
        links: list[tuple[Callable[[Any, Any], bool], _Node]] = []
        while operator := self.take(*_COMPARE):
            links.append((_COMPARE[operator], self.divided()))
        if not links:
            return first

        def run(scope: Scope) -> bool:
            left = first(scope)
            for compare, node in links:
                right = node(scope)
                if not compare(left, right):
                    return False
                left = right
            return True

        return run

    def divided(self) -> _Node:
        left = self.summed()
        while self.take("|"):
            left = _binary(lambda a, b: a != 0 and b % a == 0, left, self.summed())
        return left

    def summed(self) -> _Node:
        left = self.product()
        while operator := self.take("+", "-"):
            right = self.product()
            left = _binary((lambda a, b: a + b) if operator == "+" else (lambda a, b: a - b), left, right)
        return left

    def product(self) -> _Node:
        left = self.signed()
        while operator := self.take("*", "/", "//", "%"):
            left = _binary(_PRODUCTS[operator], left, self.signed())
        return left

    def signed(self) -> _Node:
        if self.take("-"):
            inner = self.deeper(self.signed)
            return lambda scope: -inner(scope)
        base = self.atom()
        if self.take("**"):
            exponent = self.deeper(self.signed)
            return _binary(_power, base, exponent)
        return base

    def atom(self) -> _Node:
        if self.at >= len(self.tokens):
            raise self.wrong("it ends too early")
        kind, value = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            number: float = int(value) if value.isdigit() else float(value)
            return lambda scope: number
        if kind == "text":
            return lambda scope: value[1:-1]
        if value in ("true", "false"):
            return lambda scope: value == "true"
        if value == "(":
            inner = self.deeper(self.any_of)
            self.expect(")")
            return inner
        if value == "[":
            items = self.items("]")
            return lambda scope: [item(scope) for item in items]
        if kind == "name":
            if self.take("("):
                return self.call(value)
            if value not in self.names:
                self.names.append(value)
            return lambda scope: scope[value]
        raise self.wrong(f"unexpected {value!r}")

    def items(self, close: str) -> list[_Node]:
        found = [self.deeper(self.any_of)]
        while self.take(","):
            found.append(self.deeper(self.any_of))
        self.expect(close)
        return found

    def call(self, name: str) -> _Node:
        function = _FUNCTIONS.get(name)
        if function is None:
            raise self.wrong(f"no function {name!r}; known: {', '.join(sorted(_FUNCTIONS))}")
        arguments = self.items(")")
        return lambda scope: function(*(argument(scope) for argument in arguments))


def _binary(operation: Callable[[Any, Any], Any], left: _Node, right: _Node) -> _Node:
    return lambda scope: operation(left(scope), right(scope))


def _short_and(left: _Node, right: _Node) -> _Node:
    return lambda scope: bool(left(scope)) and bool(right(scope))


def _power(base: float, exponent: float) -> float:
    if abs(exponent) > 64:
        raise ValueError("an exponent must lie between -64 and 64")
    if isinstance(base, int) and isinstance(exponent, int) and 0 <= exponent:
        if base.bit_length() * exponent > 1024:  # keeps nested powers from filling the memory
            raise ValueError("the power is too large")
        whole: int = base**exponent
        return whole
    result: Any = float(base) ** exponent
    if isinstance(result, complex):
        raise ValueError("a negative number has no such power")
    return float(result)


_PRODUCTS: dict[str, Callable[[Any, Any], Any]] = {
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
}


@lru_cache(maxsize=1024)
def parse(text: str) -> Expr:
    """Parse an expression.

    >>> parse("min(RAM_MB / 2, 4 * cache) >= 1")({"RAM_MB": 64, "cache": 8})
    True

    Raises:
        SpaceError: the text is not an expression of the grammar.
    """
    if len(text) > _MAX_LENGTH:
        raise SpaceError(f"an expression may have at most {_MAX_LENGTH} characters, this one has {len(text)}")
    parser = _Parser(text)
    node = parser.any_of()
    if parser.at != len(parser.tokens):
        raise parser.wrong(f"unexpected {parser.tokens[parser.at][1]!r}")
    return Expr(text=text, names=tuple(parser.names), _run=node)
