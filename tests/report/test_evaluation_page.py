"""The page of an evaluation: its numbers are those of eval.json, its sentences those of the predictions."""

import html as html_entities
import importlib.util
import json
import re

import pytest

from knn_ner_jax import cli
from knn_ner_jax.config import Config
from knn_ner_jax.evaluation.evaluate import Evaluation
from knn_ner_jax.evaluation.predictions import TaggedSentences
from knn_ner_jax.main import evaluate
from knn_ner_jax.report import document
from knn_ner_jax.report.evaluation import evaluation_page


@pytest.fixture(scope="module")
def result(evaluated):
    return json.loads((evaluated / "run" / "eval.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def html(evaluated):
    return (evaluated / "run" / "report.html").read_text(encoding="utf-8")


def text_of(html):
    body = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(html_entities.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_scores_setting_and_every_trial_are_those_of_eval_json(html, result):
    text = text_of(html)
    before, after = result["test"]["tagger"]["f1"], result["test"]["knn"]["f1"]
    assert (f"from {before:.2f} to {after:.2f} percent" if before != after else f"at {after:.2f} percent") in text
    assert f"Difference {after - before:+.2f}" in text
    for split in ("dev", "test"):
        for key, method in (("tagger", "tagger"), ("knn", "kNN-NER")):
            row = result[split][key]
            numbers = " ".join(f"{row[name]:.2f}" for name in ("precision", "recall", "f1", "f1_default"))
            assert f"{split} {method} {numbers}" in text
    chosen = result["selected"]
    setting = f"k {chosen['k']}, temperature {chosen['temperature']:g}, knn_weight {chosen['knn_weight']:g}"
    assert f"The setting: {setting}, cosine, chosen on dev from {len(result['trials'])} settings" in text
    for trial in result["trials"]:
        assert f"cosine {trial['k']} {trial['temperature']:g} {trial['knn_weight']:g} {trial['f1']:.2f}" in text
    for name, row in result["test"]["knn"]["per_type"].items():
        assert f"{name} {row['support']} " in text
    assert html.count("<svg") == 4  # by type, reliability, by k, temperature x weight


def test_what_was_left_out_is_on_the_page(html, result):
    text = text_of(html)
    assert "Skipped k 100000: more than the rows" in text
    assert result["illegal_tags"]
    for tag in result["illegal_tags"]:
        assert tag in text


def test_the_sentences_are_those_of_the_predictions_that_changed(html, evaluated):
    blocks = (evaluated / "run" / "predictions" / "test.conll").read_text(encoding="utf-8").strip("\n").split("\n\n")
    sentences = [[line.split("\t") for line in block.split("\n")] for block in blocks]
    changed = [number for number, rows in enumerate(sentences, start=1) if any(row[2] != row[3] for row in rows)]
    kinds = [
        "fixed" if row[3] == row[1] else "broken" if row[2] == row[1] else "other"
        for rows in sentences
        for row in rows
        if row[2] != row[3]
    ]
    assert changed
    assert re.findall(r'class="number">(\d+)<', html) == [str(number) for number in changed]
    assert re.findall(r'data-kind="(\w+)"', html) == kinds
    text = text_of(html)
    assert f"Neighbours changed the tags of {len(kinds)} words in {len(changed)} sentences" in text
    assert (
        f"{kinds.count('fixed')} fixed, {kinds.count('broken')} broken, {kinds.count('other')} changed but still wrong"
        in text
    )


def test_a_page_without_sentences_says_why(result):
    text = text_of(document.to_html(evaluation_page(result, None, "train.conll: expected the file, found none")))
    assert "No sentences are shown: train.conll: expected the file, found none." in text


def test_one_setting_needs_no_plot_of_the_choice(result):
    alone = result | {"trials": result["trials"][:1], "selected": {}, "selected_on": "config"}
    alone["selected"] = {name: value for name, value in alone["trials"][0].items() if name != "f1"}
    html = document.to_html(evaluation_page(alone, None))
    assert html.count("<svg") == 2  # by type, reliability
    assert "given by the configuration" in text_of(html)


def test_without_the_extra_one_line_says_so_and_there_is_no_page(
    knn_tagger, evaluated, settings, result, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(evaluated)
    evaluation = Evaluation(result, knn_tagger, knn_tagger.knn_params, TaggedSentences((), (), (), ()))
    monkeypatch.setattr(evaluate, "evaluate_splits", lambda *_: evaluation)
    monkeypatch.delattr(evaluate, "explore")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "jinja2" else find_spec(name))
    config, _ = cli.parse("eval.py", "", Config, [*settings, f"--eval_dir={tmp_path / 'out'}"])
    evaluate.run(config, tmp_path / "out", False)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("report.html needs the extra report")] == lines[-1:]
    assert (tmp_path / "out" / "eval.json").exists()
    assert not (tmp_path / "out" / "report.html").exists()
