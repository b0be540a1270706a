"""What eval.py refuses, and that it loses nothing."""

import json
import shutil

import pytest

from knn_ner_jax import cli
from knn_ner_jax.io import exclusive_lock


def options(k: int) -> list[str]:
    """Options of one setting with so many neighbours."""
    return [f"--knn.k={k}", "--knn.temperature=0.1", "--knn.knn_weight=1.0"]


def test_evaluating_before_training_is_refused(evaluated, copy_of, refused):
    folder = copy_of(evaluated)
    shutil.rmtree(folder / "run")
    assert "run_dir: run: expected a finished training" in refused()
    assert not (folder / "run").exists()


def test_two_commands_do_not_work_in_one_folder(trained, copy_of, settings, refused, capsys):
    folder = copy_of(trained)
    before = sorted({path.name for path in (folder / "run").iterdir()} - {"lock"})
    with exclusive_lock(folder / "run"):
        assert "run: expected no other process at work there, found one" in refused()
        with pytest.raises(SystemExit):
            cli.run("train", "train.py", [*settings, "--overwrite"])
        assert "run: expected no other process at work there, found one" in capsys.readouterr().err
    assert sorted({path.name for path in (folder / "run").iterdir()} - {"lock"}) == before
    assert not (folder / "run" / "datastore.new").exists()


def test_one_k_beyond_the_rows_is_refused_and_both_are_named(trained, copy_of, refused):
    folder = copy_of(trained)
    text = (folder / "corpus" / "train.conll").read_text(encoding="utf-8")
    words = sum(bool(line) for line in text.splitlines())
    message = refused(*options(k=words + 1))
    assert f"knn.k: expected at most {words} (the rows of the datastore), got {words + 1}" in message
    assert not (folder / "run" / "eval.json").exists()


def test_settings_are_not_chosen_on_a_copy_of_test(trained, copy_of, refused):
    folder = copy_of(trained)
    shutil.copy(folder / "corpus" / "test.conll", folder / "corpus" / "dev.conll")
    assert "test" in refused()


def test_results_of_another_training_are_not_shown_again(evaluated, copy_of, refused):
    folder = copy_of(evaluated)
    summary = folder / "run" / "train.json"
    content = json.loads(summary.read_text())
    summary.write_text(json.dumps(content | {"weights": "retrained"}))
    assert "run has retrained" in refused()


def test_a_datastore_is_not_built_from_a_train_file_that_changed(trained, copy_of, refused):
    folder = copy_of(trained)
    with (folder / "corpus" / "train.conll").open("a", encoding="utf-8") as file:
        file.write("More\tO\n")
    assert "train.conll: changed since the earlier run; train --overwrite" in refused()


def test_another_corpus_that_changed_since_the_datastore_was_built_is_noticed(trained, copy_of, run_eval, refused):
    folder = copy_of(trained)
    shutil.copytree(folder / "corpus", folder / "other")
    more = ["--eval_dir=elsewhere", "--datastore.corpus=other", *options(k=1)]
    run_eval(*more)
    with (folder / "other" / "train.conll").open("a", encoding="utf-8") as file:
        file.write("More\tO\n")
    changed = "other/train.conll: changed since the earlier run; --overwrite evaluates again"
    assert changed in refused(*more)
    (folder / "elsewhere" / "eval.json").unlink()  # as if the process had died after it had built the datastore
    assert changed in refused(*more)


def content_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "wrong",
    [options(k=10**6), ["--datastore.layers=[9]"], ["--datastore.whitening_dim=9999"]],
    ids=["k", "layers", "whitening_dim"],
)
def test_overwrite_deletes_nothing_when_the_new_evaluation_cannot_start(evaluated, copy_of, refused, wrong):
    folder = copy_of(evaluated)
    before = content_of(folder / "run")
    assert "expected" in refused(*wrong, "--overwrite")
    assert content_of(folder / "run") == before


@pytest.mark.parametrize("wrong", ["--datastore.layers=[9]", "--datastore.whitening_dim=9999"])
def test_a_refused_setting_does_not_lock_the_folder(trained, copy_of, refused, wrong):
    folder = copy_of(trained)
    before = content_of(folder / "run")
    assert "expected" in refused(wrong)
    assert content_of(folder / "run") == before


def test_a_folder_of_other_files_is_refused_and_left_alone(trained, copy_of, refused):
    folder = copy_of(trained)
    (folder / "mine" / "predictions").mkdir(parents=True)
    (folder / "mine" / "predictions" / "note.txt").write_text("mine")
    message = refused("--eval_dir=mine", "--overwrite")
    assert "eval_dir: mine: expected an empty folder or a run, found predictions without eval.config.yaml" in message
    assert (folder / "mine" / "predictions" / "note.txt").read_text() == "mine"


@pytest.mark.parametrize("split", ["dev", "test"])
def test_scores_of_another_corpus_are_not_shown_again(evaluated, copy_of, refused, split):
    folder = copy_of(evaluated)
    with (folder / "corpus" / f"{split}.conll").open("a", encoding="utf-8") as file:
        file.write("\nMore\tO\n")
    assert f"{split}.conll: changed since the earlier run; --overwrite evaluates again" in refused()
