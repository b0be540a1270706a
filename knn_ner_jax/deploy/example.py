"""Label text with the program in this folder: needs jax, flatbuffers, numpy, tokenizers (safetensors for arrays)."""

import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import tokenizers
from jax import export

FOLDER = Path(__file__).parent
MANIFEST = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
LENGTH, BATCH, LABELS, SPECIAL = MANIFEST["length"], MANIFEST["batch"] or 16, MANIFEST["labels"], MANIFEST["special_ids"]
TOKENIZER = tokenizers.Tokenizer.from_str((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
TOKENIZER.no_truncation()
TOKENIZER.no_padding()
TOKENIZER.encode_special_tokens = True  # text that spells a special token is text
PROGRAM = jax.jit(export.deserialize(bytearray((FOLDER / MANIFEST["program"]).read_bytes())).call)
ARRAYS = []
if MANIFEST["arrays"] != "inside":
    from safetensors.flax import load_file

    ARRAYS = [load_file(FOLDER / MANIFEST["arrays"])]


def windows(words: list[str]) -> list[np.ndarray]:
    """Return [3, LENGTH] windows of a sentence: token ids, 1 at tokens, the number from 1 of the word labelled there."""
    encoding = TOKENIZER.encode(words, is_pretokenized=True, add_special_tokens=False)
    pieces: list[list[int]] = [[] for _ in words]
    for number, word in zip(encoding.ids, encoding.word_ids, strict=True):
        pieces[word or 0] += [number]
    pieces = [ids if ids and word != "\ufffd" else [SPECIAL["unk"]] for ids, word in zip(pieces, words, strict=True)]
    lengths = np.array([len(ids) for ids in pieces], int)
    ids, first = [number for ids in pieces for number in ids], np.cumsum(lengths) - lengths
    body = LENGTH - 2  # a longer sentence needs several windows; its words are labelled in that with most context around
    starts = np.array([*range(0, max(len(ids) - body, 0), body // 2), max(len(ids) - body, 0)])
    window_of = np.searchsorted(starts[:-1] + starts[1:] + body - 1, 2 * first)
    rows = np.zeros((len(starts), 3, LENGTH), np.int32)
    for row, start, own in zip(rows, starts, np.arange(len(starts))[:, None] == window_of, strict=True):
        tokens = [SPECIAL["cls"], *ids[start : start + body], SPECIAL["sep"]]
        row[0, : len(tokens)], row[1, : len(tokens)] = tokens, 1
        row[2, first[own] - start + 1] = 1 + np.flatnonzero(own)
    return list(rows)


def label(sentences: list[list[str]]) -> list[list[tuple[str, float]]]:
    """Return label and probability of every word."""
    rows = [(number, window) for number, words in enumerate(sentences) for window in windows(words)]
    labelled = [[("O", 0.0)] * len(words) for words in sentences]
    for begin in range(0, len(rows), BATCH):
        part = rows[begin : begin + BATCH]
        inputs = np.zeros((BATCH, 3, LENGTH), np.int32)
        inputs[: len(part)] = [window for _, window in part]
        outputs = jax.device_get(PROGRAM(*ARRAYS, inputs[:, 0], inputs[:, 1], inputs[:, 2] > 0))
        for (sentence, window), ids, p in zip(part, outputs["label_ids"], outputs["p"], strict=False):
            for place in np.flatnonzero(window[2]):
                labelled[sentence][window[2, place] - 1] = LABELS[ids[place]], float(p[place].max())
    return labelled


if __name__ == "__main__":
    texts = [re.findall(r"\w+(?:[-.'’]\w+)*|[^\w\s]", text) for text in sys.argv[1:]]
    for words, labels in zip(texts, label(texts), strict=True):
        shown = zip(words, labels, strict=True)
        print(" ".join(word if name == "O" else f"[{word} {name} {p:.3f}]" for word, (name, p) in shown))
