"""RoBERTa, XLM-R and ChineseBERT against PyTorch, module by module and whole; how a family is recognised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from helpers.chinese_bert_torch import ChineseBertEmbeddings
from helpers.parity import (
    LABELS,
    MODULE,
    POSITIONS,
    SMALL,
    WHOLE,
    assert_same_output,
    encoder_module,
    load_encoder,
    ours,
    ragged_batch,
    random_reference,
    randomise,
)
from safetensors.torch import save_file

from knn_ner_jax.models.bert import window_positions
from knn_ner_jax.models.chinese_bert import ChineseBertConfig
from knn_ner_jax.models.tagger import Tagger

pytestmark = pytest.mark.isa

LENGTHS = pytest.mark.parametrize("lengths", [[POSITIONS, POSITIONS], [11, 1, 6]], ids=["full", "ragged"])
forward = jax.jit(Tagger.__call__, static_argnums=0)


def roberta_batch(lengths):
    """Ids for us and for transformers: it finds the padding by its id, 1; ours is 0, the id of `<s>`, as everywhere here."""
    ids, mask, _ = ragged_batch(lengths)
    ids = np.where(mask & (ids == 1), 7, ids)
    ids[:, 0] = 0
    return ids, np.where(mask, ids, 1), mask


@LENGTHS
@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_roberta_agrees_with_pytorch_though_padding_and_the_first_token_share_an_id(family, lengths, tmp_path):
    reference = random_reference(SMALL, family)
    tagger, params = ours(reference, tmp_path)
    assert (tagger.config.family, tagger.config.position_offset, tagger.config.max_length) == (family, 2, POSITIONS)
    ids, theirs, mask = roberta_batch(lengths)
    assert_same_output(forward(tagger, params, ids, mask), reference, theirs, mask, np.zeros_like(ids))


def test_each_module_of_roberta_agrees_with_pytorch(tmp_path):
    reference = random_reference(SMALL, "roberta")
    bert = encoder_module(*ours(reference, tmp_path))
    ids, theirs, mask = roberta_batch([POSITIONS, 9, 2])
    with torch.no_grad():
        expected = reference.roberta.embeddings(input_ids=torch.tensor(theirs)).numpy()
    actual = jax.jit(bert.embeddings)(ids, jnp.zeros_like(ids), window_positions(jnp.asarray(mask, jnp.int32)))
    np.testing.assert_allclose(np.asarray(actual)[mask], expected[mask], rtol=0, atol=MODULE)
    assert_layers_agree(bert, reference.roberta.encoder.layer, mask)


def assert_layers_agree(bert, layers, mask):
    hidden = jax.random.normal(jax.random.key(5), (*mask.shape, SMALL["hidden_size"]))
    bias = jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]
    graphdef, stacked = nnx.split(bert.layers)

    @jax.jit
    def run(number: int) -> tuple[jax.Array, jax.Array]:
        layer = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[number], stacked))
        return layer.attention(hidden, bias), layer.feed_forward(hidden)

    for number, theirs in enumerate(layers):
        with torch.no_grad():
            inputs = torch.tensor(np.array(hidden)), torch.tensor(mask)[:, None, None, :]
            expected = theirs.attention(inputs[0], attention_mask=inputs[1])[0], theirs.feed_forward_chunk(inputs[0])
        for actual, reference in zip(run(number), expected, strict=True):
            np.testing.assert_allclose(np.asarray(actual)[mask], reference.numpy()[mask], rtol=0, atol=MODULE)


def chinese_pair(folder):
    """A random ChineseBERT in PyTorch, and the same encoder here under a random mlp head."""
    model = transformers.BertModel(transformers.BertConfig(vocab_size=50, max_position_embeddings=POSITIONS, **SMALL))
    model.embeddings = ChineseBertEmbeddings(50, 24, POSITIONS, letters=32, letter_size=8, pixels=27)
    randomise(model)
    save_file({f"bert.{name}": value for name, value in model.state_dict().items()}, folder / "model.safetensors")
    config = ChineseBertConfig(vocab_size=50, max_position_embeddings=POSITIONS, letter_size=8, num_pixels=27, **SMALL)
    tagger = Tagger(config, LABELS, head="mlp")
    params = tagger.init(jax.random.key(3))
    encoder = load_encoder(folder / "model.safetensors", tagger.abstract_params()["encoder"], "chinesebert")
    return model, tagger, params | {"encoder": encoder}


@LENGTHS
def test_chinese_bert_and_the_mlp_head_agree_with_pytorch(lengths, tmp_path):
    model, tagger, params = chinese_pair(tmp_path)
    ids, mask, types = ragged_batch(lengths)
    pinyin = np.random.default_rng(1).integers(0, 32, (*ids.shape, 8)).astype(np.int32)
    output = forward(tagger, params, ids, mask, types, None, pinyin)
    with torch.no_grad():
        hidden = model.embeddings(torch.tensor(ids), torch.tensor(pinyin), torch.tensor(types))
        np.testing.assert_allclose(np.asarray(output.hidden_states[0])[mask], hidden[mask], rtol=0, atol=MODULE)
        for layer, state in zip(model.encoder.layer, output.hidden_states[1:], strict=True):
            hidden = layer(hidden, attention_mask=torch.tensor(mask)[:, None, None, :])
            np.testing.assert_allclose(np.asarray(state)[mask], hidden.numpy()[mask], rtol=0, atol=WHOLE)
        head = jax.tree.map(lambda leaf: torch.tensor(np.array(leaf)), params["head"])
        inner = torch.tanh(hidden @ head["dense"]["kernel"] + head["dense"]["bias"])
        expected = inner @ head["output"]["kernel"] + head["output"]["bias"]
    np.testing.assert_allclose(np.asarray(output.logits)[mask], expected.numpy()[mask], rtol=0, atol=WHOLE)


def test_each_layer_of_chinese_bert_agrees_with_pytorch(tmp_path):
    model, tagger, params = chinese_pair(tmp_path)
    assert_layers_agree(encoder_module(tagger, params), model.encoder.layer, ragged_batch([POSITIONS, 9, 2])[1])


def test_chinese_bert_without_pinyin_is_refused(tmp_path):
    _, tagger, params = chinese_pair(tmp_path)
    ids, mask, _ = ragged_batch([3])
    with pytest.raises(ValueError, match="pinyin_ids: expected"):
        tagger(params, ids, mask)
