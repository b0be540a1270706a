"""A step on windows that share rows, against the same step with a row for each window."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from helpers.training_jobs import WINDOW, initial_params, make_job, tagger_of

from knn_ner_jax.data.batching import BatchPlan, pack, placed_batches
from knn_ner_jax.data.pinyin import LETTERS
from knn_ner_jax.models.chinese_bert import ChineseBertConfig
from knn_ner_jax.training import loop

NUM_WINDOWS, RATE = 8, 0.1
# Plain gradient descent: AdamW divides by the size of a gradient, which magnifies the rounding of small ones.
SGD = optax.sgd(RATE)


def with_pinyin(job: loop.TrainJob) -> loop.TrainJob:
    """The job with a ChineseBERT of the same sizes, and letters drawn for each token."""
    rng = np.random.default_rng(0)
    config = ChineseBertConfig(**(vars(job.tagger.config) | {"family": "chinesebert"}), letter_size=8, num_pixels=27)
    windows = tuple(
        window._replace(pinyin_ids=rng.integers(0, config.num_letters, (len(window.token_ids), LETTERS), dtype=np.int32))
        for window in job.train.windows
    )
    train = dataclasses.replace(job.train, windows=windows)
    return dataclasses.replace(job, tagger=dataclasses.replace(job.tagger, config=config), train=train)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("family", ["bert", "chinesebert"])
def test_a_step_on_packed_windows_is_that_on_windows_in_rows_of_their_own(family: str, devices: int):
    job = make_job(tagger_of(), devices)
    job = with_pinyin(job) if family == "chinesebert" else job
    packed = BatchPlan(pack(job.train.lengths[:NUM_WINDOWS].tolist(), 30), NUM_WINDOWS, 30)
    assert len(packed.parts) <= NUM_WINDOWS / 2
    unpacked = BatchPlan([[window] for window in range(NUM_WINDOWS)], NUM_WINDOWS, WINDOW)
    start, results = initial_params(job.tagger), []
    for plan in (packed, unpacked):
        (batch,) = placed_batches(job.train, [plan], job.mesh)
        state = loop.init_state(start, SGD, job.mesh)
        state, metrics = loop.train_step(state, batch, jax.random.key(0), tagger=job.tagger, optimizer=SGD)
        results.append((jax.tree.map(np.asarray, state.params), float(metrics.loss)))
    (together, loss), (apart, their_loss) = results
    # A gradient is a sum over the words of a batch; each way to add them rounds by at most n eps of the terms, of order 1.
    rounding = NUM_WINDOWS * WINDOW * np.finfo(np.float32).eps
    np.testing.assert_allclose(loss, their_loss, rtol=rounding)
    for (path, here), there, before in zip(
        jax.tree_util.tree_leaves_with_path(together), jax.tree.leaves(apart), jax.tree.leaves(start), strict=True
    ):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(here, there, rtol=0, atol=RATE * rounding, err_msg=name)
        # Softmax does not see this bias: its gradient is rounding alone.
        if not name.endswith("['attention']['key']['bias']"):
            assert abs(here - before).max() > 10 * RATE * rounding, name
