"""Thousands of damaged files through every door: one line each, no hang, no memory; see ``mutate.py``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COUNT, SEED = 3000, 20260


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_damaged_input_gives_a_traceback_or_takes_the_memory(tmp_path):
    for package in ("duckdb", "pandas", "pyarrow", "bs4", "docutils", "pypdf", "scipy", "langchain_core"):
        pytest.importorskip(package, reason="needs the extras: pip install 'tunewright[llm,compare]'")
    program = Path(__file__).with_name("mutate.py")
    # compilers take memory once and leave a cache; what the inputs take is measured by a process that finds it
    for count, folder in ((0, tmp_path / "first"), (COUNT, tmp_path / "all")):
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, str(program), str(folder), str(count), str(SEED)],
            capture_output=True,
            text=True,
            timeout=1700,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        report = json.loads((folder / "report.json").read_text())
        assert report["count"] == count and report["doors"] > 50
        assert not report["wrong"], "\n".join(f"{w['door']}: {w['said'][-600:]}" for w in report["wrong"][:10])
    assert max(report["peak_mb"].values()) < 1024
