"""Pages on real directories: moved, checked, and safe from kill -9."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunewright.envs.storage.hybrid import pagestore
from tunewright.envs.storage.hybrid.pagestore import PageStore, TierFile, TierPlace, parse_places
from tunewright.envs.storage.hybrid.real import RealTiers, payload
from tunewright.errors import ConfigError, HeldError, TargetError, TunewrightError


@pytest.fixture
def places(tmp_path):
    return [TierPlace(name="fast", directory=tmp_path / "fast"), TierPlace(name="slow", directory=tmp_path / "slow")]


def filled(places, pages=100):
    store = PageStore([TierFile(p, 10) for p in places])
    store.write(range(pages), [payload(p, 1) for p in range(pages)], 1)
    return store


def test_pages_move_and_keep_their_content(places):
    store, rng = filled(places), random.Random(0)
    for _ in range(150):
        first = rng.randrange(90)
        some = list(range(first, first + rng.randrange(1, 10)))
        if rng.random() < 0.5:
            store.move(some, rng.randrange(2))
        else:
            store.write(some, [payload(p, store.version[p] + 1) for p in some], rng.randrange(2))
    for page in range(100):
        [(version, content)] = store.read([page], 0)
        assert version == store.version[page] and content == payload(page, version)
    store.close()
    again = PageStore([TierFile(p, 10) for p in places])
    again.recover()
    assert again.version == store.version and again.damaged == 0
    assert all(again.read([p], 0)[0][1] == payload(p, again.version[p]) for p in range(100))
    again.remove()
    assert not list(places[0].directory.iterdir())


def test_two_runs_do_not_share_a_directory(places):
    first = TierFile(places[0], 4)
    with pytest.raises(HeldError, match="another run keeps its pages in"):
        TierFile(places[0], 4)
    first.remove()
    TierFile(places[0], 4).remove()


def test_a_damaged_page_is_told(places):
    store = filled(places)
    tier, slot = store.where[7]
    fd = os.open(store.files[tier].path, os.O_RDWR)
    os.pwrite(fd, b"X", slot * pagestore.PAGE + 1000)
    os.close(fd)
    with pytest.raises(TargetError, match="page 7 cannot be read with a valid checksum"):
        store.read([7], 1)
    store.close()
    again = PageStore([TierFile(p, 10) for p in places])
    again.recover()
    assert again.damaged == 1 and 7 not in again.version
    again.remove()


def test_a_migration_overtaken_by_a_write_does_not_bring_back_the_old_version(places):
    store = filled(places)
    held = store.read([3], 1)
    store.write([3], [payload(3, 2)], 1)
    store.store_copy([3], held, 0)
    assert store.read([3], 0)[0] == (2, payload(3, 2))
    assert store.where[3][0] == 1
    store.remove()


@pytest.mark.slow
def test_kill_9_in_the_middle_of_migrations_loses_no_page(tmp_path):
    spec = f"fast={tmp_path / 'fast'},slow={tmp_path / 'slow'}"
    script, rng = Path(__file__).with_name("kill_pages.py"), random.Random(1)
    acknowledged = dict.fromkeys(range(120), 1)
    for turn in range(25):
        child = subprocess.Popen([sys.executable, str(script), spec, str(turn)], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.01, 0.25))
        child.send_signal(signal.SIGKILL)
        with child.stdout as told:
            lines = told.read().splitlines()
        for line in lines:
            for pair in line.split()[1:]:
                if pair.count(":") == 1 and line.startswith("wrote"):
                    page, version = map(int, pair.split(":"))
                    acknowledged[page] = max(acknowledged[page], version)
        child.wait()
        store = PageStore([TierFile(p, 64) for p in parse_places(spec)])
        store.recover()
        assert set(store.version) == set(range(120)), turn
        for page in range(120):
            [(version, content)] = store.read([page], 0)
            # a write that was cut off may be there in whole, never in part; an acknowledged one is always there
            assert version >= acknowledged[page] and content == payload(page, version), (turn, page)
        store.close()
    assert sum(acknowledged.values()) > 500


def test_a_full_disk_is_told_and_nothing_is_lost(places, monkeypatch):
    store = filled(places)
    real = os.pwritev

    def full(fd, buffers, offset):
        if sum(len(b) for b in buffers) > 4096:
            raise OSError(28, "No space left on device")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(OSError, match="No space left"):
        store.move(range(10), 0)
    monkeypatch.setattr(os, "pwritev", real)
    assert [v for v, _ in store.read(range(10), 1)] == [1] * 10
    store.remove()


def test_workers_check_content_and_tell_faults(places):
    tiers = RealTiers(places, range(20), [10, 20])
    came = []
    tiers.read([1, 2], lambda: came.append(1))
    tiers.move([1, 2], 0)
    tiers.drain()
    assert came == [1] and tiers.store.where[1][0] == 0
    tiers.store.write([5], [payload(6, 2)], 0)  # another page's content
    tiers.read([5], lambda: None)
    with pytest.raises(TargetError, match="page 5, version 2, holds another page's content"):
        tiers.drain()
    tiers.close()


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("fast", "is no tier"),
        ("fast=/tmp/a", "two to four"),
        ("fast=/tmp/a,slow=/tmp/a", "a directory of its own"),
        ("fast=/tmp/a,fast=/tmp/b", "different names"),
        ("fast=/tmp/a,slow=/tmp/b?delay=2", "is not understood"),
        ("fast=/tmp/a,slow=/tmp/b?dely=2ms", "is not understood"),
        ("fast=/tmp/a,slow=/tmp/b?delay=-2ms", "is not understood"),
    ],
)
def test_wrong_specs(spec, why):
    with pytest.raises(ConfigError, match=why):
        parse_places(spec)


def test_a_directory_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TunewrightError, match="cannot use"):
        TierFile(TierPlace(name="t", directory=tmp_path / "file" / "x"), 4)


@pytest.mark.parametrize(
    "kind", ["text", "one slot of text", "zeros", "link", "dangling link", "hard link", "pipe", "folder"]
)
def test_a_users_file_of_that_name_is_left_as_it_is(kind, tmp_path):
    mine, page = tmp_path / "mine", tmp_path / "t" / "pages.tunewright"
    page.parent.mkdir()
    content = {"one slot of text": b"abc " * 1024, "zeros": bytes(9000)}.get(kind, b"my notes")
    if kind != "dangling link":
        mine.write_bytes(content)
    if "link" in kind and kind != "hard link":
        page.symlink_to(mine)
    elif kind == "hard link":
        store = PageStore([TierFile(TierPlace(name="t", directory=page.parent), 4)])
        store.write([1], [payload(1, 1)], 0)
        store.close()
        mine.unlink()
        os.link(page, mine)
        content = mine.read_bytes()
    elif kind == "pipe":
        os.mkfifo(page)
    elif kind == "folder":
        page.mkdir()
    else:
        mine.rename(page)
    with pytest.raises(TunewrightError, match=r"pages.tunewright is not a file of pages that tunewright made"):
        RealTiers(
            [TierPlace(name="t", directory=page.parent), TierPlace(name="s", directory=tmp_path / "s")], [1, 2], [2, 2]
        )
    assert os.path.lexists(page)
    if kind in ("text", "one slot of text", "zeros"):
        assert page.read_bytes() == content
    elif kind in ("link", "hard link"):
        assert mine.read_bytes() == content
    else:
        assert not mine.exists() or mine.read_bytes() == content


@pytest.mark.slow
def test_the_command_on_real_tiers(cli, tmp_path):
    spec = f"fast={tmp_path / 'f'},slow={tmp_path / 's'}?delay=1ms"
    words = (
        "place",
        "synthetic:zipf",
        "-O",
        "requests=300",
        "-O",
        "pages=200",
        "--policy",
        "lru-write,harmonia",
        "--real",
        spec,
    )
    document = json.loads(cli(*words, "--json").stdout)
    assert [r["policy"] for r in document["policies"]] == ["lru-write", "harmonia"]
    for row in document["policies"]:
        assert row["pages_checked"] > 100 and row["mean_latency_us"] > 0
        assert 0.01 < row["simulated_over_measured"] < 100  # how near it comes is for benchmarks/, not for a timed test
    assert not list((tmp_path / "s").iterdir())
