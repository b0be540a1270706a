"""The optimizer against PyTorch's, the train step on one and several devices, and the loop around it."""

import dataclasses
import functools
import json
import logging
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2

from knn_ner_jax import mesh as placement
from knn_ner_jax import runs, training
from knn_ner_jax.checkpoints import Checkpoints
from knn_ner_jax.config import TrainConfig
from knn_ner_jax.data.batching import assemble
from knn_ner_jax.data.corpus import Sentence
from knn_ner_jax.data.encoding import NO_WORD, EncodedSplit, encode
from knn_ner_jax.data.labels import LabelSet, to_iob2
from knn_ner_jax.errors import InputError
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.tagger import Tagger
from knn_ner_jax.optimizer import decayed, learning_rate_schedule, make_optimizer
from knn_ner_jax.step_log import TrainingError

# Optimizer and schedule


def small_params(seed: int) -> dict:
    """Two of each kind of parameter, the decayed and the others."""
    rng = np.random.default_rng(seed)
    shapes = {
        "dense": {"kernel": (3, 4), "bias": (4,)},
        "norm": {"scale": (4,), "bias": (4,)},
        "word": {"embedding": (5, 3)},
    }
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda node: isinstance(node, tuple)
    )


def gradients_of(step: int) -> dict:
    """Some longer than 1, which is the clipping norm, some shorter."""
    return jax.tree.map(lambda leaf: leaf * np.float32(10.0 ** -(step % 3)), small_params(100 + step))


def global_norm(tree: dict) -> float:
    return float(np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(tree))))


def apply(config: TrainConfig, total_steps: int, gradients: list[dict]) -> list[dict]:
    """The parameters after each update."""
    optimizer = make_optimizer(config, total_steps)
    params = small_params(0)
    state, update, found = optimizer.init(params), jax.jit(optimizer.update), []
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = jax.tree.map(np.add, params, jax.tree.map(np.asarray, updates))
        found.append(params)
    return found


def assert_close(found: dict, expected: dict) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), found, expected)


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_optimizer_is_pytorchs_adamw_with_clipping_and_a_linear_schedule(warmup):
    steps, config = 8, TrainConfig(learning_rate=0.005, weight_decay=0.1, warmup=warmup, clip_norm=1.0)
    gradients = [gradients_of(step) for step in range(steps)]
    assert {global_norm(gradient) > 1 for gradient in gradients} == {True, False}

    tensors = jax.tree.map(lambda leaf: torch.nn.Parameter(torch.tensor(leaf)), small_params(0))
    decayed = [tensors["dense"]["kernel"], tensors["word"]["embedding"]]
    others = [tensors["dense"]["bias"], *tensors["norm"].values()]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.005)
    rise = int(warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        reference, lambda step: step / rise if step < rise else (steps - step) / (steps - rise)
    )
    for gradient in gradients:
        jax.tree.map(lambda tensor, leaf: setattr(tensor, "grad", torch.tensor(leaf)), tensors, gradient)
        torch.nn.utils.clip_grad_norm_([*decayed, *others], 1.0)
        reference.step()
        schedule.step()

    expected = jax.tree.map(lambda tensor: tensor.detach().numpy(), tensors)
    found = apply(config, steps, gradients)[-1]
    assert min(jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).min(), found, small_params(0)))) > 1e-4
    assert_close(found, expected)


def test_accumulated_gradients_are_averaged_before_clipping():
    gradients = [gradients_of(step) for step in range(8)]
    averages = [
        jax.tree.map(lambda a, b: (a + b) / 2, first, second)
        for first, second in zip(gradients[::2], gradients[1::2], strict=True)
    ]
    config = {"learning_rate": 0.05, "weight_decay": 0.1, "warmup": 0.25, "clip_norm": 1.0}
    found = apply(TrainConfig(accumulate=2, **config), 8, gradients)
    expected = apply(TrainConfig(**config), 4, averages)
    for step, params in enumerate(found, start=1):
        assert_close(params, expected[step // 2 - 1] if step > 1 else small_params(0))


@pytest.mark.parametrize(
    ("accumulate", "warmup", "expected"),
    [
        (1, 0.25, {0: 0.0, 1: 0.5, 2: 1.0, 5: 0.5, 8: 0.0}),
        (2, 0.5, {0: 0.0, 1: 0.5, 2: 1.0, 3: 0.5, 4: 0.0}),
        (1, 0.0, {0: 1.0, 4: 0.5, 8: 0.0}),
        (1, 1.0, {0: 0.0, 4: 0.5, 7: 0.875}),
        (16, 0.1, {0: 1.0}),
    ],
)
def test_learning_rate_rises_to_its_peak_and_falls_to_zero(accumulate, warmup, expected):
    config = TrainConfig(learning_rate=2e-3, warmup=warmup, accumulate=accumulate)
    schedule = learning_rate_schedule(config, 8)
    for update, share in expected.items():
        np.testing.assert_allclose(schedule(update), share * 2e-3, rtol=1e-6, atol=1e-12)


def test_weight_decay_spares_biases_and_norms_of_the_tagger():
    params = Tagger(BertConfig(20, 8, 2, 2, 12, 10), 3).abstract_params()
    decided = jax.tree_util.tree_leaves_with_path(decayed(params))
    spared = {jax.tree_util.keystr(path) for path, decays in decided if not decays}
    assert len(decided) == 3 + 2 + 16 + 2
    assert spared == {
        jax.tree_util.keystr(path) for path, _ in decided if re.search(r"norm|bias", jax.tree_util.keystr(path))
    }


# A tagger that learns words which mostly tell their tag

LETTERS = {"O": "abcdefghij", "B-PER": "klm", "I-PER": "nop", "B-LOC": "qrs", "I-LOC": "tuv"}
LABEL_SET = LabelSet(("LOC", "PER"))
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
WINDOW = 12


def tagger_of(dropout: float = 0.0, dtype: str = "float32") -> Tagger:
    encoder = BertConfig(57, 16, 2, 2, 24, WINDOW, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    return Tagger(encoder, len(LABEL_SET), dtype)


def made_up_split(sentences: int, seed: int) -> EncodedSplit:
    """Sentences of one to fourteen words, some of two pieces; the longest need two windows."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(sentences):
        tags: list[str] = []
        for _ in range(rng.integers(1, 15)):
            inside = ["I" + tags[-1][1:]] if tags and tags[-1] != "O" else []
            tags.append(str(rng.choice(["O", "O", "B-PER", "B-LOC", *inside, *inside])))
        firsts = [rng.choice(list(LETTERS[tag] if rng.random() > 0.1 else ALPHABET)) for tag in tags]
        words = tuple(first + ("z" if rng.random() < 0.2 else "") for first in firsts)
        made.append(Sentence(words, tuple(tags), number))
    pieces = [*SPECIAL, *ALPHABET, *(f"##{letter}" for letter in ALPHABET)]
    tokenizer = transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    return encode(made, tokenizer, WINDOW, LABEL_SET)


def make_job(tagger: Tagger, devices: int = 1, length_multiple: int = WINDOW, **train) -> training.Job:
    config = TrainConfig(**{"batch_size": 6, "learning_rate": 3e-3, "save_every": 0, "log_every": 1, **train})
    mesh = placement.make_mesh(devices)
    train_split, dev_split = made_up_split(40, seed=1), made_up_split(20, seed=2)
    return training.Job(tagger, config, train_split, dev_split, LABEL_SET, length_multiple, 0, mesh)


def initial_params(tagger: Tagger) -> dict:
    """Random numbers of a useful size, drawn without compiling anything."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return (rng.normal(size=leaf.shape) * 0.1 + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, tagger.abstract_params())


optimizer_of = functools.cache(make_optimizer)  # one object, so that equal jobs share what is compiled


def initial_state(job: training.Job, step: int = 0) -> training.TrainState:
    state = training.init_state(initial_params(job.tagger), optimizer_of(job.config, job.total_steps), job.mesh)
    return state._replace(step=jax.device_put(jnp.int32(step), placement.replicated(job.mesh)))


class Fitted(NamedTuple):
    """What a whole run left behind."""

    job: training.Job
    state: training.TrainState
    lines: list[dict]
    compiled: list[str]
    saved: list[int]
    best: tuple[int, float]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    job = make_job(tagger_of(), length_multiple=4, epochs=6)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("jax").addHandler(handler)
    try:
        with jax.log_compiles(), Checkpoints(folder / "checkpoints") as checkpoints:
            state = training.fit(job, initial_state(job), checkpoints, folder / "metrics.jsonl")
            best = checkpoints.best
    finally:
        logging.getLogger("jax").removeHandler(handler)
    found = [re.search(r"Finished XLA compilation of jit\((\w+)\)", message) for message in messages]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    saved = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
    return Fitted(job, state, lines, [match[1] for match in found if match], saved, best)


def test_train_step_is_compiled_once_for_each_batch_shape(fitted):
    lengths = {plan.length for epoch in range(6) for plan in fitted.job.plan(epoch)}
    assert len(lengths) > 1
    assert fitted.compiled.count("train_step") == len(lengths)
    assert fitted.compiled.count("span_counts") == 1


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
        wanted = {"precision": report[name]["precision"], "recall": report[name]["recall"], "f1": report[name]["f1-score"]}
        wanted = {score: 100 * value for score, value in wanted.items()} | {"support": report[name]["support"]}
        assert row == pytest.approx(wanted, rel=1e-6)
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
    clockwork = training._Clockwork(TrainConfig(save_every=0, **config), steps_per_epoch=10, total=20)
    assert [step for step in range(1, 21) if clockwork.evaluates(step)] == steps
    assert [step for step in range(1, 21) if clockwork.saves(step)] == steps


def test_the_learning_rate_logged_is_the_one_the_step_was_made_with(fitted):
    schedule = learning_rate_schedule(fitted.job.config, fitted.job.total_steps)
    lines = [line for line in fitted.lines if "loss" in line]
    # The first step is update number 0 of the schedule.
    np.testing.assert_allclose([line["learning_rate"] for line in lines], [schedule(line["step"] - 1) for line in lines])


def test_loss_goes_down(fitted):
    losses = [line["loss"] for line in fitted.lines if "loss" in line]
    per_epoch = fitted.job.steps_per_epoch
    assert np.mean(losses[-per_epoch:]) < 0.6 * np.mean(losses[:per_epoch])


def predictions(params: dict, job: training.Job) -> tuple[list[list[str]], list[list[str]]]:
    """Gold and predicted tags of dev by sentence, window by window."""
    split = job.dev
    label_ids = np.full(split.num_words, -1)
    forward = jax.jit(job.tagger)
    for window in split.windows:
        ids, mask = np.zeros((1, WINDOW), np.int32), np.arange(WINDOW)[None] < len(window.token_ids)
        ids[0, : len(window.token_ids)] = window.token_ids
        chosen = np.asarray(forward(params, ids, mask).logits)[0].argmax(axis=-1)
        for position, slot in enumerate(window.slots):
            if slot != NO_WORD:
                label_ids[slot] = chosen[position]
    assert (label_ids >= 0).all()
    both: tuple[list, list] = ([], [])
    for sentence in range(split.sentence_ids[-1] + 1):
        for tags, ids in zip(both, (split.label_ids, label_ids), strict=True):
            tags.append([job.label_set.names[i] for i in ids[split.sentence_ids == sentence]])
    return both


def test_more_accumulation_than_steps_is_refused_and_a_rest_is_reported(caplog):
    tagger = tagger_of()
    total = make_job(tagger).total_steps
    with pytest.raises(InputError, match=rf"train\.accumulate: expected at most {total} .*, got {total + 1}"):
        make_job(tagger, accumulate=total + 1).check()
    with caplog.at_level(logging.INFO):
        make_job(tagger, accumulate=total - 1).check()
    assert f"the last 1 of {total} steps" in caplog.text


def test_dev_f1_is_seqevals(fitted):
    gold, predicted = predictions(fitted.state.params, fitted.job)
    assert fitted.job.dev.split_sentences > 0
    expected = 100 * f1_score(gold, predicted, mode="strict", scheme=IOB2)
    assert 30 < expected < 95
    # Counts are integers; what is left is the rounding of one float32 division.
    assert training.dev_scores(fitted.state.params, fitted.job)["f1"] == pytest.approx(expected, rel=1e-6)
    assert [line["dev_f1"] for line in fitted.lines if "dev_f1" in line][-1] == pytest.approx(expected, rel=1e-6)


def test_dev_f1_ends_spans_with_their_sentence():
    job = make_job(tagger_of(), length_multiple=4)
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
    assert training.dev_scores(params, job)["f1"] == 100


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (7, 8)])
def test_dev_f1_depends_on_neither_batch_size_nor_devices(fitted, batch_size, devices):
    job = make_job(fitted.job.tagger, devices, batch_size=batch_size)
    params = jax.device_put(jax.tree.map(np.asarray, fitted.state.params), placement.replicated(job.mesh))
    assert training.dev_scores(params, job)["f1"] == training.dev_scores(fitted.state.params, fitted.job)["f1"]


def test_the_latest_and_the_best_checkpoint_are_kept(fitted):
    scores = {line["step"]: line["dev_f1"] for line in fitted.lines if "dev_f1" in line}
    best = max(scores, key=lambda step: (scores[step], step))
    assert fitted.best == (best, scores[best])
    assert fitted.saved == sorted({best, fitted.job.total_steps})


@pytest.mark.parametrize(("step", "steps"), [(0, 0), (0, 2), (10, 4)], ids=["none", "some", "more than are left"])
def test_a_trace_of_some_steps_is_written_on_request(step, steps, tmp_path):
    job = make_job(tagger_of(), epochs=2, profile=steps)
    assert job.total_steps > 10
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        training.fit(job, initial_state(job, step), checkpoints, tmp_path / "metrics.jsonl")
    assert bool(list((tmp_path / "profile").rglob("*.xplane.pb"))) == (steps > 0)
    assert "profile" in runs.TRAINING_FILES


# Several devices


def one_step(job: training.Job, state: training.TrainState, number: int, seed: int = 0) -> tuple[training.TrainState, float]:
    """The state after a step on batch `number`, and the loss."""
    plan = [plan for epoch in range(job.config.epochs) for plan in job.plan(epoch)][number]
    batch = assemble(job.train, plan, placement.round_up(job.config.batch_size, job.mesh))
    placed = jax.device_put(batch, placement.split(job.mesh))
    optimizer = optimizer_of(job.config, job.total_steps)
    state, metrics = training.train_step(state, placed, jax.random.key(seed), tagger=job.tagger, optimizer=optimizer)
    return state, float(metrics.loss)


def test_any_number_of_devices_trains_alike_and_gives_up_the_old_state():
    jobs = [make_job(tagger_of(0.1), devices, epochs=2) for devices in (1, 2, 8)]
    assert jobs[0].config.batch_size % 8
    assert any(len(plan.windows) < jobs[0].config.batch_size for plan in jobs[0].plan(0))
    results = []
    for job in jobs:
        state, losses = initial_state(job), []
        for number in range(10):
            given = jax.tree.leaves(state)
            state, loss = one_step(job, state, number)
            losses.append(loss)
            assert all(leaf.is_deleted() for leaf in given)
        assert int(state.step) == 10
        results.append((jax.tree_util.tree_leaves_with_path(jax.tree.map(np.asarray, state.params)), losses))

    (alone, losses), *others = results
    starts = jax.tree.leaves(initial_params(jobs[0].tagger))
    for params, their_losses in others:
        np.testing.assert_allclose(their_losses, losses, rtol=1e-6)
        for (path, here), (_, there), start in zip(params, alone, starts, strict=True):
            name = jax.tree_util.keystr(path)
            # Softmax does not see this bias: its gradient is rounding alone, which AdamW magnifies.
            if not name.endswith("['attention']['key']['bias']"):
                np.testing.assert_allclose(here, there, rtol=0, atol=1e-6, err_msg=name)
                assert abs(here - start).max() > 1e-3, name


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
    batch = assemble(job.train, job.plan(0)[0], 6)
    after, metrics = jax.eval_shape(
        lambda *given: training.train_step(*given, tagger=job.tagger, optimizer=optimizer), state, batch, jax.random.key(0)
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
        with pytest.raises(TrainingError, match=r"step 4: expected a finite loss and gradient, got loss nan"):
            training.fit(job, state._replace(params=poisoned), checkpoints, tmp_path / "metrics.jsonl")
        assert checkpoints.latest_step == 3
        restored = training.restore_state(checkpoints, 3, state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored))
    assert (tmp_path / "metrics.jsonl").read_text() == ""
