"""What readers of traces share: where real ones lie, how much memory one takes, and numbers for names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import ConfigError
from tunewright.store.files import check_size


def data_folder() -> Path | None:
    """Return the folder of real traces, if there is one: TUNEWRIGHT_DATA, or ../shared/data beside the project."""
    for place in (os.environ.get("TUNEWRIGHT_DATA"), "../shared/data"):
        if place and Path(place, "llm").is_dir():
            return Path(place)
    return None


def real_file(workload: str, files: Mapping[str, tuple[str, str]]) -> Path:
    """Return the file of a workload that is a real trace.

    Args:
        workload: its name.
        files: by name: the path in the folder of real traces, and what it is.

    Raises:
        ConfigError: there is no folder of real traces.
    """
    folder = data_folder()
    if folder is None:
        raise ConfigError(
            f"workload {workload} is a real trace that is not part of the package: set TUNEWRIGHT_DATA to a folder with"
            f" {files[workload][0]}, give a file (-O trace=FILE --workload trace), or take a synthetic workload"
        )
    return folder / files[workload][0]


def check_growth(path: Path, what: str, count: int, needed_bytes: int) -> None:
    """Look now and then, by ``count``, at how much memory a trace takes that is being read."""
    if not count & 0x3FF:
        check_size(f"the trace {path}: {count:,} {what} and more", needed_bytes, 1, "give a shorter one")


def numbered(values: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    """Return for each value its place among the different ones, sorted; texts may be of any length."""
    if isinstance(values, np.ndarray):
        return np.unique(values, return_inverse=True)[1].astype(np.int64)
    place = {value: number for number, value in enumerate(sorted(set(values)))}
    return np.fromiter((place[value] for value in values), np.int64, len(values))
