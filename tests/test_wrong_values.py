"""Every wrong value is one line that names the field, what was given and what is allowed, in a file and as an option."""

from pathlib import Path

import pytest
import yaml
from helpers.command_line import merged, mistake, with_yaml

from knn_ner_jax.config import flatten

SCHEMES = "auto, BIO, IOB1, BIOES, BMES, BILOU, IO"
METRICS = "cosine, ip, l2"


# Change to the configuration -> the message.
WRONG_VALUES = {
    "a word for an integer": ({"train": {"epochs": "x"}}, "train.epochs: expected an integer, got x"),
    "a fraction for an integer": ({"train": {"epochs": 1.5}}, "train.epochs: expected an integer, got 1.5"),
    "a word for a number": ({"train": {"warmup_ratio": "much"}}, "train.warmup_ratio: expected a number, got much"),
    "a word for an integer or null": ({"data": {"max_length": "x"}}, "data.max_length: expected an integer or null, got x"),
    "a word for true or false": (
        {"train": {"remat": "maybe"}},
        "train.remat: expected true or false, got maybe",
    ),
    "an integer for a list": ({"datastore": {"layers": 3}}, "datastore.layers: expected a list of an integer, got 3"),
    "null for an integer": ({"train": {"epochs": None}}, "train.epochs: expected an integer, got None"),
    "null for a choice": ({"train": {"dtype": None}}, "train.dtype: expected float32, bfloat16, got None"),
    "null for k": ({"knn": {"k": None}}, "knn.k: expected an integer or all or a list of an integer or all, got None"),
    "a wrong choice": ({"train": {"dtype": "float16"}}, "train.dtype: expected float32, bfloat16, got float16"),
    "a wrong scheme": (
        {"data": {"scheme": "IOE"}},
        f"data.scheme: expected {SCHEMES}, got IOE",
    ),
    "a wrong metric": ({"knn": {"metric": "dot"}}, f"knn.metric: expected {METRICS} or a list of {METRICS}, got dot"),
    "a wrong metric in a list": (
        {"knn": {"metric": ["ip", "dot"]}},
        f"knn.metric: expected {METRICS} or a list of {METRICS}, got dot",
    ),
    "a wrong word for k": (
        {"knn": {"k": "many"}},
        "knn.k: expected an integer or all or a list of an integer or all, got many",
    ),
    "temperature 0": ({"knn": {"temperature": 0}}, "knn.temperature: expected a finite number above 0, got 0.0"),
    "temperature -1": ({"knn": {"temperature": -1}}, "knn.temperature: expected a finite number above 0, got -1.0"),
    "temperature not a number": (
        {"knn": {"temperature": ".nan"}},
        "knn.temperature: expected a finite number above 0, got nan",
    ),
    "temperature infinite": ({"knn": {"temperature": ".inf"}}, "knn.temperature: expected a finite number above 0, got inf"),
    "temperature 0 in a list": (
        {"knn": {"temperature": [0.1, 0]}},
        "knn.temperature: expected a finite number above 0, got 0.0",
    ),
    "weight 1.1": ({"knn": {"knn_weight": 1.1}}, "knn.knn_weight: expected a weight in [0, 1], got 1.1"),
    "weight -0.1": ({"knn": {"knn_weight": -0.1}}, "knn.knn_weight: expected a weight in [0, 1], got -0.1"),
    "weight not a number": ({"knn": {"knn_weight": ".nan"}}, "knn.knn_weight: expected a weight in [0, 1], got nan"),
    "weight 1.1 in a list": ({"knn": {"knn_weight": [0, 1.1]}}, "knn.knn_weight: expected a weight in [0, 1], got 1.1"),
    "k 0": ({"knn": {"k": 0}}, "knn.k: expected at least 1, or all, got 0"),
    "k -1 in a list": ({"knn": {"k": [8, -1]}}, "knn.k: expected at least 1, or all, got -1"),
    "a k twice": ({"knn": {"k": [8, 1, 8]}}, "knn.k: expected no value twice, got [8, 1, 8]"),
    "all twice": ({"knn": {"k": ["all", "all"]}}, "knn.k: expected no value twice, got ['all', 'all']"),
    "a temperature twice": ({"knn": {"temperature": [1, 1.0]}}, "knn.temperature: expected no value twice, got [1.0, 1.0]"),
    "a metric twice": ({"knn": {"metric": ["ip", "ip"]}}, "knn.metric: expected no value twice, got ['ip', 'ip']"),
    "no k": ({"knn": {"k": []}}, "knn.k: expected a value or a list of values, got []"),
    "no layer": ({"datastore": {"layers": []}}, "datastore.layers: expected at least one layer, got []"),
    "whitening to rank 0": (
        {"datastore": {"whitening_dim": 0}},
        "datastore.whitening_dim: expected at least 1, got 0",
    ),
    "published temperature 0": (
        {"knn": {"published": {"temperature": 0}}},
        "knn.published.temperature: expected a finite number above 0, got 0.0",
    ),
    "published k 0": ({"knn": {"published": {"k": 0}}}, "knn.published.k: expected at least 1, or all, got 0"),
    "no evaluation": (
        {"train": {"evaluations_per_epoch": 0}},
        "train.evaluations_per_epoch: expected at least 1, got 0",
    ),
    "3 positions": (
        {"model": {"scratch": {"max_position_embeddings": 3}}},
        "model.scratch.max_position_embeddings: expected at least 4, got 3",
    ),
    "max_length 3": ({"data": {"max_length": 3}}, "data.max_length: expected at least 4, got 3"),
    "dropout 1": ({"model": {"dropout": 1}}, "model.dropout: expected a fraction in [0, 1), got 1.0"),
    "epochs -1": ({"train": {"epochs": -1}}, "train.epochs: expected at least 0, got -1"),
    "epochs 0 from scratch": (
        {"train": {"epochs": 0}, "model": {"backbone": "scratch", "scratch": {"vocab": "vocab.txt"}}},
        "train.epochs: expected at least 1 for a model from scratch, got 0",
    ),
    "epochs 0 and another head": (
        {"train": {"epochs": 0}, "model": {"head": "mlp"}},
        "model.head: expected linear where train.epochs is 0, got mlp",
    ),
    "a wrong head": ({"model": {"head": "crf"}}, "model.head: expected linear, mlp, got crf"),
    "learning rate 0": ({"train": {"learning_rate": 0}}, "train.learning_rate: expected a finite number above 0, got 0.0"),
    "learning rate infinite": (
        {"train": {"learning_rate": ".inf"}},
        "train.learning_rate: expected a finite number above 0, got inf",
    ),
    "warm-up 2": ({"train": {"warmup_ratio": 2}}, "train.warmup_ratio: expected a fraction in [0, 1], got 2.0"),
    "seed -1": ({"seed": -1}, "seed: expected 0 to 2147483647, got -1"),
    "seed beyond 31 bits": ({"seed": 2**31}, "seed: expected 0 to 2147483647, got 2147483648"),
    "scratch without vocabulary": (
        {"model": {"backbone": "scratch"}},
        "model.scratch.vocab: expected a vocabulary file, got none",
    ),
    "no attention head": (
        {"model": {"scratch": {"num_attention_heads": 0}}},
        "model.scratch.num_attention_heads: expected at least 1, got 0",
    ),
}


def plain(text: str) -> str:
    """YAML in which `.nan` and `.inf` are numbers."""
    return text.replace("'.nan'", ".nan").replace("'.inf'", ".inf")


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_a_wrong_value_in_yaml(tmp_path: Path, capsys: pytest.CaptureFixture, name: str):
    change, message = WRONG_VALUES[name]
    assert mistake(capsys, *with_yaml(tmp_path, plain(yaml.safe_dump(merged(change))))) == message


@pytest.mark.parametrize("name", [name for name in WRONG_VALUES if not name.startswith("null")])
def test_a_wrong_value_on_the_command_line(capsys: pytest.CaptureFixture, name: str):
    change, message = WRONG_VALUES[name]
    fields = flatten(merged(change))
    arguments = [
        text for field, value in fields.items() for text in (f"--{field}", yaml.safe_dump(value, default_flow_style=True))
    ]
    assert mistake(capsys, *(plain(text.removesuffix("...\n").strip()) for text in arguments)) == message
