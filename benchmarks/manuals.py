"""What is read from manuals without a model, against the truth: python benchmarks/manuals.py [--data DIR]."""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import DATA, publish, table

from tunewright.knowledge.extract import extract
from tunewright.knowledge.manuals import read_manual
from tunewright.knowledge.quantities import scale
from tunewright.knowledge.reading import read
from tunewright.knowledge.retrieval import Index
from tunewright.knowledge.sections import chunks

TYPES = {"bool": "boolean", "integer": "integer", "real": "real", "enum": "enum", "string": "string"}
#: STELLAR's thirteen for Lustre: subsystem and name
LUSTRE = (
    ("", "stripe_count"), ("", "stripe_size"), ("llite", "max_read_ahead_mb"), ("llite", "max_read_ahead_per_file_mb"),
    ("llite", "max_read_ahead_whole_mb"), ("llite", "statahead_max"), ("osc", "max_rpcs_in_flight"),
    ("mdc", "max_rpcs_in_flight"), ("mdc", "max_mod_rpcs_in_flight"), ("osc", "max_dirty_mb"), ("mdc", "max_dirty_mb"),
    ("osc", "max_pages_per_rpc"), ("mdc", "max_pages_per_rpc"),
)  # fmt: skip
QUESTIONS = ("How do I use the parameter {}?", "What happens when {} is too large?", "default of {}")


#: defaults that nobody can read off this manual: its text has the word but states none, or another than this server's
UNREADABLE = {
    "the text states no value": (
        "debug_assertions", "dynamic_shared_memory_type", "log_error_verbosity", "log_hostname", "shared_memory_type",
        "trace_sort", "transaction_deferrable", "transaction_isolation", "transaction_read_only", 
        "client_encoding", 
    ),
    "the server says otherwise": (
        "krb_server_keyfile", "lc_monetary", "lc_numeric", "lc_time", "max_stack_depth", "timezone_abbreviations",
        "unix_socket_directories",
    ),
}  # fmt: skip


def same_amount(mine, unit, theirs, their_unit) -> bool:
    if isinstance(mine, str | bool) or mine is None:
        return False
    a, b = scale(unit), scale(their_unit)
    factor = a[1] / b[1] if a and b and a[0] == b[0] and mine > 0 else 1.0
    return abs(float(mine) * factor - float(theirs)) < 1e-9 * max(1.0, abs(float(theirs)))


def postgresql(folder: Path):
    sections = read_manual([folder])
    docs = {d.name.lower(): d for d in extract(sections)}
    said = Counter()
    for section in sections:
        if section.term:
            for name in section.path[-1:]:
                said[name.lower()] += "default" in section.text.lower()
    truth = list(csv.DictReader((folder / "pg_settings_15.csv").open()))
    right, of, wrong = Counter(), Counter(), {}
    for row in truth:
        name = row["name"]
        doc = docs.get(name.lower())
        of["names"] += 1
        right["names"] += doc is not None
        if doc is None:
            wrong.setdefault("names", []).append(name)
            continue
        number = row["vartype"] in ("integer", "real")

        def check(what, ok, name=name):
            of[what] += 1
            right[what] += bool(ok)
            if not ok:
                wrong.setdefault(what, []).append(name)

        check("type", doc.type == TYPES[row["vartype"]])
        if number:
            check("unit", doc.unit == row["unit"])
        boot = row["boot_val"]
        if row["vartype"] == "bool":
            ok = doc.default == (boot == "on")
        elif number:
            ok = same_amount(doc.default, doc.unit, boot, row["unit"])
        else:
            ok = str(doc.default or "").lower() == boot.lower()
        check("default, of all", ok)
        if said[name.lower()] and not any(name in names for names in UNREADABLE.values()):
            check("default, where one is stated", ok)
        if row["vartype"] == "enum":
            mine = {str(o).lower() for o in doc.range.options}
            theirs = {v.strip('"').lower() for v in row["enumvals"].strip("{}").split(",")}
            check("range", mine == theirs or (mine > theirs and mine - theirs <= {"windows", "fsync_writethrough"}))
        elif number and doc.range.stated:
            ends = ((doc.range.low, row["min_val"]), (doc.range.high, row["max_val"]))
            check("range", all(a is None or same_amount(a, doc.unit, b, row["unit"]) for a, b in ends))
    return right, of, wrong


def lustre(folder: Path):
    found = {d.name.rsplit(".", 1)[-1]: d for d in extract(read_manual([folder]))}
    return [name for _, name in LUSTRE if name in found], [f"{s}.{n}".strip(".") for s, n in LUSTRE if n not in found]


def speed(folder: Path):
    os.environ["TUNEWRIGHT_HOME"] = tempfile.mkdtemp(prefix="tunewright-manuals-")
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        _, sections, _ = read([str(folder)])
        times.append(time.perf_counter() - begun)
    index = Index(chunks(sections))
    queries = []
    for question in QUESTIONS:
        for _, name in LUSTRE:
            begun = time.perf_counter()
            index.search(question.format(name))
            queries.append(1e3 * (time.perf_counter() - begun))
    top = sum(any(name in c.text for c in index.search(QUESTIONS[0].format(name), 5)) for _, name in LUSTRE)
    return times, queries, top, sum(len(s.text) for s in sections)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    manuals = parser.parse_args().data / "manuals"
    right, of, wrong = postgresql(manuals / "postgresql")
    bars = {
        "names": "95 %",
        "type": "90 %",
        "unit": "90 %",
        "default, where one is stated": "95 %",
        "range": "90 %",
    }
    rows = [
        [what, f"{right[what]} of {of[what]}", f"{100 * right[what] / of[what]:.1f} %", bars.get(what, ""),
         ", ".join(wrong.get(what, [])[:12]) + (" …" if len(wrong.get(what, [])) > 12 else "")]
        for what in of
    ]  # fmt: skip
    found, missing = lustre(manuals / "lustre")
    times, queries, top, size = speed(manuals / "lustre")
    body = (
        "PostgreSQL 15's manual against `pg_settings` of a server of that version. A default is right if it is the same"
        " amount. Ranges: all enums, and numbers for which the manual states an end; values of other platforms"
        " (`windows`, `fsync_writethrough`) do not count as wrong. A default counts as stated if the parameter's text has"
        " the word, but for these: "
        + "; ".join(f"{why}: {', '.join(names)}" for why, names in UNREADABLE.items())
        + ". The phrases that are recognised were written with this manual at hand, so other manuals will do worse.\n\n"
        + table(["what", "right", "share", "bar", "wrong"], rows)
        + f"\n\nLustre's manual, {size / 1e6:.1f} million characters: of STELLAR's thirteen parameters {len(found)} are found"
        f" without a model ({', '.join(dict.fromkeys(found))}); not found: {', '.join(missing) or 'none'}."
        f" Read in {times[0]:.1f} s (bar 60 s), {times[1]:.2f} s from the cache. A query of the index takes"
        f" {statistics.median(queries):.2f} ms, at most {max(queries):.1f} ms (bar 20 ms); for {top} of the 13 the first five"
        " passages name the parameter."
    )
    publish("manuals", "What is read from manuals without a model", "python benchmarks/manuals.py", body)


if __name__ == "__main__":
    main()
