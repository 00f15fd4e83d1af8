"""Parsers of what load generators print: real output, and any other text."""

import os
import pkgutil
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.envs import loads
from tunewright.envs.loads import _progress, pgbench
from tunewright.errors import ConfigError, TargetError, UnknownNameError
from tunewright.measuring.guarding import Bounds, reports
from tunewright.target import Budget

WRK = """Running 1s test @ http://127.0.0.1:18999/
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.68ms   12.46ms  81.38ms   90.17%
    Req/Sec     2.36k     0.94k    3.56k    70.00%
  Latency Distribution
     50%  914.00us
     75%    2.53ms
     90%   17.59ms
     99%   69.22ms
  2350 requests in 1.01s, 436.04KB read
Requests/sec:   2337.76
Transfer/sec:    433.76KB
"""
AB = """This is ApacheBench, Version 2.3 <$Revision$>
Concurrency Level:      4
Time taken for tests:   0.243 seconds
Complete requests:      300
Failed requests:        0
Requests per second:    1233.73 [#/sec] (mean)
Time per request:       3.242 [ms] (mean)
Time per request:       0.811 [ms] (mean, across all concurrent requests)

Percentage of the requests served within a certain time (ms)
  50%      1
  95%      8
  99%     52
 100%     52 (longest request)
"""
HEY = """
Summary:
  Total:\t0.0312 secs
  Slowest:\t0.0122 secs
  Fastest:\t0.0005 secs
  Average:\t0.0067 secs
  Requests/sec:\t6404.5128

Latency distribution:
  10% in 0.0013 secs
  50% in 0.0060 secs
  95% in 0.0112 secs
  99% in 0.0120 secs

Status code distribution:
  [200]\t198 responses
  [503]\t1 responses

Error distribution:
  [1]\tGet "http://127.0.0.1:8080/": EOF
"""
K6 = """
     http_req_duration..............: avg=1.21ms   med=950.4µs p(95)=2.5ms p(99)=1m2.5s
       { expected_response:true }...: avg=1.2ms   med=950µs p(95)=2.4ms p(99)=5ms
     http_req_failed................: 0.00%   ✓ 0           ✗ 5231
     http_reqs......................: 5231    520.331/s
"""
REDIS = """"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"SET","1000.00","24.282","1.720","22.127","75.903","76.095","76.223"
"GET","3000.00","24.650","4.288","24.015","37.151","53.983","54.143"
"""
REDIS_QUIET = " SET: rps=0.0 (overall: -nan)\rSET: 2272.73 requests per second, p50=20.079 msec\n GET: 2865.33 requests per second, p50=11.135 msec\n"
MEMTIER = """
ALL STATS
============================================================================================================================
Type         Ops/sec     Hits/sec   Misses/sec    Avg. Latency     p50 Latency     p95 Latency     p99 Latency       KB/sec
----------------------------------------------------------------------------------------------------------------------------
Sets        20011.26          ---          ---         2.49341         2.30300         4.1         6.04700      1541.61
Gets        20011.26         0.00     20011.26         2.48730         2.30300         4.0         6.01500       779.48
Waits           0.00          ---          ---             ---             ---         ---             ---          ---
Totals      40022.53         0.00     20011.26         2.49036         2.30300         4.1         6.04700      2321.09
"""
FIO = """fio: note before the JSON
{"jobs": [{"jobname": "tune", "error": 0,
 "read": {"bw_bytes": 1048576, "iops": 300, "total_ios": 300, "clat_ns": {"percentile": {"50.000000": 50000, "95.000000": 400000, "99.000000": 900000}}, "lat_ns": {"mean": 100000}},
 "write": {"bw_bytes": 1048576, "iops": 100, "total_ios": 100, "clat_ns": {"percentile": {"50.000000": 3088, "95.000000": 10432, "99.000000": 5000000}}, "lat_ns": {"mean": 500000}},
 "trim": {"total_ios": 0}}]}"""
YCSB = """[OVERALL], RunTime(ms), 10110
[OVERALL], Throughput(ops/sec), 98.91
[CLEANUP], Operations, 1
[CLEANUP], AverageLatency(us), 90000
[READ], Operations, 300
[READ], AverageLatency(us), 1000.0
[READ], 50thPercentileLatency(us), 800
[READ], 95thPercentileLatency(us), 1500
[READ], 99thPercentileLatency(us), 2000
[READ], Return=OK, 300
[UPDATE], Operations, 100
[UPDATE], AverageLatency(us), 3000.0
[UPDATE], 50thPercentileLatency(us), 2500
[UPDATE], 95thPercentileLatency(us), 2600
[UPDATE], 99thPercentileLatency(us), 9000
"""
GO_YCSB = """READ   - Takes(s): 5.0, Count: 10, OPS: 2.0, Avg(us): 9, Min(us): 1, Max(us): 100, 50th(us): 9, 90th(us): 9, 95th(us): 9, 99th(us): 99, 99.9th(us): 99, 99.99th(us): 99
Run finished, takes 10s
READ   - Takes(s): 10.0, Count: 300, OPS: 30.1, Avg(us): 1000, Min(us): 1, Max(us): 100, 50th(us): 800, 90th(us): 9, 95th(us): 1500, 99th(us): 2000, 99.9th(us): 1, 99.99th(us): 1
TOTAL  - Takes(s): 10.0, Count: 400, OPS: 40.1, Avg(us): 1500, Min(us): 1, Max(us): 100, 50th(us): 800, 90th(us): 9, 95th(us): 1500, 99th(us): 2000, 99.9th(us): 1, 99.99th(us): 1
UPDATE - Takes(s): 10.0, Count: 100, OPS: 10.0, Avg(us): 3000, Min(us): 1, Max(us): 100, 50th(us): 2500, 90th(us): 9, 95th(us): 2600, 99th(us): 9000, 99.9th(us): 1, 99.99th(us): 1
"""
READ = [
    ("wrk", WRK, {"throughput": 2337.76, "latency": 5.68, "p50": 0.914, "p99": 69.22, "p90": 17.59}),
    ("ab", AB, {"throughput": 1233.73, "latency": 3.242, "p50": 1, "p95": 8, "p99": 52}),
    ("hey", HEY.replace("[503]\t1", "[200]\t99").replace("  [1]\tG", "  G"), {"throughput": 6404.5128, "latency": 6.7, "p50": 6, "p95": 11.2, "p99": 12}),
    ("k6", K6, {"throughput": 520.331, "latency": 1.21, "p50": 0.9504, "p95": 2.5, "p99": 62500}),
    ("redis-benchmark", REDIS, {"throughput": 1500, "latency": 24.466, "p50": 24.015, "p95": 75.903, "p99": 76.095}),
    ("redis-benchmark", REDIS_QUIET, {"throughput": 2534.87, "p50": 20.079}),
    ("memtier", MEMTIER, {"throughput": 40022.53, "latency": 2.49036, "p50": 2.303, "p95": 4.1, "p99": 6.047}),
    ("fio", FIO, {"throughput": 400, "latency": 0.2, "p50": 0.05, "p95": 0.4, "p99": 5, "bandwidth": 2}),
    ("ycsb", YCSB, {"throughput": 98.91, "latency": 1.5, "p50": 2.5, "p95": 2.6, "p99": 9}),
    ("ycsb", GO_YCSB, {"throughput": 40.1, "latency": 1.5, "p50": 2.5, "p95": 2.6, "p99": 9}),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "text", "values"), READ)
def test_what_tools_print(tool, text, values, tmp_path):
    found = loads.parse(tool, text, tmp_path)
    assert found == pytest.approx(values, rel=1e-4)


def test_the_finer_percentiles_of_abs_table(tmp_path):
    (tmp_path / "ab.csv").write_text("Percentage served,Time in ms\n0,0.428\n50,1.145\n95,8.024\n99,51.832\n")
    assert loads.parse("ab", AB, tmp_path)["p99"] == 51.832


@pytest.mark.parametrize(
    ("tool", "text", "words"),
    [
        ("wrk", WRK.replace("Requests/sec", "  Non-2xx or 3xx responses: 2350\nRequests/sec"), "2350 of 2350 requests failed"),
        ("wrk", WRK.replace("Requests/sec", "  Socket errors: connect 0, read 40, write 0, timeout 2\nRequests/sec"), "42 of 2350"),
        ("ab", AB.replace("Failed requests:        0", "Failed requests:        9"), "9 of 300"),
        ("hey", HEY, "2 of 200 requests failed"),
        ("k6", K6.replace("0.00%", "4.50%"), "requests failed"),
        ("fio", FIO.replace('"error": 0', '"error": 5'), "the job 'tune' failed"),
        ("ycsb", YCSB + "[READ-FAILED], Operations, 3\n", "operations failed"),
        ("redis-benchmark", "Could not connect to Redis at 127.0.0.1:1: Connection refused", "Connection refused"),
        ("memtier", "connection error: Connection refused", "no table"),
        ("fio", "[]", "not what fio prints"),
    ],
)  # fmt: skip
def test_failed_requests_are_no_measurement(tool, text, words, tmp_path):
    text = text.replace("[503]\t1", "[503]\t2") if tool == "hey" else text
    with pytest.raises(TargetError, match="3 of 201 requests failed" if tool == "hey" else words):
        loads.parse(tool, text, tmp_path)


TOOLS = ["wrk", "ab", "hey", "k6", "fio", "redis-benchmark", "memtier", "ycsb"]


@settings(max_examples=60)
@given(st.sampled_from(READ), st.data())
def test_damaged_output_is_refused_in_one_line_or_read(sample, data):
    tool, text, _ = sample
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    put = data.draw(st.text(max_size=5))
    try:
        values = loads.parse(tool, text[:start] + put + text[end:], Path("/nonexistent"))
    except TargetError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
    else:
        assert values and all(isinstance(v, float) for v in values.values())


@given(st.sampled_from(TOOLS), st.text(max_size=80))
def test_any_other_text_is_refused(tool, text):
    with pytest.raises(TargetError):
        loads.parse(tool, text, Path("/nonexistent"))


def test_every_tool_is_complete():
    assert set(TOOLS) <= set(loads.names())
    for tool in loads.names():
        assert loads.metrics(tool), tool
        assert callable(loads.module(tool).parse)
    with pytest.raises(UnknownNameError, match="Did you mean 'wrk'"):
        loads.module("wrkk")
    shared = {m.name for m in pkgutil.iter_modules(loads.__path__) if m.name.startswith("_")}
    assert shared == {"_command", "_progress"}


def test_arguments_take_the_place_of_usual_ones():
    assert loads.command_line("wrk") == (
        "wrk",
        "-t",
        "2",
        "-c",
        "32",
        "-d",
        "5s",
        "--latency",
        "http://127.0.0.1:{port}/",
    )
    line = loads.command_line("wrk", ["-c", "8", "http://127.0.0.1:{port}/big"])
    assert line == ("wrk", "-t", "2", "-d", "5s", "--latency", "-c", "8", "http://127.0.0.1:{port}/big")
    assert loads.command_line("k6", ["--vus", "3", "my.js"])[-3:] == ("--vus", "3", "my.js")
    assert loads.command_line("k6")[:2] == ("k6", "run")
    assert "--bs=4k" not in loads.command_line("fio", ["--bs=64k"])
    with pytest.raises(ConfigError, match="no usual command line"):
        loads.command_line("ycsb")


def test_a_tool_gives_metrics_in_a_description(tmp_path):
    from tunewright.envs.command_file import load_description

    path = tmp_path / "t.toml"
    path.write_text("""
[target]
tool = "fio"
command = ["cat", "told{n}.json"]
metrics = ["p99", "throughput"]
[[metric]]
name = "bandwidth"
direction = "max"
regex = '"bw_bytes": (\\d+)'
[[metric]]
name = "throughput"
at_least = 5
[parameters]
n = { low = 1, high = 2, default = 1 }
""")
    about = load_description(path)
    assert [m.name for m in about.metrics] == ["bandwidth", "throughput", "p99"]
    assert (about.metrics[1].at_least, about.metrics[1].unit, about.rules["throughput"].tool) == (
        5,
        "operations/s",
        True,
    )
    assert not about.rules["bandwidth"].tool


def watched(folder, **bounds):
    return Budget(workdir=folder, bounds=Bounds(**bounds), progress=folder / "progress")


def test_interval_reports_are_put_together_until_they_tell_something(tmp_path, monkeypatch):
    """A transaction takes 2 s at the bound, so that single seconds have none or several."""
    now = [100.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    budget = watched(tmp_path, at_least={"tps": 0.5})
    reporter = _progress.reporter("pgbench", budget)
    for second in range(1, 81):
        now[0] += 1.0
        rate = 4.0 if second % 4 == 0 else 0.0
        reporter.line(f"progress: {second}.0 s, {rate} tps, lat {900.0 if rate else 'nan'} ms stddev 0.1, 0 failed")
        reporter.line("another line")
    told = reports(budget.progress)
    assert told == [{"tps": 1.0, "latency": 900.0}] * 2, "40 s each"
    assert budget.bounds.broken(told) == ""


def test_latencies_count_by_how_many_had_them(tmp_path):
    reporter = _progress.Reporter(pgbench.progress, watched(tmp_path))
    reporter._window_s = 0.0
    reporter._lines = [{"tps": 30.0, "latency": 1.0}, {"tps": 0.0}]
    reporter.line("progress: 3.0 s, 10.0 tps, lat 5.0 ms stddev 0.1")
    assert reports(tmp_path / "progress") == [{"tps": 40 / 3, "latency": 2.0}]


def test_nobody_watches_outside_of_careful_mode(tmp_path):
    assert _progress.reporter("pgbench", Budget(workdir=tmp_path)) is None
    assert _progress.reporter("pgbench", None) is None
    assert _progress.reporter("wrk", watched(tmp_path)) is None, "it says nothing while it runs"


def test_a_tool_that_is_watched_runs_to_its_end(tmp_path):
    reporter = _progress.reporter("pgbench", watched(tmp_path))
    reporter._window_s = 0.0
    script = (
        "import sys; print(sys.stdin.read()); print('x' * 200_000)\n"
        "for n in range(3): print(f'progress: {n}.0 s, 5.0 tps, lat 1.0 ms', file=sys.stderr)\n"
        "sys.exit(3)"
    )
    done = _progress.run([sys.executable, "-c", script], reporter, env=os.environ, given="asked")
    assert done.returncode == 3 and done.stdout.startswith("asked\n") and len(done.stdout) > 200_000
    assert done.stderr.count("progress") == 3 and len(reports(tmp_path / "progress")) == 3


def test_files_are_followed_while_they_are_written(tmp_path):
    lines, log = [], tmp_path / "log"
    log.write_bytes(b"")

    class Kept(_progress.Reporter):
        def line(self, text):
            lines.append(text)

    with _progress.followed(Kept(pgbench.progress, watched(tmp_path)), [log]), log.open("ab", buffering=0) as file:
        for piece in (b"one\rtw", b"o\n", b"three"):
            file.write(piece)
            time.sleep(0.25)
    assert lines == ["one", "two"]
