"""Building a datastore: the same bytes whatever interrupts it and however many hosts share the work; two batches held."""

import contextlib
import dataclasses
import functools
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import stores

from knn_ner_jax import distributed, sharding
from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.io import InputError
from knn_ner_jax.knn import build as building
from knn_ner_jax.knn import storage
from knn_ner_jax.models.tagger import Tagger

SHARD_ROWS = 12
SPLIT = stores.random_split(4, 9)
PLAN = stores.make_plan(SHARD_ROWS, batch_size=2, layers=(1, 2), whitening_dim=6)
STEPS = ("fsync", "mkdir", "rename", "replace", "rmdir", "unlink")  # of `os`: all that outlives a process


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


TAGGER = Tagger(stores.SHAPE, stores.LABELS)


@functools.cache
def params_of(seed):
    return TAGGER.init(jax.random.key(seed))


def build(path, plan=PLAN, seed=0, sentences=stores.SENTENCES):
    building.build_datastore(path, TAGGER, params_of(seed), SPLIT, sentences, plan, sharding.make_mesh(1))


def content(folder: Path):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    path = tmp_path_factory.mktemp("unbroken") / "datastore"
    build(path)
    names = {
        "manifest.json",
        "sentences.jsonl",
        "projection.safetensors",
        *(f"rows-0000{number}.safetensors" for number in range(3)),
    }
    assert content(path).keys() == names
    assert not path.with_name("datastore.new").exists()
    return path


class Killed(BaseException):
    """The end of the process."""


def stop_at(step, patch, stop):
    """Stops before the step-th change to the disk, and lets nothing change it from then on; counts the changes."""
    steps = iter(range(10**6))
    lock = threading.Lock()

    def stopping(whole):
        def call(*arguments, **options):
            with lock:
                number = next(steps)
            if number >= step:
                stop()
            return whole(*arguments, **options)

        return call

    for name in STEPS:
        patch.setattr(os, name, stopping(getattr(os, name)))


def killed_at(step, path, **arguments):
    """Builds until a change to the disk; whether that came before the end."""

    def stop():
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        stop_at(step, patch, stop)
        try:
            build(path, **arguments)
        except Killed:
            return True
    return False


def finished_shards(new: Path):
    return {path.stem: (new / f"{path.stem}.safetensors").stat().st_ino for path in (new / "building").glob("rows-*.sha256")}


def test_a_build_killed_at_any_change_to_the_disk_continues_to_the_same_bytes(unbroken, tmp_path):
    step, counts = 0, set()
    while killed_at(step, tmp_path / "datastore"):
        path, new = tmp_path / "datastore", tmp_path / "datastore.new"
        if not path.exists():
            before = finished_shards(new)
            counts.add(len(before))
            build(path)
            assert {name: (path / f"{name}.safetensors").stat().st_ino for name in before} == before
        assert content(path) == content(unbroken)
        assert not new.exists()
        shutil.rmtree(path)
        step += 1
    assert counts == {0, 1, 2, 3}
    assert step > 35


KILLED = """
import os, signal, sys
from pathlib import Path
import pytest
import test_build
with pytest.MonkeyPatch.context() as patch:
    test_build.stop_at(int(sys.argv[2]), patch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    test_build.build(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_build_ended_by_sigkill_continues_to_the_same_bytes(unbroken, tmp_path):
    path = tmp_path / "datastore"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", KILLED, str(path), "21"]
    assert subprocess.run(command, env=environment, timeout=120).returncode == -signal.SIGKILL
    assert 0 < len(finished_shards(tmp_path / "datastore.new")) < 3
    build(path)
    assert content(path) == content(unbroken)


OTHER = {
    "fingerprint": {"plan": dataclasses.replace(PLAN, fingerprint=dataclasses.replace(PLAN.fingerprint, weights="v" * 64))},
    "source": {"plan": dataclasses.replace(PLAN, source=dataclasses.replace(PLAN.source, sha256="6" * 64))},
    "shard_rows": {"plan": dataclasses.replace(PLAN, shard_rows=SHARD_ROWS + 1)},
    "sentences": {"sentences": b'["read", "otherwise"]\n'},
}


@pytest.mark.parametrize(("part", "step"), [(part, 22) for part in OTHER] + [("source", 10**5)])
def test_what_was_begun_otherwise_is_not_used(unbroken, tmp_path, caplog, part, step):
    path, new = tmp_path / "datastore", tmp_path / "datastore.new"
    if killed_at(step, path, **OTHER[part], seed=1):
        assert finished_shards(new)
    else:  # all but renamed
        path.rename(new)
    with caplog.at_level(logging.INFO):
        build(path)
    assert content(path) == content(unbroken)
    assert f"begun otherwise ({part}" in caplog.text


@pytest.mark.parametrize("left", ["all of it", "a part"])
def test_starting_over_may_be_interrupted_as_well(unbroken, tmp_path, left):
    """Some of what was begun otherwise is deleted; then it is what is wanted after all."""
    for step in range(8):
        path, new = tmp_path / f"{step}", tmp_path / f"{step}.new"
        if left == "all of it":
            shutil.copytree(unbroken, new)
        else:
            assert killed_at(22, path)
            assert finished_shards(new)
        assert killed_at(step, path, **OTHER["source"])
        build(path)
        assert content(path) == content(unbroken)


def test_shards_do_not_depend_on_how_many_hosts_build_them(unbroken, tmp_path, monkeypatch):
    host, hosts, errors = threading.local(), 2, []
    meet = threading.Barrier(hosts, timeout=60)
    built = {number: [] for number in range(hosts)}
    create = storage.create_shard

    def create_shard(path, *arguments):
        built[host.number].append(path.name)
        return create(path, *arguments)

    def on_primary_host(act):
        if host.number == 0:
            act()
        meet.wait()

    @contextlib.contextmanager
    def sync_errors():
        yield
        meet.wait()

    def run(number):
        host.number = number
        try:
            build(tmp_path / "datastore")
        except BaseException as error:
            errors.append(error)
            meet.abort()

    monkeypatch.setattr(jax, "process_index", lambda: host.number)
    monkeypatch.setattr(jax, "process_count", lambda: hosts)
    monkeypatch.setattr(sharding, "local_mesh", lambda mesh: mesh)
    monkeypatch.setattr(distributed, "on_primary_host", on_primary_host)
    monkeypatch.setattr(distributed, "sync_errors", sync_errors)
    monkeypatch.setattr(storage, "create_shard", create_shard)
    threads = [threading.Thread(target=run, args=[number]) for number in range(hosts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert not errors
    assert built == {0: ["rows-00000.safetensors", "rows-00002.safetensors"], 1: ["rows-00001.safetensors"]}
    assert content(tmp_path / "datastore") == content(unbroken)


def test_two_batches_are_held_at_a_time(tmp_path, monkeypatch):
    held, most = [], []
    compute = building._batch_keys

    def batch_keys(*arguments, **options):
        computed = compute(*arguments, **options)
        held.append(weakref.ref(computed))
        most.append(sum(one() is not None for one in held))
        return computed

    monkeypatch.setattr(building, "_batch_keys", batch_keys)
    build(tmp_path / "datastore", stores.make_plan(SHARD_ROWS, batch_size=1))
    assert len(most) > 2
    assert most == [1] + [2] * (len(most) - 1)


def test_a_shard_is_a_function_of_its_own_words(tmp_path):
    """Other sentences, later in the corpus, change no byte of it."""
    words = 1 + SPLIT.windows[5].word_index.max()
    columns = {name: getattr(SPLIT, name)[:words] for name in ("sentence_ids", "word_ids", "label_ids")}
    fewer = dataclasses.replace(SPLIT, windows=SPLIT.windows[:6], **columns)
    assert 2 * SHARD_ROWS < fewer.num_words < SPLIT.num_words
    plan, params = stores.make_plan(SHARD_ROWS), params_of(0)
    for name, words in (("all", SPLIT), ("fewer", fewer)):
        building.build_datastore(tmp_path / name, TAGGER, params, words, stores.SENTENCES, plan, sharding.make_mesh(1))
    for number in range(2):
        name = storage.shard_name(number)
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "fewer" / name).read_bytes()


def test_keys_that_are_not_finite_never_get_the_final_name(tmp_path):
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan), params_of(0))
    for dtype in ("float32", "bfloat16"):
        plan = stores.make_plan(SHARD_ROWS, key_dtype=dtype)
        with pytest.raises(InputError, match="finite"):
            building.build_datastore(
                tmp_path / "datastore", TAGGER, params, SPLIT, stores.SENTENCES, plan, sharding.make_mesh(1)
            )
        assert not (tmp_path / "datastore").exists()


def test_a_full_disk_never_gets_the_final_name_either(tmp_path, monkeypatch, unbroken):
    def full(descriptor, offset, size):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="the disk is full"):
        build(tmp_path / "datastore")
    assert not (tmp_path / "datastore").exists()
    monkeypatch.undo()
    build(tmp_path / "datastore")
    assert content(tmp_path / "datastore") == content(unbroken)


def test_an_existing_datastore_is_not_overwritten(unbroken):
    before = content(unbroken)
    with pytest.raises(storage.DatastoreError, match="expected no datastore there yet"):
        build(unbroken)
    assert content(unbroken) == before


def test_every_word_has_a_window_of_its_shard():
    stream = building.ShardStream(TAGGER, {}, SPLIT, PLAN, sharding.make_mesh(1))
    for shard in range(stream.num_shards):
        windows = np.concatenate([plan.windows for _, plan in stream._jobs([shard])])
        words = np.concatenate([SPLIT.windows[number].word_index for number in windows])
        start, stop = stream.span(shard)
        assert set(range(start, stop)) <= set(words[words != NO_WORD].tolist())
        assert len(set(windows.tolist())) == len(windows) < len(SPLIT.windows)
