"""Every door through which a file of the user's comes in: a small valid file of each kind, and the command that reads it.

``doors(folder)`` writes what has to be made by programs (a bundle, a store, Parquet) and returns all of them.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Door:
    """One kind of file.

    Attributes:
        name: of the file, its ending included.
        content: a valid one.
        words: of the command line, FILE standing for its path and FOLDER for the folder that it is put into.
        beside: other files of that folder.
        packed: whether the door also takes it packed.
        call: what is called with the path instead, where no command reads the kind alone.
        weight: how often it is taken, beside others.
    """

    name: str
    content: bytes
    words: Sequence[str] = ()
    beside: dict[str, bytes] = field(default_factory=dict)
    packed: bool = True
    call: Callable[[Path], object] | None = None
    weight: float = 1.0


def _rows(line: Callable[[int], str], n: int = 24, head: str = "") -> bytes:
    return (head + "".join(line(i) + "\n" for i in range(n))).encode()


# -- traces and logs, for ``trace`` -------------------------------------------------------------------

_BLOCK = {
    "msr.csv": _rows(lambda i: f"{128166372003061629 + i * 10000},host,0,{'Read' if i % 3 else 'Write'},{i * 8192},4096,100"),
    "blk.txt": _rows(lambda i: f"  8,0    1 {i + 1:8d} {i * 0.001:.9f}  4242  Q  {'R' if i % 3 else 'W'} {i * 64} + 8 [fio]"),
    "disksim.trace": _rows(lambda i: f"{i * 1.5:.6f} 0 {i * 24 + 1} 8 {i % 2}"),
    "named.csv": _rows(lambda i: f"{i},{i * 512},{512 * (1 + i % 3)},{'r' if i % 2 else 'w'}", head="time_ms,offset,size,op\n"),
}  # fmt: skip
_LOGS = {
    "strace.txt": (
        b"% time     seconds  usecs/call     calls    errors syscall\n"
        b"------ ----------- ----------- --------- --------- ----------------\n"
        b" 71.04    0.710400          71     10000           fdatasync\n"
        b" 20.00    0.200000          20     10000           pwrite64\n"
        b"  8.96    0.089600           8     11200      9000 openat\n"
        b"100.00    1.000000          32     31200      9000 total\n"
    ),
    "rocks.txt": (
        b"rocksdb.block.cache.miss COUNT : 5000\nrocksdb.block.cache.hit COUNT : 5000\nrocksdb.stall.micros COUNT : 25\n"
        b"rocksdb.db.get.micros P50 : 2.5 P95 : 9.1 P99 : 12.0 P100 : 100.0 COUNT : 20000 SUM : 60000\n"
    ),
    "database.csv": b"datname,blks_hit,blks_read,xact_commit,xact_rollback,temp_bytes,deadlocks\nshop,50000,500,100,50,900,0\n",
    "writer.csv": b"checkpoints_timed,checkpoints_req,buffers_checkpoint,buffers_clean,buffers_backend\n2,20,100,0,900\n",
    "tables.csv": b"relname,seq_scan,idx_scan,n_tup_ins,n_dead_tup,n_live_tup\norders,10,90,5,100,200\n",
}
_MOONCAKE = _rows(
    lambda i: json.dumps({
        "timestamp": i * 250, "input_length": 1200 + i, "output_length": 20 + i, "hash_ids": [0, i], "user": f"u{i % 3}",
    })
)  # fmt: skip
_AZURE = _rows(
    lambda i: f"2023-11-16 18:17:{i:02d}.9799600,{400 + i},{30 + i}", head="TIMESTAMP,ContextTokens,GeneratedTokens\n"
)
_REQUESTS = _rows(
    lambda i: f"{i * 0.5},{100 + i},{10 + i},user{i % 4}", head="arrival_s,input_tokens,output_tokens,user\n"
)

# -- jobs ---------------------------------------------------------------------------------------------

_SWF = _rows(
    lambda i: f"{i + 1} {i * 60} 0 {100 + i} 4 -1 -1 4 {600 + i} -1 1 {i % 5} 1 1 1 -1 -1 -1", head="; Version: 2.2\n"
)
_JOBS = _rows(
    lambda i: f"{i * 60},{100 + i},{1 + i % 4},{500 + i},u{i % 3}", head="submit_s,run_s,gpus,estimate_s,user\n"
)
_NODES = b"sn,cpu_milli,memory_mib,gpu,model\nn1,64000,262144,8,A\nn2,64000,262144,8,A\n"
_FUNCTIONS = _rows(lambda i: f"a{i % 2},f{i % 5},{100.0 + i},{0.5 + i * 0.1}", head="app,func,end_timestamp,duration\n")
_WORKFLOW = json.dumps({
    "name": "w", "workflow": {
        "specification": {"tasks": [
            {"id": f"t{i}", "parents": [f"t{i - 1}"] if i else [], "children": []} for i in range(6)
        ]},
        "execution": {"tasks": [{"id": f"t{i}", "runtimeInSeconds": 1.5 + i} for i in range(6)]},
    },
}).encode()  # fmt: skip
_QUERY = {
    "edges": [[0, 1], [1, 2]],
    "stages": [{"first_wave": {"40": [900, 800]}, "rest_wave": {"40": [700]}, "fresh_durations": {"40": [950]}}] * 3,
}
_TPCH = json.dumps({s: {"1": _QUERY, "2": _QUERY} for s in ("2g", "5g", "10g", "20g", "50g", "80g", "100g")}).encode()

# -- descriptions -------------------------------------------------------------------------------------

_TABLE = _rows(
    lambda i: f"{2 ** (i % 4)},{'on' if i % 8 < 4 else 'off'},{i % 4},{100 + i}", n=16, head="threads,cache,level,tps\n"
)
_TARGET = b"""[target]
name = "mine"
about = "a program"
command = ["sh", "-c", "echo speed=1", "{threads}", "{level}"]
limit = 20.0
constraints = ["threads * level <= 64"]
[[parameter]]
name = "threads"
type = "int"
low = 1
high = 64
default = 4
step = 1
special = { "0" = "automatic" }
[[parameter]]
name = "level"
type = "real"
low = 0.5
high = 9.0
default = 1.0
log = true
[[parameter]]
name = "mode"
type = "choice"
choices = ["a", "b"]
default = "a"
[[metric]]
name = "speed"
direction = "max"
regex = 'speed=(\\d+)'
[[file]]
path = "{rundir}/x.conf"
content = "threads = {threads}, mode = {mode}"
[success]
exit_codes = [0]
[workloads]
small = "little"
"""
_DEVICES = b"""title = "mine"
[[tier]]
device = { kind = "solid", read_latency_us = 80, write_latency_us = 20, read_mb_s = 3000, write_mb_s = 2000, read_iops = 500000, write_iops = 300000 }
share = 0.2
[[tier]]
device = { kind = "disk", rpm = 7200, average_seek_ms = 8.5, write_settle_ms = 1.0, track_to_track_ms = 0.8, transfer_mb_s = 180, overhead_us = 100, capacity_gb = 4000 }
"""
_RULES = b"""[[rule]]
id = "r1"
system = "lustre"
parameter = "stripe_count"
value = 4
instead_of = 1
context = ["writes", "large"]
status = "active"
reason = "measured"
[[rule.evidence]]
session = "s"
better = 3
worse = 0
effect = 1.4
noise = 0.02
runs = 6
date = "2026-01-01"
beside = { x = 1 }
"""
_MODEL = json.dumps({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "hidden_act": "silu", "tie_word_embeddings": False, "layer_types": ["full_attention"] * 4, "text_config": None,
}, indent=1).encode()  # fmt: skip
_CLUSTER = b"""name = "ours"
between_gb_s = 12.5
[[node]]
kind = "h100"
gpus = 16
per_node = 8
memory_gb = 80.0
"""
_PLANS = (
    b"model,layers,hidden,heads,tp,pp,dp,micro_batch,global_batch,seq,vocab,cluster,sec_per_iter\n"
    b"a,32,4096,32,2,2,2,1,64,2048,32000,h100,3.5\nb,32,4096,32,4,1,2,1,64,2048,32000,h100,3.1\n"
)
_PARAMETERS = json.dumps({
    "system": "x", "parameters": [{
        "name": "cache_size", "type": "integer", "unit": "MB", "default": 64, "range": {"low": 1, "high": 1024},
        "special": {"0": "off"}, "remarks": ["be careful"], "importance": 0.5, "restart": "reload",
        "evidence": [{"field": "default", "quote": "The default is 64.", "source": "m.md:3"}],
    }],
}, indent=1).encode()  # fmt: skip
_REPLAY = _rows(
    lambda i: json.dumps({
        "role": "tuner", "content": "", "tool_calls": [{"name": "propose", "args": {"changes": {}}, "id": str(i)}],
        "tokens_in": 100, "tokens_out": 10, "money": 0.01, "seconds": 1.5,
    }), n=4,
)  # fmt: skip

# -- manuals ------------------------------------------------------------------------------------------

_MANUALS = {
    "m.md": b"# Server\n\nSome prose.\n\n## Memory\n\n- `cache_size` (integer): Sets the cache. The default is 64 MB. Valid values are from 1 to 1024.\n\n| name | default |\n|---|---|\n| work_mem | 4MB |\n\n```\ncode\n```\n",
    "m.html": b"<!DOCTYPE html><html><head><title>t</title></head><body><h1>Server</h1><p>Words.</p><dl><dt><code>cache_size</code> (<code>integer</code>)</dt><dd><p>Sets the cache. The default is <code>64MB</code>.</p><ul><li>one</li></ul></dd></dl><table><tr><td>work_mem</td><td>4MB</td></tr></table></body></html>",
    "m.rst": b"Server\n======\n\nWords.\n\ncache_size\n----------\n\nSets the cache. The default is 64.\n\nwork_mem\n    Memory of a sort. Default: 4MB.\n\n:field: value\n\n.. note:: Be careful.\n\n* item\n* ``literal``\n",
    "m.8": b'.TH M 8 "2026"\n.SH NAME\nm \\- a server\n.SH OPTIONS\n.TP\n.B cache_size=N\nSets the cache. The default is 64.\n.IP "work_mem=N" 4\nMemory of a \\fBsort\\fR. Default: 4MB.\n',
    "m.conf": b"#### MEMORY ####\n\n# Sets the cache.\n# The default is 64MB.\ncache_size = 64MB\n\n# Memory of a sort, in MB.\n#work_mem = 4\n\n[section]\n; off\nname value\n",
    "m.txt": b"Server manual\n\nThe parameter cache_size sets the cache. Its default is 64 MB.\n\nwork_mem: memory of a sort.\n",
    "help.txt": b"Option: cluster.lookup\nDefault Value: on\nDescription: Look up everywhere.\n\nOption: io.threads\nDefault Value: 16\nDescription: Threads (1 to 64).\n\nOption: cache.size\nDefault Value: 32MB\nDescription: Size.\n",
    "pg.csv": b"name,setting,unit,category,short_desc,context,vartype,source,min_val,max_val,enumvals,boot_val\n"
    b"work_mem,4096,kB,Memory,Memory of sorts,user,integer,default,64,2147483647,,4096\n"
    b"wal_level,replica,,WAL,Level,postmaster,enum,default,,,\"{minimal,replica,logical}\",replica\n"
    b"fsync,on,,WAL,Forces,sighup,bool,default,,,,on\nseed,0.1,,Q,Seed,user,real,default,0,1,,0.1\n",
}  # fmt: skip


def _pdf() -> bytes:
    stream = b"BT /F1 12 Tf 72 720 Td (The default of cache_size is 64.) Tj ET"
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    body, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % p for p in places)
    end = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(body)
    return body + b"xref\n0 6\n0000000000 65535 f \n%s" % table + end


# -- what programs write ------------------------------------------------------------------------------


def _bundle(folder: Path, table: Path) -> dict[str, bytes]:
    """A small tournament that was really played."""
    from tournaments import run, undrawn

    store = f"sqlite:///{folder.parent / 'games.db'}"
    with undrawn():
        run(folder, [f"table:{table}@direction=max"], ["random", "grid"], trials=4, seeds=2, store=store)
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.suffix != ".html"}


def _store(path: Path, table: Path) -> bytes:
    from tunewright.sessions.session import Session
    from tunewright.store.plan import Plan
    from tunewright.store.store import Store

    store = Store(f"sqlite:///{path}")
    plan = Plan(target=f"table:{table}", tuner="random", options={"direction": "max"}, trust="fast")
    with Session.create(plan, "mine", store) as session:
        session.run(trials=4)
    store.close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=DELETE")
    return path.read_bytes()


def _surf(path: Path) -> bytes:
    import pandas as pd

    frame = pd.DataFrame({
        "submission_time": pd.to_datetime([f"2024-01-01 00:{i:02d}:00" for i in range(20)]),
        "duration": [60_000 + i for i in range(20)], "cpu_count": [1 + i % 4 for i in range(20)],
    })  # fmt: skip
    frame.to_parquet(path)
    return path.read_bytes()


def edited(content: bytes, folder: Path, attribute: str, text: str) -> bytes:
    """Return a store in which somebody has written ``text`` into an attribute of the session or of its trials."""
    path = folder / "edited.db"
    path.write_bytes(content)
    with closing(sqlite3.connect(path)) as database:
        for table in ("study_user_attributes", "trial_user_attributes"):
            database.execute(f"UPDATE {table} SET value_json = ? WHERE key = ?", (text, attribute))
        database.commit()
    return path.read_bytes()


def attributes(content: bytes, folder: Path) -> dict[str, str]:
    """Return the attributes of a store's session and of one of its trials."""
    path = folder / "read.db"
    path.write_bytes(content)
    with closing(sqlite3.connect(path)) as database:
        rows = [
            database.execute(f"SELECT key, value_json FROM {t}").fetchall()
            for t in ("study_user_attributes", "trial_user_attributes")
        ]
    return {key: value for part in rows for key, value in part}


def doors(folder: Path) -> list[Door]:
    """Return all doors; ``folder`` is for what is made on the way."""
    from tunewright.agents.llm.client import Ledger, read_log
    from tunewright.knowledge import parameters

    folder.mkdir(parents=True, exist_ok=True)
    trace, read, simulate = ("trace", "FILE", "--json"), ("read", "FILE", "--system", "x", "--json"), "simulate"
    found = [Door(name=n, content=c, words=trace) for n, c in (_BLOCK | _LOGS).items()]
    found += [Door(name=n, content=c, words=trace) for n, c in (("moon.jsonl", _MOONCAKE), ("azure.csv", _AZURE))]
    found.append(
        Door(name="log.darshan", content=b"3.41\0\0\0\x0075d" + bytes(400), words=trace, packed=False, weight=0.1)
    )
    for name, content in (("moon.jsonl", _MOONCAKE), ("azure.csv", _AZURE), ("requests.csv", _REQUESTS)):
        found.append(Door(name=name, content=content, words=(simulate, "serving", "-t", "FILE", "--json")))
    for name, content in (("jobs.swf", _SWF), ("jobs.csv", _JOBS), ("tasks.parquet", _surf(folder / "tasks.parquet"))):
        found.append(Door(name=name, content=content, words=(simulate, "cluster", "-t", "FILE", "--json")))
    found += [
        Door(name="nodes.csv", content=_NODES, words=(simulate, "cluster", "-n", "FILE", "--jobs", "20", "--json")),
        Door(name="calls.csv", content=_FUNCTIONS, words=(simulate, "serverless", "-t", "FILE", "--json")),
        Door(name="flow.json", content=_WORKFLOW, words=(simulate, "spark", "--dags", "FILE", "--jobs", "10", "--json")),
        Door(name="tpch.json", content=_TPCH, words=(simulate, "spark", "--dags", "FILE", "--jobs", "10", "--json"), weight=0.5),
        Door(name="t.csv", content=_TABLE, words=("show", "table:FILE", "-O", "direction=max", "--json")),
        Door(name="t.toml", content=b'objective = "tps"\ndirection = "max"\nunit = "1/s"\nignore = ["level"]\nnoise = 0.01\nmode = "pool"\ncensored_at = 200\ndefault = { threads = 1 }\n',
             words=("show", "table:FOLDER/t.csv", "--json"), beside={"t.csv": _TABLE}),
        Door(name="mine.toml", content=_TARGET, words=("show", "FILE", "--json"), weight=3),
        Door(name="tiers.toml", content=_DEVICES, words=("place", "synthetic:zipf", "-O", "requests=50", "-O", "pages=40", "-d", "FILE", "-p", "lru", "--json")),
        Door(name="lustre.toml", content=_RULES, words=("rules", "list", "-r", "FOLDER", "--json"), weight=2),
        Door(name="config.json", content=_MODEL, words=("plan", "serve", "-m", "FILE", "-c", "h100:2", "--isl", "100", "--osl", "20", "--rate", "1", "--json")),
        Door(name="ours.toml", content=_CLUSTER, words=("plan", "serve", "-m", "llama3-8b", "-c", "FILE", "--isl", "100", "--osl", "20", "--rate", "1", "--json")),
        Door(name="plans.csv", content=_PLANS, words=("plan", "check", "FILE", "--json")),
        Door(name="p.json", content=_PARAMETERS, call=lambda path: parameters.to_space(parameters.load(path)[1])),
        Door(name="calls.jsonl", content=_REPLAY, call=lambda path: Ledger(replayed=read_log(path)).next_reply("tuner")),
    ]  # fmt: skip
    found += [Door(name=n, content=c, words=read) for n, c in (_MANUALS | {"m.pdf": _pdf()}).items()]
    (folder / "s.csv").write_bytes(_TABLE)
    bundle = _bundle(folder / "bundle", folder / "s.csv")
    for name in bundle:
        rest = {k: v for k, v in bundle.items() if k != name}
        for words in (("show", "FOLDER", "--json"), ("verify", "FOLDER", "--json")):
            found.append(
                Door(name=name, content=bundle[name], beside=rest, words=("compare", *words), packed=False, weight=0.3)
            )
    content = _store(folder / "sessions.db", folder / "s.csv")
    for words in (("list",), ("show", "mine"), ("export", "mine"), ("report", "mine", "-o", "FOLDER/r.html")):
        found.append(
            Door(
                name="sessions.db", content=content, words=(*words, "--store", "sqlite:///FILE", "--json"), packed=False
            )
        )
    return found


def put(door: Door, content: bytes, folder: Path) -> Path:
    """Write a door's file, and those beside it, into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, other in door.beside.items():
        (folder / name).write_bytes(other)
    path = folder / door.name
    path.write_bytes(content)
    return path
