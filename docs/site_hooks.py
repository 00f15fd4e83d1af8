"""Links of the pages to files outside the site (tests, sources) become names: the pages are read in both places."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

_ROLE = re.compile(r":(?:func|class|mod|meth|attr):(?=<code>)")  # what docstrings say to Sphinx and to readers of code
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Keep links between pages, and turn the others into text with the file's name."""
    here = PurePosixPath(page.file.src_uri).parent

    def held(match: re.Match[str]) -> str:
        words, target = match[1], match[2]
        if "://" in target:
            return match[0]
        parts: list[str] = []
        for part in (here / target).parts:
            if part != "..":
                parts.append(part)
            elif parts:
                parts.pop()
            else:
                return f"{words} (`{PurePosixPath(target).name}`)"
        return match[0] if files.get_file_from_path("/".join(parts)) else f"{words} (`{'/'.join(parts)}`)"

    return _LINK.sub(held, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Leave out the roles of docstrings."""
    return _ROLE.sub("", html)
