"""Darshan logs as tables, features and facts.

The log is read by the darshan package in a process of its own, so that a damaged log that takes its C library down is
an error here. Counters are described in Darshan's documentation of darshan-parser.
"""

from __future__ import annotations

import pickle
import re
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, missing_extra
from tunewright.knowledge.evidence import Observations
from tunewright.store.files import limit_mb, reason

_CHILD = "import sys; from tunewright.knowledge.darshanlog import answer; answer(*sys.argv[1:])"
_MOST_SECONDS, _MEMORY_MB = 300, 900.0
SMALL = 65536  # bytes; a request below is small for a parallel file system
MOST_SEGMENTS = 1_000_000  # traced requests kept
MODULES = ("POSIX", "MPI-IO", "STDIO", "H5F", "H5D", "LUSTRE", "DXT_POSIX", "DXT_MPIIO")
_SIZES = ("0_100", "100_1K", "1K_10K", "10K_100K", "100K_1M", "1M_4M", "4M_10M", "10M_100M", "100M_1G", "1G_PLUS")


def is_log(head: bytes) -> bool:
    """Whether a file begins like a Darshan log: a version, then its magic number."""
    return re.match(rb"\d\.\d\d\0{4}(75d|\0\0d57)", head) is not None


def read(path: Path) -> Observations:
    """Read a log.

    Raises:
        ConfigError: it cannot be read at all; what is merely incomplete is said in ``missing``.
        MissingExtraError: the darshan package is not installed.
    """
    try:
        import darshan  # noqa: F401
    except ImportError:
        raise missing_extra("darshan", "hpc", "reading Darshan logs") from None
    with tempfile.TemporaryDirectory(prefix="tunewright-") as folder:
        answer = Path(folder) / "answer"
        command = [sys.executable, "-c", _CHILD, str(path), str(answer)]
        try:
            subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_MOST_SECONDS, check=True
            )
            job, tables, missing = pickle.loads(answer.read_bytes())  # written by ourselves just now
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError):
            raise ConfigError(f"{path} is damaged: Darshan's reader did not survive it") from None
    if isinstance(missing, str):
        raise ConfigError(f"{path} is no readable Darshan log: {missing}")
    features, units = _features(job, tables)
    return Observations(
        source=path.name, kind="darshan", tables=tables, features=features, units=units,
        facts=tuple(facts(features)), missing=tuple(missing),
    )  # fmt: skip


def answer(path: str, to: str) -> None:
    """Read a log and leave what was found in a file: job, tables, and what is missing or, as a text, the error."""
    warnings.simplefilter("ignore")
    most = int(limit_mb(_MEMORY_MB) * 1e6)  # a log that unpacks into more ends this process with an error
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    content: tuple[Any, Any, Any]
    try:
        content = _load(path)
    except Exception as error:
        content = ({}, {}, reason(error))
    Path(to).write_bytes(pickle.dumps(content))


def _load(path: str) -> tuple[dict[str, float], dict[str, Any], list[str]]:
    """Return the job, a table for each module, and what could not be read."""
    import darshan
    import pandas as pd

    report = darshan.DarshanReport(path, read_all=False)
    info = report.metadata["job"]
    seconds = float(info.get("run_time") or 0.0) or float(info["end_time_sec"] - info["start_time_sec"])
    job = {"processes": float(info["nprocs"]), "run_time_s": seconds}
    tables: dict[str, Any] = {}
    missing = []
    for module in MODULES:
        if module not in report.modules:
            missing.append(f"the log has no module {module}")
            continue
        try:
            table = _module(report, module)
        except Exception as error:  # a damaged module; the others may still be good
            missing.append(f"module {module} cannot be read: {type(error).__name__}: {error}")
            continue
        if report.modules[module].get("partial_flag"):
            missing.append(f"module {module} is incomplete: Darshan ran out of memory while recording it")
        names = report.name_records
        if "LUSTRE_OST_IDS" in table:
            table["LUSTRE_OST_IDS"] = [" ".join(str(i) for i in ids) for ids in table["LUSTRE_OST_IDS"]]
        if "id" in table:
            table["file"] = [str(names.get(i, i)) for i in table.pop("id")]
        tables[module.lower().replace("-", "")] = table.infer_objects()
    for module in report.modules:
        if module not in MODULES:
            missing.append(f"module {module} is not read here")
    if isinstance(tables, dict) and not tables:
        missing.append("no module could be read")
    return job, {name: pd.DataFrame(t) for name, t in tables.items()}, missing


def _module(report: Any, module: str) -> Any:
    import pandas as pd

    if module.startswith("DXT"):
        report.mod_read_all_dxt_records(module)
        parts = []
        for record in report.records[module].to_df():
            for operation in ("read", "write"):
                segments = record[f"{operation}_segments"]
                if len(segments):
                    parts.append(
                        pd.DataFrame(segments).assign(id=record["id"], rank=record["rank"], operation=operation)
                    )
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"operation": []})
        return table.head(MOST_SEGMENTS)
    if module == "LUSTRE":
        report.mod_read_all_lustre_records(module)
        records = report.records[module].to_df()
        table = records.get("counters", records.get("components")) if isinstance(records, dict) else records
        return pd.DataFrame(table)
    report.mod_read_all_records(module)
    records = report.records[module].to_df()
    return records["counters"].merge(records["fcounters"], on=["id", "rank"])


def _features(job: dict[str, float], tables: dict[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Compute the numbers, from POSIX if there is such a table, else MPI-IO, else STDIO."""
    features: dict[str, float] = dict(job)
    layer = next((n for n in ("posix", "mpiio", "stdio") if n in tables and len(tables[n])), None)
    if layer is None:
        return features, _units(features)
    table, prefix = tables[layer], {"posix": "POSIX", "mpiio": "MPIIO", "stdio": "STDIO"}[layer]

    def total(*names: str) -> float:
        return float(sum(table[f"{prefix}_{n}"].clip(lower=0).sum() for n in names if f"{prefix}_{n}" in table))

    if layer == "mpiio":
        reads = total("INDEP_READS", "COLL_READS", "SPLIT_READS", "NB_READS")
        writes = total("INDEP_WRITES", "COLL_WRITES", "SPLIT_WRITES", "NB_WRITES")
        opens = total("INDEP_OPENS", "COLL_OPENS")
    else:
        reads, writes, opens = total("READS"), total("WRITES"), total("OPENS")
    read, written = total("BYTES_READ"), total("BYTES_WRITTEN")
    moved = read + written
    times = {n: total(f"F_{n.upper()}_TIME") for n in ("read", "write", "meta")}
    busy = sum(times.values())
    features |= {
        "reads": reads, "writes": writes, "opens": opens, "bytes_read": read, "bytes_written": written,
        "write_share": written / moved if moved else 0.0,
        "mean_read_bytes": read / reads if reads else 0.0,
        "mean_write_bytes": written / writes if writes else 0.0,
        "metadata_time_share": times["meta"] / busy if busy else 0.0,
        "io_time_share": busy / (job["processes"] * job["run_time_s"]) if job["run_time_s"] else 0.0,
        "files": float(table["file"].nunique()),
        "shared_files": float(table.loc[table["rank"] == -1, "file"].nunique()) if job["processes"] > 1 else 0.0,
        "bytes_in_shared_files": _in_shared(table, prefix) / moved if moved and job["processes"] > 1 else 0.0,
    }  # fmt: skip
    if layer == "posix":
        operations = max(reads + writes, 1.0)
        small = total(*(f"SIZE_{op}_{s}" for op in ("READ", "WRITE") for s in _SIZES[:4]))
        features |= {
            "small_share": small / operations,
            "sequential_share": total("SEQ_READS", "SEQ_WRITES") / operations,
            "consecutive_share": total("CONSEC_READS", "CONSEC_WRITES") / operations,
            "misaligned_share": total("FILE_NOT_ALIGNED") / operations,
            "stats": total("STATS"),
            "metadata_operations_share": (opens + total("STATS")) / (opens + total("STATS") + reads + writes)
            if opens + reads + writes else 0.0,
            "fsyncs": total("FSYNCS", "FDSYNCS"),
            "switches_share": total("RW_SWITCHES") / operations,
        }  # fmt: skip
    features |= _imbalance(table, prefix)
    if "mpiio" in tables:
        mpi = tables["mpiio"]
        collective = float(mpi[["MPIIO_COLL_READS", "MPIIO_COLL_WRITES"]].clip(lower=0).sum().sum())
        single = float(mpi[["MPIIO_INDEP_READS", "MPIIO_INDEP_WRITES"]].clip(lower=0).sum().sum())
        features["collective_share"] = collective / (collective + single) if collective + single else 0.0
    if "lustre" in tables:
        lustre = tables["lustre"]
        for name, column in (("stripe_count", "LUSTRE_COMP_STRIPE_COUNT"), ("stripe_size", "LUSTRE_COMP_STRIPE_SIZE")):
            if column in lustre and len(lustre):
                features[name] = float(lustre[column].median())
        features |= _slow_target(table, prefix, lustre)
    return features, _units(features)


def _in_shared(table: Any, prefix: str) -> float:
    columns = [f"{prefix}_BYTES_READ", f"{prefix}_BYTES_WRITTEN"]
    return float(table.loc[table["rank"] == -1, columns].clip(lower=0).sum().sum())


def _slow_target(table: Any, prefix: str, lustre: Any) -> dict[str, float]:
    """Mean time a byte on the slowest storage target over the median target, from files that lie on one target each."""
    if "LUSTRE_OST_IDS" not in lustre or not len(lustre):
        return {}
    single = lustre[lustre["LUSTRE_COMP_STRIPE_COUNT"] == 1]
    target = dict(zip(single["file"], single["LUSTRE_OST_IDS"], strict=True))
    records = table[table["file"].isin(target)].copy()
    moved = records[[f"{prefix}_BYTES_READ", f"{prefix}_BYTES_WRITTEN"]].clip(lower=0).sum(axis=1)
    records = records.assign(moved=moved, took=records[f"{prefix}_F_READ_TIME"] + records[f"{prefix}_F_WRITE_TIME"])
    records["target"] = records["file"].map(target)
    grouped = records.groupby("target")[["moved", "took"]].sum()
    cost = (grouped["took"] / grouped["moved"])[grouped["moved"] > 2**20]
    if len(cost) < 3 or cost.median() <= 0:
        return {}
    return {
        "slowest_target": float(str(cost.idxmax()).strip("[] ")),
        "slowest_target_over_median": float(cost.max() / cost.median()),
    }


def _imbalance(table: Any, prefix: str) -> dict[str, float]:
    """Slowest over mean rank, in time: from records of single ranks, or from the slowest and fastest of shared ones."""
    times = [f"{prefix}_F_{n}_TIME" for n in ("READ", "WRITE", "META")]
    single = table[table["rank"] >= 0]
    imbalance = {}
    if single["rank"].nunique() > 1:
        by_rank = single.groupby("rank")[times].sum().sum(axis=1)
        if by_rank.mean() > 0:
            imbalance["rank_imbalance"] = float(by_rank.max() / by_rank.mean())
    slow, fast = f"{prefix}_F_SLOWEST_RANK_TIME", f"{prefix}_F_FASTEST_RANK_TIME"
    shared = table[table["rank"] == -1]
    if len(shared) and slow in shared and shared[fast].clip(lower=0).sum() > 0:
        imbalance["shared_file_imbalance"] = float(shared[slow].sum() / shared[fast].clip(lower=0).sum())
    return imbalance


def _units(features: dict[str, float]) -> dict[str, str]:
    def unit(name: str) -> str:
        if "bytes" in name and "share" not in name and name != "bytes_in_shared_files":
            return "B"
        return "s" if name.endswith("_s") else "B" if name == "stripe_size" else ""

    return {name: unit(name) for name in features}


def _size(number: float) -> str:
    for unit, by in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= by:
            return f"{number / by:.3g} {unit}"
    return f"{number:.0f} B"


def facts(features: dict[str, float]) -> list[str]:
    """Say what the numbers mean for tuning, in plain sentences."""

    def percent(name: str) -> str:
        return f"{100 * features[name]:.0f} %"

    said = [f"{features['processes']:,.0f} processes ran for {features['run_time_s']:,.4g} s"]
    if "reads" not in features:
        return [*said, "no file input or output was recorded"]
    moved = features["bytes_read"] + features["bytes_written"]
    said.append(
        f"{_size(features['bytes_read'])} were read in {features['reads']:,.0f} requests,"
        f" {_size(features['bytes_written'])} written in {features['writes']:,.0f};"
        f" the files number {features['files']:,.0f},"
        f" of which {features['shared_files']:,.0f} are shared by all processes"
    )
    if features["write_share"] > 0.9:
        said.append("almost only writes")
    elif features["write_share"] < 0.1 and moved:
        said.append("almost only reads")
    mean = moved / max(features["reads"] + features["writes"], 1)
    where = "a shared file" if features["bytes_in_shared_files"] > 0.5 else "files of their own"
    order = ""
    if "consecutive_share" in features and features["reads"] + features["writes"] > 0:
        order = (
            "sequential "
            if features["sequential_share"] > 0.8
            else "random "
            if features["sequential_share"] < 0.4
            else "partly sequential "
        )
    if moved:
        kind = "small" if mean < SMALL else "large" if mean >= 2**20 else "medium-sized"
        mostly = "mostly " if 0.5 < features["bytes_in_shared_files"] < 0.95 else ""
        said.append(f"{kind} {order}requests (mean {_size(mean)}), {mostly}to {where}")
    if features.get("small_share", 0) > 0.5 and mean >= SMALL:
        said.append(f"{percent('small_share')} of the requests are below 100 kB, though most bytes move in larger ones")
    if features["metadata_time_share"] > 0.3:
        said.append(
            f"metadata-heavy: {percent('metadata_time_share')} of the time in input and output is spent on"
            " opening, closing and stat"
        )
    elif features.get("metadata_operations_share", 0) > 0.3 and features["opens"] > 100:
        said.append(
            f"metadata-heavy: {percent('metadata_operations_share')} of the calls open a file or ask for its state"
        )
    if features.get("misaligned_share", 0) > 0.3:
        said.append(
            f"{percent('misaligned_share')} of the requests are not aligned to the file system's blocks or stripes"
        )
    imbalance = max(features.get("rank_imbalance", 0), features.get("shared_file_imbalance", 0))
    if imbalance > 2:
        other = "the mean one" if features.get("rank_imbalance", 0) >= imbalance else "the fastest"
        said.append(f"imbalanced ranks: the slowest process spends {imbalance:.1f} times as long on files as {other}")
    if features.get("slowest_target_over_median", 0) > 3:
        said.append(
            f"storage target {features['slowest_target']:.0f} takes {features['slowest_target_over_median']:.0f} times"
            " as long for a byte as the median one"
        )
    if "collective_share" in features:
        said.append(f"MPI-IO: {percent('collective_share')} of the requests are collective")
    if features.get("switches_share", 0) > 0.2:
        said.append("reads and writes alternate often in one file")
    if features.get("fsyncs", 0) > 0:
        said.append(f"{features['fsyncs']:,.0f} calls of fsync")
    if "stripe_count" in features:
        said.append(
            f"Lustre: files have {features['stripe_count']:.0f} stripe{'s' if features['stripe_count'] != 1 else ''} of"
            f" {_size(features.get('stripe_size', 0))} in the median"
        )
    if features["io_time_share"] * max(imbalance, 1) < 0.05:
        said.append(
            f"input and output take {100 * features['io_time_share']:.1f} % of the run time:"
            " tuning the file system can gain little here"
        )
    return said
