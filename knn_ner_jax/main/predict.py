"""`predict`: tag plain text with an evaluated run; print entities, and the training words that are nearest to each."""

import sys
from pathlib import Path

from rich.console import Console

from knn_ner_jax.io import InputError
from knn_ner_jax.knn_tagger import load
from knn_ner_jax.report.evaluation import print_entities


def read_standard_input() -> str:
    """Read all of the standard input; raise InputError where it is no text."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input: expected {error.encoding} text, got bytes that are none: {error.reason}"
        ) from error


def main(eval_dir: str, text: list[str] | None, neighbours: int) -> None:
    """Tag sentences and print them.

    Args:
        eval_dir: the folder that `eval` wrote to.
        text: sentences; without any, one on each line of the standard input.
        neighbours: how many to print for each entity.

    Raises:
        InputError: see `KnnTagger.tag`; or fewer than one neighbour.
    """
    sentences = text or [line for line in read_standard_input().split("\n") if line.strip()]
    if neighbours < 1:
        raise InputError(f"--neighbours: expected at least 1, got {neighbours}")
    console = Console(soft_wrap=True, emoji=False)
    for tagged in load(Path(eval_dir)).tag(sentences, neighbours):
        print_entities(console, tagged)
