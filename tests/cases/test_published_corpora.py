"""Corpora that are read as published: the table of them, the script that reads them, and the commands of docs/data.md."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import corpus
from tools import corpora
from tools.pages import ROOT
from tools.published import COMMITS, CORPORA, Published

PAGE = ROOT / "docs" / "data.md"
EXAMPLE = Published(
    "Example (all)", "English", "a/b", "two columns",
    {"train": ("x/train.txt",), "dev": ("x/more/*.txt",), "test": ("gone.txt",)}, {"bare_type": "X"},
    {"train": 2}, {"train": 1},
)  # fmt: skip


def clone_of(tmp_path: Path) -> Path:
    for name, text in (("train.txt", "Ann\tB\n\nleft\tO\n"), ("more/1.txt", "Bo\tB\n"), ("more/2.txt", "left\tO\nRome\tB")):
        path = tmp_path / "a+b" / "x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "a+b"


def test_a_corpus_is_read_from_a_clone_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(COMMITS, "a/b", "abc")
    result = corpora.read(EXAMPLE, clone_of(tmp_path))
    assert {name: (split["sentences"], split["entities"]) for name, split in result["splits"].items()} == {
        "train": (2, 1),
        "dev": (2, 2),
    }
    assert (result["missing"], result["scheme"], result["commit"]) == (["test"], "BIO", "abc")
    assert "Ann" not in json.dumps(result)
    assert corpora.disagreements(EXAMPLE, result) == []
    result["splits"]["train"]["entities"] = 3
    assert corpora.disagreements(EXAMPLE, result) == ["train entities: 3, published 1"]


def test_the_commands_of_the_page_make_what_the_script_reads(tmp_path: Path):
    clone = clone_of(tmp_path)
    *making, check = corpora.commands(EXAMPLE, found=False)
    assert check == "knn-ner check example_all --data.bare_type X"
    subprocess.run(["bash", "-c", "\n".join(making[:-1])], cwd=tmp_path, check=True)
    copies = tmp_path / "copies"
    copies.mkdir()
    paths, _ = corpora.copy_splits(EXAMPLE, clone, copies)
    for path in paths.values():
        assert (tmp_path / "example_all" / path.name).read_bytes() == path.read_bytes()


def test_a_folder_that_can_be_read_as_it_lies_needs_no_copies(tmp_path: Path):
    published = Published("E", "", "a/b", "", {"train": ("d/train",), "dev": ("d/dev",), "test": ("d/test",)})
    for name in ("train", "dev", "test"):
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_text("a\tO\n")
    assert corpora.is_found(published, tmp_path)
    assert corpora.commands(published, found=True) == ["knn-ner check a+b/d"]
    (tmp_path / "d" / "train.more").write_text("a\tO\n")
    assert not corpora.is_found(published, tmp_path)


def test_the_page_says_what_the_results_say():
    results = corpora.load()
    assert len(results) >= 25
    text = PAGE.read_text(encoding="utf-8")
    assert corpora.replace_region(text, "corpora", corpora.page(results)) == text, "python -m tools.corpora --page"
    names = [published.name for published in CORPORA]
    assert len(names) == len(set(names))
    assert set(results) <= set(names)
    assert {published.repository for published in CORPORA} == set(COMMITS)


def commands_of_page() -> dict[str, str]:
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    block = next(block for block in blocks if "# WikiNER" in block)
    named = {
        part.partition("\n")[0]: part.partition("\n")[2] for part in re.split(r"^# ", block, flags=re.MULTILINE) if part
    }
    return named | {"dev": next(block for block in blocks if "train.jsonl" in block)}


def splits_of(folder: Path) -> dict[str, list[tuple[str, ...]]]:
    splits = corpus.read_corpus(DataConfig(str(folder))).splits
    return {name: [sentence.words for sentence in split.sentences] for name, split in splits.items()}


def test_a_dev_is_held_out_by_the_command_of_the_page(tmp_path: Path):
    (tmp_path / "all.conll").write_bytes(b"".join(b"w%d\tB-X\r\nx O \r\n\t\r\n" % number for number in range(1, 21)))
    records = [json.dumps({"tokens": [str(number)], "ner_tags": ["O"]}) for number in range(1, 21)]
    (tmp_path / "all.jsonl").write_text("\n".join(records) + "\n")
    subprocess.run(["bash", "-c", commands_of_page()["dev"]], cwd=tmp_path, check=True)
    split = corpus.read_splits({name: tmp_path / f"{name}.conll" for name in ("train", "dev")})[0]
    assert [sentence.words for sentence in split["dev"].sentences] == [("w10", "x"), ("w20", "x")]
    assert len(split["train"].sentences) == 18
    assert (tmp_path / "dev.jsonl").read_text().splitlines() == [records[9], records[19]]


def test_commands_of_corpora_that_were_not_at_hand_work_on_invented_files(tmp_path: Path):
    named = commands_of_page()
    twenty = range(1, 21)
    wikiner = "".join(f"Ann|NNP|I-PER left{number}|VBD|O\n\n" for number in twenty)
    (tmp_path / "aij-wikiner-en-wp2").write_text(wikiner)
    gmb = "Sentence #,Word,POS,Tag\n" + "".join(f'Sentence: {number},Bj\xf6rk,NNP,B-per\n,",",",",O\n' for number in twenty)
    (tmp_path / "ner_dataset.csv").write_bytes(gmb.encode("latin-1"))
    (tmp_path / "restauranttrain.bio").write_text("B-Dish\tsoup\nO\tplease\n\n" * 20)
    (tmp_path / "restauranttest.bio").write_text("O\tany\nB-Dish\tpie\n\n")
    for name in ("train", "testa", "testb"):
        (tmp_path / f"deu.{name}").write_bytes("K\xf6ln K\xf6ln NE I-NC I-LOC\n\nund und KON O O\n".encode("latin-1"))
    for script in named.values():
        if "jsonl" not in script:
            subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True)
    assert {name: len(split) for name, split in splits_of(tmp_path / "wikiner").items()} == {
        "train": 16,
        "dev": 2,
        "test": 2,
    }
    assert splits_of(tmp_path / "gmb")["dev"] == [("Bj\xf6rk", ",")] * 2
    assert len(splits_of(tmp_path / "gmb")["train"]) == 16
    assert splits_of(tmp_path / "mit") == {
        "train": [("soup", "please")] * 18,
        "dev": [("soup", "please")] * 2,
        "test": [("any", "pie")],
    }
    assert splits_of(tmp_path / "conll2003de")["test"] == [("K\xf6ln",), ("und",)]
