"""The optimizer against PyTorch's, the train step on one and several devices, and the loop around it."""

import dataclasses
import json
import logging
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.training_jobs import WINDOW, initial_params, initial_state, make_job, optimizer_of, tagger_of
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2

from knn_ner_jax import sharding
from knn_ner_jax.config import TrainConfig
from knn_ner_jax.data.batching import assemble
from knn_ner_jax.data.tag_schemes import to_iob2
from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.io import InputError, NonFiniteLossError
from knn_ner_jax.run_dir import TRAINING_FILES
from knn_ner_jax.training import loop
from knn_ner_jax.training.checkpoints import Checkpoints


class Fitted(NamedTuple):
    """What a whole run left behind."""

    job: loop.TrainJob
    state: loop.TrainState
    lines: list[dict]
    compiled: list[str]
    files: list[str]
    saved: list[int]
    best: tuple[int, float]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    job = make_job(tagger_of(), pad_to_multiple_of=8, epochs=6)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("jax").addHandler(handler)
    try:
        with jax.log_compiles(), Checkpoints(folder / "checkpoints") as checkpoints:
            state = loop.fit(job, initial_state(job), checkpoints, folder / "metrics.jsonl")
            best = checkpoints.best
    finally:
        logging.getLogger("jax").removeHandler(handler)
    actual = [re.search(r"Finished XLA compilation of jit\((\w+)\)", message) for message in messages]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    saved = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
    files = sorted(path.name for path in folder.iterdir())
    return Fitted(job, state, lines, [match[1] for match in actual if match], files, saved, best)


def test_whatever_lengths_windows_have_a_run_compiles_each_program_once(fitted):
    assert len(set(fitted.job.train.lengths)) > 8
    assert [fitted.compiled.count(name) for name in ("train_step", "_predict", "span_counts")] == [1, 1, 1]


def test_every_step_is_logged(fitted):
    job = fitted.job
    losses = [line for line in fitted.lines if "loss" in line]
    assert [line["step"] for line in losses] == list(range(1, job.total_steps + 1))
    assert all(line["tokens_per_second"] > 0 and line["gradient_norm"] > 0 for line in losses)
    evaluations = [line for line in fitted.lines if "dev_f1" in line]
    assert [line["epoch"] for line in evaluations] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in evaluations] == [job.steps_per_epoch * epoch for epoch in range(1, 7)]


def test_an_evaluation_logs_the_scores_of_every_type(fitted):
    gold, predicted = predictions(fitted.state.params, fitted.job)
    report = classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    last = [line for line in fitted.lines if "dev_f1" in line][-1]
    assert last["dev_per_type"].keys() == {"LOC", "PER"}
    for name, row in last["dev_per_type"].items():
        expected = {"precision": report[name]["precision"], "recall": report[name]["recall"], "f1": report[name]["f1-score"]}
        expected = {score: 100 * value for score, value in expected.items()} | {"support": report[name]["support"]}
        assert row == pytest.approx(expected, rel=1e-6)
    assert [last["dev_precision"], last["dev_recall"]] == pytest.approx(
        [100 * report["micro avg"]["precision"], 100 * report["micro avg"]["recall"]], rel=1e-6
    )


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ({}, [10, 20]),
        ({"evaluations_per_epoch": 2}, [5, 10, 15, 20]),
        ({"evaluations_per_epoch": 4}, [3, 5, 8, 10, 13, 15, 18, 20]),
        ({"evaluations_per_epoch": 99}, list(range(1, 21))),
        ({"evaluate_every": 8, "evaluations_per_epoch": 4}, [8, 16, 20]),
    ],
)
def test_evaluations_are_spread_evenly_and_the_last_ends_the_epoch(config, steps):
    schedule = loop._EvalSchedule(TrainConfig(save_every=0, **config), steps_per_epoch=10, total=20)
    assert [step for step in range(1, 21) if schedule.evaluates(step)] == steps
    assert [step for step in range(1, 21) if schedule.saves(step)] == steps


def test_the_learning_rate_logged_is_the_one_the_step_was_made_with(fitted):
    config, updates = fitted.job.config, fitted.job.total_steps
    lines = [line for line in fitted.lines if "loss" in line]
    warmup = int(config.warmup_ratio * updates)
    assert warmup > 1
    # The first step is update number 0 of the schedule.
    updates_done = [line["step"] - 1 for line in lines]
    expected = np.interp(updates_done, [0, warmup, updates], [0.0, config.learning_rate, 0.0])
    rounding = 4 * np.finfo(np.float32).eps * config.learning_rate
    np.testing.assert_allclose([line["learning_rate"] for line in lines], expected, rtol=0, atol=rounding)


def test_loss_goes_down(fitted):
    losses = [line["loss"] for line in fitted.lines if "loss" in line]
    per_epoch = fitted.job.steps_per_epoch
    assert np.mean(losses[-per_epoch:]) < 0.6 * np.mean(losses[:per_epoch])


def predictions(params: dict, job: loop.TrainJob) -> tuple[list[list[str]], list[list[str]]]:
    """Gold and predicted tags of dev by sentence, window by window."""
    split = job.dev
    label_ids = np.full(split.num_words, -1)
    forward = jax.jit(job.tagger)
    for window in split.windows:
        ids, mask = np.zeros((1, WINDOW), np.int32), np.arange(WINDOW)[None] < len(window.token_ids)
        ids[0, : len(window.token_ids)] = window.token_ids
        best_ids = np.asarray(forward(params, ids, mask).logits)[0].argmax(axis=-1)
        for position, slot in enumerate(window.word_index):
            if slot != NO_WORD:
                label_ids[slot] = best_ids[position]
    assert (label_ids >= 0).all()
    both: tuple[list, list] = ([], [])
    for sentence in range(split.sentence_ids[-1] + 1):
        for tags, ids in zip(both, (split.label_ids, label_ids), strict=True):
            tags.append([job.label_set.names[i] for i in ids[split.sentence_ids == sentence]])
    return both


def test_more_accumulation_than_steps_is_refused_and_a_rest_is_reported(caplog):
    tagger = tagger_of()
    total = make_job(tagger).total_steps
    message = rf"train\.gradient_accumulation_steps: expected at most {total} .*, got {total + 1}"
    with pytest.raises(InputError, match=message):
        make_job(tagger, gradient_accumulation_steps=total + 1).check()
    with caplog.at_level(logging.INFO):
        make_job(tagger, gradient_accumulation_steps=total - 1).check()
    assert f"the last 1 of {total} steps" in caplog.text


def test_dev_f1_is_seqevals(fitted):
    gold, predicted = predictions(fitted.state.params, fitted.job)
    assert fitted.job.dev.num_long_sentences > 0
    expected = 100 * f1_score(gold, predicted, mode="strict", scheme=IOB2)
    assert 30 < expected < 95
    # Counts are integers; what is left is the rounding of one float32 division.
    assert loop.dev_scores(fitted.state.params, fitted.job)["f1"] == pytest.approx(expected, rel=1e-6)
    assert [line["dev_f1"] for line in fitted.lines if "dev_f1" in line][-1] == pytest.approx(expected, rel=1e-6)


def test_dev_f1_ends_spans_with_their_sentence():
    job = make_job(tagger_of(), pad_to_multiple_of=4)
    params = initial_params(job.tagger)
    # Tags without rhyme or reason, I- where a sentence begins among them.
    params["head"]["kernel"] = np.random.default_rng(3).normal(size=params["head"]["kernel"].shape).astype(np.float32)
    _, predicted = predictions(params, job)
    gold = [list(to_iob2(tags, "BIO").iob2) for tags in predicted]
    joined = [[[tag for tags in side for tag in tags]] for side in (gold, predicted)]
    assert f1_score(gold, predicted, mode="strict", scheme=IOB2) == 1
    assert f1_score(*joined, mode="strict", scheme=IOB2) < 1
    label_ids = np.array([job.label_set.names.index(tag) for tags in gold for tag in tags], np.int32)
    job = dataclasses.replace(job, dev=dataclasses.replace(job.dev, label_ids=label_ids))
    assert loop.dev_scores(params, job)["f1"] == 100


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (7, 8)])
def test_dev_f1_depends_on_neither_batch_size_nor_devices(fitted, batch_size, devices):
    job = make_job(fitted.job.tagger, devices, batch_size=batch_size)
    params = jax.device_put(jax.tree.map(np.asarray, fitted.state.params), sharding.replicated(job.mesh))
    assert loop.dev_scores(params, job)["f1"] == loop.dev_scores(fitted.state.params, fitted.job)["f1"]


def test_the_latest_and_the_best_checkpoint_are_kept(fitted):
    scores = {line["step"]: line["dev_f1"] for line in fitted.lines if "dev_f1" in line}
    best = max(scores, key=lambda step: (scores[step], step))
    assert fitted.best == (best, scores[best])
    assert fitted.saved == sorted({best, fitted.job.total_steps})


def test_no_trace_is_written_without_request(fitted):
    assert fitted.files == ["checkpoints", "metrics.jsonl", "tensorboard"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("step", "steps"), [(10, 4), (0, 2)], ids=["more than are left", "some"])
def test_a_trace_of_some_steps_is_written_on_request(step, steps, tmp_path, monkeypatch):
    # Whatever is traced, the same program trains.
    monkeypatch.setattr(
        loop, "make_optimizer", lambda config, total: optimizer_of(dataclasses.replace(config, profile=0), total)
    )
    job = make_job(tagger_of(), epochs=2, profile=steps)
    assert job.total_steps > 10
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        loop.fit(job, initial_state(job, step), checkpoints, tmp_path / "metrics.jsonl")
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert "profile" in TRAINING_FILES


# Several devices


def one_step(
    job: loop.TrainJob, state: loop.TrainState, number: int, seed: int = 0, optimizer=None
) -> tuple[loop.TrainState, float]:
    """The state after a step on batch `number`, and the loss."""
    plan = [plan for epoch in range(job.config.epochs) for plan in job.plans[epoch]][number]
    batch = assemble(job.train, plan._replace(num_rows=sharding.round_up(plan.num_rows, job.mesh)))
    placed = jax.device_put(batch, sharding.split(job.mesh))
    optimizer = optimizer or optimizer_of(job.config, job.total_steps)
    state, metrics = loop.train_step(state, placed, jax.random.key(seed), tagger=job.tagger, optimizer=optimizer)
    return state, float(metrics.loss)


def test_any_number_of_devices_trains_alike_and_gives_up_the_old_state():
    # Plain gradient descent: AdamW divides by the size of a gradient, which magnifies the rounding of small ones.
    sgd, rate, steps = optax.sgd(0.1), 0.1, 4
    jobs = [make_job(tagger_of(0.1), devices, epochs=2) for devices in (1, 8)]
    assert jobs[0].config.batch_size % 8
    results = []
    for job in jobs:
        params = initial_params(job.tagger)
        state, losses = loop.init_state(params, sgd, job.mesh), []
        for number in range(steps):
            leaves = jax.tree.leaves(state)
            state, loss = one_step(job, state, number, optimizer=sgd)
            losses.append(loss)
            assert all(leaf.is_deleted() for leaf in leaves)
        assert int(state.step) == steps
        results.append((jax.tree_util.tree_leaves_with_path(jax.tree.map(np.asarray, state.params)), losses))

    (alone, losses), (divided, their_losses) = results
    # A gradient is a sum over the words of a batch; each way to add them rounds by at most n eps of the terms, of order 1.
    num_words = max(len(plan.windows) for plan in jobs[0].plans[0]) * WINDOW
    rounding = num_words * np.finfo(np.float32).eps
    np.testing.assert_allclose(their_losses, losses, rtol=steps * rounding)
    starts = jax.tree.leaves(initial_params(jobs[0].tagger))
    for (path, here), (_, there), start in zip(divided, alone, starts, strict=True):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(here, there, rtol=0, atol=steps * rate * rounding, err_msg=name)
        # Softmax does not see this bias: its gradient is rounding alone.
        if not name.endswith("['attention']['key']['bias']"):
            assert abs(here - start).max() > 10 * steps * rate * rounding, name


def test_each_step_has_dropout_of_its_own():
    job = make_job(tagger_of(0.1), epochs=2)
    losses = {
        (step, seed): one_step(job, initial_state(job, step), number=0, seed=seed)[1] for step in (0, 1) for seed in (0, 1)
    }
    assert len(set(losses.values())) == 4
    assert losses[0, 0] == one_step(job, initial_state(job, 0), number=0, seed=0)[1]


def test_parameters_and_moments_stay_float32_under_bfloat16():
    job = make_job(tagger_of(0.1, "bfloat16"))
    state, optimizer = initial_state(job), optimizer_of(job.config, job.total_steps)
    batch = assemble(job.train, job.plans[0][0])
    after, metrics = jax.eval_shape(
        lambda *leaves: loop.train_step(*leaves, tagger=job.tagger, optimizer=optimizer), state, batch, jax.random.key(0)
    )
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((after.params, metrics))} == {jnp.dtype("float32")}


# What goes wrong


def test_a_loss_that_is_not_finite_ends_training_and_is_not_saved(tmp_path):
    job = make_job(tagger_of(), epochs=2, save_every=1)
    state = initial_state(job, step=3)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(3, state.params, (state.opt_state, state.step))
        poisoned = jax.tree.map(jnp.copy, state.params)
        poisoned["head"]["bias"] = poisoned["head"]["bias"].at[0].set(jnp.nan)
        with pytest.raises(NonFiniteLossError, match=r"step 4: expected a finite loss and gradient, got loss nan"):
            loop.fit(job, state._replace(params=poisoned), checkpoints, tmp_path / "metrics.jsonl")
        assert checkpoints.latest_step == 3
        restored = loop.restore_state(checkpoints, 3, state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored))
    assert (tmp_path / "metrics.jsonl").read_text() == ""
