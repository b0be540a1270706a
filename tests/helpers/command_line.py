"""Command lines and configuration files of tests, and the one line that a mistake prints."""

from pathlib import Path

import pytest
import yaml

from knn_ner_jax import cli
from knn_ner_jax.config import Config, flatten

REQUIRED = {"run_dir": "runs/x", "data": {"dir": "corpora/x"}, "model": {"backbone": "folder"}}


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
