"""What the cells of a study read: corpora and backbones, each opened once."""

import hashlib
from pathlib import Path

from knn_ner_jax.ablation.study import Files, digest
from knn_ner_jax.config import Config, ScratchConfig
from knn_ner_jax.data.corpus import Corpus, Split, read_corpus, resolve_path
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation import opening, tuning
from knn_ner_jax.models import pretrained
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.families import PINYIN_FOLDER


class Corpora:
    """Corpora and backbones by folder, each read once."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, str, str], Corpus] = {}
        self._others: dict[tuple[str, str, str], str] = {}
        self._backbones: dict[tuple[str, ScratchConfig], tuple[str, BertConfig]] = {}

    def of(self, config: Config) -> Corpus:
        """The whole corpus of a configuration."""
        data = config.data
        given = data.dir, data.scheme, data.on_error
        if given not in self._read:
            self._read[given] = read_corpus(*given)
            tuning.refuse_test_as_dev(self._read[given].dev, self._read[given].test)
        return self._read[given]

    def files(self, config: Config) -> Files:
        """Hashes of all that a configuration reads.

        Raises:
            InputError: something is not there, or the backbone does not have the layers or the width of the keys.
        """
        corpus = self.of(config)
        tagger = corpus.train.sha256, corpus.dev.sha256, self._backbone(config)
        return Files(tagger, self._remembered(config), corpus.test.sha256)

    def check_remembered(self, config: Config, split: Split) -> None:
        """Raises InputError where a datastore would remember another text than that by which it is known."""
        known = self._remembered(config)
        if known and known != (split.sha256,):
            raise InputError(f"datastore.corpus: {split.path}: changed since the study was planned; start again")

    def _remembered(self, config: Config) -> tuple[str, ...]:
        """Hash of the train file of `datastore.corpus`, where there is one."""
        other, data = config.datastore.corpus, config.data
        if other is None:
            return ()
        given = other, data.scheme, data.on_error
        if given not in self._others:
            self._others[given] = opening.read_other(config).sha256
        return (self._others[given],)

    def _backbone(self, config: Config) -> str:
        """Hash of the files of a backbone, or of the vocabulary of one from scratch; the keys wanted must be its."""
        name, scratch = config.model.backbone, config.model.scratch
        if (name, scratch) not in self._backbones:
            encoder = pretrained.backbone_of(config.model).config
            path = resolve_path(scratch.vocab) if name == "scratch" else pretrained.locate(name)
            files = [[file.name, _sha256(file)] for file in ([path] if path.is_file() else _files(path))]
            files += [[f"{PINYIN_FOLDER}/{file.name}", _sha256(file)] for file in _files(path / PINYIN_FOLDER)]
            self._backbones[name, scratch] = digest(files), encoder
        sha256, encoder = self._backbones[name, scratch]
        opening.check_keys(config, encoder)
        return sha256


def _files(folder: Path) -> list[Path]:
    """The files of a folder, if there is one, by name; folders inside are none of them."""
    return sorted(path for path in folder.glob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
