"""Column files -> rows: what is read, what is skipped and counted, what is refused and how."""

import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.reading import read, refused

from knn_ner_jax.data import corpus
from knn_ner_jax.data.corpus import DataError, Split


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
        "word B-",
        "word B-X-",
        "word B--X",
        "word O extra",
        "O",
        "a # comment",
        "-DOC O x",
        "#x",
        "\u3000",
    ],
)
def test_a_bad_line_is_refused_with_its_place_what_was_found_and_what_was_expected(tmp_path: Path, line: str):
    message = refused(tmp_path, f"a O\n\nb O\n{line}\nc O\n")
    assert message.startswith(f"train.conll:4: found {line!r}, expected a token, then a tag (O or B-TYPE)")


def test_a_comment_inside_a_sentence_does_not_end_it(tmp_path: Path):
    split = read(tmp_path, "a O\n# b c\nd O\n")
    assert words(split) == [("a", "d")]
    assert split.skipped == {"comment": 1}


def test_the_first_of_several_bad_lines_is_named_and_the_rest_counted(tmp_path: Path):
    message = refused(tmp_path, "a O\nbad\na O\nworse x\nworst\n")
    first, note = message.split("\n")
    assert first.startswith("train.conll:2: found 'bad'")
    assert note == "(2 more; data.on_error: report lists them all)"


def test_lines_with_another_number_of_columns_than_the_first_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        split = read(tmp_path, "-DOCSTART- O\n\nEU B-ORG\nrejects O German B-MISC\n\ncall NN O\n. O\n")
    listed = [entry.replace(f"{tmp_path}/", "") for entry in split.ragged_lines]
    assert listed == ["train.conll:4: 4", "train.conll:6: 3"]
    assert "2 lines have another number of columns than the first of their file" in caplog.text
    assert not read(tmp_path, "EU NN B-ORG\nrejects VB O\n").ragged_lines


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


def test_a_file_with_carriage_returns_alone_has_lines_too(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(b"a\tO\rb\tB-X\r\rc\tO\r")
    splits, _ = corpus.read_splits({"train": path})
    assert [sentence.words for sentence in splits["train"].sentences] == [("a", "b"), ("c",)]


def test_a_word_that_begins_like_the_mark_of_a_document_is_a_word(tmp_path: Path):
    split = read(tmp_path, "-DOCSTART- -X- O\n\n-DOCSTART-nn NN O\nAnn NNP B-PER\n")
    assert split.sentences[0].words == ("-DOCSTART-nn", "Ann")
    assert split.skipped["-DOCSTART-"] == 1
