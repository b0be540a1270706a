"""What travels between devices when a batch is labelled, and that no device waits for another."""

import functools
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers import stores

from knn_ner_jax import sharding
from knn_ner_jax.data.batching import assemble, plan_evaluation
from knn_ner_jax.knn.border import Sweep, choose_border
from knn_ner_jax.knn.combine import cached_knn_probabilities, interpolate
from knn_ner_jax.knn.inference import RetrievalSpec, begin, collect, labels_of, retrieve, tag
from knn_ner_jax.models.tagger import Tagger

pytestmark = pytest.mark.isa

DEVICES, WIDTH, QUERY_ROWS = 8, stores.SHAPE.hidden_size, 16
TAGGER = Tagger(stores.SHAPE, stores.LABELS)


def random_store(num_rows, mesh):
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((num_rows, WIDTH)).astype(np.float32)
    labels = np.where(rng.random(num_rows) < 0.8, 0, rng.integers(0, stores.LABELS, num_rows)).astype(np.int32)
    return stores.assemble(keys, labels, np.zeros(num_rows, np.int32), np.arange(num_rows, dtype=np.int32), None, mesh)


@functools.cache
def remembered(num_rows, devices):
    """The devices, a datastore on them, its border, and a tagger's parameters there."""
    mesh = sharding.make_mesh(devices)
    store = random_store(num_rows, mesh)
    params = jax.device_put(TAGGER.init(jax.random.key(0)), sharding.replicated(mesh))
    return mesh, store, choose_border(store.rows, stores.LABELS, mesh), params


def inputs(num_rows, devices, k):
    """Arguments of `tag` but for the weight; a batch whose words are all in its first window, so on the first device."""
    mesh, store, border, params = remembered(num_rows, devices)
    split = stores.random_split(3, 1)
    batch = sharding.put_batch(assemble(split, plan_evaluation(split.lengths, 1)[0]._replace(num_rows=DEVICES)), mesh)
    spec = RetrievalSpec(
        tagger=TAGGER,
        layers=(2,),
        k=k,
        num_labels=stores.LABELS,
        block_rows=50,
        query_rows=QUERY_ROWS,
        rest_rows=QUERY_ROWS,
    )
    spec = replace(spec, mesh=mesh if devices > 1 else None)
    return (begin(split.num_words, store, spec), params, store, border, batch), spec


def collectives(num_rows, k):
    """(operation, shape of its result) of everything that travels in the compiled program."""
    arguments, spec = inputs(num_rows, DEVICES, k)
    traced = np.float32(0.1), np.float32(0.7), np.bool_(True), np.bool_(True)
    text = tag.lower(*arguments, *traced, spec=spec).compile().as_text()
    operation = r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast)(?:-start)?\("
    found = []
    for line in text.splitlines():
        if match := re.search(r"= (.*?) " + operation, line):
            shapes = re.findall(r"[a-z]+\d*\[([\d,]*)\]", match[1])
            found += [(match[2], tuple(int(x) for x in shape.split(",") if x)) for shape in shapes]
    return sorted(found)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("k", [4, "all"])
def test_queries_and_candidates_travel_and_nothing_that_grows_with_the_rows(k):
    few, many = collectives(8 * 1200, k), collectives(8 * 4800, k)
    assert few == many
    sizes = [int(np.prod(shape)) for _, shape in many]
    candidates = 0 if k == "all" else QUERY_ROWS * (k + 1) * DEVICES
    # Not the states or probabilities of all positions: those of the words of a block.
    assert max(sizes) <= max(QUERY_ROWS * WIDTH, 2 * candidates)
    assert any(np.prod(shape) == QUERY_ROWS * WIDTH for _, shape in many)
    if k != "all":
        # Similarities, of one more than vote, which tells whether rounding could change the vote.
        assert QUERY_ROWS * (k + 1) * DEVICES in sizes


@pytest.mark.sampled(2)
@pytest.mark.parametrize("k", ["all", 4])
def test_words_of_one_device_are_labelled_as_on_one_device(k):
    labels = []
    for devices in (1, DEVICES):
        (state, *rest), spec = inputs(8 * 120 - 3, devices, k)
        state = tag(state, *rest, np.float32(0.1), np.float32(0.7), np.bool_(False), np.bool_(True), spec=spec)
        assert int(state.searched) > 0
        labels.append(labels_of(state, state.knn.shape[1], 0.7, spec).knn)
    np.testing.assert_array_equal(*labels)
    assert len(labels[0]) > 3


def test_words_that_fill_no_block_wait_and_are_looked_up_at_the_end():
    (state, *rest), spec = inputs(8 * 120, 1, 4)
    rest[2] = None
    _, words = state.knn.shape
    assert QUERY_ROWS / 2 < words < QUERY_ROWS
    for batches, last in ((1, False), (2, False), (3, True)):
        state = tag(state, *rest, np.float32(0.1), np.float32(0.7), np.bool_(False), np.bool_(last), spec=spec)
        searched = batches * words if last else batches * words // QUERY_ROWS * QUERY_ROWS
        assert int(state.searched) == searched
        assert int(state.for_all.number[0]) == batches * words - searched


@pytest.mark.parametrize("every_k", [(4, 2), ("all",)])
def test_words_of_one_device_are_swept_as_on_one_device(every_k):
    caches, temperatures = [], np.float32([0.05, 0.2])
    of_all = temperatures if "all" in every_k else None
    for devices in (1, DEVICES):
        (state, params, store, border, batch), spec = inputs(8 * 120 - 3, devices, every_k[0])
        sweep = Sweep(border, temperatures, np.float32([0.1, 0.5]), every_k)
        retrieved = retrieve(params, store, batch, of_all, sweep, spec=spec)
        caches.append(collect([retrieved], state.knn.shape[1], None if of_all is None else of_all.tolist()))
    one, many = caches
    assert len(one.p_ner) > 3
    np.testing.assert_allclose(one.p_ner, many.p_ner, atol=1e-5)
    # The borders of one device and of eight may differ, so the votes of words that they settle: labels do not.
    weights = 0.1, 0.3, 0.5
    for k in every_k:
        for here, there in zip(*(cached_knn_probabilities(each, k, temperatures.tolist()) for each in caches), strict=True):
            for weight in weights:
                labels = [
                    interpolate(each.p_ner, np.asarray(vote), weight)
                    for each, vote in zip(caches, (here, there), strict=True)
                ]
                clear = np.sort(labels[0], axis=1)[:, -1] - np.sort(labels[0], axis=1)[:, -2] > 1e-3
                assert clear.any()
                found = [each.argmax(axis=1)[clear] for each in labels]
                np.testing.assert_array_equal(*found)
