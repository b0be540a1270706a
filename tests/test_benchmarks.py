"""The benchmarks: every peer runs, what is missing is said, tables and pages say what the results say."""

import argparse
import json
import platform
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import (
    accelerator,
    bench,
    building,
    hardware,
    measuring,
    peer,
    plan,
    plots,
    reading,
    report,
    scaling,
    searching,
    tables,
)
from benchmarks.aims import Aim, aims


def times(*seconds: float, peak: float = 0.0) -> dict:
    return {"seconds": list(seconds), "peak_mb": peak}


SEARCH = {"repeats": 3, "dim": 768, "k": [8, "all"], "bfloat16": False, "rows": 2_000_000, "queries": 64}
RESULTS = {
    "hardware": {"name": "Abacus, 2 rods", "platform": "cpu", "packages": {"jax": "1.0", "torch": None}},
    "left_out": {"evaluation, compression": "no trained run was given (--run)"},
    "parts": {
        "tagging": {
            "options": {"repeats": 3},
            "peers": {
                "ours": {"tokens": 1200, "forward": [9.0, 2.0, 1.0], "train": [4.0, 4.0, 4.0]},
                "pytorch": {"tokens": 1200, "forward": [3.0, 3.0, 3.0], "train": [3.0, 3.0, 3.0]},
            },
        },
        "search 2000000": {
            "options": SEARCH,
            "peers": {
                "ours": {
                    "k=8": times(1.0, 9.0, 2.0, peak=100.4),
                    "k=all": times(4.0, 4.0, 4.0, peak=7),
                    "product": times(1.5),
                },
                "faiss": {"left_out": "needs the package faiss, which is not installed"},
                "pytorch": {"k=8": times(3.0, 3.0, 3.0, peak=500), "k=all": times(3.0, 3.0, 3.0, peak=50)},
            },
        },
        "memory 100": {"options": {"rows": 100, "queries": 4, "k": 2, "repeats": 1}, "peers": {"peak": times(1, peak=100)}},
        "memory 900": {"options": {"rows": 900, "queries": 4, "k": 2, "repeats": 1}, "peers": {"peak": times(1, peak=120)}},
        "build": {
            "options": {"encoder": "tiny", "dtype": "float32", "repeats": 3},
            "peers": {"ours": {"tokens": 100, "forward": [1.0, 1.0, 1.0], "build": [2.0, 2.0, 2.0]}},
        },
        "evaluation": {
            "options": {"sentences": 2, "repeats": 3},
            "peers": {
                "tagging": {
                    **{"corpus": "wnut17", "sentences": 2, "words": 50, "rows": 7, "batch_size": 32, "setting": {"k": 3}},
                    "seconds": {
                        **{"tagger": [2.0, 1.0, 3.0], "full": [8.0] * 3, "0.24": [2.1] * 3, "0.7": [4.0] * 3},
                        "0.7 without scouts": [7.0] * 3,
                    },
                    "scouted": {"0.24": 4, "0.7": 48, "0.7 without scouts": 0},
                    "at_border": {"0.24": 3, "0.7": 12, "0.7 without scouts": 0},
                    "searched": {"0.24": 1, "0.7": 9, "0.7 without scouts": 50},
                    "other_labels": {"0.24": 0, "0.7": 1, "0.7 without scouts": 0},
                }
            },
        },
        "compression": {"options": {"repeats": 3}, "peers": {"compression": {"failed": "exit status 1"}}},
    },
}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers run in this process, and its memory is taken to settle at once."""
    monkeypatch.setattr(measuring.time, "sleep", lambda _: None)
    monkeypatch.setattr(bench, "run_peer", lambda module, function, options, _: peer.measure(module, function, options))


def test_a_table_holds_medians_ratios_and_peaks():
    lines = tables.page(RESULTS)
    assert "Abacus, 2 rods; medians of 3; jax 1.0." in lines
    assert "| forward, tokens/s | 600 | 400 | 1.50 |" in lines
    assert "| train, tokens/s | 300 | 400 | 0.75 |" in lines
    assert "| k=8 | 2.00 s | 3.00 s | 1.50 | 0.75 | 100 / 500 |" in lines
    assert "| k=all | 4.00 s | 3.00 s | 0.75 | 0.38 | 7 / 50 |" in lines
    assert "| product | 1.50 s |  |  |  | 0 / - |" in lines
    assert "| 900 rows | 120 |" in lines
    assert "| building a datastore | 50 | 0.50 |" in lines
    assert "| labels, knn_weight 0.24 | 2.10 s | 1.05 | 4 | 3 | 1 | 0 |" in lines
    assert "| labels, knn_weight 0.7 without scouts | 7.00 s | 3.50 | 0 | 0 | 50 | 0 |" in lines
    assert "| every word looked up, any knn_weight | 8.00 s | 4.00 | 0 | 0 | 50 |  |" in lines


def test_what_was_not_measured_is_said_and_what_broke_is_a_failure():
    lines = tables.page(RESULTS)
    assert "Not measured: evaluation, compression; no trained run was given (--run)." in lines
    assert "Not measured: FAISS in search 2000000; needs the package faiss, which is not installed." in lines
    assert "Not measured: compression in compression; exit status 1." in lines
    assert reading.failures(RESULTS) == ["compression, compression: exit status 1"]
    with pytest.raises(SystemExit, match="compression: exit status 1"):
        plan.finish(RESULTS)


def test_aims_are_held_against_the_right_values():
    measured = {aim.text: aim for aim in aims(RESULTS)}
    expected = {
        "2,000,000 x 768, k=8: speed, of PyTorch": (1.5, True),
        "2,000,000 x 768, k=all: speed, of PyTorch": (0.75, False),
        "labels of 50 words, knn_weight 0.24: time, of that without kNN": (1.05, True),
        "labels of 50 words, knn_weight 0.24: other than a full search gives": (0, True),
        "labels of 50 words, knn_weight 0.7: other than a full search gives": (1, False),
        "labels of 50 words, knn_weight 0.7 without scouts: other than a full search gives": (0, True),
        "largest peak memory beyond the keys, k = 2, MiB": (120, True),
        "largest over smallest peak, 100 to 900 rows": (1.2, False),
        "building a datastore: speed, of the forward pass": (0.5, False),
        "forward: speed, of PyTorch": (1.5, True),
        "train: speed, of PyTorch": (0.75, False),
    }
    assert {text: (pytest.approx(aim.value), aim.reached) for text, aim in measured.items()} == expected
    assert Aim("", 1.0, 1.0).reached
    assert not Aim("", 1.1, 1.0, at_most=True).reached


def test_on_accelerators_the_bare_product_of_the_same_precision_bounds_a_search():
    peers = {"ours": {f"{name}{suffix}": times(value) for suffix, name, value in [
        ("", "k=8", 2.0), ("", "product", 1.8), (" bfloat16", "k=8", 1.0), (" bfloat16", "product", 0.5)]}}  # fmt: skip
    part = {"options": SEARCH | {"bfloat16": True}, "peers": peers}
    shares = {aim.text: aim.value for aim in aims({"parts": {"search 2000000": part}})}
    assert shares == {
        "2,000,000 x 768, k=8: the bare product's share of our time": pytest.approx(0.9),
        "2,000,000 x 768, k=8 bfloat16: the bare product's share of our time": pytest.approx(0.5),
    }


def test_a_plot_has_every_panel_no_background_and_the_same_bytes_again(tmp_path: Path):
    for name in ("one.svg", "two.svg"):
        plots.plot(RESULTS, tmp_path / name)
    svg = (tmp_path / "one.svg").read_text(encoding="utf-8")
    for text in ("64 queries, 2,000,000 x 768 keys", "MiniLM-L6", "labels of 50 words, 7 rows", "peak memory", "Abacus"):
        assert text in svg
    assert "#ffffff" not in svg
    assert "#000000" not in svg
    assert svg == (tmp_path / "two.svg").read_text(encoding="utf-8")


def test_the_pages_say_what_the_results_say():
    results = report.read_results(bench.RESULTS)
    assert results
    for path, write in ((report.README, report.readme), (report.SCALING, report.scaling_page)):
        text = path.read_text(encoding="utf-8")
        assert write(text, results) == text, "python -m benchmarks.report"
    assert all((bench.RESULTS / f"{stem}.svg").exists() for stem in results)


def test_a_billion_keys_take_what_arithmetic_and_the_measured_rate_say():
    assert scaling.rows_per_chip() == 15_625_000
    assert "| 768 x float32 | 3,072 B | 16 B | 48.2 GB |" in scaling.memory_table()
    assert "| k = 64 | 3,072 B | 49,152 B |" in scaling.traffic_table()
    # 1,000 instead of 64 queries, 15.625 instead of 2 million rows, 2 s by the median.
    assert scaling.seconds_per_search(RESULTS["parts"]["search 2000000"], [1.0, 2.0, 9.0]) == pytest.approx(244.140625)
    assert "| k=8 | 244.14 s |" in scaling.rates_table(RESULTS)


def test_peers_search_the_same_keys_of_length_one_and_jax_takes_them_without_a_copy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(searching, "MADE_AT_ONCE", 7)
    queries, keys, labels = searching.workload(20, 32, 3)
    assert queries.shape == (3, 32)
    assert np.allclose(np.linalg.norm(keys, axis=1), 1, atol=1e-6)
    assert len(np.unique(keys, axis=0)) == 20
    assert 0 <= labels.min() <= labels.max() < searching.LABELS
    _, rows = searching.place(queries, keys, labels)
    assert rows.keys.unsafe_buffer_pointer() == keys.ctypes.data
    assert searching.place(queries, keys, labels, "bfloat16")[1].keys.dtype == jax.numpy.bfloat16


@pytest.mark.parametrize(
    ("flags", "name"),
    [("sse avx2 avx512f", "AMD EPYC, AVX-512"), ("avx avx2 bmi2", "AMD EPYC, AVX2"), ("avx sse", "AMD EPYC")],
)
def test_a_processor_is_named_with_its_widest_vectors(flags: str, name: str):
    core = f"processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\n\n"
    assert hardware.name_processor(core + "processor\t: 1\nmodel name\t: another\nflags\t\t: avx512f\n") == name
    assert hardware.name_processor("processor\t: 0\nBogoMIPS\t: 50.00\n") == platform.machine()


def test_a_build_encodes_every_word_once():
    split = building.workload(5)
    word_index = np.concatenate([window.word_index for window in split.windows])
    assert np.array_equal(word_index[word_index >= 0], np.arange(split.num_words))
    assert [len(window.token_ids) <= building.LONGEST for window in split.windows] == [True] * 5


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_every_part_but_a_runs_is_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    arguments = argparse.Namespace(run=None, whole=False, only=None)
    parts = plan.make_parts(plan.TINY, ("ours", "faiss", "pytorch"), (), bfloat16=True, arguments=arguments)
    results = bench.run_parts(parts, {}, RESULTS["hardware"], tmp_path)
    content = json.loads((tmp_path / "abacus_2_rods.json").read_text(encoding="utf-8"))
    assert content["parts"].keys() == results["parts"].keys() == {"search 600", "memory 300", "memory 600", "build"}
    peers = results["parts"]["search 600"]["peers"]
    assert peers["ours"].keys() == {"k=2", "k=all", "k=2 bfloat16", "product", "product bfloat16"}
    assert peers["pytorch"].keys() == {"k=2", "k=all", "k=2 bfloat16"}
    assert peers["faiss"] == {"left_out": "needs the package faiss, which is not installed"}
    assert all(len(one["seconds"]) == 1 and one["peak_mb"] >= 0 for one in peers["ours"].values())
    assert len(tables.page(content)) > 20


@pytest.mark.usefixtures("in_process")
def test_some_parts_are_measured_again_and_the_others_kept(tmp_path: Path):
    arguments = argparse.Namespace(run=None, whole=False, only=["memory 300"])
    parts = plan.make_parts(plan.TINY, ("ours",), (), bfloat16=False, arguments=arguments)
    assert [part.name for part in parts] == ["memory 300"]
    path = tmp_path / "abacus_2_rods.json"
    earlier = {"memory 300": {}, "memory 600": {"peers": "kept"}, "build": {"git_revision": "first"}}
    earlier = {"hardware": {"git_revision": "second"}, "left_out": {"tagging": "why"}, "parts": earlier}
    path.write_text(json.dumps(earlier), encoding="utf-8")
    bench.run_parts(parts, {}, RESULTS["hardware"] | {"git_revision": "third"}, tmp_path, keep_others=True)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["hardware"]["name"] == RESULTS["hardware"]["name"]
    assert content["left_out"] == {"tagging": "why"}
    assert content["parts"]["memory 600"]["peers"] == "kept"
    revisions = {name: part["git_revision"] for name, part in content["parts"].items()}
    assert revisions == {"build": "first", "memory 600": "second", "memory 300": "third"}
    assert content["parts"]["memory 300"]["peers"]["peak"]["peak_mb"] >= 0
    with pytest.raises(SystemExit, match="--only: expected some of search 600, memory 300, memory 600, build, got speed"):
        plan.make_parts(
            plan.TINY, ("ours",), (), bfloat16=False, arguments=argparse.Namespace(run=None, whole=False, only=["speed"])
        )


def test_the_whole_is_all_of_a_runs_test_split_and_many_queries_over_many_rows():
    def names_and_options(whole: bool) -> dict[str, dict]:
        arguments = argparse.Namespace(run="runs/x", whole=whole, only=None)
        parts = plan.make_parts(plan.Sizes(), ("ours",), ("ours",), bfloat16=False, arguments=arguments)
        return {part.name: part.options for part in parts}

    some, everything = names_and_options(whole=False), names_and_options(whole=True)
    assert everything.keys() - some.keys() == {"evaluation of all"}
    assert everything["evaluation of all"]["sentences"] is None
    assert everything["evaluation of all"]["weights"] == (0.24, 0.41)
    assert [some[f"search {rows}"]["queries"] for rows in (200_000, 2_000_000)] == [256, 64]
    assert [everything[f"search {rows}"]["queries"] for rows in (200_000, 2_000_000)] == [256, 256]


def test_a_peer_runs_in_a_process_of_its_own_and_a_missing_package_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "faiss.py").write_text("raise ModuleNotFoundError('gone', name='faiss')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = {"repeats": 1, "rows": 9, "dim": 4, "queries": 2, "k": [1], "bfloat16": False}
    assert bench.run_peer("searching", "faiss", options) == {"left_out": "needs the package faiss, which is not installed"}
    assert "  left out: faiss needs the package faiss, which is not installed" in capsys.readouterr().out.splitlines()


def test_torch_is_left_out_where_it_cannot_use_the_accelerator():
    def machine(platform: str, torch_device: str | None) -> dict:
        packages = {"torch": "2.13+cpu"}
        return {"name": "NVIDIA X", "platform": platform, "torch_device": torch_device, "packages": packages}

    assert accelerator.torch_left_out(machine("gpu", "NVIDIA X")) is None
    assert accelerator.torch_left_out(machine("cpu", "cpu")) is None
    assert accelerator.torch_left_out(machine("gpu", "cpu")) == "torch 2.13+cpu finds no NVIDIA X"
    assert accelerator.torch_left_out(machine("tpu", None)) == "torch is not installed"
