"""Sentences -> windows: the labelled position of each word, words of which nothing is left, how long sentences are split."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import transformers

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import tokenization
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.tag_schemes import LabelSet, Sentence
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit, Tokenizer

LABELS = LabelSet(("X", "Y"))
FIRST_CHARACTER, NUM_CHARACTERS = 0x4E00, 150


@pytest.fixture(scope="module")
def transformers_own(minilm: Path) -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(minilm)


@pytest.fixture(scope="module")
def tokenizer(minilm: Path) -> Tokenizer:
    return tokenization.open_tokenizer(minilm)


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    """Every Chinese character is a piece of its own, so the pieces of a word are known without asking the tokenizer."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(FIRST_CHARACTER + i) for i in range(NUM_CHARACTERS))]
    return bert(pieces)


def bert(pieces: Sequence[str], lowercase: bool = False) -> Tokenizer:
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return Tokenizer.of(transformers.BertTokenizer(vocab=vocab, do_lower_case=lowercase))


def sentence(*words: str) -> Sentence:
    return Sentence(words, ("O",) * len(words), 1)


def pieces_of(split: EncodedSplit, tokenizer: Tokenizer, window: int = 0) -> list[str]:
    return tokenizer.subwords(split.windows[window].token_ids.tolist())


def test_the_first_subword_carries_the_label_as_the_tokenizers_own_word_ids_say(
    tokenizer: Tokenizer, transformers_own: transformers.PreTrainedTokenizerBase
):
    train = read_corpus(DataConfig("pip:knn_ner_jax/data/quickstart")).train
    sentences = train.sentences[:100]
    split = tokenization.encode(sentences, tokenizer, 512, LabelSet.of(s.tags for s in train.sentences))
    assert len(split.windows) == len(sentences)
    slot, later_pieces = itertools.count(), 0
    for original, window in zip(sentences, split.windows, strict=True):
        expected = transformers_own(list(original.words), is_split_into_words=True)
        assert window.token_ids.tolist() == expected["input_ids"]
        before = None
        for word, actual in zip(expected.word_ids(), window.word_index.tolist(), strict=True):
            assert actual == (NO_WORD if word is None or word == before else next(slot))
            later_pieces += word is not None and word == before
            before = word
    assert next(slot) == split.num_words == sum(len(original.words) for original in sentences)
    assert later_pieces > 100
    assert (split.num_empty_words, split.num_long_sentences) == (0, 0)


def test_rows_say_sentence_word_and_label(tokenizer: Tokenizer):
    sentences = [
        Sentence(("a", "b", "c"), ("B-X", "I-X", "O"), 1),
        Sentence(("d",), ("B-Y",), 5),
        Sentence(("e", "f"), ("O", "I-Y"), 7),
    ]
    split = tokenization.encode(sentences, tokenizer, 16, LABELS)
    assert split.sentence_ids.tolist() == [0, 0, 0, 1, 2, 2]
    assert split.word_ids.tolist() == [0, 1, 2, 0, 0, 1]
    assert split.label_ids.tolist() == [1, 2, 0, 3, 0, 4]
    assert split.flat_positions.tolist() == [0, 1, 2, 4, 6, 7]
    assert split.lengths.tolist() == [5, 3, 4]
    assert split.num_words == 6
    assert [window.word_index.tolist() for window in split.windows] == [[-1, 0, 1, 2, -1], [-1, 3, -1], [-1, 4, 5, -1]]


@pytest.mark.parametrize("word", ["\u200b", "\x01", "\u3000", "\u00a0", "\ufffd", "\u0301"])
def test_a_word_of_which_the_tokenizer_leaves_nothing_is_one_unknown_token(tokenizer: Tokenizer, word: str):
    assert tokenizer.encode([[word]])[0].ids == []
    split = tokenization.encode([sentence("a", word, "b"), sentence(word)], tokenizer, 16, LABELS)
    assert pieces_of(split, tokenizer) == ["[CLS]", "a", "[UNK]", "b", "[SEP]"]
    assert pieces_of(split, tokenizer, 1) == ["[CLS]", "[UNK]", "[SEP]"]
    assert [window.word_index.tolist() for window in split.windows] == [[-1, 0, 1, 2, -1], [-1, 3, -1]]
    assert split.num_empty_words == 2
    assert split.num_words == 4


def test_a_word_the_vocabulary_lacks_is_not_counted_as_empty(characters: Tokenizer):
    split = tokenization.encode([sentence("x", chr(FIRST_CHARACTER))], characters, 16, LABELS)
    assert pieces_of(split, characters) == ["[CLS]", "[UNK]", chr(FIRST_CHARACTER), "[SEP]"]
    assert split.num_empty_words == 0


@pytest.mark.parametrize("word", ["[SEP]", "[CLS]", "[PAD]", "[UNK]", "[MASK]"])
def test_a_word_that_spells_a_special_token_stays_text(tokenizer: Tokenizer, word: str):
    split = tokenization.encode([sentence("a", word, "b")], tokenizer, 16, LABELS)
    pieces = pieces_of(split, tokenizer)
    inner = pieces[2:-2]
    assert [pieces[:2], pieces[-2:]] == [["[CLS]", "a"], ["b", "[SEP]"]]
    assert "".join(piece.removeprefix("##") for piece in inner) == word.lower()
    assert set(split.windows[0].token_ids[1:-1].tolist()).isdisjoint([0, 100, 101, 102, 103])
    assert split.windows[0].word_index.tolist() == [-1, 0, 1, *[-1] * (len(inner) - 1), 2, -1]


def random_sentences(rng: np.random.Generator, number: int) -> tuple[list[Sentence], list[list[list[int]]]]:
    """Sentences in which no character occurs twice, and the numbers of the characters of each word."""
    sentences, pieces = [], []
    for _ in range(number):
        characters = rng.permutation(NUM_CHARACTERS)[: rng.integers(1, rng.choice([5, 60]))]
        cuts = np.sort(rng.choice(len(characters), rng.integers(0, len(characters)), replace=False))
        words = [word.tolist() for word in np.split(characters, cuts) if len(word)]
        pieces.append(words)
        sentences.append(sentence(*("".join(chr(FIRST_CHARACTER + i) for i in word) for word in words)))
    return sentences, pieces


@pytest.mark.parametrize("window", range(6, 21))
def test_each_word_of_a_split_sentence_is_labelled_once_where_it_has_most_context(characters: Tokenizer, window: int):
    sentences, pieces = random_sentences(np.random.default_rng(window), 40)
    split = tokenization.encode(sentences, characters, window, LABELS)
    body, slot = window - 2, 0
    remaining = iter(split.windows)
    for words in pieces:
        flat = [piece + 5 for word in words for piece in word]
        spans, word_index = [], []
        while not spans or spans[-1][1] < len(flat):  # the windows of one sentence: contiguous runs of its pieces
            ids, actual = (array.tolist() for array in next(remaining)[:2])
            start = flat.index(ids[1])
            spans.append((start, start + len(ids) - 2))
            assert ids == [2, *flat[start : spans[-1][1]], 3]
            assert len(ids) <= window
            assert actual[0] == actual[-1] == NO_WORD
            word_index += [
                (found_slot, start + i, len(spans) - 1) for i, found_slot in enumerate(actual[1:-1]) if found_slot >= 0
            ]
        assert {piece for start, end in spans for piece in range(start, end)} == set(range(len(flat)))
        for (start, _), (following, _) in itertools.pairwise(spans):
            assert 0 < following - start <= body / 2
        firsts = [sum(map(len, words[:number])) for number in range(len(words))]
        assert sorted(found_slot for found_slot, _, _ in word_index) == list(range(slot, slot + len(words)))
        for found_slot, position, owner in word_index:
            assert position == firsts[found_slot - slot]
            context = [min(position - start, end - 1 - position) for start, end in spans if start <= position < end]
            start, end = spans[owner]
            assert min(position - start, end - 1 - position) == max(context)
        slot += len(words)
    assert next(remaining, None) is None
    assert split.num_words == slot
    assert split.num_long_sentences == sum(sum(map(len, words)) > body for words in pieces)
    assert 0 < split.num_long_sentences < len(sentences)


def test_a_word_longer_than_a_window_is_encoded_whole_and_labelled_once(characters: Tokenizer):
    long = "".join(chr(FIRST_CHARACTER + i) for i in range(40))
    split = tokenization.encode([sentence("x", long, "y")], characters, 10, LABELS)
    word_index = np.concatenate([window.word_index for window in split.windows])
    assert sorted(word_index[word_index != NO_WORD].tolist()) == [0, 1, 2]
    assert set(range(5, 45)) <= {int(piece) for window in split.windows for piece in window.token_ids}
    owner = next(window for window in split.windows if 1 in window.word_index)
    assert owner.token_ids[owner.word_index == 1].tolist() == [5]
    assert split.num_long_sentences == 1


def test_a_sentence_that_just_fits_is_not_split(characters: Tokenizer):
    word = [chr(FIRST_CHARACTER + i) for i in range(9)]
    split = tokenization.encode([sentence(*word[:8]), sentence(*word)], characters, 10, LABELS)
    assert split.lengths.tolist() == [10, 10, 10]
    assert split.num_long_sentences == 1


@pytest.mark.parametrize("change", ["lowercase", "vocabulary"])
def test_the_fingerprint_changes_with_whatever_changes_the_pieces(characters: Tokenizer, change: str):
    pieces = characters.subwords(range(len(characters)))
    other = bert([*pieces, *(["new"] if change == "vocabulary" else [])], lowercase=change == "lowercase")
    same = bert(pieces)
    assert tokenization.tokenizer_fingerprint(same) == tokenization.tokenizer_fingerprint(characters)
    assert tokenization.tokenizer_fingerprint(other) != tokenization.tokenizer_fingerprint(characters)


def test_every_subword_can_carry_the_tag_of_its_word(characters: Tokenizer):
    a, b, c = (chr(FIRST_CHARACTER + i) for i in range(3))
    sentences = [Sentence((a + b, c), ("B-X", "O"), 1), Sentence((b + c + a,), ("B-Y",), 4)]
    split = tokenization.encode(sentences, characters, 16, LABELS, all_subwords=True)
    names = [LABELS.names[label] for label in split.label_ids]
    assert names == ["B-X", "B-X", "O", "B-Y", "B-Y", "B-Y"]
    assert split.sentence_ids.tolist() == [0, 0, 0, 1, 1, 1]
    assert split.word_ids.tolist() == [0, 0, 1, 0, 0, 0]
    assert [window.word_index.tolist() for window in split.windows] == [[-1, 0, 1, 2, -1], [-1, 3, 4, 5, -1]]


def test_words_that_are_not_selected_are_read_in_windows_with_one_that_is_and_not_labelled(characters: Tokenizer):
    a, b, c = (chr(FIRST_CHARACTER + i) for i in range(3))
    sentences = [Sentence((a, b + c, c), ("O", "B-X", "O"), 1), Sentence((a,), ("O",), 5), Sentence((b,), ("B-Y",), 7)]
    whole = tokenization.encode(sentences, characters, 16, LABELS)
    selected = whole.select(whole.label_ids != 0)
    assert [LABELS.names[label] for label in selected.label_ids] == ["B-X", "B-Y"]
    assert (selected.sentence_ids.tolist(), selected.word_ids.tolist(), selected.num_words) == ([0, 2], [1, 0], 2)
    assert [window.word_index.tolist() for window in selected.windows] == [
        [-1, -1, 0, -1, -1, -1],
        [-1, 1, -1],
    ]
    read = whole.windows[0], whole.windows[2]
    assert all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(selected.windows, read, strict=True))
    assert selected.like.tolist() == selected.select(np.array([True, False])).like.tolist() == [6, 3, 3]
