"""Readings of characters in their sentence, spelt with a checkpoint's own maps, and which piece gets which."""

import sys

import numpy as np
import pytest
import transformers
from helpers import checkpoints

from knn_ner_jax.data import batching, tokenization
from knn_ner_jax.data.pinyin import Pinyin
from knn_ner_jax.data.tag_schemes import LabelSet, Sentence
from knn_ner_jax.io import InputError

ID = {letter: number for number, letter in enumerate(checkpoints.LETTERS)}


def spelt(reading: str) -> list[int]:
    return ([ID[letter] for letter in reading] + [0] * 8)[:8]


@pytest.fixture
def pinyin(tmp_path) -> Pinyin:
    checkpoints.pinyin_files(tmp_path)
    return Pinyin.load(tmp_path)


def test_a_character_is_read_in_the_context_of_the_whole_sentence(pinyin):
    # Words of one character: only together do they tell that 行 is hang2 in 银行 and xing2 in 行走, 长 chang2 in 长江.
    actual = pinyin.of_characters(tuple("银行行走长江校长"))
    expected = ["yin2", "hang2", "xing2", "zou3", "chang2", "jiang1", "xiao4", "zhang3"]
    assert [word[0] for word in actual] == [spelt(reading) for reading in expected]
    assert pinyin.of_characters(("银行行走", "长江校长"))[0] == [word[0] for word in actual[:4]]
    assert pinyin.of_characters(("行",)) != [actual[1]]


def test_the_map_of_whole_readings_goes_before_spelling_and_unknown_letters_give_zeros(tmp_path):
    checkpoints.pinyin_files(tmp_path)
    (tmp_path / "pinyin2tensor.json").write_text('{"wo3": [9, 8, 7, 6, 5, 4, 3, 2]}')
    text = (tmp_path / "pinyin_map.json").read_text().replace('"m":', '"M":')
    (tmp_path / "pinyin_map.json").write_text(text)
    actual = Pinyin.load(tmp_path).of_characters(("我", "们", "在"))
    assert actual == [[[9, 8, 7, 6, 5, 4, 3, 2]], [[0] * 8], [spelt("zai4")]]


def test_what_is_not_chinese_has_no_pinyin(pinyin):
    assert pinyin.of_characters(("A", "3月", "😀", "，")) == [[[0] * 8], [[0] * 8, spelt("yue4")], [[0] * 8], [[0] * 8]]


@pytest.fixture
def tokenizer() -> tokenization.Tokenizer:
    pieces = [*checkpoints.SPECIAL, *"在北京银行工作", "ok", "##ay", "3", "##月"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return tokenization.Tokenizer.of(transformers.BertTokenizer(vocab=vocab, do_lower_case=True))


def test_every_piece_gets_the_pinyin_of_its_own_character_in_every_window(pinyin, tokenizer):
    # A word of several characters, one in several pieces, one the tokenizer erases, one unknown.
    words = ("在", "北京", "OKay", "\u200b", "银", "行", "龘", "工作")
    expected = [spelt(reading) if reading else [0] * 8 for reading in ("zai4", "bei3", "jing1", "", "", "", "yin2")]
    expected += [spelt(reading) for reading in ("hang2", "da2", "gong1", "zuo4")]
    sentences = [Sentence(words, ("O",) * len(words), 1)]
    for window in (32, 8):
        split = tokenization.encode(sentences, tokenizer, window, LabelSet(()), pinyin)
        plain = tokenization.encode(sentences, tokenizer, window, LabelSet(()))
        flat = [piece for word in tokenization.subword_ids([words], tokenizer)[0][0] for piece in word]
        assert split.num_empty_words == 1
        assert len(flat) == len(expected)
        for actual, without, start in zip(
            split.windows, plain.windows, tokenization.window_starts(len(flat), window - 2), strict=True
        ):
            np.testing.assert_array_equal(actual.token_ids, without.token_ids)
            assert without.pinyin_ids is None
            inside = expected[start : start + window - 2]
            assert actual.pinyin_ids.tolist() == [[0] * 8, *inside, [0] * 8]


def test_a_batch_is_filled_up_with_zeros(pinyin, tokenizer):
    sentences = [Sentence(tuple(words), ("O",) * len(words), 1) for words in ("在北京", "银行工作")]
    split = tokenization.encode(sentences, tokenizer, 16, LabelSet(()), pinyin)
    batch = batching.assemble(split, batching.BatchPlan([[1], [0]], 3, 8))
    assert batch.pinyin_ids.shape == (3, 8, 8)
    assert batch.pinyin_ids[0, 1].tolist() == spelt("yin2")
    assert batch.pinyin_ids[1, 3].tolist() == spelt("jing1")
    assert not batch.pinyin_ids[batch.segments == 0].any()


def test_maps_are_saved_as_they_are_read(pinyin, tmp_path):
    pinyin.save(tmp_path / "again")
    assert Pinyin.load(tmp_path / "again") == pinyin


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pinyin_map.json", "{", r"pinyin_map\.json: expected JSON"),
        ("pinyin_map.json", "{}", r"pinyin_map\.json: expected letters and their ids under char2idx"),
        ("pinyin2tensor.json", '{"wo3": [1, 2]}', r"pinyin2tensor\.json: expected 8 ids .* found 1 others, wo3 first"),
        ("pinyin2tensor.json", None, r"pinyin2tensor\.json: expected JSON, found .*No such file"),
    ],
)
def test_maps_that_cannot_be_used_are_named(tmp_path, name, content, message):
    checkpoints.pinyin_files(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        Pinyin.load(tmp_path)


def test_without_pypinyin_the_extra_is_named(tmp_path, monkeypatch):
    checkpoints.pinyin_files(tmp_path)
    monkeypatch.setitem(sys.modules, "pypinyin", None)
    with pytest.raises(InputError, match="the extra chinesebert"):
        Pinyin.load(tmp_path)
