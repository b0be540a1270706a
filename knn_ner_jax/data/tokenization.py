"""Tokenization: sentences of words become windows of token ids in which each word has one labelled position.

Labels belong to words, and the first subword of a word carries its label. Words are numbered through the whole split; each
word has exactly one position in exactly one window, so it gets one prediction and one row of the datastore. Sentences
longer than the encoder's limit become several overlapping windows. Under `protocol: wang2022` every subword and every
special token is treated as a word is otherwise.
"""

import hashlib
import itertools
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import tokenizers
from jaxtyping import Bool, Int
from tokenizers import Encoding, normalizers, pre_tokenizers

from knn_ner_jax.data.pinyin import Pinyin
from knn_ner_jax.data.tag_schemes import OUTSIDE, LabelSet, Sentence, wang2022_tags
from knn_ner_jax.data.words import BLANK_TOKEN
from knn_ner_jax.io import InputError, read_mapping, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_Value = TypeVar("_Value")

NO_WORD = -1  # word index of positions without a label: special tokens, later subwords, padding
ALL_SUBWORDS = {"words": "all", "wang2022": "all, and special tokens"}  # what `datastore.subwords: all` stores, by protocol
NUM_SPECIAL = 2  # the classification token before and the separator after the subwords
SUBWORDS, SPECIAL = "tokenizer.json", "tokenizer_config.json"  # the files that transformers saves a tokenizer in
TOKENIZER_FILES = ((SUBWORDS,), ("vocab.txt",), ("vocab.json", "merges.txt"))


class Window(NamedTuple):
    """A sentence or a part of one, as the encoder reads it at once.

    Attributes:
        token_ids: up to `max_length` token ids, special tokens included.
        word_index: number in the split of the word that each position is labelled as, or `NO_WORD`.
        pinyin_ids: letters of each token's pinyin, for ChineseBERT; None for other encoders.
    """

    token_ids: Int[np.ndarray, " length"]
    word_index: Int[np.ndarray, " length"]
    pinyin_ids: Int[np.ndarray, "length letters"] | None = None


@dataclass(frozen=True)
class EncodedSplit:
    """A split of N words, ready for batching.

    Attributes:
        windows: all subwords of all sentences, in sentence order.
        sentence_ids: [N] number of each word's sentence.
        word_ids: [N] position of each word in its sentence; `NO_WORD` for a special token, which is not scored.
        label_ids: [N] gold label of each word.
        num_empty_words: words that the tokenizer left nothing of; each is one unknown token.
        num_long_sentences: sentences longer than one window.
        like: lengths of the windows that decide the shape of batches; None: those of its own.
    """

    windows: tuple[Window, ...]
    sentence_ids: Int[np.ndarray, " words"]
    word_ids: Int[np.ndarray, " words"]
    label_ids: Int[np.ndarray, " words"]
    num_empty_words: int
    num_long_sentences: int
    like: Int[np.ndarray, " others"] | None = None

    @property
    def num_words(self) -> int:
        """N."""
        return len(self.sentence_ids)

    def select(self, is_kept: Bool[np.ndarray, " words"]) -> "EncodedSplit":
        """Return the split with only some words labelled and counted.

        The encoder still reads whole windows, but for those without any such word. Batches have the shape of those of the
        whole split, for which programs are compiled.
        """
        new_index = np.where(is_kept, np.cumsum(is_kept, dtype=np.int32) - 1, NO_WORD).astype(np.int32)
        windows = (
            w._replace(word_index=np.where(w.word_index == NO_WORD, NO_WORD, new_index[w.word_index])) for w in self.windows
        )
        columns = {name: getattr(self, name)[is_kept] for name in ("sentence_ids", "word_ids", "label_ids")}
        kept = tuple(window for window in windows if (window.word_index != NO_WORD).any())
        return replace(self, windows=kept, like=self.lengths if self.like is None else self.like, **columns)

    @property
    def flat_positions(self) -> Int[np.ndarray, " words"]:
        """[N] position of each word when the sentences are laid end to end with a gap of one after each."""
        return (np.arange(self.num_words) + self.sentence_ids).astype(np.int32)

    @property
    def is_scored(self) -> Bool[np.ndarray, " words"]:
        """[N] False for special tokens, which can be no part of an entity."""
        return self.word_ids != NO_WORD

    @cached_property
    def lengths(self) -> Int[np.ndarray, " windows"]:
        """Number of token ids in each window."""
        return np.array([len(window.token_ids) for window in self.windows])


@dataclass(frozen=True)
class Tokenizer:
    """What turns words into subwords; kept in the files that transformers keeps a tokenizer in, and opened without it.

    Attributes:
        backend: the library `tokenizers`' own.
        config: the content of tokenizer_config.json: names of the special tokens, and what transformers opens it with.
    """

    backend: tokenizers.Tokenizer
    config: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read what `save` or transformers wrote; a damaged file raises what `json` and `tokenizers` raise."""
        backend = tokenizers.Tokenizer.from_str((folder / SUBWORDS).read_text(encoding="utf-8"))
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # text that spells a special token is text
        return cls(backend, json.loads((folder / SPECIAL).read_text(encoding="utf-8")))

    @classmethod
    def of(cls, opened: "PreTrainedTokenizerBase") -> "Tokenizer":
        """Return transformers' tokenizer as a run that saves it will load it."""
        with tempfile.TemporaryDirectory() as folder:
            opened.save_pretrained(folder)
            return cls.load(Path(folder))

    def save(self, folder: Path) -> None:
        """Write the files that `load` and transformers read."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / SUBWORDS, self.backend.to_str(pretty=True))
        write_text(folder / SPECIAL, json.dumps(self.config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")

    def __len__(self) -> int:
        return self.backend.get_vocab_size()

    def special_id(self, name: str) -> int:
        """Return the id of `cls_token`, `sep_token`, `unk_token`, ...; raise KeyError where the tokenizer has none."""
        number = self.backend.token_to_id(self.config[name])
        assert number is not None  # transformers numbers all that it names
        return number

    def encode(self, sentences: Sequence[Sequence[str]]) -> list[Encoding]:
        """Cut the words of sentences into subwords, without special tokens."""
        words = [list(sentence) for sentence in sentences]
        return self.backend.encode_batch(words, is_pretokenized=True, add_special_tokens=False)

    def subwords(self, ids: Iterable[int]) -> list[str]:
        """Return how subwords are spelt."""
        return [self.backend.id_to_token(number) or "" for number in ids]


def open_tokenizer(
    source: Path | str,
    setting: str = "model.backbone",
    file_groups: Sequence[Sequence[str]] = TOKENIZER_FILES,
    lowercase: bool | None = None,
) -> Tokenizer:
    """Open the fast tokenizer of a folder in transformers' layout, or of a model on the hub.

    A byte-level tokenizer spells the space before a word as part of its first subword; it is made to put one before every
    word it is given, the first of a sentence included, so that a word has the same subwords wherever it stands.

    Args:
        source: a folder, or a hub id.
        setting: name of the setting that led here, for messages.
        file_groups: groups of files, each of which makes a tokenizer; a folder must hold all files of one group.
        lowercase: whether words are lower-cased first; None: as its files say, or else as transformers does.

    Raises:
        InputError: there is no tokenizer, a damaged one, or one without a choice of `lowercase`.
    """
    from transformers import AutoTokenizer  # takes seconds

    if isinstance(source, Path):
        _check_tokenizer_files(source, setting, file_groups)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        if lowercase is not None:
            if not isinstance(tokenizer.backend_tokenizer.normalizer, normalizers.BertNormalizer):
                expected = "null for a tokenizer without this choice, which BERT's has"
                raise InputError(f"model.lowercase: {source}: expected {expected}, got {lowercase}")
            tokenizer = AutoTokenizer.from_pretrained(source, do_lower_case=lowercase)
        if isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
            # Some tokenizer classes insist on the option, others do not pass it on to their splitter.
            tokenizer = AutoTokenizer.from_pretrained(source, add_prefix_space=True)
            tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True
        tokenizer.backend_tokenizer.encode("x")  # fails without a piece for what is unknown
        return Tokenizer.of(tokenizer)
    except InputError:
        raise
    except Exception as error:  # tokenizers has none of its own
        if isinstance(source, Path):
            raise InputError(f"{setting}: {source}: expected a tokenizer, found a damaged one: {error!r}") from error
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(f"{setting}: expected a folder, pip:package/folder or a hub id, got {source}: {reason}") from error


def _check_tokenizer_files(folder: Path, setting: str, file_groups: Sequence[Sequence[str]]) -> None:
    # Without these transformers would make up a tokenizer of special tokens alone.
    complete = [group for group in file_groups if all((folder / name).is_file() for name in group)]
    if not complete:
        expected = " or ".join(" with ".join(group) for group in file_groups)
        raise InputError(f"{setting}: {folder}: expected a tokenizer ({expected}), found none")
    for name in complete[0]:
        if name.endswith(".json"):
            read_mapping(folder / name, setting)


def tokenizer_fingerprint(tokenizer: Tokenizer, pinyin: Pinyin | None = None) -> str:
    """Return the SHA-256 of everything that decides the subwords of a word, and a ChineseBERT's pinyin of them."""
    maps = "" if pinyin is None else json.dumps([pinyin.letters, pinyin.readings], sort_keys=True)
    return hashlib.sha256((tokenizer.backend.to_str() + maps).encode()).hexdigest()


def subword_ids(sentences: Sequence[Sequence[str]], tokenizer: Tokenizer) -> tuple[list[list[list[int]]], int]:
    """Return the subword ids of every word of every sentence, and the number of words that the tokenizer leaves nothing of.

    Such an empty word (a lone control character, say) becomes one unknown token. Text that spells a special token, such as
    `[SEP]`, is text.
    """
    ids_by_sentence, num_empty_words = [], 0
    for words, encoding in zip(sentences, tokenizer.encode(sentences), strict=True):
        ids_by_word = _by_word(encoding.ids, encoding, len(words))
        for number, word in enumerate(words):
            if word == BLANK_TOKEN:  # which some tokenizers spell out
                ids_by_word[number] = []
        num_empty_words += sum(not ids for ids in ids_by_word)
        ids_by_sentence.append([ids or [tokenizer.special_id("unk_token")] for ids in ids_by_word])
    return ids_by_sentence, num_empty_words


def _by_word(values: Sequence[_Value], encoding: Encoding, num_words: int) -> list[list[_Value]]:
    by_word: list[list[_Value]] = [[] for _ in range(num_words)]
    for value, word in zip(values, encoding.word_ids, strict=True):
        assert word is not None  # None stands for special tokens, which are not added
        by_word[word].append(value)
    return by_word


def _pinyin_by_sentence(
    sentences: Sequence[Sequence[str]], tokenizer: Tokenizer, pinyin: Pinyin
) -> Iterator[Int[np.ndarray, "subwords letters"]]:
    """Yield the pinyin of all subwords of each sentence, in the order of `subword_ids`."""
    for words, encoding in zip(sentences, tokenizer.encode(sentences), strict=True):
        spans = _by_word(encoding.offsets, encoding, len(words))
        yield np.concatenate(list(pinyin.of_subwords(words, [word or [(0, 0)] for word in spans])))


def window_starts(length: int, body: int) -> list[int]:
    """Return where windows begin that cover a sentence and overlap by at least half.

    >>> window_starts(5, body=6), window_starts(11, body=6)
    ([0], [0, 3, 5])

    Args:
        length: subwords of the sentence.
        body: subwords in one window.
    """
    if length <= body:
        return [0]
    stride = max(body // 2, 1)
    return [*range(0, length - body, stride), length - body]


def _owners(positions: np.ndarray, starts: Sequence[int], body: int) -> np.ndarray:
    """Return for each position the window in which it has most context on its poorer side: whose middle is nearest.

    >>> _owners(np.arange(11), [0, 3, 5], 6)
    array([0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
    """
    twice = np.asarray(starts, np.int64)
    return np.searchsorted(twice[:-1] + twice[1:] + body - 1, 2 * positions, side="left")


class _LabelledTokens(NamedTuple):
    """The tokens of a sentence that carry labels.

    Attributes:
        positions: their places among the subwords; -1 and the number of subwords are the special tokens.
        tags: their tags.
        word_ids: their words, `NO_WORD` for special tokens.
    """

    positions: Int[np.ndarray, " tokens"]
    tags: Sequence[str]
    word_ids: Int[np.ndarray, " tokens"]


def _labelled_tokens(sentence: Sentence, counts: Sequence[int], protocol: str, all_subwords: bool) -> _LabelledTokens:
    """Return the labelled tokens of a sentence whose words have `counts` subwords."""
    words = np.arange(len(counts), dtype=np.int32)
    if protocol == "words" and all_subwords:
        tags = [tag for tag, count in zip(sentence.tags, counts, strict=True) for _ in range(count)]
        return _LabelledTokens(np.arange(sum(counts)), tags, np.repeat(words, counts))
    if protocol == "words":
        return _LabelledTokens(np.cumsum([0, *counts[:-1]]), sentence.tags, words)
    tags = [OUTSIDE, *wang2022_tags(sentence.tags, counts), OUTSIDE]
    word_ids = np.pad(np.repeat(words, counts), 1, constant_values=NO_WORD)
    return _LabelledTokens(np.arange(-1, sum(counts) + 1), tags, word_ids)


def _sentence_windows(
    ids_by_word: Sequence[Sequence[int]],
    tokens: _LabelledTokens,
    first_word: int,
    max_length: int,
    special_ids: tuple[int, int],
    pinyin_ids: Int[np.ndarray, "subwords letters"] | None = None,
) -> Iterable[Window]:
    """Yield the windows of a sentence; its labelled tokens are numbered from `first_word` on."""
    flat = np.concatenate([np.asarray(ids, np.int32) for ids in ids_by_word])
    body = max_length - NUM_SPECIAL
    starts = window_starts(len(flat), body)
    owners = _owners(tokens.positions, starts, body)
    first_own = np.searchsorted(owners, np.arange(len(starts) + 1))
    cls_id, sep_id = special_ids
    for number, start in enumerate(starts):
        inside = flat[start : start + body]
        word_index = np.full(len(inside) + NUM_SPECIAL, NO_WORD, np.int32)
        own = np.arange(first_own[number], first_own[number + 1])
        word_index[tokens.positions[own] - start + 1] = first_word + own
        # Special tokens have no pinyin, which is all zeros.
        letters = None if pinyin_ids is None else np.pad(pinyin_ids[start : start + body], ((1, 1), (0, 0)))
        yield Window(np.concatenate([[cls_id], inside, [sep_id]]).astype(np.int32), word_index, letters)


def encode(
    sentences: Sequence[Sentence],
    tokenizer: Tokenizer,
    max_length: int,
    label_set: LabelSet,
    pinyin: Pinyin | None = None,
    all_subwords: bool = False,
) -> EncodedSplit:
    """Encode sentences of words.

    Args:
        sentences: at least one; none without words; every type in `label_set`.
        tokenizer: one with classification, separator and unknown tokens.
        max_length: most token ids the encoder takes at once, special tokens included.
        label_set: gives the label ids, and the protocol.
        pinyin: the maps of a ChineseBERT; None for other encoders.
        all_subwords: label each subword of a word, with the word's tag, as a datastore may hold them; such a split cannot be
            scored. Without effect under `protocol: wang2022`, which always does so.
    """
    words_by_sentence = [sentence.words for sentence in sentences]
    ids_by_sentence, num_empty_words = subword_ids(words_by_sentence, tokenizer)
    pinyin_by_sentence = (
        itertools.repeat(None) if pinyin is None else _pinyin_by_sentence(words_by_sentence, tokenizer, pinyin)
    )
    special_ids = tokenizer.special_id("cls_token"), tokenizer.special_id("sep_token")
    tokens_by_sentence: list[_LabelledTokens] = []
    windows: list[Window] = []
    num_words = num_long_sentences = 0
    for sentence, ids_by_word, pinyin_ids in zip(sentences, ids_by_sentence, pinyin_by_sentence, strict=False):
        tokens = _labelled_tokens(sentence, [len(ids) for ids in ids_by_word], label_set.protocol, all_subwords)
        of_sentence = list(_sentence_windows(ids_by_word, tokens, num_words, max_length, special_ids, pinyin_ids))
        num_words += len(tokens.positions)
        num_long_sentences += len(of_sentence) > 1
        windows += of_sentence
        tokens_by_sentence.append(tokens)
    ids, counts = label_set.ids(), [len(tokens.positions) for tokens in tokens_by_sentence]
    if num_empty_words or num_long_sentences:
        logger.info(
            "%d words of which the tokenizer leaves nothing became unknown tokens; %d sentences needed several windows",
            num_empty_words,
            num_long_sentences,
        )
    return EncodedSplit(
        windows=tuple(windows),
        sentence_ids=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        word_ids=np.concatenate([tokens.word_ids for tokens in tokens_by_sentence]),
        label_ids=np.array([ids[tag] for tokens in tokens_by_sentence for tag in tokens.tags], np.int32),
        num_empty_words=num_empty_words,
        num_long_sentences=num_long_sentences,
    )
