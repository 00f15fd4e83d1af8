"""Manuals in every format become sections, parameters with quotes, and passages that answer questions."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import ConfigError, SpaceError
from tunewright.knowledge import live, reading
from tunewright.knowledge.extract import extract, merged
from tunewright.knowledge.manuals import read_file, read_manual
from tunewright.knowledge.parameters import Evidence, ParameterDoc, from_json, supported, texts_of, to_json, to_space
from tunewright.knowledge.phrases import sentences, stated_default
from tunewright.knowledge.quantities import in_unit, quantity
from tunewright.knowledge.retrieval import Index
from tunewright.knowledge.sections import Chunk, Section, chunks

HTML = """<html><head><title>x</title></head><body><h1>20. Configuration</h1><h2>20.4. Memory</h2>
<dl><dt><span class="term"><code class="varname">shared_buffers</code> (<code class="type">integer</code>)</span></dt>
<dd><p>Sets the amount of memory used for shared memory buffers. The default is typically 128 megabytes
(<code class="literal">128MB</code>). This setting must be at least 128 kilobytes. If this value is specified without
units, it is taken as blocks, that is <code class="symbol">BLCKSZ</code> bytes, typically 8kB.
This parameter can only be set at server start.</p></dd>
<dt><span class="term"><code class="varname">wal_method</code> (<code class="type">enum</code>)</span></dt>
<dd><p>How data is forced to disk. Valid values are <code class="literal">fsync</code> (safe),
<code class="literal">fast</code> and <code class="literal">off</code> (the default). Turning it off risks data loss
after a crash.</p></dd>
<dt>first_flag (<code>boolean</code>)
second_flag (<code>boolean</code>)</dt><dd><p>These are off by default.</p></dd>
<dt>idle_timeout (<code>integer</code>)</dt><dd><p>Ends idle sessions. If this value is specified without units, it is
taken as milliseconds. A value of zero (the default) disables the timeout.</p></dd>
<dt>freeze_age (<code>integer</code>)</dt><dd><p>Age. The default is 150 million transactions.</p></dd>
</dl></body></html>"""

CONF = """################################## NETWORK #####################################

# Accept connections on the specified port, default is 6379.
port 6379

# TCP listen() backlog. In high requests-per-second environments you need a
# high backlog in order to avoid slow clients connection issues.
tcp-backlog 511

# Close the connection after a client is idle for N seconds (0 to disable)
timeout 0

# maxmemory-samples 5
"""

RST = """Deadline scheduler
==================

read_expire (in ms)
-------------------

The goal is a start service time for a request. The default is 500.

Notes
-----

.. include:: /etc/passwd

front_merges
    Merges at the front. Set to 0 to disable.
"""

MAN = """.TH LCTL 8
.SH NAME
lctl \\- control
.SH OPTIONS
.TP
.BI max_dirty_mb= N
Dirty data per client in MB. The default is 32.
.SS Others
.IP "cache_size"
Size of the cache, in megabytes. Range: 1 to 64.
"""

MARKDOWN = """# Tuning

## Client

- `osc.*osc_instance*.max_dirty_mb` - Controls how many MiB of dirty data can be written. It must be between 1 and 2048.
- a plain item

| Parameter | Meaning |
|---|---|
| `stripe_count` | The number of targets to use |

### memtable_budget

type `uint64_t`, default `512 * 1024 * 1024`

Memory for tables.

### allow_mmap

type `bool`, default `false`
"""

GLUSTER = """Option: cluster.lookup-unhashed
Default Value: on
Description: If enabled, does a lookup on all sub-volumes.

Option: performance.cache-size
Default Value: 32MB
Description: Size of the read cache.

Option: performance.io-thread-count
Default Value: 16
Description: Number of threads in IO threads translator
which perform concurrent IO operations
"""

PG = """name,boot_val,unit,vartype,min_val,max_val,enumvals,context,category,short_desc
wal_level,replica,,enum,,,"{minimal,replica,logical}",postmaster,WAL,Sets the level.
work_mem,4096,kB,integer,64,2147483647,,user,Memory,Sets the memory.
fsync,on,,bool,,,,sighup,WAL,Forces writes.
"""


def read_text(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return read_file(path, name)


def by_name(sections):
    return {d.name: d for d in extract(sections)}


def test_html(tmp_path):
    found = by_name(read_text(tmp_path, "m.html", HTML))
    memory = found["shared_buffers"]
    assert (memory.type, memory.unit, memory.default, memory.restart) == ("integer", "8kB", 16384, "restart")
    assert memory.range.low == 16 and memory.definition.startswith("Sets the amount of memory")
    assert {e.field for e in memory.evidence} >= {"type", "unit", "default", "range", "restart", "definition"}
    method = found["wal_method"]
    assert method.type == "enum" and method.range.options == ("fsync", "fast", "off") and method.default == "off"
    assert "risks data loss" in method.remarks[0]
    assert found["first_flag"].default is False and found["second_flag"].default is False
    assert found["idle_timeout"].default == 0 and "disables" in found["idle_timeout"].special["0"]
    assert found["freeze_age"].default == 150_000_000


def test_settings_with_comments(tmp_path):
    found = by_name(read_text(tmp_path, "redis.conf", CONF))
    assert found["port"].default == 6379 and found["tcp-backlog"].default == 511 and found["timeout"].default == 0
    assert found["tcp-backlog"].definition == "TCP listen() backlog."
    assert found["tcp-backlog"].effect.startswith("high backlog in order to avoid slow clients")
    assert found["maxmemory-samples"].default == 5, "a setting commented out shows its default"


def test_restructured_text_includes_nothing(tmp_path):
    sections = read_text(tmp_path, "s.rst", RST)
    assert not any("root:" in s.text for s in sections)
    found = by_name(sections)
    assert found["read_expire"].default == 500 and found["front_merges"].special["0"]


def test_man_pages(tmp_path):
    found = by_name(read_text(tmp_path, "lctl.8", MAN))
    assert found["max_dirty_mb"].default == 32
    assert (found["cache_size"].range.low, found["cache_size"].range.high) == (1, 64)


def test_markdown(tmp_path):
    sections = read_text(tmp_path, "m.md", MARKDOWN)
    found = by_name(sections)
    assert (found["osc.*.max_dirty_mb"].range.low, found["osc.*.max_dirty_mb"].range.high) == (1, 2048)
    assert "stripe_count" in found and found["memtable_budget"].default == 512 * 1024**2
    assert any(s.path[:2] == ("Tuning", "Client") for s in sections)
    for name, kind in (("memtable_budget", "integer"), ("allow_mmap", "boolean")):
        assert supported(found[name], texts_of(sections))[0].type == kind, "a declaration is its own quote"


def test_pdf(tmp_path):
    """A page of text, made by hand: the smallest PDF that has one."""
    stream = b"BT /F1 12 Tf 20 100 Td (The default of cache_size is 64.) Tj ET"
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    body, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % p for p in places)
    body += b"xref\n0 6\n0000000000 65535 f \n%strailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(body),
    )
    (tmp_path / "m.pdf").write_bytes(body)
    [section] = read_file(tmp_path / "m.pdf", "m.pdf")
    assert section.text == "The default of cache_size is 64." and section.source == "m.pdf:page 1"
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.4 nothing")
    with pytest.raises(ConfigError, match="cannot read bad.pdf"):
        read_file(tmp_path / "bad.pdf", "bad.pdf")


def test_folders_compression_and_bad_paths(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.md").write_text(MARKDOWN)
    (tmp_path / "a" / "lctl.8.gz").write_bytes(gzip.compress(MAN.encode(), mtime=0))
    assert {s.source.split(":")[0] for s in read_manual([tmp_path / "a"])} == {"one.md", "lctl.8.gz"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no manual"):
        read_manual([tmp_path / "empty"])
    with pytest.raises(ConfigError, match="there is no manual"):
        read_manual([tmp_path / "nothing.md"])
    (tmp_path / "cut.8.gz").write_bytes(gzip.compress(MAN.encode(), mtime=0)[:20])
    with pytest.raises(ConfigError, match="cannot read"):
        read_file(tmp_path / "cut.8.gz", "cut.8.gz")


@pytest.mark.parametrize("name", ["x.md", "x.html", "x.rst", "x.conf", "x.8", "x.txt"])
@given(text=st.text(max_size=300))
def test_any_text_is_read_without_a_crash(tmp_path_factory, name, text):
    path = tmp_path_factory.getbasetemp() / f"fuzz-{name}"
    path.write_text(text, encoding="utf-8", errors="replace")
    sections = read_file(path, name)
    texts = texts_of(sections)
    for doc in extract(sections):
        kept, dropped = supported(doc, texts)
        assert kept.name == doc.name and isinstance(dropped, list)


def test_a_claim_without_a_quote_in_the_text_is_dropped(tmp_path):
    sections = read_text(tmp_path, "m.html", HTML)
    texts = texts_of(sections)
    true = by_name(sections)["shared_buffers"]
    assert supported(true, texts) == (true, [])
    source = true.evidence[0].source
    invented = ParameterDoc(
        name="shared_buffers", type="integer", default=99, restart="none",
        evidence=(
            Evidence(field="type", quote="shared_buffers (integer)", source=source),
            Evidence(field="default", quote="The default is 99.", source=source),
        ),
    )  # fmt: skip
    kept, dropped = supported(invented, texts)
    assert kept.type == "integer" and kept.default is None and kept.restart == ""
    assert len(dropped) == 2 and "does not say 'The default is 99.'" in dropped[0]


def test_a_file_of_parameters_comes_back_as_it_was(tmp_path):
    for doc in extract(read_text(tmp_path, "m.html", HTML)):
        assert from_json(json.loads(json.dumps(to_json(doc)))) == doc
    with pytest.raises(ConfigError, match="not a parameter"):
        from_json({"name": "x", "evidence": [{"nonsense": 1}]})


def test_listings_of_live_systems():
    docs = {d.name: d for d in live.read_gluster_help(GLUSTER, "help.txt")}
    assert docs["performance.cache-size"].default == 32 and docs["performance.cache-size"].unit == "MB"
    assert docs["cluster.lookup-unhashed"].default is True
    assert docs["performance.io-thread-count"].definition.endswith("concurrent IO operations")
    pg = {d.name: d for d in live.read_pg_settings(PG, "pg.csv")}
    assert pg["wal_level"].range.options == ("minimal", "replica", "logical") and pg["wal_level"].restart == "restart"
    assert pg["work_mem"].default == 4096 and pg["work_mem"].unit == "kB" and pg["fsync"].default is True


def test_a_space_from_a_manual(tmp_path):
    space, left_out = to_space(extract(read_text(tmp_path, "m.html", HTML)))
    assert space.params["shared_buffers"].restart == "restart" and space.problems(space.default) == []
    assert set(space.params["wal_method"].choices) == {"fsync", "fast", "off"}
    assert left_out == {}
    with pytest.raises(SpaceError, match="no parameter"):
        to_space([ParameterDoc(name="x")])


def test_gaps_are_filled_from_the_second_source():
    one = ParameterDoc(name="a", type="integer", evidence=(Evidence(field="type", quote="q", source="s"),))
    two = ParameterDoc(name="a", type="real", default=3, evidence=(Evidence(field="default", quote="r", source="t"),))
    [both] = merged([one], [two])
    assert both.type == "integer" and both.default == 3 and [e.field for e in both.evidence] == ["type", "default"]


@given(st.floats(0, 1e12), st.sampled_from(["B", "kB", "MB", "GB", "8kB"]))
def test_units_go_there_and_back(number, unit):
    there = in_unit(f"{number!r}".replace("e+", "e") + "B", unit)
    assert there is not None
    assert there * {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "8kB": 8192}[unit] == pytest.approx(number)


def test_what_is_no_amount():
    assert quantity("0,523") is None and quantity("1,5") is None and quantity("1,234.5") == (1234.5, "")
    assert quantity("on") is None and quantity("12 apples") is None and in_unit("3MB", "s") is None


def test_sentences_keep_abbreviations_whole():
    assert sentences("Use it, e.g. This one. Next `x` is two.") == ["Use it, e.g. This one.", "Next `x` is two."]


def test_retrieval_finds_the_passage_and_its_path_counts():
    held = [
        Chunk(path=("Clients", "max_dirty_mb"), text="Data that may wait in the cache.", source="a:1"),
        Chunk(path=("Striping",), text="A file is spread over many targets.", source="a:2"),
        Chunk(path=("Locks",), text="Locks are held by clients.", source="a:3"),
    ]
    index = Index(held)
    assert index.search("how do I use the parameter max_dirty_mb?", 1) == [held[0]]
    assert index.search("spread a file", 1) == [held[1]]
    assert index.search("zebra") == [] and Index([]).search("x") == []


def test_embeddings_are_fused_by_rank():
    class Meaning:
        def embed_documents(self, texts):
            return [[1.0, 0.0] if "waiting" in t else [0.0, 1.0] for t in texts]

        def embed_query(self, text):
            return [1.0, 0.0]

    held = [Chunk(path=(), text="zebra", source="a"), Chunk(path=(), text="waiting", source="b")]
    assert Index(held, Meaning()).search("stalls", 1) == [held[1]]


def test_chunks_have_a_size_and_lose_nothing():
    text = "\n".join(f"line {i} " + "x" * (i % 90) for i in range(200)) + "\n" + "y" * 5000
    made = chunks([Section(path=("a",), text=text, source="m:1")], size=700, overlap=50)
    assert all(len(c.text) <= 700 for c in made) and all(c.path == ("a",) for c in made)
    whole = "".join(c.text for c in made)
    assert all(f"line {i} " in whole for i in range(200)) and whole.count("y") >= 5000


def test_the_command(cli, tmp_path):
    (tmp_path / "m.html").write_text(HTML)
    done = json.loads(
        cli("read", str(tmp_path / "m.html"), "--system", "pg", "-o", str(tmp_path / "p.json"), "--json").stdout
    )
    assert done["system"] == "pg" and len(done["parameters"]) == 6 and len(done["tunable"]) == 6
    first = done["parameters"][0]
    assert set(first) == {
        "name", "definition", "effect", "type", "unit", "default", "range", "special", "restart", "remarks", "importance",
        "evidence",
    }  # fmt: skip
    assert set(first["evidence"][0]) == {"field", "quote", "source"}
    assert json.loads((tmp_path / "p.json").read_text())["parameters"] == done["parameters"]
    shown = cli("read", str(tmp_path / "m.html"), "--ask", "memory buffers").stdout
    assert "20.4. Memory" in shown
    assert "there is no manual" in cli("read", "nothing.html", code=1).stderr


def test_the_cache_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "home"))
    (tmp_path / "m.html").write_text(HTML)
    first = reading.sections_of([tmp_path / "m.html"])
    [place] = (tmp_path / "home" / "cache" / "manuals").iterdir()
    assert reading.sections_of([tmp_path / "m.html"]) == first
    place.write_text("damaged")
    assert reading.sections_of([tmp_path / "m.html"]) == first


@pytest.mark.parametrize(
    ("many", "default"), [("1.5", "1500000"), ("1,000", "1000000000"), ("0,5", "0,5"), ("1.234,5", None)]
)
def test_a_decimal_comma_is_not_read_as_thousands(many, default):
    assert stated_default(f"The default is {many} million rows.") == default


def test_a_manual_without_parameters_is_told_with_what_is_known(tmp_path, cli):
    page = tmp_path / "prose.txt"
    page.write_text("Nothing here names a parameter.\n" * 20)
    told = cli("read", str(page), "-o", str(tmp_path / "p.json"), code=1)
    assert "no parameter was found in" in told.stderr and "pg_settings as CSV" in told.stderr
    assert not (tmp_path / "p.json").exists()
