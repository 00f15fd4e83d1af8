"""Calibrations: which efficiencies hold for which cluster, and what each was fitted to."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from tunewright.envs.parallelism.training import Calibration
from tunewright.errors import unknown

_FILE = Path(__file__).with_name("presets") / "calibrations.toml"


@cache
def _entries() -> dict[str, dict[str, Any]]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def names() -> list[str]:
    """Return the names of all calibrations."""
    return list(_entries())


def calibration(name: str) -> Calibration:
    """Return a calibration by its name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in _entries():
        raise unknown("calibration", name, names())
    entry = dict(_entries()[name])
    entry.pop("kinds", None)
    return Calibration(**entry)


def of_nodes(kind: str) -> tuple[str, Calibration]:
    """Return name and calibration for a kind of nodes; for an unknown kind the constants of ``Calibration``."""
    for name, entry in _entries().items():
        if kind in entry.get("kinds", ()):
            return name, calibration(name)
    return "default", Calibration(source="none: constants as for a100 with fused attention, not fitted to these GPUs")
