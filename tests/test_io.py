"""Paths as users write them, atomic writes, and how little is imported to find a mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from knn_ner_jax import io
from knn_ner_jax.io import InputError, atomic_path, file_sha256, resolve_path, write_json

HEAVY = {"jax", "numpy", "transformers", "torch", "datasets", "flax", "rich", "filelock"}


def test_a_package_path_is_found_without_importing_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "package_that_fails_to_import"
    (package / "corpora" / "small").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = f"pip:{package.name}/corpora/small"
    assert resolve_path(path) == package / "corpora" / "small"
    assert resolve_path(f"pip:{package.name}") == package
    assert package.name not in sys.modules
    with pytest.raises(InputError, match=f"^pip:{package.name}/nothing: the package {package.name} has no nothing$"):
        resolve_path(f"pip:{package.name}/nothing")


@pytest.mark.parametrize("package", ["no_such_package", "no_such_package.inner", "", ".", "math"])
def test_a_package_path_without_an_installed_package_is_refused(package: str):
    with pytest.raises(InputError) as error:
        resolve_path(f"pip:{package}/corpora")
    assert str(error.value) == f"pip:{package}/corpora: expected an installed package named {package!r}, found none"


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert resolve_path("~/corpora") == Path("/somewhere/corpora")
    assert resolve_path("corpora") == Path("corpora")


def test_json_is_written_in_utf8_and_replaces_what_was_there(tmp_path: Path):
    path = tmp_path / "a.json"
    for content in ({"a": 1}, {"type": "Ö", "values": [1, 2.5, None]}):
        write_json(path, content)
        assert json.loads(path.read_bytes()) == content
    assert "Ö".encode() in path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"first": list(range(10000)), "second": object()})
    assert json.loads(path.read_bytes()) == {"a": 1}


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    write_json(tmp_path / "a.json", {"a": 1})
    monkeypatch.setattr(*((io.os, "fsync", fail) if function == "fsync" else (Path, "replace", fail)))
    for name in ("a.json", "b.json"):
        with pytest.raises(OSError, match="disk full"):
            write_json(tmp_path / name, {"a": 2})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"a": 1}
    assert not (tmp_path / "b.json").exists()


def test_what_is_written_in_a_block_that_fails_does_not_replace_the_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail_half_way() -> None:
        with atomic_path(path) as part:
            part.write_text("af")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert path.read_text() == "before"


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path):
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def imported_by(program: str) -> set[str]:
    """The packages that a program has imported at its end."""
    code = f"import sys\ntry:\n    {program}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in process.stderr.splitlines()[-1].split()}


def test_the_configuration_imports_nothing_heavy():
    assert not imported_by("import knn_ner_jax.config, knn_ner_jax.io") & HEAVY


@pytest.mark.parametrize("command", ["check", "convert"])
@pytest.mark.parametrize("arguments", [["--help"], ["--no_such_option"]])
def test_help_and_wrong_options_of_a_command_import_no_model_code(command: str, arguments: list[str]):
    program = f"from knn_ner_jax import cli; cli.main([{command!r}, *{arguments}])"
    assert not imported_by(program) & (HEAVY - {"numpy"})
