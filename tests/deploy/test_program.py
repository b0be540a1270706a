"""A tagger exported as one program labels words as the tagger does, in processes that lack this package, or JAX."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from helpers.evaluated_run import use_devices
from helpers.margins import clear_words
from jax import export

from knn_ner_jax import KnnTagger, cli
from knn_ner_jax.calibration import Calibration
from knn_ner_jax.data.corpus import read_splits
from knn_ner_jax.data.tag_schemes import LabelSet, Sentence
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit
from knn_ner_jax.deploy import program
from knn_ner_jax.deploy.program import ProgramOptions, write_program
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import KnnParams, labels_by_vote
from knn_ner_jax.knn.datastore import Datastore, Projection
from knn_ner_jax.knn.inference import RetrievalSpec
from knn_ner_jax.knn.similarity import squared_norms
from knn_ner_jax.models.chinese_bert import ChineseBertConfig
from knn_ner_jax.models.tagger import Tagger

flatbuffers = pytest.importorskip("flatbuffers")
PROCESS = Path(__file__).parent.parent / "helpers" / "program_process.py"


@pytest.fixture(scope="module")
def exported(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes for the evaluated run."""
    folder = tmp_path_factory.mktemp("exported") / "program"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(evaluated)
        use_devices(patch, 1)
        cli.run("export", "export.py", ["run", str(folder), "--format=stablehlo"])
    return folder


@pytest.fixture(scope="module")
def sentences(evaluated: Path) -> list[Sentence]:
    """All of test; some are longer than a window."""
    return list(read_splits({"test": evaluated / "corpus" / "test.conll"})[0]["test"].sentences)


@pytest.fixture(scope="module")
def split(knn_tagger: KnnTagger, sentences: list[Sentence]) -> EncodedSplit:
    gold = LabelSet(tuple(sorted({tag[2:] for sentence in sentences for tag in sentence.tags} - {""})), "words")
    types = dict.fromkeys([*knn_tagger.label_set.types, *gold.types])
    return knn_tagger.encode(sentences, LabelSet(tuple(types), "words"))


def rows_of(split: EncodedSplit, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, segments and numbers of words, a window in a row."""
    tokens, segments, words = (np.zeros((len(split.windows), length), np.int32) for _ in range(3))
    words[:] = NO_WORD
    for row, window in enumerate(split.windows):
        end = len(window.token_ids)
        tokens[row, :end], segments[row, :end], words[row, :end] = window.token_ids, 1, window.word_index
    return tokens, segments, words


def by_word(outputs: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Outputs at words, in the order of the words."""
    return outputs[words != NO_WORD][np.argsort(words[words != NO_WORD])]


def assert_same_labels(knn_tagger: KnnTagger, split: EncodedSplit, knn_params: KnnParams, labels: np.ndarray) -> None:
    clear = clear_words(knn_tagger, split, knn_params)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(labels[clear], knn_tagger.label_split(split, knn_params).knn[clear])


def test_a_process_without_this_package_labels_all_of_test_alike(
    exported: Path, knn_tagger: KnnTagger, sentences: list[Sentence], split: EncodedSplit
):
    sites = dict.fromkeys(str(Path(package.__file__).parents[1]) for package in (np, jax, tokenizers, flatbuffers))
    command = [sys.executable, "-I", "-S", str(PROCESS), str(exported), *sites]
    words = json.dumps([sentence.words for sentence in sentences])
    done = subprocess.run(command, input=words, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["imported"] == []
    names = knn_tagger.label_set.names
    labels = np.array([names.index(name) for sentence in answer["labels"] for name in sentence])
    assert knn_tagger.knn_params is not None
    assert any(len(window.token_ids) == knn_tagger.model.max_length for window in split.windows)
    assert_same_labels(knn_tagger, split, knn_tagger.knn_params, labels)


def run_in_batches(call: Callable, rows: tuple[np.ndarray, ...], size: int) -> dict[str, np.ndarray]:
    """Outputs for all rows, so many at a time and the last batch shorter."""
    tokens, segments, words = rows
    parts = [slice(start, start + size) for start in range(0, len(tokens), size)]
    outputs = [jax.device_get(call(tokens[part], segments[part], words[part] != NO_WORD)) for part in parts]
    return jax.tree.map(lambda *batches: np.concatenate(batches), *outputs)


def test_one_program_takes_batches_of_any_size_and_says_what_it_runs_on(
    exported: Path, knn_tagger: KnnTagger, split: EncodedSplit
):
    read = export.deserialize(bytearray((exported / program.PROGRAM).read_bytes()))
    manifest = json.loads((exported / program.MANIFEST).read_text(encoding="utf-8"))
    assert read.platforms == ("cpu", "cuda", "tpu") == tuple(manifest["platforms"])
    assert [entry["shape"][0] for entry in manifest["inputs"]] == ["batch"] * 3
    assert Calibration.from_dict(manifest["calibration"]) == knn_tagger.calibration
    rows = rows_of(split, manifest["length"])
    labels = [by_word(run_in_batches(jax.jit(read.call), rows, size)["label_ids"], rows[2]) for size in (1, len(rows[0]))]
    assert knn_tagger.knn_params is not None
    for each in labels:
        assert_same_labels(knn_tagger, split, knn_tagger.knn_params, each)


@pytest.mark.parametrize("k", [4, "all"])
def test_arrays_as_arguments_and_neighbours_are_those_of_a_search(
    knn_tagger: KnnTagger, split: EncodedSplit, tmp_path: Path, k: int | str
):
    from safetensors.flax import load_file

    setting = KnnParams("cosine", k, 0.1, 0.6)  # type: ignore[arg-type]
    options = ProgramOptions(("cpu",), batch=len(split.windows), arrays="arguments", neighbours=5)
    write_program(replace(knn_tagger, knn_params=setting), tmp_path, options)
    content = (tmp_path / program.PROGRAM).read_bytes()
    rows = rows_of(split, knn_tagger.model.max_length)
    arrays = load_file(tmp_path / program.ARRAYS)
    assert len(content) < 0.5 * sum(array.nbytes for array in arrays.values())
    call = export.deserialize(bytearray(content)).call
    outputs = jax.device_get(jax.jit(call)(arrays, *rows[:2], rows[2] != NO_WORD))
    found = {name: by_word(values, rows[2]) for name, values in outputs.items()}
    assert_same_labels(knn_tagger, split, setting, found["label_ids"])
    cache = knn_tagger.retrieve_for(split, setting, 5, with_ids=True)
    mixed = labels_by_vote(cache, setting)
    assert cache.similarities is not None
    np.testing.assert_allclose(found["neighbour_similarities"], cache.similarities[:, :5], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["p_ner"], mixed.p_ner, rtol=0, atol=1e-5)
    # Every probability of a vote is multiplied by at most exp(2 d / temperature) where similarities move by d.
    np.testing.assert_allclose(found["p"], mixed.p, rtol=0, atol=1e-5 + np.expm1(2e-5 / setting.temperature))
    stored = load_file(tmp_path / program.ROWS)
    nearest = np.asarray(stored["labels"])[found["neighbour_ids"]]
    is_near = np.isclose(found["neighbour_similarities"][:, :1], found["neighbour_similarities"], atol=1e-5)
    assert cache.neighbour_labels is not None
    alone = is_near.sum(axis=1) == 1
    np.testing.assert_array_equal(nearest[alone, 0], cache.neighbour_labels[alone, 0])


def test_iree_labels_all_of_test_alike_without_jax(knn_tagger: KnnTagger, split: EncodedSplit, tmp_path: Path):
    compiler, runtime = (pytest.importorskip(f"iree.{name}") for name in ("compiler", "runtime"))
    size = 8
    manifest = write_program(knn_tagger, tmp_path, ProgramOptions(("cpu",), batch=size))
    read = export.deserialize(bytearray((tmp_path / program.PROGRAM).read_bytes()))
    target = {"target_backends": ["llvm-cpu"], "extra_args": ["--iree-llvmcpu-target-cpu=host"]}
    binary = compiler.compile_str(read.mlir_module_serialized, input_type="stablehlo", **target)
    # In IREE's many threads (local-task) a label is 0 now and then where its probabilities say another.
    module = runtime.load_vm_flatbuffer(binary, driver="local-sync")

    def call(*inputs: np.ndarray) -> dict[str, np.ndarray]:
        number = len(inputs[0])
        filled = [np.pad(array, ((0, size - number), (0, 0))) for array in inputs]
        names = [entry["name"] for entry in manifest["outputs"]]
        # Copies: the memory is IREE's, and freed with its array.
        return {name: values.to_host().copy()[:number] for name, values in zip(names, module.main(*filled), strict=True)}

    rows = rows_of(split, manifest["length"])
    assert knn_tagger.knn_params is not None
    labels = by_word(run_in_batches(call, rows, size)["label_ids"], rows[2])
    assert_same_labels(knn_tagger, split, knn_tagger.knn_params, labels)


def example_of(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("example", folder / "example.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_windows_of_the_example_are_those_of_the_tagger(exported: Path, sentences: list[Sentence], split: EncodedSplit):
    tokens, segments, words = rows_of(split, 16)
    example = example_of(exported)
    assert example.label([[], ["Oslo"], []])[::2] == [[], []]
    rows = np.array([window for sentence in sentences for window in example.windows(list(sentence.words))])
    np.testing.assert_array_equal(rows[:, 0], tokens)
    np.testing.assert_array_equal(rows[:, 1], segments)
    np.testing.assert_array_equal(rows[:, 2] > 0, words != NO_WORD)
    assert len(rows) > len(sentences)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ProgramOptions(length=3), r"--length: expected 4 to 16 \(the run's max_length\), got 3"),
        (ProgramOptions(length=17), r"--length: expected 4 to 16 .*, got 17"),
        (ProgramOptions(batch=0), "--batch: expected at least 1, got 0"),
        (ProgramOptions(neighbours=10**6), r"--neighbours: expected 0 to \d+ \(the rows\), got 1000000"),
    ],
)
def test_options_out_of_range_are_named(knn_tagger: KnnTagger, tmp_path: Path, options: ProgramOptions, message: str):
    with pytest.raises(InputError, match=f"^{message}$"):
        write_program(knn_tagger, tmp_path / "new", options)
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_exported_is_refused_and_nothing_written(knn_tagger: KnnTagger, tmp_path: Path, monkeypatch):
    def refused(tagger: KnnTagger = knn_tagger) -> str:
        with pytest.raises(InputError) as error:
            write_program(tagger, tmp_path / "new", ProgramOptions())
        assert not (tmp_path / "new").exists()
        return str(error.value)

    pieces = replace(knn_tagger, label_set=LabelSet(("X",), "wang2022"))
    assert refused(pieces) == "protocol: expected a run with words, got wang2022, which labels pieces"
    monkeypatch.setattr(program, "MOST_BYTES", 1000)
    assert "--arrays inside: expected weights and datastore of at most 1,000 bytes" in refused()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert refused().endswith("expected the package flatbuffers, found none; pip install 'knn-ner-jax[export]'")


def test_padding_is_left_out(knn_tagger: KnnTagger):
    store = knn_tagger.stored.datastore
    rows = knn_tagger.num_rows
    without = replace(store, num_rows=jnp.int32(rows - 1))
    edited = replace(knn_tagger, stored=replace(knn_tagger.stored, datastore=without))
    kept = program.arrays_of(edited)["datastore/keys"]
    assert len(kept) == rows - 1
    np.testing.assert_array_equal(kept, np.asarray(store.keys)[: rows - 1])


def test_arrays_by_name_are_the_weights_and_the_rows_again(knn_tagger: KnnTagger):
    store = knn_tagger.stored.datastore
    width = store.keys.shape[1]
    projection = Projection(jnp.arange(width, dtype=jnp.float32), jnp.eye(width))
    keys = replace(store, keys=store.keys.astype(jnp.bfloat16), projection=projection)
    arrays = program.arrays_of(replace(knn_tagger, stored=replace(knn_tagger.stored, datastore=keys)))
    params, again = program.unflatten(arrays, knn_tagger.spec.tagger.abstract_params())
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(knn_tagger.params))
    assert again.keys.dtype == jnp.bfloat16
    rows = knn_tagger.num_rows
    for name in ("keys", "squared_norms", "labels"):
        np.testing.assert_array_equal(getattr(again, name), np.asarray(getattr(keys, name))[:rows])
    assert again.projection is not None
    jax.tree.map(np.testing.assert_array_equal, again.projection, projection)


def test_a_chinesebert_takes_pinyin_and_rows_have_labels_that_the_head_lacks():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tagger = Tagger(ChineseBertConfig(vocab_size=20, num_pixels=4, letter_size=4, **sizes), num_labels=3, platform="cpu")
    params, keys = tagger.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (5, 8))
    spec = RetrievalSpec(tagger=tagger, layers=(1,), k=2, num_labels=5, block_rows=16, query_rows=6, platform="cpu")
    nowhere = jnp.zeros(5, jnp.int32)
    store = Datastore(keys, squared_norms(keys), jnp.full(5, 4), nowhere, nowhere, jnp.int32(5), None)
    setting = KnnParams("l2", 2, 0.5, 0.75)
    label = partial(program.label_windows, params, store, knn_params=setting, neighbours=0, spec=spec)
    shape = (*export.symbolic_shape("batch"), 6)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.int32)] * 2 + [jax.ShapeDtypeStruct(shape, jnp.bool_)]
    exported = export.export(jax.jit(label))(*shapes, jax.ShapeDtypeStruct((*shape, 8), jnp.int32))
    tokens, pinyin = np.arange(12, dtype=np.int32).reshape(2, 6), np.arange(96, dtype=np.int32).reshape(2, 6, 8) % 32
    segments, is_word = np.ones_like(tokens), tokens % 3 > 0
    outputs = exported.call(tokens, segments, is_word, pinyin)
    np.testing.assert_array_equal(outputs["label_ids"], np.where(is_word, 4, -1))
    expected = jax.nn.softmax(tagger(params, tokens, segments, pinyin_ids=pinyin).logits)
    mixed = np.concatenate([0.25 * expected, np.zeros((2, 6, 1)), np.full((2, 6, 1), 0.75)], axis=-1)
    np.testing.assert_allclose(outputs["p"], np.where(is_word[..., None], mixed, 0), rtol=0, atol=1e-6)
