"""The page of a server in headless Chromium: a text is tagged, a word looked into, a tag corrected, and taken back."""

import asyncio
import socket
import threading
from pathlib import Path

import pytest
import uvicorn
from helpers.headless import find_browser

from knn_ner_jax.serve.app import Access, Server

pytestmark = pytest.mark.browser

HEADLESS = find_browser()
SHOTS = Path(__file__).parents[2] / "build" / "page"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
TEXT = "Yesterday Angela Merkel met the chairman of Nokia in Helsinki."


@pytest.fixture(scope="module")
def address(served):
    """Of a server in a thread, in whose batcher the application of other tests shares."""
    listener = socket.create_server(("127.0.0.1", 0))
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    access = Access("a-token-of-the-tests", True, frozenset({"127.0.0.1"}))
    application = Server(served.batcher, served.metrics, access, served.server._limits).application()
    server = uvicorn.Server(uvicorn.Config(application, ws="none", lifespan="off", log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    yield f"http://{host}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser():
    with HEADLESS.launch() as browser:
        yield browser


@pytest.fixture
def open_page(browser, address):
    complaints, contexts = [], []

    def open_page(size, scheme="light", token="#token=a-token-of-the-tests"):
        context = browser.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "request", lambda request: None if request.url.startswith((address, "data:")) else complaints.append(request.url)
        )
        tab.goto(address + token)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert [each for each in complaints if "401" not in each] == []


def shoot(tab, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SHOTS / f"serve_{name}.png", full_page=True)


def tag(tab, text: str = TEXT) -> None:
    tab.fill("#text", text)
    tab.click("#ask .main")
    tab.wait_for_selector("#words button:not([disabled])")


def idle(tab) -> None:
    tab.wait_for_selector("#state:empty", state="attached")
    assert not tab.locator("#error").is_visible(), tab.text_content("#error")


def version(tab) -> int:
    return int(tab.text_content("#version").removeprefix("Version ").rstrip("."))


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (WIDE, "dark"), (NARROW, "light"), (NARROW, "dark")])
def test_a_word_is_corrected_and_the_memory_learns_it_and_forgets_it_again(open_page, size, scheme):
    tab = open_page(size, scheme)
    assert "token" not in tab.url
    tag(tab)
    idle(tab)
    name = f"{'wide' if size is WIDE else 'narrow'}_{scheme}"
    assert tab.locator("#words button").count() == 11
    begun = version(tab)
    tab.locator("#words button", has_text="Nokia").click()
    assert tab.locator("#judges tr").count() == 3
    assert tab.locator("#near tr").count() == 4  # as many as the server gives
    before = tab.locator("#near tr").first.text_content()
    assert "chairman of Nokia in Helsinki" not in before
    tab.fill("#tag", "B-NEW")
    tab.click("#correct button")
    assert tab.locator("#words .corrected").text_content() == "Nokiayours B-NEW"
    shoot(tab, f"{name}_corrected")
    tab.click("#teach")
    tab.get_by_text(f"Version {begun + 1}.", exact=True).wait_for()
    idle(tab)
    near = tab.locator("#near tr").first
    assert near.locator("td").nth(1).text_content() == "B-NEW"
    assert near.locator("td").nth(0).text_content() == "1.000"
    assert "chairman of Nokia in Helsinki" in near.text_content()
    shoot(tab, f"{name}_learned")
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    tab.click("#undo")
    tab.get_by_text(f"Version {begun + 2}.", exact=True).wait_for()
    idle(tab)
    assert tab.locator("#near tr").first.text_content() == before
    assert tab.locator("#undo").is_hidden()  # what the runs before have taught was undone, too


def test_undo_goes_back_one_lesson_after_the_other(open_page):
    tab = open_page(WIDE)
    begun = None
    for _ in range(2):
        tag(tab)
        idle(tab)
        begun = version(tab) if begun is None else begun
        tab.click("#teach")
        idle(tab)
    tab.get_by_text(f"Version {begun + 2}.", exact=True).wait_for()
    for number, before in enumerate((begun + 1, begun), start=3):
        assert tab.locator("#undo").text_content() == f"Undo: back to version {before}"
        tab.click("#undo")
        tab.get_by_text(f"Version {begun + number}.", exact=True).wait_for()
        idle(tab)


def test_whoever_has_no_token_is_asked_for_it(open_page):
    tab = open_page(WIDE, token="")
    tab.fill("#text", TEXT)
    tab.fill("#token", "wrong")
    tab.click("#ask .main")
    tab.wait_for_selector("#error:visible")
    assert "token" in tab.text_content("#error")
    shoot(tab, "no_token")
    tab.fill("#token", "a-token-of-the-tests")
    tag(tab)
    idle(tab)


def test_text_is_shown_as_it_is_whatever_it_resembles(open_page):
    tab = open_page(WIDE)
    text = "<img src=x onerror=alert(1)> met مرحبا بالعالم & 東京"
    tag(tab, text)
    idle(tab)
    assert tab.locator("#words .w").all_text_contents()[:3] == ["<", "img", "src"]
    assert tab.locator("main img").count() == 0
    shoot(tab, "scripts")
