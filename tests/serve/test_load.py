"""A short load by tools/load_test.py: what it must find, and that it finds what is missing."""

import json

import pytest

from tools.load_test import load_test

pytestmark = pytest.mark.slow


def test_clients_that_ask_and_edit_at_once_get_what_was_intended(evaluated, copy_of):
    run = copy_of(evaluated) / "run"
    output = run.parent / "serve.json"
    measured = load_test(run, clients=5, seconds=4.0, output=output)  # which ends the process where something is wrong
    assert measured == json.loads(output.read_text())
    assert measured["edits_acknowledged"] > 0
    assert measured["versions_after_reopening"] == measured["edits_acknowledged"] + 2  # the first edit, and back
    assert all(measured["ms"][kind]["requests"] > 0 for kind in ("good", "wrong", "edit"))
    assert not (run / "datastore" / "log.json").exists()  # the run itself is as it was
