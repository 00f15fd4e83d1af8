"""Manuals as sections: Markdown, HTML, reStructuredText, PDF, man pages, configuration files with comments, plain text.

What a manual says is data: nothing in it is executed, and no link in it is followed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tunewright.errors import ConfigError
from tunewright.knowledge import manual_markup, manual_text
from tunewright.knowledge.sections import Section
from tunewright.store.files import decoded, limit_mb, parsing, read_bytes

_PDF_MB, _TEXT_MB, _RST_MB = 64.0, 16.0, 2.0  # what a manual may have; docutils is the slowest reader
SUFFIXES = (".md", ".markdown", ".html", ".htm", ".xhtml", ".rst", ".pdf", ".conf", ".cnf", ".ini", ".txt", ".gz")


def read_manual(paths: Sequence[Path | str]) -> list[Section]:
    """Read files and folders (their manuals, in the order of their names).

    Raises:
        ConfigError: a file cannot be read, or a folder holds no manual.
    """
    return [section for path, name in files_of(paths) for section in read_file(path, name)]


def files_of(paths: Sequence[Path | str]) -> list[tuple[Path, str]]:
    """Return the files of manuals and how they are quoted, folders searched.

    Raises:
        ConfigError: a folder holds no manual.
    """
    manuals: list[tuple[Path, str]] = []
    for given in map(Path, paths):
        if not given.is_dir():
            manuals.append((given, given.name))
            continue
        files = sorted(p for p in given.rglob("*") if p.is_file() and (p.suffix in SUFFIXES or is_man_page(p)))
        if not files:
            raise ConfigError(f"{given} holds no manual; known are {', '.join(SUFFIXES)} and man pages")
        manuals += [(path, str(path.relative_to(given))) for path in files]
    return manuals


def is_man_page(path: Path) -> bool:
    """Whether a file is named like a man page: ``lfs.1``, ``lctl.8.gz``."""
    return re.fullmatch(r".+\.[1-9][a-z]*", path.name.removesuffix(".gz")) is not None


def read_file(path: Path, name: str) -> list[Section]:
    """Read one manual; ``name`` is how its places are quoted.

    Raises:
        ConfigError: it cannot be read.
    """
    raw = read_bytes(path, "manual", _PDF_MB)
    with parsing(path, "manual"):
        return _sections(path, name, raw)


def _sections(path: Path, name: str, raw: bytes) -> list[Section]:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if raw[:5] == b"%PDF-":
        return list(manual_markup.pdf(raw, name))
    most = limit_mb(_RST_MB if suffix == ".rst" else _TEXT_MB)
    if len(raw) > most * 1e6:
        raise ConfigError(
            f"the manual {path} has {len(raw) / 1e6:,.0f} MB of text, more than {most:g}; give a part of it"
        )
    text = decoded(raw)
    text = re.sub(r"\w{1000,}", "…", text)  # no word, but data; patterns take quadratic time on it
    reader: Callable[[str, str], Iterable[Section]] = manual_markup.markdown
    if suffix in (".html", ".htm", ".xhtml") or re.match(r"\s*(<\?xml|<!doctype|<html)", text[:200], re.I):
        reader = manual_markup.html
    elif suffix == ".rst":
        reader = manual_markup.rst
    elif is_man_page(path) and re.search(r"^\.(TH|SH|Dd|Sh)\b", text, re.M):
        reader = manual_text.man
    elif suffix in (".conf", ".cnf", ".ini") or manual_text.looks_like_settings(text):
        reader = manual_text.settings
    return [s for s in reader(text, name) if s.text or s.term]
