"""What `make chips` and `make bench-accelerator` run: what they keep, what they refuse, and what they count."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from knn_ner_jax import sharding
from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.knn.inference import Retrieved
from knn_ner_jax.knn.search import SearchResult
from knn_ner_jax.knn.topk import Neighbours
from tools.chips import __main__ as chips
from tools.chips import compile, measure, programs, target
from tools.chips.target import Target

ROOT = Path(__file__).parent.parent


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=outside, capture_output=True, text=True)


def test_an_accelerator_is_measured_in_the_environment_that_is_there():
    steps = make("-n", "bench-accelerator").stdout
    assert "tools.chips.measure" in steps
    assert "pip" not in steps
    assert "-m venv" not in steps


def test_an_environment_that_is_missing_is_named(tmp_path: Path):
    missing = tmp_path / "none"
    done = make("bench-accelerator", f"VENV={missing}")
    assert done.returncode != 0
    told = f"expected {missing}/bin/python, found none: create {missing} as docs/scaling.md says"
    assert done.stdout == f"bench-accelerator: {told}\n"


def test_a_cpu_is_not_measured_in_place_of_an_accelerator(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"expected a GPU or TPU, found only a CPU: install JAX for the device"):
        measure.main(["--folder", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def compiled_by_make_chips(folder: Path, monkeypatch: pytest.MonkeyPatch, judges: str = "aaa", libtpu: str = "1") -> int:
    """How many programs are compiled when `make chips` is asked for one, at some revision of its own files and compiler."""
    compiled = []

    def compile_apart(*what):
        compiled.append(what)
        return {"out_of_memory": "more than there is", "broken": []}

    def revision_of(checkout, paths=chips.PACKAGE):
        return ("bbb" if paths == chips.PACKAGE else judges), "2026-11-30"

    monkeypatch.setattr(chips, "compile_apart", compile_apart)
    monkeypatch.setattr(chips, "revision_of", revision_of)
    monkeypatch.setattr(chips, "has_compiler", lambda _: True)
    monkeypatch.setattr(chips, "compilers", lambda _: {"libtpu": libtpu})
    monkeypatch.setattr(sys, "argv", ["chips", "v5e-8/tag-tiny-8x32-k4-512", "--folder", str(folder)])
    chips.main()
    return len(compiled)


def test_a_result_is_kept_until_what_decided_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for judges, libtpu in [("aaa", "1"), ("ccc", "1"), ("ccc", "2")]:
        assert compiled_by_make_chips(tmp_path, monkeypatch, judges, libtpu) == 1
        assert compiled_by_make_chips(tmp_path, monkeypatch, judges, libtpu) == 0
        (path,) = tmp_path.rglob("*.json")  # in place of the one before
        result = json.loads(path.read_text(encoding="utf-8"))
        assert (result["judges"], result["compilers"]) == (judges, {"libtpu": libtpu})
    for _ in range(2):  # what is not committed may be something else the next time
        assert compiled_by_make_chips(tmp_path, monkeypatch, "ccc+changes", "2") == 1


def test_a_page_may_change_without_compiling_again():
    files = {name for name in os.listdir(ROOT / "tools" / "chips") if name.endswith(".py")}
    left_out = {Path(path).name for path in chips.JUDGES if path.startswith(":(exclude)")}
    assert left_out == {"page.py", "measure.py"} <= files
    assert chips.revision_of(ROOT, chips.JUDGES)[0]


def test_the_compiler_for_gpus_is_there_when_all_of_it_is(monkeypatch: pytest.MonkeyPatch):
    installed = {"jax": "1", "jaxlib": "1", "jax-cuda13-plugin": "1", "nvidia-cudnn-cu13": "9"}

    def version(package: str) -> str:
        if package not in installed:
            raise metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(target.metadata, "version", version)
    assert not target.has_compiler("gpu")
    installed["jax-cuda13-pjrt"] = "1"
    assert target.has_compiler("gpu")
    assert not target.has_compiler("tpu")


@pytest.mark.parametrize("name", ["v9x-8/tag", "v4-8/tag-base", "tag-bse"])
def test_a_name_that_is_none_ends_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["chips", "h200-1/train_step", name])
    with pytest.raises(SystemExit, match=r"^chips: .*: expected .*, got [^\n]*$"):
        chips.main()


@pytest.mark.parametrize("names", [["v9x-8", "tag-tiny-8x32-k4-512"], ["v5e-8", "tag-base"]])
def test_a_name_that_is_none_is_not_compiled(names: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Target, "mesh", lambda _: pytest.fail("is compiled"))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", ["compile", *names])
    with pytest.raises(SystemExit, match=r"^compile: .*: expected .*, got [^\n]*$"):
        compile.main()


def test_rounds_of_tuning_are_those_of_the_device_with_most_words():
    # Of two devices: three words and one, and void ones. Two of the first found rows that the border of 8 does not have.
    word_index = jnp.array([0, 1, 2, NO_WORD, 3, NO_WORD, NO_WORD, NO_WORD])
    ids = jnp.array([[0, 1], [0, 9], [8, 1], [9, 9], [2, 3], [9, 9], [0, 0], [0, 0]])
    near = Neighbours(jnp.zeros(ids.shape), ids, jnp.zeros(ids.shape, int))
    result = Retrieved(word_index, jnp.zeros((8, 3)), SearchResult(near, None))
    spec = SimpleNamespace(num_devices=2, query_rows=4, rest_rows=2)
    assert measure.rounds_of_retrieve(result, spec, border_rows=8) == [2, 2]
    assert measure.rounds_of_retrieve(result, spec, border_rows=0) == [2]
    assert measure.rounds_of_retrieve(result._replace(result=SearchResult(None, None)), spec, border_rows=8) is None


def test_rounds_of_tagging_are_those_after_the_first_call():
    spec = SimpleNamespace(query_rows=4, rest_rows=2)
    counts = [(8, 1), (14, 2), (18, 5)]
    assert measure.rounds_of_tag(counts, spec, border=True) == [5 / 4, 2 / 2]
    assert measure.rounds_of_tag(counts, spec, border=False) == [2 / 2]


def test_what_is_compiled_by_default_stays_short_and_has_many_neighbours():
    chosen = [f"{target}/{spec.name}" for spec, target in programs.choose(full=False)]
    assert 20 <= len(chosen) <= 24
    assert {f"{target}/tag-base-64x128-k1024-2000000-border" for target in programs.CHIEF_TARGETS} <= set(chosen)


@pytest.mark.parametrize(("k", "expected"), [(64, (250_000, 62_500)), (1024, (250_000,)), ("all", (250_000, 62_500))])
def test_rows_that_are_compared_as_one_block_may_be_held(k: int | str, expected: tuple[int, ...]):
    spec = programs.Spec("tag", "tiny", 128, 64, k, 2_000_000, border=True)
    assert programs.make_call(spec, sharding.make_mesh(8), "tpu").limits.shares == expected
