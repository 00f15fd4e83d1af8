"""The sessions of the guides, run as their pages have them: python benchmarks/guides.py --part redis.

A page of docs/guides has a section "A session": the files, each in a block with its name as ``title``, and the commands.
This writes the files, runs the ``tunewright tune`` of the page, adds what came out to docs/results/guides.md, and puts the
verdict into the page. PostgreSQL's page is about a server of the reader's; here it is a private one, on a socket.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import RESULTS, publish, table

GUIDES = RESULTS.parent / "guides"
PARTS = ("postgres", "mariadb", "redis", "nginx", "gcc")
QUOTE = re.compile(r"(?<=<!-- verdict -->\n).*?(?=<!-- end of verdict -->)", re.S)
_BLOCK = re.compile(r'^```(?P<kind>\w+)(?: title="(?P<title>[\w.-]+)")?\n(?P<text>.*?)^```$', re.M | re.S)


def session(part: str) -> tuple[dict[str, str], list[str]]:
    """Return the files of a page's session, by name, and its command."""
    section = (GUIDES / f"{part}.md").read_text(encoding="utf-8").split("\n## A session\n")[1].split("\n## ")[0]
    blocks = [match.groupdict() for match in _BLOCK.finditer(section)]
    files = {block["title"]: block["text"] for block in blocks if block["title"]}
    lines = "\n".join(block["text"].replace("\\\n", " ") for block in blocks if block["kind"] == "sh").splitlines()
    return files, next(
        shlex.split(line, comments=True)
        for line in lines
        if line.startswith("tunewright tune") and "--dry-run" not in line
    )


@contextmanager
def server(part: str, folder: Path) -> Iterator[Mapping[str, str]]:
    """The server that a page takes for given, and the environment that leads to it."""
    if part != "postgres":
        yield {}
        return
    from tunewright.envs.storage import postgres_server
    from tunewright.envs.storage.postgres_bench import run_file
    from tunewright.envs.storage.postgres_dsn import connected

    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        os.chmod(place, 0o711)
        cluster = Path(place) / "cluster"
        postgres_server.make_cluster(cluster, {})
        with postgres_server.Server(cluster, {}) as running:
            with connected(running.conninfo("postgres")) as connection:
                connection.execute("CREATE DATABASE shop")
            run_file(running.conninfo("shop"), folder / "shop.sql")
            yield {"PGHOST": running.socket, "PGUSER": postgres_server.ROLE}


def play(part: str, trials: int | None) -> dict[str, Any]:
    """Run a page's session.

    Args:
        part: name of the page.
        trials: in the place of the page's.
    """
    tunewright = str(Path(sys.executable).with_name("tunewright"))
    files, command = session(part)
    name = f"{part}-guide"  # 'show postgres' would be about the target
    fewer = ["-n", str(trials)] if trials else []
    words = [tunewright, *command[1:], "--seed", "1", "--name", name, "--json", *fewer]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        folder = Path(place)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        with server(part, folder) as found:
            env = {**os.environ, **found, "TUNEWRIGHT_STORE": f"sqlite:///{folder / 'guides.db'}"}
            told = []
            for line in (words, [tunewright, "show", name, "--json"]):
                done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{part}: {done.stderr[-2000:]}")
                told.append(json.loads(done.stdout))
    summary, shown = told
    described = sum(len(text.splitlines()) for file, text in files.items() if file.endswith(".toml"))
    kept = ("trials", "failed", "ratio", "ratio_low", "ratio_high", "improved", "seconds")
    return {
        "command": shlex.join(command),
        "lines": described or 1,
        "verdict": shown["verdict"]["sentence"],
        "settings": shown["verdict"]["settings"].strip(),
        **{key: summary[key] for key in kept},
    }


def quote(row: Mapping[str, Any]) -> str:
    """Return a verdict as its page quotes it."""
    tried = f"{row['trials']} trials, {row['failed']} of them failed, in {row['seconds']:.0f} s"
    return f"{tried}:\n\n```text\n{row['verdict']}\n\n{row['settings']}\n```\n\n"


def compared(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return ratio, interval and verdict; no numbers where nothing beat the default, so that nothing was verified."""
    verdict = "improved" if row["improved"] else "no improvement shown"
    if row["ratio"] is None:
        return "", "", verdict
    return f"{row['ratio']:.2f}", f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}", verdict


def main() -> None:
    """Run the parts, and write table and pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; repeatable")
    parser.add_argument("--trials", type=int, help="in the place of the page's, to see that it works")
    parser.add_argument("--try", action="store_true", dest="only_try", help="print what came out, and write nothing")
    given = parser.parse_args()
    kept = RESULTS / "guides.json"
    rows = json.loads(kept.read_text()) if kept.exists() else {}
    for part in given.part or PARTS:
        rows[part] = play(part, given.trials)
        print(part, quote(rows[part]), flush=True)
        if given.only_try:
            continue
        kept.write_text(json.dumps(rows, indent=1) + "\n")
        page = GUIDES / f"{part}.md"
        text = page.read_text(encoding="utf-8")
        page.write_text(QUOTE.sub(lambda _, row=rows[part]: quote(row), text), encoding="utf-8")
    if given.only_try:
        return
    lines = [
        [f"[{part}](../guides/{part}.md)", row["lines"], *compared(row), row["trials"], row["failed"], f"{row['seconds']:.0f}"]
        for part, row in rows.items()
    ]  # fmt: skip
    head = ["guide", "lines of TOML or commands", "ratio", "95 % interval", "verdict", "trials", "failed", "seconds"]
    said = "Each session is run as its page has it, with seed 1; ratio of the objective to the default's, from fresh pairs."
    publish("guides", "The sessions of the guides", "python benchmarks/guides.py", f"{table(head, lines)}\n\n{said}")


if __name__ == "__main__":
    main()
