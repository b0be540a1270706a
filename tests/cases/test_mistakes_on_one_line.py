"""Small mistakes of configurations, paths and disks: one line that says what to do, and none of it slow."""

import errno
import gc
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.command_line import merged, mistake, options, parse, with_yaml

from knn_ner_jax import cli
from knn_ner_jax.ablation.config import AblationConfig
from knn_ner_jax.config import Config
from knn_ner_jax.io import InputError, is_disk_full, is_no_full_disk
from knn_ner_jax.run_dir import TrainedModel

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("content", ["", "# nothing but a comment\n", "---\n"])
def test_an_empty_configuration(tmp_path, capsys, content):
    message = mistake(capsys, *with_yaml(tmp_path, content), *options(merged({})))
    assert message == f"{tmp_path / 'config.yaml'}: expected the fields of a configuration, found an empty file"


def test_a_configuration_without_its_option(capsys):
    message = mistake(capsys, "configs/x.yaml", *options(merged({})))
    assert message == "configs/x.yaml: expected an option; write --config configs/x.yaml"
    assert mistake(capsys, "seed", *options(merged({}))) == "seed: expected an option; write --FIELD=VALUE, or --config FILE"


@pytest.mark.parametrize("words", [["[-1,-2]"], ["-1,-2"], ["-1", "-2"], ["[-1, -2]"]])
def test_lists_that_begin_with_minus(words):
    assert parse(*options(merged({})), "--datastore.layers", *words, "--seed", "3").datastore.layers == [-1, -2]
    assert parse(*options(merged({})), "--datastore.layers", "[0]", "--seed", "3").seed == 3


@pytest.mark.parametrize(
    ("text", "line", "key", "first"),
    [
        ("seed: 1\nrun_dir: x\nseed: 2\n", 3, "seed", 1),
        ("train:\n  epochs: 1\n  batch_size: 2\n  epochs: 2\n", 4, "epochs", 2),
    ],
)
def test_a_key_twice(tmp_path, capsys, text, line, key, first):
    message = mistake(capsys, *with_yaml(tmp_path, text), *options(merged({})))
    assert message == f"{tmp_path / 'config.yaml'}:{line}: expected each key once, found {key} again, first in line {first}"


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = parse(*options(merged({"run_dir": "~/run", "eval_dir": "~/evaluation"})))
    assert (config.run_dir, config.eval_dir) == (f"{tmp_path}/run", f"{tmp_path}/evaluation")
    assert AblationConfig(taggers="~/taggers").taggers == f"{tmp_path}/taggers"
    with_yaml(tmp_path, merged({"seed": 7}))
    assert cli.parse("train.py", "", Config, ["--config=~/config.yaml"])[0].seed == 7
    with pytest.raises(InputError, match=f"^{tmp_path}/run: expected a finished evaluation"):
        cli.check_paths("predict", {"eval_dir": "~/run"})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", ["--run_dir=r", "--data.dir=none", "--model.backbone=b"], "data.dir: expected a folder, got none"),
        (
            "train",
            ["--run_dir=r", "--data.dir=.", "--model.backbone=./none"],
            "model.backbone: expected a folder, got ./none",
        ),
        ("eval", ["--run_dir=r", "--data.dir=.", "--model.backbone=b"], "run_dir: r: expected a finished training"),
        ("predict", ["r", "text"], "r: expected a finished evaluation (eval.json), found none; evaluate first"),
        ("export", ["r", "x"], "run_dir: r: expected a finished training (train.json), found none; train first"),
    ],
)
def test_wrong_paths_are_refused_before_anything_heavy_is_imported(tmp_path, name, arguments, message):
    code = (
        "import sys; from knn_ner_jax import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print([name for name in ('jax', 'transformers', 'numpy') if name in sys.modules])"
    )
    started = time.perf_counter()
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    command = [sys.executable, "-c", code, name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert done.stderr.startswith(f"knn-ner {name}: error: {message}")
    assert done.stderr.count("\n") == 1
    assert time.perf_counter() - started < 60


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "run/x"),
        ValueError("... No space left on device [os_error_code='28']"),
    ],
)
def test_a_full_disk_is_one_line(monkeypatch, capsys, error):
    def main(**_: object) -> None:
        raise RuntimeError("save") from error

    monkeypatch.setattr("importlib.import_module", lambda _: SimpleNamespace(main=main))
    monkeypatch.setattr(cli, "check_paths", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        cli.run("predict", "predict.py", ["run", "text"])
    message = end.value.code  # which Python prints, and ends with 1
    assert message.startswith("predict.py: error: no space left for ")
    assert "\n" not in message
    assert not capsys.readouterr().err
    assert not is_disk_full(ValueError("space"))
    record = logging.LogRecord("orbax", logging.ERROR, "x.py", 1, "lost", (), (type(error), error, None))
    assert not is_no_full_disk(record)
    assert is_no_full_disk(logging.LogRecord("orbax", logging.ERROR, "x.py", 1, "lost", (), None))


# Orbax leaves coroutines behind that nobody waits for.
@pytest.mark.filterwarnings("ignore:coroutine", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_checkpoint_that_was_cut_is_named(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SystemExit) as end:
        cli.run("export", "export.py", [str(tmp_path / "run"), str(tmp_path / "out")])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"{tmp_path / 'run' / 'checkpoints'}" in message
    assert "expected a whole checkpoint, found a damaged one" in message
    gc.collect()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_of_a_run_that_was_cut_is_named(trained, tmp_path, name):
    shutil.copytree(trained / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    file = tmp_path / "run" / "tokenizer" / name
    for content in (b"", file.read_bytes()[:100], b"{}" * (name == "tokenizer.json"), b"\xff"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"run_dir: .*/tokenizer: expected the tokenizer of .*, found a damaged one"):
            TrainedModel.load(tmp_path / "run")
