"""Killed at any moment, and two at once: every original stays as it was and every server up."""

import os
import subprocess
import sys
from pathlib import Path

import pg_cluster
import pytest
from kill_scenes import KILLS
from two_sessions import WAYS, both_at_once, both_on_one_server


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_at_random_moments():
    """The table on standard output says which seeds failed, and how to repeat one; TUNEWRIGHT_KILLS=600 plays all."""
    scenes = Path(__file__).with_name("kill_scenes.py")
    done = subprocess.run(
        [sys.executable, str(scenes)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={"TUNEWRIGHT_KILLS": "66", **os.environ},
    )
    print(done.stdout)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert done.returncode == 0, "\n".join([*failed[:40], done.stdout[-1500:], done.stderr[-1500:]])


def test_the_table_of_kills_adds_up():
    assert sum(KILLS.values()) == 600


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_second_of_two_sessions_is_refused(way, tmp_path):
    wrong = both_at_once(way, tmp_path)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.skipif(bool(pg_cluster.unavailable()), reason=pg_cluster.unavailable() or "there is one")
@pytest.mark.parametrize("way", ["one store", "two stores", "two homes"])
def test_the_second_of_two_sessions_on_one_server_is_refused(way, tmp_path):
    with pg_cluster.Cluster(f"tw{os.getpid()}two") as cluster:
        wrong = both_on_one_server(way, cluster, tmp_path)
    assert not wrong, "\n".join(wrong)
