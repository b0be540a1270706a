"""Every tensor of a checkpoint is accounted for, and parameters have a fingerprint."""

import jax
import numpy as np
import pytest
import torch
import transformers
from helpers.parity import load_encoder
from safetensors.numpy import load_file, save_file

from knn_ner_jax.io import InputError
from knn_ner_jax.models import pretrained
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.hf_checkpoint import CheckpointError
from knn_ner_jax.models.tagger import Tagger

SHAPE = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
}
ABSTRACT = Tagger(BertConfig(**SHAPE), 3).abstract_params()["encoder"]


def save_reference(kind: type, folder):
    """Saves a random PyTorch model of some kind, and returns its tensors as transformers wrote them."""
    torch.manual_seed(0)
    model = kind(transformers.BertConfig(**SHAPE))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.fixture
def tensors(tmp_path):
    return save_reference(transformers.BertModel, tmp_path / "plain")


def load(tensors, tmp_path):
    save_file(tensors, tmp_path / "changed.safetensors")
    return load_encoder(tmp_path / "changed.safetensors", ABSTRACT)


def assert_same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_every_tensor_of_the_encoder_lands_in_one_leaf(tensors, tmp_path):
    params = load(tensors, tmp_path)
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(tensor.size for tensor in encoder.values())
    values = np.sort(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)]))
    np.testing.assert_array_equal(values, np.sort(np.concatenate([tensor.ravel() for tensor in encoder.values()])))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), ABSTRACT
    )


def test_prefix_and_heads_of_pretraining_are_ignored(tmp_path):
    tensors = save_reference(transformers.BertForPreTraining, tmp_path / "pretraining")
    assert {"bert.pooler.dense.weight", "cls.seq_relationship.weight"} <= tensors.keys()
    tensors["bert.embeddings.position_ids"] = np.arange(10)[None]
    plain = {
        name.removeprefix("bert."): tensor
        for name, tensor in tensors.items()
        if name.startswith("bert.") and "pooler" not in name and "position_ids" not in name
    }
    assert_same(load(tensors, tmp_path), load(plain, tmp_path))


def test_layer_norms_may_have_their_old_names(tensors, tmp_path):
    # The files of google-bert/bert-base-cased and its siblings have them.
    def old(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    renamed = {old(name): tensor for name, tensor in tensors.items()}
    assert len(renamed.keys() - tensors.keys()) == 10
    assert_same(load(renamed, tmp_path), load(tensors, tmp_path))


def test_half_precision_weights_become_float32(tensors, tmp_path):
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    expected = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), load(tensors, tmp_path))
    actual = load(halves, tmp_path)
    assert_same(actual, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {np.dtype("float32")}


def test_one_error_lists_every_tensor_that_does_not_fit(tensors, tmp_path):
    missing = ["encoder.layer.1.output.dense.bias", "embeddings.LayerNorm.weight"]
    unmapped = ["encoder.layer.2.output.dense.bias", "decoder.weight"]
    misshapen = {"encoder.layer.0.intermediate.dense.weight": (8, 12), "embeddings.word_embeddings.weight": (21, 8)}
    for name in missing:
        del tensors[name]
    tensors |= {name: np.zeros(8, np.float32) for name in unmapped}
    tensors |= {name: np.zeros(shape, np.float32) for name, shape in misshapen.items()}
    tensors["bert.encoder.layer.0.output.dense.bias"] = tensors["encoder.layer.0.output.dense.bias"]
    with pytest.raises(CheckpointError) as caught:
        load(tensors, tmp_path)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert "changed.safetensors" in lines[0]
    assert "7 tensors" in lines[0]
    first, second = (f"{prefix}encoder.layer.0.output.dense.bias (changed.safetensors)" for prefix in ("bert.", ""))
    assert sorted(lines[1:]) == sorted(
        [f"missing: {name}" for name in missing]
        + [f"unmapped: {name} (changed.safetensors)" for name in unmapped]
        + [
            "shape of encoder.layer.0.intermediate.dense.weight (changed.safetensors): expected [12, 8], got [8, 12]",
            "shape of embeddings.word_embeddings.weight (changed.safetensors): expected [20, 8], got [21, 8]",
            f"there twice: {first} and {second}",
        ]
    )


def test_truncated_weights_are_an_input_error(tensors, tmp_path):
    save_file(tensors, tmp_path / "whole.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"half\.safetensors"):
        load_encoder(tmp_path / "half.safetensors", ABSTRACT)


def test_fingerprint_changes_with_any_leaf_and_with_nothing_else():
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), ABSTRACT)
    original = pretrained.fingerprint(params)
    assert pretrained.fingerprint(jax.tree.map(jax.numpy.asarray, params)) == original
    assert pretrained.fingerprint(jax.tree.map(np.asfortranarray, params)) == original
    leaves, structure = jax.tree.flatten(params)
    fingerprints = {original}
    for i, leaf in enumerate(leaves):
        changed = leaf.copy()
        changed.flat[-1] = np.nextafter(changed.flat[-1], np.float32(9))
        fingerprints.add(pretrained.fingerprint(jax.tree.unflatten(structure, [*leaves[:i], changed, *leaves[i + 1 :]])))
    assert len(fingerprints) == 1 + len(leaves)


def test_fingerprint_counts_names_shapes_and_dtypes():
    params = [{"a": np.zeros(4, np.float32)}, {"b": np.zeros(4, np.float32)}]
    params += [{"a": np.zeros((2, 2), np.float32)}, {"a": np.zeros(4, np.int32)}]
    assert len({pretrained.fingerprint(each) for each in params}) == len(params)
