"""The datastore on disk: it comes back as it was, or not at all."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy
from helpers import stores

from knn_ner_jax import sharding
from knn_ner_jax.knn import build as building
from knn_ner_jax.knn import storage
from knn_ner_jax.knn.storage import KeyFormat, ShardFile, StoredRows
from knn_ner_jax.models.tagger import Tagger

SPLIT = stores.random_split(3, 6)
ROWS, SHARD_ROWS, WIDTH, RANK = SPLIT.num_words, 8, stores.SHAPE.hidden_size, 6
WHITENED = stores.make_plan(SHARD_ROWS, layers=(1, 2), whitening_dim=RANK)
CHANGED = {
    "weights": "v" * 64,
    "tokenizer": "s" * 64,
    "layers": (2, 1),
    "whitening_dim": None,
    "subwords": "mean",
    "max_length": 128,
    "dtype": "bfloat16",
    "key_dtype": "bfloat16",
}


def build(path: Path, plan, devices=1):
    tagger, mesh = Tagger(stores.SHAPE, stores.LABELS), sharding.make_mesh(devices)
    params = jax.device_put(tagger.init(jax.random.key(0)), sharding.replicated(mesh))
    building.build_datastore(path, tagger, params, SPLIT, stores.SENTENCES, plan, mesh)
    return path


@pytest.fixture(scope="module")
def whitened(tmp_path_factory):
    return build(tmp_path_factory.mktemp("whitened") / "datastore", WHITENED)


@pytest.fixture
def folder(whitened, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(whitened, tmp_path / "store")


def load(folder: Path, plan=WHITENED, devices=1):
    return storage.load(folder, plan.fingerprint, sharding.make_mesh(devices))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    "plan", [WHITENED, stores.make_plan(SHARD_ROWS), stores.make_plan(SHARD_ROWS, key_dtype="bfloat16")], ids=lambda plan: ""
)
def test_what_four_devices_built_any_number_loads(tmp_path, devices, plan):
    folder = build(tmp_path / "store", plan, 4)
    loaded = load(folder, plan, devices)
    assert loaded.source == stores.SOURCE
    store = loaded.datastore
    assert ROWS % 8  # the last device has fewer rows
    assert int(store.num_rows) == ROWS
    assert len(store.keys) == sharding.round_up(ROWS, sharding.make_mesh(devices))
    assert len(store.keys.sharding.device_set) == devices
    shards = [safetensors.flax.load_file(path) for path in sorted(folder.glob("rows-*.safetensors"))]
    for name in ("keys", "labels", "sentence_ids", "word_ids"):
        stored = np.concatenate([np.asarray(shard[name], np.float32) for shard in shards])
        np.testing.assert_array_equal(np.asarray(getattr(store, name)[:ROWS], np.float32), stored)
        assert not np.asarray(getattr(store, name)[ROWS:]).any()
    assert str(store.keys.dtype) == plan.fingerprint.key_dtype
    assert str(shards[0]["keys"].dtype) == plan.fingerprint.key_dtype
    if plan is WHITENED:
        projection = safetensors.numpy.load_file(folder / "projection.safetensors")
        np.testing.assert_array_equal(store.projection.mean, projection["mean"])
        np.testing.assert_array_equal(store.projection.matrix, projection["matrix"])
    else:
        assert store.projection is None


@pytest.mark.parametrize("shard_rows", [SHARD_ROWS, ROWS, 100, ROWS - 1])
def test_shards_are_of_one_size_and_the_last_may_be_shorter(tmp_path, shard_rows):
    folder = build(tmp_path / "store", stores.make_plan(shard_rows))
    shards = [safetensors.numpy.load_file(path) for path in sorted(folder.glob("rows-*.safetensors"))]
    sizes = [min(shard_rows, ROWS - start) for start in range(0, ROWS, shard_rows)]
    assert [len(shard["keys"]) for shard in shards] == sizes
    for name, values in (("labels", SPLIT.label_ids), ("sentence_ids", SPLIT.sentence_ids), ("word_ids", SPLIT.word_ids)):
        np.testing.assert_array_equal(np.concatenate([shard[name] for shard in shards]), values)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == sizes
    assert (manifest["rows"], manifest["dim"], manifest["shard_rows"]) == (ROWS, WIDTH, shard_rows)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(storage.Fingerprint)])
def test_a_datastore_made_otherwise_is_refused_and_both_values_are_named(whitened, field):
    expected = dataclasses.replace(WHITENED.fingerprint, **{field: CHANGED[field]})
    with pytest.raises(storage.DatastoreError) as error:
        storage.load(whitened, expected, sharding.make_mesh(1))
    message = str(error.value)
    stored, wanted = (json.loads(json.dumps(value)) for value in (getattr(WHITENED.fingerprint, field), CHANGED[field]))
    assert str(whitened) in message
    assert f" {field}: the datastore has {stored}, this run has {wanted}" in message
    assert not [other for other in CHANGED if other != field and f" {other}:" in message]


def test_every_difference_is_listed(whitened):
    with pytest.raises(storage.DatastoreError) as error:
        storage.load(whitened, storage.Fingerprint(**CHANGED), sharding.make_mesh(1))
    assert all(f" {field}: the datastore has" in str(error.value) for field in CHANGED)


def test_the_source_is_recorded_and_not_compared(tmp_path):
    other = storage.Source("elsewhere/train.txt", "6" * 64, ("LOC", "PER", "ORG"), 1.0, 0, True)
    plan = dataclasses.replace(stores.make_plan(), source=other)
    assert load(build(tmp_path / "store", plan), plan).source == other


@pytest.mark.parametrize("name", ["rows-00000.safetensors", "rows-00001.safetensors", "projection.safetensors"])
@pytest.mark.parametrize("place", [0, 8, -1])
def test_a_flipped_byte_is_found(folder, name, place):
    content = bytearray((folder / name).read_bytes())
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(storage.DatastoreError, match=rf"{name}: damaged: expected SHA-256 \w+, found \w+"):
        load(folder)


@pytest.mark.parametrize("name", ["rows-00001.safetensors", "projection.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(storage.DatastoreError, match=rf"{name}: expected a file .* found none"):
        load(folder)


def test_only_the_shards_of_the_rows_that_are_read_are_opened(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    whole = load(folder).datastore
    files = [ShardFile(**shard) for shard in manifest["shards"]]
    (folder / files[0].file).unlink()
    (folder / files[-1].file).write_bytes(b"")
    rows = StoredRows(folder, files, KeyFormat(RANK, "float32"))
    for start, stop in [(SHARD_ROWS, 2 * SHARD_ROWS), (SHARD_ROWS + 2, 2 * SHARD_ROWS + 3), (9, 9), (0, 0)]:
        for name in ("keys", "sentence_ids"):
            np.testing.assert_array_equal(rows.read(name, start, stop), getattr(whole, name)[start:stop])
    for start, stop in [(SHARD_ROWS - 1, SHARD_ROWS + 1), (ROWS - 1, ROWS)]:
        with pytest.raises(storage.DatastoreError, match="SHA-256"):
            rows.read("labels", start, stop)


def test_a_missing_manifest_is_named(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(storage.DatastoreError, match=r"manifest\.json: expected the manifest"):
        load(folder)


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
def test_a_garbled_manifest_is_one_clear_error(folder, garble):
    path = folder / "manifest.json"
    path.write_bytes(garble(path.read_bytes()))
    with pytest.raises(storage.DatastoreError, match=r"manifest\.json"):
        load(folder)


def test_a_manifest_that_lists_fewer_rows_than_it_promises_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["shards"][1]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(storage.DatastoreError, match=rf"expected {ROWS} .*{ROWS - SHARD_ROWS}"):
        load(folder)


def test_another_format_is_refused_and_both_are_named(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"format": 4', '"format": 99'))
    with pytest.raises(storage.DatastoreError, match="expected format 4, found 99"):
        load(folder)
