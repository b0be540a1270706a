"""Every recipe of docs/paper/recipes.json is a configuration with the same values, written once."""

import functools
import json
import re
from pathlib import Path

import pytest
import yaml

from knn_ner_jax import cli
from knn_ner_jax.config import Config, flatten
from knn_ner_jax.io import with_bases

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs" / "paper"
RECIPES = {recipe["recipe"]: recipe for recipe in json.loads((ROOT / "docs/paper/recipes.json").read_text())["recipes"]}
RESULTS = json.loads((ROOT / "docs/paper/results.json").read_text())["rows"]
FAMILIES = {"roberta-large": "RoBERTa (byte-level BPE)", "ShannonAI/ChineseBERT-base": "ChineseBERT"}
FAMILIES["ShannonAI/ChineseBERT-large"] = "ChineseBERT"
ENGLISH = {"data/conll2003", "data/ontonotes5"}


@functools.cache
def parse(name: str, *options: str) -> Config:
    return cli.parse("train.py", "", Config, ["--config", str(CONFIGS / f"{name}.yaml"), *options])[0]


def as_recipe(config: Config) -> dict:
    """A configuration in the words of recipes.json."""
    model, train, published = config.model, config.train, config.knn.published
    return {
        "recipe": Path(config.run_dir).parent.name,
        "family": FAMILIES.get(model.backbone, "BERT"),
        "backbone": model.backbone,
        "learning_rate": train.learning_rate,
        "max_epochs": train.epochs,
        "max_length": config.data.max_length,
        "weight_decay": train.weight_decay,
        "hidden_dropout": model.dropout,
        "warmup_proportion": train.warmup_ratio,
        "train_batch_size": train.batch_size,
        "accumulate_grad_batches": train.gradient_accumulation_steps,
        "val_check_interval": 1 / train.evaluations_per_epoch if not train.evaluate_every else None,
        "head": model.head,
        "language": "en" if config.data.dir in ENGLISH else "zh",
        "knn": {
            "topk": -1 if published.k == "all" else published.k,
            "temperature": published.temperature,
            "knn_weight": published.knn_weight,
        },
    }


def test_there_is_a_configuration_for_every_recipe_and_no_other():
    assert len(RECIPES) == 22
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_value_is_the_recipes(name: str):
    expected, config = dict(RECIPES[name]), parse(name)
    if "grid" in expected["knn"]:
        expected["knn"] = {"topk": None, "temperature": None, "knn_weight": None}
    assert as_recipe(config) == expected
    assert config.seed == 2333
    assert config.train.max_grad_norm == float("inf")
    assert config.knn.metric == "cosine"
    assert (config.protocol, config.knn.selection) == ("words", "dev")
    assert config.run_dir == f"runs/paper/{name}/seed2333"


@pytest.mark.parametrize("name", RECIPES)
def test_dev_can_choose_the_published_k(name: str):
    config = parse(name)
    assert config.knn.published.k in (*config.knn.k, None)


@pytest.mark.parametrize("name", RECIPES)
def test_the_published_setting_is_taken_where_there_is_one(name: str, capsys: pytest.CaptureFixture):
    if "grid" not in RECIPES[name]["knn"]:
        assert parse(name, "--knn.selection", "published").knn.selection == "published"
        return
    with pytest.raises(SystemExit) as end:
        parse(name, "--knn.selection", "published")
    assert end.value.code == 2
    message = "knn.published: expected k, temperature and knn_weight, because knn.selection is published, got "
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_is_written_twice(name: str):
    merged: dict = {}
    for path in with_bases(CONFIGS / f"{name}.yaml"):
        own = flatten(yaml.safe_load(path.read_text()))
        own.pop("base", None)
        assert {key for key, value in own.items() if merged.get(key) == value} == set(), path
        merged |= own


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_has_the_commands_and_the_papers_row(name: str):
    header = " ".join(line[1:].strip() for line in (CONFIGS / f"{name}.yaml").read_text().splitlines() if line[0] == "#")
    for script in ("train", "eval"):
        assert f".venv/bin/knn-ner {script} --config configs/paper/{name}.yaml --data.dir DIR" in header
    found = re.findall(r"(tagger|\+kNN) (\d+\.\d+) / (\d+\.\d+) / (\d+\.\d+)", header)
    rows = [(row["precision"], row["recall"], row["f1"]) for row in RESULTS if row["dataset"] in header]
    if name.startswith("resume"):
        assert (found, rows) == ([], [])
        assert "no row" in header
    else:
        tagger, knn = (tuple(map(float, scores)) for _, *scores in found)
        assert rows.index(knn) == rows.index(tagger) + 1
