"""Column files -> sentences: what is read, what is skipped and counted, what is refused and how."""

import hashlib
import itertools
import logging
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from knn_ner_jax.data import corpus
from knn_ner_jax.data.corpus import DataError, Split
from knn_ner_jax.data.labels import LabelSet
from knn_ner_jax.errors import InputError


def read(tmp_path: Path, content: str | bytes, scheme: str = "auto", on_error: str = "raise") -> Split:
    path = tmp_path / "train.conll"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return corpus.read_splits({"train": path}, scheme, on_error)[0]["train"]


def refused(tmp_path: Path, content: str | bytes, scheme: str = "auto", on_error: str = "raise") -> str:
    with pytest.raises(DataError) as error:
        read(tmp_path, content, scheme, on_error)
    return str(error.value).replace(f"{tmp_path}/", "")


def words(split: Split) -> list[tuple[str, ...]]:
    return [sentence.words for sentence in split.sentences]


@pytest.mark.parametrize(
    "text",
    [
        "EU\tB-ORG\nrejects\tO\n\nLondon\tB-LOC\n",
        "EU B-ORG\nrejects O\n\nLondon B-LOC\n",
        "EU\tNNP\tB-NP\tB-ORG\nrejects\tVBZ\tB-VP\tO\n\nLondon\tNNP\tB-NP\tB-LOC\n",
        "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nLondon NNP B-NP B-LOC\n",
        "EU   B-ORG\n rejects  O\n\nLondon B-LOC\n",
        "EU \t B-ORG\nrejects\t O\n\nLondon\tB-LOC\n",
        "EU\tB-ORG\r\nrejects\tO\r\n\r\nLondon\tB-LOC\r\n",
        "\ufeffEU\tB-ORG\nrejects\tO\n\nLondon\tB-LOC\n",
        "EU\tB-ORG\nrejects\tO\n\nLondon\tB-LOC",
        "EU\tB-ORG \nrejects\tO\t\n\nLondon\tB-LOC\n",
        "EU\tB-ORG\nrejects\tO\n  \nLondon\tB-LOC\n\t\n",
        "EU\tB-ORG\nrejects\tO\n \t \r\nLondon\tB-LOC\n",
        "\n\n\nEU\tB-ORG\nrejects\tO\n\n\n\nLondon\tB-LOC\n\n\n\n",
        "EU\tS-ORG\nrejects\tO\n\nLondon\tS-LOC\n",
    ],
    ids=[
        "tabs",
        "spaces",
        "four columns, tabs",
        "four columns, spaces",
        "runs of spaces",
        "spaces around tabs",
        "CRLF",
        "BOM",
        "no last newline",
        "trailing blanks",
        "blank lines of spaces or a tab",
        "blank line of all three",
        "many blank lines",
        "another scheme",
    ],
)
def test_spellings_of_one_corpus(tmp_path: Path, text: str):
    split = read(tmp_path, text)
    assert words(split) == [("EU", "rejects"), ("London",)]
    assert [sentence.tags for sentence in split.sentences] == [("B-ORG", "O"), ("B-LOC",)]
    assert split.num_words == 3
    assert not split.skipped
    assert not split.illegal_tags


@pytest.mark.parametrize("separator", ["\t", " "])
@pytest.mark.parametrize(
    "word",
    [
        "New\u00a0York",
        "\u00a0",
        "\u3000",
        "\u3000a",
        "a\u3000",
        "a\u0085b",
        "\u2028",
        "a\u2029b",
        "a\x0cb",
        "\x1c",
        "\u200b",
    ],
)
def test_only_tabs_and_spaces_separate_and_only_newlines_end_a_line(tmp_path: Path, word: str, separator: str):
    split = read(tmp_path, f"{word}{separator}B-X\n{word}{separator}I-X\n\n{word}{separator}O\n")
    assert words(split) == [(word, word), (word,)]
    assert split.sentences[0].tags == ("B-X", "I-X")


def test_a_tab_separated_word_may_hold_a_space(tmp_path: Path):
    assert words(read(tmp_path, "1 1/2\tO\n")) == [("1 1/2",)]


@pytest.mark.parametrize("line", ["#\tO", "# O", "#\tNN\tO", "# NN B-X", "#\tB-X", "#tag O", "#tag\tO"])
def test_a_hash_that_a_tag_follows_is_a_word_wherever_it_stands(tmp_path: Path, line: str):
    split = read(tmp_path, f"{line}\na O\n{line}\n")
    assert [word.startswith("#") for word in words(split)[0]] == [True, False, True]
    assert not split.skipped


def test_comments_and_document_starts_are_counted(tmp_path: Path):
    text = "-DOCSTART- -X- -X- O\n\n# id 1\n#\n#\ttext\na O\n\n-DOCSTART-\tO\nb O\n-DOCSTART- O\nc O\n\n# the last line\n"
    split = read(tmp_path, text)
    assert words(split) == [("a",), ("b",), ("c",)]
    assert split.skipped == Counter({"-DOCSTART-": 3, "comment": 4})
    assert [sentence.line for sentence in split.sentences] == [6, 9, 11]


def test_every_line_is_a_word_or_counted_as_skipped_or_named_in_the_error(tmp_path: Path):
    rng = np.random.default_rng(0)
    pool = [
        "a O",
        "b\tB-X",
        "# comment",
        "#",
        "# O",
        "-DOCSTART- O",
        "a",
        "a X",
        "",
        " ",
        "\t",
        "#x",
        "\u3000",
        "\u00a0 O",
        "a\u2028b O",
    ]
    for _ in range(200):
        lines = [str(line) for line in rng.choice(pool, 12)] + ["", "end O"]
        message = ""
        try:
            split = read(tmp_path, "\n".join(lines), on_error="report")
        except DataError as error:
            message = str(error)
            named = {int(number) for number in re.findall(r"train\.conll:(\d+): found", message)}
            assert len(message.split("\n")) == len(named)
            lines = [line for number, line in enumerate(lines, start=1) if number not in named]
            split = read(tmp_path, "\n".join(lines))
        assert split.num_words + split.skipped.total() == sum(bool(line.strip(" \t")) for line in lines)


@pytest.mark.parametrize(
    "line",
    [
        "word",
        "word X-PER",
        "word b-PER",
        "word B-",
        "word B",
        "word O extra",
        "\tO",
        " \tO",
        "O",
        "a # comment",
        "-DOC O x",
        "#x",
        "\u3000",
    ],
)
def test_a_bad_line_is_refused_with_its_place_what_was_found_and_what_was_expected(tmp_path: Path, line: str):
    message = refused(tmp_path, f"a O\n\nb O\n{line}\nc O\n")
    assert message == f"train.conll:4: found {line!r}, expected a token, then a tag (O or B-TYPE)"


def test_a_comment_inside_a_sentence_is_a_bad_line(tmp_path: Path):
    assert refused(tmp_path, "a O\n# b c\n").startswith("train.conll:2: found '# b c', expected")


def test_the_first_of_several_bad_lines_is_named_and_the_rest_counted(tmp_path: Path):
    message = refused(tmp_path, "a O\nbad\na O\nworse x\nworst\n")
    first, note = message.split("\n")
    assert first.startswith("train.conll:2: found 'bad'")
    assert note == "(2 more; data.on_error: report lists them all)"


def test_a_report_lists_all_bad_lines_of_all_files(tmp_path: Path):
    paths = {name: tmp_path / f"{name}.txt" for name in ("train", "dev", "test")}
    paths["train"].write_text("bad\na O\nworse x\n")
    paths["dev"].write_text("a O\n")
    paths["test"].write_text("a O\n\nworst\n")
    with pytest.raises(DataError) as error:
        corpus.read_splits(paths, on_error="report")
    found = re.findall(r"(\w+\.txt:\d+): found '([^']+)', expected a token", str(error.value))
    assert found == [("train.txt:1", "bad"), ("train.txt:3", "worse x"), ("test.txt:3", "worst")]
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


def test_lines_with_another_number_of_columns_than_the_first_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        split = read(tmp_path, "-DOCSTART- O\n\nEU B-ORG\nrejects O German B-MISC\n\ncall NN O\n. O\n")
    listed = [entry.replace(f"{tmp_path}/", "") for entry in split.uneven_lines]
    assert listed == ["train.conll:4: 4", "train.conll:6: 3"]
    assert "2 lines have another number of columns than the first of their file" in caplog.text
    assert not read(tmp_path, "EU NN B-ORG\nrejects VB O\n").uneven_lines


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "-DOCSTART- O\n\n", "\ufeff"])
def test_a_file_without_sentences_is_refused(tmp_path: Path, text: str):
    assert refused(tmp_path, text) == "train.conll: expected sentences, found none"


@pytest.mark.parametrize(
    ("content", "line", "byte"),
    [
        (b"a\tO\n\n\xfcber\tO\n", 3, 0xFC),
        (b"\xff\tO\n", 1, 0xFF),
        (b"a\tO\nb\xc3", 2, 0xC3),
        (b"\xef\xbb\xbfa\tO\n\xfe\tO\n", 2, 0xFE),
    ],
    ids=["Latin-1", "first byte", "cut off", "after a BOM"],
)
def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path, content: bytes, line: int, byte: int):
    assert refused(tmp_path, content) == f"train.conll:{line}: found byte {byte:#x}, expected UTF-8 text"


def test_the_hash_is_of_the_files_bytes(tmp_path: Path):
    content = "\ufeffa\tO\r\n".encode()
    assert read(tmp_path, content).sha256 == hashlib.sha256(content).hexdigest()


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_text("a B-X\n")
    return folder


@pytest.mark.parametrize("dev", ["dev.conll", "valid.txt", "dev", "valid.iob2.txt"])
def test_the_three_splits_of_a_folder(tmp_path: Path, dev: str):
    fill(tmp_path, "train.bio", dev, "test.txt", "README.md", "training.txt", "devel.txt", ".train.swp")
    (tmp_path / "train").mkdir()
    found = corpus.find_splits(tmp_path)
    assert found == {"train": tmp_path / "train.bio", "dev": tmp_path / dev, "test": tmp_path / "test.txt"}
    read_corpus = corpus.read_corpus(str(tmp_path))
    assert [read_corpus.train.path, read_corpus.dev.path, read_corpus.test.path] == list(found.values())
    assert read_corpus.label_set() == LabelSet(("X",))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dev.txt", "test.txt"], "expected exactly one train.*, found none"),
        (["train.txt", "train.conll", "dev.txt", "test.txt"], "expected exactly one train.*, found train.conll, train.txt"),
        (["train.txt", "test.txt"], "expected exactly one dev.* or valid.*, found none"),
        (
            ["train.txt", "dev.txt", "valid.txt", "test.txt"],
            "expected exactly one dev.* or valid.*, found dev.txt, valid.txt",
        ),
        (["train.txt", "dev.txt"], "expected exactly one test.*, found none"),
    ],
)
def test_none_or_several_files_of_a_split_are_refused(tmp_path: Path, names: list[str], message: str):
    with pytest.raises(DataError) as error:
        corpus.find_splits(fill(tmp_path, *names))
    assert str(error.value) == f"data.dir: {tmp_path}: {message}"


def test_a_missing_folder_is_named_with_the_setting_that_gave_it(tmp_path: Path):
    with pytest.raises(DataError) as error:
        corpus.read_corpus(str(tmp_path / "none"))
    assert str(error.value) == f"data.dir: expected a folder, got {tmp_path}/none"
    with pytest.raises(DataError) as error:
        corpus.find_split(tmp_path / "none", "train", "datastore.corpus")
    assert str(error.value) == f"datastore.corpus: expected a folder, got {tmp_path}/none"
    with pytest.raises(DataError) as error:
        corpus.find_split(tmp_path, "train", "datastore.corpus")
    assert str(error.value) == f"datastore.corpus: {tmp_path}: expected exactly one train.*, found none"


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


def test_a_package_path_is_found_without_importing_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "package_that_fails_to_import"
    (package / "corpora" / "small").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    fill(package / "corpora" / "small", "train.txt", "dev.txt", "test.txt")
    monkeypatch.syspath_prepend(tmp_path)
    path = f"pip:{package.name}/corpora/small"
    assert corpus.resolve_path(path) == package / "corpora" / "small"
    assert corpus.resolve_path(f"pip:{package.name}") == package
    assert len(corpus.read_corpus(path).train.sentences) == 1
    assert package.name not in sys.modules
    with pytest.raises(InputError, match=f"^pip:{package.name}/nothing: the package {package.name} has no nothing$"):
        corpus.resolve_path(f"pip:{package.name}/nothing")


@pytest.mark.parametrize("package", ["no_such_package", "no_such_package.inner", "", ".", "math"])
def test_a_package_path_without_an_installed_package_is_refused(package: str):
    with pytest.raises(InputError) as error:
        corpus.resolve_path(f"pip:{package}/corpora")
    assert str(error.value) == f"pip:{package}/corpora: expected an installed package named {package!r}, found none"


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert corpus.resolve_path("~/corpora") == Path("/somewhere/corpora")
    assert corpus.resolve_path("corpora") == Path("corpora")


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
    "wnut17": ([3394, 1009, 1287], [1975, 836, 1079], [0, 0, 0], 6),
    "bc5cdr": ([4560, 4581, 4797], [9385, 9593, 9809], [0, 0, 0], 2),
    "weibo": ([1350, 270, 270], [1885, 389, 414], [24, 0, 15], 8),
    "crossner-politics": ([200, 541, 651], [1304, 3482, 4209], [0, 0, 0], 9),
    "crossner-science": ([200, 450, 543], [1075, 2538, 3089], [0, 0, 0], 17),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_corpora_have_their_published_counts(shared: Path, name: str):
    read_corpus = corpus.read_corpus(str(shared / "data" / name))
    splits = [read_corpus.train, read_corpus.dev, read_corpus.test]
    sentences, entities, illegal, types = PUBLISHED[name]
    assert read_corpus.scheme == "BIO"
    assert [len(split.sentences) for split in splits] == sentences
    tags = [[tag for sentence in split.sentences for tag in sentence.tags] for split in splits]
    assert [sum(tag.startswith("B-") for tag in of_split) for of_split in tags] == entities
    assert [len(split.illegal_tags) for split in splits] == illegal
    assert [lone_inside_tags(split.path) for split in splits] == illegal
    assert len(read_corpus.label_set().types) == types
    assert not any(split.skipped for split in splits)


@pytest.fixture(scope="module")
def quickstart() -> corpus.Corpus:
    return corpus.read_corpus("pip:knn_ner_jax/data/quickstart", scheme="BIO")


def names_of(split: Split) -> list[tuple[str, str]]:
    """Type and text of every entity, read off the IOB2 tags."""
    names: list[tuple[str, str]] = []
    for word, tag in itertools.chain.from_iterable(zip(s.words, s.tags, strict=True) for s in split.sentences):
        if tag.startswith("B-"):
            names.append((tag[2:], word))
        elif tag.startswith("I-"):
            names[-1] = (names[-1][0], f"{names[-1][1]} {word}")
    return names


def test_the_embedded_corpus_has_enough_of_everything(quickstart: corpus.Corpus):
    splits = [quickstart.train, quickstart.dev, quickstart.test]
    assert sum(len(split.sentences) for split in splits) >= 400
    for split in splits:
        assert {type_ for type_, _ in names_of(split)} == {"PER", "LOC", "ORG", "EVENT"}
        assert split.illegal_tags == ()
        assert not split.skipped


def test_no_sentence_of_the_embedded_corpus_occurs_twice(quickstart: corpus.Corpus):
    splits = [quickstart.train, quickstart.dev, quickstart.test]
    counts = Counter(" ".join(sentence.words).lower() for split in splits for sentence in split.sentences)
    assert [sentence for sentence, count in counts.items() if count > 1] == []


def test_at_least_half_of_the_names_of_the_embedded_corpus_occur_once(quickstart: corpus.Corpus):
    splits = [quickstart.train, quickstart.dev, quickstart.test]
    counts = Counter(name for split in splits for _, name in names_of(split))
    assert 2 * sum(count == 1 for count in counts.values()) >= len(counts)


def test_the_readme_of_the_embedded_corpus_counts_rightly(quickstart: corpus.Corpus):
    readme = (quickstart.train.path.parent / "README.md").read_text(encoding="utf-8")
    for name in ("train", "dev", "test"):
        split = getattr(quickstart, name)
        types = Counter(type_ for type_, _ in names_of(split))
        counts = [len(split.sentences), split.num_words, *(types[t] for t in ("PER", "LOC", "ORG", "EVENT")), types.total()]
        row = re.search(rf"^\| {name} +\|(.*)\|$", readme, re.MULTILINE)
        assert row
        assert [int(count) for count in row[1].split("|")] == counts


def test_a_file_with_carriage_returns_alone_has_lines_too(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(b"a\tO\rb\tB-X\r\rc\tO\r")
    splits, _ = corpus.read_splits({"train": path})
    assert [sentence.words for sentence in splits["train"].sentences] == [("a", "b"), ("c",)]
