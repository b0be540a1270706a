"""Sentences -> windows of token ids, and which position of which window speaks for each word.

Labels belong to words: a word's first piece carries it. A word has a *slot*, its number in the split; every word has exactly
one position in exactly one window, so it gets one prediction and one datastore row. Under `protocol: wang2022` every piece
and every special token is what a word is otherwise.
"""

import hashlib
import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Encoding, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from knn_ner_jax.data.corpus import Sentence
from knn_ner_jax.data.pinyin import Pinyin
from knn_ner_jax.data.tag_schemes import OUTSIDE, LabelSet, piece_tags

logger = logging.getLogger(__name__)

_Value = TypeVar("_Value")

NO_WORD = -1  # the slot of positions that speak for no word: special tokens, later pieces, padding
ALL_SUBWORDS = {"words": "all", "wang2022": "all, and special tokens"}  # which those are
NUM_SPECIAL = 2  # the classification token before and the separator after the pieces


class Window(NamedTuple):
    """Up to `max_length` token ids, special tokens included, the word slot of each (or `NO_WORD`), pinyin for ChineseBERT."""

    token_ids: Int[np.ndarray, " length"]
    word_index: Int[np.ndarray, " length"]
    pinyin_ids: Int[np.ndarray, "length letters"] | None = None


@dataclass(frozen=True)
class EncodedSplit:
    """A split ready for batching; N words.

    Attributes:
        windows: every piece of every sentence, in sentence order.
        sentence_ids: [N] sentence number of each word.
        word_ids: [N] position of each word in its sentence; `NO_WORD` for a special token, which is not scored.
        label_ids: [N] gold label of each word.
        num_empty_words: words the tokenizer left nothing of; each is one unknown token.
        num_long_sentences: sentences longer than one window.
    """

    windows: tuple[Window, ...]
    sentence_ids: Int[np.ndarray, " words"]
    word_ids: Int[np.ndarray, " words"]
    label_ids: Int[np.ndarray, " words"]
    num_empty_words: int
    num_long_sentences: int

    @property
    def num_words(self) -> int:
        """N."""
        return len(self.sentence_ids)

    def select(self, is_kept: Bool[np.ndarray, " words"]) -> "EncodedSplit":
        """The split with some words alone speaking for themselves; all are still read by the encoder."""
        word_index = np.where(is_kept, np.cumsum(is_kept, dtype=np.int32) - 1, NO_WORD).astype(np.int32)
        windows = (
            w._replace(word_index=np.where(w.word_index == NO_WORD, NO_WORD, word_index[w.word_index])) for w in self.windows
        )
        columns = {name: getattr(self, name)[is_kept] for name in ("sentence_ids", "word_ids", "label_ids")}
        return replace(self, windows=tuple(windows), **columns)

    @property
    def flat_positions(self) -> Int[np.ndarray, " words"]:
        """[N] where each word stands when the sentences are laid end to end with one gap after each."""
        return (np.arange(self.num_words) + self.sentence_ids).astype(np.int32)

    @property
    def is_scored(self) -> Bool[np.ndarray, " words"]:
        """[N] False for special tokens, which can be no part of an entity."""
        return self.word_ids != NO_WORD

    @property
    def lengths(self) -> Int[np.ndarray, " windows"]:
        """Token ids in each window."""
        return np.array([len(window.token_ids) for window in self.windows])


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase, pinyin: Pinyin | None = None) -> str:
    """SHA-256 of everything that decides the pieces of a word, and how a ChineseBERT hears them."""
    maps = "" if pinyin is None else json.dumps([pinyin.letters, pinyin.readings], sort_keys=True)
    return hashlib.sha256((tokenizer.backend_tokenizer.to_str() + maps).encode()).hexdigest()


def put_spaces_before_words(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Makes a byte-level tokenizer, whose pieces are spelt with the space before them, put one before each word it is given.

    Before the first of a sentence, too, so that a word has the same pieces wherever it stands. Give `AutoTokenizer` the
    option `add_prefix_space` as well: some tokenizer classes do not pass it on, others insist on it.
    """
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    if isinstance(splitter, pre_tokenizers.ByteLevel):
        splitter.add_prefix_space = True
    return tokenizer


def word_pieces(sentences: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> tuple[list[list[list[int]]], int]:
    """The piece ids of every word of every sentence, and how many words the tokenizer erased.

    A word of which nothing is left (a lone control character, say) becomes one unknown token. Text that spells a special
    token, such as `[SEP]`, is text.
    """
    pieces, erased = [], 0
    for words, encoding in zip(sentences, _tokenize(sentences, tokenizer), strict=True):
        of_words = _by_word(encoding.ids, encoding, len(words))
        erased += sum(not word for word in of_words)
        pieces.append([word or [tokenizer.unk_token_id] for word in of_words])
    return pieces, erased


def _tokenize(sentences: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> list[Encoding]:
    return tokenizer(
        [list(words) for words in sentences],
        is_split_into_words=True,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
    ).encodings


def _by_word(values: Sequence[_Value], encoding: Encoding, num_words: int) -> list[list[_Value]]:
    of_words: list[list[_Value]] = [[] for _ in range(num_words)]
    for value, word in zip(values, encoding.word_ids, strict=True):
        of_words[word].append(value)  # type: ignore[index]  # None stands for special tokens, which are not added
    return of_words


def _pinyin_pieces(
    sentences: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, pinyin: Pinyin
) -> Iterator[Int[np.ndarray, "pieces letters"]]:
    """The pinyin of all pieces of each sentence, in the order of `word_pieces`."""
    for words, encoding in zip(sentences, _tokenize(sentences, tokenizer), strict=True):
        spans = _by_word(encoding.offsets, encoding, len(words))
        yield np.concatenate(list(pinyin.of_pieces(words, [word or [(0, 0)] for word in spans])))


def window_starts(length: int, body: int) -> list[int]:
    """Where windows of `body` pieces begin so that they cover `length` pieces and overlap by at least half."""
    if length <= body:
        return [0]
    stride = max(body // 2, 1)
    return [*range(0, length - body, stride), length - body]


def _owners(positions: np.ndarray, starts: Sequence[int], body: int) -> np.ndarray:
    """For each piece the window in which it has most context on its poorer side."""
    left = positions[None, :] - np.asarray(starts)[:, None]
    return np.argmax(np.minimum(left, body - 1 - left), axis=0)


class _LabelledTokens(NamedTuple):
    """The pieces of a sentence that speak: their numbers (-1 and the number of pieces: special tokens), tags and words."""

    positions: Int[np.ndarray, " speakers"]
    tags: Sequence[str]
    word_ids: Int[np.ndarray, " speakers"]


def _labelled_tokens(sentence: Sentence, piece_counts: Sequence[int], protocol: str, all_subwords: bool) -> _LabelledTokens:
    words = np.arange(len(piece_counts), dtype=np.int32)
    if protocol == "words" and all_subwords:
        tags = [tag for tag, count in zip(sentence.tags, piece_counts, strict=True) for _ in range(count)]
        return _LabelledTokens(np.arange(sum(piece_counts)), tags, np.repeat(words, piece_counts))
    if protocol == "words":
        return _LabelledTokens(np.cumsum([0, *piece_counts[:-1]]), sentence.tags, words)
    tags = [OUTSIDE, *piece_tags(sentence.tags, piece_counts), OUTSIDE]
    word_ids = np.pad(np.repeat(words, piece_counts), 1, constant_values=NO_WORD)
    return _LabelledTokens(np.arange(-1, sum(piece_counts) + 1), tags, word_ids)


def _sentence_windows(
    pieces: Sequence[Sequence[int]],
    speakers: _LabelledTokens,
    first_slot: int,
    max_length: int,
    cls_id: int,
    sep_id: int,
    pinyin_ids: Int[np.ndarray, "pieces letters"] | None = None,
) -> Iterable[Window]:
    flat = np.concatenate([np.asarray(word, np.int32) for word in pieces])
    body = max_length - NUM_SPECIAL
    starts = window_starts(len(flat), body)
    owners = _owners(speakers.positions, starts, body)
    for number, start in enumerate(starts):
        inside = flat[start : start + body]
        word_index = np.full(len(inside) + NUM_SPECIAL, NO_WORD, np.int32)
        mine = np.flatnonzero(owners == number)
        word_index[speakers.positions[mine] - start + 1] = first_slot + mine
        # Special tokens have no pinyin, which is all zeros.
        letters = None if pinyin_ids is None else np.pad(pinyin_ids[start : start + body], ((1, 1), (0, 0)))
        yield Window(np.concatenate([[cls_id], inside, [sep_id]]).astype(np.int32), word_index, letters)


def encode(
    sentences: Sequence[Sentence],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    label_set: LabelSet,
    pinyin: Pinyin | None = None,
    all_subwords: bool = False,
) -> EncodedSplit:
    """Encodes sentences of words.

    Args:
        sentences: at least one; none without words; every type in `label_set`.
        tokenizer: a fast tokenizer with classification, separator and unknown tokens.
        max_length: the most token ids the encoder takes at once, special tokens included.
        label_set: gives the label ids, and the protocol.
        pinyin: the maps of a ChineseBERT; None for other encoders.
        all_subwords: under `protocol: words`, each piece of a word speaks, with the tag of the word, as to be remembered; not
            to be scored.
    """
    all_words = [sentence.words for sentence in sentences]
    pieces, erased = word_pieces(all_words, tokenizer)
    letters = itertools.repeat(None) if pinyin is None else _pinyin_pieces(all_words, tokenizer, pinyin)
    special_ids = tokenizer.cls_token_id, tokenizer.sep_token_id
    speakers, windows, num_slots, num_long_sentences = [], [], 0, 0
    for sentence, words, pinyin_ids in zip(sentences, pieces, letters, strict=False):
        speaking = _labelled_tokens(sentence, [len(word) for word in words], label_set.protocol, all_subwords)
        found = list(_sentence_windows(words, speaking, num_slots, max_length, *special_ids, pinyin_ids))
        num_slots += len(speaking.positions)
        num_long_sentences += len(found) > 1
        windows += found
        speakers.append(speaking)
    ids, counts = label_set.ids(), [len(speaking.positions) for speaking in speakers]
    if erased or num_long_sentences:
        logger.info("%d erased words became unknown tokens; %d sentences needed several windows", erased, num_long_sentences)
    return EncodedSplit(
        windows=tuple(windows),
        sentence_ids=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        word_ids=np.concatenate([speaking.word_ids for speaking in speakers]),
        label_ids=np.array([ids[tag] for speaking in speakers for tag in speaking.tags], np.int32),
        num_empty_words=erased,
        num_long_sentences=num_long_sentences,
    )


# A letter, digit or combining accent; ideographs and kana stand alone, because no spaces separate them.
_IDEOGRAPH = r"\u3040-\u30fa\u30fc-\u30ff\u3400-\u9fff\uf900-\ufaff"
_LETTER = rf"(?:[^\W_{_IDEOGRAPH}]|[\u0300-\u036f])"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|{_LETTER}+(?:['’.\-]{_LETTER}+)*|\S")
_CLITIC = re.compile(r"(?<=\w)(n['’]t|['’](?:s|re|ve|ll|d|m))$", re.IGNORECASE)


def split_words(text: str) -> tuple[str, ...]:
    """Split plain text into words and punctuation marks; English clitics are words of their own.

    >>> split_words("Ann's dog didn't bark.")
    ('Ann', "'s", 'dog', 'did', "n't", 'bark', '.')
    """
    words: list[str] = []
    for word in _WORD.findall(text):
        words += [part for part in _CLITIC.split(word) if part]
    return tuple(words)
