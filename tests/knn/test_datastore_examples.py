"""The text behind a datastore: read from the file it was built from, which must be the same, and cut around a word."""

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.corpus import read_splits
from knn_ner_jax.knn.examples import CONTEXT, neighbour_in_sentence, read_source_words
from knn_ner_jax.knn.storage import Source


def test_warnings_about_the_corpus_are_not_repeated(tmp_path, caplog):
    path = tmp_path / "train.conll"
    path.write_text("Paris\tB-LOC\n\nin\tO\tO\nRome\tB-LOC\nNow\tI-PER\n", encoding="utf-8")
    split = read_splits({"train": path}, DataConfig("", on_error="report"))[0]["train"]
    assert (len(split.illegal_tags), len(split.ragged_lines), len(caplog.records)) == (1, 1, 2)
    caplog.clear()
    assert read_source_words(Source(str(path), split.sha256, ("LOC",), 1.0, 0, True)) == [("Paris",), ("in", "Rome", "Now")]
    assert not caplog.records


def test_a_sentence_is_cut_where_it_has_more_words_than_are_shown():
    words = tuple(map(str, range(2 * CONTEXT + 2)))
    for word, cut in ((0, (False, True)), (CONTEXT, (False, True)), (CONTEXT + 1, (True, False))):
        near = neighbour_in_sentence(words, word, "O", 0.5)
        assert (*near.before, near.word, *near.after) == words[max(0, word - CONTEXT) : word + CONTEXT + 1]
        assert near.cut == cut
    assert neighbour_in_sentence(words[: 2 * CONTEXT + 1], CONTEXT, "O", 0.5).cut == (False, False)
