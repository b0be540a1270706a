"""Files -> splits: which file is read how, under which scheme, and what is refused."""

import hashlib
import itertools
import logging
import re
from pathlib import Path

import pytest
from helpers.reading import read, refused

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import corpus
from knn_ner_jax.data.corpus import DataError, Split
from knn_ner_jax.data.tag_schemes import LabelSet, Sentence
from knn_ner_jax.io import InputError


def test_a_report_lists_all_bad_lines_of_all_files(tmp_path: Path):
    paths = {name: tmp_path / f"{name}.txt" for name in ("train", "dev", "test")}
    paths["train"].write_text("bad\na O\nworse x\n")
    paths["dev"].write_text("a O\n")
    paths["test"].write_text("a O\n\nworst\n")
    with pytest.raises(DataError) as error:
        corpus.read_splits(paths, DataConfig("", on_error="report"))
    actual = re.findall(r"(\w+\.txt:\d+): found '([^']+)', expected a token", str(error.value))
    assert actual == [("train.txt:1", "bad"), ("train.txt:3", "worse x"), ("test.txt:3", "worst")]
    assert str(error.value).count("\n") == 2


def test_a_prefix_that_the_declared_scheme_lacks_is_refused(tmp_path: Path):
    text = "a B-X\nb E-X\n\nc S-X\n"
    expected = "expected O or a prefix of BIO (B, I)"
    assert refused(tmp_path, text, scheme="BIO", on_error="report").split("\n") == [
        f"train.conll:2: found E-X, {expected}",
        f"train.conll:4: found S-X, {expected}",
    ]
    assert refused(tmp_path, text, scheme="BIO").startswith(f"train.conll:2: found E-X, {expected}\n(1 more;")
    assert "found E-X, expected O or a prefix of IOB1 (B, I)" in refused(tmp_path, text, scheme="IOB1")
    assert [sentence.tags for sentence in read(tmp_path, text, scheme="BMES").sentences] == [("B-X", "I-X"), ("B-X",)]


def test_prefixes_of_two_schemes_are_refused_where_the_scheme_is_detected(tmp_path: Path):
    with pytest.raises(InputError, match="no scheme has all the tag prefixes B I M;"):
        read(tmp_path, "a B-X\nb I-X\n\nc M-X\n")


def test_one_scheme_is_detected_over_all_the_files(tmp_path: Path):
    paths = {name: tmp_path / f"{name}.txt" for name in ("train", "dev")}
    paths["train"].write_text("a B-X\nb E-X\n")
    paths["dev"].write_text("a B-X\nb I-X\n")
    splits, scheme = corpus.read_splits(paths)
    assert scheme == "BIOES"
    assert splits["dev"].illegal_tags == (f"{paths['dev']}:1: B-X", f"{paths['dev']}:2: I-X")


def test_illegal_tags_are_read_as_outside_and_listed_with_their_place(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        split = read(tmp_path, "a I-X\nb I-X\nc B-X\n\n# comment\nd O\ne I-Y\n", scheme="BIO")
    listed = [entry.replace(f"{tmp_path}/", "") for entry in split.illegal_tags]
    assert listed == ["train.conll:1: I-X", "train.conll:2: I-X", "train.conll:7: I-Y"]
    assert [sentence.tags for sentence in split.sentences] == [("O", "O", "B-X"), ("O", "O")]
    assert "3 tags break BIO and are read as O" in caplog.text
    assert all(entry in caplog.text for entry in split.illegal_tags)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "-DOCSTART- O\n\n", "\ufeff"])
def test_a_file_without_sentences_is_refused(tmp_path: Path, text: str):
    assert refused(tmp_path, text) == "train.conll: expected sentences, found none"


def test_the_hash_is_of_the_files_bytes(tmp_path: Path):
    content = "\ufeffa\tO\r\n".encode()
    assert read(tmp_path, content).sha256 == hashlib.sha256(content).hexdigest()


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_text("a B-X\n")
    return folder


DEV = "dev.* or devel.* or valid.* or validation.* or val.* or testa.*"


@pytest.mark.parametrize("dev", ["dev.conll", "valid.txt", "dev", "valid.iob2.txt"])
def test_the_three_splits_of_a_folder(tmp_path: Path, dev: str):
    fill(tmp_path, "train.bio", dev, "test.txt", "README.md", "training.txt", "developers.txt", ".train.swp")
    (tmp_path / "train").mkdir()
    actual = corpus.find_splits(tmp_path)
    assert actual == {"train": tmp_path / "train.bio", "dev": tmp_path / dev, "test": tmp_path / "test.txt"}
    splits = corpus.read_corpus(DataConfig(str(tmp_path))).splits
    assert [splits[name].path for name in ("train", "dev", "test")] == list(actual.values())
    assert corpus.read_corpus(DataConfig(str(tmp_path))).label_set() == LabelSet(("X",))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dev.txt", "test.txt"], "expected exactly one train.*, found none among dev.txt, test.txt"),
        (["train.txt", "train.conll", "dev.txt", "test.txt"], "expected exactly one train.*, found train.conll, train.txt"),
        (["train.txt", "test.txt"], f"expected exactly one {DEV}, found none among test.txt, train.txt"),
        (
            ["train.txt", "dev.txt", "valid.txt", "test.txt"],
            f"expected exactly one {DEV}, found dev.txt, valid.txt",
        ),
        (["train.txt", "dev.txt"], "expected exactly one test.* or testb.*, found none among dev.txt, train.txt"),
    ],
)
def test_none_or_several_files_of_a_split_are_refused(tmp_path: Path, names: list[str], message: str):
    with pytest.raises(DataError) as error:
        corpus.find_splits(fill(tmp_path, *names))
    assert str(error.value) == f"data.dir: {tmp_path}: {message}"


def test_a_missing_folder_is_named_with_the_setting_that_gave_it(tmp_path: Path):
    with pytest.raises(DataError) as error:
        corpus.read_corpus(DataConfig(str(tmp_path / "none")))
    assert str(error.value) == f"data.dir: expected a folder, got {tmp_path}/none"
    with pytest.raises(DataError) as error:
        corpus.find_split(tmp_path / "none", "train", "datastore.corpus")
    assert str(error.value) == f"datastore.corpus: expected a folder, got {tmp_path}/none"
    with pytest.raises(DataError) as error:
        corpus.find_split(tmp_path, "train", "datastore.corpus")
    assert str(error.value) == f"datastore.corpus: {tmp_path}: expected exactly one train.*, found none among nothing"


def test_types_that_train_lacks_are_refused_or_counted(tmp_path: Path):
    dev = read(tmp_path, "a B-X\nb I-X\nc B-Z\nd I-Z\ne B-Z\n")
    test = read(tmp_path, "a B-Z\nb B-Y\n")
    known = LabelSet(("W", "X"))
    with pytest.raises(DataError) as error:
        corpus.check_types([dev, test], known, "error")
    assert "Y (1 entities), Z (3 entities); expected only W, X." in str(error.value)
    assert "data.unseen_types: miss" in str(error.value)
    assert corpus.check_types([dev, test], known, "miss") == {"Y": 1, "Z": 3}
    assert corpus.check_types([dev, test], LabelSet(("X", "Y", "Z")), "error") == {}


def test_a_smaller_fraction_is_part_of_a_larger_one_and_keeps_the_order_of_the_file():
    sentences = tuple(Sentence((str(number),), ("O",), number + 1) for number in range(40))
    split = Split(Path("train.conll"), sentences, sha256="same")
    subsets = {fraction: split.draw(fraction, seed=3) for fraction in (0.01, 0.1, 0.5, 1.0)}
    assert {fraction: len(subset.sentences) for fraction, (subset, _) in subsets.items()} == {
        0.01: 1,
        0.1: 4,
        0.5: 20,
        1.0: 40,
    }
    numbers = [numbers.tolist() for _, numbers in subsets.values()]
    assert all(set(smaller) < set(larger) for smaller, larger in itertools.pairwise(numbers))
    assert all(sorted(drawn_numbers) == drawn_numbers for drawn_numbers in numbers)
    assert numbers[-1] == list(range(40))
    assert subsets[0.5][0].sentences == tuple(sentences[number] for number in numbers[2])
    assert subsets[0.5][0].sha256 == "same"
    assert split.draw(0.5, seed=4)[1].tolist() != numbers[2]


def lone_inside_tags(path: Path) -> int:
    """IOB2 tags I-X that nothing of type X precedes, directly or through such tags: the illegal ones."""
    illegal, before = 0, "O"
    for line in path.read_text(encoding="utf-8").split("\n"):
        tag = line.rpartition("\t")[2] if line else "O"
        if tag.startswith("I-") and before[2:] != tag[2:]:
            illegal, tag = illegal + 1, "O"
        before = tag
    return illegal


# Sentences, entities and illegal tags of train, dev and test. Entities are strict spans. In Weibo 24 and 15 tags I-X follow
# no B-X; they are no entities here, as they are none in the published counts.
PUBLISHED = {
    "weibo": ([1350, 270, 270], [1885, 389, 414], [24, 0, 15], 8),
    "bc5cdr": ([4560, 4581, 4797], [9385, 9593, 9809], [0, 0, 0], 2),
    "wnut17": ([3394, 1009, 1287], [1975, 836, 1079], [0, 0, 0], 6),
    "crossner-politics": ([200, 541, 651], [1304, 3482, 4209], [0, 0, 0], 9),
    "crossner-science": ([200, 450, 543], [1075, 2538, 3089], [0, 0, 0], 17),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_corpora_have_their_published_counts(shared: Path, name: str):
    whole = corpus.read_corpus(DataConfig(str(shared / "data" / name)))
    splits = list(whole.splits.values())
    sentences, entities, illegal, types = PUBLISHED[name]
    assert whole.scheme == "BIO"
    assert [len(split.sentences) for split in splits] == sentences
    tags = [[tag for sentence in split.sentences for tag in sentence.tags] for split in splits]
    assert [sum(tag.startswith("B-") for tag in of_split) for of_split in tags] == entities
    assert [len(split.illegal_tags) for split in splits] == illegal
    assert [lone_inside_tags(split.path) for split in splits] == illegal
    assert len(whole.label_set().types) == types
    assert not any(split.skipped for split in splits)
