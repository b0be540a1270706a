"""A server in the process of the tests, on a copy of the evaluated run that may be edited."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.evaluated_run import DEVICES, use_devices
from starlette.testclient import TestClient

import knn_ner_jax as kn
from knn_ner_jax.serve.app import Access, Limits, Server
from knn_ner_jax.serve.batcher import Batcher
from knn_ner_jax.serve.metrics import Metrics

TOKEN = "a-token-of-the-tests"
HOST = "127.0.0.1:8000"
LIMITS = Limits(body_bytes=4096, texts=8, words=300, neighbours=4, queue=8, seconds=20.0)


class Served(NamedTuple):
    """A client that bears the token, what it speaks to, the folder of the run, and sentences in which entities are found."""

    client: TestClient
    batcher: Batcher
    server: Server
    metrics: Metrics
    run: Path
    sentences: list[list[str]]


@pytest.fixture(scope="module")
def served(evaluated: Path, tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served") / "work"
    shutil.copytree(evaluated, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        use_devices(patch, DEVICES)
        metrics = Metrics()
        batcher = Batcher(kn.load(folder / "run"), LIMITS.neighbours, LIMITS.queue, metrics)
        batcher.start()
        server = Server(batcher, metrics, Access(TOKEN, True, frozenset({"127.0.0.1"})), LIMITS)
        with TestClient(server.application(), f"http://{HOST}", headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            blocks = (folder / "corpus" / "train.conll").read_text(encoding="utf-8").split("\n\n")[:20]
            known = [[line.split("\t")[0] for line in block.splitlines()] for block in blocks]
            answers = [client.post("/tag", json={"tokens": words}).json()["sentences"][0] for words in known]
            sentences = [words for words, answer in zip(known, answers, strict=True) if answer["entities"]]
            yield Served(client, batcher, server, metrics, folder / "run", sentences)
