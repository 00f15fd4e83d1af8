"""Statistics that systems print: PostgreSQL's views, RocksDB's tickers, traces of LLM requests; and ``strace``'s."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.errors import ConfigError
from tunewright.knowledge import strace, timestamps
from tunewright.knowledge.evidence import Observations
from tunewright.store.files import decoded, read_text, reason

_TICKER = re.compile(
    r"^(rocksdb\.[\w.-]+)\s+(?:COUNT\s*:\s*(\d+)|P50\s*:\s*([\d.]+)\s+P95\s*:\s*([\d.]+)\s+P99\s*:\s*([\d.]+))", re.M
)


def read(path: Path, head: bytes) -> Observations | None:
    """Read one of these by its content; None if it is none of them."""
    text = decoded(head)
    first = text.split("\n", 1)[0].strip()
    if _TICKER.search(text):
        return _rocksdb(path, _whole(path))
    if strace.is_strace(text):
        return strace.read(path, _whole(path))
    if (first.startswith("{") and '"input_length"' in first) or first.startswith("TIMESTAMP,ContextTokens"):
        return _requests(path, _whole(path))
    columns = set(next(csv.reader([first]), []))
    if {"blks_hit", "blks_read"} <= columns or {"checkpoints_req"} <= columns or {"seq_scan", "n_tup_ins"} <= columns:
        return _postgres(path, _whole(path))
    return None


def _whole(path: Path) -> str:
    return read_text(path, "log", errors="replace")


def _csv(path: Path, text: str) -> Any:
    """Return a table with named columns; of a row with more cells than names, nobody knows whose they are."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(io.StringIO(text), index_col=False)
    except (ValueError, pd.errors.ParserWarning) as error:
        raise ConfigError(
            f"{path}: its rows do not fit the names of its columns: {' '.join(str(error).split())}"
        ) from None


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _postgres(path: Path, text: str) -> Observations:
    """pg_stat_database, pg_stat_bgwriter or pg_stat_user_tables as CSV."""
    import pandas as pd

    table = _csv(path, text)

    def total(name: str) -> float:
        if name not in table:
            return 0.0
        try:
            return float(pd.to_numeric(table[name]).fillna(0).sum())
        except (ValueError, TypeError) as error:  # a cell that is no number would otherwise count as nothing
            raise ConfigError(f"{path}, column {name}: {error}") from None

    features: dict[str, float] = {}
    said = []
    if "blks_hit" in table:
        hit, missed = total("blks_hit"), total("blks_read")
        features |= {
            "cache_hit_share": _share(hit, hit + missed), "temporary_bytes": total("temp_bytes"),
            "deadlocks": total("deadlocks"), "commits": total("xact_commit"), "rollbacks": total("xact_rollback"),
        }  # fmt: skip
        said.append(f"{100 * features['cache_hit_share']:.1f} % of block accesses were served by shared buffers")
        if hit + missed > 10_000 and features["cache_hit_share"] < 0.9:
            said.append("the cache misses often: shared_buffers may be too small for the working set")
        if features["temporary_bytes"] > 0:
            said.append(
                f"{features['temporary_bytes'] / 1e6:,.0f} MB were spilled to temporary files: work_mem is too small"
                " for some queries"
            )
        if features["rollbacks"] > 0.1 * max(features["commits"], 1):
            said.append("many transactions are rolled back")
    if "checkpoints_req" in table:
        asked, timed = total("checkpoints_req"), total("checkpoints_timed")
        features |= {
            "forced_checkpoint_share": _share(asked, asked + timed),
            "backend_writes": total("buffers_backend"),
        }
        said.append(f"{asked:,.0f} checkpoints were forced by the amount of WAL, {timed:,.0f} by time")
        if asked > timed:
            said.append("checkpoints come before their time: max_wal_size is too small")
        written = features["backend_writes"] + total("buffers_checkpoint") + total("buffers_clean")
        if written and features["backend_writes"] > 0.3 * written:
            said.append(
                "sessions write many dirty buffers themselves: the background writer is too slow or the cache too small"
            )
    if "seq_scan" in table:
        scans, index = total("seq_scan"), total("idx_scan")
        features |= {
            "sequential_scan_share": _share(scans, scans + index),
            "dead_rows": total("n_dead_tup"),
            "live_rows": total("n_live_tup"),
        }
        said.append(f"{100 * features['sequential_scan_share']:.0f} % of scans are sequential")
        if features["dead_rows"] > 0.2 * max(features["live_rows"], 1):
            said.append("many dead rows: autovacuum does not keep up")
    units = {"temporary_bytes": "B"}
    return Observations(
        source=path.name,
        kind="postgres-statistics",
        tables={"statistics": table},
        features=features,
        units=units,
        facts=tuple(said),
    )


def _rocksdb(path: Path, text: str) -> Observations:
    """What RocksDB prints as statistics: tickers and histograms."""
    import pandas as pd

    counts = {m[1]: float(m[2]) for m in _TICKER.finditer(text) if m[2] is not None}
    times = {m[1]: (float(m[3]), float(m[4]), float(m[5])) for m in _TICKER.finditer(text) if m[3] is not None}

    def of(name: str) -> float:
        return counts.get(f"rocksdb.{name}", 0.0)

    hit, missed = of("block.cache.hit"), of("block.cache.miss")
    checked = of("bloom.filter.useful") + of("bloom.filter.full.positive")
    features = {
        "block_cache_hit_share": _share(hit, hit + missed),
        "bloom_useful_share": _share(of("bloom.filter.useful"), checked),
        "stall_s": of("stall.micros") / 1e6,
        "write_amplification": _share(of("compact.write.bytes") + of("flush.write.bytes"), of("flush.write.bytes")),
        "bytes_written": of("bytes.written"), "bytes_read": of("bytes.read"),
        "reads": of("number.keys.read"), "writes": of("number.keys.written"),
    }  # fmt: skip
    said = [f"{features['reads']:,.0f} keys were read and {features['writes']:,.0f} written"]
    if hit + missed:
        said.append(f"{100 * features['block_cache_hit_share']:.1f} % of block reads were served by the block cache")
    if hit + missed > 1000 and features["block_cache_hit_share"] < 0.8:
        said.append("the block cache is too small for the working set, or its blocks are too large")
    if features["stall_s"] > 0:
        said.append(f"writes were stalled for {features['stall_s']:,.3g} s: flushing or compaction does not keep up")
    if features["write_amplification"] > 10:
        said.append(f"every byte is written {features['write_amplification']:.0f} times: compaction is the cost")
    if checked == 0 and features["reads"] > 1000:
        said.append("no bloom filter was used")
    rows = pd.DataFrame({"ticker": list(counts), "count": list(counts.values())})
    spread = pd.DataFrame([(k, *v) for k, v in times.items()], columns=["histogram", "p50", "p95", "p99"])
    units = {"stall_s": "s", "bytes_written": "B", "bytes_read": "B"}
    return Observations(
        source=path.name,
        kind="rocksdb-statistics",
        tables={"tickers": rows, "histograms": spread},
        features=features,
        units=units,
        facts=tuple(said),
    )


def _requests(path: Path, text: str) -> Observations:
    """Requests to a language model: JSON lines with hash_ids of prefix blocks (Mooncake), or Azure's CSV."""
    import pandas as pd

    rows: list[tuple[float, int, int]] = []
    line_number = 1
    seen: set[int] = set()
    again = blocks = 0
    try:
        if text.lstrip().startswith("{"):
            for line_number, line in enumerate(text.splitlines(), 1):  # noqa: B007
                if not line.strip():
                    continue
                entry = json.loads(line)
                rows.append((timestamps.of_request(entry), int(entry["input_length"]), int(entry["output_length"])))
                ids = entry.get("hash_ids") or []
                blocks += len(ids)
                again += sum(i in seen for i in ids)
                seen.update(ids)
            table = pd.DataFrame(rows, columns=["arrival_s", "input_tokens", "output_tokens"])
        else:
            raw = _csv(path, text)
            times = pd.to_datetime(raw["TIMESTAMP"], format="ISO8601", utc=True)  # one without a zone is in UTC
            table = pd.DataFrame(
                {
                    "arrival_s": (times - times.min()).dt.total_seconds(),
                    "input_tokens": pd.to_numeric(raw["ContextTokens"]),
                    "output_tokens": pd.to_numeric(raw["GeneratedTokens"]),
                }
            )
            if (empty := table.isna().any(axis=1).to_numpy()).any():
                line_number = int(empty.argmax()) + 2
                raise ValueError("a cell is empty")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}, line {line_number}: not a request as before it: {reason(error)}") from None
    gaps = np.diff(np.sort(table["arrival_s"].to_numpy()))
    duration = float(table["arrival_s"].max() - table["arrival_s"].min())
    tokens_in, tokens_out = table["input_tokens"], table["output_tokens"]
    features: dict[str, float] = {
        "requests": float(len(table)),
        "duration_s": duration,
        "requests_per_s": _share(len(table), duration),
        "mean_input_tokens": float(tokens_in.mean()),
        "mean_output_tokens": float(tokens_out.mean()),
        "p99_input_tokens": float(tokens_in.quantile(0.99)),
        "p99_output_tokens": float(tokens_out.quantile(0.99)),
        "arrival_cv": float(gaps.std() / gaps.mean()) if len(gaps) and gaps.mean() > 0 else 0.0,
    }
    said = [
        f"{len(table):,} requests in {duration:,.4g} s, {features['mean_input_tokens']:,.0f} tokens in and"
        f" {features['mean_output_tokens']:,.0f} out in the mean"
    ]
    if blocks:
        features["prefix_hit_share"] = again / blocks
        said.append(
            f"{100 * features['prefix_hit_share']:.0f} % of the prompt blocks were seen before:"
            " prefix caching would save that much prefill, memory permitting"
        )
    if features["arrival_cv"] > 1.5:
        said.append(f"requests come in bursts (their gaps vary by {features['arrival_cv']:.1f} times their mean)")
    ratio = features["mean_input_tokens"] / max(features["mean_output_tokens"], 1)
    said.append(
        "prefill dominates" if ratio > 20 else "decoding dominates" if ratio < 2 else "prefill and decoding both matter"
    )
    units = {
        "duration_s": "s",
        "requests_per_s": "1/s",
        **dict.fromkeys(("mean_input_tokens", "mean_output_tokens", "p99_input_tokens", "p99_output_tokens"), "tokens"),
    }
    return Observations(
        source=path.name,
        kind="llm-requests",
        tables={"requests": table},
        features=features,
        units=units,
        facts=tuple(said),
    )
