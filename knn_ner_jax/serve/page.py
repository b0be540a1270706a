"""The page to try a tagger on: one HTML file that loads nothing, with the style of the reports."""

import base64
import hashlib
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent / "templates"
_STYLE = Path(__file__).parents[1] / "report" / "templates" / "page.css"


def _read(*paths: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


_STYLE_TEXT, _SCRIPT_TEXT = _read(_STYLE, _HERE / "page.css"), _read(_HERE / "page.js")

# No script and no style but the page's own, whatever a corpus or a text may hold.
SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "img-src data:",
        "connect-src 'self'",
        f"style-src {_hash(_STYLE_TEXT)}",
        f"script-src {_hash(_SCRIPT_TEXT)}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


@cache
def page(needs_token: bool, can_edit: bool, neighbours: int) -> str:
    """Return the page.

    Args:
        needs_token: whether requests must bear one.
        can_edit: whether it shows what edits the memory.
        neighbours: that it shows of a word.
    """
    answer = {True: "yes", False: "no"}
    parts = {"needs_token": answer[needs_token], "can_edit": answer[can_edit], "neighbours": str(neighbours)}
    parts |= {"style": _STYLE_TEXT, "script": _SCRIPT_TEXT}
    content = _read(_HERE / "page.html")
    for name, part in parts.items():
        content = content.replace(f"{{{{{name}}}}}", part)
    return content
