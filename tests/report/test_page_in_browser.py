"""A page in headless Chromium: clicked through, on a wide and on a narrow screen, in light and in dark; with screenshots.

`make test-page` runs this; `PAGE=some/report.html` opens that page beside the made-up one.
"""

import os
from pathlib import Path

import pytest
from helpers.headless import find_browser
from helpers.made_up_page import make_page

from knn_ner_jax.report import document

pytestmark = pytest.mark.browser

HEADLESS = find_browser()

SHOTS = Path(__file__).parents[2] / "build" / "page"
GIVEN = [os.environ["PAGE"]] if os.environ.get("PAGE") else []
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    with HEADLESS.launch() as browser:
        yield browser


@pytest.fixture(scope="module", params=["made_up", *GIVEN])
def path(request, tmp_path_factory) -> Path:
    if request.param in GIVEN:
        return Path(request.param).resolve()
    path = tmp_path_factory.mktemp("page") / "made_up.html"
    document.write_html(path, make_page())
    return path


@pytest.fixture
def opened(browser, path):
    """Opens the page on a screen of some size; at the end there must have been no error and no request but for itself."""
    complaints, contexts = [], []

    def open_page(size: dict[str, int], scheme: str = "light"):
        context = browser.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: None if request.url == path.as_uri() else complaints.append(request.url[:80]))
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert [each for each in complaints if not each.startswith("data:,")] == []


def shoot(tab, path: Path, name: str, whole: bool = False) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SHOTS / f"{path.stem}_{name}.png", full_page=whole)


def shoot_explorer(tab, path: Path, name: str) -> None:
    tab.evaluate("document.getElementById('explorer').scrollIntoView()")
    shoot(tab, path, name)


def open_first_changes(tab, count: int = 2) -> None:
    for change in tab.locator(".sentences > li:not([hidden]) .change").all()[:count]:
        change.locator("summary").click()
        assert change.locator(".near").is_visible()


def lightness(tab) -> float:
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))


def scrolls_sideways(tab) -> bool:
    return tab.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def shown(tab) -> int:
    return tab.locator(".sentences > li:visible").count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_reader_until_it_is_switched(opened, path, scheme):
    tab = opened(WIDE, scheme)
    begins = lightness(tab)
    assert (begins > 600) == (scheme == "light")
    shoot(tab, path, scheme)
    shoot(tab, path, f"{scheme}_whole", whole=True)
    tab.click("#theme")
    assert (lightness(tab) > 600) == (scheme == "dark")
    tab.click("#theme")
    assert lightness(tab) == begins


def test_filters_show_what_fits_and_say_how_much(opened, path):
    tab = opened(WIDE)
    total = tab.locator(".sentences > li").count()
    assert shown(tab) == total
    assert tab.text_content("#count") == f"{total} of {total} sentences"
    for kind in ("fixed", "broken", "other"):
        tab.select_option("#kind", kind)
        expected = tab.locator(f'.sentences > li:has([data-kind="{kind}"])').count()
        assert shown(tab) == expected
        assert tab.text_content("#count") == f"{expected} of {total} sentences"
        assert tab.locator("#none").is_visible() == (expected == 0)
    tab.select_option("#kind", "fixed")
    tab.select_option("#type", "0")
    assert shown(tab) == tab.locator('.sentences > li:has([data-kind="fixed"][data-types~="0"])').count()
    tab.select_option("#kind", "")
    tab.select_option("#type", "")
    tab.fill("#text", "no sentence has these words")
    assert shown(tab) == 0
    assert tab.locator("#none").is_visible()
    tab.fill("#text", "")
    assert shown(tab) == total


def test_text_is_found_whatever_its_case(opened, path):
    if path.stem != "made_up":
        pytest.skip("the words of this page are not known")
    tab = opened(WIDE)
    for text, expected in {"ZOË WENT": 1, "<script>alert(1)": 2, "ann": 2, "harbour city": 1}.items():
        tab.fill("#text", text)
        assert shown(tab) == expected, text


def test_a_changed_word_opens_its_neighbours(opened, path):
    tab = opened(WIDE)
    open_first_changes(tab)
    shoot_explorer(tab, path, "explorer")
    tab.click("#theme")
    shoot_explorer(tab, path, "explorer_dark")


def test_a_phone_needs_no_scrolling_sideways(opened, path):
    tab = opened(NARROW)
    assert not scrolls_sideways(tab)
    for field in ("#kind", "#type", "#text"):
        # On a phone that shows smaller ones, iOS zooms in.
        assert tab.evaluate("field => parseFloat(getComputedStyle(document.querySelector(field)).fontSize)", field) >= 16
    shoot(tab, path, "phone")
    for folded in tab.locator("details.folded > summary").all():
        folded.click()
    open_first_changes(tab, 4)
    assert not scrolls_sideways(tab)
    shoot(tab, path, "phone_whole", whole=True)
    tab.evaluate("document.querySelector('.sentences').scrollIntoView()")
    shoot(tab, path, "phone_explorer")
