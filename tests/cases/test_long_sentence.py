"""A file without empty lines is one sentence: memory and time grow with its words, not with their square."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers.reading import read

from knn_ner_jax import cli
from knn_ner_jax.data import tokenization
from knn_ner_jax.data.tag_schemes import LabelSet, Sentence


@pytest.mark.parametrize("body", [2, 3, 6, 9])
def test_every_position_belongs_to_the_window_with_most_context_on_its_poorer_side(body: int):
    for length in range(1, 60):
        starts = tokenization.window_starts(length, body)
        positions = np.arange(-1, length + 1)
        left = positions[None] - np.asarray(starts)[:, None]
        by_hand = np.argmax(np.minimum(left, body - 1 - left), axis=0)
        np.testing.assert_array_equal(tokenization._owners(positions, starts, body), by_hand)


def peak_mb(minilm: Path, words: int) -> float:
    tokenizer = tokenization.open_tokenizer(minilm)
    sentence = Sentence(("Ann", "left") * (words // 2), ("B-X", "O") * (words // 2), 1)
    tracemalloc.start()
    try:
        split = tokenization.encode([sentence], tokenizer, 16, LabelSet(("X",)))
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
        labelled = np.concatenate([window.word_index[window.word_index >= 0] for window in split.windows])
        np.testing.assert_array_equal(np.sort(labelled), np.arange(words))


def test_memory_grows_with_the_words(minilm: Path):
    # Eight times the words: 8 times the memory where it is linear, 64 times where it is quadratic.
    assert peak_mb(minilm, 16_000) < 16 * peak_mb(minilm, 2_000)


def test_check_says_that_a_split_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture):
    text = "Ann\tB-PER\n" + "left\tO\n" * 200
    read(tmp_path, text)
    for name in ("dev", "test"):
        (tmp_path / f"{name}.conll").write_text("Bob\tB-PER\n\nx\tO\n", encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        cli.main(["check", str(tmp_path), "--max_length", "64"])
    assert end.value.code == 1
    assert "FAULT: train: one sentence of 201 words; an empty line between sentences is expected" in capsys.readouterr().out
