"""Weights in every file layout that transformers has written, and what is said of files that are not whole."""

import json
import shutil
import sys

import huggingface_hub.constants
import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from knn_ner_jax.io import InputError
from knn_ner_jax.models import hf_checkpoint, pretrained
from knn_ner_jax.models.hf_checkpoint import FAMILIES, CheckpointError
from knn_ner_jax.models.tagger import Tagger

BERT = FAMILIES["bert"]


@pytest.fixture
def abstract(tiny_backbone):
    return {"encoder": Tagger(pretrained.open_backbone(tiny_backbone).config, 3).abstract_params()["encoder"]}


@pytest.fixture
def state(tiny_backbone):
    return load_file(tiny_backbone / "model.safetensors")


def load(folder, abstract):
    return hf_checkpoint.load_params(hf_checkpoint.open_tensors(hf_checkpoint.weight_files(folder)), BERT, abstract)


def save_shards(folder, state, name, save, shards=3):
    """The tensors dealt out to several files, and their index."""
    stem, suffix = name.split(".")
    names = sorted(state)
    files = [f"{stem}-{number + 1:05}-of-{shards:05}.{suffix}" for number in range(shards)]
    for number, file in enumerate(files):
        save({tensor: state[tensor].contiguous() for tensor in names[number::shards]}, folder / file)
    weight_map = {tensor: files[number % shards] for number, tensor in enumerate(names)}
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files


LAYOUTS = {
    "sharded safetensors": lambda folder, state: save_shards(folder, state, "model.safetensors", save_file),
    "bin": lambda folder, state: torch.save(state, folder / "pytorch_model.bin"),
    "bin of 2019": lambda folder, state: torch.save(
        state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False
    ),
    "sharded bin": lambda folder, state: save_shards(folder, state, "pytorch_model.bin", torch.save),
}


def test_a_bin_of_parameters_is_read_like_one_of_tensors(tiny_backbone, state, abstract, tmp_path):
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in state.items()}, tmp_path / "pytorch_model.bin")
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path, abstract), load(tiny_backbone, abstract))


@pytest.mark.parametrize("spoil", [lambda values: (values * 100).to(torch.int8), lambda values: values * torch.nan])
def test_values_that_are_no_weights_are_listed(spoil, state, abstract, tmp_path):
    name = "encoder.layer.1.output.dense.weight"
    (actual,) = [full for full in state if full.endswith(name)]
    save_file(state | {actual: spoil(state[actual])}, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=rf"1 tensors .*\n  values of .*{name} .*: expected finite floating-point numbers"
    ):
        load(tmp_path, abstract)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_every_layout_gives_the_same_parameters(layout, prefix, tiny_backbone, state, abstract, tmp_path):
    LAYOUTS[layout](tmp_path, {prefix + name: tensor for name, tensor in state.items()})
    expected = load(tiny_backbone, abstract)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path, abstract), expected)


@pytest.mark.parametrize("layout", ["sharded safetensors", "bin"])
def test_bfloat16_becomes_float32(layout, state, abstract, tmp_path):
    halves = {name: tensor.bfloat16() for name, tensor in state.items()}
    LAYOUTS[layout](tmp_path, halves)
    actual = load(tmp_path, abstract)["encoder"]["embeddings"]["word"]["embedding"]
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, halves["embeddings.word_embeddings.weight"].float().numpy())


def test_safetensors_go_before_bin(state, abstract, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    load(tmp_path, abstract)


def test_one_error_names_the_shard_of_every_tensor(state, abstract, tmp_path):
    name = "embeddings.LayerNorm.weight"
    state["decoder.weight"] = torch.zeros(3)
    files = save_shards(tmp_path, state, "model.safetensors", save_file)
    holder = next(file for file in files if name in load_file(tmp_path / file))
    other = next(file for file in files if file != holder)
    shard = load_file(tmp_path / other)
    gone = next(tensor for tensor in shard if "pooler" not in tensor and tensor != "decoder.weight")
    del shard[gone]
    save_file(shard | {name: torch.zeros(32)}, tmp_path / other)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, abstract)
    lines = {line.strip() for line in str(caught.value).splitlines()[1:]}
    unmapped = next(file for file in files if "decoder.weight" in load_file(tmp_path / file))
    first, second = sorted([holder, other])
    assert lines == {
        f"missing: {gone}",
        f"unmapped: decoder.weight ({unmapped})",
        f"there twice: {name} ({first}) and {name} ({second})",
    }


def test_without_torch_the_extra_is_named(state, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"pytorch_model\.bin.* the extra torch"):
        hf_checkpoint.open_tensors(hf_checkpoint.weight_files(tmp_path))


class Code:
    """Something that unpickling would run."""

    def __reduce__(self):
        return print, ("never",)


def damage(kind, path):
    if kind == "text":
        path.write_text("<html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "half":
        torch.save({"a": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:1500])
    elif kind == "code":
        torch.save({"a": Code()}, path)
    else:
        torch.save({"state_dict": {"a": torch.zeros(3)}}, path)


@pytest.mark.parametrize("kind", ["text", "empty", "half", "code", "nested"])
def test_a_file_that_is_not_just_tensors_is_refused_and_not_run(kind, tmp_path, capsys):
    damage(kind, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: expected"):
        hf_checkpoint.open_tensors(hf_checkpoint.weight_files(tmp_path))
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"weight_map": 3}'])
def test_an_index_that_names_no_files_is_refused(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json: expected a weight_map"):
        hf_checkpoint.weight_files(tmp_path)


def test_shards_that_are_not_there_are_named(state, tmp_path):
    files = save_shards(tmp_path, state, "model.safetensors", save_file)
    (tmp_path / files[1]).unlink()
    with pytest.raises(CheckpointError, match=rf"expected the files it names, found no {files[1]}"):
        hf_checkpoint.weight_files(tmp_path)


def test_heads_that_are_ignored_are_named(tmp_path, abstract, tiny_backbone, caplog):
    config = transformers.AutoConfig.from_pretrained(tiny_backbone)
    transformers.BertForTokenClassification(config).save_pretrained(tmp_path)
    with caplog.at_level("INFO"):
        load(tmp_path, abstract)
    assert "ignored: classifier.bias, classifier.weight" in caplog.text


def test_a_hub_folder_with_bin_alone_is_asked_for_bin(tiny_backbone, tmp_path, monkeypatch):
    asks_for_bin = []

    def download(_, allow_patterns):
        asks_for_bin.append("pytorch_model.bin" in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert pretrained.locate("org/name") == tmp_path
    assert asks_for_bin == [False, True]
    asks_for_bin.clear()
    shutil.copy(tiny_backbone / "model.safetensors", tmp_path)
    pretrained.locate("org/name")
    assert asks_for_bin == [False]
