"""The tables of a bundle, read from Parquet: of bounded size, and with all that is computed from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunewright.errors import ConfigError
from tunewright.store.files import check_size, open_file, printable

if TYPE_CHECKING:
    import pandas as pd

_MOST = 1e150  # statistics take squares of it
_PIECE_BYTES = 64 * 2**20  # of a table that is read at once
_COLUMNS: dict[str, dict[str, type]] = {
    "games": {
        **dict.fromkeys(("by", "target", "tuner", "name", "status", "direction", "verification"), str), "seed": float,
    },
    "trials": {
        **dict.fromkeys(("by", "target", "tuner", "status", "config", "runs", "digest"), str),
        **dict.fromkeys(("seed", "number", "step", "value", "seconds", "asked_s", "attempt"), float), "feasible": bool,
    },
    "targets": {**dict.fromkeys(("target", "direction", "metric", "fingerprint"), str), "known_best": float},
}  # fmt: skip
_KINDS: dict[type, tuple[type, ...]] = {str: (str,), float: (Real,), bool: (bool, np.bool_)}
_WORDS = {str: "a text", float: "a number", bool: "true or false"}


def read_frame(path: Path, name: str) -> pd.DataFrame:
    """Read a table, piece by piece: a few equal texts of a packed file may fill any memory.

    Raises:
        ConfigError: it is no ordinary file, or would take too much memory.
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    open_file(path, f"table of {name}").close()
    with pq.ParquetFile(path) as file:
        footer = file.metadata
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        largest = max((g.column(c).total_uncompressed_size for g in groups for c in range(g.num_columns)), default=0)
        check_size(f"the table {path}: its pages", largest, 2, "it is no tournament's")
        check_size(f"the table {path}: {footer.num_rows:,} rows", footer.num_rows * max(footer.num_columns, 1), 64)
        pieces, taken = [], 0
        # a piece whose every text is as long as the whole column still fits
        for piece in file.iter_batches(batch_size=max(min(_PIECE_BYTES // max(largest, 1), 2**16), 16)):
            taken += piece.nbytes
            check_size(f"the table {path}", taken, 3, "it is no tournament's")
            pieces.append(piece)
        return pa.Table.from_batches(pieces, schema=file.schema_arrow).to_pandas()


def _check_numbers(where: str, values: Iterable[Any]) -> None:
    """Refuse numbers with which nothing can be computed; one that is missing is NaN.

    Raises:
        ConfigError: there is one.
    """
    for value in values:
        number: Any = value if isinstance(value, Real) else 0
        if abs(number) > _MOST:
            shown = "a number of very many digits" if isinstance(value, int) else f"{number:g}"
            raise ConfigError(f"{where} must be within -{_MOST:g} and {_MOST:g}, not {shown}; was it edited?")


def _check_inner(where: str, document: Any) -> None:
    """Refuse such numbers within a document."""
    if isinstance(document, Mapping):
        document = list(document.values())
    if isinstance(document, list):
        _check_numbers(where, document)
        for value in document:
            _check_inner(where, value)


def check_frames(folder: Path, frames: Mapping[str, pd.DataFrame]) -> None:
    """See whether the frames have what the tables are computed from.

    Raises:
        ConfigError: columns are missing, or values are of another kind.
    """
    for name, columns in _COLUMNS.items():
        frame = frames[name]
        lacking = [c for c in columns if c not in frame]
        if lacking:
            raise ConfigError(f"{folder / name}.parquet lacks the columns {', '.join(lacking)}")
        for column, kind in columns.items():
            wrong = [v for v in frame[column] if not (kind is float and v is None) and not isinstance(v, _KINDS[kind])]
            if wrong:
                shown = printable(repr(wrong[0]), 60)
                raise ConfigError(
                    f"{folder / name}.parquet: {column} must be {_WORDS[kind]}, not {shown}; was it edited?"
                )
        for column in frame:
            _check_numbers(f"{folder / name}.parquet: {column}", frame[column])
    if "scores" in frames["trials"]:
        for text in frames["trials"]["scores"].dropna():
            _check_inner(f"{folder}: scores", json.loads(text))
    for column, frame in (("runs", frames["trials"]), ("config", frames["trials"]), ("verification", frames["games"])):
        for text in frame[column]:
            _check_inner(f"{folder}: {column}", json.loads(text))
    if not len(frames["games"]) or not len(frames["targets"]):
        raise ConfigError(f"the tournament in {folder} holds no games")
