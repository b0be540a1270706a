"""Programs that hold the encoder: each command compiles one for each use, whatever lengths its sentences have."""

import logging
import re
from collections import Counter
from pathlib import Path

import jax
import pytest

from knn_ner_jax import cli
from knn_ner_jax.data.tokenization import EncodedSplit

# The jitted functions that run the encoder.
ENCODER = {"tag", "retrieve", "_batch_keys", "_batch_moments", "_predict", "train_step"}
LENGTHS = (3, 9, 17, 26, 33, 41, 48, 60)  # words; a fixed ladder of lengths would make a shape of each


def add_sentences(folder: Path) -> None:
    """Put sentences of many lengths before those of each split."""
    for split in ("train", "dev", "test"):
        file = folder / "corpus" / f"{split}.conll"
        lines = file.read_text(encoding="utf-8").replace("\n\n", "\n").split("\n")
        words = [line for line in lines if "\t" in line] * 2
        sentences = ["\n".join(words[length : 2 * length]) for length in LENGTHS]
        file.write_text("\n\n".join([*sentences, file.read_text(encoding="utf-8")]), encoding="utf-8")


def programs(caplog) -> Counter[str]:
    found = (re.match(r"Compiling jit\((\w+)\) with global shapes", record.getMessage()) for record in caplog.records)
    return Counter(name[1] for name in found if name and name[1] in ENCODER)


@pytest.mark.slow  # trains and evaluates, and shares no program with other tests
def test_training_and_evaluation_compile_each_function_once(trained, copy_of, settings, monkeypatch, caplog):
    add_sentences(copy_of(trained))
    changed = [
        *settings,
        "--run_dir=of_many",
        "--data.max_length=64",
        "--train.epochs=1",
        "--knn.block_rows=51",
        "--knn.k=[3,5]",
    ]
    lengths = set[int]()
    original = EncodedSplit.lengths.func

    def note(split):
        lengths.update(map(int, original(split)))
        return original(split)

    monkeypatch.setattr(EncodedSplit.lengths, "func", note)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        cli.run("train", "train.py", changed)
        assert programs(caplog) == {"train_step": 1, "_predict": 1}
        caplog.clear()
        cli.run("eval", "eval.py", changed)
    assert len({length // 8 for length in lengths}) > 5
    compiled = programs(caplog)
    # Neighbours are retrieved for all of dev, to choose among settings; and, by one program, for the words of predicted
    # entities of dev and test, and for the few that the page shows.
    assert compiled.pop("retrieve") <= 2
    assert compiled == {"_batch_keys": 1, "tag": 1}
