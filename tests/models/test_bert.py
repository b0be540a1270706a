"""The encoder and the tagger against transformers' PyTorch BERT; padding, precision, bfloat16."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from helpers.parity import (
    LABELS,
    MODULE,
    POSITIONS,
    UNUSED,
    WHOLE,
    assert_same_output,
    encoder_module,
    load_encoder,
    ours,
    ragged_batch,
    random_reference,
)
from safetensors.torch import save_file

from knn_ner_jax.data.batching import Batch
from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.models import bert
from knn_ner_jax.models.bert import MASKED, BertConfig
from knn_ner_jax.models.tagger import Tagger
from knn_ner_jax.training.loop import loss_fn

pytestmark = pytest.mark.isa

PRODUCT = "stablehlo.dot_general"

forward = jax.jit(Tagger.__call__, static_argnums=0)
loss_and_gradients = jax.jit(jax.value_and_grad(loss_fn), static_argnums=2)

SHAPES = [
    {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 40, "hidden_act": "gelu"},
    {"hidden_size": 32, "num_attention_heads": 8, "num_hidden_layers": 1, "intermediate_size": 32, "hidden_act": "gelu_new"},
    {"hidden_size": 20, "num_attention_heads": 1, "num_hidden_layers": 4, "intermediate_size": 72, "hidden_act": "relu"},
]
NAMES = [shape["hidden_act"] for shape in SHAPES]


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_each_module_agrees_with_pytorch(shape, tmp_path):
    reference = random_reference(shape)
    encoder = encoder_module(*ours(reference, tmp_path))
    ids, mask, types = ragged_batch([POSITIONS, 9, 2])
    hidden = jax.random.normal(jax.random.key(5), (*ids.shape, shape["hidden_size"]))
    theirs_hidden, theirs_mask = torch.tensor(np.array(hidden)), torch.tensor(mask)[:, None, None, :]
    bias = jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]

    with torch.no_grad():
        expected = reference.bert.embeddings(input_ids=torch.tensor(ids), token_type_ids=torch.tensor(types))
    np.testing.assert_allclose(
        jax.jit(encoder.embeddings)(ids, types, np.broadcast_to(np.arange(POSITIONS, dtype=np.int32), ids.shape)),
        expected,
        rtol=0,
        atol=MODULE,
    )

    graphdef, stacked = nnx.split(encoder.layers)

    @jax.jit
    def run(number: int) -> tuple[jax.Array, ...]:
        layer = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[number], stacked))
        return layer.attention(hidden, bias), layer.feed_forward(hidden), layer(hidden, bias)

    for number, theirs in enumerate(reference.bert.encoder.layer):
        with torch.no_grad():
            attended = theirs.attention(theirs_hidden, attention_mask=theirs_mask)[0]
            transformed = theirs.feed_forward_chunk(theirs_hidden)
            both = theirs(theirs_hidden, attention_mask=theirs_mask)
        for actual, expected in zip(run(number), (attended, transformed, both), strict=True):
            np.testing.assert_allclose(actual[mask], expected[mask], rtol=0, atol=MODULE)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
@pytest.mark.parametrize("lengths", [[POSITIONS, POSITIONS], [11, 1, 6]], ids=["full", "ragged"])
def test_whole_random_model_agrees_with_pytorch(shape, lengths, tmp_path):
    reference = random_reference(shape)
    tagger, params = ours(reference, tmp_path)
    ids, mask, types = ragged_batch(lengths)
    assert_same_output(forward(tagger, params, ids, mask, types), reference, ids, mask, types)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_windows_in_one_row_do_not_see_each_other(family, tmp_path):
    """What PyTorch says of each window alone is what is said of all of them in one row, in any order."""
    reference = random_reference(SHAPES[0], family)
    tagger, params = ours(reference, tmp_path)
    ids, mask, _ = ragged_batch([11, 3, POSITIONS, 6])
    ids = np.where(ids == 1, 2, ids)  # 1 is RoBERTa's padding
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        segments = np.repeat(np.arange(1, 5, dtype=np.int32), mask[order].sum(axis=1))
        tokens = np.concatenate([ids[window, mask[window]] for window in order])
        output = forward(tagger, params, *(np.pad(values, (0, 4))[None] for values in (tokens, segments)))
        for segment, window in enumerate(order, start=1):
            with torch.no_grad():
                expected = reference(torch.tensor(ids[window, mask[window]])[None], output_hidden_states=True)
            of_window = np.flatnonzero(segments == segment)
            for state, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
                np.testing.assert_allclose(np.asarray(state)[0, of_window], theirs[0], rtol=0, atol=WHOLE)


@pytest.fixture(scope="module")
def minilm_pair(minilm, tmp_path_factory):
    """MiniLM with a random head in PyTorch and here, and a ragged batch of real sentences."""
    torch.manual_seed(0)
    reference = transformers.BertForTokenClassification.from_pretrained(minilm, num_labels=LABELS).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    sentences = [
        "Risto Siilasmaa, chairman of Nokia, met Angela Merkel in Helsinki on the eve of the Davos Forum.",
        "Yes.",
        "The unhappiest of the Karlsruhe goalkeepers (1983-84) kept 3.5 clean sheets!",
    ]
    encoded = tokenizer(sentences, padding=True, return_tensors="np")
    batch = encoded["input_ids"].astype(np.int32), encoded["attention_mask"].astype(bool)
    tagger, params = ours(reference, tmp_path_factory.mktemp("minilm"))
    return reference, tagger, params, batch


def test_minilm_on_real_text_agrees_with_pytorch(minilm_pair):
    reference, tagger, params, (ids, mask) = minilm_pair
    assert len(set(mask.sum(axis=1))) == 3
    assert_same_output(forward(tagger, params, ids, mask), reference, ids, mask, np.zeros_like(ids))


def test_bfloat16_stays_close_to_float32(minilm_pair):
    _, tagger, params, (ids, mask) = minilm_pair
    exact = np.asarray(forward(tagger, params, ids, mask).logits)[mask]
    output = forward(Tagger(tagger.config, LABELS, "bfloat16"), params, ids, mask)
    assert output.logits.dtype == output.hidden_states[-1].dtype == jnp.float32
    error = np.linalg.norm(np.asarray(output.logits)[mask] - exact) / np.linalg.norm(exact)
    # Some ten roundings a layer, each of at most 2^-9, if none of them cancelled.
    assert 1e-4 < error < 10 * tagger.config.num_hidden_layers * 2**-9


def word_batch(lengths: list[int]) -> Batch:
    """Every other token stands for a word, with a random label."""
    ids, mask, _ = ragged_batch(lengths)
    is_word = mask & (np.arange(ids.shape[1]) % 2 == 1)[None, :]
    word_index = np.where(is_word, np.cumsum(is_word).reshape(is_word.shape) - 1, NO_WORD).astype(np.int32)
    labels = np.where(is_word, np.random.default_rng(4).integers(0, LABELS, ids.shape), 0).astype(np.int32)
    return Batch(ids, mask.astype(np.int32), word_index, labels)


def test_gradients_agree_with_pytorch_autograd(tmp_path):
    reference = random_reference(SHAPES[0])
    tagger, params = ours(reference, tmp_path)
    batch = word_batch([11, 3, 6])
    loss, gradients = loss_and_gradients(params, batch, tagger, None)

    logits = reference(torch.tensor(batch.token_ids), torch.tensor(batch.segments, dtype=torch.long)).logits
    targets = torch.tensor(np.where(batch.word_index == NO_WORD, -100, batch.labels), dtype=torch.long)
    expected_loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    expected_loss.backward()
    np.testing.assert_allclose(loss, expected_loss.item(), rtol=1e-5)

    # Gradients are named and shaped as the weights are, so they are mapped like them.
    save_file({name: tensor.grad for name, tensor in reference.bert.named_parameters()}, tmp_path / "grads.safetensors")
    encoder = load_encoder(tmp_path / "grads.safetensors", tagger.abstract_params()["encoder"])
    head = {"kernel": reference.classifier.weight.grad.numpy().T, "bias": reference.classifier.bias.grad.numpy()}
    expected = jax.tree_util.tree_leaves_with_path({"encoder": encoder, "head": head})
    for (path, theirs), actual in zip(expected, jax.tree.leaves(gradients), strict=True):
        name = jax.tree_util.keystr(path)
        if name.endswith("['attention']['key']['bias']"):  # softmax does not see it: zero, but for rounding
            assert max(abs(theirs).max(), abs(actual).max()) < 1e-6
        else:
            assert abs(theirs).max() > 1e-6, name
            np.testing.assert_allclose(actual, theirs, rtol=0, atol=1e-4 * abs(theirs).max(), err_msg=name)


@pytest.mark.parametrize("lengths", [[11, 11, 11], [11, 1, 0]], ids=["full", "ragged"])
def test_both_ways_to_attend_agree(lengths):
    arrays = jax.random.normal(jax.random.key(2), (3, 3, 11, 4, 8))
    mask = np.arange(11)[None, :] < np.array(lengths)[:, None]
    bias = jnp.where(mask, 0.0, MASKED)[:, None, None, :]
    fused = partial(bert._fused, implementation="xla")

    def run(attend, qkv: jax.Array) -> jax.Array:
        return attend(qkv[0], qkv[1], qkv[2], bias) * mask[:, :, None, None]

    np.testing.assert_allclose(run(fused, arrays), run(bert.attend, arrays), rtol=0, atol=MODULE)
    gradients = [jax.jit(jax.grad(lambda qkv, f=f: (run(f, qkv) ** 2).sum()))(arrays) for f in (bert.attend, fused)]
    assert abs(gradients[0]).max() > 0.1
    np.testing.assert_allclose(*gradients, rtol=0, atol=MODULE)


@pytest.mark.parametrize("length", [128, 192])
@pytest.mark.parametrize("crosses", [False, True], ids=["in parts", "one window in two parts"])
def test_windows_that_keep_within_parts_of_rows_are_attended_to_in_parts(length, crosses):
    segments = np.arange(length) // 32 + 1
    segments[20:32] = 0
    segments[64 - 5 : 64 + 5 * crosses] = 9
    bias = jnp.where((segments[:, None] == segments) & (segments > 0), 0.0, MASKED)[None, None]
    q_blhd, k_blhd, v_blhd = jax.random.normal(jax.random.key(0), (3, 1, length, 2, 8))
    is_token = segments > 0
    attended = jax.jit(bert.attend)(q_blhd, k_blhd, v_blhd, bias)[:, is_token]
    expected = jax.nn.dot_product_attention(q_blhd, k_blhd, v_blhd, mask=bias == 0.0)[:, is_token]
    np.testing.assert_allclose(attended, expected, rtol=0, atol=MODULE)
    # What is not computed cannot spread: attention in rows multiplies it by a weight of zero.
    spread = jax.jit(bert.attend)(q_blhd, k_blhd, v_blhd.at[:, -1].set(jnp.nan), bias)
    assert bool(jnp.isnan(spread[:, :64]).any()) == crosses


def test_cudnn_attends_on_gpu_where_it_has_a_kernel(monkeypatch):
    monkeypatch.setattr(bert, "_fused", lambda q_blhd, *_: q_blhd + 1.0)
    key = jax.random.key(0)

    def is_fused(dtype=jnp.bfloat16, length=8, head_dim=16, rate=0.1, key=None, platform="gpu") -> bool:
        q_blhd, bias = jnp.zeros((1, length, 2, head_dim), dtype), jnp.zeros((1, 1, 1, length))
        return bool(bert.attend(q_blhd, q_blhd, q_blhd, bias, rate, key, platform).any())

    assert is_fused()
    assert is_fused(rate=0.0, key=key)
    assert not is_fused(key=key)
    for settings in ({"dtype": jnp.float32}, {"length": 7}, {"head_dim": 12}, {"platform": "tpu"}, {"platform": "cpu"}):
        assert not is_fused(**settings), settings


WAYS = [{}, {"platform": "tpu"}, {"remat": True}]  # what the backward pass keeps: ever less


@pytest.mark.sampled(2)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_product_is_float32_accurate_on_devices_that_default_to_less(way, tmp_path):
    tagger, params = ours(random_reference(SHAPES[0]), tmp_path)
    batch, key = word_batch([16] * 8), jax.random.key(0)

    def precisions(dtype):
        lowered = loss_and_gradients.lower(params, batch, dataclasses.replace(tagger, dtype=dtype, **way), key)
        return [
            re.search(r"precision = \[(\w+), (\w+)\]", line) for line in lowered.as_text().splitlines() if PRODUCT in line
        ]

    actual = [match and match.groups() for match in precisions("float32")]
    assert len(actual) >= 8 * 3  # of a layer and the head, forwards and back
    assert set(actual) == {("HIGHEST", "HIGHEST")}
    assert len({match and match.groups() for match in precisions("bfloat16")}) > 1  # the fast one, but for the head


def test_keeping_less_gives_the_same_gradients_in_less_memory(tmp_path):
    """With dropout: what the backward pass draws again is what was drawn."""
    tagger, params = ours(random_reference(SHAPES[2] | {"num_hidden_layers": 6}), tmp_path)
    batch, key = word_batch([16] * 8), jax.random.key(0)
    programs = [loss_and_gradients.lower(params, batch, dataclasses.replace(tagger, **way), key).compile() for way in WAYS]
    plain, *again = (program(params, batch, key) for program in programs)
    for other in again:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), plain, other)
    plain_bytes, *bytes_again = (program.memory_analysis().temp_size_in_bytes for program in programs)
    assert bytes_again[1] < bytes_again[0] < 0.8 * plain_bytes


def residuals(tagger: Tagger, rows: int, length: int) -> list[jax.ShapeDtypeStruct]:
    """What the backward pass of a training step keeps."""
    numbers, key = jax.ShapeDtypeStruct((rows, length), jnp.int32), jax.eval_shape(lambda: jax.random.key(0))

    def pull_back(params, batch, key):
        return jax.vjp(lambda params: loss_fn(params, batch, tagger, key), params)[1]

    kept = jax.eval_shape(pull_back, tagger.abstract_params(), Batch(*[numbers] * 4), key)
    return [leaf for leaf in jax.tree.leaves(kept) if jnp.issubdtype(leaf.dtype, jnp.generic)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_accelerators_keep_neither_attention_weights_nor_masks_nor_wider_numbers(platform, dtype):
    layers, rows, length, heads = 3, 5, 14, 2
    config = BertConfig(50, 16, layers, heads, 24)

    def per_layer(platform):
        kept = residuals(Tagger(config, LABELS, dtype, platform=platform), rows, length)
        return [leaf for leaf in kept if leaf.shape[:2] == (layers, rows)]

    of_heads = (layers, rows, heads, length, length)
    assert of_heads in {leaf.shape for leaf in per_layer("cpu")}
    kept = per_layer(platform)
    assert {leaf.dtype for leaf in kept} == {jnp.dtype(dtype)}
    assert {leaf.shape for leaf in kept} == {(layers, rows, length, 16), (layers, rows, length, 24)}
    assert sum(leaf.size for leaf in kept) == layers * rows * length * (7 * 16 + 24)


def test_the_kind_of_device_is_the_one_at_hand_unless_told():
    assert Tagger(BertConfig(50, 16, 1, 2, 24), LABELS).platform == jax.default_backend()


def test_dropout_scales_bfloat16_as_float32():
    rate = 0.1
    x = jax.random.uniform(jax.random.key(1), (100_000,), minval=1.0, maxval=2.0).astype(jnp.bfloat16)
    dropped = np.asarray(bert.dropout(x, rate, jax.random.key(2)), np.float64)
    kept = dropped != 0.0
    # Each product is rounded by at most 2^-9 of itself, as often up as down: the mean of 90,000 is within 2^-9 / 300 * 6.
    assert abs((dropped[kept] / np.asarray(x, np.float64)[kept]).mean() * (1 - rate) - 1) < 2**-9 / 300 * 6 + 2**-16


def test_words_of_padding_and_special_tokens_do_not_enter_the_loss(tmp_path):
    tagger, params = ours(random_reference(SHAPES[0]), tmp_path)
    batch = word_batch([11, 3, 6])
    types = np.zeros_like(batch.token_ids)
    logits = np.asarray(forward(tagger, params, batch.token_ids, batch.segments, types).logits, np.float64)
    rows, columns = np.nonzero(batch.word_index != NO_WORD)
    word_logits = logits[rows, columns]
    losses = np.log(np.exp(word_logits).sum(axis=1)) - word_logits[np.arange(len(rows)), batch.labels[rows, columns]]
    np.testing.assert_allclose(loss_and_gradients(params, batch, tagger, None)[0], losses.mean(), rtol=1e-5)


def test_what_stands_under_the_mask_changes_nothing(tmp_path):
    tagger, params = ours(random_reference(SHAPES[0]), tmp_path)
    batch = word_batch([11, 3, 6])
    garbage = batch._replace(token_ids=np.where(batch.segments, batch.token_ids, UNUSED).astype(np.int32))
    garbage = garbage._replace(labels=np.where(batch.word_index == NO_WORD, 2, batch.labels).astype(np.int32))
    # A row without tokens, full of garbage: what a batch gets when it is filled up for the devices.
    empty = Batch(*(np.full((1, 11), value) for value in (np.int32(UNUSED), np.int32(0), np.int32(NO_WORD), np.int32(1))))
    filled = Batch(*map(np.concatenate, zip(garbage[:4], empty[:4], strict=True)))
    expected = loss_and_gradients(params, batch, tagger, None)
    actual = loss_and_gradients(params, filled, tagger, None)
    assert not np.any(actual[1]["encoder"]["embeddings"]["word"]["embedding"][UNUSED])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), actual, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_of_empty_rows_gives_no_nan(dtype, tmp_path):
    tagger, params = ours(random_reference(SHAPES[0]), tmp_path)
    tagger = Tagger(tagger.config, LABELS, dtype)
    shape = (3, 11)
    nothing = np.zeros(shape, np.int32)
    batch = Batch(nothing, nothing, np.full(shape, NO_WORD, np.int32), nothing)
    loss, gradients = loss_and_gradients(params, batch, tagger, None)
    assert loss == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))
    assert np.isfinite(forward(tagger, params, batch.token_ids, batch.segments, nothing).hidden_states).all()


@pytest.mark.parametrize(
    ("changed", "field"), [({"num_attention_heads": 5}, "hidden_size"), ({"hidden_act": "silu"}, "hidden_act")]
)
def test_an_impossible_shape_is_refused(changed, field):
    with pytest.raises(ValueError, match=f"{field}: expected .*, got"):
        BertConfig(**{"vocab_size": 50, **SHAPES[0], **changed})
