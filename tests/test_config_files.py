"""Configuration files that build on others: who wins, what is refused, and that nothing of it is stored."""

from pathlib import Path

import pytest
import yaml

from knn_ner_jax import cli
from knn_ner_jax.config import Config
from knn_ner_jax.io import InputError, with_bases
from knn_ner_jax.run_dir import save_config

REQUIRED = {"run_dir": "runs/x", "data": {"dir": "corpora/x"}, "model": {"backbone": "folder"}}


@pytest.fixture
def write(tmp_path: Path):
    """Writes a configuration file of this name and returns its path."""

    def write(name: str, content: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


def parse(*arguments: object) -> Config:
    return cli.parse("train.py", "", Config, [str(argument) for argument in arguments])[0]


@pytest.fixture
def family(write) -> Path:
    """A file, its two bases in another folder, and the base of both."""
    write(
        "pieces/all.yaml",
        {"seed": 1, "train": {"epochs": 1, "batch_size": 1, "gradient_accumulation_steps": 1, "warmup_ratio": 0.0}},
    )
    write(
        "pieces/left.yaml", {"base": ["all.yaml"], "train": {"epochs": 2, "batch_size": 2, "gradient_accumulation_steps": 2}}
    )
    write("pieces/right.yaml", {"base": ["all.yaml"], "train": {"epochs": 3, "batch_size": 3}})
    bases = ["../pieces/left.yaml", "../pieces/right.yaml"]
    return write("recipes/x.yaml", {"base": bases, "train": {"epochs": 4}, "knn": {"published": {"k": "all"}}, **REQUIRED})


def test_later_bases_and_the_file_itself_win_and_a_shared_base_comes_first(family: Path):
    train = parse("--config", family).train
    assert (train.epochs, train.batch_size, train.gradient_accumulation_steps, train.warmup_ratio) == (4, 3, 2, 0.0)
    assert parse("--config", family).seed == 1
    assert [path.name for path in with_bases(family)] == ["all.yaml", "left.yaml", "right.yaml", "x.yaml"]


def test_a_shared_base_that_is_spelt_in_two_ways_counts_once(write):
    write("all.yaml", {"seed": 1})
    write("a/left.yaml", {"base": ["../all.yaml"], "seed": 2})
    write("b/right.yaml", {"base": ["../all.yaml"]})
    assert parse("--config", write("x.yaml", {"base": ["a/left.yaml", "b/right.yaml"], **REQUIRED})).seed == 2


def test_options_win_over_every_file(family: Path):
    for arguments in (["--config", family, "--train.warmup_ratio", 0.5], [f"--config={family}", "--train.warmup_ratio=0.5"]):
        assert parse(*arguments).train.warmup_ratio == 0.5


def test_a_second_config_wins_over_the_first_and_its_bases(family: Path, write):
    other = write("other.yaml", {"train": {"batch_size": 9}})
    assert parse("--config", family, "--config", other).train.batch_size == 9


def test_the_folder_it_is_started_in_does_not_matter(family: Path, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path / "recipes")
    assert parse("--config", "x.yaml") == parse("--config", family)


def test_what_is_stored_and_printed_has_no_base(family: Path, tmp_path: Path, capsys):
    config = parse("--config", family)
    save_config(tmp_path / "run" / "config.yaml", config)
    assert "base" not in yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert parse("--config", tmp_path / "run" / "config.yaml") == config
    with pytest.raises(SystemExit):
        parse("--config", family, "--print_config")
    assert "base" not in yaml.safe_load(capsys.readouterr().out)


def test_help_explains_base_and_it_is_no_option(capsys, family: Path):
    with pytest.raises(SystemExit):
        parse("--help")
    assert "`base: [" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        parse("--config", family, "--base", "[x.yaml]")
    assert "base: no such field" in capsys.readouterr().err


def refused(capsys, path: Path) -> str:
    with pytest.raises(SystemExit) as end:
        parse("--config", path)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1
    return error


def test_a_missing_base_names_both_files(write, capsys):
    path = write("a/x.yaml", {"base": ["../b/none.yaml"], **REQUIRED})
    message = refused(capsys, path)
    assert f"{path}: base: expected a file, got ../b/none.yaml" in message
    assert str(path.parent / "../b/none.yaml") in message


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_cycle_names_two_of_its_files(write, capsys, length):
    names = [f"{number}.yaml" for number in range(length)]
    paths = [
        write(name, {"base": [follower], **REQUIRED}) for name, follower in zip(names, [*names[1:], names[0]], strict=True)
    ]
    message = refused(capsys, paths[0])
    assert f"{paths[-1]}: base: expected a file that does not build on this one, got {names[0]}" in message


@pytest.mark.parametrize("base", ["x.yaml", 3, {"a": "b"}, [1], None])
def test_a_base_that_is_no_list_of_files(write, base):
    path = write("x.yaml", {"base": base, **REQUIRED})
    with pytest.raises(InputError, match="base: expected a list of files, got "):
        with_bases(path)


def test_a_mistake_in_a_base_is_reported_like_any_other(write, capsys):
    write("base.yaml", "seed: 1\ntrain:\n  a: b: c\n")
    assert "line 3" in refused(capsys, write("x.yaml", {"base": ["base.yaml"], **REQUIRED}))
    write("base.yaml", {"train": {"epoch": 3}})
    assert "train.epoch: no such field" in refused(capsys, write("x.yaml", {"base": ["base.yaml"], **REQUIRED}))
