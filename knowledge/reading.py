"""From manuals to parameters, each claim with its quote."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from tunewright.errors import ConfigError, TunerError
from tunewright.knowledge import live
from tunewright.knowledge.extract import extract, merged
from tunewright.knowledge.manuals import files_of, read_file
from tunewright.knowledge.parameters import ParameterDoc, supported, texts_of
from tunewright.knowledge.sections import Chunk, Section, chunks
from tunewright.store.files import check_size, decoded, parsing, read_bytes, read_head, read_text
from tunewright.store.paths import home

_HEAD = 65_536  # bytes of a file that tell whether it is a listing
_LISTING_MB, _ROW_BYTES = 16.0, 3000  # of a listing's text, and of memory for one of its lines
PASSAGES = 12  # of the manual for one parameter
_FORMAT = 1  # of the cache; a change of the readers needs a new number


def sections_of(paths: Sequence[Path], tick: Callable[[int, int, str], None] | None = None) -> list[Section]:
    """Read manuals, each file from the cache if it was read before.

    Raises:
        ConfigError: a file cannot be read.
    """
    files = files_of(paths)
    found: list[Section] = []
    for number, (path, name) in enumerate(files):
        if tick:
            tick(number, len(files), name)
        found += _cached(path, name)
    return found


def _cached(path: Path, name: str) -> list[Section]:
    raw = read_bytes(path, "manual")
    key = hashlib.sha256(f"{_FORMAT}\0{name}\0".encode(errors="surrogateescape") + raw).hexdigest()[:32]
    place = home() / "cache" / "manuals" / f"{key}.json"
    try:
        return [Section(**{**s, "path": tuple(s["path"])}) for s in json.loads(place.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError):
        made = read_file(path, name)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps([asdict(s) for s in made]), encoding="utf-8")
        partial.replace(place)
    except OSError:
        pass  # a cache that cannot be written is none
    return made


def _head(path: Path) -> str:
    """Return the first lines of a file, enough to tell a listing by; "" for what is no file."""
    if not path.is_file():
        return ""
    return decoded(read_head(path, "manual", _HEAD))


def nothing_found(paths: Sequence[Path | str]) -> ConfigError:
    """Build the error for manuals without a parameter."""
    return ConfigError(
        f"no parameter was found in {', '.join(map(str, paths)) or 'nothing'}. Known are pg_settings as CSV, the text"
        " of 'gluster volume set help', lists of options (--help), files of settings with a comment above each, and"
        " manuals in which a heading or a list names each parameter (Markdown, HTML, reStructuredText, PDF, man pages)."
        " A model reads prose: --model, --names"
    )


class Reader(Protocol):
    """What reads prose: a model, with what it has spent."""

    def describe(
        self, name: str, passages: Sequence[Chunk], texts: Mapping[str, str], /
    ) -> tuple[ParameterDoc | None, list[str]]:
        """Read passages for one parameter, given the texts that quotes must be in.

        Returns:
            What they say, None if it is not worth tuning; and what was dropped.
        """
        ...

    def spent(self) -> dict[str, float]:
        """Return calls, tokens and money so far."""
        ...


def read_prose(
    docs: Sequence[ParameterDoc], sections: Sequence[Section], reader: Reader, names: Sequence[str] = (),
    most: int = 40, tick: Callable[[int, int, str], None] | None = None,
) -> tuple[list[ParameterDoc], list[str]]:  # fmt: skip
    """Have a model read what structure and phrases did not tell.

    Args:
        docs: what is known.
        sections: of the manual.
        reader: reads passages.
        names: parameters to read; without any, those that lack a default or a range, the important ones first.
        most: parameters at most.
        tick: called with (done, total, name).

    Returns:
        All parameters, claims of structure before those of the model, without those that the model judges not worth
        tuning; and what was dropped, in words. If the model cannot be asked any more, what it has read is kept.

    Raises:
        TunerError: the model cannot be asked at all.
    """
    from tunewright.knowledge.retrieval import Index

    known = {d.name: d for d in docs}
    thin = [d for d in docs if d.default is None or not (d.range.stated or d.type == "boolean")]
    wanted = list(names) or [d.name for d in sorted(thin, key=lambda d: -d.importance)]
    index, texts = Index(chunks(sections)), texts_of(sections)
    dropped: list[str] = []
    for number, name in enumerate(wanted[:most]):
        if tick:
            tick(number, len(wanted[:most]), name)
        passages = index.search(f"How do I use the parameter {name}?", PASSAGES)
        if not passages:
            dropped.append(f"{name}: the manual has no passage on it")
            continue
        try:
            found, said = reader.describe(name, passages, texts)
        except TunerError as error:
            if number == 0:
                raise
            dropped.append(f"the reading ended before {name}: {error}")
            break
        dropped += said
        if found is None:
            known.pop(name, None)
        else:
            known[name] = merged([known[name]] if name in known else [], [found])[0]
    return list(known.values()), dropped


def read(
    sources: Sequence[str], tick: Callable[[int, int, str], None] | None = None
) -> tuple[list[ParameterDoc], list[Section], list[str]]:
    """Read parameters from manuals, listings and servers; earlier sources win where several speak of one parameter.

    Args:
        sources: files, folders, a CSV of ``pg_settings``, a text of ``gluster volume set help``, ``postgresql://…``.
        tick: called with (done, total, name).

    Returns:
        The parameters; the sections that were read; what was dropped for want of a quote.

    Raises:
        ConfigError: nothing can be read.
    """
    docs: list[ParameterDoc] = []
    paths = []
    for source in sources:
        if source.startswith(("postgresql://", "postgres://")):
            docs = merged(docs, live.query_pg_settings(source))
            continue
        path = Path(source)
        with parsing(path, "manual"):
            listing = live.reader_of(_head(path))
        if listing is not None:
            text = read_text(path, "listing", most_mb=_LISTING_MB, errors="replace")
            check_size(f"the listing {path}", text.count("\n"), _ROW_BYTES, "give a part of it")
            with parsing(path, "listing of parameters"):
                docs = merged(docs, listing(text, path.name))
        else:
            paths.append(path)
    sections = sections_of(paths, tick) if paths else []
    dropped: list[str] = []
    with parsing(", ".join(map(str, paths)), "manual"):
        texts = texts_of(sections)
        written = []
        for doc in extract(sections):
            kept, lost = supported(doc, texts)
            written.append(kept)
            dropped += lost
        docs = merged(docs, written)
    if not docs and not sections:
        raise nothing_found(paths)
    return docs, sections, dropped
