"""The placement network's forward pass as vector instructions: 7 inputs, 10 hidden units, up to 16 outputs.

Numba does not turn the plain loops of ``network.values`` into whole vectors; emitted as LLVM vectors of sixteen, the
layer is one register, and a pass takes a fraction of the time. Tests hold the two together.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

INPUTS, HIDDEN, LANES = 7, 10, 16
_FAST = ("fast",)
_F32, _I32, _I64, _I8 = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.IntType(8)
_V16, _W16 = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
_V8, _B8, _W8 = ir.VectorType(_F32, 8), ir.VectorType(_I8, 8), ir.VectorType(_I32, 8)
#: 2^f for f in [0, 1): Taylor coefficients of e^(f ln 2)
_EXP2 = [math.log(2) ** k / math.factorial(k) for k in range(8)]


def _constant(value: float) -> Any:
    return ir.Constant(_V16, [value] * LANES)


def _load(builder, kind, base, offset, align):
    address = builder.inttoptr(builder.add(base, ir.Constant(_I64, offset)), kind.as_pointer())
    return builder.load(address, align=align)


def _spread(builder, vector, index):
    """A vector with one lane of another in all lanes."""
    one = builder.extract_element(vector, ir.Constant(_I32, index))
    first = builder.insert_element(ir.Constant(_V16, ir.Undefined), one, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, ir.Constant(_V16, ir.Undefined), ir.Constant(_W16, [0] * LANES))


def _layer(builder, theta, row, vector, count):
    """Bias row plus the sum of rows times lanes, in two chains that run side by side."""
    sums = [_load(builder, _V16, theta, 4 * LANES * (row + count), 4), _constant(0.0)]
    for i in range(count):
        weights = _load(builder, _V16, theta, 4 * LANES * (row + i), 4)
        term = builder.fmul(weights, _spread(builder, vector, i), flags=_FAST)
        sums[i % 2] = builder.fadd(sums[i % 2], term, flags=_FAST)
    return builder.fadd(*sums, flags=_FAST)


def _swish(builder, z):
    """Z over one plus e^-z, with 2^x by exponent bits and a polynomial."""
    x = builder.fmul(z, _constant(-math.log2(math.e)), flags=_FAST)
    for limit, sign in ((-126.0, "<"), (126.0, ">")):
        beyond = builder.fcmp_ordered(sign, x, _constant(limit), flags=_FAST)
        x = builder.select(beyond, _constant(limit), x)
    name = "llvm.floor.v16f32"
    floor = builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(_V16, [_V16]), name)
    whole = builder.call(floor, [x])
    part = builder.fsub(x, whole, flags=_FAST)
    power = _constant(_EXP2[-1])
    for coefficient in _EXP2[-2::-1]:
        power = builder.fadd(builder.fmul(power, part, flags=_FAST), _constant(coefficient), flags=_FAST)
    bits = builder.add(builder.fptosi(whole, _W16), ir.Constant(_W16, [127] * LANES))
    scale = builder.bitcast(builder.shl(bits, ir.Constant(_W16, [23] * LANES)), _V16)
    return builder.fdiv(
        z, builder.fadd(_constant(1.0), builder.fmul(power, scale, flags=_FAST), flags=_FAST), flags=_FAST
    )


@intrinsic
def _forward16(typingctx, theta, bins, scale, out):
    """Addresses of the parameters, of 8 readable bytes of state, of 8 float32 scales, and of 16 float32 outputs."""

    def codegen(context, builder, signature, args):
        parameters, state, factors, into = args
        raw = builder.uitofp(builder.zext(_load(builder, _B8, state, 0, 1), _W8), _V8)
        inputs = builder.fmul(raw, _load(builder, _V8, factors, 0, 4), flags=_FAST)
        hidden = _swish(builder, _layer(builder, parameters, 0, inputs, INPUTS))
        result = _layer(builder, parameters, INPUTS + 1, hidden, HIDDEN)
        builder.store(result, builder.inttoptr(into, _V16.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64, types.int64), codegen


forward16: Any = _forward16
