"""Sections of manuals in Markdown, HTML, reStructuredText and PDF, each read by the library for it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tunewright.errors import ConfigError, missing_extra
from tunewright.knowledge.sections import Section, bare, squeeze
from tunewright.store.files import check_size

_TAG_BYTES, _LINE_BYTES = 800, 1500  # of memory for a tag of HTML and for a line of Markdown, once parsed

# -- Markdown -------------------------------------------------------------------------------------

_TERM_LINE = re.compile(r"^`?\**`?(?P<term>[\w.*<>/-]+(?:[ =][\w.*<>-]+)?)`?\**`?\s*(?:[-–—:=]\s+|\()")


def markdown(text: str, name: str) -> Iterator[Section]:
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


def html(text: str, name: str) -> Iterator[Section]:
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
            paragraphs = [squeeze(p.get_text()) for p in _leaves(child)] or [squeeze(child.get_text())]
            line = (terms[0] if terms else child).sourceline or start
            for term in names:
                place, text = (*path, term.split(" ")[0]), "\n".join(paragraphs)
                sections.append(Section(path=place, text=text, source=f"{name}:{line}", term=term))
            for inner in child.find_all("dl"):
                if inner.find_parent("dl") is dl:
                    definitions(inner)
            terms = []

    walk(soup.body or soup)
    flush()
    yield from sections


def _leaves(node: Any) -> list[Any]:
    """Paragraphs and the like of a definition, without those of definitions inside it."""
    parts = node.find_all(["p", "pre", "li", "td"])
    return [part for part in parts if not part.find(["p", "li"]) and part.find_parent("dd") is node]


# -- reStructuredText -----------------------------------------------------------------------------


def rst(text: str, name: str) -> Iterator[Section]:
    """Sections make the path; definition lists, field lists and option lists define terms. Nothing is included."""
    try:
        import docutils.core
        import docutils.nodes as n
    except ImportError:
        raise missing_extra("docutils", "llm", f"reading {name}") from None
    settings = {
        "report_level": 5,  # problems of the text are not reported, and none ends the reading
        "halt_level": 6,
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "_disable_config": True,
    }
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


def pdf(raw: bytes, name: str) -> Iterator[Section]:
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
