"""The one compiled function: what it computes, how often it is compiled, what it is compiled to."""

import logging
import re
from contextlib import contextmanager
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import margins, oracle, stores
from helpers.stores import SHAPE, random_split

from knn_ner_jax import sharding
from knn_ner_jax.data.batching import assemble, placed_batches, plan_evaluation
from knn_ner_jax.data.corpus import read_splits
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import NO_WORD, encode
from knn_ner_jax.knn import search
from knn_ner_jax.knn.border import Sweep, choose_border
from knn_ner_jax.knn.inference import RetrievalSpec, begin, labels_of, retrieve, tag
from knn_ner_jax.knn.topk import block_size, rows_at_once
from knn_ner_jax.models import pretrained
from knn_ner_jax.models.tagger import Tagger

pytestmark = pytest.mark.isa

LABELS = 5
QUERIES = 24  # words of a block, of 1 or 8 devices
LOGITS = 1e-4  # by which two float32 programs of a whole model may differ, as in helpers/parity.py
forward = jax.jit(Tagger.__call__, static_argnums=0)
WEIGHTS = (0.1, 0.24, 0.41, 0.49, 0.7, 1.0)


def whole_batch(split, rows=None):
    plan = plan_evaluation(split.lengths, len(split.windows))[0]
    return assemble(split, plan._replace(num_rows=rows or plan.num_rows))


def of_words(batch, values):
    """Values at positions -> values in the order of the words."""
    word_index, values = np.asarray(batch.word_index), np.asarray(values)
    ordered = np.empty(((word_index != NO_WORD).sum(), *values.shape[2:]), values.dtype)
    ordered[word_index[word_index != NO_WORD]] = values[word_index != NO_WORD]
    return ordered


@pytest.fixture(scope="module")
def tiny():
    """A tagger with a spread-out head, a datastore of 30 sentences, and 12 other sentences."""
    tagger = Tagger(SHAPE, LABELS)
    params = tagger.init(jax.random.key(0))
    mesh = sharding.make_mesh(1)
    store = stores.build(tagger, params, random_split(1, 30), layers=(2,), whitening_dim=None, batch_size=30, mesh=mesh)
    spec = RetrievalSpec(tagger=tagger, layers=(2,), k=8, num_labels=LABELS, block_rows=50, query_rows=16, rest_rows=16)
    return params, store, random_split(2, 12), spec


def tag_batches(params, store, split, placed, temperature, knn_weight, spec, border=None, with_scores=False):
    """The labels after the last of some batches."""
    traced = jnp.float32(temperature), jnp.float32(knn_weight), jnp.bool_(with_scores)
    state = begin(split.num_words, store, spec)
    for number, batch in enumerate(placed, 1):
        state = tag(state, params, store, border, batch, *traced, jnp.bool_(number == len(placed)), spec=spec)
    return labels_of(state, split.num_words, knn_weight, spec)


@contextmanager
def compilations(caplog):
    """The names of the functions compiled inside."""
    names = []
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        caplog.clear()
        yield names
        found = (re.match(r"Compiling (?:jit\()?(\w+)", record.getMessage()) for record in caplog.records)
        names += [match[1] for match in found if match]
        caplog.clear()


def lead(p_ner, knn_weight):
    """[words] by how much the tagger's margin exceeds what a vote can change."""
    best = np.sort(p_ner, axis=1)
    return (1 - knn_weight) * (best[:, -1] - best[:, -2]) - knn_weight


@pytest.mark.parametrize("k", [8, "all"])
def test_labels_are_those_of_a_search_for_every_word(tiny, k):
    params, store, split, spec = tiny
    batch = whole_batch(split)
    keys, row_labels = np.asarray(store.keys), np.asarray(store.labels)
    queries = np.zeros((split.num_words, SHAPE.hidden_size))
    output = forward(spec.tagger, params, batch.token_ids, batch.segments)
    is_word = batch.word_index != NO_WORD
    queries[batch.word_index[is_word]] = output.hidden_states[-1][is_word]
    logits = np.zeros((split.num_words, LABELS))
    logits[batch.word_index[is_word]] = output.logits[is_word]
    p_ner = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids, similarities = oracle.search(queries, keys, len(keys) if k == "all" else k, "cosine")
    every_similarity, error = oracle.similarity(queries, keys, "cosine"), margins.rounding(queries, keys)
    own_is_clear = lead(p_ner, 0) > margins.SLACK
    border = choose_border(store.rows, LABELS, None, at_most=1.0)
    for temperature in (0.01, 0.1):
        p_knn = oracle.vote(similarities, row_labels[ids], LABELS, temperature)
        for knn_weight in WEIGHTS:
            mixed = oracle.interpolate(p_ner, p_knn, knn_weight)
            rest = error, k, temperature, knn_weight
            clear = margins.clear_labels(mixed, every_similarity, row_labels, *rest)
            assert clear.mean() > 0.8
            for some in (None, border):
                labels = tag_batches(params, store, split, [batch], temperature, knn_weight, replace(spec, k=k), some)
                np.testing.assert_array_equal(labels.knn[clear], mixed.argmax(axis=1)[clear])
                np.testing.assert_array_equal(labels.tagger[own_is_clear], p_ner.argmax(axis=1)[own_is_clear])
                at_border, searched, hang = map(int, (labels.at_border, labels.searched, labels.within_rounding))
                fewest, most = ((lead(p_ner, knn_weight) <= bound).sum() for bound in (0, 2 * margins.SLACK))
                assert fewest <= (searched if some is None else at_border) <= most
                assert hang <= searched <= (most if some is None else at_border)
                surely = (~margins.clear_labels(mixed, every_similarity, row_labels, 0.1 * error, *rest[1:])).sum()
                assert some is not None or (at_border == 0 and hang >= surely)


@pytest.mark.parametrize("usual", [0, 2])
@pytest.mark.parametrize("k", [8, "all"])
def test_scores_are_the_probabilities_of_a_search_for_every_word(tiny, k, usual):
    params, store, split, spec = tiny
    # Most rows have one tag: O, or another, whose words no border settles with a score.
    labels = np.where(np.arange(len(store.labels)) % 8 < 6, usual, np.asarray(store.labels))
    store, spec, batch = replace(store, labels=jnp.asarray(labels)), replace(spec, k=k), whole_batch(split)
    output = forward(spec.tagger, params, batch.token_ids, batch.segments)
    queries = of_words(batch, output.hidden_states[-1]).astype(np.float64)
    p_ner = of_words(batch, np.asarray(jax.nn.softmax(output.logits)))
    keys, temperature = np.asarray(store.keys), 0.1
    ids, similarities = oracle.search(queries, keys, len(keys) if k == "all" else k + 1, "cosine")
    error = margins.rounding(queries, keys).max()
    settled = np.ones(len(queries), bool)
    if k != "all":
        settled = similarities[:, k - 1] - similarities[:, k] > 2 * error
        ids, similarities = ids[:, :k], similarities[:, :k]
    p_knn = oracle.vote(similarities, labels[ids], LABELS, temperature)
    bound = margins.SLACK + np.expm1(2 * error / temperature)
    border = choose_border(store.rows, LABELS, None, at_most=1.0)
    assert int(border.usual) == usual
    num_scored = 0
    for knn_weight in (0.2, 0.6):
        mixed = oracle.interpolate(p_ner, p_knn, knn_weight)
        clear = settled & (lead(mixed, 0) > 2 * bound)
        for some in (None, border):
            found = tag_batches(params, store, split, [batch], temperature, knn_weight, spec, some, with_scores=True)
            np.testing.assert_array_equal(found.knn[clear], mixed.argmax(axis=1)[clear])
            has_score = found.knn != 0
            num_scored += (has_score & clear).sum()
            assert all(np.isnan(column[~has_score]).all() for column in found.probabilities)
            words = np.flatnonzero(has_score & clear)
            for column, expected in zip(found.probabilities, (mixed, p_ner, p_knn), strict=True):
                np.testing.assert_allclose(column[words], expected[words, found.knn[words]], rtol=0, atol=bound)
    assert num_scored > 20


def test_a_datastore_label_beyond_the_tagger_can_win(tiny):
    params, store, split, spec = tiny
    batch = whole_batch(split)
    foreign = replace(store, labels=jnp.full_like(store.labels, LABELS + 1))
    wider = replace(spec, num_labels=LABELS + 2)
    labels = tag_batches(params, foreign, split, [batch], 0.1, 1.0, wider)
    assert set(labels.knn.tolist()) == {LABELS + 1}
    assert set(labels.tagger.tolist()) <= set(range(LABELS))


def test_retrieved_words_have_their_own_neighbours_and_shares(tiny):
    params, store, split, spec = tiny
    batch = whole_batch(split)
    found = retrieve(params, store, batch, jnp.asarray([0.01, 0.1]), spec=spec)
    word_index = np.asarray(found.word_index)
    assert sorted(word_index[word_index != NO_WORD]) == list(range(split.num_words))
    output = forward(spec.tagger, params, batch.token_ids, batch.segments)
    for row, slot in enumerate(word_index[: split.num_words]):
        place = tuple(np.argwhere(batch.word_index == slot)[0])
        query, logits = np.asarray(output.hidden_states[-1][place])[None], np.asarray(output.logits[place], np.float64)
        # Logits of two programs differ by rounding, and probabilities by half as much.
        np.testing.assert_allclose(found.p_ner[row], np.exp(logits) / np.exp(logits).sum(), rtol=0, atol=LOGITS / 2)
        every, [error] = oracle.similarity(query, store.keys, "cosine"), margins.rounding(query, store.keys)
        nearest = every[0, np.asarray(found.result.neighbours.ids[row])]
        assert (abs(nearest - oracle.search(query, store.keys, 8)[1][0]) <= 2 * error).all()
        for temperature, shares in zip((0.01, 0.1), found.result.knn_probs, strict=True):
            tolerance = np.expm1(2 * error / temperature).item()
            expected = oracle.vote(every, np.asarray(store.labels)[None], LABELS, temperature)[0]
            np.testing.assert_allclose(shares[row], expected, rtol=0, atol=tolerance)


def test_only_a_new_k_or_shape_compiles(tiny, caplog):
    params, store, split, spec = tiny
    batch = whole_batch(split, rows=13)  # a shape that no other test has compiled
    spec = replace(spec, k=7)
    with compilations(caplog) as first:
        tag_batches(params, store, split, [batch], 0.1, 0.5, spec)
    assert first.count("tag") == 1
    other = replace(store, keys=store.keys + 1.0, labels=store.labels[::-1], num_rows=store.num_rows - 3)
    jax.block_until_ready(other)
    with compilations(caplog) as then:
        for temperature in (0.001, 10.0):
            for knn_weight in (0.0, 1.0):
                tag_batches(params, store, split, [batch, batch], temperature, knn_weight, spec)
                tag_batches(params, other, split, [batch], temperature, knn_weight, replace(spec))
    assert "tag" not in then
    with compilations(caplog) as another_k:
        tag_batches(params, store, split, [batch], 0.001, 0.0, replace(spec, k=6))
    assert another_k.count("tag") == 1


def products(text):
    """(left shape, right shape, line) of every dot_general of a lowered program."""
    pattern = r"dot_general.*: \(tensor<([\dx]+)xf32>, tensor<([\dx]+)xf32>\)"
    for line in text.splitlines():
        if found := re.search(pattern, line):
            left, right = (tuple(map(int, shape.split("x"))) for shape in found.groups())
            yield left, right, line


def shapes(text):
    """The shapes of all arrays of a lowered program."""
    return {tuple(map(int, shape.split("x"))) for shape in re.findall(r"tensor<(\d+(?:x\d+)*)x[a-z]", text)}


def check_scoring(text, queries, block, width):
    """Every product of a block of queries with a block of keys asks for full float32 precision; there is at least one."""
    scoring = [line for left, right, line in products(text) if {left, right} == {(queries, width), (block, width)}]
    assert scoring
    for line in scoring:
        assert "precision = [HIGHEST, HIGHEST]" in line


@pytest.mark.parametrize("every_k", [(2, 5), ("all",), (2, "all")])
def test_a_sweep_changes_what_returns_for_words_that_are_the_usual_tag_alone(tiny, every_k):
    params, store, split, spec = tiny
    batch, border = whole_batch(split), choose_border(store.rows, LABELS, None, at_most=1.0)
    temperatures, ends = jnp.float32([0.02, 0.1]), jnp.float32([0.0, 0.4])
    spec = replace(spec, k=max((k for k in every_k if k != "all"), default="all"))
    of_all = temperatures if "all" in every_k else None
    swept = retrieve(params, store, batch, of_all, Sweep(border, temperatures, ends, every_k), spec=spec)
    full = retrieve(params, store, batch, of_all, spec=spec)
    np.testing.assert_array_equal(swept.word_index, full.word_index)
    np.testing.assert_array_equal(swept.p_ner, full.p_ner)
    same = np.ones(len(full.word_index), bool)
    for ours, theirs in zip(jax.tree.leaves(swept.result), jax.tree.leaves(full.result), strict=True):
        assert ours.shape == theirs.shape
        axes = tuple(axis for axis in range(ours.ndim) if axis != ours.ndim - 2)
        same &= np.isclose(ours, theirs, rtol=1e-4, atol=1e-6).all(axis=axes)
    is_word = np.asarray(full.word_index) != NO_WORD
    votes = [] if full.result.knn_probs is None else list(np.asarray(full.result.knn_probs))
    if full.result.neighbours is not None:
        columns = np.asarray(full.result.neighbours.similarities), np.asarray(full.result.neighbours.values)
        finite = [k for k in every_k if k != "all"]
        votes += [oracle.vote(*(c[:, :k] for c in columns), LABELS, t) for k in finite for t in temperatures]
    mixed = [oracle.interpolate(np.asarray(full.p_ner), vote, weight) for vote in votes for weight in ends]
    is_usual = (np.stack(mixed).argmax(axis=2) == int(border.usual)).all(axis=0)
    assert is_usual[is_word & ~same].all()
    assert (is_word & ~same).any()  # some words were settled, and some were not
    assert (is_word & ~is_usual).any()


@pytest.mark.parametrize("k", [8, "all"])
@pytest.mark.parametrize("devices", [1, 8])
def test_scoring_is_float32_accurate_and_never_a_matrix_of_all_rows(tiny, k, devices):
    params, store, split, spec = tiny
    rows, block_rows = 8 * 290, 57 if devices == 1 else 19
    selected = block_size(rows // devices, block_rows if k == "all" else rows_at_once(k, QUERIES, block_rows, "cpu"))
    block = block_size(selected, block_rows)
    mesh = sharding.make_mesh(devices) if devices > 1 else None
    spec = replace(spec, k=k, block_rows=block_rows, query_rows=QUERIES, rest_rows=QUERIES, mesh=mesh)

    def without_placement(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    store = jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype) if leaf.ndim else leaf, store)
    share = QUERIES // devices
    state = begin(split.num_words, store, replace(spec, mesh=None, query_rows=share, rest_rows=share))
    state = jax.tree.map(lambda leaf: jnp.zeros((devices, *leaf.shape[1:]), leaf.dtype) if leaf.ndim else leaf, state)
    traced = jnp.float32(0), jnp.float32(0), jnp.bool_(True), jnp.bool_(True)
    arguments = jax.tree.map(without_placement, (state, params, store, None, whole_batch(split), *traced))
    text = tag.lower(*arguments, spec=spec).as_text()
    check_scoring(text, QUERIES, block, SHAPE.hidden_size)
    if k == "all":
        votes = [line for left, _, line in products(text) if left == (QUERIES, block)]
        assert votes
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in votes)
    allowed = {(rows, SHAPE.hidden_size), (rows // devices, SHAPE.hidden_size)}
    wide = {shape for shape in shapes(text) if len(shape) > 1 and {rows, rows // devices} & set(shape)}
    assert wide <= allowed
    assert {(QUERIES, block), (QUERIES, selected)} <= shapes(text)


def test_top_k_is_float32_accurate_and_never_a_matrix_of_all_rows():
    def nearest(queries, keys):
        return search.top_k(queries, keys, 3, block_rows=25)

    text = jax.jit(nearest).lower(jnp.zeros((17, 8)), jnp.zeros((1001, 8))).as_text()
    selected = block_size(1001, rows_at_once(3, 17, 25, "cpu"))
    check_scoring(text, 17, block_size(selected, 25), 8)
    assert (17, 1001) not in shapes(text)
    assert (17, selected) in shapes(text)


def test_whitening_is_float32_accurate(tiny):
    params, _, split, spec = tiny
    build = {"layers": (1, 2), "whitening_dim": 5, "batch_size": 30, "mesh": sharding.make_mesh(1)}
    whitened = stores.build(spec.tagger, params, split, **build)
    spec = replace(spec, layers=(1, 2))
    batch = whole_batch(split)
    state, numbers, flag = begin(split.num_words, whitened, spec), (jnp.float32(0.1), jnp.float32(0.5)), jnp.bool_(True)
    text = tag.lower(state, params, whitened, None, batch, *numbers, flag, flag, spec=spec).as_text()
    projecting = [line for _, right, line in products(text) if right == (2 * SHAPE.hidden_size, 5)]
    assert projecting
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in projecting)


@pytest.fixture(scope="module")
def news(minilm, pytestconfig):
    """The first two layers of MiniLM with a head that is random and fixed, a datastore of training news, and some of dev."""
    folder = pytestconfig.rootpath / "knn_ner_jax" / "data" / "quickstart"
    splits = read_splits({name: folder / f"{name}.conll" for name in ("train", "dev")})[0]
    label_set = LabelSet.of(sentence.tags for sentence in splits["train"].sentences)
    backbone = pretrained.open_backbone(minilm)
    encoder = backbone.initial_params(Tagger(backbone.config, len(label_set)), jax.random.key(0))["encoder"]
    encoder["layers"] = jax.tree.map(lambda stacked: stacked[:2], encoder["layers"])
    tagger = Tagger(replace(backbone.config, num_hidden_layers=2), len(label_set))
    rng = np.random.default_rng(3)
    head = {"kernel": rng.standard_normal((384, len(label_set)), np.float32), "bias": np.zeros(len(label_set), np.float32)}
    params = {"encoder": encoder, "head": head}
    remembered, dev = (
        encode(sentences, backbone.tokenizer, 48, label_set)
        for sentences in (splits["train"].sentences[:60], splits["dev"].sentences[:40])
    )
    mesh = sharding.make_mesh(1)
    store = stores.build(tagger, params, remembered, layers=(2,), whitening_dim=None, batch_size=60, mesh=mesh)
    return tagger, params, store, dev


def label_everything(network, devices, batch_size, k, temperature, with_border=False):
    tagger, params, store, dev = network
    mesh = sharding.make_mesh(devices)
    params = jax.device_put(params, sharding.replicated(mesh))
    columns = (np.asarray(column) for column in (store.keys, store.labels, store.sentence_ids, store.word_ids))
    store = stores.assemble(*columns, None, mesh)
    searched_mesh = mesh if devices > 1 else None
    spec = RetrievalSpec(
        tagger=tagger,
        layers=(2,),
        k=k,
        num_labels=tagger.num_labels,
        block_rows=500,
        query_rows=64,
        rest_rows=32,
        mesh=searched_mesh,
    )
    placed = list(placed_batches(dev, plan_evaluation(dev.lengths, batch_size), mesh))
    border = choose_border(store.rows, tagger.num_labels, searched_mesh, at_most=1.0) if with_border else None
    return np.asarray(tag_batches(params, store, dev, placed, temperature, 0.6, spec, border).knn)


def clear_words(network, k, temperature):
    """[words] whether no rounding can change the label at weight 0.6."""
    tagger, params, store, split = network
    queries, p_ner = np.zeros((split.num_words, store.keys.shape[1])), np.zeros((split.num_words, tagger.num_labels))
    batch = whole_batch(split)
    output, is_word = forward(tagger, params, batch.token_ids, batch.segments), batch.word_index != NO_WORD
    queries[batch.word_index[is_word]] = np.asarray(output.hidden_states[-1])[is_word]
    p_ner[batch.word_index[is_word]] = np.asarray(jax.nn.softmax(output.logits))[is_word]
    keys, row_labels = np.asarray(store.keys), np.asarray(store.labels)
    ids, similarities = oracle.search(queries, keys, len(keys) if k == "all" else k)
    mixed = oracle.interpolate(p_ner, oracle.vote(similarities, row_labels[ids], tagger.num_labels, temperature), 0.6)
    error = margins.rounding(queries, keys)
    return margins.clear_labels(mixed, oracle.similarity(queries, keys, "cosine"), row_labels, error, k, temperature, 0.6)


def check_labels(network, k, temperature, ways):
    """Other devices, batch sizes and the border give the labels that one device gives of batches of 32."""
    expected, clear = label_everything(network, 1, 32, k, temperature), clear_words(network, k, temperature)
    assert len(set(expected)) == network[0].num_labels
    assert clear.mean() > 0.8
    for devices, batch_size, with_border in ways:
        labels = label_everything(network, devices, batch_size, k, temperature, with_border)
        message = f"{devices} devices, batches of {batch_size}, {with_border}"
        np.testing.assert_array_equal(labels[clear], expected[clear], err_msg=message)


@pytest.mark.slow
@pytest.mark.parametrize("k", [64, "all"])
def test_labels_of_news_do_not_depend_on_batch_size_devices_or_border(news, k):
    of_some = [(1, 7, True), (8, 32, False)] if k == 64 else []
    check_labels(news, k, 0.001 if k == "all" else 0.1, [(1, 1, False), (8, 32, True), *of_some])


def test_labels_do_not_depend_on_batch_size_devices_or_border(tiny):
    params, store, split, spec = tiny
    check_labels((spec.tagger, params, store, split), 8, 0.1, [(1, 5, False), (8, 32, True)])
