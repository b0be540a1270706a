"""What annotation tools export is a corpus as it lies there: data.dir reads it, data.format says what it is."""

import json
from pathlib import Path

import pytest

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import corpus
from knn_ner_jax.data.corpus import DataError

TEXT = "Ann Lee likes 🙂 Rome"
BRAT = "T1\tPER 0 7\tAnn Lee\nT2\tLOC 16 20\tRome\n"
WORDS, TAGS = ("Ann", "Lee", "likes", "🙂", "Rome"), ("B-PER", "I-PER", "O", "O", "B-LOC")


def write_brat(folder: Path) -> None:
    for split in ("train", "dev", "test"):
        (folder / split).mkdir()
        (folder / split / "one.txt").write_text(TEXT, encoding="utf-8")
        (folder / split / "one.ann").write_text(BRAT, encoding="utf-8")


def write_prodigy(folder: Path) -> None:
    spans = [{"start": 0, "end": 7, "label": "PER"}, {"start": 16, "end": 20, "label": "LOC"}]
    for split in ("train", "dev", "test"):
        record = {"text": TEXT, "spans": spans, "answer": "accept"}
        (folder / f"{split}.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")


def write_hipe(folder: Path) -> None:
    header = "TOKEN NE-COARSE-LIT NE-COARSE-METO NE-FINE-LIT NE-FINE-METO NE-FINE-COMP NE-NESTED NEL-LIT NEL-METO MISC"
    lines = [header.replace(" ", "\t"), "# document_id = d"]
    lines += [f"{word}\t{tag}" + "\tO" * 5 + "\t_" * 3 for word, tag in zip(WORDS, TAGS, strict=True)]
    for split in ("train", "dev", "test"):
        (folder / f"HIPE-2022-v2.1-x-{split}-en.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(("write", "name"), [(write_brat, "brat"), (write_prodigy, "prodigy"), (write_hipe, "hipe")])
def test_a_folder_of_exports_is_a_corpus(tmp_path: Path, write, name: str):
    write(tmp_path)
    for data in (DataConfig(str(tmp_path)), DataConfig(str(tmp_path), format=name)):
        actual = corpus.read_corpus(data)
        for split in actual.splits.values():
            assert [(sentence.words, sentence.tags) for sentence in split.sentences] == [(WORDS, TAGS)]
            assert len(split.sha256) == 64


def test_an_unknown_format_is_refused_with_the_list(tmp_path: Path):
    write_prodigy(tmp_path)
    with pytest.raises(DataError, match=r"^data\.format: expected auto or one of brat, doccano, .*, got brats$"):
        corpus.read_corpus(DataConfig(str(tmp_path), format="brats"))


def test_a_span_that_cuts_a_word_is_read_whole_or_refused(tmp_path: Path):
    write_prodigy(tmp_path)
    text = (tmp_path / "dev.jsonl").read_text().replace('"end": 20', '"end": 19')
    (tmp_path / "dev.jsonl").write_text(text)
    dev = corpus.read_corpus(DataConfig(str(tmp_path))).dev
    assert dev.sentences[0].tags == TAGS
    assert dev.skipped == {"span that cuts a word, read as the whole words": 1}
    with pytest.raises(DataError, match=r"dev\.jsonl:1: found the span 'Rom', which cuts 'Rome', expected"):
        corpus.read_corpus(DataConfig(str(tmp_path), cut_spans="refuse"))
