"""What a study consists of: cells, each a configuration and a seed, some of which share a tagger or a search.

Some axes are *conditions*: questions of their own, such as a fraction of the training data, each reported on test. Others
are *candidates*, such as the layer that makes a key, of which dev selects one for every condition.
"""

import hashlib
import importlib
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from knn_ner_jax import cli
from knn_ner_jax.ablation.config import AblationConfig, Axis, StudyConfig
from knn_ner_jax.config import Config, DistributedConfig, KnnConfig, as_list, flatten
from knn_ner_jax.contrib.combiner import Combiner
from knn_ner_jax.io import InputError
from knn_ner_jax.run_dir import TRAINING_FIELDS, config_to_dict, relevant_fields

Values = dict[str, Any]  # field of a configuration -> its value in a cell

VERSION = (
    1  # part of the names of datastores and results; changed whenever keys, search, vote or scores are computed otherwise
)
# What keys and results depend on; the other fields of these sections decide how fast they are computed.
KEYS_FIELDS = tuple(
    f"datastore.{name}" for name in ("corpus", "fraction", "subwords", "include_o", "layers", "whitening_dim", "key_dtype")
)
RESULT_FIELDS = tuple(f"knn.{name}" for name in ("k", "temperature", "knn_weight", "selection", "published."))

# Fields that decide no result: the name of a folder, whose files are hashed, and what is logged or refused.
IGNORED_FIELDS = ("data.dir", "data.on_error", "data.unseen_types", "train.log_every", "train.save_every")

COMBINER_MEMBERS = ("name", "settings", "k", "needs_train", "fit")  # of `contrib.combiner.Combiner`


def digest(*parts: object) -> str:
    """Return a short name for whatever can be written as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class Files(NamedTuple):
    """Hashes of what a configuration reads, by what depends on them.

    Attributes:
        tagger: train, dev, and the backbone it starts from.
        keys: the text of a datastore that is not built from train.
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
        candidate: fields that dev selects.
        folder: of its datastore and nothing else; other cells may share it.
        search_id: name of its tagger, its datastore and the metric; cells that share it search once.
        dev_id: name of all that its results on dev depend on.
        test_id: of all that its results on test depend on.
        combiner_id: of all that the combiner's results on dev depend on, which cells with other weights may share.
        combiner_test_id: of all that they depend on on test.
    """

    config: Config
    condition: Values
    candidate: Values
    folder: Path
    search_id: str
    dev_id: str
    test_id: str
    combiner_id: str
    combiner_test_id: str


def describe(values: Values) -> str:
    """Return fields and their values in words; null, which leaves a field to its default, as `default`.

    >>> describe({"data.train_fraction": 0.05, "datastore.fraction": None})
    'data.train_fraction 0.05, datastore.fraction default'
    """
    return ", ".join(f"{name} {describe_value(value)}" for name, value in values.items()) or "as configured"


def describe_value(value: Any) -> str:
    """Return a value as it is written in a configuration, except null."""
    return "default" if value is None else str(value)


@dataclass(frozen=True)
class Study:
    """All cells, in the order in which they are computed.

    Attributes:
        folder: receives everything.
        config: of the study.
        cells: of all conditions, seeds and candidates.
    """

    folder: Path
    config: StudyConfig
    cells: tuple[Cell, ...]

    def by_search(self, cells: Iterable[Cell]) -> list[list[Cell]]:
        """Return cells in groups that search once; groups that share a datastore follow each other."""
        by_datastore: dict[Path, dict[str, list[Cell]]] = {}
        for cell in cells:
            by_datastore.setdefault(cell.folder, {}).setdefault(cell.search_id, []).append(cell)
        return [group for groups in by_datastore.values() for group in groups.values()]

    @property
    def conditions(self) -> list[Values]:
        """All, in order."""
        return _crossed(self.config.ablation.conditions)

    @property
    def candidates(self) -> list[Values]:
        """All, in order; the first is the reference."""
        return _crossed(self.config.ablation.candidates)

    @property
    def combiner_name(self) -> str | None:
        """What reports call the combiner; None where there is none."""
        combiner = self.config.ablation.combiner
        return None if combiner is None else load_combiner(combiner, self.cells[0].config.knn).name

    def seeds_of(self, condition: Values, candidate: Values) -> list[Cell]:
        """Return the cells of one configuration, by seed."""
        return [cell for cell in self.cells if cell.condition == condition and cell.candidate == candidate]


def load_combiner(spec: str, knn: KnnConfig) -> Combiner:
    """Import a combiner's class and make one of the configuration's `knn` section.

    Args:
        spec: `module:ClassName`.
        knn: how neighbours are searched.

    Raises:
        InputError: the class cannot be imported or made, or lacks a member of `contrib.combiner.Combiner`.
    """
    module, _, name = spec.partition(":")
    if not (module and name):
        raise InputError(f"ablation.combiner: expected module:ClassName, got {spec}")
    try:
        if "" not in sys.path:  # a module of the folder one works in, which a console script does not look through
            sys.path.insert(0, "")
        combiner_class = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"ablation.combiner: expected a class that can be imported, got {spec}: {error}") from error
    try:
        combiner = combiner_class(knn)
    except TypeError as error:
        raise InputError(
            f"ablation.combiner: expected a class that is made of the knn section alone, got {spec}: {error}"
        ) from error
    if lacking := [member for member in COMBINER_MEMBERS if not hasattr(combiner, member)]:
        members = ", ".join(COMBINER_MEMBERS)
        raise InputError(f"ablation.combiner: expected a class with {members}; {spec} lacks {', '.join(lacking)}")
    return combiner


def _crossed(axes: Sequence[Axis]) -> list[Values]:
    """Return every combination of the positions of all axes."""
    zipped = [[dict(zip(axis, values, strict=True)) for values in zip(*axis.values(), strict=True)] for axis in axes]
    return [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*zipped)]


def _refuse_repetition(name: str, combinations: Sequence[Values]) -> None:
    """Raise InputError for a combination that occurs twice, which would pass for more seeds than there are."""
    repeated = [values for number, values in enumerate(combinations) if values in combinations[:number]]
    if repeated:
        raise InputError(f"{name}: expected every combination once, got {repeated[0]} again")


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
    """Return a configuration that gives the fraction of its datastore even where it is the default, for names to agree."""
    store = config.datastore
    default = config.data.train_fraction if store.corpus is None else 1.0
    return replace(config, datastore=replace(store, fraction=store.fraction or default))


def _fields(config: Config, prefixes: Sequence[str]) -> dict[str, Any]:
    """Return the fields under some prefixes that decide a result."""
    relevant = relevant_fields(flatten(config_to_dict(config)), prefixes)
    return {name: value for name, value in relevant.items() if name not in IGNORED_FIELDS}


def _refuse_fixed(config: StudyConfig) -> None:
    """Raise InputError for a value that the study would not use."""
    for name, default in (("eval_dir", None), ("distributed", DistributedConfig())):
        if (value := getattr(config, name)) != default:
            raise InputError(f"{name}: expected none, a study has its own, got {value}")


def _refuse_another_test(tests: dict[str, tuple[str, int]], test: str, condition: Values, seed: int) -> None:
    """Raise InputError where seeds of a condition have several test files: they are compared sentence by sentence.

    Args:
        tests: of each condition seen before, its test file and the seed that has it; receives this one.
        test: hash of the file.
        condition: of a cell.
        seed: of the cell.
    """
    known, first = tests.setdefault(str(condition), (test, seed))
    if test != known:
        raise InputError(
            f"data.dir: {describe(condition)}: expected one test file for all seeds, got others for seeds {first} and {seed}"
        )


def _named(
    ablation: AblationConfig, config: Config, condition: Values, candidate: Values, files: Files, folder: Path
) -> Cell:
    """Return a cell with the names of what it shares and of its results; `folder` is the study's."""
    tagger = digest(_fields(config, TRAINING_FIELDS), files.tagger)
    datastore = _fields(config, KEYS_FIELDS) | {"version": VERSION}
    search_id = digest(tagger, datastore, config.knn.metric, files.keys)
    dev_id = digest(search_id, _fields(config, RESULT_FIELDS))
    combiner_id = ""
    if ablation.combiner is not None:
        settings = dict(load_combiner(ablation.combiner, config.knn).settings)
        combiner_id = digest(search_id, ablation.combiner, settings)
    return Cell(
        config=replace(config, run_dir=str(Path(ablation.taggers or folder / "taggers", tagger))),
        condition=condition,
        candidate=candidate,
        folder=folder / "datastores" / digest(tagger, datastore, files.keys),
        search_id=search_id,
        dev_id=dev_id,
        test_id=digest(dev_id, files.test),
        combiner_id=combiner_id,
        combiner_test_id=digest(combiner_id, files.test),
    )


def plan(config: StudyConfig, files_of: Callable[[Config], Files]) -> Study:
    """Lay out the cells of a study: seeds outermost, so that a first complete picture comes early.

    Args:
        config: of the study; `run_dir` is its folder, `{seed}` in a text stands for the seed of a cell.
        files_of: returns the files of a cell.

    Raises:
        InputError: an axis has a field or a value that no configuration may have, a combination occurs twice, a cell has
            several metrics or labels pieces, a field that every study sets itself is set, the combiner cannot be made, or
            the seeds of a condition have different test files.
    """
    _refuse_fixed(config)
    folder, ablation = Path(config.run_dir), config.ablation
    conditions, candidates = _crossed(ablation.conditions), _crossed(ablation.candidates)
    base = {name: value for name, value in config_to_dict(config).items() if name != "ablation"}
    _refuse_repetition("ablation.conditions", conditions)
    _refuse_repetition("ablation.candidates", candidates)
    cells: list[Cell] = []
    tests: dict[str, tuple[str, int]] = {}
    for seed, condition, candidate in itertools.product(ablation.seeds, conditions, candidates):
        of_cell = _with_fraction(_with_values(base, condition | candidate, seed))
        if of_cell.protocol != "words":
            raise InputError(f"protocol: expected words in an ablation, got {of_cell.protocol}")
        if len(as_list(of_cell.knn.metric)) > 1:
            raise InputError(f"knn.metric: expected one; several are an axis of an ablation, got {of_cell.knn.metric}")
        files = files_of(of_cell)
        _refuse_another_test(tests, files.test, condition, seed)
        cells.append(_named(ablation, of_cell, condition, candidate, files, folder))
    return Study(folder, config, tuple(cells))
