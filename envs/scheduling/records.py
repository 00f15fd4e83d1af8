"""Records of the kernels, described in lines."""

from __future__ import annotations

from typing import Any

import numpy as np


def record(words: str) -> np.dtype[Any]:
    """Return a record from lines of ``kind: name name ...``."""
    fields = []
    for line in words.strip().splitlines():
        kind, _, names = line.strip().partition(": ")
        fields += [(name, kind) for name in names.split()]
    return np.dtype(fields)
