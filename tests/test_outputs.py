"""What a command writes: whole or not at all, through links in place, and never over what it reads."""

import json
import os

import pytest

from tunewright.errors import ConfigError
from tunewright.store.files import noting_inputs, read_text
from tunewright.store.outputs import write_text

TRACE = "".join(f"{i * 1000},h,0,{'Read' if i % 3 else 'Write'},{(i * 37 % 50) * 4096},4096,100\n" for i in range(200))
MODEL = json.dumps({
    "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 8, "intermediate_size": 2816, "vocab_size": 32000,
})  # fmt: skip
JOBS = "submit_s,run_s,gpus\n" + "".join(f"{i},10,1\n" for i in range(20))
MANUAL = "# cache_size\n\nType: integer. Default: 8. Range: 1 to 64.\n"
REQUESTS = "arrival_s,input_tokens,output_tokens\n" + "".join(f"{i},100,20\n" for i in range(20))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", TRACE, ["trace", "t.csv", "-o", "OUT"]),
        ("t.csv", TRACE, ["place", "t.csv", "--policy", "lru", "-o", "OUT"]),
        ("t.csv", TRACE, ["place", "t.csv", "--policy", "sibyl", "--save", "OUT"]),
        ("m.md", MANUAL, ["read", "m.md", "-o", "OUT"]),
        ("r.csv", REQUESTS, ["simulate", "serving", "--trace", "r.csv", "--timeline", "OUT"]),
        ("j.csv", JOBS, ["simulate", "cluster", "--trace", "j.csv", "--timeline", "OUT"]),
        (
            "m.json",
            MODEL,
            ["plan", "train", "--model", "m.json", "--cluster", "h100:8", "-b", "64", "-s", "512", "-o", "OUT"],
        ),
        ("t.zip", TRACE, ["train", "placement", "--trace", "t.zip", "-o", "OUT"]),
    ],
)
@pytest.mark.parametrize("way", ["itself", "symlink", "hard link"])
def test_the_input_is_never_written_over(name, content, words, way, tmp_path, cli):
    (tmp_path / name).write_text(content)
    out = name if way == "itself" else "other.zip"
    if way == "symlink":
        (tmp_path / out).symlink_to(name)
    elif way == "hard link":
        os.link(tmp_path / name, tmp_path / out)
    said = cli(*(out if w == "OUT" else w for w in words), code=1, cwd=tmp_path).stderr
    assert "this command reads the file" in said
    assert len(said.strip().splitlines()) == 1
    assert (tmp_path / name).read_text() == content


def test_a_timelines_trace_is_not_written_over_an_input(tmp_path, cli):
    (tmp_path / "r.trace.json").write_text(REQUESTS)
    words = ("simulate", "serving", "--trace", "r.trace.json", "--timeline", "r.html")
    assert "this command reads the file" in cli(*words, code=1, cwd=tmp_path).stderr
    assert (tmp_path / "r.trace.json").read_text() == REQUESTS


@pytest.mark.parametrize("command", ["export", "report"])
def test_the_store_is_never_written_over(command, tmp_path, cli):
    store = f"sqlite:///{tmp_path / 's.db'}"
    (tmp_path / "t.csv").write_text("x,loss\n1,1\n2,2\n3,3\n")
    cli("tune", f"table:{tmp_path / 't.csv'}", "-O", "direction=min", "--trials", 2, "--store", store, "--name", "a")
    before = (tmp_path / "s.db").read_bytes()
    assert "this command reads the file" in cli(command, "a", "--store", store, "-o", tmp_path / "s.db", code=1).stderr
    assert (tmp_path / "s.db").read_bytes()[:16] == before[:16]


def test_an_older_output_is_replaced_through_its_link_and_keeps_its_mode(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "real.txt").chmod(0o640)
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    assert (tmp_path / "real.txt").stat().st_mode & 0o777 == 0o640
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "where", ["folder", "pipe", "/dev/stdout", "/dev/null", "missing/file", "a\0b", "x" * 300, "file/below"]
)
def test_what_cannot_be_written_is_said(where, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="cannot write"):
        write_text(tmp_path / where, "text")


def test_a_command_that_has_ended_reads_nothing_any_more(tmp_path):
    (tmp_path / "a").write_text("one")
    with noting_inputs():
        read_text(tmp_path / "a", "text")
        with pytest.raises(ConfigError, match="reads the file"):
            write_text(tmp_path / "a", "two")
    write_text(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "two"
