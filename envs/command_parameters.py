"""Parameters of a command target: [[parameter]] tables, tables in short, CSV, flags, and what a manual says.

Besides ``[[parameter]]``, a description may have one ``parameters``: the path of a CSV file, CSV text, or a table whose
keys are the names. ``like = "read:FILE.json"`` in that table takes parameters from what ``tunewright read`` wrote.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tunewright.envs.command_places import PLACE, Several, check_circles
from tunewright.envs.command_table import Table
from tunewright.errors import ConfigError, SpaceError, unknown
from tunewright.space import Choice, Config, Int, Param, Real
from tunewright.store.files import printable, read_text

_COMMON = {"name", "type", "default", "unit", "doc", "when", "restart", "values"}
_NUMBER = {*_COMMON, "low", "high", "log", "special", "step"}
_CHOICE = {*_COMMON, "choices", "ordered"}
_FLAGS = {"name", "type", "flags", "default", "doc", "restart"}
_COLUMNS = (_NUMBER | _CHOICE) - {"values"}
_LIKE = ("like", "only", "never")
_TRUE, _FALSE = ("true", "yes", "1", "restart"), ("", "false", "no", "0", "none")
_MOST_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What is tuned, and the texts that its values stand for.

    Attributes:
        params: in the file's order.
        texts: of parameters with ``values``: the text of each value, by the value as a text.
        flags: of lists of flags: the flag that each of their parameters switches on, by the list's name.
    """

    params: tuple[Param, ...]
    texts: Mapping[str, Mapping[str, str]]
    flags: Mapping[str, Mapping[str, str]]

    def names(self) -> set[str]:
        """Return the names that placeholders may have."""
        return {*(p.name for p in self.params), *self.flags}

    def templates(self, config: Config) -> dict[str, str]:
        """Return the texts that a configuration's values stand for, by parameter."""
        return {
            name: texts[shown(config[name])]
            for name, texts in self.texts.items()
            if name in config and shown(config[name]) in texts
        }

    def lists(self, config: Config) -> dict[str, str | None]:
        """Return the flags that are on, by the name of their list."""
        return {
            name: Several(flag for param, flag in flags.items() if config.get(param) == "on")
            for name, flags in self.flags.items()
        }


def shown(value: Any) -> str:
    """Return a value as placeholders show it.

    >>> shown(True), shown(1.5)
    ('true', '1.5')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_parameters(
    path: Path,
    entries: Sequence[Any],
    short: Any,
    taken: Sequence[str],
    given: Mapping[int, Param] = MappingProxyType({}),
) -> Parameters:
    """Read all parameters of a description.

    Args:
        path: of the description.
        entries: its [[parameter]] tables.
        short: its ``parameters``; None where there is none.
        taken: names that placeholders have already.
        given: parameters that are read elsewhere, by the place of their table in ``entries``.

    Raises:
        ConfigError: something is missing or wrong; the message says where.
    """
    tables: list[tuple[str, Any]] = [(f"number {number}", data) for number, data in enumerate(entries, 1)]
    params: list[Param] = []
    if isinstance(short, str):
        tables += _csv(path, short)
    elif isinstance(short, dict):
        params += _like(path, Table(f"{path}, [parameters]", {k: v for k, v in short.items() if _is_like(k, v)}, _LIKE))
        tables += [(name, _named(path, name, data)) for name, data in short.items() if not _is_like(name, data)]
    elif short is not None:
        raise ConfigError(f"{path}: parameters must be a table, CSV text or the path of a CSV file")
    texts: dict[str, Mapping[str, str]] = {}
    flags: dict[str, Mapping[str, str]] = {}
    for place, (fallback, data) in enumerate(tables):
        if place in given:
            params.append(given[place])
            continue
        where = f"{path}, parameter {_name_of(data) or fallback}"
        if isinstance(data, dict) and data.get("type") == "flags":
            name, of = _flags(where, data, params, taken)
            if name in flags:
                raise ConfigError(f"{where}: two lists of flags have this name")
            flags[name] = of
            continue
        param, its = _parameter(path, where, data, taken)
        params.append(param)
        if its is not None:
            texts[param.name] = its
    if not params:
        raise ConfigError(f"{path}: at least one [[parameter]], or 'parameters', is needed")
    names = [*(p.name for p in params), *flags]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}, parameter {printable(name, 60)}: two parameters have this name")
    known = {*names, *taken}
    for name, meant in texts.items():
        for place in [p for text in meant.values() for p in PLACE.findall(text)]:
            if place not in known:
                raise ConfigError(f"{path}, parameter {name}: values: {unknown('placeholder', place, known)}")
    check_circles(str(path), {name: list(meant.values()) for name, meant in texts.items()})
    return Parameters(params=tuple(params), texts=texts, flags=flags)


def _name_of(data: Any) -> str:
    return printable(str(data.get("name") or ""), 60) if isinstance(data, dict) else ""


def _is_like(key: str, value: Any) -> bool:
    return key in _LIKE and not isinstance(value, dict)


def _named(path: Path, name: str, data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}, [parameters]: {printable(name, 60)} must be a table such as {{ low = 1, high = 8, default = 2 }}"
        )
    return {"name": name, **data}


# -- one parameter ----------------------------------------------------------------------------------


def _kind(where: str, data: Any) -> str:
    """Return a parameter's type, as it is given or as its keys say."""
    kind = data.get("type") if isinstance(data, dict) else None
    if kind is None and isinstance(data, dict):
        if data.get("choices") is not None or (isinstance(data.get("values"), dict) and "low" not in data):
            return "choice"
        ends = [data.get(k) for k in ("low", "high", "default") if not isinstance(data.get(k), str)]
        if "low" in data and "high" in data and "default" in data:
            return "int" if all(isinstance(v, int) for v in ends) else "real"
    if kind not in ("int", "real", "choice"):
        raise ConfigError(f"{where}: type must be int, real or choice, not {kind!r}; or flags, a list of flags")
    return str(kind)


def _parameter(path: Path, where: str, data: Any, taken: Sequence[str]) -> tuple[Param, dict[str, str] | None]:
    Table(where, data, _CHOICE | _NUMBER)  # a key that is misspelt may be the one that says the type
    kind = _kind(where, data)
    table = Table(where, data, _CHOICE if kind == "choice" else _NUMBER)
    restart = table.get("restart", (str, bool), "none")
    common: dict[str, Any] = {
        "name": table.get("name", str, needed=True),
        "unit": table.get("unit", str, ""),
        "doc": table.get("doc", str, ""),
        "when": table.get("when", str),
        "restart": ("restart" if restart else "none") if isinstance(restart, bool) else restart,
    }
    if common["restart"] not in ("none", "reload", "restart", "rebuild"):
        raise ConfigError(f"{where}: restart must be true, false, none, reload, restart or rebuild, not {restart!r}")
    if common["name"] in taken:
        raise ConfigError(f"{where}: the names {', '.join(taken)} are taken")
    texts = _texts_of(table)
    try:
        if kind == "choice":
            choices = table.get("choices", list, None if texts is None else list(texts), needed=texts is None)
            param: Param = Choice(
                choices=tuple(choices),
                default=table.get("default", (str, int, float, bool), needed=True),
                ordered=table.get("ordered", bool, False),
                **common,
            )
            for text in texts or ():
                if text not in map(shown, choices):
                    raise ConfigError(f"{where}: values: {unknown('choice', text, map(shown, choices))}")
            return param, texts
        number_kind: Any = (int, float)
        special = {}
        for text, meaning in table.get("special", dict, {}).items():
            try:
                special[int(text) if kind == "int" else float(text)] = str(meaning)
            except ValueError:
                raise ConfigError(f"{where}: the special value {text!r} is not a number") from None
        default = table.get("default", int if kind == "int" else number_kind, needed=True)
        numeric: dict[str, Any] = {
            "low": table.get("low", (int, float, str), needed=True),
            "high": table.get("high", (int, float, str), needed=True),
            "log": table.get("log", bool, False),
            "special": special,
            **common,
        }
        if kind == "int":
            return Int(default=default, step=table.get("step", int, 1), **numeric), texts
        return Real(default=default, **numeric), texts
    except SpaceError as error:
        raise ConfigError(f"{path}, parameter {error}" if common["name"] else f"{where}: {error}") from None


def _texts_of(table: Table) -> dict[str, str] | None:
    """Return the texts that values stand for; None where they are their own texts."""
    texts = table.get("values", dict)
    if texts is None:
        return None
    for text in texts.values():
        if not isinstance(text, str):
            raise ConfigError(f"{table.where}: every entry of values must be a text, not {printable(repr(text), 60)}")
    return dict(texts)


def _flags(
    where: str, data: Mapping[str, Any], params: list[Param], taken: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """Add a parameter, on or off, for each flag of a list; return the list's name, and the flags by parameter."""
    table = Table(where, data, _FLAGS)
    name = table.get("name", str, needed=True)
    listed = table.get("flags", (list, dict), needed=True)
    if isinstance(listed, list):
        listed = {text.lstrip("-") if isinstance(text, str) else "": text for text in table.texts("flags")}
        if len(listed) < len(data["flags"]):
            raise ConfigError(
                f"{where}: two flags are the same but for their dashes; write flags = {{ name = '-flag' }}"
            )
    on, doc = table.texts("default"), table.get("doc", str, "")
    restart = table.get("restart", bool, False)
    if not listed or not all(key and isinstance(text, str) and text for key, text in listed.items()):
        raise ConfigError(f"{where}: flags must be a list of texts such as '-ffast-math', or a table of such")
    if name in taken:
        raise ConfigError(f"{where}: the names {', '.join(taken)} are taken")
    for text in on:
        if text not in listed and text not in listed.values():
            raise ConfigError(f"{where}: default: {unknown('flag', text, listed.values())}")
    for key, text in listed.items():
        default = "on" if key in on or text in on else "off"
        if key in taken:
            raise ConfigError(f"{where}: the names {', '.join(taken)} are taken")
        params.append(
            Choice(
                name=key, choices=("off", "on"), default=default, doc=doc or f"the flag {text}",
                restart="restart" if restart else "none",
            )
        )  # fmt: skip
    return name, dict(listed)


# -- from CSV ---------------------------------------------------------------------------------------


def _csv(path: Path, text: str) -> list[tuple[str, Any]]:
    """Return the tables that rows of CSV stand for: text, or the path of a file beside the description."""
    where = f"{path}, parameters"
    if "\n" not in text.strip() and "," not in text:
        file = path.parent / text.strip()
        text = read_text(file, "file of parameters")
        where = str(file)
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and line.strip()[0] != "#"]
    if len(lines) > _MOST_ROWS:
        raise ConfigError(f"{where}: more than {_MOST_ROWS:,} parameters")
    try:
        rows = list(csv.reader(io.StringIO("\n".join(line for _, line in lines)), skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ConfigError(f"{where}: this is not CSV: {error}") from None
    if len(rows) != len(lines) or not rows:
        raise ConfigError(f"{where}: every parameter needs a line of its own, after a line with the names of columns")
    header = [cell.strip().lower() for cell in rows[0]]
    for column in header:
        if column not in _COLUMNS:
            raise ConfigError(f"{where}: {unknown('column', column, _COLUMNS)}")
        if header.count(column) > 1:
            raise ConfigError(f"{where}: the column {column!r} appears twice")
    if "name" not in header or "default" not in header:
        raise ConfigError(f"{where}: the columns name and default are needed")
    return [
        (f"on line {number}", _row(f"{where}, line {number}", header, row))
        for (number, _), row in zip(lines[1:], rows[1:], strict=True)
    ]


def _row(where: str, header: Sequence[str], row: Sequence[str]) -> dict[str, Any]:
    """Return the table that a row stands for; empty cells are keys that are not there."""
    if len(row) > len(header):
        raise ConfigError(f"{where}: {len(row)} fields where the header has {len(header)}; quote a text with commas")
    cells = {key: cell.strip() for key, cell in zip(header, row, strict=False) if cell.strip()}
    table: dict[str, Any] = dict(cells)
    choices = _split(cells["choices"]) if "choices" in cells else None
    if choices is not None:
        typed = [_typed(text) for text in choices]
        same = len({type(v) for v in typed}) == 1 or all(type(v) in (int, float) for v in typed)
        table["choices"] = typed if same else choices  # "on, off, 1" are three texts
        if cells.get("default") in choices:
            table["default"] = table["choices"][choices.index(cells["default"])]
    else:
        for key in ("low", "high", "default"):
            if key in cells:
                table[key] = _typed(cells[key], whole=cells.get("type") == "int")
        if cells.get("type") == "real":
            table = {k: float(v) if k in ("low", "high") and isinstance(v, int) else v for k, v in table.items()}
    if "step" in cells:
        table["step"] = _typed(cells["step"], whole=True)
    for key in ("log", "ordered"):
        if key in cells:
            table[key] = _yes(where, key, cells[key])
    if cells.get("restart", "").lower() in (*_TRUE, *_FALSE):
        table["restart"] = cells.get("restart", "").lower() in _TRUE
    if "special" in cells:
        pairs = [text.partition("=") for text in _split(cells["special"])]
        table["special"] = {value.strip(): meaning.strip() for value, _, meaning in pairs}
    return table


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split("|" if "|" in text else ",")]


def _yes(where: str, key: str, text: str) -> bool:
    if text.lower() in _TRUE or text.lower() in _FALSE:
        return text.lower() in _TRUE
    raise ConfigError(f"{where}: {key} must be true or false, not {text!r}")


def _typed(text: str, *, whole: bool = False) -> Any:
    """Return the number or boolean that a cell holds, or its text.

    >>> _typed("12"), _typed("1e3", whole=True), _typed("true"), _typed("RAM_MB / 2")
    (12, 1000, True, 'RAM_MB / 2')
    """
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if whole and number.is_integer() else number


# -- from what was read -----------------------------------------------------------------------------


def _like(path: Path, table: Table) -> list[Param]:
    """Return the parameters that ``like`` names, as ``tunewright read`` describes them."""
    spec = table.get("like", str)
    only, never = table.texts("only"), table.texts("never")
    if spec is None:
        if table.data:
            raise ConfigError(f"{table.where}: 'only' and 'never' choose from what 'like' names, and it is missing")
        return []
    kind, _, argument = spec.partition(":")
    if kind != "read" or not argument:
        raise ConfigError(f"{table.where}: like must be 'read:FILE.json', a file of 'tunewright read ... -o FILE.json'")
    from tunewright.knowledge.parameters import load, to_space

    _, docs = load(path.parent / argument)
    names = [doc.name for doc in docs]
    for name in [*only, *never]:
        if name not in names:
            raise ConfigError(f"{table.where}: {unknown(f'parameter in {argument}', name, names)}")
    wanted = [doc for doc in docs if (not only or doc.name in only) and doc.name not in never]
    try:
        space, left_out = to_space(wanted)
    except SpaceError as error:
        raise ConfigError(f"{table.where}: {argument}: {error}") from None
    for name in only:
        if name in left_out:
            raise ConfigError(
                f"{table.where}: {name} cannot be taken from {argument}: {left_out[name]}; describe it here"
            )
    return list(space.params.values())
