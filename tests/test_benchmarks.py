"""The benchmarks: every peer runs, what is missing is said, tables and pages say what the results say."""

import json
import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import measuring, report, run, searching, tables
from benchmarks.tables import Aim, aims
from docs import make_scaling
from tools.pages import RESULTS as COMMITTED


def times(*seconds: float, peak: float = 0.0) -> dict:
    return {"seconds": list(seconds), "peak_mb": peak}


SEARCH = {"repeats": 3, "dim": 768, "k": [8, "all"], "rows": 2_000_000, "queries": 64}
RESULTS = {
    "hardware": {"name": "Abacus, 2 rods", "platform": "cpu", "packages": {"jax": "1.0", "torch": None}},
    "left_out": {"whole": "no trained run was given (--run)"},
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
        "evaluation": {
            "options": {"sentences": 2, "repeats": 3},
            "peers": {
                "tagging": {
                    **{"corpus": "wnut17", "sentences": 2, "words": 50, "rows": 7, "batch_size": 32, "setting": {"k": 3}},
                    "seconds": {
                        **{"tagger": [2.0, 1.0, 3.0], "full": [8.0] * 3, "0.24": [2.1] * 3, "0.7": [4.0] * 3},
                        "1.0": [7.0] * 3,
                    },
                    "searched": {"0.24": 1, "0.7": 9, "1.0": 50},
                    "other_labels": {"0.24": 0, "0.7": 1, "1.0": 0},
                }
            },
        },
        "evaluation of all": {"options": {"repeats": 3}, "peers": {"tagging": {"failed": "exit status 1"}}},
    },
}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers run in this process, and its memory is taken to settle at once."""
    monkeypatch.setattr(measuring.time, "sleep", lambda _: None)
    monkeypatch.setattr(run, "run_peer", lambda module, peer, options, _: run.measure_peer(module, peer, options))


def test_a_table_holds_medians_ratios_and_peaks():
    lines = tables.page(RESULTS)
    assert "Abacus, 2 rods, jax 1.0, revision unknown; medians of 3." in lines
    assert "| forward, tokens/s | 600 | 400 | 1.50 |" in lines
    assert "| train, tokens/s | 300 | 400 | 0.75 |" in lines
    assert "| k=8 | 2.00 s | 3.00 s | 1.50 | 0.75 | 100 / 500 |" in lines
    assert "| k=all | 4.00 s | 3.00 s | 0.75 | 0.38 | 7 / 50 |" in lines
    assert "| product | 1.50 s |  |  |  | 0 / - |" in lines
    assert "| 900 rows | 120 |" in lines
    assert "| labels, knn_weight 0.24 | 2.10 s | 1.05 | 1 | 0 |" in lines
    assert "| labels, knn_weight 1.0 | 7.00 s | 3.50 | 50 | 0 |" in lines
    assert "| every word looked up, any knn_weight | 8.00 s | 4.00 | 50 |  |" in lines


def test_what_was_not_measured_is_said_and_what_broke_is_a_failure():
    lines = tables.page(RESULTS)
    assert "Not measured: whole; no trained run was given (--run)." in lines
    assert "Not measured: FAISS in search 2000000; needs the package faiss, which is not installed." in lines
    assert "Not measured: tagging in evaluation of all; exit status 1." in lines


def test_a_peer_that_broke_is_the_end_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hardware = RESULTS["hardware"] | {"torch_device": "cpu"}
    monkeypatch.setattr(run, "describe_hardware", lambda _: hardware)
    monkeypatch.setattr(
        run, "run_peer", lambda module, peer, options, _: {"failed": "exit status 9"} if peer == "faiss" else {}
    )
    with pytest.raises(SystemExit, match=r"failed:\nsearch 300, faiss: exit status 9\nsearch 600, faiss: exit status 9$"):
        run.main(["--tiny", "--folder", str(tmp_path)])
    content = json.loads((tmp_path / "abacus_2_rods.json").read_text(encoding="utf-8"))
    assert content["parts"].keys() == {"search 300", "search 600", "memory 300", "memory 600"}
    assert content["left_out"] == {"evaluation": "no trained run was given (--run)"}


def test_aims_are_held_against_the_right_values():
    measured = {aim.text: aim for aim in aims(RESULTS)}
    expected = {
        "2,000,000 x 768, k=8: speed, of PyTorch": (1.5, True),
        "2,000,000 x 768, k=all: speed, of PyTorch": (0.75, False),
        "labels of 50 words, knn_weight 0.24: time, of that without kNN": (1.05, True),
        "labels of 50 words, knn_weight 0.24: other than a full search gives": (0, True),
        "labels of 50 words, knn_weight 0.7: time, of that without kNN": (2.0, False),
        "labels of 50 words, knn_weight 1.0: time, of that without kNN": (3.5, False),
        "labels of 50 words, knn_weight 0.7: other than a full search gives": (1, False),
        "labels of 50 words, knn_weight 1.0: other than a full search gives": (0, True),
        "largest peak memory beyond the keys, k = 2, MiB": (120, True),
        "largest over smallest peak, 100 to 900 rows": (1.2, False),
        "forward: speed, of PyTorch": (1.5, True),
        "train: speed, of PyTorch": (0.75, False),
    }
    assert {text: (pytest.approx(aim.value), aim.reached) for text, aim in measured.items()} == expected
    assert Aim("", 1.0, 1.0).reached
    assert not Aim("", 1.1, 1.0, at_most=True).reached


def test_the_compilers_of_estimated_times_are_named():
    result = {"estimates": {"any": {"ms": 1.0}}}
    recorded = result | {"compilers": {"jax": "0.12", "libtpu": "0.0.50"}}
    training, longer = ("v5e-8", "train_step-base-64x128"), ("v5e-8", "train_step-base-16x512")
    results = {training: [result | {"jax": "0.9"}, recorded], longer: [result | {"jax": "0.10"}]}
    assert make_scaling.compilers_lines(results) == [
        "* v5e-8: jax 0.12, libtpu 0.0.50; jax 0.10, its compiler not recorded",
        "",
    ]


def test_the_pages_say_what_the_results_say():
    assert list((COMMITTED / "speed").glob("*.json"))
    pages = {report.README: report.readme, make_scaling.PAGE: make_scaling.write_page}
    for path, write in pages.items():
        text = path.read_text(encoding="utf-8")
        assert write(text) == text, "python -m benchmarks.report; python -m docs.make_scaling"


def test_a_billion_keys_take_what_arithmetic_and_the_measured_rate_say():
    assert make_scaling.rows_per_chip() == 15_625_000
    assert "| 768 x float32 | 3,072 B | 16 B | 48.2 GB |" in make_scaling.memory_table()
    assert "| k = 64 | 3,072 B | 49,152 B |" in make_scaling.traffic_table()
    # 1,000 instead of 64 queries, 15.625 instead of 2 million rows, 2 s by the median.
    assert make_scaling.seconds_per_search(RESULTS["parts"]["search 2000000"], [1.0, 2.0, 9.0]) == pytest.approx(244.140625)
    assert "| k=8 | 244.14 s |" in make_scaling.rates_table(RESULTS)
    # 1,300 million tokens at 600 a second, on 64 chips.
    assert "| encoding all keys once, MiniLM-L6 | 9.4 h |" in make_scaling.rates_table(RESULTS)


def test_peers_search_the_same_keys_of_length_one_and_jax_takes_them_without_a_copy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(searching, "MADE_AT_ONCE", 7)
    queries, keys, labels = searching.workload(20, 32, 3)
    assert queries.shape == (3, 32)
    assert np.allclose(np.linalg.norm(keys, axis=1), 1, atol=1e-6)
    assert len(np.unique(keys, axis=0)) == 20
    assert 0 <= labels.min() <= labels.max() < searching.LABELS
    _, rows = searching.place(queries, keys, labels)
    assert rows.keys.unsafe_buffer_pointer() == keys.ctypes.data


@pytest.mark.parametrize(
    ("flags", "name"),
    [("sse avx2 avx512f", "AMD EPYC, AVX-512"), ("avx avx2 bmi2", "AMD EPYC, AVX2"), ("avx sse", "AMD EPYC")],
)
def test_a_processor_is_named_with_its_widest_vectors(flags: str, name: str):
    core = f"processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\n\n"
    assert measuring.name_processor(core + "processor\t: 1\nmodel name\t: another\nflags\t\t: avx512f\n") == name
    assert measuring.name_processor("processor\t: 0\nBogoMIPS\t: 50.00\n") == platform.machine()


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_every_part_but_a_runs_is_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    parts = run.make_parts(accelerator=False, torch=True, tiny=True, run=None)
    results = run.run_parts(parts, {}, RESULTS["hardware"], tmp_path, {})
    content = json.loads((tmp_path / "abacus_2_rods.json").read_text(encoding="utf-8"))
    assert content["parts"].keys() == {"search 300", "search 600", "memory 300", "memory 600"}
    peers = results["parts"]["search 600"]["peers"]
    assert peers["ours"].keys() == {"k=2", "k=all", "product"}
    assert peers["pytorch"].keys() == {"k=2", "k=all"}
    assert peers["faiss"] == {"left_out": "needs the package faiss, which is not installed"}
    assert all(len(one["seconds"]) == 1 and one["peak_mb"] >= 0 for one in peers["ours"].values())
    assert len(tables.page(content)) > 20


@pytest.mark.usefixtures("in_process")
def test_some_parts_are_measured_again_and_the_others_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hardware = RESULTS["hardware"] | {"git_revision": "third", "torch_device": "cpu"}
    monkeypatch.setattr(run, "describe_hardware", lambda _: hardware)
    path = tmp_path / "abacus_2_rods.json"
    earlier = {"memory 300": {}, "memory 600": {"git_revision": "second", "peers": {}}}
    path.write_text(json.dumps({"hardware": {}, "left_out": {"tagging": "why"}, "parts": earlier}), encoding="utf-8")
    run.main(["--tiny", "--only", "memory 300", "--folder", str(tmp_path)])
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["hardware"]["name"] == "Abacus, 2 rods"
    assert content["left_out"] == {"tagging": "why"}
    assert {name: part["git_revision"] for name, part in content["parts"].items()} == {
        "memory 300": "third",
        "memory 600": "second",
    }
    assert content["parts"]["memory 300"]["peers"]["peak"]["peak_mb"] >= 0
    with pytest.raises(SystemExit, match=r"--only: expected some of search 300, .*, got speed"):
        run.main(["--tiny", "--only", "speed", "--folder", str(tmp_path)])


def test_accelerators_get_peers_of_their_own():
    def peers(accelerator: bool, torch: bool) -> dict[str, tuple[str, ...]]:
        parts = run.make_parts(accelerator, torch, tiny=False, run="runs/x")
        return {part.name.split()[0]: part.peers for part in parts}

    on_cpu = {"tagging": ("ours", "pytorch"), "search": ("ours", "faiss", "pytorch"), "memory": ("peak",)}
    assert peers(False, True) == on_cpu | {"evaluation": ("tagging",)}
    by_torch = {"tagging": ("ours_bf16", "torch_eager_bf16", "torch_compile"), "search": ("ours", "cuvs", "pytorch")}
    assert peers(True, True) == on_cpu | by_torch | {"evaluation": ("tagging",)}
    assert peers(True, False) == on_cpu | {"tagging": ("ours_bf16",), "search": ("ours", "cuvs"), "evaluation": ("tagging",)}


def test_a_peer_runs_in_a_process_of_its_own_and_a_missing_package_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "faiss.py").write_text("raise ModuleNotFoundError('gone', name='faiss')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = {"repeats": 1, "rows": 9, "dim": 4, "queries": 2, "k": [1]}
    assert run.run_peer("searching", "faiss", options, {}) == {"left_out": "needs the package faiss, which is not installed"}
    assert "  left out: faiss needs the package faiss, which is not installed" in capsys.readouterr().out.splitlines()


def test_torch_is_left_out_where_it_cannot_use_the_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def left_out(torch_device: str) -> dict[str, str]:
        hardware = {"name": "NVIDIA X", "platform": "gpu", "torch_device": torch_device, "packages": {"torch": "2.13+cpu"}}
        monkeypatch.setattr(run, "describe_hardware", lambda _: hardware)
        monkeypatch.setattr(run, "run_peer", lambda *_: {})
        run.main(["--accelerator", "--folder", str(tmp_path)])
        return json.loads((tmp_path / "nvidia_x.json").read_text(encoding="utf-8"))["left_out"]

    assert left_out("NVIDIA X").keys() == {"evaluation"}
    assert left_out("cpu")["PyTorch"] == "torch 2.13+cpu finds no NVIDIA X"
