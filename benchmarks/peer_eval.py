"""An evaluation as one writes it by hand with PyTorch, FAISS, transformers and seqeval: what eval.py is compared with.

    python -m benchmarks.peer_eval TAGGER CORPUS [--search torch]

TAGGER is a folder that transformers loads, CORPUS has train.*, dev.* and test.*, a word and its IOB2 tag on each line. Keys
are the last hidden states of first pieces, of length 1; every setting of the grid is scored on dev, test is labelled with
the best: of equals the one with the least weight, then the first. The last line printed is JSON: the scores, the setting,
and the seconds of each stage.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2
from transformers import AutoModelForTokenClassification, AutoTokenizer

from benchmarks.peer_train import Sentence, inputs, read_columns, sorted_batches, tokenize

QUERIES = 256  # multiplied at a time


class Encoded(NamedTuple):
    """Words of a split in order: states [words, dim], probabilities [words, labels], and how many each sentence kept."""

    states: np.ndarray
    probabilities: np.ndarray
    lengths: list[int]


@torch.inference_mode()
def encode(model: Any, tokenizer: Any, sentences: list[Sentence], size: int) -> Encoded:
    """Encode a split in batches of sentences sorted by length."""
    rows = tokenize(tokenizer, sentences)
    states, probabilities = {}, {}
    for batch in sorted_batches(rows, size):
        output = model(**inputs(rows, batch), output_hidden_states=True)
        unit = torch.nn.functional.normalize(output.hidden_states[-1], dim=-1).numpy()
        softmax = output.logits.softmax(-1).numpy()
        for row, i in enumerate(batch):
            states[i], probabilities[i] = unit[row, rows[i][1]], softmax[row, rows[i][1]]
    numbers = range(len(rows))
    lengths = [len(positions) for _, positions in rows]
    return Encoded(
        np.concatenate([states[i] for i in numbers]), np.concatenate([probabilities[i] for i in numbers]), lengths
    )


class Search:
    """Exact search for the rows with the largest products, by FAISS or by PyTorch."""

    def __init__(self, keys: np.ndarray, library: str) -> None:
        self.keys, self.index = torch.from_numpy(keys), None
        if library == "faiss":
            import faiss

            self.index = faiss.IndexFlatIP(keys.shape[1])
            self.index.add(keys)

    def __call__(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return similarities and ids, [queries, k], the nearest first."""
        if self.index is not None:
            return self.index.search(queries, k)
        found = [(part @ self.keys.T).topk(k) for part in torch.from_numpy(queries).split(QUERIES)]
        return torch.cat([each.values for each in found]).numpy(), torch.cat([each.indices for each in found]).numpy()


def vote(similarities: np.ndarray, labels: np.ndarray, temperature: float, num_labels: int) -> np.ndarray:
    """Return [queries, labels], the share of each label in a softmax of [queries, k] similarities over temperature."""
    weights = np.exp((similarities - similarities[:, :1]) / temperature)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.stack([(weights * (labels == label)).sum(axis=1) for label in range(num_labels)], axis=1)


def score(p: np.ndarray, names: list[str], sentences: list[Sentence], lengths: list[int]) -> float:
    """Return the strict F1 of the likeliest labels in percent; words that were cut off are O."""
    tags = np.array(names, object)[p.argmax(axis=1)]
    parts = np.split(tags, np.cumsum(lengths)[:-1])
    gold = [tags for _, tags in sentences]
    predicted = [[*part, *["O"] * (len(of_gold) - len(part))] for part, of_gold in zip(parts, gold, strict=True)]
    return 100 * f1_score(gold, predicted, mode="strict", scheme=IOB2)


def numbers(text: str) -> list[float]:
    """Read numbers between commas."""
    return [float(part) for part in text.split(",")]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tagger")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--k", type=numbers, default="8,32,128,512")
    parser.add_argument("--temperature", type=numbers, default="0.01,0.03,0.1,0.3")
    parser.add_argument("--weight", type=numbers, default="0.05,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0")
    parser.add_argument("--search", choices=("faiss", "torch"), default="faiss")
    return parser.parse_args()


def main() -> None:
    """Encode, tune on dev, score test."""
    arguments = parse_arguments()
    clock, seconds = [time.perf_counter()], {}

    def lap(stage: str) -> None:
        clock.append(time.perf_counter())
        seconds[stage] = clock[-1] - clock[-2]

    tokenizer = AutoTokenizer.from_pretrained(arguments.tagger)
    model = AutoModelForTokenClassification.from_pretrained(arguments.tagger).eval()
    names = [model.config.id2label[label] for label in range(model.config.num_labels)]
    splits = {split: read_columns(arguments.corpus, split) for split in ("train", "dev", "test")}
    lap("load")
    encoded = {}
    for split, sentences in splits.items():
        encoded[split] = encode(model, tokenizer, sentences, arguments.batch)
        lap(f"encode_{split}")
    train, dev, test = encoded.values()
    kept = zip(splits["train"], train.lengths, strict=True)
    values = np.array([names.index(tag) for (_, tags), length in kept for tag in tags[:length]])
    search = Search(train.states, arguments.search)
    every_k = [int(k) for k in arguments.k]
    similarities, ids = search(dev.states, max(every_k))
    lap("search_dev")
    best: tuple[float, float] = (-1.0, 0.0)
    for k, temperature in itertools.product(every_k, arguments.temperature):
        p_knn = vote(similarities[:, :k], values[ids[:, :k]], temperature, len(names))
        for weight in arguments.weight:
            p = weight * p_knn + (1 - weight) * dev.probabilities
            f1 = score(p, names, splits["dev"], dev.lengths)
            if (f1, -weight) > best:
                best, chosen = (f1, -weight), (k, temperature, weight)
    lap("tune")
    k, temperature, weight = chosen
    similarities, ids = search(test.states, k)
    lap("search_test")
    p = weight * vote(similarities, values[ids], temperature, len(names)) + (1 - weight) * test.probabilities
    scores = {
        "dev": best[0],
        "vanilla_test": score(test.probabilities, names, splits["test"], test.lengths),
        "knn_test": score(p, names, splits["test"], test.lengths),
    }
    lap("score_test")
    print(json.dumps({**scores, "chosen": chosen, "rows": len(values), "seconds": seconds}))


if __name__ == "__main__":
    main()
