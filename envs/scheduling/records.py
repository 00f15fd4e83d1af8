"""Records of the kernels, described in lines, and batches of systems that hold the addresses of their arrays.

Fields carry their units: ``_s`` seconds, ``_at`` a moment in seconds from the start, ``_count`` how many. An array is
known to a kernel by the field of its own name, which holds the address of the system's row of it.
"""

from __future__ import annotations

from typing import Any, ClassVar

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


INTEGER, NUMBER = record("i8: value"), record("f8: value")
#: something that will happen; ``order`` among those of one time, ``what`` and ``tasks`` as a simulator needs them
EVENT = record("f8: time_s\ni8: order what tasks")


def link(records: NDArray[Any], name: str, array: NDArray[Any]) -> None:
    """Write into a field of each record the address of its part of an array.

    Args:
        records: of any shape.
        name: of the field.
        array: its first axes are those of ``records``.
    """
    offsets: Any = 0
    for size, stride in zip(records.shape, array.strides, strict=False):
        offsets = np.add.outer(offsets, np.arange(size) * stride)
    records[name] = array.ctypes.data + offsets


class Batch(Linked):
    """``n`` systems; ``systems``, (n,), are the records that a kernel works on.

    Attributes:
        rows: fields of the records with the address of a row of the array of that name, which is (n, ...).
        shared: fields with the address of an array that all systems share.
    """

    rows: ClassVar[tuple[str, ...]]
    shared: ClassVar[tuple[str, ...]] = ()
    systems: NDArray[Any]

    def _link(self) -> None:
        for name in self.rows:
            link(self.systems, name, getattr(self, name))
        for name in self.shared:
            self.systems[name] = getattr(self, name).ctypes.data

    def _set(self, **values: Any) -> None:
        """Set fields of all systems."""
        for name, value in values.items():
            self.systems[name] = value

    @property
    def address(self) -> int:
        """Of the systems, for compiled code."""
        return int(self.systems.ctypes.data)
