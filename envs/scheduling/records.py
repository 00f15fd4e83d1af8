"""Records of the kernels, described in lines, and batches of systems that hold the addresses of their arrays."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.linked import Linked


def record(words: str) -> np.dtype[Any]:
    """Return a record from lines of ``kind: name name ...``."""
    fields = []
    for line in words.strip().splitlines():
        kind, _, names = line.strip().partition(": ")
        fields += [(name, kind) for name in names.split()]
    return np.dtype(fields)


class Batch(Linked):
    """``n`` systems; ``systems``, (n,), are the records that a kernel works on."""

    systems: NDArray[Any]

    @abstractmethod
    def _parts(self) -> dict[str, NDArray[Any]]:
        """Return the arrays, (n, ...), of which each system has its row, by the field that holds the row's address."""

    def _link(self) -> None:
        for name, array in self._parts().items():
            self.systems[name] = array.ctypes.data + np.arange(len(self.systems)) * array.strides[0]

    @property
    def address(self) -> int:
        """Of the systems, for compiled code."""
        return int(self.systems.ctypes.data)
