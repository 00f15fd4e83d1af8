"""Make the tables that tables_split.toml names, out of clones: python benchmarks/collect_tables.py CLONES OUT.

CLONES holds a git repository for each collection: CLONES/OWNER/NAME, bare or not. Each table is written as
OUT/NAME.csv.gz with a descriptor beside it, which makes it a target: ``tunewright tune table:OUT/NAME.csv.gz``.

Columns of which exactly one is set in every row are one choice written out as switches: they become one column again.
Of large tables 4,000 rows are drawn; rows without a number (a kernel that does not compile) are left out. None of the
sources names a default, and some files are sorted by the objective: the row of median performance is taken.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import math
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

SPLIT = Path(__file__).with_name("tables_split.toml")
MOST_ROWS = 4_000


def content(clones: Path, repository: str, commit: str, path: str) -> str:
    """Return a file's text as of a commit."""
    found = [p for p in (clones / repository / ".git", clones / repository) if (p / "HEAD").is_file()]
    if not found:
        raise SystemExit(f"{clones / repository} is no git repository: clone {repository} there")
    shown = subprocess.run(["git", "--git-dir", found[0], "show", f"{commit}:{path}"], capture_output=True)
    if shown.returncode:
        raise SystemExit(f"{found[0]} has no {path} at {commit[:12]}: {shown.stderr.decode().strip()}")
    return (gzip.decompress(shown.stdout) if path.endswith(".gz") else shown.stdout).decode()


def kernel_rows(text: str, objective: str) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of a cache of Kernel Tuner."""
    cache = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "}}")
    names = cache["tune_params_keys"]
    return [*names, objective], [[str(e.get(n)) for n in [*names, objective]] for e in cache["cache"].values()]


def number(text: str) -> float | str:
    """Return what a field says: a number, or its text."""
    try:
        return float(text)
    except ValueError:
        return text


def numbered(rows: Sequence[Sequence[str]], column: int) -> list[list[str]]:
    """Return the rows whose objective is a finite number."""
    kept = []
    for row in rows:
        try:
            if math.isfinite(float(row[column])):
                kept.append(list(row))
        except ValueError:
            continue
    return kept


def one_of(columns: dict[str, np.ndarray]) -> list[list[str]]:
    """Return groups of three or more columns of zeros and ones of which exactly one is set in every row."""
    left, groups = list(columns), []
    while left:
        group, count = [left[0]], columns[left[0]].copy()
        for name in left[1:]:
            if not (count & columns[name]).any():
                group.append(name)
                count |= columns[name]
        whole = bool(count.all()) and len(group) > 2
        groups += [group] if whole else []
        left = [n for n in left if n not in (group if whole else group[:1])]
    return groups


def merged(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Make one column of each choice that is written out as switches."""
    switches = {}
    for i, name in enumerate(header):
        values = {row[i] for row in rows}
        if values in ({"0", "1"}, {"0.0", "1.0"}):
            switches[name] = np.array([float(row[i]) == 1 for row in rows])
    groups = one_of(switches)
    gone = {name for group in groups for name in group}
    kept = [i for i, name in enumerate(header) if name not in gone]
    names = [f"choice_{k}" for k in range(len(groups))]
    made = []
    for number, row in enumerate(rows):
        chosen = [next(n for n in group if switches[n][number]) for group in groups]
        made.append([*chosen, *(row[i] for i in kept)])
    return names + [header[i] for i in kept], made


def table(text: str, entry: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of one table, the objective last."""
    objective = entry["objective"]
    if ".json" in entry["path"]:
        header, rows = kernel_rows(text, objective)
    else:
        header, *rows = list(csv.reader(io.StringIO(text)))
        rows = [row for row in rows if len(row) == len(header)]
    place, ignored = header.index(objective), entry.get("ignore", ())
    # a name that ends in + or - is another objective
    order = [i for i, n in enumerate(header) if i != place and n not in ignored and n[-1:] not in ("+", "-")] + [place]
    header, rows = [header[i] for i in order], [[row[i] for i in order] for row in rows]
    rows = numbered(rows, len(header) - 1)
    if len(rows) > MOST_ROWS:
        rows = [rows[i] for i in np.sort(np.random.default_rng(0).choice(len(rows), MOST_ROWS, replace=False))]
    return merged(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clones", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    split = tomllib.loads(SPLIT.read_text(encoding="utf-8"))
    given.out.mkdir(parents=True, exist_ok=True)
    for name, entry in split["tables"].items():
        source = split["collections"][entry["collection"]]
        header, rows = table(content(given.clones, source["repository"], source["commit"], entry["path"]), entry)
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows([header, *rows])
        (given.out / f"{name}.csv.gz").write_bytes(gzip.compress(written.getvalue().encode(), mtime=0))
        middle = sorted(rows, key=lambda row: float(row[-1]))[len(rows) // 2]
        varying = [i for i in range(len(header) - 1) if len({row[i] for row in rows}) > 1]
        about = {
            "objective": entry["objective"],
            "direction": entry["direction"],
            "default": {header[i]: number(middle[i]) for i in varying},
        }
        (given.out / f"{name}.toml").write_text(tomli_w.dumps(about), encoding="utf-8")
        print(f"{name}: {len(rows):,} rows, {len(header) - 1} columns")


if __name__ == "__main__":
    main()
