"""A browser that pages are opened in, where there is one."""

import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import pytest


class Headless(NamedTuple):
    """What drives a browser, and the browser."""

    sync_api: ModuleType
    chromium: str

    @contextmanager
    def launch(self) -> Iterator[Any]:
        """Starts the browser, and closes it at the end."""
        with self.sync_api.sync_playwright() as playwright:
            # Without a sandbox, because containers forbid one; the pages are ours.
            browser = playwright.chromium.launch(executable_path=self.chromium, args=["--no-sandbox"])
            yield browser
            browser.close()


def find_browser() -> Headless:
    """Skips the module that asks where one is missing; fails instead where `REQUIRE_BROWSER` is 1, as in make test-page."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        sync_api = importlib.import_module("playwright.sync_api")
    except ImportError:
        return _without("playwright, which make test-page installs")
    return Headless(sync_api, chromium) if chromium else _without("Chromium (Debian: apt-get install chromium)")


def _without(needed: str):
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(f"needs {needed}", pytrace=False)
    pytest.skip(f"needs {needed}", allow_module_level=True)
