"""Amounts with units, as manuals write them: ``128MB``, ``200 milliseconds``, ``1,048,576``, ``512 * 1024``."""

from __future__ import annotations

import math
import re

_BYTES = {"B": 1, "kB": 1024, "KB": 1024, "KiB": 1024, "MB": 1024**2, "MiB": 1024**2, "GB": 1024**3, "GiB": 1024**3,
          "TB": 1024**4, "TiB": 1024**4, "K": 1024, "M": 1024**2, "G": 1024**3, "k": 1024}  # fmt: skip
_MOST, _MOST_BITS = 120, 64  # characters of an amount, and bits by which one is shifted; more is none
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONG = {
    "bytes": "B", "byte": "B", "kilobytes": "kB", "kilobyte": "kB", "megabytes": "MB", "megabyte": "MB",
    "gigabytes": "GB", "gigabyte": "GB", "microseconds": "us", "milliseconds": "ms", "millisecond": "ms",
    "seconds": "s", "second": "s", "sec": "s", "minutes": "min", "minute": "min", "hours": "h", "hour": "h",
    "days": "d", "day": "d", "usec": "us", "msec": "ms", "mb": "MB", "kb": "kB", "gb": "GB",
}  # fmt: skip


def quantity(text: str) -> tuple[float, str] | None:
    """Return (number, unit) of an amount; the unit is "" if none is written. None if it is no amount.

    >>> quantity("128MB"), quantity("200 milliseconds"), quantity("1,048,576"), quantity("512 * 1024"), quantity("on")
    ((128.0, 'MB'), (200.0, 'ms'), (1048576.0, ''), (524288.0, ''), None)
    """
    if len(text) > _MOST:
        return None
    plain = text.strip().rstrip(".,;)(").strip("`'\" ")
    product = re.fullmatch(r"(\d+(?:\.\d+)?)((?:\s*\*\s*\d+)+|\s*<<\s*\d+)", plain)
    if product:
        value = float(product[1])
        if "<<" in product[2]:
            bits = int(product[2].replace("<<", ""))
            return (value * 2.0**bits, "") if bits <= _MOST_BITS else None
        for factor in re.findall(r"\d+", product[2]):
            value *= float(factor)
        return (value, "") if math.isfinite(value) else None
    match = re.fullmatch(r"(-?[1-9]\d{0,2}(?:,\d{3})+|-?\d+)?(\.\d+)?(e[+-]?\d+)?\s*([A-Za-z%]*)", plain)
    if match is None or (match[1] is None and match[2] is None):
        return None
    number = float((match[1] or "0").replace(",", "") + (match[2] or "") + (match[3] or ""))
    if not math.isfinite(number):
        return None
    unit = _LONG.get(match[4].lower() if len(match[4]) > 2 else match[4], match[4])
    if unit and unit not in _BYTES and unit not in _SECONDS and unit not in ("%", "pages", "f", "ull", "L"):
        return None
    return number, "" if unit in ("f", "ull", "L") else unit


def scale(unit: str) -> tuple[str, float] | None:
    """Return the dimension of a unit and its size: ("bytes", 8192.0) for ``8kB``; None for others."""
    match = re.fullmatch(r"(\d*)([A-Za-z]+)", unit)
    if match is None:
        return None
    count = float(match[1] or 1)
    if match[2] in _BYTES:
        return "bytes", count * _BYTES[match[2]]
    if match[2] in _SECONDS:
        return "seconds", count * _SECONDS[match[2]]
    return None


def in_unit(text: str, unit: str) -> float | None:
    """Return an amount as a number of ``unit``; an amount without a unit is one already. None if it is no amount.

    >>> in_unit("128MB", "8kB"), in_unit("5min", "s"), in_unit("-1", "8kB"), in_unit("5min", "kB")
    (16384.0, 300.0, -1.0, None)
    """
    amount = quantity(text)
    if amount is None:
        return None
    number, stated = amount
    if not stated or stated == unit or not unit:
        return number
    scale_from, scale_to = scale(stated), scale(unit)
    if scale_from is None or scale_to is None or scale_from[0] != scale_to[0]:
        return None
    return number * scale_from[1] / scale_to[1]
