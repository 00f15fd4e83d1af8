"""Self-contained HTML pages: everything put into them is escaped, and they load nothing and run nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.store.outputs import write_text


def render(template: str, content: Mapping[str, Any], **filters: Callable[..., str]) -> str:
    """Return a page of one of the package's templates."""
    import jinja2

    loader = jinja2.PackageLoader("tunewright.report", package_path="")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(filters)
    return environment.get_template(template).render(**content)


def write_figures(path: Path, title: str, subtitle: str, sections: Sequence[tuple[str, Any, str]]) -> None:
    """Write a page of figures.

    Args:
        path: file to write.
        title, subtitle: plain text.
        sections: (heading, figure, plain text under it).

    Raises:
        ConfigError: the file cannot be written.
    """
    write_text(path, render("page.html.j2", {"title": title, "subtitle": subtitle, "sections": sections}))
