"""A CSV of measured configurations, replayed as a target.

A table whose configurations cover their full grid is replayed exactly. A sparse one is offered as the pool of
its measured rows (the default for sparse tables), or through a fitted surrogate (``--option mode=surrogate``)
whose cross-validated R2 is part of the target's facts.

A descriptor beside the table, ``TABLE.toml`` for ``TABLE.csv`` or ``TABLE.csv.gz``, may say::

    objective = "tps"          # column; else the last one
    direction = "max"          # or a trailing + or - in the objective's header
    unit = "1/s"
    ignore = ["row"]           # columns that are no parameters
    censored_at = 240.0        # measured values at or beyond it were cut off: such trials count as timed out
    noise = 0.028              # standard deviation of the log of a measurement, added to every replayed value
    mode = "grid"              # grid, pool or surrogate
    default = { threads = 1 }  # else the most repeated row, else the first
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import ConfigError, missing_extra, unknown
from tunewright.space import Choice, Config, Constraint, Int, Param, Real, Space, Value
from tunewright.store.files import check_size, parsing, printable, read_text, read_toml
from tunewright.target import BaseTarget, Budget, Measurement, Metric, check_options

if TYPE_CHECKING:
    from tunewright.space.space import Cube

_OPTIONS = {
    "objective": "column to optimise (the last one)",
    "direction": "min or max (a trailing - or + in the objective's header)",
    "unit": "unit of the objective",
    "ignore": "columns that are no parameters, separated by commas",
    "censored_at": "values at or beyond it were cut off and count as timed out",
    "noise": "standard deviation of the log of a measurement, added to replayed values",
    "mode": "grid, pool or surrogate",
    "default": "the default row, as NAME=VALUE,NAME=VALUE (the most repeated row, else the first)",
}
_LOG_SPAN = 50.0  # numeric columns that span more than this factor are searched on a log scale
_MAX_ROWS = 2_000_000
_FIELD_BYTES = 80  # of memory for a field, as text and as a value
# kinds of a descriptor's values that are no texts
_DESCRIPTOR: dict[str, tuple[type, ...]] = {
    "ignore": (list,), "censored_at": (int, float), "noise": (int, float), "default": (dict,),
}  # fmt: skip


def open_target(argument: str, options: Mapping[str, str]) -> TableTarget:
    """Entry point: the argument is the path of the CSV file, plain or gzipped."""
    if not argument:
        raise ConfigError("say which table: table:FILE.csv or table:FILE.csv.gz")
    check_options("table", options, _OPTIONS)
    path = Path(argument)
    header, rows = _read(path)
    return TableTarget(path, header, rows, {**_descriptor(path), **_numbers(options)})


open_target.options = _OPTIONS  # type: ignore[attr-defined]  # known without reading the table


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return header and rows; equal fields are one object, as a table repeats most of its values."""
    text = read_text(path, "table")
    fields = text.count(",") + text.count("\n")
    check_size(f"the table {path}: {fields:,} fields", fields, _FIELD_BYTES, "give fewer rows or columns")
    with parsing(path, "table") as place:
        lines = csv.reader(io.StringIO(text))
        header = next(lines, [])
        if len(header) < 2:
            raise ConfigError(f"{path}: a table needs a header with at least one parameter and one objective")
        if doubled := [n for n, k in Counter(header).items() if k > 1]:
            raise ConfigError(f"{path}, line 1: the column {doubled[0]!r} appears twice")
        rows, known = list[list[str]](), dict[str, str]()
        place.line = 1
        for number, row in enumerate(lines, 2):
            place.line = number
            if not row:
                continue
            if len(row) != len(header):
                raise ConfigError(f"{path}, line {number}: {len(row)} fields where the header has {len(header)}")
            rows.append([known.setdefault(field, field) for field in row])
            if len(rows) > _MAX_ROWS:
                raise ConfigError(f"{path}: more than {_MAX_ROWS:,} rows")
    if not rows:
        raise ConfigError(f"{path}: the table has no rows")
    return header, rows


def _descriptor(path: Path) -> dict[str, Any]:
    beside = path.with_name(path.name.removesuffix(".gz").removesuffix(".csv") + ".toml")
    if not beside.exists():
        return {}
    found = read_toml(beside, "descriptor of a table")
    for name, value in found.items():
        if name not in _OPTIONS:
            raise ConfigError(f"{beside}: {unknown('key', name, _OPTIONS)}")
        kinds = _DESCRIPTOR.get(name, (str,))
        if not isinstance(value, kinds) or isinstance(value, bool) or (isinstance(value, list) and not _texts(value)):
            raise ConfigError(f"{beside}: {name} must be {_OPTIONS[name]}, not {printable(repr(value), 80)}")
    return found


def _texts(values: Sequence[Any]) -> bool:
    return all(isinstance(v, str) for v in values)


def _numbers(options: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = dict(options)
    for name in ("censored_at", "noise"):
        if name in values:
            try:
                values[name] = float(values[name])
            except ValueError:
                raise ConfigError(f"option {name} must be a number, not {values[name]!r}") from None
    if "ignore" in values:
        values["ignore"] = [n.strip() for n in values["ignore"].split(",")]
    if "default" in values:
        values["default"] = dict(pair.split("=", 1) for pair in values["default"].split(",") if "=" in pair)
    return values


class PoolSpace(Space):
    """A space whose only legal configurations are given rows.

    Args:
        params: the parameters.
        rows: the legal configurations.
    """

    def __init__(self, params: Sequence[Param], rows: Sequence[Config]) -> None:
        self.rows = list(rows)
        self._keys: set[tuple[Value, ...]] = {tuple(row.values()) for row in self.rows}
        names = tuple(p.name for p in params)
        rule = Constraint(
            words="only measured rows",
            names=names,
            holds=lambda scope: tuple(scope[n] for n in names) in self._keys,
        )
        super().__init__(params, [rule])
        self._points = np.array([self.encode(row) for row in self.rows])
        self._category = np.array([isinstance(p, Choice) and not p.ordered for p in params])

    def with_constraints(self, more: Any) -> Space:
        """Return the pool without the rows that break a further constraint."""
        constraints = [Constraint.of(c) if isinstance(c, str) else c for c in more]
        rows = [r for r in self.rows if all(c.holds(self.scope(r)) for c in constraints)]
        return PoolSpace(list(self.params.values()), rows)

    def legalise(self, config: Mapping[str, Value]) -> Config:
        """Return the nearest row: differing categories count one, numbers by their distance."""
        return dict(self.rows[self._nearest(self.encode(config))])

    def decode(self, u: Cube) -> Config:
        """Map a point of the unit cube, shape (parameters,), to the nearest row."""
        point = np.asarray(u, dtype=np.float64)
        if point.shape != (len(self),):
            return super().decode(u)  # which says what is wrong
        return dict(self.rows[self._nearest(np.clip(point, 0.0, 1.0))])

    def _nearest(self, point: NDArray[np.float64]) -> int:
        gap = np.abs(self._points - point)
        gap[:, self._category] = gap[:, self._category] > 0.5 / max(len(self), 2)
        return int(np.argmin(gap.sum(axis=1)))

    def size(self) -> float:
        """Return the number of rows."""
        return len(self.rows)

    def grid(self, points: int) -> Iterator[Config]:
        """Yield every row."""
        return (dict(row) for row in self.rows)


class TableTarget(BaseTarget):
    """A CSV of measured configurations, replayed as a target.

    Args:
        path: where it came from.
        header: column names.
        rows: fields as text.
        options: as in the module's docstring.
    """

    name = "table"
    isolated = False
    parallel_safe = True
    options = _OPTIONS
    workloads: Mapping[str, str] = {"replay": "values measured elsewhere, looked up"}

    def __init__(self, path: Path, header: list[str], rows: list[list[str]], options: Mapping[str, Any]) -> None:
        self.path = path
        column, name, direction = _objective(path, header, options)
        self.metrics = (
            Metric(
                name=name,
                direction=direction,
                unit=str(options.get("unit", "")),
                doc=f"column {header[column]!r} of {path.name}",
            ),
        )
        self.censored_at = options.get("censored_at")
        self.noise = float(options.get("noise", 0.0))
        if not 0 <= self.noise < 100:
            raise ConfigError(f"{path}: noise must be at least 0 and below 100, not {self.noise:g}")
        self.exact = self.noise == 0
        y = _floats(path, header[column], [row[column] for row in rows])
        columns = _parameters(path, header, rows, column, options.get("ignore", []))
        self._load(columns, y, str(options.get("mode", "")), options.get("default"))

    def _load(
        self,
        columns: dict[str, list[Value]],
        y: NDArray[np.float64],
        mode: str,
        default: Mapping[str, Any] | None,
    ) -> None:
        names = list(columns)
        keys = list(zip(*columns.values(), strict=True))
        groups: dict[tuple[Value, ...], list[float]] = {}
        for key, value in zip(keys, y, strict=True):
            groups.setdefault(key, []).append(float(value))
        covered = math.prod(len(set(c)) for c in columns.values()) == len(groups)
        mode = mode or ("grid" if covered else "pool")
        if mode not in ("grid", "pool", "surrogate"):
            raise unknown("mode of target table", mode, ["grid", "pool", "surrogate"])
        if mode == "grid" and not covered:
            raise ConfigError(
                f"{self.path}: {len(groups)} configurations do not cover the grid of their values; "
                "use --option mode=pool (measured rows only) or --option mode=surrogate"
            )
        self.values = {k: float(np.median(v)) for k, v in groups.items()}
        first = self._default_key(names, groups, default)
        direction = self.metrics[0].direction
        ranked = sorted(self.values.values(), reverse=direction == "max")
        self.facts = {
            "table": self.path.name,
            "rows": len(keys),
            "configurations": len(groups),
            "mode": mode,
        }
        self.known = {"best": ranked[0], "median": float(np.median(ranked)), "worst": ranked[-1]}
        self._model: Any = None
        if mode == "surrogate":
            params = [_range_param(n, c, d) for (n, c), d in zip(columns.items(), first, strict=True)]
            self.space = Space(params)
            self._fit(keys, y)
        else:
            params = [_listed_param(n, c, d) for (n, c), d in zip(columns.items(), first, strict=True)]
            rows = [dict(zip(names, k, strict=True)) for k in groups]
            self.space = Space(params) if mode == "grid" else PoolSpace(params, rows)
        self.names = names

    def _default_key(
        self,
        names: list[str],
        groups: Mapping[tuple[Value, ...], list[float]],
        wanted: Mapping[str, Any] | None,
    ) -> tuple[Value, ...]:
        if wanted is not None:
            for name in wanted:
                if name not in names:
                    raise ConfigError(f"{self.path}: {unknown('parameter of the default', name, names)}")
            for key in groups:
                row = dict(zip(names, key, strict=True))
                if all(str(row[n]) == str(v) or row[n] == v for n, v in wanted.items()):
                    return key
            raise ConfigError(f"{self.path}: no row is the default {dict(wanted)}")
        most = max(len(v) for v in groups.values())
        repeated = [k for k, v in groups.items() if len(v) == most]
        return repeated[0] if len(repeated) == 1 else next(iter(groups))

    def _fit(self, keys: list[tuple[Value, ...]], y: NDArray[np.float64]) -> None:
        try:
            from sklearn.ensemble import RandomForestRegressor
            from sklearn.model_selection import GroupKFold, cross_val_score
        except ImportError:
            raise missing_extra("scikit-learn", "rl", "a table's surrogate") from None
        x = np.array([self._features(dict(zip(self.space.params, k, strict=True))) for k in keys])
        # replicates of a configuration stay in one fold, or the score would flatter
        group = [hashlib.blake2b(repr(k).encode(), digest_size=8).hexdigest() for k in keys]
        forest = RandomForestRegressor(n_estimators=60, min_samples_leaf=2, n_jobs=-1, random_state=0)
        folds = min(5, len(set(group)))
        scores = cross_val_score(forest, x, y, groups=group, cv=GroupKFold(folds), scoring="r2")
        self._model = forest.fit(x, y)
        self._model.set_params(n_jobs=1)
        self.facts = {
            **self.facts,
            "surrogate": "random forest, 60 trees",
            "cross_validated_r2": round(float(np.mean(scores)), 3),
        }

    def _features(self, config: Config) -> list[float]:
        features: list[float] = []
        for name, param in self.space.params.items():
            value = config[name]
            features += [float(value == c) for c in param.choices] if isinstance(param, Choice) else [float(value)]
        return features

    def measure(self, config: Config, *, workload: str, seed: int, budget: Budget) -> Measurement:
        """Look the configuration up, or ask the surrogate."""
        if self._model is not None:
            value = float(self._model.predict(np.array([self._features(config)]))[0])
        else:
            known = self.values.get(tuple(config[n] for n in self.names))
            if known is None:
                return Measurement(status="failed", reason="this configuration was not measured")
            value = known
        metric = self.metrics[0]
        if self.censored_at is not None and not metric.better(value, self.censored_at):
            return Measurement(status="timed out", reason=f"the source cut it off at {self.censored_at:g}")
        if self.noise:
            mixed = hashlib.blake2b(self.space.key(config).encode(), digest_size=4).digest()
            rng = np.random.default_rng([seed, int.from_bytes(mixed, "little")])
            value *= math.exp(rng.normal(0, self.noise))
        return Measurement(values={metric.name: value})


def _objective(path: Path, header: list[str], options: Mapping[str, Any]) -> tuple[int, str, Any]:
    """Return (column, clean name, direction) of the objective."""
    wanted = options.get("objective")
    if wanted is None:
        column = len(header) - 1
    else:
        plain = [h.rstrip("+-") for h in header]
        if wanted in header:
            column = header.index(wanted)
        elif wanted in plain:
            column = plain.index(wanted)
        else:
            raise ConfigError(f"{path}: {unknown('column', wanted, header)}")
    label = header[column]
    direction = options.get("direction")
    if direction is None and label[-1:] in ("+", "-"):
        direction = "max" if label.endswith("+") else "min"
    if direction is None:
        raise ConfigError(
            f"{path}: is more or less of {label!r} better? Say --direction max or --direction min "
            "(or end the header with + or -, or write a descriptor)"
        )
    if direction not in ("min", "max"):
        raise ConfigError(f"direction must be min or max, not {direction!r}")
    return column, label.rstrip("+-") or label, direction


def _floats(path: Path, name: str, texts: list[str]) -> NDArray[np.float64]:
    values = np.empty(len(texts))
    for i, text in enumerate(texts):
        try:
            values[i] = float(text)
        except ValueError:
            raise ConfigError(f"{path}, line {i + 2}: the objective {name!r} is {text!r}, not a number") from None
        if not math.isfinite(values[i]):
            raise ConfigError(f"{path}, line {i + 2}: the objective {name!r} is {text}, not a finite number")
    return values


def _parameters(
    path: Path, header: list[str], rows: list[list[str]], objective: int, ignore: Sequence[str]
) -> dict[str, list[Value]]:
    for name in ignore:
        if name not in header:
            raise ConfigError(f"{path}: {unknown('column to ignore', name, header)}")
    found: dict[str, list[Value]] = {}
    for i, name in enumerate(header):
        values = [row[i] for row in rows]
        # nameless columns are row numbers; other objectives and constants are no parameters
        if i == objective or not name or name in ignore or name[-1] in "+-" or len(set(values)) == 1:
            continue
        found[name] = _typed(values)
    if not found:
        raise ConfigError(f"{path}: no column besides the objective varies")
    return found


def _typed(texts: list[str]) -> list[Value]:
    try:
        values = [float(t) for t in texts]
    except ValueError:
        return list(texts)
    if not all(map(math.isfinite, values)):
        return list(texts)
    return [int(v) for v in values] if all(v == int(v) for v in values) else list(values)


def _listed_param(name: str, values: list[Value], default: Value) -> Param:
    numeric = not isinstance(values[0], str)
    return Choice(name=name, choices=tuple(sorted(set(values))), default=default, ordered=numeric)


def _range_param(name: str, values: list[Value], default: Value) -> Param:
    distinct = sorted(set(values))
    if isinstance(distinct[0], str) or len(distinct) <= 2:
        return Choice(name=name, choices=tuple(distinct), default=default)
    low, high = distinct[0], distinct[-1]
    log = low > 0 and high / low > _LOG_SPAN
    if all(isinstance(v, int) for v in distinct):
        return Int(name=name, low=low, high=high, default=default, log=log)
    return Real(name=name, low=low, high=high, default=float(default), log=log)
