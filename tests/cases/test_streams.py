"""Texts that never end, arrive slowly, are broken, or whose answers nobody waits for: predict answers as it reads."""

import json
import logging
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from helpers import script_process
from helpers.reading import texts

from knn_ner_jax import cli
from knn_ner_jax.data import texts as reading
from knn_ner_jax.data.texts import Document, TextReader
from knn_ner_jax.entities import in_chunks
from knn_ner_jax.knn.combine import ROUNDING_SLACK, KnnParams
from knn_ner_jax.knn_tagger import KnnTagger
from knn_ner_jax.main import predict
from knn_ner_jax.main.predict import gather

FILES = {
    "x.txt": "Ann's dog\n\nBob \u3000 left.\n  \n北京",
    "x.jsonl": '["Ann"]\n{"text": "Bob left", "id": 1}\n\n"Rome"\n',
    "x.conll": "-DOCSTART- O\n\nAnn\tB-PER\nleft\tO\n\n\n \t\nRome\tB-LOC\n\nBob\tB-PER\n.\tO\n",
    "tags.conll": "TOKEN\tNER\nAnn\tB-PER\nleft\tO\n\nRome\tB-LOC\n\n",
    "words.conll": "# a comment\nAnn\nleft\n\nRome\n",
}


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_read_in_pieces_has_the_texts_of_one_read_at_once(tmp_path: Path, monkeypatch, name: str, line_end: str):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + FILES[name].replace("\n", line_end).encode())
    whole = texts(tmp_path / name)
    assert len(whole) > 1
    for size in (1, 7, 50):
        monkeypatch.setattr(reading, "PIECE", size)
        assert texts(tmp_path / name) == whole


def test_the_memory_of_reading_does_not_grow_with_the_file(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(reading, "PIECE", 2**12)

    def peak(name: str, content: str) -> int:
        (tmp_path / name).write_text(content)
        tracemalloc.start()
        number = sum(1 for _ in TextReader().read(str(tmp_path / name)))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert number == content.count("Ann")
        return most

    for name, sentence in (("x.txt", "Ann left Rome\n"), ("x.jsonl", '["Ann"]\n'), ("x.conll", "Ann\tB-PER\nleft\tO\n\n")):
        _, small, large = (peak(name, sentence * number) for number in (1_000, 1_000, 10_000))  # the first fills caches
        assert large < 1.5 * small


def test_what_is_read_ahead_does_not_grow_with_the_input(knn_tagger: KnnTagger):
    def lead(number: int) -> int:
        produced, done, most = 0, 0, 0

        def documents():
            nonlocal produced
            for produced in range(1, number + 1):
                yield Document.of(["Nokia", str(produced)], "")

        for tagged in knn_tagger.tag_stream(gather(documents(), size=8), probabilities=False):
            most = max(most, produced - done)
            assert [each.words[1] for each in tagged] == [str(n + 1) for n in range(done, done + len(tagged))]
            done += len(tagged)
        assert done == number
        return most

    # A list that waits to be filled, one in the queue, two of each of two stages and one in the works, one that is used.
    assert lead(80) <= 9 * 8
    assert lead(800) <= 9 * 8


def test_one_program_serves_chunks_of_any_size(knn_tagger: KnnTagger, caplog):
    params = KnnParams("cosine", 4, 0.1, 0.6)
    tagger, words = replace(knn_tagger, knn_params=params, batch_size=4), ["Nokia", "met", "Angela", "Merkel", "in", "Oslo"]
    sizes = [40, 3, 1, 17, 90, 2]
    chunks = [[Document.of(words[: 1 + n % 6] * (1 + n % 5), "") for n in range(size)] for size in sizes]
    jax.config.update("jax_log_compiles", True)
    try:
        for options, program in (
            ({"probabilities": False}, "jit(tag)"),
            ({}, "jit(tag)"),
            ({"neighbours": 2}, "jit(retrieve)"),
        ):
            jax.clear_caches()
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                tagged = list(tagger.tag_stream(chunks, **options))
            assert [len(each) for each in tagged] == sizes
            compiled = [message for message in caplog.messages if message.startswith("Compiling")]
            assert sum(program in message for message in compiled) == 1
            assert len(set(compiled)) == len(compiled)
    finally:
        jax.config.update("jax_log_compiles", False)


def test_labels_alone_are_those_with_probabilities(knn_tagger: KnnTagger, evaluated):
    read = list(TextReader().read(str(evaluated / "corpus" / "test.conll")))
    tagger = replace(knn_tagger, knn_params=KnnParams("cosine", 1, 0.1, 1.0))  # no ties of two labels
    options = {"probabilities": False}, {}, {"neighbours": 1}
    (alone,), (both,), (near,) = (list(tagger.tag_stream(in_chunks(read), **each)) for each in options)
    assert [each.labels for each in alone] == [each.labels for each in both] == [each.labels for each in near]
    for one, other in zip(both, near, strict=True):
        assert [replace(entity, neighbours=()) for entity in other.entities] == [
            replace(entity, p_tagger=pytest.approx(entity.p_tagger, abs=ROUNDING_SLACK)) for entity in one.entities
        ]
    assert any(each.entities for each in alone)
    for one, other in zip(alone, both, strict=True):
        assert [entity.to_dict() for entity in one.entities] == [
            {name: entity.to_dict()[name] for name in ("entity_group", "word", "start", "end", "words", "is_strict")}
            for entity in other.entities
        ]


def test_an_error_comes_after_what_was_read_before_it():
    def documents():
        yield Document.of("Ann", "")
        raise ValueError("broken")

    chunks = gather(documents())
    assert [each.text for each in next(chunks)] == ["Ann"]
    with pytest.raises(ValueError, match="broken"):
        next(chunks)


def test_broken_lines_are_named_and_skipped_and_the_status_says_so(evaluated, monkeypatch, capfd, caplog, tmp_path):
    monkeypatch.chdir(evaluated)
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "Nokia", "id": 1}\n{\n["caf\xe9"]\n{"tokens": ["Oslo"], "id": 2}\n')
    (tmp_path / "x.conll").write_bytes(b"Oslo\nRome\n\ncaf\xe9\nx\n\nNokia\n")
    files = [str(tmp_path / "x.jsonl"), str(tmp_path / "x.conll")]
    with pytest.raises(SystemExit) as end:
        cli.run("predict", "predict.py", ["run", "--output=jsonl", "--no-neighbours", "--bad-lines=skip", "--input", *files])
    output, errors = capfd.readouterr()
    assert end.value.code == 3
    records = [json.loads(line) for line in output.splitlines()]
    assert [record.get("id") for record in records] == [1, 2, None, None]
    assert [record["tokens"] for record in records] == [["Nokia"], ["Oslo"], ["Oslo", "Rome"], ["Nokia"]]
    named = [message.partition(": ")[0] for message in caplog.messages if message.endswith("; skipped")]
    assert named == [f"{files[0]}:2", f"{files[0]}:3", f"{files[1]}:4"]
    assert errors.splitlines()[-1] == "4 sentences tagged, 3 that cannot be read skipped"
    with pytest.raises(SystemExit) as end:
        cli.run("predict", "predict.py", ["run", "--output=jsonl", "--input", files[0]])
    output, errors = capfd.readouterr()
    assert end.value.code == 2
    assert [json.loads(line)["id"] for line in output.splitlines()] == [1]
    assert f"error: {files[0]}:2: expected" in errors


def test_texts_without_a_word_that_columns_cannot_hold_are_counted(evaluated, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(evaluated)
    (tmp_path / "x.jsonl").write_text('{"text": ""}\n["Oslo"]\n\n[]\n"Rome"\n')
    for output, said in (
        ("conll", "skipped: 2 sentences without a word, 1 blank lines\n"),
        ("jsonl", "skipped: 1 blank lines\n"),
    ):
        options = ["--no-neighbours", f"--output={output}", f"--input={tmp_path / 'x.jsonl'}"]
        cli.run("predict", "predict.py", ["run", *options])
        tagged, errors = capsys.readouterr()
        assert errors == said
        assert tagged.count("\n") == 4
        assert tagged.count("Oslo\t") == tagged.count("Rome\t") == (output == "conll")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Heeds SIGINT, here and in processes that are started, also where whoever started the tests ignores it (`nohup`)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_pipe_is_answered_while_it_is_open_and_ends_with_whole_lines(evaluated, tmp_path):
    command = [sys.executable, str(script_process.ROOT / "predict.py"), "run", "--format=jsonl", "--output=jsonl"]
    command += ["--no-neighbours"]
    environment = script_process.environment(1)
    many = tmp_path / "many.jsonl"
    many.write_text('["Nokia", "in", "Oslo"]\n' * 50_000)
    pipes = {"cwd": evaluated, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, **pipes) as slow,
        subprocess.Popen([*command, "--input", str(many)], **pipes) as unread,
    ):
        slow.stdin.write('{"text": "Nokia in Oslo", "id": 1}\n')
        slow.stdin.flush()
        assert json.loads(slow.stdout.readline())["id"] == 1
        slow.stdin.write('["Oslo"]\n["Ro')
        slow.stdin.flush()
        assert json.loads(slow.stdout.readline())["tokens"] == ["Oslo"]
        slow.send_signal(signal.SIGINT)
        assert slow.wait(60) == 128 + signal.SIGINT
        assert slow.stdout.read() == ""
        assert slow.stderr.read() == "stopped: 2 sentences were written\n"

        assert json.loads(unread.stdout.readline())["tokens"] == ["Nokia", "in", "Oslo"]
        unread.stdout.close()
        assert unread.wait(60) == 128 + signal.SIGPIPE
        assert unread.stderr.read().endswith(" sentences were written\n")


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("in_between", [False, True])
def test_an_interrupt_while_lines_are_written_waits_for_their_end(monkeypatch, capsys, in_between):
    ends: list[int] = []
    monkeypatch.setattr(os, "_exit", ends.append)

    def chunk(number: int) -> list:
        if in_between and number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return [number]

    def text(tagged: list) -> str:
        if not in_between:
            os.kill(os.getpid(), signal.SIGINT)
        return f"line {tagged[0]}\n"

    monkeypatch.setitem(predict.FORMATS, "conll", text)
    predict._write(map(chunk, range(3)), "conll")
    assert ends == [128 + signal.SIGINT]
    output, errors = capsys.readouterr()
    assert output == "line 0\n"
    assert errors == "stopped: 1 sentences were written\n"


def test_a_file_that_is_not_there_is_named_before_another_is_tagged(evaluated, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(evaluated)
    first = tmp_path / "first.jsonl"
    first.write_text('["Nokia", "in", "Oslo"]\n')
    with pytest.raises(SystemExit):
        cli.run("predict", "predict.py", ["run", "--output=jsonl", "--input", str(first), str(tmp_path / "second.jsonl")])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"expected a file, or - for the standard input, got {tmp_path / 'second.jsonl'}" in shown.err
