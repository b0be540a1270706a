"""The checkpoints of a run, written by Orbax: the latest state, to continue from, and the best by dev F1, to use."""

from pathlib import Path
from typing import Any, Self

import jax
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from knn_ner_jax.io import InputError
from knn_ner_jax.sharding import replicated

METRIC = "dev_f1"


class Checkpoints:
    """The checkpoints of one run; a context manager, which waits at its end until all of them are written.

    Args:
        folder: their folder.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        policies = ocp.training.preservation_policies
        keep_best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[METRIC], n=1, keep_checkpoints_without_metrics=False
        )
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(n=1), keep_best]),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint; None where there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and dev F1 of the checkpoint with the highest dev F1, the later of equals; None where none was evaluated."""
        scored = [checkpoint for checkpoint in self._checkpointer.checkpoints if checkpoint.metrics]
        if not scored:
            return None
        best = max(scored, key=lambda checkpoint: (checkpoint.metrics[METRIC], checkpoint.step))
        return best.step, best.metrics[METRIC]

    def load_best(self, abstract_params: Any, mesh: Mesh) -> tuple[int, float, Any]:
        """Load the best checkpoint; its parameters are copied to every device of a mesh.

        Args:
            abstract_params: shapes and dtypes of the parameters.
            mesh: the devices.

        Returns:
            Step, dev F1 and parameters.

        Raises:
            InputError: no checkpoint was evaluated on dev.
        """
        if self.best is None:
            raise InputError("run_dir: expected a checkpoint that was scored on dev, found none; train first")
        copies = replicated(mesh)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=copies), abstract_params)
        step, dev_f1 = self.best
        return step, dev_f1, self.restore(step, params=like)["params"]

    def save(self, step: int, params: Any, training: Any, dev_f1: float | None = None) -> None:
        """Save a checkpoint; of older ones only the best is kept.

        Args:
            step: number of the last step.
            params: parameters of the tagger.
            training: what else training needs to continue, stored apart from the parameters.
            dev_f1: F1 on dev, where it was evaluated.
        """
        metrics = None if dev_f1 is None else {METRIC: dev_f1}
        state = {"params": params, "training": training}
        self._checkpointer.save_checkpointables(step, state, metrics=metrics, force=True)

    def restore(self, step: int, **like: Any) -> dict[str, Any]:
        """Read `params`, `training` or both of a checkpoint.

        Args:
            step: step of the checkpoint.
            **like: for each part to read, arrays or `jax.ShapeDtypeStruct`s with shardings, in its structure.

        Raises:
            InputError: a file of it is missing or damaged.
        """
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
        try:
            return self._checkpointer.load_checkpointables(step, abstract)
        except (MemoryError, jax.errors.JaxRuntimeError):  # of the devices: the checkpoint may be whole
            raise
        except Exception as error:  # Orbax and TensorStore have many, none of them for this
            reason = str(error).strip().splitlines()
            raise InputError(
                f"{self._folder / str(step)}: expected a whole checkpoint, found a damaged one, or one of another model; "
                f"copy it again, or train --overwrite ({type(error).__name__}: {(reason or ['nothing said'])[0][:200]})"
            ) from error
