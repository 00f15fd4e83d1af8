"""optuna-dashboard over a store: served on loopback, with verdicts, reasons and costs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

pytest.importorskip("optuna_dashboard", reason="needs the extra: pip install 'tunewright[dashboard]'")

from tunewright.errors import ConfigError
from tunewright.report.dashboard import note, only_here, serve
from tunewright.sessions.session import Session
from tunewright.store.plan import Plan
from tunewright.testing import Sphere

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def started(store, *more):
    """The command on a free port."""
    tunewright = str(Path(sys.executable).with_name("tunewright"))
    return subprocess.Popen(
        [tunewright, "dashboard", "--store", store.url, "--port", "0", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture
def running(store):
    """The command over a store with a session of a language model; yields (url, process)."""
    log = str(Path(__file__).with_name("replays") / "lustre-ior-64k.jsonl")
    plan = Plan(target="lustre", workload="ior-64k", tuner="llm", tuner_options={"model": "logged", "replay": log})
    with Session.create(plan, "asked", store) as session:
        session.run(trials=4)
    process = started(store, "--json")
    text = ""
    while not text.rstrip().endswith("}"):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        text += line
    yield json.loads(text)["url"], process
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()


def fetch(url):
    with urllib.request.urlopen(url, timeout=30) as reply:
        return json.loads(reply.read())


def test_sessions_are_shown_with_what_is_known_of_them(running):
    url, process = running
    base = url.removesuffix("/dashboard/")
    studies = fetch(f"{base}/api/studies")["study_summaries"]
    assert [s["study_name"] for s in studies] == ["asked"]
    detail = fetch(f"{base}/api/studies/{studies[0]['study_id']}")
    attrs = {a["key"]: a["value"] for a in studies[0]["user_attrs"]}
    assert "Improved:" in attrs["what was shown"]
    assert "tokens" in attrs["cost"]
    assert "Improved:" in detail["note"]["body"]
    assert "lfs setstripe" in detail["note"]["body"], "the settings in the system's own form"
    assert "What the model said" in detail["note"]["body"]
    assert "tokens" in detail["note"]["body"], "what it cost"
    trial = {a["key"]: a["value"] for a in detail["trials"][1]["user_attrs"]}
    assert "stripe_count" in trial["why"]
    assert float(trial["times the default"]) > 1
    heard = [c.laddr.ip for c in psutil.Process(process.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert set(heard) == {"127.0.0.1"}
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_it(running, tmp_path):
    url, _ = running
    common = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=15000",
    ]
    page = subprocess.run([*common, "--dump-dom", f"{url}studies/1/note"], capture_output=True, text=True, timeout=120)
    assert "Improved:" in page.stdout, page.stderr[-2000:]
    picture = tmp_path / "page.png"
    subprocess.run([*common, f"--screenshot={picture}", f"{url}studies/1"], capture_output=True, timeout=120)
    assert picture.stat().st_size > 20_000


def test_what_a_model_wrote_is_shown_and_not_acted_on():
    record = {
        "plan": {"target": "t", "workload": "w", "tuner": "llm", "seed": 0, "trust": "fast"}, "status": "done",
        "verdict": {"sentence": "Improved.", "settings": ""},
        "notes": {"answers": [{"reasons": {"x": "<script>alert(1)</script>\n# Heading [link](http://a)"}}], "spent": {}},
    }  # fmt: skip
    shown = note(record)
    assert "<script>" not in shown
    assert "\n# Heading" not in shown
    assert "[link](" not in shown


def test_addresses():
    assert all(map(only_here, ("127.0.0.1", "::1", "localhost")))
    assert not any(map(only_here, ("0.0.0.0", "10.1.2.3", "example.org")))


def test_a_wider_address_is_warned_of(cli, store):
    Session.create(Plan(target="t", tuner="random"), "a", store, target=Sphere())
    process = started(store, "--host", "0.0.0.0")
    try:
        assert "http://0.0.0.0" in process.stdout.readline()
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert "asks nobody for a password" in errors


def test_a_port_that_is_taken(store):
    with serve(store, port=0) as first, pytest.raises(ConfigError, match="cannot listen at 127.0.0.1"):
        serve(store, port=first.server_port)
