"""How Chinese characters sound: pinyin of a sentence -> 8 letter ids for each piece, as ChineseBERT was trained on them."""

import functools
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Int

from knn_ner_jax.io import InputError

LETTERS = 8  # of one reading, a tone digit included; shorter ones are filled up with 0
MAP_FILE, TENSOR_FILE = "pinyin_map.json", "pinyin2tensor.json"


def _pypinyin() -> ModuleType:
    try:
        return importlib.import_module("pypinyin")
    except ModuleNotFoundError as error:
        raise InputError(
            "model.backbone: ChineseBERT needs the package pypinyin: expected the extra chinesebert to be installed "
            "(pip install -e '.[chinesebert]'), found none"
        ) from error


def read_mapping(path: Path) -> dict:
    """A JSON file of a checkpoint; InputError where it holds something else than a mapping."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"model.backbone: {path}: expected JSON, found {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"model.backbone: {path}: expected a mapping, found {type(content).__name__}")
    return content


@dataclass(frozen=True)
class Pinyin:
    """The maps of a ChineseBERT checkpoint.

    Attributes:
        letters: letter or tone digit -> id.
        readings: whole reading, `hang2`, -> 8 ids; others are spelt out by `letters`.
    """

    letters: dict[str, int]
    readings: dict[str, list[int]]

    @classmethod
    def load(cls, folder: Path) -> "Pinyin":
        """Reads `pinyin_map.json` and `pinyin2tensor.json`.

        Raises:
            InputError: a file is missing or holds something else, or pypinyin is not installed.
        """
        _pypinyin()
        letters, readings = read_mapping(folder / MAP_FILE).get("char2idx"), read_mapping(folder / TENSOR_FILE)
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
        """Writes what `load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MAP_FILE).write_text(json.dumps({"char2idx": self.letters}, ensure_ascii=False), encoding="utf-8")
        (folder / TENSOR_FILE).write_text(json.dumps(self.readings, ensure_ascii=False), encoding="utf-8")

    @functools.cached_property
    def num_letters(self) -> int:
        """One more than the largest id."""
        return 1 + max((*self.letters.values(), *(index for ids in self.readings.values() for index in ids)), default=0)

    def _spell(self, reading: str) -> list[int]:
        if reading in self.readings:
            return self.readings[reading]
        ids = [self.letters.get(letter, -1) for letter in reading]
        return [0] * LETTERS if -1 in ids or len(ids) > LETTERS else ids + [0] * (LETTERS - len(ids))

    def of_characters(self, words: Sequence[str]) -> list[list[list[int]]]:
        """The ids of every character of every word of a sentence; zeros where a character has no pinyin.

        The words are read joined, because how a character is read depends on its neighbours: 行 in 银行 and in 行走.
        """
        pypinyin = _pypinyin()
        readings = pypinyin.pinyin(
            "".join(words),
            style=pypinyin.Style.TONE3,
            heteronym=True,
            errors=lambda foreign: [[""] for _ in foreign],
        )
        ids = iter([self._spell(reading[0]) for reading in readings])
        return [[next(ids) for _ in word] for word in words]

    def of_pieces(
        self, words: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]
    ) -> Iterator[Int[np.ndarray, "pieces letters"]]:
        """The ids of the pieces of each word: the character's, or zeros for a piece that is not one single character.

        Args:
            words: of a sentence.
            spans: first character and the one after the last of every piece of every word.
        """
        blank = [0] * LETTERS
        for characters, of_word in zip(self.of_characters(words), spans, strict=True):
            ids = [characters[start] if end - start == 1 else blank for start, end in of_word]
            yield np.array(ids, np.int32).reshape(-1, LETTERS)
