"""Sentences given to predict: tokens stay as they are, in every format, and get the labels that eval.py gives them."""

import json
from pathlib import Path

import pytest
from helpers.reading import given, texts

from knn_ner_jax import cli
from knn_ner_jax.data.texts import TextReader
from knn_ner_jax.io import InputError

TOKENS = ("Nokia", "'s", "chief", "met", "U.S.", "envoy", "Mr.", "Lee", "on", "1/2", "at", "3,000", "St.", "don't", "--")
FILES = {
    "given.jsonl": json.dumps({"tokens": TOKENS}) + "\n" + json.dumps(TOKENS) + '\n\n{"text": "Ann\'s dog"}\n',
    "given.conll": "-DOCSTART- O\n\n# a comment\n" + "\n".join(f"{word}\tO" for word in TOKENS) + "\n\n\nAnn O\n's O\n",
    "given.txt": "Ann's dog\n\n  \nBob.\n",
}


@pytest.mark.parametrize(
    ("name", "sentences", "skipped"),
    [
        ("given.jsonl", [TOKENS, TOKENS, "Ann's dog"], {"blank lines": 1}),
        ("given.conll", [TOKENS, ("Ann", "'s")], {"-DOCSTART-": 1, "comment": 1}),
        ("given.txt", ["Ann's dog", "Bob."], {"blank lines": 2}),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_ending_tells_the_format(tmp_path: Path, name: str, sentences: list, skipped: dict, line_end: str):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + FILES[name].replace("\n", line_end).encode())
    reader = TextReader()
    assert given(reader.read(str(tmp_path / name))) == sentences
    assert dict(reader.skipped) == skipped


def test_tokens_are_what_blanks_separate(tmp_path: Path):
    (tmp_path / "given.txt").write_text("  ".join(TOKENS) + "\nNew\u00a0York \u3000 x\n")
    assert texts(tmp_path / "given.txt", "tokens") == [TOKENS, ("New\u00a0York", "\u3000", "x")]
    assert given(TextReader("tokens").arguments([" ".join(TOKENS), "", "Rome"])) == [TOKENS, ("Rome",)]


def test_a_word_alone_on_each_line_needs_no_tag(tmp_path: Path):
    (tmp_path / "words").write_text("#\n1\nNew York\tx\n\nb")
    assert texts(tmp_path / "words", "conll") == [("#", "1", "New York"), ("b",)]


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("1\tAnn\tB-PER\tO\n2\tleft\tO\tO\n", {}),
        ("B-PER\tAnn\nO\tleft\n", {}),
        ("x\tAnn\nx\tleft\n", {"columns": {"token": 2, "tag": 1}}),
        ("en:Ann\nen:left\n", {"token_prefix": "en:"}),
        ("en:Ann\tO\nen:left\tO\n", {"token_prefix": "en:"}),
        ("Ann\nleft\n", {"columns": {"token": "FORM", "tag": "NER"}}),
        ("NER\tFORM\nO\tAnn\nO\tleft\n", {"columns": {"token": "FORM", "tag": "NER"}}),
    ],
)
def test_words_stand_where_the_corpus_has_them(tmp_path: Path, text: str, settings: dict):
    (tmp_path / "x.conll").write_text(text)
    assert texts(tmp_path / "x.conll", **settings) == [("Ann", "left")]


HIPE = "TOKEN\tNE-COARSE-LIT\tMISC\n# id = 1\nAnn\tB-pers\t_\n.\tO\tEndOfSentence\nRome\tB-loc\t_\n"


@pytest.mark.parametrize(
    ("name", "text", "sentences"),
    [
        ("x.tsv", HIPE, [("Ann", "."), ("Rome",)]),
        ("x.conll", "1-2\tdu\t_\tO\n1\tde\t_\tO\n2\tle\t_\tO\n3\tlac\t_\tO\n", [("de", "le", "lac")]),
        ("x.conll", "Ann\tB-PER\n \tO\n#Rome\tB-LOC\n", [("Ann", "\ufffd", "#Rome")]),
        ("x.csv", 'Sentence #,Word,Tag\n1,Ann,B-PER\n2,",",O\n', [("Ann",), (",",)]),
    ],
)
def test_a_file_of_a_corpus_has_the_sentences_of_the_corpus(tmp_path: Path, name: str, text: str, sentences: list):
    (tmp_path / name).write_text(text)
    assert texts(tmp_path / name, "conll") == sentences


def test_a_byte_order_mark_is_part_of_no_word(tmp_path: Path):
    for text_format, line in (("tokens", "Ann left"), ("jsonl", '["Ann", "left"]'), ("conll", "Ann\nleft\n")):
        (tmp_path / "x").write_text(f"\ufeff{line}\n\n\ufeff{line}\n", encoding="utf-8")  # of files put together
        assert texts(tmp_path / "x", text_format) == [("Ann", "left")] * 2
    assert given(TextReader("tokens").arguments(["\ufeffAnn left", "\ufeff"])) == [("Ann", "left")]
    assert given(TextReader("jsonl").arguments(['\ufeff["Ann"]'])) == [("Ann",)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "found what is no JSON"),
        ('{"words": ["a"]}', 'expected a text, a list of words, or an object with "tokens" or a "text", got {\'words\''),
        ('["a", 1]', "found the token 1"),
        ('["a", ""]', "found the token ''"),
        ('["a\\tb"]', r"found the token 'a\tb'"),
        ('["\\ud83d"]', r"found '\ud83d', half of a pair, at position 1"),
        ('{"text": "a \\ud83d"}', r"found '\ud83d', half of a pair, at position 3"),
        ("[" * 100_000, "found what is no JSON"),
    ],
)
def test_a_line_of_json_that_is_no_sentence_is_named(tmp_path: Path, line: str, message: str):
    path = tmp_path / "given.jsonl"
    path.write_text(f'["fine"]\n{line}\n')
    with pytest.raises(InputError) as error:
        texts(path)
    assert str(error.value).startswith(f"{path}:2: expected ")
    assert message in str(error.value)


def labels(path: Path) -> list[list[tuple[str, str]]]:
    """First and last column of a file, by sentence."""
    blocks = path.read_text(encoding="utf-8").strip("\n").split("\n\n")
    return [[(line.split("\t")[0], line.split("\t")[-1]) for line in block.split("\n")] for block in blocks]


def test_predict_labels_the_tokens_of_test_as_eval_does(evaluated, copy_of, capfd, tmp_path):
    folder = copy_of(evaluated)
    capfd.readouterr()
    expected = labels(folder / "run" / "predictions" / "test.conll")
    cli.run("predict", "predict.py", ["run", "--input", "corpus/test.conll", "--output=conll"])
    (tmp_path / "output.conll").write_text(capfd.readouterr().out, encoding="utf-8")
    actual = labels(tmp_path / "output.conll")
    assert [[word for word, _ in rows] for rows in actual] == [[word for word, _ in rows] for rows in expected]
    different = [rows for rows, others in zip(actual, expected, strict=True) if rows != others]
    within_rounding = json.loads((folder / "run" / "eval.json").read_text())["test"]["words_within_rounding"]
    assert len(different) <= within_rounding
    assert len({label for rows in actual for _, label in rows}) > 2

    (tmp_path / "given.jsonl").write_text("".join(json.dumps([word for word, _ in rows]) + "\n" for rows in expected))
    cli.run("predict", "predict.py", ["run", f"--input={tmp_path / 'given.jsonl'}", "--output=jsonl"])
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [list(zip(record["tokens"], record["ner_tags"], strict=True)) for record in records] == actual
    assert any(record["entities"] for record in records)

    lines = "".join(" ".join(word for word, _ in rows) + "\n" for rows in expected)
    (tmp_path / "given.txt").write_text(lines, encoding="utf-8")
    cli.run("predict", "predict.py", ["run", f"--input={tmp_path / 'given.txt'}", "--tokens", "--output=conll"])
    (tmp_path / "again.conll").write_text(capfd.readouterr().out, encoding="utf-8")
    assert labels(tmp_path / "again.conll") == actual


def test_text_without_spaces_is_no_surprise_to_who_trained_on_words(evaluated, copy_of, capfd):
    model = copy_of(evaluated) / "run" / "model.json"
    content = json.loads(model.read_text(encoding="utf-8"))
    assert not content["is_segmented"]

    def warning(*arguments: str) -> str:
        cli.run("predict", "predict.py", ["run", "--neighbours=0", *arguments])
        return capfd.readouterr().err

    assert warning("東京へ行く") == ""
    model.write_text(json.dumps(content | {"is_segmented": True}), encoding="utf-8")
    assert "give words (--tokens), segmented as there" in warning("東京へ行く")
    assert warning("東京 へ 行く", "--tokens") == warning("Tokyo") == ""
