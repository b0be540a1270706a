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
from helpers.command_line import REQUIRED, merged, mistake, options, parse, with_yaml

from knn_ner_jax import cli
from knn_ner_jax.config import Config, DataConfig, ModelConfig, TrainConfig, flatten
from knn_ner_jax.models import pretrained

ROOT = Path(__file__).parent.parent


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
        *("--knn.k", "[8, all]", "--knn.temperature", "1e-3", "--datastore.layers", "[-1, 0]", "--data.max_length", "64"),
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
