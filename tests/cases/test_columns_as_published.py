"""Column files as corpora are published: which column is which, comments, headers, tags without types, blank tokens."""

from pathlib import Path

import pytest
from helpers.reading import refused, sentences_of

from knn_ner_jax import cli
from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import corpus
from knn_ner_jax.io import InputError

ANN = [(("Ann", "Lee", "likes", "Rome"), ("B-PER", "I-PER", "O", "B-LOC")), (("Bob", "left"), ("B-PER", "O"))]


def lines(template: str) -> str:
    """Return the sentences of ANN, each line as a template of its number {n}, word {w} and tag {t} says."""
    rows = [zip(words, tags, strict=True) for words, tags in ANN]
    return "\n\n".join("\n".join(template.format(n=n, w=w, t=t) for n, (w, t) in enumerate(row, 1)) for row in rows) + "\n"


@pytest.mark.parametrize(
    "template",
    [
        "{w}\t{t}",
        "{w} {t}",
        "{n}\t{w}\t{t}",  # numbers in front
        "{n} {w} {t}",
        "{t}\t{w}",  # the tag first
        "{w}\t{t}\t_\t-",  # the tag in the middle
        "{n}\t{w}\t{t}\t-\tann1",
        "{w} NN I-NP {t}",  # chunks look like tags
        "1\t{n}\t{w}\t{t}",  # a number of the sentence, or of the document
        "1-{n}\t{w}\t{t}",
        "1.{n}\t{w}\t{t}",
        "{n}.\t{w}\t{t}",
        "1{n}5\t1{n}9\t{w}\t{t}",  # offsets
        "s1\t{w}\t{t}",
    ],
)
def test_the_columns_are_seen_from_the_file(tmp_path: Path, template: str):
    assert sentences_of(tmp_path, lines(template)) == ANN


def folder_of(tmp_path: Path, text: str) -> DataConfig:
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.tsv").write_text(text, encoding="utf-8")
    return DataConfig(str(tmp_path))


def test_of_two_columns_with_the_same_types_the_first_is_read_and_the_other_is_noted(tmp_path: Path, capsys):
    nested = "# http://text\t[2009]\n1\tBank\tB-ORG\tO\n2\tof\tI-ORG\tO\n3\tRome\tI-ORG\tB-ORG\n"
    assert sentences_of(tmp_path, nested) == [(("Bank", "of", "Rome"), ("B-ORG", "I-ORG", "I-ORG"))]
    assert sentences_of(tmp_path, nested, columns={"token": 2, "tag": -1})[0][1] == ("O", "O", "B-ORG")
    (tmp_path / "corpus").mkdir()
    folder_of(tmp_path / "corpus", nested)
    with pytest.raises(SystemExit):
        cli.main(["check", str(tmp_path / "corpus")])
    output = capsys.readouterr().out
    assert "columns seen: token 2, tag 3" in output
    assert "note: train: another column of tags (4), as nested entities have; data.columns says which is read" in output


def test_a_nested_name_may_be_of_a_type_that_no_other_has(tmp_path: Path):
    nested = "#\thttp://text\n1\tSchalke\tB-ORG\tB-LOC\n2\t04\tI-ORG\tO\n\n#\tx\n1\tdeutsch\tB-LOCderiv\tO\n"
    assert sentences_of(tmp_path, nested) == [(("Schalke", "04"), ("B-ORG", "I-ORG")), (("deutsch",), ("B-LOCderiv",))]


def test_names_of_sentences_end_them_where_no_empty_line_does(tmp_path: Path):
    text = "s1\tAnn\tB-PER\ns1\tLee\tI-PER\ns1\tlikes\tO\ns1\tRome\tB-LOC\ns2\tBob\tB-PER\ns2\tleft\tO\n"
    assert sentences_of(tmp_path, text) == ANN


def test_a_number_with_a_point_may_be_that_of_the_sentence(tmp_path: Path):
    (tmp_path / "train.csv").write_text("sentence_idx,word,tag\n1.0,Ann,B-PER\n1.0,left,O\n2.0,Rome,B-LOC\n")
    split = corpus.read_splits({"train": tmp_path / "train.csv"})[0]["train"]
    assert [sentence.words for sentence in split.sentences] == [("Ann", "left"), ("Rome",)]


def test_years_are_words_where_no_other_column_has_any(tmp_path: Path):
    assert sentences_of(tmp_path, "1999\tCD\tB-DATE\n2000\tCD\tO\n") == [(("1999", "2000"), ("B-DATE", "O"))]
    assert sentences_of(tmp_path, "1999\tB-DATE\n2000\tO\n") == [(("1999", "2000"), ("B-DATE", "O"))]


@pytest.mark.parametrize("nothing", ["_", "-", "O", ""])
def test_types_may_stand_beside_bare_tags(tmp_path: Path, nothing: str):
    rows = [("Ann", "B", "PER"), ("Lee", "I", "PER"), ("likes", "O", nothing), ("Rome", "B", "LOC")]
    text = "\n".join("\t".join((*row[:1], "NN", *row[1:], "x")) for row in rows) + "\n\nBob\tNN\tB\tPER\tx\n"
    assert sentences_of(tmp_path, text + f"left\tNN\tO\t{nothing}\tx\n") == ANN
    assert sentences_of(tmp_path, "Ann\tB\tB\nleft\tO\tO\n") == [(("Ann", "left"), ("B-ENT", "O"))]


@pytest.mark.parametrize("outside", ["-", "_"])
def test_outside_may_be_a_hyphen_or_an_underscore(tmp_path: Path, outside: str):
    assert sentences_of(tmp_path, lines("{w}\t{t}\t_").replace("\tO", f"\t{outside}")) == ANN
    types = lines("{w}\t{t}").replace("B-", "").replace("I-", "").replace("\tO", f"\t{outside}")
    assert sentences_of(tmp_path, types, scheme="IO") == ANN
    assert "found" in refused(tmp_path, "Ann\tPER\t_\nleft\tO\t_\n")


@pytest.mark.parametrize("columns", [{"token": "form", "tag": "ner"}, {"token": 2, "tag": 3}, None])
def test_a_first_line_may_name_the_columns(tmp_path: Path, columns: dict[str, int | str] | None):
    assert sentences_of(tmp_path, "id\tform\tner\tlink\n" + lines("{n}\t{w}\t{t}\t_"), columns=columns) == ANN


def test_columns_that_are_not_there_are_refused_with_those_that_are(tmp_path: Path):
    text = "id\tform\tner\n" + lines("{n}\t{w}\t{t}")
    message = refused(tmp_path, text, columns={"token": "word", "tag": "ner"})
    assert message == "data.columns: train.conll: expected the first line to name word, found id, form, ner"
    message = refused(tmp_path, lines("{w}\t{t}"), columns={"token": 1, "tag": 3})
    assert message.startswith(
        r"train.conll:1: found 'Ann\tB-PER', expected a token in column 1 and a tag in column 3 (O or B-TYPE)"
    )
    with pytest.raises(InputError, match=r"^data.columns: expected token and tag, and perhaps sentence, .* got"):
        DataConfig("x", columns={"word": 1})


def test_a_table_separated_by_commas_with_a_column_of_sentences(tmp_path: Path):
    text = 'Sentence #,Word,POS,Tag\nSentence: 1,Ann,NNP,B-PER\n,Lee,NNP,I-PER\n,",",",",O\nSentence: 2,"a ""b""",NN,O\n'
    (tmp_path / "train.csv").write_text(text, encoding="utf-8")
    data = DataConfig("", columns={"token": "Word", "tag": "Tag", "sentence": "Sentence #"})
    split = corpus.read_splits({"train": tmp_path / "train.csv"}, data)[0]["train"]
    assert [sentence.words for sentence in split.sentences] == [("Ann", "Lee", ","), ('a "b"',)]
    assert split.skipped == {"header": 1}


@pytest.mark.parametrize(
    "comment",
    ["# newdoc id = B-12", "# text = Ann Lee took the I-95", "#sent 1", "# x", "#", "# global.columns = ID FORM\tO B-X"],
)
def test_what_the_other_lines_show_to_be_a_comment_is_one(tmp_path: Path, comment: str):
    assert sentences_of(tmp_path, f"{comment}\n" + lines("{w}\t{t}")) == ANN


@pytest.mark.parametrize("word", ["#", "#tag", "# 1"])
def test_a_word_that_begins_with_a_hash_is_none(tmp_path: Path, word: str):
    assert sentences_of(tmp_path, f"{word}\tO\n" + lines("{w}\t{t}"))[0][0] == (word, *ANN[0][0])


def test_bare_tags_get_one_type(tmp_path: Path):
    bare = "Ann\tB\nLee\tI\nleft\tO\n"
    assert sentences_of(tmp_path, bare) == [(("Ann", "Lee", "left"), ("B-ENT", "I-ENT", "O"))]
    assert sentences_of(tmp_path, bare, bare_type="Disease")[0][1] == ("B-Disease", "I-Disease", "O")
    assert sentences_of(tmp_path, "Ann\tB\nLee\tE\nBo\tS\n")[0][1] == ("B-ENT", "I-ENT", "B-ENT")
    message = refused(tmp_path, bare + "Rome\tB-LOC\n")
    assert message.startswith(
        "train.conll:1: found the tag B without a type, expected O or B-TYPE, as elsewhere in the file"
    )


def test_types_without_prefixes_are_the_scheme_io(tmp_path: Path):
    text = "Ann\tperson-other\nLee\tperson-other\nin\tO\nRome\tplace\n"
    assert sentences_of(tmp_path, text, scheme="IO")[0][1] == ("B-person-other", "I-person-other", "O", "B-place")
    assert "expected a token, then a tag" in refused(tmp_path, text)


def test_a_prefix_of_all_tokens_is_removed_by_name(tmp_path: Path):
    assert sentences_of(tmp_path, lines("en:{w}\t{t}"), token_prefix="en:") == ANN
    assert sentences_of(tmp_path, "en:\tO\nen:en:x\tO\n", token_prefix="en:") == [(("\ufffd", "en:x"), ("O", "O"))]


def test_check_names_a_prefix_of_all_tokens(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder_of(tmp_path, lines("en:{w}\t{t}"))
    for prefix, is_fault in (("", True), ("en:", False)):
        with pytest.raises(SystemExit):
            cli.main(["check", str(tmp_path), *([f"--data.token_prefix={prefix}"] if prefix else [])])
        expected = "FAULT: train: all words begin with 'en:'; data.token_prefix: 'en:' removes it"
        assert (expected in capsys.readouterr().out) == is_fault


def test_blank_tokens_are_unknown_words_and_counted(tmp_path: Path):
    (tmp_path / "train.conll").write_text("Ann\tB-PER\n \tO\n\tO\nRome\tB-LOC\n", encoding="utf-8")
    split = corpus.read_splits({"train": tmp_path / "train.conll"})[0]["train"]
    assert split.sentences[0].words == ("Ann", "\ufffd", "\ufffd", "Rome")
    assert split.skipped == {"blank token, read as unknown": 2}


def test_blank_tokens_before_spaces_are_unknown_words_too(tmp_path: Path):
    assert sentences_of(tmp_path, "王 B-PER\n  O\n O\n好 O\n") == [
        (("王", "\ufffd", "\ufffd", "好"), ("B-PER", "O", "O", "O"))
    ]
    assert sentences_of(tmp_path, "王 NN B-PER\n  NN O\n") == [(("王", "\ufffd"), ("B-PER", "O"))]
    assert sentences_of(tmp_path, " 王 B-PER\n 好 O\n") == [(("王", "好"), ("B-PER", "O"))]
    assert "train.conll:2: found ' 好', expected a token, then a tag" in refused(tmp_path, "王 B-PER\n 好\n")


def test_the_columns_of_train_are_read_in_dev_and_test(tmp_path: Path):
    data = folder_of(tmp_path, lines("{n}\t{w}\t{t}\tO"))
    (tmp_path / "train.tsv").write_text("1\tBank\tB-LOC\tO\n2\tRome\tI-LOC\tB-LOC\n\n1\tAnn\tB-PER\tO\n", encoding="utf-8")
    actual = corpus.read_corpus(data)
    assert [sentence.tags for sentence in actual.dev.sentences] == [tags for _, tags in ANN]
    assert actual.train.sentences[0].tags == ("B-LOC", "I-LOC")
