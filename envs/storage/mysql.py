"""MySQL: the target mariadb under its other name."""

from __future__ import annotations

from collections.abc import Mapping

from tunewright.envs.storage import mariadb
from tunewright.target import BaseTarget

NEEDS = mariadb.NEEDS


def open_target(argument: str, options: Mapping[str, str]) -> BaseTarget:
    """Entry point, as that of ``mariadb``."""
    return mariadb.open_target(argument, options)
