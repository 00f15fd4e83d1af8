"""What careful mode never tries on a database in use, as far as it is a matter of more or less than today."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.space import Choice, Space

Bounds = Sequence[tuple[str, float, str]]


def bounded(space: Space, not_less: Bounds, not_more: Bounds) -> dict[str, str]:
    """Return expressions over numbers, with the reason, of those that are tuned and are more than 0 today.

    Args:
        space: its parameters' defaults are today's values.
        not_less: name, the share of today's value below which it must not fall, and the reason.
        not_more: name, how many times today's value it may be at most, and the reason.
    """
    found = {}
    for sign, bounds in (("<", not_less), (">", not_more)):
        for name, factor, reason in bounds:
            param = space.params.get(name)
            if param is not None and not isinstance(param, Choice) and param.default > 0:
                found[f"{name} {sign} {param.default * factor:.10g}"] = reason
    return found
