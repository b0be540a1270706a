"""What is done with an evaluated run: `predict` tags text or tokens with it, `memory` edits what it remembers."""

import argparse
import io
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from knn_ner_jax.cli import Parser
from knn_ner_jax.data.corpus import read_splits
from knn_ner_jax.data.texts import STANDARD_INPUT, format_of, read_texts, texts_of_arguments
from knn_ner_jax.data.words import are_segmented
from knn_ner_jax.io import InputError, check_finished
from knn_ner_jax.knn.memory import WHO, Memory
from knn_ner_jax.knn.storage import Edit
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


def _correction(text: str) -> tuple[tuple[int, int], str]:
    """Read `SENTENCE:WORD=TAG`.

    >>> _correction("17:3=B-PER")
    ((17, 3), 'B-PER')
    """
    place, _, tag = text.partition("=")
    sentence, _, word = place.partition(":")
    if not (sentence.isdecimal() and word.isdecimal() and tag):
        raise argparse.ArgumentTypeError(f"expected SENTENCE:WORD=TAG, such as 17:3=B-PER, got {text}")
    return (int(sentence), int(word)), tag


def _memory_parser() -> Parser:
    parser = Parser(prog="knn-ner memory", description="Teach an evaluated tagger, or take back what it was taught.")
    parser.add_argument("eval_dir", metavar="RUN", help="the folder that eval wrote to: its eval_dir, or the run_dir")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help_: str, edits: bool = True) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=help_, description=help_)
        if edits:
            added.add_argument("--who", help=f"who does this, for the log; default: the environment variable {WHO}")
        return added

    of_file = "what to call the sentences, to remove them by; default: FILE"
    add = action("add", "remember the sentences of a labelled file")
    add.add_argument("file", metavar="FILE", help="read like a train file: a word and its tag on each line, JSON lines, ...")
    add.add_argument("--source", help=of_file)
    remove = action("remove", "forget sentences")
    remove.add_argument("ids", nargs="*", type=int, metavar="SENTENCE", help="their numbers, or")
    remove.add_argument("--source", help="what they were added by")
    relabel = action("relabel", "give words other tags")
    relabel.add_argument("tags", nargs="+", type=_correction, metavar="SENTENCE:WORD=TAG", help="such as 17:3=B-PER")
    merge = action("merge", "take over what another run of the same tagger remembers")
    merge.add_argument("other", metavar="OTHER", help="its folder")
    merge.add_argument("--source", help="what to call its sentences; default: as there")
    action("rollback", "return to a version").add_argument("version", type=int, metavar="VERSION")
    action("log", "list the edits", edits=False)
    action("verify", "read every file and compare it with its checksum", edits=False)
    return parser


def _line(edit: Edit) -> str:
    last = (edit.first_sentence or 0) + edit.sentences - 1
    parts = [
        f"{edit.version:>4}  {edit.when}  {edit.action:<8}",
        f"to version {edit.target}" if edit.target is not None else f"{edit.sentences} sentences, {edit.rows} words",
        f"from {edit.source}" if edit.source else "",
        f"numbers {edit.first_sentence} to {last}" if edit.first_sentence is not None else "",
        f"by {edit.who}" if edit.who else "",
    ]
    return "  ".join(filter(None, parts))


def edit_memory(argv: Sequence[str]) -> None:
    """Edit what a tagger remembers, and print the edit; or print all edits, or whether all files are whole.

    Args:
        argv: words of the command line after the command.

    Raises:
        InputError: see `Memory`.
    """
    options = vars(_memory_parser().parse_args(argv))
    folder, action = Path(options.pop("eval_dir")).expanduser(), options.pop("action")
    check_finished(folder, "evaluation")
    if action == "add":
        file = options.pop("file")
        sentences = read_splits({"train": Path(file).expanduser()})[0]["train"].sentences
        return print(_line(load(folder).memory.add(sentences, options["source"] or file, options["who"])))
    memory = Memory(folder / "datastore")
    if action == "log":
        return print("\n".join(map(_line, memory.log())) or "no edits")
    if action == "verify":
        return print(f"{memory.verify()} rows, version {len(memory.log())}: every file is whole")
    if action == "relabel":
        options["tags"] = dict(options["tags"])
    if action == "merge":
        options["run"] = options.pop("other")
    if action == "remove":
        options["ids"] = options["ids"] or None
    print(_line(getattr(memory, action)(**options)))
