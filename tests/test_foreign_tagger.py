"""A tagger fine-tuned elsewhere gains neighbours without training, and goes back to transformers as it was."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from helpers.sentences import quickstart_lines

from knn_ner_jax import cli, sharding
from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.main import train
from knn_ner_jax.models import pretrained
from knn_ner_jax.models.tagger import Tagger
from knn_ner_jax.run_dir import TrainedModel

SENTENCES = 30


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small train and dev, and some sentences to test on."""
    folder = tmp_path_factory.mktemp("corpus")
    for split, source, count in (("train", "dev", 16), ("dev", "test", 16), ("test", "train", SENTENCES)):
        (folder / f"{split}.conll").write_text(quickstart_lines(source, count), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda num_devices=1: make_mesh(num_devices))


def save_foreign(folder: Path, minilm: Path, names: list[str]) -> transformers.BertForTokenClassification:
    """A random tagger, its outputs in an order of their own."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    model = transformers.BertForTokenClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=1.0 if name.endswith("LayerNorm.weight") else 0.0, std=0.2)
    model.eval().save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return model


def test_a_foreign_tagger_evaluates_untrained_with_its_own_labels_and_goes_back(corpus, minilm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    actual = read_corpus(DataConfig(str(corpus)))
    types = sorted(
        {tag[2:] for split in (actual.train, actual.dev, actual.test) for s in split.sentences for tag in s.tags} - {""}
    )
    names = (
        np.random.default_rng(0).permutation(["O", *(f"{prefix}-{type_}" for type_ in types for prefix in "BI")]).tolist()
    )
    model = save_foreign(tmp_path / "foreign", minilm, names)
    fields = ["--run_dir=run", f"--data.dir={corpus}", "--model.backbone=foreign", "--train.epochs=0", "--knn.k=4"]
    fields += ["--data.pad_to_multiple_of=128", "--knn.temperature=0.1", "--knn.knn_weight=0.3", "--knn.prune=false"]
    for name in ("train", "eval"):
        cli.run(name, f"{name}.py", fields)
    summary = json.loads((tmp_path / "run" / "train.json").read_text())
    assert (summary["steps"], summary["best_step"]) == (0, 0)

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "foreign")
    text = (tmp_path / "run" / "predictions" / "test.conll").read_text(encoding="utf-8").strip()
    predictions = [[line.split("\t") for line in block.splitlines()] for block in text.split("\n\n")]
    assert len(predictions) == SENTENCES
    exported = go_back(tmp_path)
    order = [exported.config.label2id[name] for name in names]
    labels = set()
    for rows in predictions:
        encoded = tokenizer([row[0] for row in rows], is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**encoded).logits[0]
            np.testing.assert_allclose(exported(**encoded).logits[0][:, order], logits, rtol=0, atol=1e-4)
        first = [encoded.word_ids().index(word) for word in range(len(rows))]
        expected = [names[label] for label in logits[first].argmax(dim=-1)]
        assert [row[2] for row in rows] == expected
        labels |= set(expected)
    assert len(labels) > 3


def go_back(folder: Path) -> transformers.PreTrainedModel:
    cli.run("export", "export.py", [str(folder / "run"), str(folder / "back")])
    return transformers.AutoModelForTokenClassification.from_pretrained(folder / "back").eval()


def test_an_unfinished_training_and_one_of_pieces_are_not_exported(tmp_path, capsys, tiny_backbone):
    def refused() -> str:
        with pytest.raises(SystemExit) as end:
            cli.run("export", "export.py", [str(tmp_path / "run"), str(tmp_path / "back")])
        assert end.value.code == 2
        return capsys.readouterr().err

    backbone = pretrained.open_backbone(tiny_backbone)
    label_set = LabelSet(("X",), "wang2022")
    model = TrainedModel(Tagger(backbone.config, len(label_set)), label_set, 64, backbone.tokenizer)
    (tmp_path / "run").mkdir()
    model.save(tmp_path / "run")
    assert "expected a finished training (train.json), found none" in refused()
    (tmp_path / "run" / "train.json").write_text("{}")
    assert "protocol: expected a run with words, got wang2022" in refused()
    (tmp_path / "run" / "model.json").write_text("{}")
    assert "model.json: expected what this version writes" in refused()
    assert not (tmp_path / "back").exists()


def test_types_that_the_foreign_tagger_does_not_know_are_refused(corpus, minilm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_foreign(tmp_path / "foreign", minilm, ["O", "B-PER", "I-PER"])
    fields = ["--run_dir=run", f"--data.dir={corpus}", "--model.backbone=foreign", "--train.epochs=0"]
    with pytest.raises(SystemExit):
        cli.run("train", "train.py", fields)
    assert "train and dev and test have types that the backbone does not have" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_process_that_dies_after_scoring_an_untrained_tagger_is_started_again(
    corpus, tiny_backbone, tmp_path, monkeypatch
):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    types = sorted({tag[2:] for s in read_corpus(DataConfig(str(corpus))).train.sentences for tag in s.tags if tag != "O"})
    names = ["O", *(f"{prefix}-{type_}" for type_ in types for prefix in "BI")]
    save_foreign(tmp_path / "foreign", tiny_backbone, names)
    fields = ["--run_dir=run", f"--data.dir={corpus}", "--model.backbone=foreign", "--train.epochs=0"]
    fields.append("--data.unseen_types=miss")
    with monkeypatch.context() as patch:
        patch.setattr(train, "summarise", die)
        with pytest.raises(SystemExit):
            cli.run("train", "train.py", fields)
    assert (tmp_path / "run" / "checkpoints" / "0").exists()
    cli.run("train", "train.py", fields)
    assert json.loads((tmp_path / "run" / "train.json").read_text())["best_step"] == 0
