"""Files that were read as something else than they say: times by the machine's zone, columns by position, jobs twice."""

import gzip
import json
import time

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.envs.scheduling.cluster import jobs as J
from tunewright.envs.scheduling.serving import trace as S
from tunewright.errors import ConfigError
from tunewright.knowledge import timestamps
from tunewright.knowledge.logs import observe

# --- times of day


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def zone(request, monkeypatch):
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.500000+00:00,100,5
2024-05-10 00:00:01+00:00,100,5
2024-05-10 00:00:01.5000000,100,5
2024-05-09 20:00:02-04:00,100,5
2024-05-10T00:00:02.5Z,100,5
"""


def test_whole_seconds_with_a_zone_are_not_moved_by_the_machines(zone, tmp_path):
    path = tmp_path / "azure.csv"
    path.write_text(AZURE)
    assert S.read(path).arrival_s.tolist() == [0, 0.5, 1, 1.5, 2]
    assert observe(path).tables["requests"]["arrival_s"].tolist() == [0, 0.5, 1, 1.5, 2]


def test_an_hour_that_a_zone_skips_or_repeats_is_an_hour(zone, tmp_path):
    for day in ("2024-03-10", "2024-11-03"):  # summer time begins and ends in New York
        path = tmp_path / f"{day}.csv"
        path.write_text("submit_time,duration,num_gpus\n" + "".join(f"{day} 0{h}:00:00,60,1\n" for h in range(5)))
        assert J.read(path).submit_s.tolist() == [0, 3600, 7200, 10800, 14400]


def test_an_end_may_be_a_date_too(zone, tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text("creation_time,deletion_time,num_gpu\n2024-03-10 01:00:00,2024-03-10 04:00:00Z,1\n")
    assert J.read(path).run_s.tolist() == [10800]


@given(
    st.datetimes(
        min_value=pd.Timestamp("1980-01-01").to_pydatetime(), max_value=pd.Timestamp("2100-01-01").to_pydatetime()
    )
)
def test_a_date_is_the_seconds_since_1970_in_utc(when):
    wanted = pd.Timestamp(when, tz="UTC").timestamp()
    for text in (
        when.isoformat(" "),
        f"{when.isoformat()}Z",
        f" {when.isoformat()}+00:00 ",
        f"{when.isoformat(' ')} UTC",
    ):
        assert timestamps.seconds(text) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("text", ["", "yesterday", "2024-13-01", "10:00:00", "2024-05-10 00:00:00 PDT", "1,5"])
def test_what_is_no_time(text, tmp_path):
    with pytest.raises(ValueError, match="is no time"):
        timestamps.seconds(text)
    path = tmp_path / "t.csv"
    path.write_text(f'arrival_s,input_tokens,output_tokens\n0,1,1\n"{text}",1,1\n')
    with pytest.raises(ConfigError, match=r"t\.csv, line 3: .*is no time"):
        S.read(path)


BAILIAN = """{"chat_id": 1, "timestamp": 61.5, "input_length": 1100, "output_length": 9, "hash_ids": [FIRST]}
{"chat_id": 2, "timestamp": 63.5, "input_length": 1100, "output_length": 9, "hash_ids": [SECOND]}
"""


def test_requests_of_bailian_count_in_seconds_and_in_blocks_of_16_tokens(tmp_path):
    first, second = list(range(69)), [*range(40), *range(100, 129)]  # alike for 40 blocks, so for one of 512 tokens
    path = tmp_path / "qwen.jsonl"
    path.write_text(BAILIAN.replace("FIRST", str(first)[1:-1]).replace("SECOND", str(second)[1:-1]))
    requests = S.read(path)
    assert requests.arrival_s.tolist() == [0, 2] and requests.chunk_count.tolist() == [2, 2]
    assert requests.chunks[0] == requests.chunks[2] and requests.chunks[1] != requests.chunks[3]
    assert observe(path).features["duration_s"] == 2
    path.write_text(path.read_text().replace('"chat_id": 1, ', "").replace('"chat_id": 2, ', ""))
    assert S.read(path).arrival_s.tolist() == pytest.approx([0, 0.002]), "Mooncake's are milliseconds"


# --- strace

STANDARD = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 90.00    9.000000        9000      1000           fsync
  9.00    0.900000        1800       500       100 openat
  1.00    0.100000          50      2000           write
------ ----------- ----------- --------- --------- ----------------
100.00   10.000000        2857      3500       100 total
"""
CHOSEN = """% time     seconds     calls    errors syscall
------ ----------- --------- --------- ----------------
 90.00    9.000000      1000           fsync
  9.00    0.900000       500       100 openat
  1.00    0.100000      2000           write
------ ----------- --------- --------- ----------------
100.00   10.000000      3500       100 total
"""
TURNED = """syscall             errors     calls  shortest   longest     seconds
---------------- --------- --------- --------- --------- -----------
fsync                           1000  0.000001  0.100000    9.000000
openat                 100       500  0.000001  0.010000    0.900000
write                           2000  0.000001  0.000100    0.100000
---------------- --------- --------- --------- --------- -----------
total                  100      3500  0.000001  0.100000   10.000000
"""
NO_ERRORS = """    calls  usecs/call     seconds syscall
--------- ----------- ----------- ----------------
     1000        9000    9.000000 fsync
      500        1800    0.900000 openat
     2000          50    0.100000 write
--------- ----------- ----------- ----------------
     3500                10.000000 total
"""
BEFORE = """execve("/usr/bin/ls", ["ls"], 0x7ffe /* 40 vars */) = 0
write(1, "% time     seconds", 18)      = 18
read(3, "", 832)                        = 832
+++ exited with 0 +++
"""


def seen(tmp_path, text, name="s.txt"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if name.endswith("gz") else text.encode())
    return observe(path)


@pytest.mark.parametrize(
    "text",
    [
        STANDARD,
        CHOSEN,
        TURNED,
        NO_ERRORS,
        BEFORE + CHOSEN,
        BEFORE * 60 + CHOSEN,
        "x\n" + STANDARD.replace("\n", "\r\n"),
    ],
    ids=["c", "U", "turned", "no errors", "C", "long C", "crlf"],
)
@pytest.mark.parametrize("name", ["s.txt", "s.gz"])
def test_the_columns_of_strace_are_read_by_their_names(text, name, tmp_path):
    found = seen(tmp_path, text, name)
    assert found.kind == "strace"
    features = found.features
    assert (features["calls"], features["seconds"], features["sync_time_share"]) == (
        3500,
        pytest.approx(10),
        pytest.approx(0.9),
    )
    assert features["errors"] == (0 if text == NO_ERRORS else 100)
    table = found.tables["calls"].set_index("call")
    assert table.loc["openat", "calls"] == 500 and table.loc["openat", "seconds"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            " 90.00    9.000000      1000           fsync",
            " 90.00    9.000000       fsync",
            "line 3: 3 cells do not fit",
        ),
        (
            "  9.00    0.900000       500       100 openat",
            "  9.00    0.900000                 100 openat",
            "line 4: .*do not fit",
        ),
        ("      1000           fsync", "      1000    3   4   fsync", "line 3: .*do not fit"),
        ("      1000           fsync", "       1k0           fsync", "line 3: not a row"),
        ("     calls ", " longest ", "needs syscall, calls, seconds"),
        ("% time     seconds ", "% time     longest ", "needs syscall, calls, seconds"),
        ("% time     seconds ", "% time       calls ", "each once"),
    ],
)
def test_what_does_not_fit_the_names_is_refused(old, new, said, tmp_path):
    assert old in CHOSEN
    with pytest.raises(ConfigError, match=rf"s\.txt, {said}" if said.startswith("line") else said):
        seen(tmp_path, CHOSEN.replace(old, new))


TIMED = """29754 15:03:14.893771 execve("/usr/bin/sh", ["sh"], 0x7ffc /* 40 vars */) = 0 <0.000283>
29754 15:03:14.894172 openat(AT_FDCWD, "a = 5 <0.9>", O_RDONLY) = -1 ENOENT (No such file or directory) <0.000010>
29754 15:03:14.894394 fsync(3)          = 0 <0.100000>
29754 15:03:14.896235 vfork( <unfinished ...>
29756 15:03:14.896330 fsync(4 <unfinished ...>
29754 15:03:14.896446 <... vfork resumed>) = 29756 <0.000207>
29756 15:03:14.896499 <... fsync resumed>) = 0 <0.200000>
29756 15:03:14.900712 +++ exited with 0 +++
29754 15:03:14.900732 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---
29754 15:03:14.900811 close(11</a (b)>) = 0 <0.000007>
29754 15:03:14.900812 poll([{fd=3</x>, events=POLLIN}], 1, 0) = 1 ([{fd=3</x>, revents=POLLIN}]) <0.000001>
29754 15:03:14.900813 write(2, "= -1 ENOENT (", 13) = 13 <0.000001>
29754 15:03:14.900814 read(0,  <unfinished ...>
29754 15:03:14.900834 exit_group(0)     = ?
"""


@pytest.mark.parametrize("cut", ["", "29754 ", r"15:03:14\.\d+ "])
def test_calls_with_their_times_are_summed(cut, tmp_path):
    text = (
        pd.Series(TIMED.splitlines())
        .str.replace(cut, "", regex=True)
        .str.replace("^29756 ", "[pid 29756] ", regex=True)
    )
    found = seen(tmp_path, "\n".join(text))
    table = found.tables["calls"].set_index("call")
    assert table.loc["fsync"].tolist() == [pytest.approx(0.3), 2, 0]
    assert table.loc["openat"].tolist() == [pytest.approx(1e-5), 1, 1] and table.loc["vfork", "calls"] == 1
    assert found.features["calls"] == 8 and found.features["errors"] == 1 and found.features["sync_time_share"] > 0.99


def test_calls_without_times_say_how_to_get_them(tmp_path):
    with pytest.raises(ConfigError, match="run strace -c, or strace -T"):
        seen(tmp_path, "".join(f'openat(AT_FDCWD, "{i}", O_RDONLY) = 3\n' for i in range(9)))


# --- other statistics


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("datname,blks_hit,blks_read\nshop,5,5,9\n", "do not fit the names"),
        ("datname,blks_hit,blks_read\nshop,5,5\nmore,5,5,9\n", "do not fit the names"),
        ("datname,blks_hit,blks_read\nshop,many,5\n", "column blks_hit"),
        ('datname,blks_hit,blks_read\nshop,"90,000",10000\n', "column blks_hit"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,1,2,3\n", "do not fit the names"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,1,2\n2024-05-10 00:00:00,1\n",
            "line 3: .*empty",
        ),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,1,few\n", "few"),
    ],
)
def test_rows_that_do_not_fit_their_names_are_refused(text, said, tmp_path):
    with pytest.raises(ConfigError, match=said) as caught:
        seen(tmp_path, text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_lone_carriage_return_ends_a_line(tmp_path):
    assert seen(tmp_path, "timevalue,x\r1,2\n") is None
    assert seen(tmp_path, "blks_hit,blks_read\r1,1\r").features["cache_hit_share"] == 0.5


# --- jobs in the Standard Workload Format


def swf(tmp_path, text, name="j.swf"):
    path = tmp_path / name
    path.write_text(text)
    return path


def line(number, submit, wait, run, cpus, status, *, wanted=8, user=1):
    return f"{number} {submit} {wait} {run} {cpus} -1 -1 {wanted} 400 -1 {status} {user} 1 -1 1 -1 -1 -1\n"


HEAD = "; Version: 2.2\n; Note: a, b\n"
WHOLE_JOB = line(1, 0, 10, 300, 8, 1)
PARTS = line(1, 0, 10, 100, 8, 2) + line(1, -1, 50, 200, 8, 3)
SECOND = line(2, 30, 5, 60, 4, 1)


@pytest.mark.parametrize(
    "text",
    [
        HEAD + WHOLE_JOB + PARTS + SECOND, HEAD + PARTS + WHOLE_JOB + SECOND, PARTS + SECOND, SECOND + PARTS,
        HEAD + WHOLE_JOB + PARTS.replace(" 3 1 1 ", " 4 1 1 ") + SECOND,
    ],
    ids=["summed", "parts first", "no sum", "parts last", "failed"],
)  # fmt: skip
def test_a_job_in_parts_is_one_job(text, tmp_path):
    jobs = J.read(swf(tmp_path, text))
    assert jobs.submit_s.tolist() == [0, 30] and jobs.run_s.tolist() == [300, 60]
    assert jobs.cpu.tolist() == [8000, 4000]
    assert any("checkpointed" in note and note.endswith(": 1") for note in jobs.notes)


def test_jobs_that_never_ran_are_left_out_and_counted(tmp_path):
    text = HEAD + WHOLE_JOB + line(2, 10, -1, 0, -1, 5) + line(3, 20, -1, -1, -1, 5) + line(4, 25, 9, 0, 8, 5)
    text += line(5, 26, 3, 50, 8, 5) + line(6, 27, 3, 0, 4, 0) + line(7, 28, 3, -1, 4, 1)
    jobs = J.read(swf(tmp_path, text))
    assert jobs.run_s.tolist() == [300, 50, 0.001]  # cancelled while it ran; failed within its first second
    assert jobs.notes == (
        "3 jobs that were cancelled before they ran were left out",
        "1 jobs without a run time or processors were left out",
    )
    with pytest.raises(ConfigError, match="no jobs in it .*2 jobs that were cancelled"):
        J.read(swf(tmp_path, HEAD + line(2, 10, -1, 0, -1, 5) + line(3, 20, -1, 0, -1, 5)))


def test_the_number_left_out_is_said(cli, tmp_path):
    path = swf(tmp_path, HEAD + WHOLE_JOB + line(2, 10, -1, 0, -1, 5) + SECOND.replace("2 30", "3 30"))
    document = json.loads(cli("simulate", "cluster", "--trace", path, "--json").stdout)
    assert document["jobs"] == 2
    assert "1 jobs that were cancelled" in cli("simulate", "cluster", "--trace", path).stdout


def test_an_indented_file_is_read(tmp_path):
    text = "".join(f"  {row}" for row in (HEAD + WHOLE_JOB + SECOND).splitlines(True))
    assert J.read(swf(tmp_path, text)).run_s.tolist() == [300, 60]
