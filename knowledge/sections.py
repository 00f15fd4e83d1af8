"""What a manual becomes: sections that know their heading path and where they stand, and chunks of them to search."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Section:
    """A piece of a manual under one heading, or the definition of one term.

    Attributes:
        path: headings from the outermost to its own, then the term if it defines one.
        text: plain text; runs of white space are single blanks, paragraphs and list items are lines, code is in
            backticks.
        source: file name and line (or page), such as ``runtime-config.html:120``.
        term: the defined term with what the manual puts beside it, such as ``shared_buffers (integer)``; or "".
    """

    path: tuple[str, ...]
    text: str
    source: str
    term: str = ""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What is retrieved: a piece of a section with its heading path.

    Attributes:
        path: as in Section.
        text: at most ``size`` characters, whole lines where possible.
        source: as in Section.
    """

    path: tuple[str, ...]
    text: str
    source: str


def chunks(sections: Iterable[Section], *, size: int = 3000, overlap: int = 80) -> list[Chunk]:
    """Cut sections into chunks.

    Args:
        sections: what to cut.
        size: most characters of a chunk.
        overlap: characters that a piece of a cut line repeats from the one before.
    """
    pieces = []
    for section in sections:
        piece = ""
        for line in section.text.splitlines():
            for part in (
                [line[i : i + size] for i in range(0, len(line), size - overlap)] if len(line) > size else [line]
            ):
                if piece and len(piece) + len(part) >= size:
                    pieces.append(Chunk(path=section.path, text=piece, source=section.source))
                    piece = ""
                piece = f"{piece}\n{part}" if piece else part
        if piece:
            pieces.append(Chunk(path=section.path, text=piece, source=section.source))
    return pieces


def squeeze(text: str) -> str:
    """Return the text with runs of blanks and line breaks as single blanks."""
    return re.sub(r"\s+", " ", text).strip()


def bare(text: str) -> str:
    """Return the text without white space at its ends, runs of it, and marks of code."""
    return squeeze(text.replace("`", ""))
