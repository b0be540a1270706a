"""Taggers from elsewhere, used pretrained, and ours for transformers: the same logits in both directions."""

import jax
import numpy as np
import pytest
import torch
import transformers
from helpers import checkpoints
from helpers.parity import LABELS, SMALL, WHOLE, ragged_batch, random_reference

from knn_ner_jax.config import ModelConfig
from knn_ner_jax.io import InputError
from knn_ner_jax.models import pretrained
from knn_ner_jax.models.chinese_bert import ChineseBertConfig
from knn_ner_jax.models.hf_checkpoint import CheckpointError
from knn_ner_jax.models.pretrained import Backbone, export
from knn_ner_jax.models.tagger import Tagger

pytestmark = pytest.mark.isa

NAMES = ("I-PER", "B-LOC", "O", "B-PER", "B-ä")  # no I-LOC, no I-ä
forward = jax.jit(Tagger.__call__, static_argnums=0)


def save_tokenizer(family, folder):
    if family == "roberta":
        checkpoints.byte_pairs(folder)
        return
    pieces = [*checkpoints.SPECIAL, *(f"w{i}" for i in range(45))]
    transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}).save_pretrained(folder)


@pytest.fixture
def foreign(tmp_path):
    """A random tagger of transformers' and its folder."""
    model = random_reference(SMALL)
    model.config.id2label = dict(enumerate(NAMES))
    model.config.label2id = {name: number for number, name in enumerate(NAMES)}
    model.save_pretrained(tmp_path / "foreign")
    save_tokenizer("bert", tmp_path / "foreign")
    return model, tmp_path / "foreign"


def foreign_tagger(backbone: Backbone) -> Tagger:
    labels = pretrained.foreign_labels(backbone, ModelConfig("x"))
    return Tagger(backbone.config, len(labels.label_set), outputs=labels.outputs)


def test_outputs_are_put_into_our_order_and_unknown_ones_never_win(foreign):
    model, folder = foreign
    backbone = pretrained.open_backbone(folder)
    label_set = pretrained.foreign_labels(backbone, ModelConfig("x")).label_set
    assert label_set.names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER", "B-ä", "I-ä")
    tagger = foreign_tagger(backbone)
    ids, mask, _ = ragged_batch([11, 1, 6])
    logits = np.asarray(forward(tagger, pretrained.tagger_params(backbone, tagger), ids, mask).logits)
    with torch.no_grad():
        expected = model(torch.tensor(ids), torch.tensor(mask, dtype=torch.long)).logits.numpy()
    ours = [2, 1, 3, 0, 4]  # O, B-LOC, B-PER, I-PER, B-ä in theirs
    np.testing.assert_allclose(logits[mask][:, [0, 1, 3, 4, 5]], expected[mask][:, ours], rtol=0, atol=WHOLE)
    assert not np.asarray(jax.nn.softmax(logits[mask]))[:, [2, 6]].any()


def with_labels(*names, numbers=None):
    numbers = range(len(names)) if numbers is None else numbers
    return Backbone(None, None, (), {str(number): name for number, name in zip(numbers, names, strict=True)})


@pytest.mark.parametrize("labels", [["O", "B-X"], None, {"0": 0}])
def test_labels_that_are_no_names_are_an_input_error(labels):
    with pytest.raises(InputError, match=r"id2label .* expected a mapping from numbers to names"):
        pretrained.foreign_labels(Backbone(None, None, (), labels), ModelConfig("x"))


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (with_labels(), "expected names instead of numbers; found none"),
        (with_labels("LABEL_0", "LABEL_1"), "expected names instead of numbers; found 0: LABEL_0, 1: LABEL_1"),
        (with_labels("O", "B-X", "B-X"), "expected one name for each number"),
        (with_labels("O", "B-X", numbers=[0, 2]), "expected one name for each number"),
        (with_labels("O", "PER"), "expected O, and B-TYPE, I-TYPE and the like"),
        (with_labels("O", "B-"), "expected O, and B-TYPE, I-TYPE and the like"),
        (with_labels("B-X", "I-X"), "expected O among them"),
    ],
)
def test_labels_that_are_of_no_scheme_are_one_clear_error(backbone, expected):
    with pytest.raises(InputError) as error:
        pretrained.foreign_labels(backbone, ModelConfig("x"))
    assert "id2label" in str(error.value)
    assert expected in str(error.value)


def test_a_backbone_without_a_head_lists_what_is_missing(foreign, tmp_path):
    model, folder = foreign
    model.bert.save_pretrained(folder)
    backbone = pretrained.open_backbone(folder)
    backbone.id2label.update({str(number): name for number, name in enumerate(NAMES)})
    with pytest.raises(CheckpointError) as error:
        pretrained.tagger_params(backbone, foreign_tagger(backbone))
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "missing: classifier.weight",
        "missing: classifier.bias",
    ]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_exported_tagger_has_the_same_logits_in_transformers(family, tmp_path):
    reference = random_reference(SMALL | ({"vocab_size": 266} if family == "roberta" else {}), family)
    reference.base_model.save_pretrained(tmp_path / "backbone")
    save_tokenizer(family, tmp_path / "backbone")
    backbone = pretrained.open_backbone(tmp_path / "backbone")
    tagger = Tagger(backbone.config, LABELS)
    params = jax.tree.map(np.asarray, backbone.initial_params(tagger, jax.random.key(0)))
    names = ("O", "B-X", "I-X", "B-Y", "I-Y")
    export(tagger, params, names, backbone.tokenizer, tmp_path / "out")
    model, loading = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.id2label == dict(enumerate(names))
    ids, mask, _ = ragged_batch([11, 1, 6])
    ids = np.where(mask & (ids == 1), 7, ids)
    with torch.no_grad():
        theirs = torch.tensor(np.where(mask, ids, model.config.pad_token_id))
        expected = model.eval()(theirs, torch.tensor(mask, dtype=torch.long)).logits.numpy()
    actual = np.asarray(forward(tagger, params, ids, mask).logits)
    np.testing.assert_allclose(actual[mask], expected[mask], rtol=0, atol=WHOLE)
    again = pretrained.open_backbone(tmp_path / "out")
    assert again.config == backbone.config
    jax.tree.map(np.testing.assert_array_equal, pretrained.tagger_params(again, tagger), params)


def test_what_transformers_has_not_is_refused_by_name(foreign, tmp_path):
    backbone = pretrained.open_backbone(foreign[1])
    chinese = Tagger(ChineseBertConfig(10, 8, 1, 2, 8), 3)
    for tagger, folder, message in (
        (chinese, tmp_path / "new", r"\(bert, roberta, xlm-roberta\), got chinesebert"),
        (Tagger(backbone.config, 7, head="mlp"), tmp_path / "new", "expected linear, .* got mlp"),
        (Tagger(backbone.config, 7), foreign[1], "expected a new or empty folder, found files"),
    ):
        with pytest.raises(InputError, match=message):
            export(tagger, {}, (), backbone.tokenizer, folder)
    assert not (tmp_path / "new").exists()
