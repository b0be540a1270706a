"""Sentences of the embedded corpus, for small corpora."""

from pathlib import Path

QUICKSTART = Path(__file__).parent.parent / "knn_ner_jax" / "data" / "quickstart"


def quickstart_lines(split: str, sentences: int) -> str:
    """The first sentences of a split of the embedded corpus, as a column file."""
    text = (QUICKSTART / f"{split}.conll").read_text(encoding="utf-8")
    return "\n\n".join(text.split("\n\n")[:sentences]) + "\n"
