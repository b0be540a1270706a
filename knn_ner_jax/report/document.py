"""Reports as data, and two writers for them: Markdown, and one HTML file that loads nothing from elsewhere.

Only the HTML writer needs the extra `report` (jinja2); only figures need matplotlib.
"""

import base64
import hashlib
import html
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knn_ner_jax.io import write_text

if TYPE_CHECKING:
    import jinja2


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
        caption: what it shows, without a full stop.
        folded: hidden in HTML until a reader unfolds it.

    Raises:
        ValueError: header, rows and align differ in width, or align has other letters.
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

    @classmethod
    def of(
        cls,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        num_text_columns: int,
        caption: str = "",
        folded: bool = False,
    ) -> "Table":
        """Return a table whose first columns hold text and all others numbers.

        >>> Table.of(["group", "F1"], [["PER", "91.0"]], 1).align
        'lr'
        """
        align = "l" * num_text_columns + "r" * (len(header) - num_text_columns)
        return cls(tuple(header), tuple(map(tuple, rows)), align, caption, folded)


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        svg: the `svg` element, as `report.figures` makes it; HTML contains it unchanged.
        alt: what it shows, in words, for those who do not see it.
        caption: below it.
        file: name of the SVG file that Markdown links to; without, Markdown leaves the figure out.
    """

    svg: str
    alt: str
    caption: str = ""
    file: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, then figures and tables."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole report; all text is shown literally, whatever markup it may resemble.

    Attributes:
        title: of the page.
        summary: paragraphs; the results come first.
        facts: numbers to see first.
        sections: in order.
        explorer: sentences to look into (a `report.explorer.Explorer`), or None; only in HTML.
        footer: versions of what made it; only in HTML.
    """

    title: str
    summary: tuple[str, ...]
    facts: tuple[Fact, ...] = ()
    sections: tuple[Section, ...] = ()
    explorer: object | None = None
    footer: tuple[str, ...] = ()


def has_page_extra() -> bool:
    """Return whether the extra `report` is installed, which HTML, plots and parquet need."""
    return all(importlib.util.find_spec(package) for package in ("jinja2", "matplotlib", "pyarrow"))


def footer(environment: Mapping[str, Any]) -> tuple[str, str]:
    """Return a page's last lines: packages and git revision, as `run_dir.environment` gives them."""
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    return packages, f"git revision {environment['git_revision'] or 'unknown'}"


@cache
def _environment() -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _script_hash() -> str:
    """Return the hash by which browsers run the page's own script, and no other that a corpus may have brought in."""
    script = _environment().get_template(_SCRIPT).render()
    digest = hashlib.sha256(script.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def to_html(page: Page) -> str:
    """Return a page as HTML, style and script included."""
    return _environment().get_template("page.html").render(page=page, script=_SCRIPT, script_hash=_script_hash()) + "\n"


def write_html(path: Path, page: Page) -> None:
    """Write a page as HTML, whole or not at all."""
    write_text(path, to_html(page))


def to_markdown(page: Page) -> str:
    """Return a page as Markdown: its sections with paragraphs, tables, then links to figures.

    >>> section = Section("Test", ("Percent.",), (Table.of(["group", "F1"], [["A|B", "91.0"]], 1, "By type"),))
    >>> print(to_markdown(Page("Study", ("It helps.",), sections=(section,))), end="")
    # Study
    <BLANKLINE>
    It helps.
    <BLANKLINE>
    ## Test
    <BLANKLINE>
    Percent.
    <BLANKLINE>
    By type:
    <BLANKLINE>
    | group | F1 |
    | --- | --: |
    | A&#124;B | 91.0 |
    <BLANKLINE>
    """
    lines = [f"# {_escape(page.title)}", ""]
    for paragraph in page.summary:
        lines += [_escape(paragraph), ""]
    for fact in page.facts:
        note = f" ({fact.note})" if fact.note else ""
        lines.append(_escape(f"* {fact.name}: {fact.value}{note}"))
    lines += [""] if page.facts else []
    for section in page.sections:
        lines += [f"## {_escape(section.title)}", ""]
        for paragraph in section.text:
            lines += [_escape(paragraph), ""]
        for table in section.tables:
            lines += [*([f"{_escape(table.caption)}:", ""] if table.caption else ()), *markdown_table(table)]
        for figure in section.figures:
            lines += [f"![{_escape(figure.alt)}]({figure.file})", ""] if figure.file else []
    return "\n".join(lines)


def markdown_table(table: Table) -> list[str]:
    """Return the lines of a table in Markdown, an empty one at the end, without its caption."""
    marks = {"l": "---", "r": "--:"}
    lines = [table.header, [marks[letter] for letter in table.align], *table.rows]
    return ["| " + " | ".join(_escape(cell).replace("|", "&#124;") for cell in line) + " |" for line in lines] + [""]


def read_markdown_row(line: str) -> list[str]:
    """Return the cells of a row that `markdown_table` wrote.

    >>> read_markdown_row("| A&#124;B | 91.0 |")
    ['A|B', '91.0']
    """
    return [html.unescape(cell.strip()) for cell in line.strip("|").split("|")]


def _escape(text: str) -> str:
    """Return text with entities for what would be markup, since names may come from a corpus."""
    return html.escape(text, quote=False)
