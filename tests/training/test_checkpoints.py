"""Checkpoints of a run: which are kept, what is read back, what a killed save leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_ner_jax import sharding
from knn_ner_jax.training.checkpoints import Checkpoints


def state_of(step: int, devices: int = 8) -> tuple[dict, tuple]:
    """Parameters and training state that tell their step."""
    place = sharding.replicated(sharding.make_mesh(devices))
    params = {"layer": {"kernel": np.full((2, 3), step, np.float32)}, "bias": np.array([np.pi, -0.0, step], np.float32)}
    training = ({"mu": np.full(3, -step, np.float32)}, np.int32(step))
    return jax.device_put((params, training), place)


def saved(folder) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def save(checkpoints: Checkpoints, step: int, dev_f1: float | None = None) -> None:
    checkpoints.save(step, *state_of(step), dev_f1)


@pytest.mark.parametrize(
    ("history", "kept", "best"),
    [
        ([(1, None), (2, None)], [2], None),
        ([(1, 40.0), (2, 60.0), (3, 50.0)], [2, 3], (2, 60.0)),
        ([(1, 40.0), (2, 60.0)], [2], (2, 60.0)),
        ([(1, 60.0), (2, None), (3, None)], [1, 3], (1, 60.0)),
        ([(1, 50.0), (2, 50.0), (3, 40.0)], [2, 3], (2, 50.0)),
        ([(1, 0.0), (2, None)], [1, 2], (1, 0.0)),
    ],
)
def test_the_latest_and_the_best_are_kept(tmp_path, history, kept, best):
    with Checkpoints(tmp_path) as checkpoints:
        for step, dev_f1 in history:
            save(checkpoints, step, dev_f1)
        assert (checkpoints.latest_step, checkpoints.best) == (history[-1][0], best)
    assert saved(tmp_path) == kept
    with Checkpoints(tmp_path) as again:
        assert (again.latest_step, again.best) == (history[-1][0], best)


def test_an_empty_folder_has_no_checkpoints(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert (checkpoints.latest_step, checkpoints.best) == (None, None)


def test_the_best_of_an_earlier_process_is_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 60.0)
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 2, 50.0)
        save(checkpoints, 3)
        assert checkpoints.best == (1, 60.0)
    assert saved(tmp_path) == [1, 3]


def test_everything_comes_back_bit_for_bit(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 5, 1.0)
        like = state_of(0)
        actual = checkpoints.restore(5, params=like[0], training=like[1])
    expected = state_of(5)
    assert jax.tree.structure((actual["params"], actual["training"])) == jax.tree.structure(expected)
    for here, there in zip(jax.tree.leaves((actual["params"], actual["training"])), jax.tree.leaves(expected), strict=True):
        assert (here.dtype, here.shape, here.sharding) == (there.dtype, there.shape, there.sharding)
        assert np.asarray(here).tobytes() == np.asarray(there).tobytes()


def test_parameters_alone_can_be_read_and_placed_elsewhere(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 5)
    place = sharding.replicated(sharding.make_mesh(2))
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state_of(0)[0])
    with Checkpoints(tmp_path) as checkpoints:
        actual = checkpoints.restore(5, params=like)
    assert list(actual) == ["params"]
    jax.tree.map(np.testing.assert_array_equal, actual["params"], state_of(5)[0])
    assert {leaf.sharding for leaf in jax.tree.leaves(actual)} == {place}


@pytest.mark.parametrize("leftover", ["7.orbax-checkpoint-tmp", "7.orbax-checkpoint-tmp-1700000000000000"])
def test_what_a_killed_save_leaves_does_no_harm(tmp_path, leftover):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 6, 30.0)
    (tmp_path / leftover / "params").mkdir(parents=True)
    (tmp_path / leftover / "params" / "half").write_bytes(b"\0" * 10)
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest_step, checkpoints.best) == (6, (6, 30.0))
        save(checkpoints, 7, 20.0)
        assert (checkpoints.latest_step, checkpoints.best) == (7, (6, 30.0))
        like = state_of(0)[0]
        np.testing.assert_array_equal(
            checkpoints.restore(7, params=like)["params"]["layer"]["kernel"], jnp.full((2, 3), 7.0)
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["6", "7"]


def test_devices_without_memory_are_no_damaged_checkpoint(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)

        def without_memory(*_):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

        monkeypatch.setattr(type(checkpoints._checkpointer), "load_checkpointables", without_memory)
        with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
            checkpoints.restore(1, params=state_of(1)[0])
