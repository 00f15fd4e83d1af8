"""Manuals as sections that know their heading path and where they stand.

Markdown, HTML, reStructuredText, PDF, man pages, configuration files with comments, and plain text. What a manual says
is data: nothing in it is executed, and no link in it is followed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import ConfigError, missing_extra
from tunewright.store.files import check_size, limit_mb, parsing, read_bytes

_PDF_MB, _TEXT_MB, _RST_MB = 64.0, 16.0, 2.0  # what a manual may have; docutils is the slowest reader
_TAG_BYTES, _LINE_BYTES = 800, 1500  # of memory for a tag of HTML and for a line of Markdown, once parsed
SUFFIXES = (".md", ".markdown", ".html", ".htm", ".xhtml", ".rst", ".pdf", ".conf", ".cnf", ".ini", ".txt", ".gz")


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
    found: list[tuple[Path, str]] = []
    for given in map(Path, paths):
        if not given.is_dir():
            found.append((given, given.name))
            continue
        files = sorted(p for p in given.rglob("*") if p.is_file() and (p.suffix in SUFFIXES or is_man_page(p)))
        if not files:
            raise ConfigError(f"{given} holds no manual; known are {', '.join(SUFFIXES)} and man pages")
        found += [(path, str(path.relative_to(given))) for path in files]
    return found


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
        return list(_pdf(raw, name))
    most = limit_mb(_RST_MB if suffix == ".rst" else _TEXT_MB)
    if len(raw) > most * 1e6:
        raise ConfigError(
            f"the manual {path} has {len(raw) / 1e6:,.0f} MB of text, more than {most:g}; give a part of it"
        )
    text = raw.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"\w{1000,}", "…", text)  # no word, but data; patterns take quadratic time on it
    reader: Callable[[str, str], Iterable[Section]] = _markdown
    if suffix in (".html", ".htm", ".xhtml") or re.match(r"\s*(<\?xml|<!doctype|<html)", text[:200], re.I):
        reader = _html
    elif suffix == ".rst":
        reader = _rst
    elif is_man_page(path) and re.search(r"^\.(TH|SH|Dd|Sh)\b", text, re.M):
        reader = _man
    elif suffix in (".conf", ".cnf", ".ini") or _looks_like_settings(text):
        reader = _settings
    return [s for s in reader(text, name) if s.text or s.term]


def squeeze(text: str) -> str:
    """Return the text with runs of blanks and line breaks as single blanks."""
    return re.sub(r"\s+", " ", text).strip()


def bare(text: str) -> str:
    """Return the text without white space at its ends, runs of it, and marks of code."""
    return squeeze(text.replace("`", ""))


# -- Markdown -------------------------------------------------------------------------------------

_TERM_LINE = re.compile(r"^`?\**`?(?P<term>[\w.*<>/-]+(?:[ =][\w.*<>-]+)?)`?\**`?\s*(?:[-–—:=]\s+|\()")


def _markdown(text: str, name: str) -> Iterator[Section]:
    """Headings make the path; a list item or table row that begins with a code word defines a term."""
    from markdown_it import MarkdownIt

    check_size(f"the manual {name}", text.count("\n"), _LINE_BYTES, "give a part of it")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    path: list[str] = []
    lines: list[str] = []
    start = 1

    def flush() -> Iterator[Section]:
        if lines:
            yield Section(path=tuple(path), text="\n".join(lines), source=f"{name}:{start}")
            lines.clear()

    kinds: list[str] = []  # open list items and table rows
    cells: list[str] = []
    for i, token in enumerate(tokens):
        line = token.map[0] + 1 if token.map else start
        if token.type == "heading_open":
            yield from flush()
            level = int(token.tag[1])
            path = [*path[: level - 1], squeeze(_inline(tokens[i + 1]))]
            start = line
        elif token.type in ("list_item_open", "tr_open"):
            kinds.append(token.type)
            cells = []
        elif token.type == "list_item_close":
            kinds.pop()
        elif token.type == "tr_close":
            kinds.pop()
            row = " | ".join(cells)
            if row:
                lines.append(row)
                if len(cells) > 1 and re.fullmatch(r"[\w.*-]{3,60}", bare(cells[0])):
                    yield Section(path=(*path, bare(cells[0])), text=row, source=f"{name}:{start}", term=bare(cells[0]))
        elif token.type == "inline" and tokens[i - 1].type != "heading_open":
            said = squeeze(_inline(token))
            if kinds and kinds[-1] == "tr_open":
                cells.append(said)
                continue
            if not lines:
                start = line
            lines.append(said)
            begins = token.children and token.children[0].type in ("code_inline", "strong_open")
            term = _TERM_LINE.match(said) if kinds and begins else None
            if term:
                where = term["term"].split("=")[0]
                yield Section(path=(*path, where), text=said, source=f"{name}:{line}", term=where)
        elif token.type in ("fence", "code_block"):
            lines.append(token.content.rstrip())
    yield from flush()


def _inline(token: Any) -> str:
    out = []
    for child in token.children or ():
        if child.type == "text":
            out.append(child.content)
        elif child.type == "code_inline":
            out.append(f"`{child.content}`")
        elif child.type in ("softbreak", "hardbreak"):
            out.append(" ")
    return "".join(out)


# -- HTML -----------------------------------------------------------------------------------------


_TAG = re.compile(
    r"""<!--.*?(?:-->|\Z) | <(?P<raw>script|style)\b.*?(?:</(?P=raw)|\Z)
    | <(?P<closing>/?)(?P<name>[a-z][^\s/<>]*+)(?:[^<>"']|"[^"]*"|'[^']*')*+>""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_VOID = frozenset("area base basefont br col embed hr img input link meta param source spacer track wbr".split())
_MOST_DEPTH = 5000  # tags within tags; the parser takes quadratic time on them


def _check_depth(text: str, name: str) -> None:
    """Refuse a page of tags within tags without end; as for the parser, what is not closed ends with what is around it.

    Raises:
        ConfigError: there are too many.
    """
    inner: list[str] = []
    counts: Counter[str] = Counter()
    for tag in _TAG.finditer(text):
        word = (tag["name"] or "").lower()
        if not word or word in _VOID:
            continue
        if tag["closing"]:
            while counts[word]:
                last = inner.pop()
                counts[last] -= 1
                if last == word:
                    break
        elif not tag[0].endswith("/>"):
            inner.append(word)
            counts[word] += 1
        if len(inner) > _MOST_DEPTH:
            line = text.count("\n", 0, tag.start()) + 1
            raise ConfigError(f"{name}, line {line}: cannot be read as manual: it is nested too deeply")


def _html(text: str, name: str) -> Iterator[Section]:
    """Headings make the path; ``dt`` and ``dd`` define terms."""
    try:
        from bs4 import BeautifulSoup
        from bs4.element import NavigableString, Tag
    except ImportError:
        raise missing_extra("beautifulsoup4", "llm", f"reading {name}") from None
    check_size(f"the manual {name}", text.count("<"), _TAG_BYTES, "give a part of it")
    _check_depth(text, name)
    soup = BeautifulSoup(text, "html.parser")
    for junk in soup.find_all(["script", "style", "nav", "head"]):
        junk.decompose()
    for junk in soup.find_all(class_=["navheader", "navfooter", "toc"]):
        junk.decompose()
    for code in soup.find_all("code"):
        if "literal" in (code.get("class") or ["literal"]):  # values; names of parameters need no marks
            code.insert_before("`")
            code.insert_after("`")
    blocks = {"p", "li", "pre", "td", "th", "dd", "dt", "blockquote", "tr"}
    path: list[str] = []
    lines: list[str] = []
    start = 1
    sections: list[Section] = []

    def flush() -> None:
        if lines:
            sections.append(Section(path=tuple(path), text="\n".join(lines), source=f"{name}:{start}"))
            lines.clear()

    def walk(node: Any) -> None:
        nonlocal start
        for child in node.children:
            if isinstance(child, NavigableString):
                if squeeze(str(child)):
                    lines.append(squeeze(str(child)))
            elif not isinstance(child, Tag):
                continue
            elif re.fullmatch(r"h[1-6]", child.name):
                flush()
                level = int(child.name[1])
                path[:] = [*path[: level - 1], squeeze(child.get_text())]
                start = child.sourceline or start
            elif child.name == "dl":
                flush()
                definitions(child)
            elif child.name in blocks and not child.find(["dl", "p", "li", "tr"]):
                if not lines:
                    start = child.sourceline or start
                said = child.get_text() if child.name == "pre" else squeeze(child.get_text())
                if said.strip():
                    lines.append(said)
            else:
                walk(child)

    def definitions(dl: Any) -> None:
        nonlocal start
        terms: list[Any] = []
        for child in dl.find_all(["dt", "dd"], recursive=False):
            if child.name == "dt":
                terms.append(child)
                continue
            names = [bare(t.get_text()) for t in terms] or [""]
            own = [squeeze(p.get_text()) for p in _leaves(child)] or [squeeze(child.get_text())]
            line = (terms[0] if terms else child).sourceline or start
            for term in names:
                sections.append(
                    Section(path=(*path, term.split(" ")[0]), text="\n".join(own), source=f"{name}:{line}", term=term)
                )
            for inner in child.find_all("dl"):
                if inner.find_parent("dl") is dl:
                    definitions(inner)
            terms = []

    walk(soup.body or soup)
    flush()
    yield from sections


def _leaves(node: Any) -> list[Any]:
    """Paragraphs and the like of a definition, without those of definitions inside it."""
    found = []
    for part in node.find_all(["p", "pre", "li", "td"]):
        if not part.find(["p", "li"]) and part.find_parent("dd") is node:
            found.append(part)
    return found


# -- reStructuredText -----------------------------------------------------------------------------


def _rst(text: str, name: str) -> Iterator[Section]:
    """Sections make the path; definition lists, field lists and option lists define terms. Nothing is included."""
    try:
        import docutils.core
        import docutils.nodes as n
    except ImportError:
        raise missing_extra("docutils", "llm", f"reading {name}") from None
    settings = {
        "report_level": 5, "halt_level": 6, "file_insertion_enabled": False, "raw_enabled": False, "_disable_config": True,
    }  # fmt: skip
    tree = docutils.core.publish_doctree(text, settings_overrides=settings)

    def line_of(node: Any) -> int:
        while node is not None and not node.line:
            node = node.parent
        return node.line if node is not None else 1

    def walk(node: Any, path: tuple[str, ...]) -> Iterator[Section]:
        lines: list[str] = []
        inner: list[Section] = []
        if isinstance(node, (n.section, n.document)):
            title = next((c for c in node.children if isinstance(c, n.title)), None)
            if title is not None:
                path = (*path, squeeze(title.astext()))
        for child in node.children:
            if isinstance(child, n.section):
                inner += walk(child, path)
            elif isinstance(child, n.definition_list):
                for item in child.children:
                    term = squeeze(item.children[0].astext())
                    said = "\n".join(squeeze(c.astext()) for c in item.children[-1].children)
                    lines.append(f"{term}: {said}")
                    inner.append(
                        Section(
                            path=(*path, term.split(" ")[0]), text=said, source=f"{name}:{line_of(item)}", term=term
                        )
                    )
            elif isinstance(child, n.title | n.system_message | n.comment):
                continue
            elif isinstance(child, n.literal_block):
                lines.append(child.astext())
            elif isinstance(child, n.bullet_list | n.enumerated_list | n.block_quote):
                lines += [squeeze(c.astext()) for c in child.children]
            else:
                lines.append(squeeze(child.astext()))
        title_text = path[-1] if path else ""
        term = title_text if re.fullmatch(r"[\w./-]+(\s*\(.*\))?", title_text) and "_" in title_text else ""
        text = "\n".join(line for line in lines if line)
        if text:
            yield Section(path=path, text=text, source=f"{name}:{line_of(node)}", term=term)
        yield from inner

    yield from walk(tree, ())


# -- PDF ------------------------------------------------------------------------------------------


def _pdf(raw: bytes, name: str) -> Iterator[Section]:
    """A section a page; the outline, where there is one, makes the path."""
    try:
        import pypdf
    except ImportError:
        raise missing_extra("pypdf", "llm", f"reading {name}") from None
    import io
    import logging

    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = pypdf.PdfReader(io.BytesIO(raw))
        heads = sorted(_outline(reader, reader.outline, ()), key=lambda h: h[0])
        for number, page in enumerate(reader.pages):
            path = next((p for at, p in reversed(heads) if at <= number), ())
            lines = [squeeze(line) for line in page.extract_text().splitlines()]
            yield Section(path=path, text="\n".join(filter(None, lines)), source=f"{name}:page {number + 1}")
    except (pypdf.errors.PyPdfError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"cannot read {name}: {error}") from None


def _outline(reader: Any, entries: Any, path: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    last = path
    for entry in entries:
        if isinstance(entry, list):
            yield from _outline(reader, entry, last)
        else:
            last = (*path, squeeze(str(entry.title)))
            page = reader.get_destination_page_number(entry)
            if page is not None:
                yield page, last


# -- man pages ------------------------------------------------------------------------------------


def _man(text: str, name: str) -> Iterator[Section]:
    """``.SH`` and ``.SS`` make the path; ``.TP`` and ``.IP`` define terms. Macros are dropped, never run."""
    title, path, start = name, [name], 1
    lines: list[str] = []
    term = ""
    wants_term = False
    for number, line in enumerate(text.splitlines(), 1):
        macro = re.match(r"[.'](\w+|\\\")\s*(.*)", line)
        kind, rest = (macro[1], _roff(macro[2])) if macro else ("", _roff(line))
        if kind in ("SH", "SS", "Sh", "Ss", "TP", "IP", "It", "PP", "LP", "P"):
            if lines or term:
                yield Section(
                    path=tuple(path) + ((term.split(" ")[0].split("=")[0],) if term else ()), text="\n".join(lines),
                    source=f"{name}:{start}", term=term,
                )  # fmt: skip
            lines, term, start, wants_term = [], "", number, kind == "TP"
            if kind in ("SH", "Sh"):
                path = [title, rest]
            elif kind in ("SS", "Ss"):
                path = [*path[:2], rest]
            elif kind in ("IP", "It") and not re.match(r"^(\\\(bu|\W|\d+\.?)?$", rest.split(" ")[0] if rest else ""):
                term = rest
        elif kind in ("TH", "Dt"):
            title = rest.split(" ")[0].lower() or name
            path = [title]
        elif kind in ("B", "I", "BR", "RB", "IR", "RI", "BI", "Nm", "Fl", "Ar", "") and rest:
            if wants_term:
                term, wants_term = rest, False
            else:
                lines.append(rest)
    if lines or term:
        yield Section(path=tuple(path) + ((term.split(" ")[0],) if term else ()), text="\n".join(lines),
                      source=f"{name}:{start}", term=term)  # fmt: skip


def _roff(text: str) -> str:
    text = re.sub(r"\\f(\[\w*\]|\(\w\w|.)|\\s[-+]?\d|\\&|\\\"", "", text)
    text = text.replace(r"\-", "-").replace(r"\(bu", "*").replace(r"\ ", " ").replace(r"\e", "\\").replace('"', "")
    return squeeze(re.sub(r"\\\(\w\w|\\\[\w+\]", "", text))


# -- configuration files --------------------------------------------------------------------------

_SETTING = re.compile(r"^(?P<off>[#;]\s?)?(?P<name>[A-Za-z_][\w.-]*)(?:\s*=\s*|\s+)(?P<value>\S.*)$")


def _looks_like_settings(text: str) -> bool:
    head = [line for line in text.splitlines()[:2000] if line.strip()]
    marked = sum(line.lstrip().startswith(("#", ";")) and not re.match(r"#{1,6} \S", line) for line in head)
    return len(head) > 5 and marked > 0.4 * len(head)


def _settings(text: str, name: str) -> Iterator[Section]:
    """The comment before a setting describes it; a setting that is commented out counts, if it stands like one.

    Banners (``#### NETWORK ####``) make the path.
    """
    path: tuple[str, ...] = ()
    comment: list[str] = []
    start = 1
    for number, line in enumerate(text.splitlines(), 1):
        banner = re.fullmatch(r"[#;=\-\s]{4,}\s*([A-Z][A-Za-z &/,()-]+?)\s*[#;=\-\s]{3,}", line)
        active = _SETTING.match(line)
        is_comment = line.lstrip().startswith(("#", ";"))
        if banner or (re.fullmatch(r"\[[\w .-]+\]", line.strip())):
            path, comment = ((banner[1] if banner else line.strip(" []")).strip(),), []
        elif active and (not is_comment or _commented_setting(active, comment)):
            said = "\n".join(comment)
            yield Section(
                path=(*path, active["name"]), source=f"{name}:{start if comment else number}",
                text=f"{said}\n{line.lstrip('#; ').strip()}".strip(), term=f"{active['name']} = {_value(active['value'])}",
            )  # fmt: skip
        elif is_comment:
            if not comment:
                start = number
            words = squeeze(line.lstrip().lstrip("#;"))
            if words:
                comment.append(words)
        elif not line.strip():
            comment = []


def _commented_setting(match: re.Match[str], comment: list[str]) -> bool:
    """Whether a commented line is a setting that is switched off, and not prose: one or two words, a known form."""
    words = match["value"].split()
    named = re.search(r"[_-]", match["name"]) is not None or (comment and match["name"] in " ".join(comment))
    return bool(
        named and len(words) <= 2 and match["name"] == match["name"].lower() and not words[-1].endswith((".", ","))
    )


def _value(text: str) -> str:
    return re.split(r"\s+[#;]", text, maxsplit=1)[0].strip()


# -- chunks ---------------------------------------------------------------------------------------


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
    made = []
    for section in sections:
        piece = ""
        for line in section.text.splitlines():
            for part in (
                [line[i : i + size] for i in range(0, len(line), size - overlap)] if len(line) > size else [line]
            ):
                if piece and len(piece) + len(part) >= size:
                    made.append(Chunk(path=section.path, text=piece, source=section.source))
                    piece = ""
                piece = f"{piece}\n{part}" if piece else part
        if piece:
            made.append(Chunk(path=section.path, text=piece, source=section.source))
    return made
