"""The scores of entities in an evaluation: what they are made of, and what eval.json and the page say of them."""

import html
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from seqeval.scheme import IOB2, Entities

from knn_ner_jax import calibration, cli
from knn_ner_jax.calibration import Calibration
from knn_ner_jax.data.corpus import Split, read_splits
from knn_ner_jax.data.tag_schemes import Sentence
from knn_ner_jax.evaluation import evaluate
from knn_ner_jax.evaluation.predictions import tagged_sentences
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import ROUNDING_SLACK, KnnParams, labels_by_vote, margin
from knn_ner_jax.report.evaluation import describe_calibration, evaluation_page
from knn_ner_jax.run_dir import load_evaluation


@pytest.fixture(scope="module")
def result(evaluated):
    return json.loads((evaluated / "run" / "eval.json").read_text(encoding="utf-8"))


def columns(path):
    blocks = path.read_text(encoding="utf-8").strip("\n").split("\n\n")
    return list(zip(*[zip(*[line.split("\t") for line in block.split("\n")], strict=True) for block in blocks], strict=True))


def entities(sentences) -> list[list[tuple[int, int, str]]]:
    """seqeval's strict ones, by sentence."""
    found = Entities([list(tags) for tags in sentences], IOB2).entities
    return [[(entity.start, entity.end, entity.tag) for entity in each] for each in found]


@pytest.mark.parametrize("k", [4, "all"])
def test_a_raw_score_is_the_least_probability_of_a_words_label_by_a_search_for_every_word(knn_tagger, evaluated, k):
    params = KnnParams("cosine", k, 0.1, 0.6)
    split = read_splits({"test": evaluated / "corpus" / "test.conll"})[0]["test"]
    encoded = knn_tagger.encode(split.sentences)
    full = labels_by_vote(knn_tagger.retrieve_for(encoded, params), params)
    tagged = tagged_sentences(split, encoded, knn_tagger.label_set, full.tagger, full.knn, knn_tagger.model.tokenizer)
    labels = knn_tagger.label_split(encoded, params, with_scores=True)
    clear = margin(full.p) > ROUNDING_SLACK
    np.testing.assert_array_equal(labels.knn[clear], full.knn[clear])
    actual = evaluate._predicted_entities(labels.probabilities.p, encoded, tagged, "words")
    gold, predicted = entities(tagged.gold), entities(tagged.knn)
    p, expected, first = full.p.max(axis=1), [], 0
    for number, (spans, true) in enumerate(zip(predicted, gold, strict=True)):
        for start, end, type_ in spans:
            expected.append((number, (start, end, type_) in true, min(p[first + start : first + end])))
        first += len(tagged.gold[number])
    sentence_ids, is_right, raw = zip(*expected, strict=True)
    assert 0 < sum(is_right) < len(is_right) > 10
    assert actual.sentence_ids.tolist() == list(sentence_ids)
    assert actual.is_right.tolist() == list(is_right)
    np.testing.assert_allclose(actual.raw, raw, atol=ROUNDING_SLACK)
    assert actual.num_gold == sum(map(len, gold))


def test_a_split_without_predicted_entities_has_no_scores(knn_tagger):
    split = Split(Path("test.conll"), (Sentence(("of", "."), ("O", "O"), 1), Sentence(("Paris",), ("B-LOC",), 3)))
    encoded, nothing = knn_tagger.encode(split.sentences), np.zeros(3, np.int32)
    tagged = tagged_sentences(split, encoded, knn_tagger.label_set, nothing, nothing, knn_tagger.model.tokenizer)
    found = evaluate._predicted_entities(np.zeros(3), encoded, tagged, "words")
    assert (len(found.raw), found.num_gold) == (0, 1)
    described = evaluate._calibrate(found, found)
    assert described["method"] == "none"
    assert described["test"]["bins_after"] == []


@pytest.mark.parametrize("split", ["dev", "test"])
def test_eval_json_counts_the_entities_of_the_predictions(evaluated, result, split):
    _, gold, tagger, knn = columns(evaluated / "run" / "predictions" / f"{split}.conll")
    of_split = result["calibration"][split]
    gold, tagger, knn = map(entities, (gold, tagger, knn))
    assert of_split["entities"] == sum(map(len, knn))
    for when in ("before", "after"):
        bins = of_split[f"bins_{when}"]
        assert sum(each["entities"] for each in bins) == of_split["entities"]
        right = sum(each["entities"] * each["precision"] for each in bins)
        assert right == pytest.approx(sum(len(set(a) & set(b)) for a, b in zip(gold, knn, strict=True)))
    for method, predicted in (("tagger", tagger), ("knn", knn)):
        rows = result[split]["partial"][method]
        assert rows["strict"]["f1"] == pytest.approx(result[split][method]["f1"], rel=1e-12)
        assert rows["partial"]["correct"] == sum(
            len({span[:2] for span in a} & {span[:2] for span in b}) for a, b in zip(gold, predicted, strict=True)
        )


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_recall_is_reached_where_the_whole_split_reaches_it(result, split):
    points = result["calibration"][split]["precision_at_recall"]
    assert [point["recall"] for point in points] == list(range(10, 100, 10))
    for point in points:
        assert (point["threshold"] is not None) == (point["recall"] <= result[split]["knn"]["recall"] + 1e-9)
        assert (point["precision"] is None) == (point["threshold"] is None)


def test_the_page_says_how_scores_were_calibrated_and_at_what_thresholds(evaluated, result):
    page = html.unescape((evaluated / "run" / "report.html").read_text(encoding="utf-8"))
    assert describe_calibration(result)[1:] in page
    point = result["calibration"]["test"]["precision_at_recall"][0]
    assert f'{point["precision"]:.1f}</td><td class="r">{point["threshold"]:.3f}</td>' in page
    for each in result["calibration"]["test"]["bins_before"]:
        assert f"{each['score']:.2f} {each['precision']:.2f} ({each['entities']})" in page


@pytest.mark.parametrize(
    ("method", "fields", "expected"),
    [
        ("none", {"log_loss": {}}, "are not calibrated: dev has 7, expected at least 100"),
        ("none", {}, "are left as they are"),
        ("temperature", {"temperature": 1.5}, "calibrated on the 7 of dev (temperature 1.50): "),
        ("isotonic", {}, "on test 12.0 percent before, 3.0 after"),
    ],
)
def test_the_calibration_is_described(result, method, fields, expected):
    of_split = {"entities": 7, "ece_before": 12.0, "ece_after": 3.0}
    described = {"method": method, "temperature": None, "log_loss": {method: 0.3}} | fields
    assert expected in describe_calibration({"calibration": described | {"dev": of_split, "test": of_split}})
    assert calibration.FEWEST_ENTITIES == 100


def test_a_split_without_predicted_entities_has_a_page(result):
    bare = {"entities": 0, "bins_before": [], "bins_after": [], "ece_before": 0.0, "ece_after": 0.0}
    points = [{"recall": level, "precision": None, "threshold": None} for level in range(10, 100, 10)]
    nothing = result["calibration"] | {name: bare | {"precision_at_recall": points} for name in ("dev", "test")}
    section = next(
        section
        for section in evaluation_page(result | {"calibration": nothing}, None).sections
        if section.title == "Confidence"
    )
    assert section.figures == ()
    assert section.tables[1].rows == ()


def known_sentences(folder: Path, number: int = 8) -> list[list[str]]:
    """The words of some sentences of train, in which the tagger finds entities."""
    blocks = (folder / "corpus" / "train.conll").read_text(encoding="utf-8").split("\n\n")[:number]
    return [[line.split("\t")[0] for line in block.split("\n")] for block in blocks]


def test_tag_returns_calibrated_scores_and_the_same_labels(knn_tagger, evaluated):
    halved = Calibration("temperature", temperature=2.0)
    raw, calibrated = (
        replace(knn_tagger, calibration=each).tag(known_sentences(evaluated)) for each in (calibration.RAW, halved)
    )
    assert [each.labels for each in raw] == [each.labels for each in calibrated]
    before, after = (np.array([entity.score for each in tagged for entity in each.entities]) for tagged in (raw, calibrated))
    assert len(before) > 8
    odds = np.sqrt(before / (1 - np.minimum(before, 1 - 1e-6)))
    np.testing.assert_allclose(after, odds / (1 + odds), atol=1e-5)
    assert [entity.p_knn for each in raw for entity in each.entities] == [
        entity.p_knn for each in calibrated for entity in each.entities
    ]


def test_entities_below_the_threshold_of_their_type_are_left_out_with_their_labels(knn_tagger, evaluated):
    sentences = known_sentences(evaluated)
    everything = knn_tagger.tag(sentences)
    scores = sorted((entity.score, entity.entity_group) for each in everything for entity in each.entities)
    least, type_ = scores[len(scores) // 2]  # what reaches it stays
    for threshold in (least, {type_: least}):
        for one, other in zip(knn_tagger.tag(sentences, threshold=threshold), everything, strict=True):
            is_kept = [
                entity.score >= least or (isinstance(threshold, dict) and entity.entity_group != type_)
                for entity in other.entities
            ]
            pairs = list(zip(other.entities, is_kept, strict=True))
            assert one.entities == tuple(entity for entity, kept in pairs if kept)
            assert one.left_out == tuple(entity for entity, kept in pairs if not kept)
            labels = list(other.labels)
            for entity in one.left_out:
                labels[slice(*entity.words)] = ["O"] * (entity.words[1] - entity.words[0])
            assert one.labels == tuple(labels)


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (1.5, "threshold: expected a number from 0 to 1, got 1.5 for EVENT"),
        ({"LOC": float("nan")}, "expected a number from 0 to 1, got nan for LOC"),
        ({"PERSON": 0.5}, r"threshold: expected a type of this tagger \(EVENT, LOC, ORG, PER\), got PERSON"),
    ],
)
def test_a_threshold_that_is_none_is_refused(knn_tagger, threshold, message):
    with pytest.raises(InputError, match=message):
        knn_tagger.tag("Paris", threshold=threshold)


def test_a_threshold_of_labels_without_scores_is_refused(knn_tagger, evaluated, capsys):
    with pytest.raises(InputError, match="threshold: expected none where labels alone are asked for"):
        knn_tagger.tag("Paris", probabilities=False, threshold=0.5)
    with pytest.raises(SystemExit):
        cli.run("predict", "predict.py", ["run", "Paris", "--no-neighbours", "--threshold=0.5"])
    assert "--threshold: expected none beside --no-neighbours, which gives no scores, got 0.5" in capsys.readouterr().err


def test_predict_counts_what_it_leaves_out(knn_tagger, evaluated, capsys):
    sentence = " ".join(known_sentences(evaluated, 1)[0])
    (tagged,) = replace(knn_tagger, calibration=load_evaluation(evaluated / "run").calibration).tag([sentence.split()])
    assert tagged.entities
    counts = Counter(entity.entity_group for entity in tagged.entities if entity.score < 1)
    cli.run("predict", "predict.py", ["run", "--tokens", sentence, "--threshold=0.2", "--threshold=1", "--output=conll"])
    shown = capsys.readouterr()
    listed = ", ".join(f"{count} {type_}" for type_, count in sorted(counts.items()))
    assert f"entities left out for their scores: {listed or 'none'}" in shown.err
    assert [line.split("\t")[1] for line in shown.out.strip().split("\n")].count("O") >= len(counts)
    with pytest.raises(SystemExit) as stop:
        cli.run("predict", "predict.py", ["run", "Paris", "--threshold=0.2", "--threshold=LOC=high"])
    assert stop.value.code == 2
    assert "--threshold: expected a score such as 0.8, or PER=0.9, got LOC=high" in capsys.readouterr().err
