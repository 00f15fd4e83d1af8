"""What Numba lacks: a record at an address, and a hint to load memory early."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from tunewright.envs.storage.hybrid.state import DEVICE, MOVE, PAGE, REQUEST, SEAT, SIM

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
#: compile for the kernel: no reference counting (every array belongs to an object that outlives the call, and counting
#: takes three quarters of the speed), no exception for a division by zero, the interpreter's lock released
jit: Any = numba.njit(**_OPTIONS)
#: the same for small functions, which become part of their callers
inlined: Any = numba.njit(**_OPTIONS, forceinline=True)
#: the same for training, where sums may be taken in any order
fast_jit: Any = numba.njit(**_OPTIONS, fastmath=True)


PAGE_SIZE = PAGE.itemsize


def _record_at(dtype: np.dtype[Any]) -> Any:
    record = numba.from_dtype(dtype)
    size = dtype.itemsize

    @intrinsic
    def record_at(typingctx, base, index):
        def codegen(context, builder, signature, args):
            offset = builder.mul(args[1], ir.Constant(ir.IntType(64), size))
            return builder.inttoptr(builder.add(args[0], offset), context.get_value_type(record))

        return record(types.int64, types.int64), codegen

    return record_at


#: page(table, i): record ``i`` of the page table at address ``table``; changing it changes the table
page = _record_at(PAGE)
#: request(table, i): record ``i`` of the requests at address ``table``
request = _record_at(REQUEST)

#: move_entry(journal, i): entry ``i`` of the journal at address ``journal``
move_entry = _record_at(MOVE)
#: device(devices, tier): the device of a tier, at address ``devices``
device = _record_at(DEVICE)
#: seat(queue, i): place ``i`` of the LRU queue at address ``queue``
seat = _record_at(SEAT)
#: system(batch, k): record ``k`` of the systems at address ``batch``
system = _record_at(SIM)


@intrinsic
def _prefetch(typingctx, base, index, size):
    """Load the cache line at ``base + index * size`` soon."""

    def codegen(context, builder, signature, args):
        byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        name = "llvm.prefetch.p0i8"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        address = builder.inttoptr(builder.add(args[0], builder.mul(args[1], args[2])), byte)
        builder.call(function, [address, i32(1), i32(3), i32(1)])  # for writing, keep close, data
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), codegen


_load: Any = _prefetch


@inlined
def load_page(table, at):
    """Have a page's record loaded."""
    _load(table, int(at), PAGE_SIZE)


@inlined
def look_ahead(sim, far):
    """Have the page record loaded of the request that is ``far`` ahead, so that it need not be waited for."""
    ahead = sim.clock + far
    if ahead < sim.requests:
        load_page(sim.page_at, request(sim.request_at, ahead).first)
