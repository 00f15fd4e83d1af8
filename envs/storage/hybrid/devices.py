"""Storage devices and configurations of two to four tiers: presets with their sources, or a TOML file of one's own."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, unknown
from tunewright.store.files import read_toml

PAGE_BYTES = 4096
_SOLID = ("read_latency_us", "write_latency_us", "read_mb_s", "write_mb_s", "read_iops", "write_iops")
_BUFFER = ("buffer_mb", "drain_mb_s", "gc_every_mb", "gc_ms")
_HOLD = ("read_hold_us", "write_hold_us")
_DISK = (
    "rpm",
    "average_seek_ms",
    "write_settle_ms",
    "track_to_track_ms",
    "transfer_mb_s",
    "overhead_us",
    "capacity_gb",
)


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device as its datasheet describes it.

    Attributes:
        name: preset or own name.
        title: product, in words.
        kind: ``solid`` or ``disk``.
        figures: the numbers, under the names and in the units of ``presets.toml``.
    """

    name: str
    title: str
    kind: str
    figures: Mapping[str, float]

    def kernel_fields(self) -> dict[str, float]:
        """Return the numbers that the kernel works with (see ``state.SIM``).

            A solid-state device's internal parallelism is its latency times its IOPS (Little's law). The seek time of a
        disk is ``track_to_track + span * sqrt(distance)``; for two random places the mean of that root is 8/15.
        """
        f = self.figures
        page_mb = PAGE_BYTES / 1e6
        if self.kind == "disk":
            revolution = 60e6 / f["rpm"]
            page_us = page_mb / f["transfer_mb_s"] * 1e6
            seek_min = f["track_to_track_ms"] * 1e3
            return {
                "disk": 1,
                "read_us": f["overhead_us"],
                "write_us": f["write_settle_ms"] * 1e3,
                "read_page": page_us,
                "write_page": page_us,
                "seek_min": seek_min,
                "seek_span": (f["average_seek_ms"] * 1e3 - seek_min) * 15 / 8,
                "revolution": revolution,
                "track": revolution / page_us,
                "span": f["capacity_gb"] * 1e9 / PAGE_BYTES,
            }
        read_page, write_page = (page_mb / f[k] * 1e6 for k in ("read_mb_s", "write_mb_s"))
        return {
            "disk": 0,
            "read_us": f["read_latency_us"] - read_page,
            "write_us": f["write_latency_us"] - write_page,
            "read_page": read_page,
            "write_page": write_page,
            "read_gap": 1e6 / f["read_iops"],
            "write_gap": 1e6 / f["write_iops"],
            "read_hold": f.get("read_hold_us", 0.0),
            "write_hold": f.get("write_hold_us", 0.0),
            "buffer": f.get("buffer_mb", 0.0) / page_mb,
            "drain": f.get("drain_mb_s", 0.0) / page_mb / 1e6,
            "gc_pages": f.get("gc_every_mb", 0.0) / page_mb,
            "gc_us": f.get("gc_ms", 0.0) * 1e3,
        }


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Two to four tiers, fastest first.

    Attributes:
        name: preset or file.
        title: in words.
        tiers: the devices.
        shares: capacity of each tier but the last as a share of the trace's footprint; None: the default, which is
            ``fast`` for the first and twice the one before for each that follows.
    """

    name: str
    title: str
    tiers: tuple[Device, ...]
    shares: tuple[float | None, ...]

    def capacities(self, footprint: int, fast: float) -> list[int]:
        """Return the pages each tier holds; the last one, which holds all, is given as the footprint."""
        pages, share = [], fast
        for own in self.shares[:-1]:
            share = share if own is None else own
            pages.append(max(1, min(footprint, round(share * footprint))))
            share *= 2
        return [*pages, footprint]


def _device(name: str, table: Any, where: str) -> Device:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: device {name!r} must be a table of figures")
    kind = table.get("kind")
    if kind not in ("solid", "disk"):
        raise ConfigError(f"{where}: device {name!r} needs kind = 'solid' or kind = 'disk', not {kind!r}")
    needed = _DISK if kind == "disk" else _SOLID
    optional = () if kind == "disk" else _BUFFER + _HOLD
    given = {k: v for k, v in table.items() if k not in ("kind", "title")}
    for key, value in given.items():
        if key not in needed + optional:
            raise unknown(f"figure of a {kind} device ({where}, {name})", key, needed + optional)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-9 < value < 1e12:
            raise ConfigError(f"{where}: {key} of device {name!r} must be a positive number, not {value!r}")
    if lacking := [k for k in needed if k not in given]:
        raise ConfigError(f"{where}: device {name!r} lacks {', '.join(lacking)}")
    if (some := [k for k in _BUFFER if k in given]) and len(some) < len(_BUFFER):
        raise ConfigError(
            f"{where}: device {name!r} has {', '.join(some)}; a write buffer needs all of {', '.join(_BUFFER)}"
        )
    made = Device(name=name, title=str(table.get("title", name)), kind=kind, figures=dict(given))
    for key in ("read_us", "write_us"):
        if made.kernel_fields()[key] < 0:
            raise ConfigError(
                f"{where}: {key[:-3]}_latency_us of device {name!r} is less than the transfer of one page takes"
            )
    return made


def _presets() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("presets.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def load_devices(name: str) -> Devices:
    """Return a configuration by preset name, or from a TOML file.

    A file has ``[[tier]]`` tables, fastest first, each with ``device`` (a preset's name or a table of figures) and, but
    for the last, an optional ``share`` of the footprint.

    Raises:
        ConfigError, UnknownNameError: what is wrong, and where.
    """
    presets = _presets()
    if not name.endswith(".toml"):
        if name not in presets["config"]:
            raise unknown("device configuration", name, [*presets["config"], "FILE.toml"])
        config = presets["config"][name]
        tiers = tuple(_device(n, presets["device"][n], "presets") for n in config["tiers"])
        return Devices(name=name, title=config["title"], tiers=tiers, shares=(None,) * len(tiers))
    path = Path(name)
    document = read_toml(path, "device file")
    rows = document.get("tier")
    if not isinstance(rows, list) or not 2 <= len(rows) <= 4 or not all(isinstance(r, dict) for r in rows):
        raise ConfigError(f"{name} needs two to four [[tier]] tables, fastest first")
    devices, shares = [], []
    for number, row in enumerate(rows):
        where = f"{name}, tier {number}"
        if extra := set(row) - {"device", "share"}:
            raise ConfigError(f"{where}: unknown {', '.join(sorted(extra))}; a tier has device and share")
        given, share = row.get("device"), row.get("share")
        if isinstance(given, str):
            if given not in presets["device"]:
                raise unknown("device", given, presets["device"])
            devices.append(_device(given, presets["device"][given], where))
        else:
            devices.append(_device(f"tier{number}", given, where))
        if share is not None and (isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1):
            raise ConfigError(f"{where}: share must be between 0 and 1, not {share!r}")
        shares.append(share)
    title = str(document.get("title", ", ".join(d.title for d in devices)))
    return Devices(name=path.stem, title=title, tiers=tuple(devices), shares=tuple(shares))
