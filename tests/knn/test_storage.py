"""The datastore on disk: it comes back as it was, or not at all."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from knn_ner_jax import mesh as placement
from knn_ner_jax.knn import storage
from knn_ner_jax.knn.datastore import Projection, assemble

ROWS, WIDTH = 23, 6
FINGERPRINT = storage.Fingerprint(
    weights="w" * 64, tokenizer="t" * 64, layers=(1, 2), whiten=6, pieces="first", window=64, dtype="float32"
)
CHANGED = {
    "weights": "v" * 64,
    "tokenizer": "s" * 64,
    "layers": (2, 1),
    "whiten": None,
    "pieces": "mean",
    "window": 128,
    "dtype": "bfloat16",
}
SOURCE = storage.Source("corpus/train.conll", "5" * 64, ("LOC", "PER"))


def make_store(devices=1, projected=True, rows=ROWS):
    rng = np.random.default_rng(5)
    mesh = placement.make_mesh(devices)
    keys = placement.put_rows(rng.standard_normal((rows, WIDTH), np.float32), mesh)
    columns = (rng.integers(0, 5, rows).astype(np.int32) for _ in range(3))
    matrix = jnp.asarray(rng.standard_normal((4, WIDTH), np.float32))
    return assemble(keys, *columns, Projection(jnp.arange(4.0), matrix) if projected else None, mesh)


def save(path: Path, store=None, shard_rows=7, source=SOURCE):
    storage.save(path, store or make_store(), FINGERPRINT, source, shard_rows)
    return path


def files(folder: Path):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("projected", [True, False])
def test_what_four_devices_saved_any_number_loads(tmp_path, devices, projected):
    saved = make_store(4, projected)
    mesh = placement.make_mesh(devices)
    loaded = storage.load(save(tmp_path / "store", saved), FINGERPRINT, mesh)
    assert loaded.source == SOURCE
    store = loaded.datastore
    assert int(store.num_rows) == ROWS
    assert len(store.keys) == placement.round_up(ROWS, mesh)
    assert len(store.keys.sharding.device_set) == devices
    # Not stored: the order of a sum, hence its rounding, is the device's affair.
    np.testing.assert_allclose(store.squared_norms[:ROWS], saved.squared_norms[:ROWS], rtol=(WIDTH + 1) * 2.0**-24)
    for name in ("keys", "labels", "sentence_ids", "word_ids"):
        before, after = np.asarray(getattr(saved, name)), np.asarray(getattr(store, name))
        np.testing.assert_array_equal(after[:ROWS], before[:ROWS])
        assert after.dtype == before.dtype
    if projected:
        np.testing.assert_array_equal(store.projection.mean, saved.projection.mean)
        np.testing.assert_array_equal(store.projection.matrix, saved.projection.matrix)
    else:
        assert store.projection is None


@pytest.mark.parametrize(("shard_rows", "sizes"), [(7, [7, 7, 7, 2]), (23, [23]), (100, [23]), (22, [22, 1])])
def test_shards_are_of_one_size_and_the_last_may_be_shorter(tmp_path, shard_rows, sizes):
    store = make_store(4)
    folder = save(tmp_path / "store", store, shard_rows)
    shards = [safetensors.numpy.load_file(path) for path in sorted(folder.glob("rows-*.safetensors"))]
    assert [len(shard["keys"]) for shard in shards] == sizes
    for name in ("keys", "labels", "sentence_ids", "word_ids"):
        np.testing.assert_array_equal(np.concatenate([shard[name] for shard in shards]), getattr(store, name)[:ROWS])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == sizes
    assert (manifest["rows"], manifest["dim"], manifest["dtype"]) == (ROWS, WIDTH, "float32")


def test_two_saves_are_the_same_bytes(tmp_path):
    one, two = save(tmp_path / "one", make_store(1)), save(tmp_path / "two", make_store(8))
    assert files(one) == files(two)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(storage.Fingerprint)])
def test_a_datastore_made_otherwise_is_refused_and_both_values_are_named(tmp_path, field):
    folder = save(tmp_path / "store")
    expected = dataclasses.replace(FINGERPRINT, **{field: CHANGED[field]})
    with pytest.raises(storage.DatastoreError) as error:
        storage.load(folder, expected, placement.make_mesh(1))
    message = str(error.value)
    stored, wanted = (json.loads(json.dumps(value)) for value in (getattr(FINGERPRINT, field), CHANGED[field]))
    assert str(folder) in message
    assert f"{field}: the datastore has {stored}, this run has {wanted}" in message
    assert not [other for other in CHANGED if other != field and f"{other}:" in message]


def test_every_difference_is_listed(tmp_path):
    folder = save(tmp_path / "store")
    with pytest.raises(storage.DatastoreError) as error:
        storage.load(folder, storage.Fingerprint(**CHANGED), placement.make_mesh(1))
    assert all(f"{field}: the datastore has" in str(error.value) for field in CHANGED)


def test_the_source_is_recorded_and_not_compared(tmp_path):
    other = storage.Source("elsewhere/train.txt", "6" * 64, ("LOC", "PER", "ORG"))
    folder = save(tmp_path / "store", source=other)
    assert storage.load(folder, FINGERPRINT, placement.make_mesh(1)).source == other


@pytest.mark.parametrize("name", ["rows-00000.safetensors", "rows-00003.safetensors", "projection.safetensors"])
@pytest.mark.parametrize("place", [0, 8, -1])
def test_a_flipped_byte_is_found(tmp_path, name, place):
    folder = save(tmp_path / "store")
    content = bytearray((folder / name).read_bytes())
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(storage.DatastoreError, match=rf"{name}: damaged: expected SHA-256 \w+, found \w+"):
        storage.load(folder, FINGERPRINT, placement.make_mesh(1))


@pytest.mark.parametrize("name", ["rows-00001.safetensors", "projection.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = save(tmp_path / "store")
    (folder / name).unlink()
    with pytest.raises(storage.DatastoreError, match=rf"{name}: expected a file .* found none"):
        storage.load(folder, FINGERPRINT, placement.make_mesh(1))


def test_a_missing_manifest_is_named(tmp_path):
    folder = save(tmp_path / "store")
    (folder / "manifest.json").unlink()
    with pytest.raises(storage.DatastoreError, match=r"manifest\.json: expected the manifest"):
        storage.load(folder, FINGERPRINT, placement.make_mesh(1))


def drop(field):
    def edit(text: bytes) -> bytes:
        manifest = json.loads(text)
        del manifest[field]
        return json.dumps(manifest).encode()

    return edit


GARBLED = {
    "empty": lambda text: b"",
    "cut short": lambda text: text[: len(text) // 2],
    "not UTF-8": lambda text: b"\xff" + text,
    "a list": lambda text: b"[]",
    "without fingerprint": drop("fingerprint"),
    "without shards": drop("shards"),
    "without source": drop("source"),
}


@pytest.mark.parametrize("garble", GARBLED.values(), ids=GARBLED.keys())
def test_a_garbled_manifest_is_one_clear_error(tmp_path, garble):
    folder = save(tmp_path / "store")
    path = folder / "manifest.json"
    path.write_bytes(garble(path.read_bytes()))
    with pytest.raises(storage.DatastoreError, match=r"manifest\.json"):
        storage.load(folder, FINGERPRINT, placement.make_mesh(1))


def test_a_manifest_that_lists_fewer_rows_than_it_promises_is_refused(tmp_path):
    folder = save(tmp_path / "store")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["shards"][1]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(storage.DatastoreError, match=r"expected 23 .*16"):
        storage.load(folder, FINGERPRINT, placement.make_mesh(1))


def test_another_format_is_refused_and_both_are_named(tmp_path):
    folder = save(tmp_path / "store")
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(storage.DatastoreError, match="expected format 1, found 99"):
        storage.load(folder, FINGERPRINT, placement.make_mesh(1))


def test_an_existing_datastore_is_not_overwritten(tmp_path):
    folder = save(tmp_path / "store")
    before = files(folder)
    with pytest.raises(storage.DatastoreError, match="store"):
        save(folder)
    assert files(folder) == before


def test_what_an_interrupted_save_left_does_no_harm(tmp_path):
    left = tmp_path / "store.new"
    left.mkdir()
    (left / "rows-00009.safetensors").write_bytes(b"half")
    folder = save(tmp_path / "store")
    assert "rows-00009.safetensors" not in files(folder)
    assert not left.exists()
    assert int(storage.load(folder, FINGERPRINT, placement.make_mesh(1)).datastore.num_rows) == ROWS


@pytest.mark.parametrize("moment", ["rename", "open"])
def test_an_interrupted_save_leaves_nothing_of_the_final_name(tmp_path, monkeypatch, moment):
    whole = getattr(Path, moment)

    def fail(self, *arguments, **options):
        if moment == "rename" or self.name == "rows-00002.safetensors":
            raise OSError("the disk is full")
        return whole(self, *arguments, **options)

    monkeypatch.setattr(Path, moment, fail)
    with pytest.raises(OSError, match="the disk is full"):
        save(tmp_path / "store")
    assert not (tmp_path / "store").exists()
    monkeypatch.undo()
    assert int(storage.load(save(tmp_path / "store"), FINGERPRINT, placement.make_mesh(1)).datastore.num_rows) == ROWS
