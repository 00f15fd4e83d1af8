"""The records of the hybrid-storage kernel at their addresses, and a hint to load memory early."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tunewright.envs.compiled import inlined, record_at
from tunewright.envs.storage.hybrid.state import DEVICE, MOVE, PAGE, REQUEST, SEAT, SIM

PAGE_SIZE = PAGE.itemsize


#: page(table, i): record ``i`` of the page table at address ``table``; changing it changes the table
page = record_at(PAGE)
#: request(table, i): record ``i`` of the requests at address ``table``
request = record_at(REQUEST)

#: move_entry(journal, i): entry ``i`` of the journal at address ``journal``
move_entry = record_at(MOVE)
#: device(devices, tier): the device of a tier, at address ``devices``
device = record_at(DEVICE)
#: seat(queue, i): place ``i`` of the LRU queue at address ``queue``
seat = record_at(SEAT)
#: system(batch, k): record ``k`` of the systems at address ``batch``
system = record_at(SIM)


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
