"""The optimizer: AdamW with clipping by global norm, a linear schedule and gradient accumulation."""

from typing import Any

import jax
import optax

from knn_ner_jax.config import TrainConfig
from knn_ner_jax.models.tagger import Params


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
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)


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
