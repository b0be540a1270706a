"""Dropout: how much of what is dropped, by which key, and where in the encoder and the tagger."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.parity import encoder_module, ours, ragged_batch, random_reference

from knn_ner_jax.models.bert import dropout
from knn_ner_jax.models.tagger import Tagger

SHAPE = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 40, "hidden_act": "gelu"}

forward = jax.jit(Tagger.__call__, static_argnums=0)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_zeroes_the_right_share_and_scales_the_rest(rate):
    dropped = np.asarray(dropout(jnp.ones((400, 500)), rate, jax.random.key(1)))
    deviation = (rate * (1 - rate) / dropped.size) ** 0.5
    assert abs((dropped == 0).mean() - rate) < 5 * deviation
    # The rate is a multiple of 2^-16, so the scale is 1 / (1 - rate) to within that.
    np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=2**-15)
    assert abs(dropped.mean() - 1) < 5 * deviation / (1 - rate)
    # Rows and columns are dropped independently of each other.
    assert (dropped == 0).any(axis=0).all()
    assert (dropped == 0).any(axis=1).all()


def test_dropout_depends_on_the_key_alone():
    x = jnp.arange(1.0, 1001.0)
    first, again, other = (dropout(x, 0.3, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert ((first == 0) != (other == 0)).any()
    np.testing.assert_array_equal(dropout(x, 0.3, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(1)), x)


HALF = SHAPE | {"attention_probs_dropout_prob": 0.5, "hidden_dropout_prob": 0.5}


def test_tagger_drops_out_with_a_key_only(tmp_path):
    tagger, params = ours(random_reference(HALF), tmp_path)
    ids, mask, _ = ragged_batch([11, 11, 11])
    none, first, again, other = (
        forward(tagger, params, ids, mask, None, None if seed is None else jax.random.key(seed)) for seed in (None, 0, 0, 1)
    )
    np.testing.assert_array_equal(first.logits, again.logits)
    assert abs(first.logits - other.logits).max() > 0.01
    assert abs(first.logits - none.logits).max() > 0.01
    # Half of the embeddings are dropped, and something of what the head reads, which these states do not show.
    assert 0.4 < np.asarray(first.hidden_states[0] == 0).mean() < 0.6
    for output, dropped in ((none, False), (first, True)):
        undropped = np.asarray(output.hidden_states[-1]) @ params["head"]["kernel"] + params["head"]["bias"]
        assert (abs(np.asarray(output.logits) - undropped).max() > 0.01) == dropped


def test_layers_draw_different_masks(tmp_path):
    tagger, params = ours(random_reference(HALF), tmp_path)
    params = jax.tree.map(np.zeros_like, params)
    layers = params["encoder"]["layers"]
    layers["feed_forward"]["down"]["bias"] += 1
    for block in ("attention", "feed_forward"):
        layers[block]["norm"]["scale"] += 1
    ids, mask, _ = ragged_batch([11, 11, 11])
    states = forward(tagger, params, ids, mask, None, jax.random.key(0)).hidden_states
    # A layer adds its mask to the signs that the one before left of its own; equal masks would keep them all.
    assert not states[0].any()
    assert ((states[1] > 0) != (states[2] > 0)).any()


@pytest.mark.parametrize(("of_weights", "of_hidden"), [(0.5, 0.0), (0.0, 0.5)])
def test_layer_drops_weights_and_outputs_each_at_its_own_rate(of_weights, of_hidden, tmp_path):
    rates = {"attention_probs_dropout_prob": of_weights, "hidden_dropout_prob": of_hidden}
    graphdef, stacked = nnx.split(encoder_module(*ours(random_reference(SHAPE | rates), tmp_path)).layers)
    layer = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[0], stacked))
    # Without the norms, what is left where an output is dropped is the residual alone.
    layer.attention.norm = layer.feed_forward.norm = lambda x: x
    hidden, bias = jax.random.normal(jax.random.key(1), (3, 11, 24)), jnp.zeros((3, 1, 1, 11))

    @jax.jit
    def run(key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        return layer.attention(hidden, bias, key), layer.feed_forward(hidden, key)

    dropped, clean = run(jax.random.key(0)), run(None)
    for output in dropped:
        residual_alone = np.asarray(output == hidden).mean()
        assert abs(residual_alone - of_hidden) < 0.1
    assert abs(dropped[0] - clean[0]).max() > 0.01
    assert (abs(dropped[1] - clean[1]).max() > 0.01) == (of_hidden > 0)
