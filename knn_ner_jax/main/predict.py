"""`predict`: tag text or tokens with an evaluated run; print entities, and the training words that are nearest to each."""

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from knn_ner_jax.data.texts import STANDARD_INPUT, format_of, read_texts, texts_of_arguments
from knn_ner_jax.data.words import are_segmented
from knn_ner_jax.io import InputError
from knn_ner_jax.knn_tagger import TaggedText, load
from knn_ner_jax.report.evaluation import print_entities
from knn_ner_jax.run_dir import load_evaluation

SENTENCES_AT_A_TIME = 1024


def _print_text(sentences: Iterable[TaggedText]) -> None:
    console = Console(soft_wrap=True, emoji=False)
    for tagged in sentences:
        print_entities(console, tagged)


def _print_jsonl(sentences: Iterable[TaggedText]) -> None:
    for tagged in sentences:
        names = ("type", "start", "end", "text", "probability", "is_strict", "offsets")
        entities = [{name: getattr(entity, name) for name in names} for entity in tagged.entities]
        print(json.dumps({"tokens": tagged.words, "ner_tags": tagged.labels, "entities": entities}, ensure_ascii=False))


def _print_conll(sentences: Iterable[TaggedText]) -> None:
    for tagged in sentences:
        print("".join(f"{word}\t{label}\n" for word, label in zip(tagged.words, tagged.labels, strict=True)))


WRITERS = {"text": _print_text, "jsonl": _print_jsonl, "conll": _print_conll}


def main(eval_dir: str, text: list[str], file: str | None, text_format: str, neighbours: int, output: str) -> None:
    """Tag sentences and print them.

    Args:
        eval_dir: the folder that `eval` wrote to.
        text: sentences; without any, those of `file`.
        file: of sentences; None: the standard input.
        text_format: of the sentences (see `texts.read_texts`).
        neighbours: how many to print for each entity.
        output: a key of `WRITERS`.

    Raises:
        InputError: see `KnnTagger.tag`, `read_texts` and `texts_of_arguments`.
    """
    if neighbours < 0:
        raise InputError(f"--neighbours: expected at least 0, got {neighbours}")
    if text and file is not None:
        raise InputError(f"--input: expected no file beside sentences on the command line, got {file}")
    if text:
        texts = texts_of_arguments(text, text_format)
    elif format_of(source := file or STANDARD_INPUT, text_format) == "conll":
        texts = read_texts(source, text_format, load_evaluation(Path(eval_dir).expanduser()).config.data)
    else:
        texts = read_texts(source, text_format)
    if texts.skipped:
        print("skipped:", ", ".join(f"{count} {reason}" for reason, count in texts.skipped.items()), file=sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What is read is UTF-8 whatever the locale, and so is what is written for programs.
        encoding = sys.stdout.encoding if output == "text" else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
    knn_tagger, shown = load(eval_dir), neighbours if output == "text" else 0
    if knn_tagger.model.is_segmented and any(isinstance(text, str) and are_segmented([text]) for text in texts.sentences):
        print(
            "text of a script without spaces is split by character, but the training corpus has words of several: give "
            "words (--tokens), segmented as there",
            file=sys.stderr,
        )
    if shown:
        try:
            _ = knn_tagger.datastore_text
        except InputError as error:  # labels do not depend on it
            print(f"neighbours are not shown: {error}", file=sys.stderr)
            shown = 0
    parts = range(0, len(texts.sentences), SENTENCES_AT_A_TIME)
    tagged = (knn_tagger.tag(texts.sentences[start : start + SENTENCES_AT_A_TIME], shown) for start in parts)
    WRITERS[output](sentence for part in tagged for sentence in part)
