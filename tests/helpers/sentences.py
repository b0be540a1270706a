"""Sentences for small corpora: of the embedded corpus, or made up."""

from pathlib import Path

import numpy as np

QUICKSTART = Path(__file__).parents[2] / "knn_ner_jax" / "data" / "quickstart"


def quickstart_lines(split: str, sentences: int) -> str:
    """The first sentences of a split of the embedded corpus, as a column file."""
    text = (QUICKSTART / f"{split}.conll").read_text(encoding="utf-8")
    return "\n\n".join(text.split("\n\n")[:sentences]) + "\n"


def _made_up(count: int, seed: int) -> str:
    """Column file: capitals and the letter after one are names."""
    rng = np.random.default_rng(seed)
    sentences = []
    for _ in range(count):
        lines: list[str] = []
        for _ in range(rng.integers(2, 10)):
            letter = "abcdef"[rng.integers(6)]
            lines += [f"{letter} O"] if rng.random() < 0.6 else [f"{letter.upper()} B-NAME", f"{letter} I-NAME"]
        sentences.append("\n".join(lines))
    return "\n\n".join(sentences) + "\n"


def made_up_corpus(folder: Path, sentences: dict[str, int]) -> Path:
    """Writes so many sentences for each split, and a vocabulary; returns the folder."""
    for seed, (split, count) in enumerate(sentences.items()):
        (folder / f"{split}.conll").write_text(_made_up(count, seed))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefABCDEF"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    return folder
