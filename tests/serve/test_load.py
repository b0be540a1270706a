"""A short load by tools/load_test.py: what it must find, and that it finds what is missing."""

import asyncio
import json

import httpx2
import pytest

from knn_ner_jax.serve.batcher import Batcher, BusyError
from tools.load_test import SINGLE_EDITS, Record, load_test, wrong


@pytest.mark.slow
def test_clients_that_ask_and_edit_at_once_get_what_was_intended(evaluated, copy_of):
    run = copy_of(evaluated) / "run"
    output = run.parent / "serve.json"
    measured = load_test(run, clients=5, seconds=4.0, output=output)  # which ends the process where something is wrong
    assert measured == json.loads(output.read_text())
    assert measured["edits_acknowledged"] > 0
    assert measured["versions_after_reopening"] == measured["edits_acknowledged"] + 2 * (1 + SINGLE_EDITS)  # and back
    assert measured["single_edit_ms"]["requests"] == SINGLE_EDITS
    assert measured["single_is_fast"] == (measured["single_ms"]["median"] <= 30)
    assert all(measured["ms"][kind]["requests"] > 0 for kind in ("good", "wrong", "edit"))
    assert not (run / "datastore" / "log.json").exists()  # the run itself is as it was


@pytest.mark.parametrize("error", ["the run's folder cannot be used: Input/output error", "not done within 30 s; try again"])
def test_only_requests_too_many_are_told_to_come_again(error):
    record = Record()
    assert not record.add("edit", httpx2.Response(503, json={"error": error}), 200, 0.1)
    assert (record.busy, record.unexpected) == (0, [f'edit: expected 200, got 503 {{"error":"{error}"}}'])


def test_busy_is_what_a_batcher_says(served):
    async def too_many():
        with pytest.raises(BusyError) as busy:
            await Batcher(served.batcher._tagger, 1, 0, served.metrics).edit(lambda memory: None)
        return str(busy.value)

    record = Record()
    assert not record.add("good", httpx2.Response(503, json={"error": asyncio.run(too_many())}), 200, 0.1)
    assert (record.busy, record.unexpected) == (1, [])


def test_versions_that_are_gone_after_reopening_are_wrong():
    memory = {"first_fifth": 100, "end": 100}
    result = {"unexpected": {}, "edits_lost": 0, "compilations": 0, "resident_mb": memory, "versions": 3}
    assert wrong(result | {"versions_after_reopening": 3}) == {}
    assert wrong(result | {"versions_after_reopening": 2}) == {"versions": "3 in the log, 2 after reopening"}
