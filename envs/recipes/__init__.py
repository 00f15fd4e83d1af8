"""Known systems, ready to be tuned: one description each, for what the distribution's packages install."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunewright.envs.command import open_target as open_description
from tunewright.errors import ConfigError, unknown
from tunewright.target import BaseTarget

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the recipes' names."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def path_of(name: str) -> Path:
    """Return a recipe's file.

    Raises:
        ConfigError: no recipe was named.
        UnknownNameError: there is none of this name.
    """
    if not name:
        raise ConfigError(f"say which recipe: recipe:NAME, of {', '.join(names())}; 'tunewright recipes' lists them")
    if name not in names():
        raise unknown("recipe", name, names())
    return _FOLDER / f"{name}.toml"


def facts(name: str) -> dict[str, Any]:
    """Return what a recipe is: name, ``about``, its parameters' names, and which of its programs are missing here."""
    data = tomllib.loads(path_of(name).read_text(encoding="utf-8"))
    needs = data["target"].get("needs") or [data["service"]["start"][0], data["service"]["tool"]]
    return {
        "name": name,
        "about": data["target"]["about"],
        "parameters": list(data["parameters"]),
        "needs": needs,
        "missing": [program for program in needs if shutil.which(program) is None],
    }


def open_target(argument: str, options: Mapping[str, str]) -> BaseTarget:
    """Describe a known system in one of the package's own files: ``tunewright recipes`` lists them."""
    return open_description(str(path_of(argument)), options)
