"""The command line: every mistake is one line that names the field, what was given and what is allowed, and exit code 2."""

import dataclasses
import importlib
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from knn_ner_jax import cli
from knn_ner_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from knn_ner_jax.config_files import flatten
from knn_ner_jax.models import pretrained

ROOT = Path(__file__).parent.parent
REQUIRED = {"run_dir": "runs/x", "data": {"dir": "corpora/x"}, "model": {"backbone": "folder"}}
METRICS = "cosine, ip, l2"


def options(tree: dict) -> list[str]:
    return [text for name, value in flatten(tree).items() for text in (f"--{name}", str(value))]


def with_yaml(tmp_path: Path, content: str | bytes | dict) -> list[str]:
    path = tmp_path / "config.yaml"
    text = yaml.safe_dump(content) if isinstance(content, dict) else content
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ["--config", str(path)]


def merged(change: dict) -> dict:
    """The required fields and `change`."""
    tree = {name: dict(value) if isinstance(value, dict) else value for name, value in REQUIRED.items()}
    for name, value in change.items():
        tree[name] = tree.get(name, {}) | value if isinstance(value, dict) else value
    return tree


def parse(*arguments: str) -> Config:
    config, overwrite = cli.parse("train.py", "Trains.", Config, arguments)
    assert not overwrite
    return config


def mistake(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line that a mistake prints."""
    with pytest.raises(SystemExit) as end:
        cli.parse("train.py", "Trains.", Config, arguments)
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert captured.err.startswith("train.py: error: ")
    return captured.err.removeprefix("train.py: error: ").strip()


# change to the configuration -> the message
WRONG_VALUES = {
    "a word for an integer": ({"train": {"epochs": "x"}}, "train.epochs: expected an integer, got x"),
    "a fraction for an integer": ({"train": {"epochs": 1.5}}, "train.epochs: expected an integer, got 1.5"),
    "a word for a number": ({"train": {"warmup": "much"}}, "train.warmup: expected a number, got much"),
    "a word for an integer or null": ({"data": {"window": "x"}}, "data.window: expected an integer or null, got x"),
    "a word for true or false": (
        {"model": {"scratch": {"lowercase": "maybe"}}},
        "model.scratch.lowercase: expected true or false, got maybe",
    ),
    "an integer for a list": ({"datastore": {"layers": 3}}, "datastore.layers: expected a list of an integer, got 3"),
    "null for an integer": ({"train": {"epochs": None}}, "train.epochs: expected an integer, got None"),
    "null for a choice": ({"train": {"dtype": None}}, "train.dtype: expected float32, bfloat16, got None"),
    "null for k": ({"knn": {"k": None}}, "knn.k: expected an integer or all or a list of an integer or all, got None"),
    "a wrong choice": ({"train": {"dtype": "float16"}}, "train.dtype: expected float32, bfloat16, got float16"),
    "a wrong scheme": ({"data": {"scheme": "IOE"}}, "data.scheme: expected auto, BIO, IOB1, BIOES, BMES, BILOU, got IOE"),
    "a wrong metric": ({"knn": {"metric": "dot"}}, f"knn.metric: expected {METRICS} or a list of {METRICS}, got dot"),
    "a wrong metric in a list": (
        {"knn": {"metric": ["ip", "dot"]}},
        f"knn.metric: expected {METRICS} or a list of {METRICS}, got dot",
    ),
    "a wrong word for k": (
        {"knn": {"k": "many"}},
        "knn.k: expected an integer or all or a list of an integer or all, got many",
    ),
    "temperature 0": ({"knn": {"temperature": 0}}, "knn.temperature: expected more than 0, got 0.0"),
    "temperature -1": ({"knn": {"temperature": -1}}, "knn.temperature: expected more than 0, got -1.0"),
    "temperature not a number": ({"knn": {"temperature": ".nan"}}, "knn.temperature: expected more than 0, got nan"),
    "temperature infinite": ({"knn": {"temperature": ".inf"}}, "knn.temperature: expected more than 0, got inf"),
    "temperature 0 in a list": ({"knn": {"temperature": [0.1, 0]}}, "knn.temperature: expected more than 0, got 0.0"),
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
    "whitening to rank 0": ({"datastore": {"whiten": 0}}, "datastore.whiten: expected a rank of at least 1, got 0"),
    "published temperature 0": (
        {"knn": {"published": {"temperature": 0}}},
        "knn.published.temperature: expected more than 0, got 0.0",
    ),
    "published k 0": ({"knn": {"published": {"k": 0}}}, "knn.published.k: expected at least 1, or all, got 0"),
    "no evaluation": (
        {"train": {"evaluations_per_epoch": 0}},
        "train.evaluations_per_epoch: expected at least 1, got 0",
    ),
    "window 3": ({"data": {"window": 3}}, "data.window: expected at least 4, got 3"),
    "dropout 1": ({"model": {"dropout": 1}}, "model.dropout: expected a share in [0, 1), got 1.0"),
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
    "learning rate 0": ({"train": {"learning_rate": 0}}, "train.learning_rate: expected more than 0, got 0.0"),
    "learning rate infinite": ({"train": {"learning_rate": ".inf"}}, "train.learning_rate: expected more than 0, got inf"),
    "warm-up 2": ({"train": {"warmup": 2}}, "train.warmup: expected a share in [0, 1], got 2.0"),
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
    given = flatten(merged(change))
    arguments = [
        text for field, value in given.items() for text in (f"--{field}", yaml.safe_dump(value, default_flow_style=True))
    ]
    assert mistake(capsys, *(plain(text.removesuffix("...\n").strip()) for text in arguments)) == message


def names_of(section: str) -> str:
    group = {"": Config, "data": DataConfig, "train": TrainConfig}[section]
    return ", ".join(f"{section}.{field.name}".lstrip(".") for field in dataclasses.fields(group))


UNKNOWN = {
    "top level": ({"trian": 3}, "trian", ""),
    "a section at top level": ({"trian": {"epochs": 3}}, "trian.epochs", ""),
    "nested": ({"train": {"epoch": 3}}, "train.epoch", "train"),
    "nested, with a good one": ({"data": {"scheme": "BIO", "sheme": "BIO"}}, "data.sheme", "data"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_key_in_yaml_is_named_beside_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture, name: str):
    change, key, section = UNKNOWN[name]
    message = mistake(capsys, *with_yaml(tmp_path, merged(change)))
    assert message == f"{key}: no such field; expected one of {names_of(section)}"


@pytest.mark.parametrize(
    ("option", "key", "section"),
    [
        ("--trian", "trian", ""),
        ("--run-dir", "run-dir", ""),
        ("--train.learnig_rate", "train.learnig_rate", "train"),
        ("--train.batch-size", "train.batch-size", "train"),
        ("--train.epoch", "train.epoch", "train"),
    ],
)
@pytest.mark.parametrize("joined", [False, True], ids=["apart", "joined"])
def test_an_unknown_option_is_named_beside_the_known_ones(
    capsys: pytest.CaptureFixture, option: str, key: str, section: str, joined: bool
):
    message = mistake(capsys, *options(REQUIRED), *([f"{option}=3"] if joined else [option, "3"]))
    assert message == f"{key}: no such field; expected one of {names_of(section)}"


@pytest.mark.parametrize("field", ["run_dir", "data.dir", "model.backbone"])
@pytest.mark.parametrize("where", ["YAML", "options", "null"])
def test_a_missing_required_field(tmp_path: Path, capsys: pytest.CaptureFixture, field: str, where: str):
    tree = merged({})
    group, _, name = field.rpartition(".")
    (tree[group] if group else tree)[name] = None
    if where != "null":
        del (tree[group] if group else tree)[name]
    arguments = options(tree) if where == "options" else with_yaml(tmp_path, tree)
    assert mistake(capsys, *arguments) == f"{field}: expected text, got nothing"


def test_the_first_missing_field_is_named_when_nothing_is_given(capsys: pytest.CaptureFixture):
    assert mistake(capsys) == "run_dir: expected text, got nothing"


def test_a_missing_config_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture):
    message = mistake(capsys, "--config", str(tmp_path / "none.yaml"), *options(REQUIRED))
    assert "config" in message
    assert str(tmp_path / "none.yaml") in message


def test_a_folder_for_a_config_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture):
    message = mistake(capsys, "--config", str(tmp_path), *options(REQUIRED))
    assert "config" in message
    assert str(tmp_path) in message


@pytest.mark.parametrize(
    "text", ["run_dir: [x\nseed: 1\n", "a: b: c\n", "{", "- run_dir\n- data\n", "only text\n", "", b"run_dir: \xff\n"]
)
def test_a_config_file_that_is_no_yaml_mapping(tmp_path: Path, capsys: pytest.CaptureFixture, text: str | bytes):
    message = mistake(capsys, *with_yaml(tmp_path, text), *options(REQUIRED))
    assert "config" in message


def test_broken_yaml_is_located(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert re.search(r"config.*line 3", mistake(capsys, *with_yaml(tmp_path, "seed: 1\ntrain:\n  a: b: c\n")))


@pytest.mark.parametrize("section", ["data", "train", "datastore", "knn"])
@pytest.mark.parametrize("value", [5, "text", [1], None], ids=["integer", "text", "list", "null"])
def test_a_section_that_is_no_mapping(tmp_path: Path, capsys: pytest.CaptureFixture, section: str, value: object):
    message = mistake(capsys, *with_yaml(tmp_path, merged({}) | {section: value}))
    assert re.match(rf"{section}(\.dir)?: expected .*, got ", message)


@pytest.mark.parametrize("value", [True, False, "yes", None])
def test_overwrite_in_yaml_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture, value: object):
    message = mistake(capsys, *with_yaml(tmp_path, merged({"overwrite": value})))
    assert message.startswith("overwrite: ")


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("k", "8", 8),
        ("k", "all", "all"),
        ("k", "[1, 8]", [1, 8]),
        ("k", "[1, all]", [1, "all"]),
        ("k", "[all]", ["all"]),
        ("temperature", "0.5", 0.5),
        ("temperature", "1", 1.0),
        ("temperature", "3e-5", 3e-5),
        ("temperature", "[1e-3, 1]", [1e-3, 1.0]),
        ("knn_weight", "0", 0.0),
        ("knn_weight", "1", 1.0),
        ("knn_weight", "[0.0, 0.5, 1]", [0.0, 0.5, 1.0]),
        ("metric", "l2", "l2"),
        ("metric", "[cosine, ip, l2]", ["cosine", "ip", "l2"]),
    ],
)
def test_knn_settings_are_a_value_or_a_list(tmp_path: Path, field: str, text: str, value: object):
    from_yaml = parse(*with_yaml(tmp_path, f"knn: {{{field}: {text}}}"), *options(REQUIRED))
    from_options = parse(*options(REQUIRED), f"--knn.{field}", text)
    for config in (from_yaml, from_options):
        found = getattr(config.knn, field)
        assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["3e-5", "3E-5", "3.0e-05", "0.00003", "3e-05"])
def test_spellings_of_a_small_learning_rate(tmp_path: Path, text: str):
    from_yaml = parse(*with_yaml(tmp_path, f"train: {{learning_rate: {text}}}"), *options(REQUIRED))
    from_options = parse(*options(REQUIRED), "--train.learning_rate", text)
    assert from_yaml.train.learning_rate == from_options.train.learning_rate == 0.00003


def test_options_win_over_the_file_and_the_rest_keeps_its_defaults(tmp_path: Path):
    file = with_yaml(tmp_path, merged({"train": {"epochs": 9, "batch_size": 2}, "seed": 5}))
    assert parse(*file, "--train.epochs", "4") == Config(
        "runs/x", DataConfig("corpora/x"), ModelConfig("folder"), TrainConfig(epochs=4, batch_size=2), seed=5
    )


@pytest.mark.parametrize(("arguments", "overwrite"), [([], False), (["--overwrite"], True)])
def test_overwrite_is_a_flag(arguments: list[str], overwrite: bool):
    assert cli.parse("train.py", "Trains.", Config, [*options(REQUIRED), *arguments])[1] is overwrite


def all_fields(node: type = Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name of every leaf of the configuration, and its line in the docstring."""
    hints = typing.get_type_hints(node)
    for field in dataclasses.fields(node):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from all_fields(hints[field.name], f"{prefix}{field.name}.")
        else:
            described = re.search(rf"^ +{field.name}: (.+)$", node.__doc__ or "", re.MULTILINE)
            yield prefix + field.name, described[1] if described else "no description"


def test_help_mentions_and_describes_every_field(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as end:
        cli.parse("train.py", "Trains.", Config, ["--help"])
    captured = capsys.readouterr()
    assert end.value.code == 0
    assert captured.err == ""
    body = " ".join(captured.out.partition("options:")[2].split())
    fields = dict(all_fields())
    assert len(fields) > 30
    assert [name for name in (*fields, "config", "overwrite") if f"--{name} " not in body] == []
    assert [name for name, described in fields.items() if described not in body] == []


def test_a_printed_configuration_parses_to_itself(tmp_path: Path, capsys: pytest.CaptureFixture):
    arguments = [
        *options(merged({"data": {"scheme": "BMES"}, "train": {"learning_rate": "3e-5"}, "eval_dir": "été/x"})),
        *("--knn.k", "[8, all]", "--knn.temperature", "1e-3", "--datastore.layers", "[-1, 0]", "--data.window", "64"),
    ]
    with pytest.raises(SystemExit) as end:
        cli.parse("train.py", "Trains.", Config, [*arguments, "--print_config"])
    printed = capsys.readouterr().out
    assert end.value.code == 0
    assert set(flatten(yaml.safe_load(printed))) == {name for name, _ in all_fields()}
    assert parse(*with_yaml(tmp_path, printed)) == parse(*arguments)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configurations_that_come_with_the_package_parse(path: Path):
    assert parse("--config", str(path)).run_dir == f"runs/{path.stem}"


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch):
    """Whatever reaches for a model fails."""

    def fail(*_: object) -> None:
        raise AssertionError("reached for a model")

    for name in ("locate", "open_backbone", "scratch_backbone"):
        monkeypatch.setattr(pretrained, name, fail)


@pytest.mark.parametrize("script", ["train", "eval"])
def test_scripts_end_with_2_on_a_bad_value_before_any_model(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, no_model: None, script: str
):
    file = with_yaml(tmp_path, merged({"run_dir": str(tmp_path / "run"), "knn": {"temperature": 0}}))
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *file])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(script).main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"{script}.py: error: knn.temperature: expected more than 0, got 0.0\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a", "train.txt:1: found 'a', expected a token, then a tag (O or B-TYPE)"),
        ("a O", "train.txt: expected at least one entity, found none"),
    ],
)
def test_training_refuses_a_bad_corpus_before_any_model(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    no_model: None,
    line: str,
    message: str,
):
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{line}\n")
    tree = merged({"run_dir": str(tmp_path / "run"), "data": {"dir": str(tmp_path)}})
    monkeypatch.setattr(sys, "argv", ["train.py", *options(tree)])
    with pytest.raises(SystemExit) as end:
        importlib.import_module("train").main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_bad_value_ends_the_process_without_importing_an_architecture(tmp_path: Path):
    code = (
        "import sys, train\n"
        "try:\n    train.main()\n"
        "except SystemExit as end:\n    print(end.code)\n"
        "print([name for name in sys.modules if name.startswith('transformers.models.') and '.modeling_' in name\n"
        "       and not name.startswith('transformers.models.auto.')])\n"
    )
    arguments = with_yaml(tmp_path, merged({"train": {"epochs": -1}}))
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n[]\n"
    assert done.stderr == "train.py: error: train.epochs: expected at least 0, got -1\n"
