"""What the compiled simulators share: numbers at an address, and a decision in each system of a batch."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import math
import types
from typing import Any

from tunewright.envs.compiled import inlined, jit, record_at
from tunewright.envs.scheduling.records import INTEGER, NUMBER

INF = math.inf
integer_at, number_at = record_at(INTEGER), record_at(NUMBER)


@inlined
def squash(value, half):
    """Return a number from 0 on as one in [0, 1): ``half`` becomes 1/2."""
    return value / (value + half)


def over_batch(decide: Any) -> Any:
    """Return the compiled loop over a batch of a compiled ``decide``.

    The loop is compiled once for each ``decide``, with a direct call. Numba keeps what it compiles beside the file that
    the code names, and compiles anew when that file changes; so the code names the file of ``decide``.
    """
    code = _decide_all.__code__.replace(co_filename=decide.py_func.__code__.co_filename)
    names = {"__name__": decide.py_func.__module__, "decide": decide}
    return jit(types.FunctionType(code, names, "decide_all"))


def _decide_all(systems, marked, waiting, actions, seen, mask, reward, *engines):
    """``decide`` for the marked systems of a batch; see ``batch.BatchEnv`` for the arguments."""
    for index in range(len(marked)):
        reward[index] = 0.0
        if marked[index]:
            waiting[index], reward[index] = decide(  # type: ignore[name-defined]  # noqa: F821
                systems, index, waiting[index], actions[index], seen[index], mask[index], *engines
            )
