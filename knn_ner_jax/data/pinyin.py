"""Pinyin, the pronunciation of Chinese characters: a sentence becomes 8 letter ids for each subword, as ChineseBERT reads.

A character may have several readings; which one holds depends on its neighbours, and the extra `chinesebert` (pypinyin)
knows.
"""

import functools
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Int

from knn_ner_jax.io import InputError, read_mapping, write_text

LETTERS = 8  # letters of a reading, the digit of its tone included; shorter ones are padded with 0
MAP_FILE, TENSOR_FILE = "pinyin_map.json", "pinyin2tensor.json"


def _pypinyin() -> ModuleType:
    try:
        return importlib.import_module("pypinyin")
    except ModuleNotFoundError as error:
        raise InputError(
            "model.backbone: ChineseBERT needs the package pypinyin: expected the extra chinesebert to be installed "
            "(pip install -e '.[chinesebert]'), found none"
        ) from error


@dataclass(frozen=True)
class Pinyin:
    """The maps of a ChineseBERT checkpoint.

    Attributes:
        letters: id of each letter or tone digit.
        readings: 8 ids of each whole reading, such as `hang2`; other readings are spelt by `letters`.
    """

    letters: dict[str, int]
    readings: dict[str, list[int]]

    @classmethod
    def load(cls, folder: Path) -> "Pinyin":
        """Read `pinyin_map.json` and `pinyin2tensor.json`.

        Raises:
            InputError: a file is missing or holds something else, or pypinyin is not installed.
        """
        _pypinyin()
        letters = read_mapping(folder / MAP_FILE, "model.backbone").get("char2idx")
        readings = read_mapping(folder / TENSOR_FILE, "model.backbone")
        if not isinstance(letters, dict) or not all(isinstance(index, int) for index in letters.values()):
            raise InputError(f"model.backbone: {folder / MAP_FILE}: expected letters and their ids under char2idx")
        wrong = [reading for reading, ids in readings.items() if not isinstance(ids, list) or len(ids) != LETTERS]
        if wrong:
            raise InputError(
                f"model.backbone: {folder / TENSOR_FILE}: expected {LETTERS} ids for each reading, "
                f"found {len(wrong)} others, {wrong[0]} first"
            )
        return cls(letters, readings)

    def save(self, folder: Path) -> None:
        """Write the files that `load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / MAP_FILE, json.dumps({"char2idx": self.letters}, ensure_ascii=False))
        write_text(folder / TENSOR_FILE, json.dumps(self.readings, ensure_ascii=False))

    @functools.cached_property
    def num_letters(self) -> int:
        """Size of the alphabet: one more than the largest id."""
        return 1 + max((*self.letters.values(), *(index for ids in self.readings.values() for index in ids)), default=0)

    def _spell(self, reading: str) -> list[int]:
        if reading in self.readings:
            return self.readings[reading]
        ids = [self.letters.get(letter, -1) for letter in reading]
        return [0] * LETTERS if -1 in ids or len(ids) > LETTERS else ids + [0] * (LETTERS - len(ids))

    def of_characters(self, words: Sequence[str]) -> list[list[list[int]]]:
        """Return the ids of every character of every word of a sentence; zeros where a character has no pinyin.

        The words are joined first, because how a character is read depends on its neighbours: 行 in 银行 and in 行走.
        """
        pypinyin = _pypinyin()
        readings = pypinyin.pinyin(
            "".join(words),
            style=pypinyin.Style.TONE3,
            heteronym=True,
            errors=lambda characters: [[""] for _ in characters],
        )
        ids = iter([self._spell(reading[0]) for reading in readings])
        return [[next(ids) for _ in word] for word in words]

    def of_subwords(
        self, words: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]
    ) -> Iterator[Int[np.ndarray, "subwords letters"]]:
        """Yield the ids of the subwords of each word: the character's, or zeros where a subword is not a single character.

        Args:
            words: words of a sentence.
            spans: first character, and the one after the last, of every subword of every word.
        """
        blank = [0] * LETTERS
        for characters, of_word in zip(self.of_characters(words), spans, strict=True):
            ids = [characters[start] if end - start == 1 else blank for start, end in of_word]
            yield np.array(ids, np.int32).reshape(-1, LETTERS)
