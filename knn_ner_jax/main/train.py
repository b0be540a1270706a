"""`train`: fine-tune a tagger, from the start or from where an earlier process stopped; writes run_dir."""

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from knn_ner_jax import distributed, sharding
from knn_ner_jax.config import Config
from knn_ner_jax.data.batching import padding_fraction
from knn_ner_jax.data.corpus import Corpus, check_types, read_corpus
from knn_ner_jax.data.label_names import read_label_names
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import encode
from knn_ner_jax.data.validation import warn_of_losses
from knn_ner_jax.data.words import are_segmented
from knn_ner_jax.io import InputError, check_is_dir, write_json
from knn_ner_jax.models import pretrained
from knn_ner_jax.models.tagger import Params, Tagger
from knn_ner_jax.run_dir import (
    TRAINING_FIELDS,
    TRAINING_FILES,
    TrainedModel,
    check_nothing_was_taught,
    check_run_dir,
    check_same_config,
    config_to_dict,
    init_run_dir,
)
from knn_ner_jax.training import loop
from knn_ner_jax.training.checkpoints import Checkpoints

logger = logging.getLogger(__name__)


def gold_labels(config: Config, corpus: Corpus, label_set: LabelSet) -> LabelSet:
    """Return the tagger's labels, and those of the gold that it does not know (see `check_types`)."""
    if config.train.epochs:
        unseen = check_types([corpus.dev, corpus.test], label_set, config.data.unseen_types)
    else:
        splits = [corpus.train, corpus.dev, corpus.test]
        unseen = check_types(splits, label_set, config.data.unseen_types, "the backbone")
    return label_set.union(LabelSet(tuple(unseen)))


def draw_corpus(config: Config, corpus: Corpus) -> Corpus:
    """Draw the fractions of a corpus that a run uses; refuse what cannot be trained on, before any model is loaded."""
    corpus = corpus.draw(config.data.train_fraction, config.data.dev_fraction, config.seed)
    label_set = corpus.label_set(config.protocol)
    if not label_set.types:
        raise InputError(f"data.dir: {corpus.train.path}: expected at least one entity, found none")
    if config.train.epochs:
        gold_labels(config, corpus, label_set)
    return corpus


def open_model(config: Config, corpus: Corpus) -> tuple[TrainedModel, Params]:
    """Load the tagger with its pretrained encoder and a random head; without epochs, with the backbone's own head."""
    model = config.model
    backbone = pretrained.backbone_of(model)
    encoder = backbone.config
    if model.dropout is not None:
        encoder = dataclasses.replace(encoder, hidden_dropout_prob=model.dropout)
    max_length = config.data.max_length or encoder.max_length
    if max_length > encoder.max_length:
        limit = encoder.max_length
        raise InputError(f"data.max_length: expected at most {limit} (the positions of {model.backbone}), got {max_length}")
    rest = max_length, backbone.tokenizer, backbone.pinyin
    if config.train.epochs == 0:
        labels = pretrained.foreign_labels(backbone, model, config.data.bare_type)
        tagger = Tagger(encoder, len(labels.label_set), config.train.dtype)
        tagger = dataclasses.replace(tagger, outputs=labels.outputs, speaks_iob1=labels.scheme == "IOB1")
        if labels.scheme != "BIO":
            logger.info("the labels of %s are read as %s and turned into IOB2", model.backbone, labels.scheme)
        params = pretrained.tagger_params(backbone, tagger)
        return TrainedModel(tagger, labels.label_set, *rest, output_names=labels.names), params
    label_set = corpus.label_set(config.protocol)
    tagger = Tagger(encoder, len(label_set), config.train.dtype, model.head, config.train.remat)
    return TrainedModel(tagger, label_set, *rest), backbone.initial_params(tagger, jax.random.key(config.seed))


def read_answers(config: Config, job: loop.TrainJob, model: TrainedModel, params: Params) -> loop.TrainJob:
    """Return the job; a tagger from elsewhere whose labels may be IOB2 is read as IOB1 where its answers on dev are IOB1."""
    if config.train.epochs or config.model.label_scheme != "auto":
        return job
    if read_label_names(model.output_names, "auto", config.data.bare_type).scheme != "BIO":
        return job
    if not loop.answers_iob1(sharding.put_copies(params, job.mesh), job):
        return job
    logger.warning(
        "%s: its labels could be IOB2, but strict IOB2 loses most of the right entities on dev that IOB1 keeps: its answers "
        "are read as IOB1 and turned into IOB2; model.label_scheme: BIO would take them as they are",
        config.model.backbone,
    )
    return dataclasses.replace(job, tagger=dataclasses.replace(job.tagger, speaks_iob1=True))


def summarise(job: loop.TrainJob, checkpoints: Checkpoints, seconds: float) -> dict[str, Any]:
    """Return the content of train.json."""
    config, lengths = job.config, job.train.lengths
    best_step, best_dev_f1, params = checkpoints.load_best(job.tagger.abstract_params(), job.mesh)
    return {
        "protocol": job.label_set.protocol,
        "steps": job.total_steps,
        "unapplied_steps": job.total_steps % config.gradient_accumulation_steps,
        "best_step": best_step,
        "best_dev_f1": best_dev_f1,
        "weights": pretrained.fingerprint(params),
        "windows": len(lengths),
        "tokens_per_epoch": int(lengths.sum()),
        "padding_fraction": padding_fraction(job.plans[0], lengths),
        "num_empty_words": job.train.num_empty_words,
        "num_long_sentences": job.train.num_long_sentences,
        "seconds_of_last_session": seconds,
        "device": jax.devices()[0].device_kind,
        "num_devices": job.mesh.size,
    }


def prepare(config: Config, overwrite: bool, ignored_fields: Sequence[str]) -> bool:
    """Return whether there is work to do; refuse a folder that is not this run's."""
    run_dir = Path(config.run_dir)
    stored, summary = run_dir / "config.yaml", run_dir / "train.json"
    check_is_dir(run_dir, "run_dir")
    check_run_dir(run_dir, "run_dir", TRAINING_FILES)
    if overwrite:
        check_nothing_was_taught(run_dir)
    elif stored.exists():
        check_same_config(stored, config, TRAINING_FIELDS, ignored_fields=ignored_fields)
        if summary.exists():
            print(f"{run_dir} is finished (see {summary.name}); --overwrite trains again")
            return False
    return True


def run(config: Config, overwrite: bool, ignored_fields: Sequence[str] = ()) -> None:
    """Train from the start, or from where an earlier process stopped.

    Args:
        config: of the run; an earlier process must have had the same.
        overwrite: delete what an earlier run left and start again.
        ignored_fields: fields of the configuration in which an earlier process may have differed.

    Raises:
        InputError: the configuration, the corpus or the backbone does not do.
        NonFiniteLossError: training has diverged.
        Preempted: SIGTERM came; the state is saved.
    """
    run_dir, started = Path(config.run_dir), time.perf_counter()
    if not distributed.on_primary_host(lambda: prepare(config, overwrite, ignored_fields)):
        return
    with distributed.sync_errors():
        corpus = draw_corpus(config, read_corpus(config.data))
        model, params = open_model(config, corpus)
        warn_of_losses(model.tokenizer, corpus.train.sentences)
        labels = gold_labels(config, corpus, model.label_set)
        train, dev = (
            encode(split.sentences, model.tokenizer, model.max_length, labels, model.pinyin)
            for split in (corpus.train, corpus.dev)
        )
        mesh = sharding.make_mesh()
        job = loop.TrainJob(
            model.tagger, config.train, train, dev, labels, config.data.pad_to_multiple_of, config.seed, mesh
        )
        job.check()
    is_segmented = are_segmented(word for sentence in corpus.train.sentences for word in sentence.words)
    files = [split.sha256 for split in corpus.splits.values()]
    distributed.assert_same_on_hosts([config_to_dict(config), overwrite, files, pretrained.fingerprint(params)])
    job = read_answers(config, job, model, params)
    model = dataclasses.replace(model, tagger=job.tagger, is_segmented=is_segmented)
    distributed.on_primary_host(lambda: init_run_dir(config, corpus, model, overwrite))
    state = loop.init_state(params, loop.make_optimizer(config.train, job.total_steps), mesh)
    with Checkpoints(run_dir / "checkpoints") as checkpoints:
        if checkpoints.latest_step is not None:
            state = loop.restore_state(checkpoints, checkpoints.latest_step, state)
            print(f"continuing after step {checkpoints.latest_step} of {job.total_steps}")
        train_or_score = loop.fit if job.total_steps else loop.score_untrained
        train_or_score(job, state, checkpoints, run_dir / "metrics.jsonl")
        summary = summarise(job, checkpoints, time.perf_counter() - started)
    if sharding.is_primary_host():
        write_json(run_dir / "train.json", summary)
    best = f"best {job.dev_metric} {summary['best_dev_f1']:.2f} at step {summary['best_step']}"
    print(f"finished: {best} of {job.total_steps}")


def main(config: Config, overwrite: bool) -> None:
    """Join the other hosts and train (see `run`)."""
    distributed.connect(config.distributed, saves_on_sigterm=True)
    with distributed.exclusive_lock(Path(config.run_dir)):
        run(config, overwrite)
