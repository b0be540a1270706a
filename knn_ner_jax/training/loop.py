"""Fine-tuning: one pure jitted step, dev F1 on device, and a loop that can be killed at any moment and continued."""

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from knn_ner_jax import metrics, sharding
from knn_ner_jax.config import TrainConfig
from knn_ner_jax.data.batching import Batch, BatchPlan, placed_batches, plan_evaluation, plan_training
from knn_ner_jax.data.label_names import speaks_iob1
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import NO_WORD, EncodedSplit
from knn_ner_jax.distributed import preemption_signal
from knn_ner_jax.io import InputError, Preempted
from knn_ner_jax.models.tagger import Params, Tagger
from knn_ner_jax.training.checkpoints import Checkpoints
from knn_ner_jax.training.metrics_logger import MetricsLogger, StepMetrics, StepTrace

logger = logging.getLogger(__name__)


def learning_rate_schedule(config: TrainConfig, total_steps: int) -> optax.Schedule:
    """Return the learning rate by update: a linear rise from 0 in the warm-up, then a linear fall to 0.

    >>> schedule = learning_rate_schedule(TrainConfig(learning_rate=1.0, warmup_ratio=0.5), total_steps=8)
    >>> [float(schedule(update)) for update in (0, 2, 4, 6, 8)]
    [0.0, 0.5, 1.0, 0.5, 0.0]

    Args:
        config: gives the highest rate and the warm-up.
        total_steps: steps of the run; the parameters are updated once in `gradient_accumulation_steps` of them.
    """
    updates = max(total_steps // config.gradient_accumulation_steps, 1)
    warmup = int(config.warmup_ratio * updates)
    rise = optax.linear_schedule(0.0, config.learning_rate, warmup)
    fall = optax.linear_schedule(config.learning_rate, 0.0, updates - warmup)
    return optax.join_schedules([rise, fall], [warmup])


def has_weight_decay(params: Params) -> Any:
    """Return a tree that is True for every parameter with weight decay: all but biases and layer norms."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)


@functools.cache  # equal ones are one, because compiled steps are kept by their optimizer
def make_optimizer(config: TrainConfig, total_steps: int) -> optax.GradientTransformation:
    """Return AdamW after clipping by global norm; gradients of `gradient_accumulation_steps` steps are averaged first."""
    schedule = learning_rate_schedule(config, total_steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(schedule, weight_decay=config.weight_decay, mask=has_weight_decay),
    )
    if config.gradient_accumulation_steps == 1:
        return optimizer
    return optax.MultiSteps(optimizer, config.gradient_accumulation_steps).gradient_transformation()


class TrainState(NamedTuple):
    """Everything the next step depends on.

    Attributes:
        params: parameters of the tagger, float32.
        opt_state: state of the optimizer.
        step: number of steps done.
    """

    params: Params
    opt_state: optax.OptState
    step: Int[Array, ""]


@dataclass(frozen=True)
class TrainJob:
    """A fine-tuning run without its state.

    Attributes:
        tagger: the network.
        config: how to train.
        train: the split to learn from.
        dev: the split that chooses the best checkpoint.
        label_set: labels of the gold; the first of them are the tagger's.
        pad_to_multiple_of: the length of rows is a multiple of it.
        seed: seed of dropout and data order.
        mesh: the devices that each batch is divided over.
    """

    tagger: Tagger
    config: TrainConfig
    train: EncodedSplit
    dev: EncodedSplit
    label_set: LabelSet
    pad_to_multiple_of: int
    seed: int
    mesh: Mesh

    @cached_property
    def plans(self) -> list[list[BatchPlan]]:
        """The batches of each epoch, in order; without epochs, of one that is not trained."""
        return plan_training(
            self.train.lengths,
            self.config.batch_size,
            max(self.config.epochs, 1),
            self.seed,
            self.tagger.config.hidden_size,
            self.pad_to_multiple_of,
            self.mesh.size,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch, the same in all."""
        return len(self.plans[0])

    @property
    def total_steps(self) -> int:
        """Number of batches in all epochs."""
        return self.steps_per_epoch * self.config.epochs

    @property
    def num_dev_positions(self) -> int:
        """Words of dev and a gap after each sentence."""
        return self.dev.num_words + int(self.dev.sentence_ids[-1]) + 1

    @property
    def dev_metric(self) -> str:
        """Name of the score on dev, for people."""
        protocol = self.label_set.protocol
        return "dev F1" if protocol == "words" else f"dev F1 (protocol {protocol})"

    def check(self) -> None:
        """Raise InputError where no step would update the parameters; log how many steps at the end do not."""
        every, total = self.config.gradient_accumulation_steps, self.total_steps
        if self.config.epochs and every > total:
            raise InputError(
                f"train.gradient_accumulation_steps: expected at most {total} (the steps of this run), got {every}"
            )
        if total % every:
            logger.info("the last %d of %d steps fill no accumulation and update nothing", total % every, total)


def loss_fn(params: Params, batch: Batch, tagger: Tagger, key: Key[Array, ""] | None) -> Float[Array, ""]:
    """Return the mean cross-entropy of the words of a batch (paper, equation 1)."""
    logits = tagger.run(params, batch, key).logits
    is_word = batch.word_index != NO_WORD
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return jnp.where(is_word, losses, 0.0).sum() / jnp.maximum(is_word.sum(), 1)


@partial(jax.jit, static_argnames=("tagger", "optimizer"), donate_argnames="state")
def train_step(
    state: TrainState, batch: Batch, key: Key[Array, ""], *, tagger: Tagger, optimizer: optax.GradientTransformation
) -> tuple[TrainState, StepMetrics]:
    """Make one step; compiled once, because all batches of a run have one shape.

    Args:
        state: the state before the step; it is donated, its arrays cannot be used again.
        batch: a batch, divided over the devices.
        key: PRNG key of the whole run; each step derives its own from the step's number.
        tagger: the network.
        optimizer: what `make_optimizer` returns.

    Returns:
        The state after the step, and the step's loss and gradient norm.
    """
    loss, gradients = jax.value_and_grad(loss_fn)(state.params, batch, tagger, jax.random.fold_in(key, state.step))
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.step + 1), StepMetrics(loss, optax.tree.norm(gradients))


@partial(jax.jit, static_argnames=("tagger", "mesh"), donate_argnames="predicted")
def _predict(
    predicted: Int[Array, "1 positions"],
    params: Params,
    batch: Batch,
    positions: Int[Array, " words"],
    *,
    tagger: Tagger,
    mesh: Mesh,
) -> Int[Array, "1 positions"]:
    """Write the labels predicted for a batch to the positions of its words."""
    logits = tagger.run(params, batch).logits
    targets = jnp.where(batch.word_index == NO_WORD, predicted.shape[1], positions[batch.word_index])
    predicted = predicted.at[0, targets].set(logits.argmax(axis=-1), mode="drop")
    return jax.lax.with_sharding_constraint(predicted, sharding.replicated(mesh))


_span_counts = jax.jit(metrics.span_counts, static_argnames=("labels", "protocol"))


def _label_dev(params: Params, job: TrainJob) -> Int[Array, "1 positions"]:
    """Label dev, its sentences laid end to end with a gap after each."""
    predicted: Any = sharding.put_copies(np.zeros((1, job.num_dev_positions), np.int32), job.mesh)
    plans = plan_evaluation(job.dev.lengths, job.config.batch_size, job.pad_to_multiple_of)
    positions = job.dev.flat_positions
    for batch in placed_batches(job.dev, plans, job.mesh):
        predicted = _predict(predicted, params, batch, positions, tagger=job.tagger, mesh=job.mesh)
    return predicted


def dev_tags(predicted: Int[Array, "1 positions"], job: TrainJob) -> list[list[str]]:
    """Return the tags of dev's words by sentence."""
    names, ends = np.array(job.label_set.names, object), np.flatnonzero(np.diff(job.dev.sentence_ids)) + 1
    labels = np.asarray(jax.device_get(predicted))[0, job.dev.flat_positions]
    return [part.tolist() for part in np.split(names[labels], ends)]


def gold_dev_tags(job: TrainJob) -> list[list[str]]:
    """Return dev's gold tags by sentence."""
    gold = np.zeros((1, job.num_dev_positions), np.int32)
    gold[0, job.dev.flat_positions] = job.dev.label_ids
    return dev_tags(jnp.asarray(gold), job)


def answers_iob1(params: Params, job: TrainJob) -> bool:
    """Return whether what the tagger says on dev is IOB1 (`label_names.speaks_iob1`)."""
    return speaks_iob1(gold_dev_tags(job), dev_tags(_label_dev(params, job), job))


def _dev_doubt(f1: float, predicted: Int[Array, "1 positions"], job: TrainJob) -> str:
    """Return what `metrics.scheme_doubt` says of words' labels of dev."""
    if f1 >= metrics.LOW_F1 or job.label_set.protocol != "words":
        return ""
    scores = metrics.score(gold_dev_tags(job), dev_tags(predicted, job))
    return metrics.scheme_doubt(f1, float(scores["f1_default"]), "dev")  # type: ignore[arg-type]


def dev_scores(params: Params, job: TrainJob, is_last: bool = False) -> dict[str, Any]:
    """Return the tagger's scores on dev under the run's protocol, as `metrics.score_counts` does.

    The entities are counted on device, with the sentences laid end to end and a gap after each. The last scores of a run are
    doubted in the log where they are low for the tag scheme alone.
    """
    positions, shape = job.dev.flat_positions, (1, job.num_dev_positions)
    gold, is_word = np.zeros(shape, np.int32), np.zeros(shape, bool)
    gold[0, positions], is_word[0, positions] = job.dev.label_ids, job.dev.is_scored
    predicted, label_set = _label_dev(params, job), job.label_set
    counts = _span_counts(gold, predicted, is_word, label_set.names, label_set.protocol)
    true_positives, num_predicted, num_gold = jax.device_get(counts)
    scores = metrics.score_counts(true_positives, num_predicted, num_gold, label_set.types)
    if is_last and (doubt := _dev_doubt(scores["f1"], predicted, job)):
        logger.warning("%s", doubt)
    return scores


def init_state(params: Params, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Return the state before the first step, copied to every device."""
    return sharding.put_copies(TrainState(params, optimizer.init(params), jnp.int32(0)), mesh)


def restore_state(checkpoints: Checkpoints, step: int, like: TrainState) -> TrainState:
    """Return the state saved at a step; `like` gives structure, shapes and placement."""
    parts = checkpoints.restore(step, params=like.params, training=(like.opt_state, like.step))
    return TrainState(parts["params"], *parts["training"])


def _training_batches(job: TrainJob, step: int) -> Iterator[tuple[Batch, int]]:
    """Yield the batches from `step` on, already on their way to the devices, and the number of tokens in each."""
    per_epoch = job.steps_per_epoch
    for epoch in range(step // per_epoch, job.config.epochs):
        plans = job.plans[epoch][step - epoch * per_epoch if epoch == step // per_epoch else 0 :]
        batches = placed_batches(job.train, plans, job.mesh)
        for plan, batch in zip(plans, batches, strict=True):
            yield batch, int(job.train.lengths[plan.windows].sum())


class _EvalSchedule(NamedTuple):
    """The steps after which the loop evaluates and saves."""

    config: TrainConfig
    steps_per_epoch: int
    total: int

    def evaluates(self, step: int) -> bool:
        every, per_epoch = self.config.evaluate_every, self.config.evaluations_per_epoch
        if every:
            return step % every == 0 or step == self.total
        return step * per_epoch // self.steps_per_epoch > (step - 1) * per_epoch // self.steps_per_epoch

    def saves(self, step: int) -> bool:
        every = self.config.save_every
        return self.evaluates(step) or (every > 0 and step % every == 0)


def _progress_bar() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def _log_dev_scores(log: MetricsLogger, job: TrainJob, params: Params, step: int) -> float:
    scores = dev_scores(params, job, is_last=step == job.total_steps)
    protocol = job.label_set.protocol
    prefix = "dev" if protocol == "words" else f"dev_{protocol}"
    log.write(step, epoch=step / job.steps_per_epoch, **{f"{prefix}_{name}": score for name, score in scores.items()})
    return scores["f1"]


def score_untrained(job: TrainJob, state: TrainState, checkpoints: Checkpoints, metrics_path: Path) -> None:
    """Save the state as it is, scored on dev, as `fit` would without steps; do nothing where a checkpoint exists."""
    if checkpoints.latest_step is not None:
        return
    with MetricsLogger(metrics_path, -1, 1, lambda _: 0.0) as log:
        f1 = _log_dev_scores(log, job, state.params, 0)
    checkpoints.save(0, state.params, (state.opt_state, state.step), f1)


def fit(job: TrainJob, state: TrainState, checkpoints: Checkpoints, metrics_path: Path) -> TrainState:
    """Train from `state` to the end; evaluate and save on the way.

    Whatever step it is called from, it ends with the same state, bit for bit on CPU: batches, dropout and schedule depend on
    the step's number and the seed alone.

    Args:
        job: what to train, on what and how.
        state: from `init_state` or a checkpoint; it is donated, its arrays cannot be used again.
        checkpoints: receives the latest and the best state.
        metrics_path: see `MetricsLogger`; a trace of some steps goes to the folder `profile` beside it.

    Returns:
        The state after the last step.

    Raises:
        NonFiniteLossError: a loss or gradient is not finite; nothing of it is saved.
        Preempted: SIGTERM came; the state was saved first.
    """
    config, total, step = job.config, job.total_steps, int(state.step)
    optimizer = make_optimizer(config, total)
    # All at once: each for itself would wait on the device for the steps before it.
    rates = np.asarray(jax.vmap(learning_rate_schedule(config, total))(np.arange(total)))
    schedule, key = _EvalSchedule(config, job.steps_per_epoch, total), jax.random.key(job.seed)
    log = MetricsLogger(
        metrics_path, step, config.log_every, lambda step: rates[(step - 1) // config.gradient_accumulation_steps]
    )
    trace = StepTrace(metrics_path.with_name("profile"), config.profile, step, total)
    with preemption_signal() as is_preempted, _progress_bar() as progress, log, trace:
        bar = progress.add_task("training", total=total, completed=step)
        for batch, tokens in _training_batches(job, step):
            state, step_metrics = train_step(state, batch, key, tagger=job.tagger, optimizer=optimizer)
            step += 1
            trace.update(step, step_metrics)
            log.add(step, tokens, step_metrics)
            progress.update(bar, completed=step, description=f"loss {log.loss:.3f}")
            must_stop = is_preempted(step)
            if not (must_stop or schedule.saves(step)):
                continue
            log.flush()
            f1 = None
            if schedule.evaluates(step):
                f1 = _log_dev_scores(log, job, state.params, step)
                progress.console.print(f"step {step} of {total}: loss {log.loss:.4f}, {job.dev_metric} {f1:.2f}")
            checkpoints.save(step, state.params, (state.opt_state, state.step), f1)
            log.restart_clock()
            if must_stop:
                raise Preempted(f"stopped by SIGTERM after step {step}; the state is saved, start again to go on")
    return state
