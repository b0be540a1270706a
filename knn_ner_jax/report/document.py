"""A page: one HTML file that needs nothing else and asks no server for anything. Needs the extra `report`."""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from knn_ner_jax.io import write_text

if TYPE_CHECKING:
    import jinja2

    from knn_ner_jax.report.explorer import Explorer

_SCRIPT = "page.js"


@dataclass(frozen=True)
class Fact:
    """A number to see first: what it is, the number, and what to know of it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text under a header.

    Attributes:
        header: of each column.
        rows: as wide as the header.
        align: a letter for each column: `l` for text, `r` for numbers with as many decimals in every row.
        caption: what it shows.
        folded: shown when it is opened.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    caption: str = ""
    folded: bool = False

    def __post_init__(self) -> None:
        widths = sorted({len(self.align), *map(len, self.rows)})
        if set(self.align) - set("lr") or widths != [len(self.header)]:
            raise ValueError(
                f"table {self.caption!r}: expected rows and letters l or r for {len(self.header)} columns, "
                f"got align {self.align!r} and rows of {widths}"
            )


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        svg: of `figures`; goes into the page as it is.
        alt: what it says, for those who do not see it.
        caption: below it.
    """

    svg: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, then figures and tables."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Page:
    """Everything a page says; all text is shown as it is, whatever markup it may look like.

    Attributes:
        title: of the page.
        summary: paragraphs; what was found comes first.
        facts: numbers to see first.
        sections: in order.
        explorer: sentences to look into, or None.
        footer: what it was made with.
    """

    title: str
    summary: tuple[str, ...]
    facts: tuple[Fact, ...] = ()
    sections: tuple[Section, ...] = ()
    explorer: "Explorer | None" = None
    footer: tuple[str, ...] = ()


@cache
def _environment() -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("knn_ner_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _script_hash() -> str:
    """What lets the page's own script run, and no other that might have come in with the text of a corpus."""
    environment = _environment()
    script = environment.get_template(_SCRIPT).render()
    digest = hashlib.sha256(script.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def render_html(page: Page) -> str:
    """The HTML of a page."""
    return _environment().get_template("page.html").render(page=page, script=_SCRIPT, script_hash=_script_hash()) + "\n"


def write_html(path: Path, page: Page) -> None:
    """Writes a page, whole or not at all."""
    write_text(path, render_html(page))
