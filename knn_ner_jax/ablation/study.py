"""What an ablation is made of: cells, each a configuration and a seed, and which of them share a tagger or its neighbours.

Some axes are *conditions*: questions of their own, such as a share of the training data, each reported on test. Others are
*choices*, such as the layer that makes a key, among which dev chooses for every condition.

What the cells of a study read: corpora and backbones, each opened once.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from knn_ner_jax import cli
from knn_ner_jax.config import Axis, Config, DistributedConfig, ScratchConfig, StudyConfig, as_list, flatten
from knn_ner_jax.contrib import adaptive
from knn_ner_jax.data.corpus import Corpus, Split, read_corpus
from knn_ner_jax.evaluation import tuning
from knn_ner_jax.io import InputError, file_sha256, resolve_path
from knn_ner_jax.knn.examples import check_keys, read_datastore_corpus
from knn_ner_jax.models import pretrained
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.hf_checkpoint import PINYIN_FOLDER
from knn_ner_jax.run_dir import TRAINING_FIELDS, config_to_dict, relevant_fields

Values = dict[str, Any]  # field of a configuration -> its value in a cell

VERSION = 1  # names datastores and results: another one where keys, search, vote or scores come out otherwise
# What keys and results depend on; the other fields of these sections say how they are computed.
KEYS_FIELDS = tuple(
    f"datastore.{name}" for name in ("corpus", "fraction", "subwords", "include_o", "layers", "whitening_dim", "key_dtype")
)
RESULT_FIELDS = tuple(f"knn.{name}" for name in ("k", "temperature", "knn_weight", "selection", "published."))

# What decides no result that there is: what a folder is called, whose files are hashed, and what is logged or refused.
IGNORED_FIELDS = ("data.dir", "data.on_error", "data.unseen_types", "train.log_every", "train.save_every")


def digest(*parts: object) -> str:
    """A short name for whatever can be written as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class Files(NamedTuple):
    """Hashes of what a configuration reads, by what depends on them.

    Attributes:
        tagger: train, dev, and the backbone it starts from.
        keys: what a datastore remembers that is not of train.
        test: the test split.
    """

    tagger: tuple[str, ...]
    keys: tuple[str, ...]
    test: str


@dataclass(frozen=True)
class Cell:
    """One configuration with one seed.

    Attributes:
        config: `run_dir` is the folder of its tagger, which other cells may share.
        condition: fields that make it a question of its own.
        candidate: fields that dev chooses.
        folder: of its datastore and nothing else; other cells may share it.
        keys_key: name of its tagger, its datastore and the metric; cells that share it search once.
        key: name of all that its results on dev depend on.
        test_key: of all that its results on test depend on.
        learned_key: of all that learned mixing depends on, which cells with other weights may share.
        learned_test_key: of all that learned mixing depends on and the test file.
    """

    config: Config
    condition: Values
    candidate: Values
    folder: Path
    keys_key: str
    key: str
    test_key: str
    learned_key: str
    learned_test_key: str


def describe(cell: Cell) -> str:
    """`seed 0, data.train_fraction 0.05`."""
    return ", ".join([f"seed {cell.config.seed}", *(f"{k} {v}" for k, v in (cell.condition | cell.candidate).items())])


@dataclass(frozen=True)
class Study:
    """All cells, in the order in which they are computed.

    Attributes:
        folder: receives everything.
        config: what was given.
        cells: of all conditions, seeds and choices.
    """

    folder: Path
    config: StudyConfig
    cells: tuple[Cell, ...]

    def by_keys(self, cells: Iterable[Cell]) -> list[list[Cell]]:
        """Cells in groups that search once; groups that share a datastore follow each other."""
        by_datastore: dict[Path, dict[str, list[Cell]]] = {}
        for cell in cells:
            by_datastore.setdefault(cell.folder, {}).setdefault(cell.keys_key, []).append(cell)
        return [group for groups in by_datastore.values() for group in groups.values()]

    @property
    def conditions(self) -> list[Values]:
        """All, in order."""
        return _crossed(self.config.ablation.conditions)

    @property
    def candidates(self) -> list[Values]:
        """All, in order; the first is the reference."""
        return _crossed(self.config.ablation.candidates)

    def seeds_of(self, condition: Values, choice: Values) -> list[Cell]:
        """The cells of one configuration, by seed."""
        return [cell for cell in self.cells if cell.condition == condition and cell.candidate == choice]


def _crossed(axes: Sequence[Axis]) -> list[Values]:
    """Every combination of the places of all axes."""
    zipped = [[dict(zip(axis, values, strict=True)) for values in zip(*axis.values(), strict=True)] for axis in axes]
    return [{name: value for place in places for name, value in place.items()} for places in itertools.product(*zipped)]


def _refuse_twice(name: str, combinations: Sequence[Values]) -> None:
    """One combination twice would pass for more seeds than there are."""
    twice = [values for number, values in enumerate(combinations) if values in combinations[:number]]
    if twice:
        raise InputError(f"{name}: expected every combination once, got {twice[0]} again")


def _with_values(base: Mapping[str, Any], values: Values, seed: int) -> Config:
    nested: dict[str, Any] = json.loads(json.dumps(base).replace("{seed}", str(seed)))
    for dotted, value in (values | {"seed": seed}).items():
        *sections, last = dotted.split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise InputError(f"ablation: {dotted}: no such field")
        section[last] = value.replace("{seed}", str(seed)) if isinstance(value, str) else value
    return cli.build_config(nested)


def _with_fraction(config: Config) -> Config:
    """Says which share a datastore has even where it is the default, so that equal datastores are seen to be equal."""
    store = config.datastore
    own = config.data.train_fraction if store.corpus is None else 1.0
    return replace(config, datastore=replace(store, fraction=store.fraction or own))


def _fields(config: Config, prefixes: Sequence[str]) -> dict[str, Any]:
    """The fields under some prefixes that decide a result."""
    decisive = relevant_fields(flatten(config_to_dict(config)), prefixes)
    return {name: value for name, value in decisive.items() if name not in IGNORED_FIELDS}


def _refuse_fixed(config: StudyConfig) -> None:
    """A value that the study would not use must not seem to be used."""
    for name, default in (("eval_dir", None), ("distributed", DistributedConfig())):
        if (value := getattr(config, name)) != default:
            raise InputError(f"{name}: expected none, a study has its own, got {value}")


def _refuse_another_test(tests: dict[str, tuple[str, int]], test: str, condition: Values, seed: int) -> None:
    """Seeds are compared sentence by sentence; `tests` has the test file of each condition and the seed that has it."""
    known, first = tests.setdefault(str(condition), (test, seed))
    if test != known:
        said = ", ".join(f"{name} {value}" for name, value in condition.items()) or "as configured"
        raise InputError(f"data.dir: {said}: expected one test file for all seeds, got others for seeds {first} and {seed}")


def _named(given: Config, condition: Values, choice: Values, files: Files, folder: Path, taggers: Path) -> Cell:
    """A cell with the names of what it shares and of its results."""
    tagger = digest(_fields(given, TRAINING_FIELDS), files.tagger)
    made_of = _fields(given, KEYS_FIELDS) | {"version": VERSION}
    keys = digest(tagger, made_of, given.knn.metric, files.keys)
    results = digest(keys, _fields(given, RESULT_FIELDS))
    learned = digest(keys, asdict(adaptive.settings_for(given.knn)), adaptive.VERSION)
    return Cell(
        config=replace(given, run_dir=str(taggers / tagger)),
        condition=condition,
        candidate=choice,
        folder=folder / "datastores" / digest(tagger, made_of, files.keys),
        keys_key=keys,
        key=results,
        test_key=digest(results, files.test),
        learned_key=learned,
        learned_test_key=digest(learned, files.test),
    )


def plan(config: StudyConfig, files_of: Callable[[Config], Files]) -> Study:
    """Lays out the cells of a study: seeds outermost, so that a first complete picture comes early.

    Args:
        config: of the study; `run_dir` is its folder, `{seed}` in a text stands for the seed of a cell.
        files_of: tells the files of a cell.

    Raises:
        InputError: an axis has a field or a value that no configuration may have, a combination stands twice, a cell has
            several metrics or labels pieces, a value is given that every study has of its own, or the seeds of a condition
            have different test files.
    """
    _refuse_fixed(config)
    folder, ablation = Path(config.run_dir), config.ablation
    base = {name: value for name, value in config_to_dict(config).items() if name != "ablation"}
    _refuse_twice("ablation.conditions", _crossed(ablation.conditions))
    _refuse_twice("ablation.candidates", _crossed(ablation.candidates))
    cells: list[Cell] = []
    tests: dict[str, tuple[str, int]] = {}
    for seed, condition, choice in itertools.product(
        ablation.seeds, _crossed(ablation.conditions), _crossed(ablation.candidates)
    ):
        given = _with_fraction(_with_values(base, condition | choice, seed))
        if given.protocol != "words":
            raise InputError(f"protocol: expected words in an ablation, got {given.protocol}")
        if len(as_list(given.knn.metric)) > 1:
            raise InputError(f"knn.metric: expected one; several are an axis of an ablation, got {given.knn.metric}")
        files = files_of(given)
        _refuse_another_test(tests, files.test, condition, seed)
        cell = _named(given, condition, choice, files, folder, Path(ablation.taggers or folder / "taggers"))
        cells.append(cell)
    return Study(folder, config, tuple(cells))


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
            self._others[given] = read_datastore_corpus(config).sha256
        return (self._others[given],)

    def _backbone(self, config: Config) -> str:
        """Hash of the files of a backbone, or of the vocabulary of one from scratch; the keys wanted must be its."""
        name, scratch = config.model.backbone, config.model.scratch
        if (name, scratch) not in self._backbones:
            encoder = pretrained.backbone_of(config.model).config
            path = resolve_path(scratch.vocab) if name == "scratch" else pretrained.locate(name)
            files = [[file.name, file_sha256(file)] for file in ([path] if path.is_file() else _files(path))]
            files += [[f"{PINYIN_FOLDER}/{file.name}", file_sha256(file)] for file in _files(path / PINYIN_FOLDER)]
            self._backbones[name, scratch] = digest(files), encoder
        sha256, encoder = self._backbones[name, scratch]
        check_keys(config, encoder)
        return sha256


def _files(folder: Path) -> list[Path]:
    """The files of a folder, if there is one, by name; folders inside are none of them."""
    return sorted(path for path in folder.glob("*") if path.is_file())
