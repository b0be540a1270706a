"""Options anywhere, bytes that are no text, and text that is odd: one clear line, or labels; never a traceback."""

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.reading import given, texts

from knn_ner_jax import cli
from knn_ner_jax.data.texts import TextReader
from knn_ner_jax.io import InputError

NOT_UTF8 = os.fsdecode(b"caf\xe9") if sys.getfilesystemencoding() == "utf-8" else "caf\udce9"


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch):
    """What predict's main would get of a command line."""

    def read(*arguments: str) -> dict:
        calls: list[dict] = []
        with monkeypatch.context() as patch:
            patch.setattr("importlib.import_module", lambda _: SimpleNamespace(main=lambda **given: calls.append(given)))
            cli.run("predict", "predict.py", arguments)
        return calls[0]

    return read


@pytest.fixture(autouse=True)
def evaluated_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The current folder has something that looks like a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "eval.json").write_text("{}")


def test_options_may_stand_anywhere(options):
    expected = options("run", "Bob left Oslo", "And Ann.", "--neighbours", "1")
    assert (expected["eval_dir"], expected["text"]) == ("run", ["Bob left Oslo", "And Ann."])
    assert expected["neighbours"] == 1
    assert options("run", "--neighbours", "1", "Bob left Oslo", "And Ann.") == expected
    assert options("--neighbours=1", "run", "Bob left Oslo", "And Ann.") == expected
    assert options("run", "Bob left Oslo", "--neighbours=1", "And Ann.") == expected
    assert options("run")["text"] == []
    assert options("run", "--", "-5 degrees")["text"] == ["-5 degrees"]


def complaint(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        cli.run("predict", "predict.py", arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.removeprefix("predict.py: error: ").strip()


def test_without_arguments_only_what_is_required_is_named(capsys):
    assert complaint(capsys) == "the following arguments are required: eval_dir"


def test_help_shows_the_order(capsys):
    with pytest.raises(SystemExit):
        cli.run("predict", "predict.py", ["--help"])
    assert "usage: predict.py [OPTIONS] eval_dir [text ...]" in capsys.readouterr().out


@pytest.mark.parametrize(("encoding", "errors"), [("utf-8", "strict"), ("utf-8", "surrogateescape"), ("latin-1", "strict")])
def test_standard_input_is_utf8_whatever_the_locale(monkeypatch, encoding, errors):
    def of_input(content: bytes) -> list[str | tuple[str, ...]]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding=encoding, errors=errors))
        return texts("-")

    assert of_input("\ufeffCafé Zürich\n".encode()) == ["Café Zürich"]
    for content, byte in ((b"fine\ncaf\xe9\n", "0xe9 at position 4"), (b"fine\n\xed\xa0\xbd", "0xed at position 1")):
        with pytest.raises(InputError) as error:
            of_input(content)
        assert str(error.value) == f"standard input:2: expected UTF-8 text, found the byte {byte}; save the text as UTF-8"


@pytest.mark.parametrize("text_format", ["text", "tokens", "jsonl", "conll"])
def test_bytes_of_a_file_are_named_with_their_line(tmp_path, text_format):
    (tmp_path / "x").write_bytes(b"\n\ncaf\xe9 O\n")
    with pytest.raises(InputError, match=r"x:3: expected UTF-8 text, found the byte 0xe9 at position 4"):
        texts(tmp_path / "x", text_format)


def test_arguments_that_are_no_text_are_numbered(capsys):
    assert complaint(capsys, "run", "fine", NOT_UTF8) == "text 2: expected UTF-8 text, found the byte 0xe9 at position 4"
    assert "text 1: expected characters of Unicode, found '\\ud83d', half of a pair" in complaint(capsys, "run", "\ud83d")


@pytest.mark.parametrize("blanks", [["", " "], ["\u200b", "\ufeff"]])
def test_nothing_but_blanks_is_refused(blanks):
    with pytest.raises(InputError, match="text: expected at least one sentence with a word in it, found none"):
        given(TextReader().arguments(blanks))


def test_a_file_that_is_missing_or_has_nothing_in_it_is_named(tmp_path, capsys):
    assert complaint(capsys, "run", "--input=none") == "--input: expected a file, or - for the standard input, got none"
    (tmp_path / "empty").write_text("\n \n")
    assert complaint(capsys, "run", "--input=empty") == "empty: expected at least one sentence with a word in it, found none"
    assert complaint(capsys, "run", "a", "--input=empty").startswith("--input: expected no file beside sentences")


def test_odd_text_is_tagged(knn_tagger):
    many = ["word"] * 3000
    tagged = knn_tagger.tag(["a\x00b \x00", many, ["\x00", "", "x" * 5000], "👩‍👩‍👧 \u202eabc"])
    assert [len(text.labels) for text in tagged] == [len(text.words) for text in tagged]
    assert tagged[1].words == tuple(many)
    assert tagged[2].words == ("\x00", "", "x" * 5000)


@pytest.mark.parametrize("text", ["\ud83d", ["fine", "\udc80"], [1], ["a", None]])
def test_what_is_no_text_is_an_input_error(knn_tagger, text):
    with pytest.raises(InputError, match="text 2: expected"):
        knn_tagger.tag(["fine", text])
