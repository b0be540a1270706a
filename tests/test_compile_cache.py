"""What is compiled is kept for the next process, and what was cut off is not read forever."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from knn_ner_jax.compile_cache import FOLDER, SECONDS, clean, keep_programs, processor_folder

PROGRAM = """
import logging
logging.basicConfig(format="%(message)s")
logging.getLogger("jax._src.compiler").setLevel(logging.DEBUG)
from knn_ner_jax.compile_cache import keep_programs
keep_programs()
import jax
print(jax.jit(lambda x: (x @ x.T).sum())(jax.numpy.ones((3, 3))))
"""


def test_the_folder_is_the_users_unless_they_say_otherwise(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    keep_programs(environment)
    assert environment[FOLDER] == str(tmp_path / "knn-ner-jax" / processor_folder())
    assert Path(environment[FOLDER]).is_dir()
    assert environment[SECONDS] == "0"  # the small programs of a sentence, too
    for chosen in ("", str(tmp_path / "mine")):
        environment = {FOLDER: chosen, SECONDS: "3"}
        keep_programs(environment)
        assert environment == {FOLDER: chosen, SECONDS: "3"}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    keep_programs(environment)
    assert FOLDER not in environment


def test_entries_that_are_cut_off_are_deleted(tmp_path):
    whole = zlib.compress(os.urandom(1000))
    contents = {"whole": whole, "cut": whole[:-7], "empty": b"", "other": b"\x28\xb5\x2f\xfdxyz", "broken": b"\x78\x9cxyz"}
    for name, content in contents.items():
        (tmp_path / f"{name}-cache").write_bytes(content)
    clean(tmp_path)
    assert {entry.name for entry in tmp_path.glob("*-cache")} == {"whole-cache", "other-cache"}


def test_an_entry_that_another_process_deletes_meanwhile_is_passed_over(tmp_path):
    (tmp_path / "gone-cache").symlink_to(tmp_path / "nowhere")
    (tmp_path / "unreadable-cache").mkdir()
    (tmp_path / "cut-cache").write_bytes(zlib.compress(os.urandom(1000))[:-7])
    clean(tmp_path)
    assert not (tmp_path / "cut-cache").exists()


def test_the_oldest_entries_beyond_the_most_bytes_are_deleted(tmp_path):
    for age in range(4):
        entry = tmp_path / f"{age}-cache"
        entry.write_bytes(zlib.compress(bytes(range(100))))
        os.utime(entry, (1000 - age, 1000 - age))
    size = (tmp_path / "0-cache").stat().st_size
    clean(tmp_path, max_bytes=2 * size)
    assert {entry.name for entry in tmp_path.glob("*-cache")} == {"0-cache", "1-cache"}


@pytest.mark.parametrize("damage", [None, "cut off"])
def test_another_process_compiles_nothing_and_a_damaged_entry_anew(tmp_path, damage):
    environment = {name: value for name, value in os.environ.items() if name not in (FOLDER, SECONDS)}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), SECONDS: "0", "JAX_PLATFORMS": "cpu"}

    def run() -> tuple[str, str]:
        process = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        return process.stdout, process.stderr

    first = run()
    entries = list(tmp_path.rglob("*jit__lambda*-cache"))
    assert len(entries) == 1
    content = entries[0].read_bytes()
    if damage:
        entries[0].write_bytes(content[:-20])
    second = run()
    assert second[0] == first[0]
    assert "Error reading" not in second[1]
    assert zlib.decompress(entries[0].read_bytes())
    third = run()
    assert "Persistent compilation cache hit for 'jit__lambda'" in third[1]
