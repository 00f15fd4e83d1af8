"""What may never be tried, and bringing a system back to how it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tunewright.errors import unknown
from tunewright.space import Constraint, Space, Value
from tunewright.space.expressions import parse
from tunewright.target import BaseTarget


def guarded(
    target: BaseTarget, *, allow: Iterable[str] = (), never: Iterable[str] = (), careful: bool = False
) -> Space:
    """Return the target's space with everything forbidden taken out.

    Args:
        target: its ``guarantees`` say how strong a configuration is, its default how strong it must be.
        allow: guarantees that may be weakened, by name.
        never: expressions that no configuration may satisfy.
        careful: neither may one satisfy what the target calls dangerous.

    Raises:
        UnknownNameError: ``allow`` names no guarantee of the target.
    """
    least = target.guarantees(target.space.default)
    for name in allow:
        if name not in least:
            raise unknown("guarantee", name, least)
    rules: list[Constraint] = []
    names = target.guarantee_names()
    for name, level in least.items():
        if name not in set(allow):
            rules.append(_at_least(target, name, level, names))
    for text in never:
        expression = parse(text)
        rules.append(
            Constraint(
                words=f"never: {text}",
                names=expression.names,
                holds=lambda scope, expression=expression: not expression(scope),  # type: ignore[misc]
            )
        )
    rules += _dangers(target) if careful else []
    return target.space.with_constraints(rules) if rules else target.space


def _at_least(target: BaseTarget, name: str, level: float, names: tuple[str, ...]) -> Constraint:
    def holds(scope: Mapping[str, Value]) -> bool:
        return target.guarantees({n: scope[n] for n in names}).get(name, level) >= level

    # a constraint holds where a parameter that it names is not active; a guarantee must not be lost in this way
    always = tuple(n for n in names if target.space.params[n].when is None)
    return Constraint(
        words=f"{name} no weaker than the default's (level {level:g}; --allow {name} lifts this)",
        names=always,
        holds=holds,
    )


def _dangers(target: BaseTarget) -> list[Constraint]:
    """Return what careful mode never tries, but what the default does already or what is not tuned."""
    rules, space = [], target.space
    for text, reason in target.dangerous().items():
        expression = parse(text)
        names = set(expression.names)
        if names & space.params.keys() and names <= space.params.keys() | space.facts.keys():
            rule = Constraint(
                words=f"careful mode: not {text}, since {reason}",
                names=tuple(n for n in expression.names if n in space.params),
                holds=lambda scope, expression=expression: not expression(scope),  # type: ignore[misc]
            )
            if rule.holds(space.scope(space.default)):
                rules.append(rule)
    return rules
