"""What the compiled simulators share: numbers, lists and heaps at an address, and decisions in many systems."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import math
import types
from typing import Any

from tunewright.envs.compiled import inlined, jit, record_at
from tunewright.envs.scheduling.records import EVENT, INTEGER, NUMBER

INF = math.inf
integer_at, number_at, event_at = record_at(INTEGER), record_at(NUMBER), record_at(EVENT)


@inlined
def squash(value, half):
    """Return a number from 0 on as one in [0, 1): ``half`` becomes 1/2."""
    return value / (value + half)


@jit
def take_out(numbers, place, count):
    """Close the gap at a place in a list that has ``count`` numbers without it; the others keep their order."""
    for at in range(place, count):
        integer_at(numbers, at).value = integer_at(numbers, at + 1).value


# --- a heap of events, the earliest first, of one time the one with the lower order


@jit
def _before(events, one, two):
    first, second = event_at(events, one), event_at(events, two)
    return first.time_s < second.time_s or (first.time_s == second.time_s and first.order < second.order)


@jit
def _swap(events, one, two):
    first, second = event_at(events, one), event_at(events, two)
    time_s, order, what, tasks = first.time_s, first.order, first.what, first.tasks
    first.time_s, first.order, first.what, first.tasks = second.time_s, second.order, second.what, second.tasks
    second.time_s, second.order, second.what, second.tasks = time_s, order, what, tasks


@jit
def push_event(events, count, time_s, order, what, tasks):
    """Put an event into a heap that has ``count``."""
    event = event_at(events, count)
    event.time_s, event.order, event.what, event.tasks = time_s, order, what, tasks
    at = count
    while at > 0 and _before(events, at, (at - 1) // 2):
        _swap(events, at, (at - 1) // 2)
        at = (at - 1) // 2


@jit
def drop_event(events, count):
    """Take the first event off a heap that has ``count`` others."""
    _swap(events, 0, count)
    at = 0
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and _before(events, child + 1, child):
            child += 1
        if not _before(events, child, at):
            break
        _swap(events, child, at)
        at = child


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
