"""optuna-dashboard over a store: sessions are Optuna studies; what tunewright knows beyond stands in their notes."""

from __future__ import annotations

import ipaddress
import re
import socket
import socketserver
from collections.abc import Iterable, Mapping
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from tunewright.errors import ConfigError, missing_extra
from tunewright.report.verdicts import NOT_VERIFIED, beside_search, heading
from tunewright.report.words import clean
from tunewright.sessions.machine import told
from tunewright.sessions.notes import cost
from tunewright.store.export import status
from tunewright.store.store import Store

PORT = 8080
_TRIES = 20  # ports after the first one that are looked at


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is for errors."""


class _Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


def serve(store: Store, host: str = "127.0.0.1", port: int | None = None) -> _Threaded:
    """Return a server over a store that is bound, and not running yet.

    Args:
        store: an open store.
        host: address to listen at.
        port: None for 8080 or the next free one; 0 for any.

    Raises:
        ConfigError: the address or port cannot be had.
        MissingExtraError: optuna-dashboard is not installed.
    """
    try:
        import optuna_dashboard
    except ImportError:
        raise missing_extra("optuna-dashboard", "dashboard", "the dashboard") from None
    _notes(store)
    application = optuna_dashboard.wsgi(store.optuna)
    ports = range(PORT, PORT + _TRIES) if port is None else [port]
    for wanted in ports:
        try:
            return make_server(host, wanted, application, server_class=_Threaded, handler_class=_Quiet)
        except socket.gaierror:
            raise ConfigError(f"{host!r} is no address of this machine") from None
        except OSError as error:
            reason = error.strerror
    what = f"port {port}" if port is not None else f"any of the ports {PORT} to {PORT + _TRIES - 1}"
    raise ConfigError(f"cannot listen at {host}, {what}: {reason}; choose another with --port")


def only_here(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _notes(store: Store) -> None:
    """Write each session's verdict, reasons and costs into its note, which the dashboard shows first."""
    import optuna
    from optuna_dashboard import save_note

    for name in store.names():
        study = optuna.load_study(study_name=name, storage=store.optuna)
        record, trials = store.session(name), store.trials(name)
        tried = [(t.number, t.config, t.ratio) for t in trials if t.ok]
        save_note(study, note({**record, "status": status(store, name, record)}, tried))


def note(record: Mapping[str, Any], tried: Iterable[tuple[int, Mapping[str, Any], float | None]] = ()) -> str:
    """Return a session's note in Markdown; every text in it is escaped, whoever wrote it.

    Args:
        record: the session's, with the status that holds now.
        tried: number, configuration and ratio in the search of each measured trial.
    """
    plan, verdict, notes = record["plan"], record.get("verdict"), record.get("notes") or {}
    target, workload, tuner, seed, trust = (_plain(plan[k]) for k in ("target", "workload", "tuner", "seed", "trust"))
    lines = [
        f"**{target}**, workload {workload}, tuner {tuner}, seed {seed}, trust {trust}; {_plain(record['status'])}.",
        "",
        f"**{_plain(verdict['sentence'])}**" if verdict else _plain(f"{NOT_VERIFIED[0].upper()}{NOT_VERIFIED[1:]}."),
    ]
    if verdict and verdict.get("comparisons") and (said := beside_search(verdict, record["objectives"][0], tried)):
        lines += ["", _plain(said)]
    lines += ["", "Values and ratios of trials led the search; the verdict rests on fresh runs alone."]
    if record.get("drift"):
        lines += [line for words in told(record) for line in ("", _plain(words))]
    if verdict and verdict.get("settings"):
        lines += ["", f"{heading(bool(verdict.get('improved')))}:", "", *_code(str(verdict["settings"]))]
    answers = [a for a in notes.get("answers", []) if a.get("reasons")]
    won = [a for a in answers if verdict and a.get("config") == verdict.get("config")] or answers
    if won:
        lines += ["", "What the model said of it:", ""]
        lines += [f"- **{_plain(n)}**: {_plain(r)}" for n, r in won[-1]["reasons"].items() if n]
    if spent := cost(notes.get("spent") or {}):
        lines += ["", f"Cost: {_plain(spent)}."]
    return "\n".join(lines)


#: characters that mean something in Markdown, in its mathematics or in HTML, and how they are written as themselves
_ESCAPES = {ord(c): f"\\{c}" for c in "\\`*_{}[]()#!|~$^@"} | {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}


def _plain(text: Any) -> str:
    """Return what somebody else wrote as one line that neither Markdown nor HTML acts on."""
    return " ".join(clean(str(text)).split()).translate(_ESCAPES)


def _code(text: str) -> list[str]:
    """Return lines that show a text as it is; the fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [fence, clean(text), fence]
