"""The command line: every mistake is one line that names the field, what was given and what is allowed, and exit code 2."""

import dataclasses
import importlib
import os
import re
import signal
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers.command_line import REQUIRED, merged, mistake, options, parse, with_yaml

import knn_ner_jax
from knn_ner_jax import cli
from knn_ner_jax.config import Config, DataConfig, ModelConfig, TrainConfig, flatten
from knn_ner_jax.io import InputError, NonFiniteLossError, Preempted
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
    assert mistake(capsys, *arguments) == f"{field}: expected text, got nothing; give --config FILE or --{field}"


def test_the_first_missing_field_is_named_when_nothing_is_given(capsys: pytest.CaptureFixture):
    assert mistake(capsys) == "run_dir: expected text, got nothing; give --config FILE or --run_dir"


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
    assert [name for name in (*fields, "config", "overwrite") if not re.search(rf"--{re.escape(name)}[ ,]", body)] == []
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


@pytest.mark.parametrize("name", ["train", "eval"])
@pytest.mark.parametrize("program", ["{}.py", "knn-ner {}"])
def test_commands_end_with_2_on_a_bad_value_before_any_model(
    tmp_path: Path, capsys: pytest.CaptureFixture, no_model: None, name: str, program: str
):
    file = with_yaml(tmp_path, merged({"run_dir": str(tmp_path / "run"), "knn": {"temperature": 0}}))
    with pytest.raises(SystemExit) as end:
        cli.run(name, program.format(name), file)
    assert end.value.code == 2
    assert (
        capsys.readouterr().err
        == f"{program.format(name)}: error: knn.temperature: expected a finite number above 0, got 0.0\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a", "train.txt:1: found 'a', expected a token, then a tag (O or B-TYPE)"),
        ("a O", "train.txt: expected at least one entity, found none"),
    ],
)
def test_training_refuses_a_bad_corpus_before_any_model(
    tmp_path: Path, capsys: pytest.CaptureFixture, no_model: None, line: str, message: str
):
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{line}\n")
    tree = merged({"run_dir": str(tmp_path / "run"), "data": {"dir": str(tmp_path)}})
    with pytest.raises(SystemExit) as end:
        cli.run("train", "train.py", options(tree))
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


HEAVY = ("jax", "flax", "optax", "orbax", "transformers", "tokenizers", "torch", "seqeval", "pandas", "matplotlib", "numpy")
LIGHT_CODE = f"""
import sys
import knn_ner_jax
assert len(sys.modules) < 200, len(sys.modules)
from knn_ner_jax import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as end:
    print("exit", end.code)
print("imported", [name for name in {HEAVY} if name in sys.modules])
"""


def run_process(*arguments: str) -> subprocess.CompletedProcess:
    """Run `knn-ner` in a process of its own, away from the clone; it prints its exit code and what it has imported."""
    command, environment = [sys.executable, "-c", LIGHT_CODE, *arguments], os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd="/", check=True, env=environment)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["predict", "--help"], ["export", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]):
    done = run_process(*arguments)
    assert done.stdout.endswith("exit 0\nimported []\n")
    assert done.stdout.startswith(f"usage: knn-ner {arguments[0] if len(arguments) == 2 else 'COMMAND'}")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["eval", "--help"], ["ablate", "--help"]])
def test_help_of_the_other_configured_commands_imports_nothing_heavy(arguments: list[str]):
    assert run_process(*arguments).stdout.endswith("exit 0\nimported []\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tran"], f"knn-ner: error: expected one of {', '.join(cli.COMMANDS)}, got tran\n"),
        (["ablate", "--ablation.seeds=[]"], "knn-ner ablate: error: "),
        (["predict", "run", "--neighbors=3"], "knn-ner predict: error: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_wrong_command_or_option_ends_with_2_and_imports_nothing_heavy(arguments: list[str], message: str):
    done = run_process(*arguments)
    assert done.stdout == "exit 2\nimported []\n"
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_the_version_is_printed(capsys: pytest.CaptureFixture):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"{knn_ner_jax.__version__}\n"


def test_a_configuration_file_that_is_missing_is_named(capsys: pytest.CaptureFixture, tmp_path: Path):
    path = tmp_path / "none.yaml"
    assert mistake(capsys, "--config", str(path)) == f"config: expected a file, found no {path}"


def test_what_cannot_go_on_does_not_promise_it(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    def main(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "check_paths", lambda *_: None)
    monkeypatch.setattr(importlib, "import_module", lambda _: SimpleNamespace(main=main))
    with pytest.raises(SystemExit):
        cli.main(["predict", "run", "text"])
    assert capsys.readouterr().err == "knn-ner predict: stopped\n"


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 2
    printed = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.description)}$", printed, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if (ROOT / f"{name}.py").exists()])
def test_every_script_of_the_clone_is_the_command_of_its_name(name: str):
    assert f'run("{name}", "{name}.py")' in (ROOT / f"{name}.py").read_text()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("run_dir: gone"), 2, "knn-ner train: error: run_dir: gone\n"),
        (NonFiniteLossError("step 4: loss nan"), "knn-ner train: error: step 4: loss nan", ""),
        (Preempted("stopped by SIGTERM"), 128 + signal.SIGTERM, "stopped by SIGTERM\n"),
        (KeyboardInterrupt(), 128 + signal.SIGINT, "knn-ner train: stopped; started again it goes on\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_how_a_command_ends(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int | str, message: str
):
    def main(config: Config, overwrite: bool) -> None:
        raise error

    monkeypatch.setattr(cli, "check_paths", lambda *_: None)
    monkeypatch.setattr(importlib, "import_module", lambda _: SimpleNamespace(main=main))
    with pytest.raises(SystemExit) as end:
        cli.main(["train", *options(REQUIRED)])
    assert end.value.code == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(("program", "expected"), [("train.py", "python eval.py"), ("knn-ner train", "knn-ner eval")])
def test_after_training_the_next_command_is_printed(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, program: str, expected: str
):
    calls = []
    monkeypatch.setattr(cli, "check_paths", lambda *_: None)
    monkeypatch.setattr(importlib, "import_module", lambda _: SimpleNamespace(main=lambda **given: calls.append(given)))
    cli.run("train", program, ["--run_dir", "runs/a b", *options(REQUIRED)[2:], "--overwrite"])
    assert capsys.readouterr().out == f"next: {expected} --run_dir 'runs/a b' {' '.join(options(REQUIRED)[2:])}\n"
    (call,) = calls
    assert call["overwrite"]
    assert call["config"].run_dir == "runs/a b"


def test_words_of_a_corpus_command_are_passed_on(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def module(name: str) -> SimpleNamespace:
        return SimpleNamespace(main=lambda argv: calls.append((name, argv)))

    monkeypatch.setattr(cli, "check_paths", lambda *_: None)
    monkeypatch.setattr(importlib, "import_module", module)
    cli.main(["check", "some folder", "--json"])
    assert calls == [("knn_ner_jax.main.check", ["some folder", "--json"])]


def test_paths_of_one_of_several_hosts_are_checked_once_they_can_tell_each_other(tmp_path, monkeypatch):
    config = Config("run", DataConfig(str(tmp_path / "nowhere")), ModelConfig("folder"))
    with pytest.raises(InputError, match=r"data\.dir"):
        cli.check_paths("train", {"config": config})
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1234")
    cli.check_paths("train", {"config": config})
