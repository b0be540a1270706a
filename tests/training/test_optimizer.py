"""The optimizer and its schedule against PyTorch's."""

import re

import jax
import numpy as np
import pytest
import torch

from knn_ner_jax.config import TrainConfig
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.tagger import Tagger
from knn_ner_jax.training.loop import has_weight_decay, learning_rate_schedule, make_optimizer


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
    state, update, actual = optimizer.init(params), jax.jit(optimizer.update), []
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = jax.tree.map(np.add, params, jax.tree.map(np.asarray, updates))
        actual.append(params)
    return actual


def assert_close(actual: dict, expected: dict) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), actual, expected)


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_optimizer_is_pytorchs_adamw_with_clipping_and_a_linear_schedule(warmup):
    steps, config = 8, TrainConfig(learning_rate=0.005, weight_decay=0.1, warmup_ratio=warmup, max_grad_norm=1.0)
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
    actual = apply(config, steps, gradients)[-1]
    assert min(jax.tree.leaves(jax.tree.map(lambda a, b: abs(a - b).min(), actual, small_params(0)))) > 1e-4
    assert_close(actual, expected)


def test_accumulated_gradients_are_averaged_before_clipping():
    gradients = [gradients_of(step) for step in range(8)]
    averages = [
        jax.tree.map(lambda a, b: (a + b) / 2, first, second)
        for first, second in zip(gradients[::2], gradients[1::2], strict=True)
    ]
    config = {"learning_rate": 0.05, "weight_decay": 0.1, "warmup_ratio": 0.25, "max_grad_norm": 1.0}
    actual = apply(TrainConfig(gradient_accumulation_steps=2, **config), 8, gradients)
    expected = apply(TrainConfig(**config), 4, averages)
    for step, params in enumerate(actual, start=1):
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
    config = TrainConfig(learning_rate=2e-3, warmup_ratio=warmup, gradient_accumulation_steps=accumulate)
    schedule = learning_rate_schedule(config, 8)
    for update, share in expected.items():
        np.testing.assert_allclose(schedule(update), share * 2e-3, rtol=1e-6, atol=1e-12)


def test_weight_decay_spares_biases_and_norms_of_the_tagger():
    params = Tagger(BertConfig(20, 8, 2, 2, 12, 10), 3).abstract_params()
    decided = jax.tree_util.tree_leaves_with_path(has_weight_decay(params))
    spared = {jax.tree_util.keystr(path) for path, decays in decided if not decays}
    assert len(decided) == 3 + 2 + 16 + 2
    assert spared == {
        jax.tree_util.keystr(path) for path, _ in decided if re.search(r"norm|bias", jax.tree_util.keystr(path))
    }
