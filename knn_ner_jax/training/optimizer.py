"""AdamW with clipping, a linear schedule and accumulation."""

from typing import Any

import jax
import optax

from knn_ner_jax.config import TrainConfig
from knn_ner_jax.models.tagger import Params


def learning_rate_schedule(config: TrainConfig, total_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then linear decay to 0, over updates of the parameters (`total_steps // gradient_accumulation_steps`)."""
    updates = max(total_steps // config.gradient_accumulation_steps, 1)
    warmup = int(config.warmup_ratio * updates)
    rise = optax.linear_schedule(0.0, config.learning_rate, warmup)
    fall = optax.linear_schedule(config.learning_rate, 0.0, updates - warmup)
    return optax.join_schedules([rise, fall], [warmup])


def decayed(params: Params) -> Any:
    """True for every parameter that weight decay applies to: all but biases and layer norms."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)


def make_optimizer(config: TrainConfig, total_steps: int) -> optax.GradientTransformation:
    """AdamW after clipping by global norm; gradients of `gradient_accumulation_steps` steps are averaged first."""
    schedule = learning_rate_schedule(config, total_steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(schedule, weight_decay=config.weight_decay, mask=decayed),
    )
    if config.gradient_accumulation_steps == 1:
        return optimizer
    return optax.MultiSteps(optimizer, config.gradient_accumulation_steps).gradient_transformation()
