"""Sections of man pages and of configuration files with comments, read line by line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunewright.knowledge.sections import Section, squeeze

# -- man pages ------------------------------------------------------------------------------------


def man(text: str, name: str) -> Iterator[Section]:
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


def looks_like_settings(text: str) -> bool:
    """Whether a text is a configuration file: of its first lines, many are comments that are no Markdown headings."""
    head = [line for line in text.splitlines()[:2000] if line.strip()]
    marked = sum(line.lstrip().startswith(("#", ";")) and not re.match(r"#{1,6} \S", line) for line in head)
    return len(head) > 5 and marked > 0.4 * len(head)


def settings(text: str, name: str) -> Iterator[Section]:
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
            yield Section(
                path=(*path, active["name"]),
                text="\n".join([*comment, line.lstrip("#; ").strip()]).strip(),
                source=f"{name}:{start if comment else number}",
                term=f"{active['name']} = {_value(active['value'])}",
            )
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
