"""Which measured plans constants are fitted to, and which are held out; committed before anything was fitted.

Training, by paper: constants from Megatron's table are tested on Korthikanti's, and the other way round. The BLOOM sweep:
two halves by a hash of the source line; constants from each are tested on the other. Serving: 30 % of the rows by a
hash of their id are held out; beside that each model is left out once.
"""

from __future__ import annotations

import hashlib


def digit(key: str) -> int:
    """Hash of a row's key, 0 to 255."""
    return hashlib.sha256(key.encode()).digest()[0]


def bloom_half(source_line: int) -> int:
    """Half of the BLOOM sweep, 0 or 1."""
    return digit(f"bloom {source_line}") % 2


def serving_held_out(row: str) -> bool:
    """Whether a row of the serving table is held out."""
    return digit(f"serving {row}") < 77
