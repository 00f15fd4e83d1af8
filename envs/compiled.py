"""What Numba lacks for kernels: compiling without reference counts, and a record at an address.

Passing arrays to compiled functions copies and counts them at every call, which takes longer than a small function.
Kernels keep their state in structured arrays instead, and pass addresses.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
#: compile for a kernel: no reference counting (every array belongs to an object that outlives the call, and counting
#: takes three quarters of the speed), no exception for a division by zero, the interpreter's lock released
jit: Any = numba.njit(**_OPTIONS)
#: the same for small functions, which become part of their callers
inlined: Any = numba.njit(**_OPTIONS, forceinline=True)
#: the same for training, where sums may be taken in any order
fast_jit: Any = numba.njit(**_OPTIONS, fastmath=True)


def record_at(dtype: np.dtype[Any]) -> Any:
    """Return a compiled ``at(address, index)``: a record of an array at an address; changing it changes the array."""
    record = numba.from_dtype(dtype)
    size = dtype.itemsize

    @intrinsic
    def at(typingctx, base, index):
        def codegen(context, builder, signature, args):
            offset = builder.mul(args[1], ir.Constant(ir.IntType(64), size))
            return builder.inttoptr(builder.add(args[0], offset), context.get_value_type(record))

        return record(types.int64, types.int64), codegen

    return at
