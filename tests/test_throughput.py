"""tools/throughput.py: what its file says of the run, and of several repeats."""

import json

import pytest

from tools import throughput


def test_the_file_has_the_settings_and_the_encoder_of_the_run(evaluated, monkeypatch):
    monkeypatch.chdir(evaluated)
    results = json.loads((evaluated / "run" / "eval.json").read_text(encoding="utf-8"))
    described = throughput.describe(evaluated / "run")
    assert {name: described[name] for name in ("k", "temperature", "knn_weight", "metric")} == results["selected"]
    assert described["rows"] == results["datastore"]["rows"]
    assert described["encoder"] == {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64}


def test_the_ratio_is_that_of_medians_and_the_spread_stands_beside():
    seconds = {
        "predict": (5.0, 4.0, 90.0),
        "pipeline, 1 at a time": (9.0, 9.0, 9.0),
        "pipeline, 8 at a time": (8.0, 1.0, 8.5),
    }
    summary = throughput.summarize({name: [{"seconds": one} for one in each] for name, each in seconds.items()})
    assert summary["seconds"] == {"predict": 5.0, "pipeline, 1 at a time": 9.0, "pipeline, 8 at a time": 8.0}
    assert summary["spread"]["predict"] == [4.0, 90.0]
    assert summary["best"] == "pipeline, 8 at a time"
    assert summary["ratio"] == pytest.approx(1.6)
