"""What people name is opened in one place: ordinary files only, of bounded size, and one line for whatever is wrong."""

import gzip
import os
import time

import pytest
from forked import Commands

from tunewright.errors import ConfigError
from tunewright.store import files

# a door of each kind: text, lines, JSON, TOML, manuals
DOORS = [
    ("show", "table:FILE", "-O", "direction=max"), ("trace", "FILE"), ("simulate", "serving", "-t", "FILE"),
    ("simulate", "cluster", "-t", "FILE"), ("simulate", "serverless", "-t", "FILE"), ("simulate", "spark", "--dags", "FILE"),
    ("simulate", "cluster", "--nodes", "FILE"), ("plan", "serve", "-m", "FILE", "-c", "h100:8", "--isl", "9", "--osl", "9", "--rate", "1"),
    ("plan", "check", "FILE"), ("read", "FILE"),
]  # fmt: skip


@pytest.fixture(scope="module")
def run():
    """Run a command line in a process of its own, FILE standing for the path; returns how it ended."""
    with Commands() as commands:
        yield lambda words, path="", env=None: commands.run(*(w.replace("FILE", str(path)) for w in words), env=env)


@pytest.fixture(scope="module")
def refused(run):
    """Run a command line that must end with one line; returns it."""

    def refused(words, path="", env=None, most_mb=1000):
        done = run(words, path, env)
        said = done.stderr.strip()
        assert done.returncode == 1 and said.startswith("error: ") and len(said.splitlines()) == 1, said[-1500:]
        assert 10 < done.peak_mb < most_mb
        return said

    return refused


@pytest.mark.parametrize("words", DOORS, ids=lambda w: " ".join(w[:2]))
def test_what_is_no_ordinary_file_is_refused_at_once(refused, tmp_path, words):
    os.mkfifo(tmp_path / "pipe.csv")  # nobody writes into it: opening it would wait for ever
    assert "it is a pipe" in refused(words, tmp_path / "pipe.csv")


@pytest.mark.parametrize(
    ("path", "what"), [("/dev/zero", "a device"), ("/tmp", "a directory"), ("/nowhere/x", "there is no")]
)
def test_devices_folders_and_nothing(path, what):
    from pathlib import Path

    with pytest.raises(ConfigError, match=what):
        files.read_text(Path(path), "table")


def bomb(path, head, line, mb, pack):
    """Write a packed file of a line again and again, below another one."""
    import zlib
    from importlib import import_module

    part = line * (10**6 // len(line))
    if pack == "zst":
        try:
            packer = import_module("compression.zstd").ZstdCompressor(3)
        except ImportError:
            packer = import_module("backports.zstd").ZstdCompressor(3)
    else:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with path.open("wb") as file:
        file.write(packer.compress(head))
        for _ in range(mb):
            file.write(packer.compress(part))
        file.write(packer.flush())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("pack", ["gz", "zst"])
@pytest.mark.parametrize(
    ("name", "words", "head", "line"),
    [
        ("t.csv", DOORS[0], b"a,b,tps\n", b"1,2,3\n"), ("t.csv", DOORS[1], b"", b"128166372003061629,h,0,Read,0,4096,1\n"),
        ("t.csv", DOORS[2], b"arrival_s,input_tokens,output_tokens,user\n", b"0.5,100,10,u\n"),
        ("t.swf", DOORS[3], b"", b"1 0 0 10 4 -1 -1 4 10 -1 1 1 1 1 1 -1 -1 -1\n"),
        ("t.csv", DOORS[4], b"app,func,end_timestamp,duration\n", b"a,f,1.0,0.5\n"), ("m.json", DOORS[7], b"", b"[[[[[[[[],"),
        ("c.toml", ("plan", "serve", "-m", "llama3-8b", "-c", "FILE", "--isl", "9", "--osl", "9", "--rate", "1"), b"", b"[[node]]\n"),
        ("m.html", DOORS[9], b"<html>", b"<p>x</p>"),
    ],
)  # fmt: skip
def test_bombs_are_refused_before_they_fill_the_memory(refused, tmp_path, name, words, head, line, pack):
    path = bomb(tmp_path / name, head, line, 800, pack)
    assert path.stat().st_size < 5 * 10**6
    assert files.VARIABLE in refused(words, path), "how to go on is said"


def test_a_parquet_file_of_few_bytes_and_many_rows(refused, tmp_path):
    pa = pytest.importorskip("pyarrow", reason="needs the extra: pip install 'tunewright[compare]'")
    pytest.importorskip("duckdb", reason="needs the extra: pip install 'tunewright[llm]'")
    import pyarrow.parquet as pq

    rows = 2_000_000
    table = pa.table({n: pa.array([1000] * rows, pa.int64()) for n in ("submission_time", "duration", "cpu_count")})
    path = tmp_path / "tasks.parquet"
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(50):
            writer.write_table(table)
    assert path.stat().st_size < 4 * 10**6
    assert "100,000,000 jobs" in refused(DOORS[3], path)


@pytest.mark.parametrize(
    "words",
    [
        "trace synthetic:zipf -O requests=N", "trace synthetic:zipf -O pages=N", "trace synthetic:sequential -O streams=N",
        "simulate serving -O requests=N", "simulate serving -O requests=9 -O users=N", "simulate serving -O requests=9 -c h100:N",
        "simulate serving -O requests=9 -O groups=4 -O prefix=N", "simulate spark --jobs N", "simulate spark --jobs 9 --cores N",
        "simulate spark --jobs 9 -O stages=N", "simulate cluster --jobs N", "simulate cluster --nodes Nx8 --jobs 9",
        "simulate cluster --jobs 9 -O users=N", "simulate serverless -O hours=N", "simulate serverless -O functions=N",
        "plan serve -m llama3-8b -c h100:N --isl 9 --osl 9 --rate 1", "plan train -m llama3-8b -c h100:8 -b N -s 2048",
    ],
)  # fmt: skip
def test_absurd_counts_are_refused_before_anything_is_allocated(refused, words):
    refused(words.replace("N", str(10**12)).split(), most_mb=700)


def test_a_request_that_covers_the_disk_many_times_over(refused, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("time,offset,size,op\n0,0,4096,r\n1,0,1000000000000000,r\n")
    assert "pages" in refused(("trace", "FILE"), path, most_mb=700)


# -- what is ordinary, and was a traceback -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cr.csv", b"time\rvalue,x\n1,2\n", DOORS[1]), ("cut.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:30], DOORS[2]),
        ("bad.gz", gzip.compress(b"a,b\n1,2\n" * 9, mtime=0)[:12] + b"\xff" * 20, DOORS[0]), ("utf.csv", b"a,b\n\xff\xfe,1\n2,2\n", DOORS[0]),
        ("deep.json", b"[" * 100_000, DOORS[7]), ("deep.json", b'{"a":' * 100_000, DOORS[5]), ("n.json", b'{"hidden_size": ' + b"9" * 5000 + b"}", DOORS[7]),
        ("deep.html", b"<html>" + b"<div>" * 5000, DOORS[9]), ("deep.toml", b"a = " + b"[" * 20_000, ("show", "FILE")),
        ("n.toml", b"a = " + b"9" * 5000, ("show", "FILE")), ("short.csv", b"submit_s,run_s,gpus\n1\n", DOORS[3]),
        ("parquet.csv", b"PAR1" + b"x" * 99 + b"PAR1", DOORS[3]), ("x.csv.xz", b"\xfd7zXZ\0\0\0", DOORS[0]),
        ("big.csv", b"arrival_s,input_tokens,output_tokens\n1e400,5,5\n", DOORS[2]),
    ],
)  # fmt: skip
def test_one_line_for_each(refused, tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    assert name in refused(words, path)


def test_a_manual_with_a_lone_carriage_return_is_read(run, tmp_path):
    from tunewright.knowledge.manuals import read_file

    path = tmp_path / "opts.5.gz"
    path.write_bytes(
        gzip.compress(b".TH X 5\r.SH OPTIONS\n.TP\n.B cache_size=N\rSets it. The default is 64.\n", mtime=0)
    )
    assert any(s.term == "cache_size=N" and "default is 64" in s.text for s in read_file(path, "opts.5.gz"))
    done = run(("read", "FILE", "--system", "x"), path)
    assert done.returncode == 0, done.stderr


def test_the_limit_is_the_users(run, refused, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,tps\n" + "".join(f"{i % 7},{i % 5},{i}\n" for i in range(200_000)))
    assert "more than 1 MB" in refused(DOORS[0], path, {files.VARIABLE: "1"})
    assert "must be a number of megabytes" in refused(DOORS[0], path, {files.VARIABLE: "lots"})
    assert run(DOORS[0], path).returncode == 0
    packed = bomb(tmp_path / "x.csv", b"", b"0.5,100,10,u\n", 20, "gz")
    with pytest.raises(ConfigError, match="grows more than 200 times"), files.open_lines(packed, "trace") as lines:
        for _ in lines:
            pass
    os.environ[files.VARIABLE] = "100"
    try:
        with files.open_lines(packed, "trace") as lines:
            assert sum(1 for _ in lines) > 10**6, "who sets the limit means it"
    finally:
        del os.environ[files.VARIABLE]


def test_lines_have_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_LINE", 1000)
    (tmp_path / "t").write_text("short\n" + "x" * 2000)
    with (
        pytest.raises(ConfigError, match="line 2: it has more than"),
        files.open_lines(tmp_path / "t", "trace") as lines,
    ):
        list(lines)


def test_a_parsers_error_names_the_place_and_stays_the_cause(tmp_path):
    with pytest.raises(ConfigError, match=r"f.csv, line 7: cannot be read as trace: 'a' is missing") as caught:
        with files.parsing("f.csv", "trace") as place:
            place.line = 7
            raise KeyError("a")
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(NameError), files.parsing("f.csv", "trace"):
        raise NameError("ours")


@pytest.mark.parametrize(
    "text",
    ["a" + ".a" * 100_000 + " = 1", "[a" + ".a" * 100_000 + "]", "x = 'a'\nx = {a" + " . 'b'" * 100_000 + " = 1}", 'a."' + "x" * 9 + '"' + '."y"' * 99_999 + " = 1"],
    ids=["key", "header", "inline", "quoted"],
)  # fmt: skip
def test_a_dotted_key_without_end_is_refused_before_it_is_parsed(refused, tmp_path, text):
    path = tmp_path / "d.toml"
    path.write_text(text)
    begun = time.process_time()
    with pytest.raises(ConfigError, match="more than 100 parts"):
        files.read_toml(path, "description")
    assert time.process_time() - begun < 5
    assert "more than 100 parts" in refused(("tune", "FILE"), path)


@pytest.mark.parametrize(
    "text",
    ['a = "' + "." * 500 + '"', "a = '" + "." * 500 + "'", 'a = """\n\\"""' + "x.\n" * 500 + '""\\""""""', "a = '''" + ".\n'" * 500 + "x'''''",
     "a = 1 # " + "." * 500, "a = [" + "1.5,\n" * 500 + "]", "a = [" + "1.5," * 500 + "]", 'a = "\\"' + ".#" * 500 + '"\nb = 1.5',
     "".join(f"a.b.k{i} = 1\n" for i in range(300))],
)  # fmt: skip
def test_dots_in_texts_comments_and_numbers_are_no_keys(tmp_path, text):
    import tomllib

    path = tmp_path / "d.toml"
    path.write_text(text)
    assert files.read_toml(path, "description") == tomllib.loads(text)


def test_a_log_without_calls_is_not_replayed(tmp_path):
    from tunewright.testing import Sphere, run_tuner
    from tunewright.tuners.llm import LLMTuner

    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no calls in the log .*log.jsonl"):
        run_tuner(LLMTuner, Sphere(2), trials=3, options={"replay": str(tmp_path / "log.jsonl")})


def test_a_librarys_sentence_about_what_is_missing_is_left_as_it_is():
    assert (
        files.reason(KeyError("There is no item named 'data.npy' in the archive"))
        == "There is no item named 'data.npy' in the archive"
    )
    assert files.reason(KeyError("size")) == "'size' is missing"


@pytest.mark.parametrize("tags", ["<ul><li>", "<div>", "<p>x", "<DIV class='a>b'>", "<b/ ><i>", "<a></b>"])
def test_a_page_of_tags_within_tags_is_refused_at_once(tmp_path, tags):
    pytest.importorskip("bs4", reason="needs the extra: pip install 'tunewright[llm]'")
    from tunewright.knowledge.manuals import read_file

    path = tmp_path / "deep.html"
    path.write_text("<html>" + tags * 90_000)
    begun = time.process_time()
    with pytest.raises(ConfigError, match="nested too deeply"):
        read_file(path, path.name)
    assert time.process_time() - begun < 4


def test_a_page_of_many_tags_beside_each_other_is_read(tmp_path):
    pytest.importorskip("bs4", reason="needs the extra: pip install 'tunewright[llm]'")
    from tunewright.knowledge.manuals import read_file

    path = tmp_path / "wide.html"
    within = "<p>a<br><img src='x'><hr/>b</p><!-- <div> -->" * 6000
    path.write_text(
        f"<html><script>{'<div>' * 6000}</script><style>{'<b>' * 6000}</style>{within}<ul>{'<li><i>x</ul><ul>' * 900}"
    )
    assert len(read_file(path, path.name)) >= 1


def test_text_in_utf_16_is_read_where_it_is_marked_and_named_where_not(tmp_path):
    path = tmp_path / "t.csv"
    text = "a,größe\r\n1,2\r\n"
    for encoding in ("utf-16", "utf-8-sig", "utf-8"):
        path.write_bytes(text.encode(encoding))
        assert files.read_text(path, "table") == "a,größe\n1,2\n"
        with files.open_lines(path, "table") as lines:
            assert [line.strip() for line in lines] == ["a,größe", "1,2"]
    path.write_bytes("a,b\n1,2\n".encode("utf-16-be"))
    with pytest.raises(ConfigError, match=r"line 1 has a NUL character.*iconv -f UTF-16"):
        files.read_text(path, "table")


def test_what_is_packed_twice_is_said(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(gzip.compress(b"a,b\n1,2\n")))
    with pytest.raises(ConfigError, match="packed twice"):
        files.read_text(path, "table")


def test_a_json_key_with_two_values_is_ambiguous(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"layers": 32, "hidden": 8, "layers": 64}')
    with pytest.raises(ConfigError, match="the key 'layers' has two values"):
        files.read_json(path, "model description")
    path.write_text('{"layers": 32, "layers": 32}')
    assert files.read_json(path, "model description") == {"layers": 32}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_kinds_are_told_apart_in_every_encoding(tmp_path, encoding):
    from tunewright.envs.scheduling.cluster import jobs
    from tunewright.envs.scheduling.serving import trace
    from tunewright.knowledge.logs import observe

    texts = {
        "p.csv": "datname,blks_hit,blks_read\r\nshop,90,10\r\n",
        "t.jsonl": '{"timestamp": 0, "input_length": 100, "output_length": 5, "hash_ids": [1]}\r\n',
        "j.swf": "; Version: 2\r\n1 10 5 100 4 -1 -1 4 200 -1 1 1 1 1 1 -1 -1 -1\r\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode(encoding))
    assert observe(tmp_path / "p.csv").kind == "postgres-statistics"
    assert len(trace.read(tmp_path / "t.jsonl").arrival_s) == 1
    assert len(jobs.read(tmp_path / "j.swf").submit_s) == 1


def test_a_home_that_is_a_file_is_said(monkeypatch, tmp_path):
    from tunewright.store.paths import default_url

    (tmp_path / "file").touch()
    for home in ("file", "file/below"):
        monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / home))
        with pytest.raises(ConfigError, match="it is no directory; set TUNEWRIGHT_HOME"):
            default_url()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_manual_is_read_in_every_encoding_and_one_without_a_parameter_is_an_error(run, refused, tmp_path, encoding):
    path = tmp_path / "m.conf"
    path.write_bytes("# Buffer size, 1 to 8\r\n#size = 4\r\n".encode(encoding))
    assert "1 parameters" in run(("read", "FILE", "-o", str(tmp_path / "p.json")), path).stdout
    path.write_bytes("Hello.\r\n".encode(encoding))
    assert "no parameter was found in" in refused(("read", "FILE", "-o", str(tmp_path / "q.json")), path)
    assert not (tmp_path / "q.json").exists()
