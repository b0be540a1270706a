"""The explorer: which sentences it shows, and that the shares of every word's voters are those of brute force."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle

from knn_ner_jax.data.corpus import Split
from knn_ner_jax.data.tag_schemes import LabelSet, Sentence
from knn_ner_jax.data.tokenization import encode
from knn_ner_jax.evaluation.predictions import Predictions, TaggedSentences
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import KnnParams
from knn_ner_jax.knn.similarity import PADDING
from knn_ner_jax.knn.topk import Rows
from knn_ner_jax.knn_tagger import KnnTagger
from knn_ner_jax.report import explorer
from knn_ner_jax.report.explorer import KINDS, NEAREST, Token, explore

SENTENCES = 6


@pytest.fixture(scope="module")
def found(evaluated) -> TaggedSentences:
    """Some sentences of test; as if the tagger had found nothing, and neighbours all entities and the first word."""
    blocks = (evaluated / "corpus" / "test.conll").read_text(encoding="utf-8").strip("\n").split("\n\n")
    rows = [[line.split("\t") for line in block.split("\n")] for block in blocks[:SENTENCES]]
    words, gold = ([[row[column] for row in sentence] for sentence in rows] for column in (0, 1))
    return TaggedSentences(words, gold, [["O"] * len(tags) for tags in gold], [["B-LOC", *tags[1:]] for tags in gold])


def kinds_of(found) -> list[set[str]]:
    """The kinds of changes in each sentence."""
    sentences = zip(found.tokens, found.gold, found.tagger, found.knn, strict=True)
    return [{Token(*token).kind for token in zip(*columns, strict=True)} - {None} for columns in sentences]


def votes_by_brute_force(knn_tagger, found, setting):
    """Every row of the datastore by its distance from each word, and the vote of the nearest k in float64."""
    model, rows = knn_tagger.model, knn_tagger.num_rows
    sentences = [Sentence(tuple(words), tuple(tags), 0) for words, tags in zip(found.tokens, found.gold, strict=True)]
    split = encode(sentences, model.tokenizer, model.max_length, knn_tagger.label_set)
    cache = knn_tagger.retrieve(split, rows, setting.metric, with_ids=True)
    k = rows if setting.k == "all" else setting.k
    voters = cache.similarities[:, :k], cache.neighbour_labels[:, :k]
    return cache, oracle.vote(*voters, len(knn_tagger.label_set), setting.temperature)


@pytest.mark.parametrize(
    ("k", "temperature"), [(3, 0.1), (50, 0.03), ("all", 0.03), ("all", 0.001)], ids=lambda value: str(value)
)
def test_shares_of_a_label_add_up_to_its_p_knn_which_is_that_of_brute_force(knn_tagger, found, k, temperature):
    setting = KnnParams("cosine", k, temperature, 0.6)
    cache, p_knn = votes_by_brute_force(knn_tagger, found, setting)
    names, rows = knn_tagger.label_set.names, knn_tagger.num_rows
    voters = rows if k == "all" else k
    shown = explore(knn_tagger, setting, found, "test")
    assert len(shown.sentences) == SENTENCES
    first_slot = 0
    for sentence in shown.sentences:
        for change in sentence.changes:
            slot = first_slot + change.position
            assert change.token.word == found.tokens[sentence.number - 1][change.position]
            sums, counts = Counter(), Counter()
            for line in change.voters:
                assert line.share >= 0
                sums[line.label] += line.share
                counts[line.label] += line.count
            assert sum(sums.values()) == pytest.approx(1, abs=1e-6)
            assert counts == Counter(names[label] for label in cache.neighbour_labels[slot, :voters])
            near = [line for line in change.voters if line.near]
            assert len(near) == min(NEAREST, voters)
            expected = np.exp((cache.similarities[slot, :voters] - cache.similarities[slot, 0]) / temperature)
            expected = expected[: len(near)] / expected.sum()
            # A similarity is known to half a unit in its last place, 2^-25.
            np.testing.assert_allclose([line.share for line in near], expected, rtol=2**-23 / temperature, atol=1e-6)
            for line, label, similarity in zip(near, cache.neighbour_labels[slot], cache.similarities[slot], strict=False):
                assert line.near.label == line.label == names[label]
                assert line.near.similarity == pytest.approx(similarity, abs=2e-5)
            assert {line.label for line in change.labels} >= {*(tag for tag in sums if sums[tag]), *change.token.tags}
            for line in change.labels:
                assert abs(sums[line.label] - line.p_knn) <= 1e-6
                assert line.p_knn == pytest.approx(p_knn[slot][names.index(line.label)], abs=np.expm1(4e-5 / temperature))
                p_ner = cache.p_ner[slot, names.index(line.label)]
                assert line.p_ner == pytest.approx(p_ner, abs=1e-5)
                assert line.p == pytest.approx(0.6 * line.p_knn + 0.4 * line.p_ner, abs=1e-6)
        first_slot += len(sentence.tokens)


def test_sentences_beyond_the_limit_are_counted(knn_tagger, found):
    one = explore(knn_tagger, KnnParams("cosine", 3, 0.1, 0.6), found, "test", max_sentences=1)
    assert [sentence.number for sentence in one.sentences] == [1]
    assert one.num_changed == SENTENCES
    assert one.sentences_by_kind == {kind: sum(kind in kinds for kinds in kinds_of(found)) for kind in KINDS}
    gold = [tag for tags in found.gold for tag in tags[1:]]
    first = [tags[0] for tags in found.gold]
    fixed = sum(tag != "O" for tag in gold) + first.count("B-LOC")
    broken = first.count("O")
    assert one.words == {"fixed": fixed, "broken": broken, "other": len(first) - first.count("B-LOC") - broken}
    kinds = {"O": "broken", "B-LOC": "fixed"}
    for change in one.sentences[0].changes:
        expected = kinds.get(first[0], "other") if change.position == 0 else "fixed"
        assert change.token.kind == expected


def test_kinds_take_turns_where_not_all_sentences_are_shown():
    by_kind = {"fixed": [1, 2, 3, 4, 9], "broken": [2, 8, 10], "other": [7]}
    assert explorer._round_robin(by_kind, 3) == [1, 2, 7]
    assert explorer._round_robin(by_kind, 4) == [1, 2, 7, 8]
    assert explorer._round_robin(by_kind, 6) == [1, 2, 3, 7, 8, 10]
    assert explorer._round_robin(by_kind, 99) == [1, 2, 3, 4, 7, 8, 9, 10]


def test_only_sentences_with_a_change_are_looked_up(knn_tagger, found, monkeypatch):
    place = next(place for place, tags in enumerate(found.gold) if place and set(tags) != {"O"})
    lost = [["O"] * len(tags) if number == place else tags for number, tags in enumerate(found.gold)]
    unchanged = replace(found, tagger=found.gold, knn=lost)
    looked_up = []
    retrieve_for = KnnTagger.retrieve_for
    monkeypatch.setattr(
        KnnTagger, "retrieve_for", lambda *given, **how: looked_up.append(given[1]) or retrieve_for(*given, **how)
    )
    shown = explore(knn_tagger, KnnParams("cosine", 3, 0.1, 0.6), unchanged, "test")
    assert [sentence.number for sentence in shown.sentences] == [place + 1]
    positions = [position for position, tag in enumerate(found.gold[place]) if tag != "O"]
    assert [(set(split.sentence_ids.tolist()), split.word_ids.tolist()) for split in looked_up] == [({place}, positions)]
    assert {change.token.kind for change in shown.sentences[0].changes} == {"broken"}
    nothing = explore(knn_tagger, KnnParams("cosine", 3, 0.1, 0.6), replace(found, tagger=found.knn), "test")
    assert (nothing.sentences, nothing.num_changed, len(looked_up)) == ((), 0, 1)


def test_a_gold_type_that_nothing_can_predict_has_no_probability(knn_tagger, found):
    gold = [["B-NEW", *tags[1:]] for tags in found.gold[:1]]
    columns = TaggedSentences(found.tokens[:1], gold, found.tagger[:1], found.knn[:1])
    (sentence,) = explore(knn_tagger, KnnParams("cosine", 3, 0.1, 0.6), columns, "test").sentences
    new = next(line for line in sentence.changes[0].labels if line.label == "B-NEW")
    assert (new.p_ner, new.p_knn, new.p) == (0, 0, 0)
    assert sentence.changes[0].types == {"NEW", "LOC"}


def test_damaged_sentences_are_an_error_before_anything_is_looked_up(knn_tagger, found, tmp_path, monkeypatch):
    monkeypatch.setattr(knn_tagger.stored.sentences, "_path", tmp_path / "sentences.jsonl")
    monkeypatch.setattr(explorer, "_look_up", None)
    with pytest.raises(InputError, match=r"sentences\.jsonl: expected a file .* found none"):
        explore(knn_tagger, KnnParams("cosine", 3, 0.1, 0.6), found, "test")


def test_pieces_are_refused(knn_tagger, found):
    pieces = replace(knn_tagger, label_set=LabelSet(knn_tagger.label_set.types, "wang2022"))
    with pytest.raises(InputError, match="expected a run with words, got wang2022"):
        explore(pieces, KnnParams("cosine", 3, 0.1, 0.6), found, "test")


def test_an_outcome_and_its_split_make_columns():
    split = Split(Path("test.conll"), (Sentence(("Ann", "ran"), ("B-PER", "O"), 1), Sentence(("Hi",), ("O",), 4)))
    ids, nothing = np.array([0, 0, 1]), np.zeros(3)
    gold, tagger, knn = np.array([1, 0, 0]), np.array([0, 0, 1]), np.array([1, 1, 0])
    outcome = Predictions(("O", "B-PER"), ids, gold, tagger, knn, nothing, knn, nothing)
    columns = TaggedSentences.of(split, outcome)
    assert columns.tokens == [("Ann", "ran"), ("Hi",)]
    assert columns.gold == [["B-PER", "O"], ["O"]]
    assert columns.tagger == [["O", "O"], ["B-PER"]]
    assert columns.knn == [["B-PER", "B-PER"], ["O"]]


def test_rows_are_counted_where_removed_ones_have_left_gaps():
    norms = jnp.float32([1, PADDING, 4, PADDING, 9, PADDING])
    rows = Rows(jnp.zeros((6, 2)), norms, jnp.int32([1, 0, 1, 0, 2, 0]))
    np.testing.assert_array_equal(explorer._count_rows(rows, 3), [0, 2, 1])
