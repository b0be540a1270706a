"""One run of each family: train.py for an epoch, then eval.py, from a tiny random checkpoint in the published layout."""

import functools
import json
import shutil
from pathlib import Path

import pytest
from helpers import checkpoints

from knn_ner_jax import cli, sharding

RECIPES = Path(__file__).parent.parent / "configs" / "paper"
RECIPE_OF = {"bert": "weibo_bert_base_zh", "roberta": "conll_roberta_large", "chinesebert": "chinesebert_weibo_base"}
SHIPPED = Path(__file__).parent / "corpora" / "chinese"
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
SENTENCES = {"train": 40, "dev": 10, "test": 10}  # of a corpus in ../shared


def run(name: str, recipe: str, corpus: Path, backbone: Path) -> None:
    fields = {
        "config": RECIPES / f"{recipe}.yaml",
        "run_dir": "run",
        "data.dir": corpus,
        "data.max_length": checkpoints.POSITIONS,
        "data.pad_to_multiple_of": checkpoints.POSITIONS,
        "data.unseen_types": "miss",
        "model.backbone": backbone,
        "train.epochs": 1,
        "train.batch_size": 64,
        "train.gradient_accumulation_steps": 1,
        "train.evaluations_per_epoch": 1,
        "knn.selection": "published",
        "knn.prune": "false",
        "eval.batch_size": 128,
    }
    cli.run(name, f"{name}.py", [f"--{field}={value}" for field, value in fields.items()])


def check(folder: Path, corpus: Path) -> None:
    """Every word of test is predicted and remembered, and the scores are there."""
    results = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
    lines = (folder / "predictions" / "test.conll").read_text(encoding="utf-8").splitlines()
    words = [line.split("\t")[0] for line in (corpus / "test.conll").read_text(encoding="utf-8").splitlines()]
    assert [line.split("\t")[0] for line in lines if line] == [word for word in words if word]
    assert results["datastore"]["rows"] == results["corpus"]["train"]["words"] > 0
    assert 0 <= results["test"]["knn"]["f1"] <= 100


@pytest.fixture
def corpus(family: str, tmp_path: Path, tiny_corpus: Path) -> Path:
    """Sentences in the language of a family: the first of Weibo or WNUT-17, or those that come with the tests."""
    source = SHARED / ("wnut17" if family == "roberta" else "weibo")
    if not source.is_dir():
        return tiny_corpus if family == "roberta" else SHIPPED
    (tmp_path / "corpus").mkdir()
    for split, count in SENTENCES.items():
        sentences = (source / f"{split}.conll").read_text(encoding="utf-8").split("\n\n")[:count]
        (tmp_path / "corpus" / f"{split}.conll").write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    return tmp_path / "corpus"


def make(family: str, folder: Path, corpus: Path) -> Path:
    if family == "roberta":
        return checkpoints.roberta(folder)
    return {"bert": checkpoints.bert, "chinesebert": checkpoints.chinese_bert}[family](folder, checkpoints.words_of(corpus))


# ChineseBERT takes the longest way: pinyin, glyphs, an mlp head. The others are compared with PyTorch in tests/models, too.
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] * (name != "chinesebert")) for name in RECIPE_OF]
)
def test_a_recipe_of_each_family_trains_and_evaluates_without_its_backbone_at_hand(
    family, corpus, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sharding, "make_mesh", functools.partial(sharding.make_mesh, 1))
    backbone = make(family, tmp_path / "backbone", corpus)
    run("train", RECIPE_OF[family], corpus, backbone)
    shutil.rmtree(backbone)
    run("eval", RECIPE_OF[family], corpus, backbone)
    check(tmp_path / "run", corpus)
    if family == "chinesebert":
        assert json.loads((tmp_path / "run" / "model.json").read_text())["head"] == "mlp"
        capsys.readouterr()
        cli.run("predict", "predict.py", ["run", "李明在北京工作。"])
        output = capsys.readouterr().out.splitlines()[0]
        assert [character for character in output if character in "李明在北京工作。"] == list("李明在北京工作。")
