"""train.py, eval.py and predict.py in a row, on a tiny corpus: every file and every number they promise."""

import io
import json
import shutil
from pathlib import Path

import pytest
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2

from knn_ner_jax import cli

SELECTED = {"metric": "cosine", "k": 1, "temperature": 0.1, "knn_weight": 1.0}


def fields(**values: object) -> list[str]:
    """knn_weight=1 -> --knn.knn_weight=1."""
    return [f"--knn.{name}={value}" for name, value in values.items()]


def eval_json(folder: Path) -> dict:
    return json.loads((folder / "eval.json").read_text(encoding="utf-8"))


def columns(path: Path) -> list[list[list[str]]]:
    """Sentences of rows of columns."""
    blocks = path.read_text(encoding="utf-8").strip("\n").split("\n\n")
    return [[line.split("\t") for line in block.split("\n")] for block in blocks]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_eval_json_has_every_promised_field(evaluated):
    found = eval_json(evaluated / "run")
    assert found["selected_on"] == "dev"
    assert found["selected"].keys() == SELECTED.keys()
    assert found["selected"]["k"] in (1, 4, "all")
    assert found["selected"]["temperature"] in (0.01, 0.1)
    assert found["selected"]["knn_weight"] in (0.3, 0.6, 1.0)
    assert found["skipped_k"] == [100000]
    assert len(found["trials"]) == 3 * 2 * 3
    best = max(trial["f1"] for trial in found["trials"])
    assert found["selected_dev_f1"] == best
    assert found["dev"]["knn"]["f1"] == pytest.approx(best, rel=1e-6)
    for split in ("dev", "test"):
        for method in ("tagger", "knn"):
            scores = found[split][method]
            assert {"precision", "recall", "f1", "f1_default", "per_type"} <= scores.keys()
            assert all(0 <= scores[name] <= 100 for name in ("precision", "recall", "f1", "f1_default"))
            for row in scores["per_type"].values():
                assert row.keys() == {"precision", "recall", "f1", "support"}
    for counted in ("words_searched", "words_at_border", "words_within_rounding"):
        assert 0 <= found["test"][counted] <= found["test"]["words"]
        assert counted not in found["dev"]  # every word of dev was searched for, to tune
    assert found["test"]["words_within_rounding"] <= found["test"]["words_searched"]
    stages = {"load_model", "build_datastore", "tune", "compile", "dev", "test"}
    assert stages <= found["seconds"].keys()
    assert all(seconds >= 0 for seconds in found["seconds"].values())
    assert found["tokens_per_second"] > 0
    assert found["calibration"]["method"] in ("none", "temperature", "isotonic")
    assert found["unseen_types"] == {}
    assert found["num_devices"] == 8
    assert found["datastore"]["rows"] == found["corpus"]["train"]["words"]
    assert 0 <= found["datastore"]["border"] <= found["datastore"]["rows"] / 2 + found["num_devices"]
    assert found["corpus"]["train"]["words"] == sum(map(len, columns(evaluated / "corpus" / "train.conll")))


@pytest.mark.parametrize("split", ["dev", "test"])
def test_scores_are_what_seqeval_says_of_the_predictions(evaluated, split):
    found = eval_json(evaluated / "run")[split]
    sentences = columns(evaluated / "run" / "predictions" / f"{split}.conll")
    gold, *methods = ([[row[column] for row in rows] for rows in sentences] for column in (1, 2, 3))
    assert found["tagger"]["f1"] > 0
    assert found["knn"]["f1"] > 0
    for method, predicted in zip(("tagger", "knn"), methods, strict=True):
        report = classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
        micro = report["micro avg"]
        expected = {"precision": micro["precision"], "recall": micro["recall"], "f1": micro["f1-score"]}
        expected["f1_default"] = f1_score(gold, predicted, zero_division=0)
        scores = dict(found[method])
        per_type = scores.pop("per_type")
        assert scores == pytest.approx({name: 100 * value for name, value in expected.items()}, rel=1e-12)
        types = {name: row for name, row in report.items() if not name.endswith(" avg")}
        assert per_type.keys() == types.keys()
        for name, row in types.items():
            wanted = {ours: 100 * row[theirs] for ours, theirs in (("precision", "precision"), ("recall", "recall"))}
            wanted |= {"f1": 100 * row["f1-score"], "support": row["support"]}
            assert per_type[name] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_every_word_has_one_prediction_in_order(evaluated, window, split):
    given = columns(evaluated / "corpus" / f"{split}.conll")
    predicted = columns(evaluated / "run" / "predictions" / f"{split}.conll")
    assert [[row[0] for row in rows] for rows in predicted] == [[row[0] for row in rows] for rows in given]
    assert {len(row) for rows in predicted for row in rows} == {4}
    found = eval_json(evaluated / "run")[split]
    assert found["words"] == sum(map(len, given))
    assert found["num_long_sentences"] > 0  # some are longer than the window
    assert found["num_long_sentences"] >= sum(len(rows) > window - 2 for rows in given)


def test_an_illegal_tag_is_listed_with_file_and_line(evaluated, illegal):
    found = eval_json(evaluated / "run")
    text = (evaluated / "corpus" / "test.conll").read_text(encoding="utf-8")
    line = text.split("\n").index("Paris\tI-LOC", text.count("\n") - illegal.count("\n") - 1) + 1
    assert found["illegal_tags"] == [f"corpus/test.conll:{line}: I-LOC"]
    assert {name: split["illegal_tags"] for name, split in found["corpus"].items()} == {"train": 0, "dev": 0, "test": 1}
    last = columns(evaluated / "run" / "predictions" / "test.conll")[-1]
    assert [row[:2] for row in last] == [["in", "O"], ["Paris", "O"], [".", "O"]]


def test_a_finished_evaluation_is_left_alone_and_another_one_refused(evaluated, copy_of, run_eval, refused, capsys):
    folder = copy_of(evaluated)
    before = snapshot(folder)
    run_eval()
    assert "--overwrite evaluates again" in capsys.readouterr().out
    assert snapshot(folder) == before
    message = refused(*fields(temperature="[0.01,0.3]", k=7))
    assert "knn.temperature: the earlier run has [0.01, 0.1], this one [0.01, 0.3]" in message
    assert "knn.k: the earlier run has" in message
    assert "knn.knn_weight" not in message
    assert "--overwrite" in message
    message = refused("--train.epochs=2", "--overwrite")
    assert "train.epochs: the earlier run has 8, this one 2" in message
    assert snapshot(folder) == before


def test_a_published_setting_is_used_whatever_dev_would_choose(trained, copy_of, run_eval, capsys):
    folder = copy_of(trained)
    published = {"k": 4, "temperature": 0.25, "knn_weight": 0.05}
    options = [f"--knn.published.{name}={value}" for name, value in published.items()]
    run_eval("--eval_dir=elsewhere", "--knn.selection=published", *options, *fields(prune="false"))
    found = eval_json(folder / "elsewhere")
    assert found["selected_on"] == "published"
    assert found["selected"] == {"metric": "cosine", **published}
    assert len(found["trials"]) == 1
    assert "as published" in capsys.readouterr().out


def test_overwrite_evaluates_again(evaluated, copy_of, run_eval):
    folder = copy_of(evaluated)
    trained_files = {name: content for name, content in snapshot(folder).items() if "checkpoints" in name}
    run_eval("--overwrite", *fields(**SELECTED))
    found = eval_json(folder / "run")
    assert found["selected"] == SELECTED
    assert found["selected_on"] == "config"
    assert len(found["trials"]) == 1
    assert trained_files.items() <= snapshot(folder).items()


def test_a_stored_datastore_is_used_again(evaluated, copy_of, run_eval):
    folder = copy_of(evaluated)
    expected = eval_json(folder / "run")
    shutil.copytree(folder / "run" / "datastore", folder / "again" / "datastore")
    run_eval("--eval_dir=again")
    found = eval_json(folder / "again")
    assert "load_datastore" in found["seconds"]
    assert "build_datastore" not in found["seconds"]
    assert [found[name] for name in ("selected", "trials", "dev", "test")] == [
        expected[name] for name in ("selected", "trials", "dev", "test")
    ]


@pytest.mark.slow
def test_a_copied_datastore_is_described_as_it_was_built(evaluated, copy_of, run_eval):
    folder = copy_of(evaluated)
    run_eval("--eval_dir=first", "--datastore.fraction=0.5", "--datastore.include_o=false", *fields(**SELECTED))
    shutil.copytree(folder / "first" / "datastore", folder / "again" / "datastore")
    run_eval("--eval_dir=again", *fields(**SELECTED))
    built, brought = (eval_json(folder / name)["datastore"] for name in ("first", "again"))
    assert (brought["fraction"], brought["include_o"], brought["rows"]) == (0.5, False, built["rows"])
    assert brought["source"] == built["source"]


def test_a_datastore_of_another_corpus_brings_its_own_types(trained, copy_of, run_eval, illegal):
    folder = copy_of(trained)
    (folder / "other").mkdir()
    # The test sentences, with every full stop an entity of a type that the tagger does not know.
    text = (folder / "corpus" / "test.conll").read_text(encoding="utf-8").removesuffix(illegal)
    (folder / "other" / "train.conll").write_text(text.replace("\n.\tO", "\n.\tB-STOP"), encoding="utf-8")
    run_eval("--eval_dir=elsewhere", "--datastore.corpus=other", *fields(**SELECTED, prune="false"))
    found = eval_json(folder / "elsewhere")
    assert set(found["datastore"]["source"]["types"]) == {"EVENT", "LOC", "ORG", "PER", "STOP"}
    assert found["datastore"]["source"]["path"] == "other/train.conll"
    rows = [row for rows in columns(folder / "elsewhere" / "predictions" / "test.conll")[:-1] for row in rows]
    stops = [row for row in rows if row[0] == "."]
    assert stops
    # At knn_weight 1 and k 1 every word finds itself.
    assert {row[3] for row in stops} == {"B-STOP"}
    assert "B-STOP" not in {row[2] for row in rows} | {row[1] for row in rows}
    assert found["test"]["knn"]["per_type"]["STOP"]["support"] == 0
    assert not (folder / "run" / "eval.json").exists()


@pytest.mark.slow
def test_types_that_only_the_gold_has_are_kept_and_missed(trained, copy_of, run_eval):
    folder = copy_of(trained)
    for split in ("dev", "test"):
        with (folder / "corpus" / f"{split}.conll").open("a", encoding="utf-8") as file:
            file.write("\nthe\tO\nBlue\tB-ALBUM\nTrain\tI-ALBUM\nin\tO\nParis\tB-LOC\n")
    run_eval("--eval_dir=elsewhere", *fields(k="[1,4,all]", temperature=0.1, knn_weight=1.0))
    found = eval_json(folder / "elsewhere")
    assert found["unseen_types"] == {"ALBUM": 2}
    for split in ("dev", "test"):
        for method in ("tagger", "knn"):
            missed = {"precision": 0, "recall": 0, "f1": 0, "support": 1}
            assert found[split][method]["per_type"]["ALBUM"] == missed
        last = columns(folder / "elsewhere" / "predictions" / f"{split}.conll")[-1]
        assert [row[1] for row in last] == ["O", "B-ALBUM", "I-ALBUM", "O", "B-LOC"]
    trial = {tuple(trial[name] for name in ("k", "temperature", "knn_weight")): trial["f1"] for trial in found["trials"]}
    chosen = tuple(found["selected"][name] for name in ("k", "temperature", "knn_weight"))
    assert found["dev"]["knn"]["f1"] == pytest.approx(trial[chosen], rel=1e-6)


def run_predict(*arguments):
    cli.run("predict", "predict.py", arguments)


def test_predict_prints_entities_and_their_neighbours(evaluated, copy_of, run_eval, capsys):
    folder = copy_of(evaluated)
    run_eval("--eval_dir=elsewhere", *fields(**SELECTED))
    sentence = next(rows for rows in columns(folder / "corpus" / "train.conll") if any("-PER" in tag for _, tag in rows))
    capsys.readouterr()
    run_predict("elsewhere", " ".join(word for word, _ in sentence), "--neighbours=2")
    shown = capsys.readouterr().out
    first = next(word for word, tag in sentence if tag == "B-PER")
    assert ": PER, score 1.000" in shown
    neighbours = [line for line in shown.splitlines() if line.startswith("    ")]
    assert len(neighbours) == 2 * shown.count(", score ")
    assert any(first in line and "B-PER" in line for line in neighbours)


@pytest.mark.parametrize("arguments", [["run", " "], ["run"]])
def test_predict_refuses_to_tag_nothing(evaluated, copy_of, monkeypatch, capsys, arguments):
    copy_of(evaluated)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    with pytest.raises(SystemExit) as stop:
        run_predict(*arguments)
    assert stop.value.code == 2
    assert "expected at least one" in capsys.readouterr().err


def test_predict_before_evaluating_is_refused(trained, copy_of, capsys):
    copy_of(trained)
    with pytest.raises(SystemExit) as stop:
        run_predict("run", "Paris")
    assert stop.value.code == 2
    assert "predict.py: error: run: expected a finished evaluation" in capsys.readouterr().err


def test_predict_refuses_bytes_that_are_no_text(evaluated, copy_of, monkeypatch, capsys):
    copy_of(evaluated)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
    with pytest.raises(SystemExit) as stop:
        run_predict("run")
    assert stop.value.code == 2
    assert "standard input:1: expected UTF-8 text" in capsys.readouterr().err
