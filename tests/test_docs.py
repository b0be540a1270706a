"""README and docs: generated parts are up to date, links lead somewhere, and README keeps to its length."""

import re
from pathlib import Path

import pytest

from docs import make_configuration, make_images

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "benchmarks" / "README.md", ROOT / "tools" / "README.md", *sorted((ROOT / "configs").rglob("README.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")


def anchors(page: Path) -> set[str]:
    """The names that a Markdown page gives its headings on GitHub."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path):
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        target, _, anchor = (match[1] or match[2]).partition("#")
        if "://" in target:
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path), f"{page}: {target}#{anchor}"


def test_every_page_of_docs_can_be_reached_from_the_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = [(match[1] or match[2]).partition("#")[0] for match in LINK.finditer(page.read_text(encoding="utf-8"))]
        waiting += [page.parent / target for target in targets if target and "://" not in target]
    assert {path.resolve() for path in (ROOT / "docs").glob("*.md")} <= seen


def test_the_readme_has_at_most_230_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 230


def test_the_page_of_settings_is_that_of_the_dataclasses():
    assert make_configuration.PAGE.read_text(encoding="utf-8") == make_configuration.page(), (
        "python -m docs.make_configuration"
    )


def test_the_pictures_are_those_that_their_script_draws():
    for name, svg in make_images.images().items():
        assert (make_images.FOLDER / name).read_text(encoding="utf-8") == svg, "python -m docs.make_images"


def test_code_in_the_pages_names_modules_that_exist():
    for page in PAGES:
        for name in re.findall(r"`((?:knn_ner_jax/)?(?:\w+/)*\w+\.py)`", page.read_text(encoding="utf-8")):
            places = [ROOT / name, ROOT / "knn_ner_jax" / name, page.parent / name]
            is_foreign = page.name == "paper.md"  # it also names files of the authors' repository
            assert is_foreign or any(place.exists() for place in places), f"{page}: {name}"
