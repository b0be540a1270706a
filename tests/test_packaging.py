"""What a wheel holds: every module and file of data, the licence, and the command."""

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NEEDED = ("pyproject.toml", "README.md", "LICENSE", "knn_ner_jax")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built from a copy, because setuptools leaves a folder behind whose files the next build would take up."""
    folder = tmp_path_factory.mktemp("clone")
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "wheels", "."]
    subprocess.run(build, cwd=folder, check=True)
    [path] = (folder / "wheels").iterdir()
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel) -> email.message.Message:
    [name] = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_string(wheel.read(name).decode())


def test_every_module_and_every_file_of_data_is_in_it(wheel):
    files = {path.relative_to(ROOT) for path in (ROOT / "knn_ner_jax").rglob("*") if path.is_file()}
    expected = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected
    assert {"knn_ner_jax/py.typed", "knn_ner_jax/data/quickstart/train.conll"} <= expected


def test_the_licence_is_in_it_and_the_authors_are_named_without_an_address(wheel, metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    [name] = (name for name in wheel.namelist() if name.endswith("/LICENSE"))
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()
    assert metadata["Author"] == "the knn-ner-jax authors"
    assert metadata.get_all("Project-URL") is None


def test_it_brings_the_command(wheel):
    [name] = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert wheel.read(name).decode() == "[console_scripts]\nknn-ner = knn_ner_jax.cli:main\n"


def test_no_extra_but_its_own_and_the_benchmarks_brings_pytorch(metadata):
    requirements = [line for line in metadata.get_all("Requires-Dist") if line.startswith("torch>")]
    assert [line.partition("extra == ")[2] for line in requirements] == ['"bench"', '"torch"']
