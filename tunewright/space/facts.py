"""Facts about this machine that bounds and constraints may refer to."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from typing import Any


@cache
def machine_facts() -> dict[str, Any]:
    """Return the facts of this machine.

    Returns:
        ``CPU_COUNT`` (usable cores), ``RAM_BYTES``, ``RAM_MB``, ``PAGE_BYTES`` (numbers, usable in
        expressions) and ``system``, ``kernel``, ``machine``, ``processor``, ``python`` (text).
    """
    import psutil

    ram = int(psutil.virtual_memory().total)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "CPU_COUNT": usable,
        "RAM_BYTES": ram,
        "RAM_MB": ram // 2**20,
        "PAGE_BYTES": os.sysconf("SC_PAGE_SIZE"),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processor": _processor(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of tunewright, its core packages and the given ones."""
    from importlib import metadata

    installed = {"python": sys.version.split()[0]}
    for name in ("tunewright", "numpy", "optuna", "gymnasium", *packages):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
