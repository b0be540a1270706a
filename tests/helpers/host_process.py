"""One process of a run on several hosts.

python host_process.py CONFIG evaluate PATH     trains, evaluates; PATH.N.npz is what host N has looked up
python host_process.py CONFIG train             only trains
python host_process.py CONFIG train SIGNAL STEP the last host sends itself a signal after that step
"""

import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np

from knn_ner_jax import distributed
from knn_ner_jax.cli import read_config
from knn_ner_jax.config import Config, DataConfig
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.io import InputError, Preempted
from knn_ner_jax.knn import build
from knn_ner_jax.knn.border import choose_border
from knn_ner_jax.knn.combine import KnnParams
from knn_ner_jax.knn_tagger import KnnTagger, open_knn_tagger
from knn_ner_jax.main import evaluate as evaluation
from knn_ner_jax.main import train
from knn_ner_jax.run_dir import Stopwatch, TrainedModel
from knn_ner_jax.training import loop

K = 4
SECONDS_AFTER_SIGNAL = 0.3  # for each step, so that the other hosts hear of it before the last


def open_run(config: Config) -> tuple[KnnTagger, EncodedSplit]:
    """The evaluated run of a configuration, and its dev split."""
    model = TrainedModel.load(Path(config.run_dir))
    knn_tagger = open_knn_tagger(config, model, Path(config.run_dir), None, Stopwatch())
    return knn_tagger, knn_tagger.encode(read_corpus(DataConfig(config.data.dir)).dev.sentences)


def look_up(knn_tagger: KnnTagger, dev: EncodedSplit) -> dict[str, np.ndarray]:
    """Neighbours of every word of dev, and labels, with a border however few rows there are."""
    cache = knn_tagger.retrieve(dev, K, "cosine", with_ids=True)
    rows, num_labels = knn_tagger.stored.datastore.rows, len(knn_tagger.label_set)
    vars(knn_tagger)["border"] = choose_border(rows, num_labels, knn_tagger.mesh, at_most=1.0)
    tagged = knn_tagger.label_split(dev, KnnParams("cosine", K, 0.1, 0.6))
    assert cache.neighbour_ids is not None
    return {"ids": cache.neighbour_ids, "tagger": tagged.tagger, "knn": tagged.knn, "at_border": np.array(tagged.at_border)}


def refusals(config: Config) -> list[str]:
    """What this host hears where the first one refuses, the last one fails, also while it builds, or they differ."""
    last = jax.process_index() == jax.process_count() - 1

    def refuse() -> None:
        raise InputError("I refuse")

    def fail_on_the_last() -> None:
        with distributed.sync_errors():
            if last:
                raise InputError("I fail")

    def build_on_all_but_the_last() -> None:
        def fail(*_) -> None:
            raise InputError("I cannot write")

        if last:
            build._Building.write_shards = fail  # type: ignore[method-assign]
        evaluation.run(config, Path(config.run_dir) / "not_built", overwrite=False)

    heard = []
    for act in (
        lambda: distributed.on_primary_host(refuse),
        fail_on_the_last,
        build_on_all_but_the_last,
        lambda: distributed.assert_same_on_hosts({"seed": int(last)}),
    ):
        try:
            act()
        except InputError as error:
            heard.append(str(error))
    return heard


def signal_after(number: int, step: int) -> None:
    """Makes the last host send itself a signal; all take their time from then on."""
    original, steps = loop.train_step, []

    def train_step(*args, **kwargs):
        result = original(*args, **kwargs)
        steps.append(int(result[0].step))
        if steps[-1] == step and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), number)
        if steps[-1] >= step:
            time.sleep(SECONDS_AFTER_SIGNAL)
        return result

    loop.train_step = train_step


def main() -> None:
    config, what, details = read_config(Path(sys.argv[1])), sys.argv[2], sys.argv[3:]
    distributed.connect(config.distributed, saves_on_sigterm=True)
    if what == "train" and details:
        signal_after(signal.Signals[details[0]], int(details[1]))
    try:
        train.run(config, overwrite=False)
    except Preempted as stop:
        sys.exit(str(stop))
    if what == "evaluate":
        evaluation.run(config, Path(config.run_dir), overwrite=False)
        arrays = look_up(*open_run(config)) | {"refusals": np.array(refusals(config))}
        np.savez(f"{details[0]}.{jax.process_index()}.npz", **arrays)


if __name__ == "__main__":
    main()
