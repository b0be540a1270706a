"""The model card of an exported tagger: hubs can read its metadata, and what it says is what was measured."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from helpers.evaluated_run import use_devices
from huggingface_hub import ModelCard

from knn_ner_jax import cli
from knn_ner_jax.cli import read_config
from knn_ner_jax.deploy.card import write_card
from knn_ner_jax.knn.memory import Memory


@pytest.mark.parametrize("method", ["tagger", "knn"])
def test_metadata_hold_the_scores_of_the_evaluation(evaluated: Path, tmp_path: Path, method: str):
    results = json.loads((evaluated / "run" / "eval.json").read_text(encoding="utf-8"))
    config = read_config(evaluated / "run" / "eval.config.yaml")
    write_card(tmp_path, config, results, method, ("O", "B-PER", "I-PER"), "Use it.", num_rows=4321, version=2)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert ("4321 rows of" in text) == (method == "knn")
    assert ("Edited since, to version 2; scores are those of version 0." in text) == (method == "knn")
    card = ModelCard.load(tmp_path / "README.md")  # which validates what hubs read
    assert card.data.library_name == ("jax" if method == "knn" else "transformers")
    assert card.data.eval_results is not None
    found = {(result.dataset_split, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert found.keys() == {(split, metric) for split in ("dev", "test") for metric in ("f1", "precision", "recall")}
    for (split, metric), value in found.items():
        assert value == pytest.approx(results[split][method][metric] / 100, abs=5e-5)
    assert {result.dataset_name for result in card.data.eval_results} == {"corpus"}
    block = text.split("---\n")[1]
    assert yaml.safe_load(block)["model-index"][0]["results"]
    for split in ("train", "dev", "test"):
        entry = results["corpus"][split]
        assert f"| {split} | {entry['sentences']} | {entry['words']} | `{entry['sha256'][:16]}` |" in text
    assert f"with seed {config.seed}" in text
    assert card.data.to_dict()["seed"] == config.seed
    assert not {"language", "license"} & card.data.to_dict().keys()
    assert "- Not stated: the language of the text, the licence.\n" in text
    assert ("## Datastore" in text) == (method == "knn")
    assert str(evaluated) not in text


def test_an_export_for_transformers_has_a_card_and_no_options_of_programs(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(evaluated)
    use_devices(monkeypatch, 1)
    cli.run("export", "export.py", ["run", str(tmp_path / "out"), "--language=en,no", "--license=mit"])
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.language, card.data.license) == (["en", "no"], "mit")
    assert "Not stated" not in card.text
    assert card.data.library_name == "transformers"
    assert card.data.eval_results
    for arguments, message in (
        (["--batch=4"], "--batch: expected with --format stablehlo alone, got it with transformers"),
        (["--format=stablehlo"], f"{tmp_path / 'out'}: expected a new or empty folder, found files"),
        (["--format=stablehlo", "--platforms=cpu,rocm"], "argument --platforms: expected some of cpu,cuda,tpu, got rocm"),
        (["--language=English"], "argument --language: expected codes such as en or en,de, got English"),
        (["--license=MIT License"], "argument --license: expected an identifier of hubs such as mit, got MIT License"),
        (["--format=onnx"], "argument --format: invalid choice: 'onnx'"),
    ):
        with pytest.raises(SystemExit):
            cli.run("export", "export.py", ["run", str(tmp_path / "out"), *arguments])
        assert capsys.readouterr().err.startswith(f"export.py: error: {message}")


def test_a_tagger_that_was_not_evaluated_has_no_scores_and_hub_ids_are_links(evaluated: Path, tmp_path: Path):
    config = read_config(evaluated / "run" / "config.yaml")
    config = replace(config, data=replace(config.data, dir="hub:owner/corpus/config"))
    config = replace(config, model=replace(config.model, backbone="google-bert/bert-base-cased"))
    write_card(tmp_path, config, None, "tagger", ("O",), "Use it.")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None
    assert card.data.datasets == ["owner/corpus"]
    assert card.data.base_model == "google-bert/bert-base-cased"
    assert "Not evaluated." in card.text


def test_the_card_of_a_taught_tagger_has_the_rows_that_are_exported(evaluated: Path, copy_of: Callable, tmp_path: Path):
    pytest.importorskip("flatbuffers")
    Memory(copy_of(evaluated) / "run" / "datastore").remove(ids=[0])
    cli.run("export", "export.py", ["run", str(tmp_path / "out"), "--format=stablehlo", "--platforms=cpu"])
    rows = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))["settings"]["rows"]
    built = json.loads((evaluated / "run" / "eval.json").read_text(encoding="utf-8"))["datastore"]["rows"]
    assert rows < built
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"\n{rows} rows of" in card
    assert "to version 1; scores are those of version 0." in card
