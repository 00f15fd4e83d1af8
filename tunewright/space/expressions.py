"""Expressions over parameters and machine facts: arithmetic, comparisons, a few functions, and nothing else of Python.

Grammar, loosest first::

    or    and    not                (``or`` and ``and`` stop as soon as the answer is known)
    ==  !=  <  <=  >  >=  in  not in    (comparisons chain: ``1 <= a <= b``)
    |                               (``a | b``: a divides b)
    +  -
    *  /  //  %
    - (sign)    **                  (exponent between -64 and 64)
    number  'text'  true  false  name  {name}  (...)  [a, b]  min(...)  max(...)  abs(x)  floor(x)  ceil(x)  log2(x)

A name with dashes stands in braces, as in placeholders: ``{io-threads} > 1``; elsewhere a dash is a minus. A text may
only be compared; a list of values may follow ``in`` in round brackets too. No number may be larger than a
float can hold.

Python's own parser reads the expression. It sees our tokens only: every name is replaced by one of ours, so that a
parameter may be called ``lambda`` or ``osc.max_dirty_mb``, and every text is escaped. The tree may have the nodes that
are listed here and no others. Arithmetic on what might be a text becomes a call of a checked function, a name becomes a
look-up in the scope, and the result is compiled once.
"""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Real
from typing import Any

from tunewright.errors import SpaceError, UnknownNameError, unknown

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_.]*|\{[A-Za-z_][A-Za-z0-9_.\-]*\})|(?P<op>\*\*|//|==|!=|<=|>=|[-+*/%()\[\],<>|]))"
)
_WORDS = {"and": "and", "or": "or", "not": "not", "in": "in", "true": "True", "false": "False"}
_MAX_LENGTH, _MAX_DEPTH, _MAX_EXPONENT, _MAX_BITS = 1000, 40, 64, 1024
_LARGEST = sys.float_info.max
_PLAIN = frozenset({int, float, bool})

Scope = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Expr:
    """A parsed expression.

    Attributes:
        text: the source text.
        names: names of the parameters and facts it reads, in order of first use.
    """

    text: str
    names: tuple[str, ...]
    _run: Callable[[Scope], Any] = field(repr=False, compare=False)

    def __call__(self, scope: Scope) -> Any:
        """Evaluate with values for every name.

        Raises:
            SpaceError: a name has no value, or the arithmetic fails.
        """
        try:
            result = self._run(scope)
            if type(result) is not bool and _is_number(result) and not -_LARGEST <= result <= _LARGEST:
                raise ValueError("the result is not finite, or too large")
            return result
        except KeyError as error:
            raise SpaceError(f"{self.text!r} needs a value for {error.args[0]!r}") from None
        except (ArithmeticError, TypeError, ValueError) as error:
            raise SpaceError(f"{self.text!r} cannot be evaluated: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as text."""
        return parse, (self.text,)


# --- what the compiled code calls


def _is_number(value: Any) -> bool:
    return type(value) in _PLAIN or isinstance(value, Real)


def _numbers(*values: Any) -> None:
    for value in values:
        if not _is_number(value):
            raise TypeError(f"{value!r} is not a number")


# texts and lists know +, * and % too, which can fill the memory


def _add(left: Any, right: Any) -> Any:
    if type(left) not in _PLAIN or type(right) not in _PLAIN:
        _numbers(left, right)
    return left + right


def _multiply(left: Any, right: Any) -> Any:
    if type(left) not in _PLAIN or type(right) not in _PLAIN:
        _numbers(left, right)
    return left * right


def _remainder(left: Any, right: Any) -> Any:
    if type(left) not in _PLAIN or type(right) not in _PLAIN:
        _numbers(left, right)
    return left % right


def _divides(left: Any, right: Any) -> Any:
    return left != 0 and _remainder(right, left) == 0


def _power(base: Any, exponent: Any) -> Any:
    _numbers(base, exponent)
    if abs(exponent) > _MAX_EXPONENT:
        raise ValueError(f"an exponent must lie between -{_MAX_EXPONENT} and {_MAX_EXPONENT}")
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if base.bit_length() * exponent > _MAX_BITS:  # keeps nested powers from filling the memory
            raise ValueError("the power is too large")
        return base**exponent
    result = float(base) ** exponent
    if isinstance(result, complex):
        raise ValueError("a negative number has no such power")
    return result


def _function(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*values: Any) -> Any:
        _numbers(*(values[0] if len(values) == 1 and type(values[0]) is list else values))
        return function(*values)

    return run


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": _function(min),
    "max": _function(max),
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "log2": math.log2,
}
#: operators and the function that does each; None: Python's own, which knows numbers only
_OPERATORS: dict[type[ast.AST], Callable[..., Any] | None] = {
    ast.Add: _add, ast.Sub: None, ast.Mult: _multiply, ast.Div: None, ast.FloorDiv: None, ast.Mod: _remainder,
    ast.Pow: _power, ast.BitOr: _divides,
}  # fmt: skip
_GLOBALS: dict[str, Any] = {
    "__builtins__": {},
    **_FUNCTIONS,
    **{kind.__name__: function for kind, function in _OPERATORS.items() if function},
}


# --- reading


@dataclass(frozen=True, kw_only=True)
class _Token:
    kind: str
    value: str
    column: int  # of the text, from 1

    @property
    def ends_operand(self) -> bool:
        return self.kind != "op" or self.value in (")", "]", "true", "false")

    @property
    def starts_operand(self) -> bool:
        return self.kind != "op" or self.value in ("(", "[", "true", "false")


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._scan())
        self.names = list(dict.fromkeys(t.value for t in self.tokens if t.kind == "name"))
        words = [self._python(token) for token in self.tokens]
        self.source = " ".join(words)
        self.starts = [sum(len(word) + 1 for word in words[:i]) for i in range(len(words))]

    def wrong(self, why: str) -> SpaceError:
        return SpaceError(f"cannot read the expression {self.text!r}: {why}")

    def unexpected(self, offset: int) -> SpaceError:
        """Return the error for a place of the source, from 0; -1 is its end."""
        places = zip(self.tokens, self.starts, strict=True)
        token = next((t for t, start in places if 0 <= offset <= start), None)
        if token is None:
            return self.wrong("it ends too early")
        return self.wrong(f"unexpected {token.value!r} at column {token.column}")

    def _scan(self) -> Iterator[_Token]:
        position, depth, text = 0, 0, self.text.rstrip()
        before: _Token | None = None
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                rest = text[position:].lstrip()
                raise self.wrong(f"unexpected {rest[:1]!r} at column {len(text) - len(rest) + 1}")
            kind = str(match.lastgroup)
            word = kind == "name" and match[kind] in _WORDS
            value = match[kind].strip("{}") if kind == "name" else match[kind]
            token = _Token(kind="op" if word else kind, value=value, column=match.start(kind) + 1)
            calls = before is not None and before.kind == "name" and token.value == "("
            if before is not None and before.ends_operand and token.starts_operand and not calls:
                raise self.wrong(f"unexpected {token.value!r} at column {token.column}")
            depth += (token.value in ("(", "[")) - (token.value in (")", "]"))
            if depth > _MAX_DEPTH:
                raise self.wrong("nested too deeply")
            yield token
            before, position = token, match.end()

    def _python(self, token: _Token) -> str:
        if token.kind == "name":
            if any(part[:2] == part[-2:] == "__" for part in token.value.split(".")):
                raise self.wrong(f"{token.value!r} is no name of a parameter or fact")
            return f"n{self.names.index(token.value)}"
        if token.kind == "text":
            return ascii(token.value[1:-1])
        if token.kind == "number":
            number: float = int(token.value) if token.value.isdigit() else float(token.value)
            if not number <= _LARGEST:
                raise self.wrong(f"the number at column {token.column} is too large")
            return repr(number)
        return _WORDS.get(token.value, token.value)

    def tree(self) -> ast.expr:
        """Parse the source, which consists of our tokens only."""
        try:
            return ast.parse(self.source, mode="eval").body
        except SyntaxError as error:
            offset = (error.offset or 0) - 1
            if "never closed" in (error.msg or ""):
                raise self.wrong(f"expected {')' if self.source[offset] == '(' else ']'!r}") from None
            raise self.unexpected(offset) from None
        except (RecursionError, MemoryError):
            raise self.wrong("nested too deeply") from None

    def name(self, node: ast.Name) -> str:
        return self.names[int(node.id[1:])]

    def checked(self, tree: ast.expr) -> list[ast.expr]:
        """Return the nodes of a tree, parents first; a node that is not of the grammar is an error."""
        nodes: list[ast.expr] = []
        waiting: list[tuple[ast.expr, ast.expr | None, int]] = [(tree, None, 0)]
        while waiting:
            node, parent, depth = waiting.pop()
            if depth > _MAX_DEPTH:
                raise self.wrong("nested too deeply")
            nodes.append(node)
            waiting += [(child, node, depth + deeper) for child, deeper in self._children(node, parent)]
        return nodes

    def _children(self, node: ast.expr, parent: ast.expr | None) -> Iterable[tuple[ast.expr, bool]]:
        """Return what a node is made of, and whether that counts as nested."""
        match node:
            case ast.Constant(value=value):
                if isinstance(value, str) and not isinstance(parent, (ast.Compare, ast.List, ast.Tuple)):
                    raise self.wrong(f"the text {value!r} can only be compared")
                return ()
            case ast.Name():
                return ()
            case ast.BoolOp(values=values):
                return [(v, False) for v in values]
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                return [(operand, True)]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return [(left, False), (right, isinstance(op, ast.Pow))]
            case ast.Compare(left=left, comparators=others):
                return [(left, False), *((v, False) for v in others)]
            case ast.List(elts=values) if values:
                return [(v, True) for v in values]
            case ast.Tuple(elts=values) if values and isinstance(parent, ast.Compare) and node is not parent.left:
                return [(v, True) for v in values]
            case ast.Call(func=ast.Name() as function, args=values, keywords=[]) if values:
                if self.name(function) not in _FUNCTIONS:
                    known = ", ".join(sorted(_FUNCTIONS))
                    raise self.wrong(f"no function {self.name(function)!r}; known: {known}")
                return [(v, True) for v in values]
        raise self.unexpected(node.col_offset)

    def compiled(self, nodes: list[ast.expr]) -> Callable[[Scope], Any]:
        """Compile a tree, given by its nodes, parents first."""
        done: dict[ast.expr, ast.expr] = {}
        for node in reversed(nodes):  # without recursion: a sum of hundreds of terms is a deep tree
            done[node] = self._rebuilt(node, done)
        scope = ast.arguments(posonlyargs=[], args=[ast.arg(arg="scope")], kwonlyargs=[], kw_defaults=[], defaults=[])
        tree = ast.Expression(body=ast.Lambda(args=scope, body=done[nodes[0]]))
        try:
            code = compile(ast.fix_missing_locations(tree), "<expression>", "eval")
        except (RecursionError, MemoryError):
            raise self.wrong("nested too deeply") from None
        run: Callable[[Scope], Any] = eval(code, _GLOBALS)  # makes the function; nothing is evaluated yet
        return run

    def _rebuilt(self, node: ast.expr, done: Mapping[ast.expr, ast.expr]) -> ast.expr:
        match node:
            case ast.Name():
                scope = ast.Name(id="scope", ctx=ast.Load())
                return ast.Subscript(value=scope, slice=ast.Constant(value=self.name(node)), ctx=ast.Load())
            case ast.BoolOp(op=op, values=values):
                either = ast.BoolOp(op=op, values=[done[v] for v in values])
                return ast.UnaryOp(op=ast.Not(), operand=ast.UnaryOp(op=ast.Not(), operand=either))  # a bool
            case ast.UnaryOp(op=op, operand=operand):
                return ast.UnaryOp(op=op, operand=done[operand])
            case ast.BinOp(left=left, op=op, right=right) if _OPERATORS[type(op)] is None:
                return ast.BinOp(left=done[left], op=op, right=done[right])
            case ast.BinOp(left=left, op=op, right=right):
                return _call(type(op).__name__, done[left], done[right])
            case ast.Compare(left=left, ops=ops, comparators=others):
                return ast.Compare(left=done[left], ops=ops, comparators=[done[v] for v in others])
            case ast.List(elts=values) | ast.Tuple(elts=values):
                return ast.List(elts=[done[v] for v in values], ctx=ast.Load())
            case ast.Call(func=ast.Name() as function, args=values):
                return _call(self.name(function), *(done[v] for v in values))
        return node  # a constant


def _call(function: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(func=ast.Name(id=function, ctx=ast.Load()), args=list(arguments), keywords=[])


def unknown_name(kind: str, name: str, known: Iterable[str], text: str) -> UnknownNameError:
    """Build the error for a name in an expression, as :func:`tunewright.errors.unknown`.

    >>> str(unknown_name("parameter", "io", ["io-threads"], "io-threads > 1"))
    "no parameter named 'io'. Write {io-threads} in braces: without them a dash is a minus."
    """
    dashed = [n for n in known if "-" in n and name in n.split("-") and n in text and f"{{{n}}}" not in text]
    if dashed:
        named = max(dashed, key=len)
        return UnknownNameError(
            f"no {kind} named {name!r}. Write {{{named}}} in braces: without them a dash is a minus."
        )
    return unknown(kind, name, known)


@lru_cache(maxsize=1024)
def parse(text: str) -> Expr:
    """Parse an expression.

    >>> parse("min(RAM_MB / 2, 4 * cache) >= 1")({"RAM_MB": 64, "cache": 8})
    True

    Raises:
        SpaceError: the text is not an expression of the grammar.
    """
    if not isinstance(text, str):
        raise SpaceError(f"an expression is a text, not {text!r}")
    if len(text) > _MAX_LENGTH:
        raise SpaceError(f"an expression may have at most {_MAX_LENGTH} characters, this one has {len(text)}")
    reader = _Reader(text)
    nodes = reader.checked(reader.tree())
    used = {reader.name(node) for node in nodes if isinstance(node, ast.Name)}
    names = tuple(name for name in reader.names if name in used)
    return Expr(text=text, names=names, _run=reader.compiled(nodes))
