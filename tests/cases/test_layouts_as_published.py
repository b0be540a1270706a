"""Layouts of published corpora: tags in other spellings and among attributes, marks of sentences, tables of all kinds."""

import json
from pathlib import Path

import pytest
from helpers.reading import read, refused, sentences_of

from knn_ner_jax import cli
from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import corpus
from knn_ner_jax.data.corpus import DataError, Split

ANN = [(("Ann", "Lee", "saw", "Rome"), ("B-PER", "I-PER", "O", "B-LOC")), (("Bo", "left"), ("B-PER", "O"))]
TWO_COLUMNS = "Ann\tB-PER\nLee\tI-PER\nsaw\tO\nRome\tB-LOC\n\nBo\tB-PER\nleft\tO\n"
RESPELT = "tag in another spelling (0, B_TYPE, TYPE-B)"


def read_as(path: Path, text: str, **settings: object) -> Split:
    path.write_text(text, encoding="utf-8")
    return corpus.read_splits({"train": path}, DataConfig("", **settings))[0]["train"]  # type: ignore[arg-type]


def sentences(split: Split) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(sentence.words, sentence.tags) for sentence in split.sentences]


@pytest.mark.parametrize("outside", ["0", "o", "\u041e", "\u039f", "\uff2f"])
def test_outside_may_be_a_zero_a_small_letter_or_one_of_another_script(tmp_path: Path, outside: str):
    assert sentences_of(tmp_path, TWO_COLUMNS.replace("\tO", f"\t{outside}")) == ANN
    types = TWO_COLUMNS.replace("\tO", f"\t{outside}").replace("B-", "").replace("I-", "")
    split = read(tmp_path, types, scheme="IO")
    assert sentences(split) == ANN
    assert split.skipped == {RESPELT: 2}


@pytest.mark.parametrize(("begin", "inside"), [("B_{}", "I_{}"), ("{}_B", "{}_I"), ("{}-B", "{}-I"), ("b-{}", "i-{}")])
def test_prefixes_may_follow_the_type_or_have_another_separator(tmp_path: Path, begin: str, inside: str):
    text = TWO_COLUMNS
    for type_ in ("PER", "LOC"):
        text = text.replace(f"B-{type_}", begin.format(type_)).replace(f"I-{type_}", inside.format(type_))
    split = read(tmp_path, text)
    assert sentences(split) == ANN
    assert split.skipped == {RESPELT: 4}
    record = json.dumps({"tokens": ["Ann", "Lee"], "ner_tags": [begin.format("PER"), inside.format("PER")]})
    split = read_as(tmp_path / "train.jsonl", record)
    assert split.sentences[0].tags == ("B-PER", "I-PER")
    assert split.skipped == {RESPELT: 2}


def test_types_without_prefixes_are_named_by_the_setting_that_reads_them(tmp_path: Path):
    assert "data.scheme: IO reads types without a prefix" in refused(tmp_path, "Ann\tPER\n")
    record = json.dumps({"tokens": ["Ann", "Lee", "left"], "ner_tags": ["PER", "PER", "O"]})
    with pytest.raises(DataError, match=r"'PER' in ner_tags, expected O or B-TYPE; data.scheme: IO reads types"):
        read_as(tmp_path / "train.jsonl", record)
    assert read_as(tmp_path / "train.jsonl", record, scheme="IO").sentences[0].tags == ("B-PER", "I-PER", "O")


CONLLU = """\
# text = Ann Lee au Parc
1\tAnn\tann\tPROPN\t_\tNumber=Sing|Case=Nom\t0\troot\t_\tname=B-PER
2\tLee\tlee\tPROPN\t_\t_\t1\tflat\t_\tSpaceAfter=No|name=I-PER
3-4\tau\t_\t_\t_\t_\t_\t_\t_\t_
3\tà\tà\tADP\t_\t_\t5\tcase\t_\tname=O
4\tle\tle\tDET\t_\t_\t5\tdet\t_\tname=O
5\tParc\tparc\tPROPN\t_\t_\t1\tnmod\t_\tname=B-LOC|SpaceAfter=No
5.1\tvert\tvert\tADJ\t_\t_\t_\t_\t_\t_

"""


def test_tags_may_be_values_of_an_attribute_and_numbers_may_be_ranges(tmp_path: Path):
    expected = [(("Ann", "Lee", "à", "le", "Parc"), ("B-PER", "I-PER", "O", "O", "B-LOC"))] * 3
    split = read(tmp_path, CONLLU * 3)
    assert sentences(split) == expected
    assert split.skipped == {"comment": 3, "multiword token, whose words are read": 3, "empty node": 3}
    assert sentences(read(tmp_path, CONLLU * 3, columns={"token": 2, "tag": 10})) == expected
    assert sentences(read(tmp_path, CONLLU.replace("name=O", "_") * 3)) == expected
    assert refused(tmp_path, CONLLU.replace("name=I-PER", "name=PER") * 3).startswith("train.conll:3: found the tag 'PER'")


def test_many_ranges_do_not_hide_that_a_column_numbers_the_words(tmp_path: Path):
    text = "".join(f"{n}-{n + 1}\tdu\t_\n{n}\tde\tO\n{n + 1}\tRome\tB-LOC\n" for n in (1, 3, 5))
    assert sentences_of(tmp_path, text) == [(("de", "Rome") * 3, ("O", "B-LOC") * 3)]


def test_scores_and_versions_are_words_where_no_column_numbers_them(tmp_path: Path):
    split = read(tmp_path, "2-1\tNN\tO\nRome\tNN\tB-LOC\n3.11\tNN\tO\n")
    assert split.sentences[0].words == ("2-1", "Rome", "3.11")


def test_conll_u_plus_names_its_columns(tmp_path: Path):
    text = "# global.columns = ID FORM LEMMA X:NER NOTE\n1\tAnn\tann\tB-PER\tx\n2\tleft\tleave\tO\ty\n"
    expected = [(("Ann", "left"), ("B-PER", "O"))]
    assert sentences_of(tmp_path, text) == expected
    assert sentences_of(tmp_path, text, columns={"token": "LEMMA", "tag": "X:NER"}) == [(("ann", "leave"), ("B-PER", "O"))]


def test_a_header_names_the_word_and_the_sentence(tmp_path: Path):
    text = "Sentence #,Lemma,Word,Tag\ns1,ann,Ann,B-PER\n,leave,left,O\ns2,rome,Rome,B-LOC\n"
    assert sentences(read_as(tmp_path / "train.csv", text)) == [(("Ann", "left"), ("B-PER", "O")), (("Rome",), ("B-LOC",))]


@pytest.mark.parametrize("delimiter", ["\t", ";", ","])
def test_a_table_is_separated_by_what_all_its_lines_have(tmp_path: Path, delimiter: str):
    text = TWO_COLUMNS.replace("\t", delimiter)
    assert sentences(read_as(tmp_path / "train.csv", text)) == ANN


def test_in_a_table_with_tabs_a_quote_is_a_word_and_commas_too(tmp_path: Path):
    text = '\n"\tO\tO\nAnn\tB-PER\tO\n,\tO\tO\n"\tO\tO\n\t\t\nBo\tB-PER\tO\n'
    split = read_as(tmp_path / "train.csv", text)
    assert [sentence.words for sentence in split.sentences] == [('"', "Ann", ",", '"'), ("Bo",)]


def test_a_quote_that_joins_lines_is_a_bad_line(tmp_path: Path):
    with pytest.raises(DataError, match=r"expected a word; a quote that nothing closes joins lines"):
        read_as(tmp_path / "train.csv", 'Ann,B-PER\n",O\nBo,B-PER\n",O\n')


def test_lines_of_markup_end_a_sentence_and_are_counted(tmp_path: Path):
    split = read(tmp_path, "<s>\nAnn\tB-PER\n</s>\n<HEADLINE>\t\t\n\t\t\n<b>\tO\nBo\tB-PER\n")
    assert [sentence.words for sentence in split.sentences] == [("Ann",), ("<b>", "Bo")]
    assert split.skipped == {"line of markup, as <s>": 3}
    for mark in ("<sub>", "</sub>"):
        assert f"train.conll:2: found '{mark}', expected a token, then a tag" in refused(
            tmp_path, f"Ann\tB-PER\n{mark}\nBo\tO\n"
        )


def test_a_mark_in_another_column_ends_a_sentence(tmp_path: Path):
    text = "TOKEN\tNE-COARSE\tMISC\n# id = 1\nAnn\tB-pers\tNoSpaceAfter\n.\tO\tEndOfLine|EndOfSentence\nRome\tB-loc\t_\n"
    split = read(tmp_path, text)
    assert [sentence.words for sentence in split.sentences] == [("Ann", "."), ("Rome",)]
    text = text.replace("NoSpaceAfter", "EndOfSentence").replace(".\tO", ".\tI-pers")  # a mark inside a name
    split = read(tmp_path, text)
    assert [sentence.words for sentence in split.sentences] == [("Ann", "."), ("Rome",)]
    assert not split.illegal_tags


def test_several_hashes_and_a_blank_are_a_comment_even_in_as_many_columns(tmp_path: Path):
    text = "## dev-1\t<Ann:PER> left\nAnn\tB-PER\nleft\tO\n\n##\tO\n#Rome\tB-LOC\n"
    split = read(tmp_path, text)
    assert [sentence.words for sentence in split.sentences] == [("Ann", "left"), ("##", "#Rome")]
    assert split.skipped == {"comment": 1}


def test_empty_cells_at_the_end_of_a_line_are_columns(tmp_path: Path):
    header = "TOKEN\tNER\tLINK\tMISC\n"
    split = read(tmp_path, header + "Ann\tB-PER\t\tx\nLee\tI-PER\t\t\nleft\tO\t\t\n")
    assert sentences(split) == [(("Ann", "Lee", "left"), ("B-PER", "I-PER", "O"))]
    assert not split.ragged_lines
    assert len(read(tmp_path, header + "Ann\tB-PER\t\tx\nLee\tI-PER\n").ragged_lines) == 1


def test_columns_of_tags_of_other_types_are_noted_and_chunks_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for text, note in (
        ("Ann\tB-Skill\tO\nLee\tI-Skill\tB-Tool\n", True),
        ("Ann NN I-NP B-PER\nleft VB I-VP O\n", False),
    ):
        for name in ("train", "dev", "test"):
            (tmp_path / f"{name}.txt").write_text(text)
        with pytest.raises(SystemExit):
            cli.main(["check", str(tmp_path)])
        assert ("another column of tags (2)" in capsys.readouterr().out) == note
