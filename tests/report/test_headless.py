"""Without a browser the tests of pages are skipped, with a reason; make test-page, which is for nothing else, fails."""

import importlib
from pathlib import Path

import pytest
from helpers import headless

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def no_module(name):
    raise ModuleNotFoundError(name)


@pytest.fixture(params=["Chromium", "playwright"])
def missing(request, monkeypatch) -> str:
    monkeypatch.setattr("shutil.which", lambda name: None if request.param == "Chromium" else f"/usr/bin/{name}")
    monkeypatch.setattr(importlib, "import_module", str if request.param == "Chromium" else no_module)
    return request.param


def test_a_missing_browser_is_a_reason_to_skip(missing, monkeypatch):
    monkeypatch.delenv("REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"needs {missing}"):
        headless.find_browser()


def test_a_missing_browser_fails_where_one_is_required(missing, monkeypatch):
    monkeypatch.setenv("REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match=f"needs {missing}"):
        headless.find_browser()


def test_make_test_page_requires_one():
    recipe = MAKEFILE.read_text(encoding="utf-8").partition("\ntest-page:")[2].partition("\n\n")[0]
    assert "REQUIRE_BROWSER=1 " in recipe
