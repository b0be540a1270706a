"""A corpus: the train, dev and test files of one folder, read under one tag scheme into sentences of words and IOB2 tags.

What is wrong with a line is an error that names it; what can be read all the same (tags that the scheme forbids, lines of
another width, comments) is counted and reported.
"""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import columns, readers, tables, tag_schemes
from knn_ner_jax.data.formats import detection
from knn_ner_jax.data.readers import DataError, RawSplit
from knn_ner_jax.data.tag_schemes import Sentence
from knn_ner_jax.io import resolve_path

logger = logging.getLogger(__name__)

# What files of a split are called. Where a folder has a testa, that is the dev of its testb.
SPLIT_NAMES = {
    "train": ("train",),
    "dev": ("dev", "devel", "valid", "validation", "val", "testa"),
    "test": ("test", "testb"),
}
# Where a folder has none of these.
LONG_NAMES = {"train": ("training",), "dev": ("development",), "test": ("testing",)}
_OTHER_SHARD = re.compile(r"-(?!00000)\d{5}-of-\d{5}\b")
RECORDS = (".json", ".jsonl")
# The fields of `data` that decide which words and tags are read from a file.
READING = ("format", "columns", "scheme", "bare_type", "tag_names", "token_prefix", "cut_spans")
AS_IT_IS = DataConfig("")  # how files are read of which nothing is said
_NO_CORPUS = (
    ".md", ".rst", ".pdf", ".png", ".log", ".stats", ".yaml", ".yml", ".py", ".ipynb", ".sh",
    ".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz",
)  # fmt: skip
MAX_LISTED = 5  # examples that a warning lists before it only counts


@dataclass(frozen=True)
class Split:
    """One file of a corpus.

    Attributes:
        path: the file.
        sentences: its sentences, in file order.
        illegal_tags: `file:line: tag` of every tag that breaks the scheme and was read as `O`.
        skipped: number of lines left out or read otherwise than they stand there, by reason (`comment`, `-DOCSTART-`).
        sha256: hash of the file's bytes; of the words and tags where it is a split of the hub.
        ragged_lines: `file:line: columns` of every line with another number of columns than the first line of the file, as
            two lines that ran together have.
    """

    path: Path
    sentences: tuple[Sentence, ...]
    illegal_tags: tuple[str, ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)
    sha256: str = ""
    ragged_lines: tuple[str, ...] = ()

    @property
    def num_words(self) -> int:
        """Number of words in all sentences."""
        return sum(len(sentence.words) for sentence in self.sentences)

    def draw(self, fraction: float, seed: int) -> tuple["Split", np.ndarray]:
        """Draw a fraction of the sentences at random; a smaller fraction is part of a larger one with the same seed.

        Args:
            fraction: of the sentences, in (0, 1]; at least one is drawn.
            seed: seed of the shuffle whose first sentences are taken.

        Returns:
            The split with these sentences alone, in the order of the file, and their numbers among all.
        """
        total = len(self.sentences)
        shuffled = np.random.default_rng(seed).permutation(total)
        numbers = np.sort(shuffled[: max(1, round(fraction * total))]).astype(np.int32)
        return replace(self, sentences=tuple(self.sentences[number] for number in numbers)), numbers


@dataclass(frozen=True)
class Corpus:
    """Train, dev and test of one folder, read under one tag scheme."""

    train: Split
    dev: Split
    test: Split
    scheme: str

    @property
    def splits(self) -> dict[str, Split]:
        """Train, dev and test by name."""
        return {"train": self.train, "dev": self.dev, "test": self.test}

    def draw(self, train_fraction: float, dev_fraction: float, seed: int) -> "Corpus":
        """Return the corpus with fractions of train and dev (see `Split.draw`); test is always whole."""
        return replace(self, train=self.train.draw(train_fraction, seed)[0], dev=self.dev.draw(dev_fraction, seed)[0])

    def label_set(self, protocol: str = "words") -> tag_schemes.LabelSet:
        """Return the label set of train: `O` and every prefix of every type in it."""
        return tag_schemes.LabelSet.of((sentence.tags for sentence in self.train.sentences), protocol)


def _split_candidates(folder: Path, split: str, split_names: Mapping[str, Sequence[str]] = SPLIT_NAMES) -> list[Path]:
    """Return the files (or folders) of a split: those whose name begins with its name; where none does, contains it."""

    def names(path: Path) -> list[str]:
        return [part for part in re.split(r"[^a-z0-9]+", path.name.lower()) if part]

    def is_split(path: Path, parts: list[str]) -> bool:
        of = [name for name, others in split_names.items() if set(others) & set(parts)]
        return of == [split]

    listed = sorted(folder.iterdir())
    entries = [path for path in listed if not path.name.startswith(".") and not _OTHER_SHARD.search(path.name)]
    files = [path for path in entries if path.is_file() and path.suffix.lower() not in _NO_CORPUS]
    begins = [path for path in files if is_split(path, re.split(r"[.]|-\d{5}-of-", path.name.lower())[:1])]
    contains = [path for path in files if is_split(path, names(path))]
    folders = [path for path in entries if path.is_dir() and path.name.lower() in split_names[split] and any(path.iterdir())]
    return begins or contains or folders


def find_split(folder: Path, split: str, setting: str = "data.dir") -> Path:
    """Return the one file of a split in a folder, or the first of its shards, or its folder.

    `train.*`, `dev.*` and `test.*`, or as `SPLIT_NAMES` has it; where no file begins so, the one file with such a part in
    its name (`eng.testa`, `en_ewt-ud-dev.iob2`), or the folder of such a name. Below `hub:OWNER/NAME[/CONFIG]` every split
    has a path, whether or not there is such a split.

    Raises:
        DataError: the folder is missing, or holds none or several; the message names the setting that gave the folder.
    """
    if tables.is_hub(folder):
        return folder / split
    if not folder.is_dir():
        raise DataError(f"{setting}: expected a folder, got {folder}")
    candidates = _split_candidates(folder, split) or _split_candidates(folder, split, LONG_NAMES)
    if len(candidates) != 1:
        names = ", ".join(path.name for path in candidates or sorted(folder.iterdir())) or "nothing"
        actual = f"found {names}" if candidates else f"found none among {names}"
        expected = " or ".join(f"{name}.*" for name in SPLIT_NAMES[split])
        raise DataError(f"{setting}: {folder}: expected exactly one {expected}, {actual}")
    return candidates[0]


def find_splits(folder: Path) -> dict[str, Path]:
    """Return the file of each split (see `find_split`)."""
    return {split: find_split(folder, split) for split in SPLIT_NAMES}


def reading(data: DataConfig) -> dict[str, Any]:
    """Return how files are read, by field of `data`."""
    return {name: getattr(data, name) for name in READING}


def has_columns(path: Path) -> bool:
    """Return whether a file is read as columns: no records (`.jsonl`, `.json`), no table (`.parquet`, a folder, hub)."""
    return not (tables.is_hub(path) or path.is_dir() or path.suffix in (*RECORDS, ".parquet"))


def parse(path: Path, data: DataConfig = AS_IT_IS) -> RawSplit:
    """Read a file in the format that `data.format` names or its content shows, otherwise by its ending (see `has_columns`).

    A path below `hub:` is a split of a dataset on the hub.

    Raises:
        DataError: there is no such file, or it is not what its ending says.
    """
    name = data.format
    if name == "auto" and not data.columns and not tables.is_hub(path):
        name = detection.detect(path) or name
    if name in detection.FORMATS:
        raw = detection.read(path, name, data.cut_spans)
    elif name != "auto":
        raise DataError(f"data.format: expected auto or one of {', '.join(detection.FORMATS)}, got {name}")
    elif tables.is_hub(path):
        raw = tables.parse_hub(path, SPLIT_NAMES[path.name], data)
    elif has_columns(path):
        raw = columns.parse_columns(path, data)
    elif path.suffix in RECORDS:
        raw = readers.parse_json(path, data)
    else:
        raw = tables.parse_parquet(path, data)
    return raw.finish(data)


def parse_all(
    paths: Mapping[str, Path], data: DataConfig, earlier: Mapping[str, RawSplit] | None = None
) -> dict[str, RawSplit]:
    """Read files of one corpus (see `parse`), after `earlier` ones; the columns of the first are read in all."""
    files = dict(earlier or {})
    for name, path in paths.items():
        seen = next((raw.columns for raw in files.values() if raw.columns), None) if has_columns(path) else None
        files[name] = parse(path, replace(data, columns=data.columns or seen))
    return files


def invalid_prefixes(raw: RawSplit, scheme: str) -> list[str]:
    """Return `file:line: what was found and what was expected` of every tag whose prefix the scheme does not have."""
    prefixes = tag_schemes.PREFIXES[scheme]
    expected = f"O or a prefix of {scheme} ({', '.join(prefixes)})"
    invalid = [row for row in raw.rows if row.tag != tag_schemes.OUTSIDE and row.tag[0] not in prefixes]
    return [f"{raw.path}:{row.line}: found {row.tag}, expected {expected}" for row in invalid]


def to_split(raw: RawSplit, scheme: str) -> Split:
    """Read the tags of a file under a scheme that has all their prefixes."""
    sentences, illegal = [], []
    for rows in raw.sentences:
        tags = tag_schemes.to_iob2([row.tag for row in rows], scheme)
        sentences.append(Sentence(tuple(row.word for row in rows), tags.iob2, rows[0].line))
        illegal += [f"{raw.path}:{rows[i].line}: {rows[i].tag}" for i in tags.illegal]
    rows = list(raw.rows)
    ragged = (f"{raw.path}:{row.line}: {row.columns}" for row in rows if row.columns != rows[0].columns)
    return Split(raw.path, tuple(sentences), tuple(illegal), raw.skipped, raw.sha256, tuple(ragged))


def _fail_on(problems: Sequence[str], on_error: str) -> None:
    if not problems:
        return
    listed = problems if on_error == "report" else problems[:1]
    more = len(problems) - len(listed)
    note = f"\n({more} more; data.on_error: report lists them all)" if more else ""
    raise DataError("\n".join(listed) + note)


def read_splits(paths: dict[str, Path], data: DataConfig = AS_IT_IS) -> tuple[dict[str, Split], str]:
    """Read files of one corpus (see `parse`).

    Args:
        paths: the file of each split, by its name.
        data: how they are read; `data.dir` is not looked at.

    Returns:
        The splits by name, tags in IOB2, and the scheme they were read under.

    Raises:
        DataError: a bad line, a prefix that the scheme does not have, an empty split, or a file that is not what its ending
            says.
    """
    files, on_error = parse_all(paths, data), data.on_error
    scheme: str = data.scheme
    _fail_on([line for raw in files.values() for line in raw.bad_lines], on_error)
    _fail_on(
        [f"{path}: expected sentences, found none" for name, path in paths.items() if not files[name].sentences], on_error
    )
    if scheme == "auto":
        scheme = tag_schemes.detect_scheme([tags for raw in files.values() for tags in raw.tags])
    _fail_on([tag for raw in files.values() for tag in invalid_prefixes(raw, scheme)], on_error)
    read = next((raw.columns for raw in files.values() if raw.columns), None)
    if read not in (None, {"token": 1, "tag": -1}, data.columns):
        logger.info("data.columns: read as %s", ", ".join(f"{name} {number}" for name, number in (read or {}).items()))
    splits = {name: to_split(raw, scheme) for name, raw in files.items()}
    for split in splits.values():
        _report(split, scheme)
    return splits, scheme


def _report(split: Split, scheme: str) -> None:
    if split.skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(split.skipped.items()))
        logger.info("%s: left out, or read otherwise: %s", split.path, counts)
    _warn(f"tags break {scheme} and are read as O", split.illegal_tags)
    _warn("lines have another number of columns than the first of their file", split.ragged_lines)


def _warn(what: str, places: Sequence[str]) -> None:
    if places:
        listed = "\n  ".join(places[:MAX_LISTED])
        rest = "\n  and so on: knn-ner check DIR --json lists them all" if len(places) > MAX_LISTED else ""
        logger.warning("%d %s:\n  %s%s", len(places), what, listed, rest)


def read_corpus(data: DataConfig) -> Corpus:
    """Read the three splits of `data.dir` (see `find_split` and `read_splits`)."""
    splits, scheme = read_splits(find_splits(resolve_path(data.dir)), data)
    return Corpus(splits["train"], splits["dev"], splits["test"], scheme)


def read_train(folder: str, data: DataConfig, setting: str) -> Split:
    """Read the train file of a folder alone, as `data` says; `setting` is what names the folder, for errors."""
    path = find_split(resolve_path(folder), "train", setting)
    return read_splits({"train": path}, data)[0]["train"]


def check_dev(dev: Split, test: Split) -> None:
    """Raise DataError where nothing can be chosen on dev: it is a copy of test, in any order, or has no entity."""
    if Counter(sentence[:2] for sentence in dev.sentences) == Counter(sentence[:2] for sentence in test.sentences):
        raise DataError(
            f"{dev.path} and {test.path} hold the same sentences; settings chosen on dev would be chosen on test"
        )
    if not any(tag != tag_schemes.OUTSIDE for sentence in dev.sentences for tag in sentence.tags):
        raise DataError(
            f"{dev.path}: expected at least one entity, because dev chooses the settings, found none in "
            f"{len(dev.sentences)} sentences; knn.selection: published, or one value each of k, temperature and knn_weight, "
            "chooses nothing"
        )


def check_types(
    splits: Sequence[Split], label_set: tag_schemes.LabelSet, unseen_types: str, owner: str = "train"
) -> dict[str, int]:
    """Count the entities whose type is not in `label_set`.

    Args:
        splits: splits with gold labels.
        label_set: the labels that can be predicted.
        unseen_types: `error` refuses such types; `miss` keeps them in the gold, where they count as missed.
        owner: where `label_set` comes from, for the message.

    Returns:
        Entities by unknown type; empty when there are none.

    Raises:
        DataError: there are such types and `unseen_types` is `error`.
    """
    tags = itertools.chain.from_iterable(sentence.tags for split in splits for sentence in split.sentences)
    counts = Counter(tag_schemes.tag_type(tag) for tag in tags if tag.startswith("B-"))
    unseen = {type_: count for type_, count in sorted(counts.items()) if type_ not in label_set.types}
    if unseen and unseen_types == "error":
        listed = ", ".join(f"{type_} ({count} entities)" for type_, count in unseen.items())
        raise DataError(
            f"{' and '.join(split.path.stem for split in splits)} have types that {owner} does not have: {listed}; "
            f"expected only {', '.join(label_set.types)}. "
            "data.unseen_types: miss keeps them and counts them as missed"
        )
    return unseen
