"""Jobs of clusters and their nodes: from traces of several kinds, or generated with stated parameters."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewright.envs.scheduling import limits
from tunewright.envs.scheduling.cluster.state import WHOLE
from tunewright.envs.scheduling.generated import lognormal, numbers, zipf
from tunewright.envs.scheduling.traces import check_growth, numbered
from tunewright.errors import ConfigError, missing_extra
from tunewright.knowledge import timestamps
from tunewright.store.files import check_size, decoded, limit_mb, open_lines, parsing, read_head, read_text, reason

# bytes of memory for a job while a trace is read and sorted, and for a node
_JOB_BYTES, _NODE_BYTES = 500, 400
_PARQUET_MB = 256.0  # of duckdb's memory
_MOST_CPUS = 10**9
_PER_NODE = [str(n) for n in range(1, 17)]


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """Jobs in the order in which they are submitted; arrays of one entry a job.

    Attributes:
        source: where they come from.
        submit_s, run_s, estimate_s: seconds; an estimate is never below the run time, since a job is ended at its
            limit.
        gpus, milli: GPUs, and thousandths of each (1000 but for jobs that take part of one GPU).
        cpu, memory: of each node that it uses: thousandths of CPUs, MiB.
        user: number of the user.
        notes: what was mended or left out, for people.
    """

    source: str
    submit_s: NDArray[np.float64]
    run_s: NDArray[np.float64]
    estimate_s: NDArray[np.float64]
    gpus: NDArray[np.int64]
    milli: NDArray[np.int64]
    cpu: NDArray[np.int64]
    memory: NDArray[np.int64]
    user: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.submit_s)

    @property
    def uses_gpus(self) -> bool:
        """Whether any job wants a GPU."""
        return bool((self.gpus > 0).any())

    def first(self, count: int, start: int = 0) -> Jobs:
        """Return ``n`` jobs from a place on; the first is submitted at 0."""
        part = slice(start, start + count)
        cut = {
            name: getattr(self, name)[part]
            for name in ("submit_s", "run_s", "estimate_s", "gpus", "milli", "cpu", "memory", "user")
        }
        cut["submit_s"] = cut["submit_s"] - cut["submit_s"][0]
        return replace(self, **cut)

    def faster(self, factor: float) -> Jobs:
        """Return the same jobs submitted so many times as densely."""
        return replace(self, submit_s=self.submit_s / factor)

    def demand(self) -> float:
        """Mean GPUs (CPUs where no job wants a GPU) kept busy between the first and the last submission."""
        span = max(float(self.submit_s[-1] - self.submit_s[0]), 1e-9)
        size = self.gpus * self.milli if self.uses_gpus else self.cpu
        return float((self.run_s * size).sum() / WHOLE / span)


def jobs_of(source: str, rows: Mapping[str, Any], notes: tuple[str, ...] = ()) -> Jobs:
    """Check columns, sort them and return them as jobs.

    Args:
        source: for messages.
        rows: columns: submit_s and run_s, and any of estimate_s, gpus, milli, cpu, memory, user.
        notes: for people.

    Raises:
        ConfigError: a value is missing or negative; the row is named, from 1.
    """
    submit, run = np.asarray(rows["submit_s"], float), np.asarray(rows["run_s"], float)
    if not len(submit):
        raise ConfigError(f"{source}: no jobs in it")
    for name, values in (("submission", submit), ("run time", run)):
        bad = np.flatnonzero(~(np.abs(values) <= limits.MOST_TIME_S) | ((values < 0) if name == "run time" else False))
        if len(bad):
            raise ConfigError(
                f"{source}, job {bad[0] + 1}: the {name} {values[bad[0]]} is no time up to"
                f" {limits.MOST_TIME_S:g} s ({len(bad)} such jobs)"
            )
    count = len(submit)
    order = np.argsort(submit, kind="stable")
    late = int((np.diff(submit) < 0).sum())
    whole: dict[str, Any] = {}
    for name, default in (("gpus", 0), ("milli", WHOLE), ("cpu", 0), ("memory", 0)):
        values = np.asarray(rows[name], float) if name in rows else np.full(count, float(default))
        bad = np.flatnonzero(~((values >= 0) & (values <= limits.MOST_UNITS)))
        if len(bad):
            raise ConfigError(
                f"{source}, job {bad[0] + 1}: {name} must be from 0 to {limits.MOST_UNITS:g}, not {values[bad[0]]}"
            )
        whole[name] = values[order].astype(np.int64)
    whole["milli"] = np.where((whole["gpus"] == 1) & (whole["milli"] > 0), np.minimum(whole["milli"], WHOLE), WHOLE)
    user = numbered(rows["user"]) if "user" in rows else np.zeros(count, np.int64)
    run = np.maximum(run, 1e-3)
    estimate = np.asarray(rows["estimate_s"], float) if "estimate_s" in rows else run
    estimate = np.maximum(
        np.where(np.isfinite(estimate) & (estimate > 0), np.minimum(estimate, limits.MOST_TIME_S), run), run
    )
    if late:
        notes = (*notes, f"{late} jobs come before the one above them; sorted by submission")
    return Jobs(
        source=source, submit_s=submit[order] - submit.min(), run_s=run[order], estimate_s=estimate[order],
        user=user[order].astype(np.int64), notes=notes, **whole,
    )  # fmt: skip


def read(path: Path) -> Jobs:
    """Read a trace: Standard Workload Format, Philly's or Alibaba's CSV, SURF's Parquet, or CSV with named columns.

    Raises:
        ConfigError: it cannot be read; line and reason are named.
    """
    with parsing(path, "trace"):
        head = read_head(path, "trace", 2**16)
        if head[:4] == b"PAR1":
            return _parquet(path)
        first = next(
            (line for line in decoded(head).splitlines() if line.strip() and not line.lstrip().startswith(";")), ""
        )
        with open_lines(path, "trace") as lines:
            return _table(path, lines) if "," in first else _swf(path, lines)


def _swf(path: Path, lines: Iterable[str]) -> Jobs:
    """Read the Standard Workload Format (Chapin et al., 1999): 18 fields a line.

    A job that was checkpointed has a line for each of its parts (status 2, 3, 4) below the line that sums them up, if
    there is one; it is one job. Jobs that were cancelled before they ran, and those without a run time, are left out.
    """
    jobs: list[_SwfLine] = []
    parts: dict[float, list[_SwfLine]] = {}
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith(";") or not line.strip():
            continue
        check_growth(path, "jobs", number, number * _JOB_BYTES)
        try:
            values = [float(field) for field in line.split()[:18]]
            if len(values) < 12:
                raise ValueError(f"{len(values)} fields instead of 18")
            for place in (1, 3):
                limits.time(values[place])
            for place in (4, 7):
                limits.units(values[place] * WHOLE, -WHOLE)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: not in the Standard Workload Format: {error}") from None
        job = _SwfLine(*values[:5], *values[7:9], *values[10:12])
        if job.status in (2, 3, 4):
            parts.setdefault(job.number, []).append(job)
        else:
            jobs.append(job)
    summed = {job.number for job in jobs}
    for whole, pieces in parts.items():
        if whole not in summed:
            jobs.append(
                pieces[0]._replace(
                    submit=next((piece.submit for piece in pieces if piece.submit >= 0), pieces[0].submit),
                    run=sum(max(piece.run, 0.0) for piece in pieces),
                    allocated=max(piece.allocated for piece in pieces),
                )
            )  # fmt: skip
    cancelled = [job for job in jobs if job.status == 5 and job.run <= 0]
    ran = [job for job in jobs if job.run >= 0 and job.processors > 0 and not (job.status == 5 and job.run <= 0)]
    unknown = len(jobs) - len(cancelled) - len(ran)
    notes = [
        *([f"{len(cancelled)} jobs that were cancelled before they ran were left out"] if cancelled else []),
        *([f"{unknown} jobs without a run time or processors were left out"] if unknown else []),
        *([f"jobs that were checkpointed, on several lines, count once each: {len(parts)}"] if parts else []),
    ]
    if not ran:
        raise ConfigError(f"{path}: no jobs in it" + (f" ({'; '.join(notes)})" if notes else ""))
    return jobs_of(
        path.name,
        {
            "submit_s": [job.submit for job in ran], "run_s": [job.run for job in ran],
            "user": [job.user for job in ran], "estimate_s": [job.estimate for job in ran],
            "cpu": [job.processors * WHOLE for job in ran],
        },
        tuple(notes),
    )  # fmt: skip


class _SwfLine(NamedTuple):
    """Fields of a line, -1 where they are not known; times in seconds."""

    number: float
    submit: float
    wait: float
    run: float
    allocated: float
    requested: float
    estimate: float
    status: float
    user: float

    @property
    def processors(self) -> float:
        return self.allocated if self.allocated > 0 else self.requested


#: column of a CSV: names that it may have
_NAMES = {
    "submit_s": ("submit_s", "submit_time", "timestamp", "creation_time", "submission_time"),
    "run_s": ("run_s", "duration", "run_time", "runtime"),
    "end_s": ("deletion_time",),
    "estimate_s": ("estimate_s", "walltime", "requested_time"),
    "gpus": ("gpus", "num_gpus", "num_gpu", "gpu_request"),
    "milli": ("gpu_milli",),
    "cpu": ("cpu_milli",),
    "cpus": ("cpus", "cpu_count", "cpu_request"),
    "memory": ("memory_mib",),
    "user": ("user", "cluster", "qos"),
}


def _table(path: Path, lines: Iterable[str]) -> Jobs:
    table = csv.DictReader(lines)
    heads = [head.strip() for head in table.fieldnames or []]
    has = {column: next((head for head in heads if head in names), None) for column, names in _NAMES.items()}
    if has["submit_s"] is None:
        raise ConfigError(f"{path} has no column of submissions: one of {', '.join(_NAMES['submit_s'])} is needed")
    if has["run_s"] is None and has["end_s"] is None:
        raise ConfigError(f"{path} has no column of run times: one of {', '.join(_NAMES['run_s'])} is needed")
    if has["gpus"] is None and has["cpus"] is None and has["cpu"] is None:
        raise ConfigError(f"{path} has no column of what a job needs: num_gpus, cpu_count or cpu_milli is needed")
    columns: dict[str, list[Any]] = {}
    dropped = 0
    for row in table:
        check_growth(path, "jobs", rows := len(columns.get("submit_s", ())), rows * _JOB_BYTES)
        try:
            submit = row[has["submit_s"]]
            ends = row[has["run_s"] or has["end_s"] or ""]
            if not submit or not ends:
                dropped += 1  # still running when the trace ended, or begun before it
                continue
            when = timestamps.seconds(submit)
            found = {"submit_s": when, "run_s": float(ends) if has["run_s"] else timestamps.seconds(ends) - when}
            for name in ("estimate_s", "gpus", "milli", "cpu", "memory"):
                if has[name]:
                    found[name] = float(row[has[name]] or 0)
            if has["cpus"]:
                found["cpu"] = float(row[has["cpus"]] or 0) * WHOLE
            limits.time(when)
            limits.time(found["run_s"], least=-limits.MOST_TIME_S if not has["run_s"] else 0.0)
            for name in ("gpus", "milli", "cpu", "memory"):
                limits.units(found.get(name, 0.0))
        except (ValueError, TypeError, OverflowError, KeyError) as error:
            raise ConfigError(f"{path}, line {table.line_num}: {reason(error)}") from None
        for name, value in found.items():
            columns.setdefault(name, []).append(value)
        if has["user"]:
            columns.setdefault("user", []).append(row[has["user"]])
    if not columns:
        raise ConfigError(f"{path}: no jobs below the names of the columns")
    notes = (f"{dropped} jobs without submission or end were left out",) if dropped else ()
    return jobs_of(path.name, columns, notes)


def _parquet(path: Path) -> Jobs:
    try:
        import duckdb
    except ImportError:
        raise missing_extra("duckdb", "llm", f"reading {path.name}") from None
    # what a footer promises is checked first; where it lies, duckdb's own limit ends the reading
    with duckdb.connect(config={"memory_limit": f"{limit_mb(_PARQUET_MB):.0f}MB", "threads": "1"}) as database:
        file = [str(path)]
        names = {row[0] for row in database.execute("SELECT name FROM parquet_schema(?)", file).fetchall()}
        if not {"submission_time", "duration", "cpu_count"} <= names:
            raise ConfigError(
                f"{path} needs the columns submission_time, duration (ms) and cpu_count; it has"
                f" {', '.join(sorted(names))}"
            )
        count = database.execute("SELECT sum(num_rows) FROM parquet_file_metadata(?)", file).fetchone()
        rows_there = int(count[0] or 0) if count else 0
        check_size(f"the trace {path}: {rows_there:,} jobs", rows_there, _JOB_BYTES, "give a shorter one")
        kind = database.execute("SELECT typeof(submission_time) FROM read_parquet(?) LIMIT 1", file).fetchone()
        if kind is None:
            raise ConfigError(f"{path}: no jobs in it")
        when = "epoch_ms(submission_time)" if str(kind[0]).startswith("TIMESTAMP") else "submission_time"
        rows = database.execute(
            f"SELECT {when} / 1e3, duration / 1e3, cpu_count * 1000 FROM read_parquet(?)", file
        ).fetchnumpy()
    submit, run, cpu = (np.ma.filled(np.ma.asarray(column).astype(float), np.nan) for column in rows.values())
    return jobs_of(path.name, {"submit_s": submit, "run_s": run, "cpu": cpu})


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Nodes; arrays of one entry a node.

    Attributes:
        name: for people.
        cpu, memory: thousandths of CPUs, MiB.
        gpus: how many.
    """

    name: str
    cpu: NDArray[np.int64]
    memory: NDArray[np.int64]
    gpus: NDArray[np.int64]

    @property
    def words(self) -> str:
        """In a line."""
        total = int(self.gpus.sum())
        return f"{len(self.cpu)} nodes, {total} GPUs" if total else f"{int(self.cpu.sum()) // WHOLE:,} CPUs as one pool"


ENOUGH = 10**12  # of what a description does not limit


def nodes(text: str, jobs: Jobs | None = None, load: float = 0.9) -> Nodes:
    """Return nodes by description.

    Args:
        text: ``16x8`` (16 nodes of 8 GPUs), ``cpu:1024`` (a pool of CPUs), a CSV with columns cpu_milli, memory_mib and
            gpu, or ``auto``: as many as the jobs keep busy at a load, with 8 GPUs a node or as a pool of CPUs.
        jobs: for ``auto``.
        load: for ``auto``.

    Raises:
        ConfigError: the text cannot be read so.
    """
    if text == "auto":
        if jobs is None:
            raise ConfigError("say which nodes: 16x8 (16 nodes of 8 GPUs) or cpu:1024")
        busy = jobs.demand() / load
        if jobs.uses_gpus:
            return nodes(f"{max(math.ceil(busy / 8), math.ceil(int(jobs.gpus.max()) / 8), 1)}x8")
        return nodes(f"cpu:{max(math.ceil(busy), math.ceil(int(jobs.cpu.max()) / WHOLE), 1)}")
    if text.endswith(".csv"):
        return _node_list(Path(text))
    kind, _, count = text.partition(":")
    if kind == "cpu" and count.isdecimal() and len(count) < 20 and int(count) > 0:
        if int(count) > _MOST_CPUS:
            raise ConfigError(f"a pool may have {_MOST_CPUS:,} CPUs, not {count}")
        one = np.array([int(count) * WHOLE])
        return Nodes(name=text, cpu=one, memory=np.array([ENOUGH]), gpus=np.array([0]))
    many, _, each = text.partition("x")
    if many.isdecimal() and each.isdecimal() and len(many) < 20 and int(many) > 0 and each in _PER_NODE:
        size = int(many)
        check_size(f"{size:,} nodes", size, _NODE_BYTES)
        return Nodes(name=text, cpu=np.full(size, ENOUGH), memory=np.full(size, ENOUGH), gpus=np.full(size, int(each)))
    raise ConfigError(f"nodes are 16x8 (16 nodes of 8 GPUs, at most 16 each), cpu:1024, a CSV, or auto, not {text!r}")


def _node_list(path: Path) -> Nodes:
    text = read_text(path, "list of nodes")
    check_size(f"the list of nodes {path}", text.count("\n") + text.count(","), _NODE_BYTES, "give a shorter one")
    with parsing(path, "list of nodes with the columns cpu_milli, memory_mib and gpu"):
        rows = list(csv.DictReader(io.StringIO(text)))
        cpu, memory, gpus = (
            np.array([int(row[column]) for row in rows], np.int64) for column in ("cpu_milli", "memory_mib", "gpu")
        )
        for name, values, most in (("cpu_milli", cpu, ENOUGH), ("memory_mib", memory, ENOUGH), ("gpu", gpus, 16)):
            if len(values) and not 0 <= int(values.min()) <= int(values.max()) <= most:
                raise ConfigError(f"the list of nodes {path}: {name} must be 0 to {most:,}")
    if not len(cpu):
        raise ConfigError(f"{path} has no nodes")
    return Nodes(name=path.name, cpu=cpu, memory=memory, gpus=gpus)


DEFAULTS: dict[str, float] = {
    "jobs": 2000,
    "load": 0.9,  # work that arrives over what the cluster does
    "cv": 1.5,  # of the gaps
    "run_s": 1800.0,  # mean
    "run_cv": 3.0,  # run times of GPU jobs are heavy-tailed (Philly, Jeon et al., ATC 2019)
    "over": 3.0,  # mean estimate over run time
    "users": 30,
    "user_skew": 1.0,
    "share": 0.2,  # of the jobs that take part of a GPU
    "gpus": 8,  # most GPUs of a job; powers of two, half as often each
}


def generate(where: Nodes, options: Mapping[str, Any] | None = None, seed: int = 0) -> Jobs:
    """Generate jobs for nodes; the same seed gives the same ones.

    Raises:
        UnknownNameError: there is no such parameter.
        ConfigError: a value is out of range.
    """
    params = numbers(
        "the jobs", DEFAULTS, options or {}, positive=DEFAULTS.keys() - {"share", "run_cv", "user_skew"},
        whole=("jobs", "users", "gpus"),
    )  # fmt: skip
    if params["over"] < 1 or params["share"] > 1:
        raise ConfigError("over is at least 1 (jobs are ended at their estimate), and share at most 1")
    rng = np.random.default_rng([seed, 2503])
    count = int(params["jobs"])
    run = lognormal(rng, params["run_s"], params["run_cv"], count)
    pooled = int(where.gpus.sum()) == 0
    most = max(int(math.log2(min(params["gpus"], int(where.gpus.sum()) or params["gpus"]))), 0)
    size = 2 ** np.minimum(rng.geometric(0.5, count) - 1, most)
    milli = np.where((size == 1) & (rng.random(count) < params["share"]), rng.choice([100, 250, 500], count), WHOLE)
    work = float((run * size * (milli / WHOLE if not pooled else 1.0)).sum())
    total = float(where.cpu.sum()) / WHOLE if pooled else float(where.gpus.sum())
    shape = 1.0 / params["cv"] ** 2
    submit = np.cumsum(np.maximum(rng.gamma(shape, 1.0 / shape, count), 1e-100))  # a wild cv gives nothing but zeros
    submit *= work / (params["load"] * total) / submit[-1]
    rows = {
        "submit_s": submit, "run_s": run,
        "estimate_s": run * (1.0 + rng.exponential(params["over"] - 1.0, count) if params["over"] > 1 else 1.0),
        "user": zipf(rng, int(params["users"]), params["user_skew"], count),
    }  # fmt: skip
    rows |= {"cpu": size * WHOLE} if pooled else {"gpus": size, "milli": milli}
    return jobs_of("synthetic", rows)
