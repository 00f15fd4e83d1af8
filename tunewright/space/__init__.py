"""Parameters, the expressions and constraints between them, and the space they span."""

from __future__ import annotations

from tunewright.space.parameters import Choice, Int, Param, Real, Value
from tunewright.space.space import Config, Constraint, Space

__all__ = ["Choice", "Config", "Constraint", "Int", "Param", "Real", "Space", "Value"]
