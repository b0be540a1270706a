"""Formats of published corpora -> column files."""

import re
from pathlib import Path

import pytest

from knn_ner_jax import cli
from knn_ner_jax.data.readers import DataError
from knn_ner_jax.main import convert

CONLL2012 = """#begin document (bc/x/00/x_0000); part 000
bc/x/00/x_0000   0   0     The   DT  (TOP(S(NP*   -   -   -   Ann      *        *    -
bc/x/00/x_0000   0   1  United  NNP         *)    -   -   -   Ann   (GPE*     (ARG0*  (12
bc/x/00/x_0000   0   2  States  NNP         *)    -   -   -   Ann      *)       *)   12)
bc/x/00/x_0000   0   3   today   NN         *)    -   -   -   Ann  (DATE)       *    -

bc/x/00/x_0000   0   0      Mr  NNP         *)    -   -   -   Ann (PERSON*      *    -
bc/x/00/x_0000   0   1       X  NNP         *)    -   -   -   Ann      *        *    -
bc/x/00/x_0000   0   2       Y  NNP         *)    -   -   -   Ann      *)       *    -

#end document
"""

SCHEME_BIOES = [("Ann", "B-PER"), ("Lee", "E-PER"), ("in", "O"), ("Bonn", "S-LOC")]


def converted(tmp_path: Path, kind: str, text: str) -> tuple[str, str]:
    (tmp_path / "raw").write_text(text, encoding="utf-8")
    summary = convert.convert(kind, tmp_path / "raw", tmp_path / "new" / "train.conll")
    return (tmp_path / "new" / "train.conll").read_text(encoding="utf-8"), summary


def refused(tmp_path: Path, kind: str, text: str) -> list[str]:
    with pytest.raises(DataError) as error:
        converted(tmp_path, kind, text)
    assert not (tmp_path / "new").exists()
    return str(error.value).replace(f"{tmp_path}/", "").split("\n")


def test_msra_segments_become_characters(tmp_path: Path):
    text, summary = converted(tmp_path, "msra", "中共/nt 致/o 李/nr \n\n在/o 北京/ns １／２\\/3/o\n")
    expected = "中 B-ORG|共 I-ORG|致 O|李 B-PER||在 O|北 B-LOC|京 I-LOC|１ O|／ O|２ O|\\ O|/ O|3 O|"
    assert text == expected.replace(" ", "\t").replace("|", "\n")
    assert summary.endswith("train.conll: 2 sentences, 13 words, 3 entities; skipped: 1 blank line")


def test_what_msra_has_not_is_refused_line_by_line(tmp_path: Path):
    assert refused(tmp_path, "msra", "在/o\n在/x 京\n/o\n京\t都/ns\n") == [
        f"raw:{line}: found the segment {segment}, expected text, a slash, and o, nr or ns or nt"
        for line, segment in [(2, "'在/x'"), (3, "'/o'"), (4, "'京\\t都/ns'")]
    ]


def test_weibo_tokens_lose_their_digit(tmp_path: Path):
    text, summary = converted(tmp_path, "weibo", "科0\tB-PER.NAM\n技1\tI-PER.NAM\n10\tO\n\n#0\tO\n")
    assert text == "科\tB-PER.NAM\n技\tI-PER.NAM\n1\tO\n\n#\tO\n"
    assert summary.endswith("2 sentences, 4 words, 1 entities; skipped: nothing")


def test_weibo_tokens_without_a_digit_and_lines_without_a_tag_are_refused(tmp_path: Path):
    assert refused(tmp_path, "weibo", "科0\tO\n技\tO\n0\tO\n人0\n") == [
        "raw:4: found '人0', expected a token, then a tag (O or B-TYPE)",
        "raw:2: found the token '技', expected a character and its place in its word",
        "raw:3: found the token '0', expected a character and its place in its word",
    ]


def test_brackets_of_conll2012_become_bio(tmp_path: Path):
    text, summary = converted(tmp_path, "conll2012", CONLL2012)
    assert text == ("The\tO\nUnited\tB-GPE\nStates\tI-GPE\ntoday\tB-DATE\n\nMr\tB-PERSON\nX\tI-PERSON\nY\tI-PERSON\n")
    assert summary.endswith("2 sentences, 7 words, 3 entities; skipped: 2 comment")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "(DATE)",
            "DATE",
            "raw:5: found the name 'DATE', expected the columns of CoNLL-2012, names as (TYPE* * *) or (TYPE)",
        ),
        ("(DATE)", "*)", "raw:5: found the name '*)', expected the columns of CoNLL-2012, names as (TYPE* * *) or (TYPE)"),
        ("Ann   (GPE*  ", "Ann  ", "raw:3: found 'bc/x/00/x_0000   0   1"),
        (
            "*)       *    -\n\n#",
            "*       *    -\n\n#",
            "raw:9: found the end of the sentence in a name of type PERSON, expected",
        ),
    ],
)
def test_broken_brackets_and_columns_are_refused(tmp_path: Path, old: str, new: str, message: str):
    assert old in CONLL2012
    assert refused(tmp_path, "conll2012", CONLL2012.replace(old, new))[0].startswith(message)


def test_a_target_that_exists_and_a_source_that_does_not_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="nothing: expected a file, found none"):
        convert.convert("msra", tmp_path / "nothing", tmp_path / "new")
    (tmp_path / "new").write_text("kept")
    (tmp_path / "raw").write_text("在/o\n", encoding="utf-8")
    with pytest.raises(DataError, match="new: expected a new file, found one"):
        convert.convert("msra", tmp_path / "raw", tmp_path / "new")
    assert (tmp_path / "new").read_text() == "kept"
    (tmp_path / "raw").write_text("\n")
    with pytest.raises(DataError, match="raw: expected sentences, found none"):
        convert.convert("msra", tmp_path / "raw", tmp_path / "newer")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "raw").write_text("在/o 京/ns\n", encoding="utf-8")
    arguments = ["convert", "msra", str(tmp_path / "raw"), str(tmp_path / "train.conll")]
    cli.main(arguments)
    assert capsys.readouterr().out == f"{tmp_path}/train.conll: 1 sentences, 2 words, 1 entities; skipped: nothing\n"
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {tmp_path}/train.conll: expected a new file, found one\n")


def test_spans_that_cut_a_word_are_read_as_words_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("Ann-Lee left.")
    (tmp_path / "raw" / "a.ann").write_text("T1\tPER 0 3\tAnn\n")
    arguments = ["convert", "brat", str(tmp_path / "raw"), str(tmp_path / "train.conll")]
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--cut-spans", "refuse"])
    assert end.value.code == 2
    assert "a.txt:1: found the span 'Ann', which cuts 'Ann-Lee', expected" in capsys.readouterr().err
    cli.main(arguments)
    counts = "1 sentences, 3 words, 1 entities; skipped: 1 span that cuts a word, read as the whole words\n"
    assert capsys.readouterr().out == f"{tmp_path}/train.conll: {counts}"
    assert (tmp_path / "train.conll").read_text() == "Ann-Lee\tB-PER\nleft\tO\n.\tO\n"


def test_entities_are_counted_in_every_scheme(tmp_path: Path):
    blank = "_\t" * 7
    rows = "".join(f"{i}\t{word}\t{blank}name={tag}\n" for i, (word, tag) in enumerate(SCHEME_BIOES, start=1))
    _, summary = converted(tmp_path, "conllu", rows)
    assert summary.endswith("1 sentences, 4 words, 2 entities; skipped: nothing")


def test_help_lists_every_format(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        convert.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text and entry.help in text for name, entry in convert.FORMATS.items())


def test_the_place_in_a_word_may_have_two_digits_and_the_character_be_one(tmp_path: Path):
    word = "Just2go6789ab"
    raw = "".join(f"{character}{place} O\n" for place, character in enumerate(word))
    text, _ = converted(tmp_path, "weibo", raw)
    assert [line.split("\t")[0] for line in text.splitlines() if line] == list(word)


def test_weibo_converted_back_from_a_corpus_is_that_corpus(shared: Path, tmp_path: Path):
    published = (shared / "data" / "weibo" / "dev.conll").read_text(encoding="utf-8").strip()
    # In this copy some tokens have kept the first digit of their place in a word.
    published = re.sub(r"(?m)^([^\t\n])[0-9]+\t", r"\1\t", published)
    text, _ = converted(tmp_path, "weibo", re.sub(r"(?m)\t", "12\t", published) + "\n")
    assert text.strip() == published


@pytest.mark.parametrize("word", ["-DOCSTART-", "\ufeffa"])
def test_a_word_that_a_column_file_cannot_hold_is_refused(tmp_path: Path, word: str):
    (tmp_path / "train.iob2").write_text(f"1\tAnn\tB-PER\t-\tx\n2\t{word}\tO\t-\tx\n")
    with pytest.raises(DataError, match=r"train.iob2:2: found the word .*, which column files take for a mark"):
        convert.convert("uner", tmp_path / "train.iob2", tmp_path / "train.conll")
    assert not (tmp_path / "train.conll").exists()
