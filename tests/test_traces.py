"""Block traces: formats, detection, bad lines, paging, synthetic workloads, statistics."""

import gzip
import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import ConfigError, TunewrightError
from tunewright.knowledge import tracestats
from tunewright.knowledge.blocktrace import Trace, paged, read_trace
from tunewright.knowledge.synthetic import KINDS, generate, open_trace

SAMPLES = {
    "msr": "128166372003061629,hm,1,Read,383496192,32768,413\n128166372016382155,hm,1,Write,310983680,4096,1\n",
    "blkparse": (
        "  8,16   5        1     0.000000000 18615  A   R 1444645666 + 256 <- (8,17) 1444645632\n"
        "  8,16   5        2     0.000001850 18615  Q   R 749016 + 64 [java]\n"
        "  8,16   5        3     0.000006438 18615  G   R 749016 + 64 [java]\n"
        "  8,16   5        4     0.000008750 18615  P   N [java]\n"
        "  8,16   5        5     1.332015370 18615  Q  WS 607392 + 8 [java]\n"
        "  8,16   5        6     1.332015371 18615  Q FWS 0 + 0 [java]\n"
        "  8,16   5        7     1.332015372 18615  Q   D 5000 + 8 [java]\n"
        "\nCPU0 (8,16):\n Reads Queued: 1\n"
    ),
    "disksim": "0.000 0 749016 64 1\n1332.015 0 607391 8 0\n",
    "disksim-ns": "0 0 749017 64 1\n1332015374 0 607392 8 0\n",
    "disksim-bytes": "0.000 0 383496192 32768 1\n1332.015 0 310984704 4096 0\n",
    "csv-libcachesim": "version,time,op,size,lbn\n1,100.5,28,32768,749016\n1,101.25,2a,4096,607392\n",
    "csv-named": "time_s,dev,sector,size_bytes,op\n0.5,1,749016,32768,R\n1.832,1,607392,4096,W\n",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_is_told_by_its_content(tmp_path, name):
    path = tmp_path / "anything.dat"
    path.write_text(SAMPLES[name])
    trace = read_trace(path)
    assert len(trace) == 2
    assert trace.write.tolist() == [False, True]
    assert trace.size.tolist() == [32768, 4096]
    assert trace.time_us[0] == 0 and 7e5 < trace.time_us[1] < 1.4e6
    assert trace.offset[0] // 512 in (749016, 749017)


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_compressed_files(tmp_path, packing):
    try:
        zstd = importlib.import_module("compression.zstd")
    except ImportError:
        zstd = importlib.import_module("backports.zstd")
    packed = {"gzip": gzip.compress, "zstd": zstd.compress}[packing](SAMPLES["msr"].encode())
    path = tmp_path / "t.csv"  # the ending says nothing
    path.write_bytes(packed)
    assert len(read_trace(path)) == 2
    path.write_bytes(packed[: len(packed) - 12])
    with pytest.raises(ConfigError, match="damaged"):
        read_trace(path)


def test_a_bad_line_is_named_and_can_be_tolerated(tmp_path):
    path = tmp_path / "t.trace"
    good = "".join(f"{i} 0 {8 * i} 8 1\n" for i in range(10))
    path.write_text(good + "11 0 nonsense 8 1\n" + "12 0 8 8 1\n" + "13 0 8\n")
    with pytest.raises(ConfigError, match=r"t\.trace:11: .*--skip-bad"):
        read_trace(path)
    with pytest.raises(ConfigError, match=r"t\.trace:13: 3 columns instead of 5.*bad line number 2"):
        read_trace(path, skip_bad=1)
    trace = read_trace(path, skip_bad=2)
    assert len(trace) == 11 and trace.info["skipped"] == 2


@pytest.mark.parametrize(
    "line", ["5 0 8 0 1", "5 0 -8 8 1", "nan 0 8 8 1", "5 0 1e3 8 1", "5 0 99999999999999999999 8 1"]
)
def test_values_that_make_no_sense(tmp_path, line):
    path = tmp_path / "t"
    path.write_text("".join(f"{i} 0 {8 * i + 1} 8 1\n" for i in range(10)) + line + "\n")
    with pytest.raises(ConfigError, match="t:11:"):
        read_trace(path)


def test_files_of_addresses_alone_are_refused_with_the_reason(tmp_path):
    arc = tmp_path / "OLTP.lis"
    arc.write_text("".join(f"{i * 7} 1 0 {i}\n" for i in range(50)))
    with pytest.raises(ConfigError, match="no timed trace: it holds addresses and lengths only"):
        read_trace(arc)
    ramp = tmp_path / "ramp"
    ramp.write_text("".join(f"{i * 10} 0 {i * 7 + 1} 8 0\n" for i in range(300)))
    with pytest.raises(ConfigError, match="ramp of equal steps"):
        read_trace(ramp)
    unmarked = tmp_path / "u.csv"
    unmarked.write_text("time,obj_id,obj_size\n1,5,4096\n")
    with pytest.raises(ConfigError, match="no read/write flag"):
        read_trace(unmarked)


def test_what_is_no_trace(tmp_path):
    for content, why in (("", "empty"), ("hello\nworld\n", "no format that is known"), ("a,b\n1,2\n", "time stamps")):
        path = tmp_path / "x"
        path.write_text(content)
        with pytest.raises(ConfigError, match=why):
            read_trace(path)
    with pytest.raises(ConfigError, match="there is no trace file"):
        read_trace(tmp_path / "missing")


def test_whole_seconds_are_spread_and_disks_lie_one_after_another(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("time,op,size,lbn,dev\n" + "".join(f"{7 + i // 4},28,512,{i},{i % 2}\n" for i in range(8)))
    trace = read_trace(path)
    assert np.allclose(np.diff(trace.time_us), 250_000)
    assert trace.info["disks"] == 2
    assert trace.offset[1] - trace.offset[0] >= 1 << 20


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 200)), min_size=1, max_size=40))
def test_paging_keeps_addresses_and_neighbours(requests):
    offset = np.array([o * 1000 for o, _ in requests])
    size = np.array([s * 500 for _, s in requests])
    trace = Trace(
        name="t", time_us=np.zeros(len(requests)), offset=offset, size=size, write=np.zeros(len(requests), bool)
    )
    cut = paged(trace)
    touched = set()
    for k in range(len(requests)):
        pages = range(cut.first[k], cut.first[k] + cut.count[k])
        address = [int(cut.address[p]) for p in pages]
        assert address == list(range(offset[k] // 4096, (offset[k] + size[k] - 1) // 4096 + 1))
        touched.update(pages)
    assert cut.footprint == len(touched)
    assert np.all(np.diff(cut.address) > 0)
    assert len(cut.address) % 64 == 0 and np.all(cut.address[::64] % 64 == 0)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4)), min_size=1, max_size=60))
def test_reuse_distances_against_a_list(requests):
    first, count = (np.array(c, np.int32) for c in zip(*requests, strict=True))
    found = tracestats.reuse_distances(first, count, 24, 10_000)
    stack, expected = [], []
    for f, c in requests:
        for page in range(f, f + c):
            expected.append(stack.index(page) if page in stack else -1)
            if page in stack:
                stack.remove(page)
            stack.insert(0, page)
    assert found.tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_synthetic_workloads_state_their_parameters_and_repeat(kind):
    one, two = (generate(kind, requests=3000, seed=5) for _ in range(2))
    assert np.array_equal(one.offset, two.offset) and np.array_equal(one.time_us, two.time_us)
    other = generate(kind, requests=3000, seed=6)
    assert not np.array_equal(one.time_us, other.time_us)
    assert one.info["generator"] == kind and one.info["seed"] == 5 and len(one.info) >= 6
    assert np.all(np.diff(one.time_us) >= 0) and np.all(one.size > 0) and np.all(one.offset >= 0)
    assert 0.5 < np.diff(one.time_us).mean() / 1000 < 2


def test_synthetic_workloads_are_what_they_say():
    hot = tracestats.measure(paged(generate("zipf", requests=20_000, skew=1.1)))["hot_share"]["10%"]
    flat = tracestats.measure(paged(generate("zipf", requests=20_000, skew=0.0)))["hot_share"]["10%"]
    assert hot > 0.6 > 0.35 > flat
    assert tracestats.measure(paged(generate("sequential", requests=5000)))["sequential_16_streams"] > 0.9
    calm = tracestats.measure(paged(generate("zipf")))["interarrival_us"]["cv"]
    assert tracestats.measure(paged(generate("bursts")))["interarrival_us"]["cv"] > 2 * calm
    assert generate("zipf", requests=20_000, read_ratio=0.25).write.mean() == pytest.approx(0.75, abs=0.02)


def test_wrong_parameters_of_a_workload():
    for options, why in (
        ({"skw": "1"}, "Did you mean 'skew'"),
        ({"skew": "x"}, "a number is needed"),
        ({"pages": "1.5"}, "whole number"),
        ({"requests": "0"}, "requests >= 1"),
    ):
        with pytest.raises(TunewrightError, match=why):
            open_trace("synthetic:zipf", options)
    with pytest.raises(TunewrightError, match="no kind of synthetic workload named 'zip'"):
        open_trace("synthetic:zip")
    with pytest.raises(ConfigError, match="options"):
        open_trace("file.csv", {"skew": "1"})


@pytest.mark.data
def test_all_block_traces(data):
    counts = {
        "DTRS100M.trace.gz": (127_043, "disksim"),
        "ajw.1week.csv.gz": (44_519, "csv"),
        "blktrace.txt.gz": (15_524, "blkparse"),
        "block_traces_1.csv": (999, "csv"),
        "block_traces_2.csv": (999, "csv"),
        "cloudPhysicsIO.csv.gz": (113_872, "csv"),
        "msr.cut.per_10k.most_thpt_rand_iops.1006.trace.gz": (10_000, "disksim-bytes"),
        "msr.cut.per_10k.rw_20_80.105.trace.gz": (10_000, "disksim-bytes"),
        "sample.txt.gz": (1695, "blkparse"),
        "ssd-iozone-aligned2-100K.trace.gz": (100_000, "disksim"),
        "tpcc-small.trace": (6999, "disksim"),
        "wsrch-small.trace.gz": (24_783, "disksim"),
    }
    for name, (requests, form) in counts.items():
        trace = read_trace(data / "block" / name)
        assert (len(trace), trace.info["format"], trace.info["skipped"]) == (requests, form, 0), name
    for path in sorted((data / "block" / "lba_only").iterdir()):
        with pytest.raises(ConfigError, match="no timed trace"):
            read_trace(path)


def test_flushes_and_a_header_are_no_requests(tmp_path):
    blk = tmp_path / "blk.txt"
    lines = [f"8,16 1 {i} 0.00{i:02d}00000 9 Q W {8 * i} + 8 [fio]" for i in range(1, 40)]
    lines.insert(20, "8,16 1 99 0.002050000 9 Q FWS [fio]")
    blk.write_text("\n".join(lines) + "\n")
    trace = read_trace(blk)
    assert len(trace) == 39 and trace.info["skipped"] == 0
    blk.write_text("\n".join(lines).replace("Q W 160 + 8", "Q W") + "\n")
    with pytest.raises(ConfigError, match="without 'sector"):
        read_trace(blk)
    msr = tmp_path / "msr.csv"
    rows = [f"{128166372003061629 + 10**6 * i},usr,0,Read,{4096 * i},4096,100" for i in range(9)]
    msr.write_text("\n".join(["Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime", *rows]) + "\n")
    trace = read_trace(msr)
    assert len(trace) == 9 and trace.info["format"] == "msr"
