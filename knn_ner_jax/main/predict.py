"""What is done with an evaluated run: `predict` tags text or tokens with it, `memory` edits what it remembers."""

import argparse
import io
import itertools
import json
import os
import queue
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from knn_ner_jax.cli import Parser
from knn_ner_jax.data.corpus import read_splits
from knn_ner_jax.data.texts import STANDARD_INPUT, WITHOUT_A_WORD, Document, TextReader, check_is_file, format_of
from knn_ner_jax.data.words import are_segmented
from knn_ner_jax.entities import TEXTS, WORDS, TaggedText
from knn_ner_jax.io import InputError, check_finished
from knn_ner_jax.knn.memory import WHO, Memory
from knn_ner_jax.knn.storage import Edit
from knn_ner_jax.knn_tagger import load
from knn_ner_jax.report.evaluation import print_entities
from knn_ner_jax.run_dir import load_evaluation

PATIENCE = 0.1  # seconds that texts of a pipe wait for others to be tagged with
SKIPPED_SOME, PIPE_CLOSED = 3, 128 + signal.SIGPIPE  # exit statuses; the others are those of every command


def gather(
    documents: Iterable[Document], patience: float | None = None, size: int = TEXTS, words: int = WORDS
) -> Iterator[list[Document]]:
    """Yield texts in lists, which a thread reads ahead.

    Args:
        documents: read by the thread.
        patience: seconds after the first of a list in which others may follow it; None: until the list is full.
        size: most texts of a list.
        words: number of words after which no more texts follow.

    Raises:
        Whatever reading raises, once what was read before has been yielded.
    """
    waiting: queue.Queue[Document | BaseException | None] = queue.Queue(size)

    def read() -> None:
        end: BaseException | None = None
        try:
            for document in documents:
                waiting.put(document)
        except BaseException as error:
            end = error
        waiting.put(end)

    threading.Thread(target=read, daemon=True).start()  # which may wait for a pipe for ever
    item = waiting.get()
    while isinstance(item, Document):
        chunk, num_words, until = [item], len(item.words), time.monotonic() + (patience or 0)
        while len(chunk) < size and num_words < words:
            try:
                item = waiting.get(timeout=None if patience is None else max(0, until - time.monotonic()))
            except queue.Empty:
                break
            if not isinstance(item, Document):
                break
            chunk.append(item)
            num_words += len(item.words)
        yield chunk
        item = waiting.get() if isinstance(item, Document) else item
    if item is not None:
        raise item


def _text(tagged: Sequence[TaggedText]) -> str:
    console = Console(soft_wrap=True, emoji=False)
    with console.capture() as capture:
        for each in tagged:
            print_entities(console, each)
    return capture.get()


def _jsonl(tagged: Sequence[TaggedText]) -> str:
    return "".join(json.dumps(each.to_dict(), ensure_ascii=False) + "\n" for each in tagged)


def _conll(tagged: Sequence[TaggedText]) -> str:
    lines = ([f"{word}\t{label}" for word, label in zip(each.words, each.labels, strict=True)] for each in tagged)
    return "".join("\n".join(of_text) + "\n\n" for of_text in lines)


FORMATS = {"text": _text, "jsonl": _jsonl, "conll": _conll}
NEIGHBOURS = {"text": 3, "jsonl": 0, "conll": 0}  # for each entity, where nobody says how many


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let ctrl-C wait for the end of what is done here; the second one does not wait."""
    waiting = False

    def wait(number: int, frame: object) -> None:
        nonlocal waiting
        if waiting:
            raise KeyboardInterrupt
        waiting = True

    before = signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:
        raise KeyboardInterrupt


def _write(tagged: Iterable[Sequence[TaggedText]], output: str) -> int:
    """Write texts, whole lines only, and return their number; end the process where nobody wants or reads them."""
    number, status = 0, 0
    try:
        for chunk in tagged:
            with _uninterrupted():
                sys.stdout.write(FORMATS[output](chunk))
                sys.stdout.flush()
                number += len(chunk)
        return number
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BrokenPipeError:
        status = PIPE_CLOSED
    why = "stopped" if status == 128 + signal.SIGINT else "nobody reads the output any more"
    print(f"{why}: {number} sentences were written", file=sys.stderr, flush=True)
    os._exit(status)  # threads may wait for input, or for a device


def _thresholds(arguments: Sequence[str], types: Sequence[str]) -> dict[str, float]:
    """Read `SCORE`, of all types that are not named, and `TYPE=SCORE`; of several for one the last counts.

    >>> _thresholds(["0.8", "PER=0.9"], ["LOC", "PER"])
    {'LOC': 0.8, 'PER': 0.9}
    """
    by_type = {"": 0.0}
    for argument in arguments:
        type_, _, score = argument.rpartition("=")
        try:
            by_type[type_] = float(score)
        except ValueError:
            raise InputError(f"--threshold: expected a score such as 0.8, or PER=0.9, got {argument}") from None
    return dict.fromkeys(types, by_type.pop("")) | by_type


def _counting_left_out(chunks: Iterable[Sequence[TaggedText]], counts: Counter[str]) -> Iterator[Sequence[TaggedText]]:
    for chunk in chunks:
        counts.update(entity.entity_group for tagged in chunk for entity in tagged.left_out)
        yield chunk


def main(
    eval_dir: str,
    text: list[str],
    files: list[str],
    text_format: str,
    neighbours: int | None,
    no_neighbours: bool,
    threshold: Sequence[str],
    output: str,
    bad_lines: str,
    batch_size: int | None,
) -> None:
    """Tag sentences and print them.

    Args:
        eval_dir: the folder that `eval` wrote to.
        text: sentences; without any, those of `files`.
        files: of sentences; none: the standard input.
        text_format: of the sentences (see `texts.TextReader`).
        neighbours: how many to print for each entity; None: as suits the output.
        no_neighbours: print labels alone.
        threshold: entities with lower scores are left out (`_thresholds`), and counted on standard error.
        output: a key of `FORMATS`.
        bad_lines: stop at what cannot be read, or skip it.
        batch_size: windows encoded at a time; None: as in the evaluation.

    Raises:
        InputError: see `KnnTagger.tag` and `texts.TextReader`.
    """
    for option, value, least in (("--neighbours", neighbours, 0), ("--batch-size", batch_size, 1)):
        if value is not None and value < least:
            raise InputError(f"{option}: expected at least {least}, got {value}")
    if no_neighbours and neighbours:
        raise InputError(f"--neighbours: expected none beside --no-neighbours, got {neighbours}")
    if no_neighbours and threshold:
        raise InputError(f"--threshold: expected none beside --no-neighbours, which gives no scores, got {threshold[0]}")
    shown = 0 if no_neighbours else neighbours if neighbours is not None else NEIGHBOURS[output]
    if text and files:
        raise InputError(f"--input: expected no file beside sentences on the command line, got {files[0]}")
    paths = files or [STANDARD_INPUT]
    for path in paths:  # also the last one, before hours of tagging
        check_is_file(path)
    reader = TextReader(text_format, skips_bad_lines=bad_lines == "skip")
    if not text and any(format_of(path, text_format) == "conll" for path in paths):
        reader.data = load_evaluation(Path(eval_dir).expanduser()).config.data
    documents = itertools.chain.from_iterable(map(reader.read, paths))
    # All arguments, or the first text of files, before seconds of loading: what is wrong there is said at once.
    start = list(reader.arguments(text) if text else itertools.islice(documents, 1))
    documents = itertools.chain(start, () if text else documents)
    sentences = _with_words(documents, reader.skipped) if output == "conll" else documents
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What is read is UTF-8 whatever the locale, and so is what is written for programs.
        encoding = sys.stdout.encoding if output == "text" else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")
    knn_tagger = load(eval_dir)
    waits = not text and any(not Path(path).expanduser().is_file() for path in paths)
    chunks = _checked(gather(sentences, PATIENCE if waits else None), knn_tagger.model.is_segmented)
    thresholds, left_out = _thresholds(threshold, knn_tagger.label_set.types), Counter[str]()
    tagged = knn_tagger.tag_stream(chunks, shown, batch_size, not no_neighbours, thresholds)
    number = _write(_counting_left_out(tagged, left_out), output)
    if threshold:
        listed = ", ".join(f"{count} {type_}" for type_, count in sorted(left_out.items()))
        print(f"entities left out for their scores: {listed or 'none'}", file=sys.stderr)
    if reader.skipped:
        print("skipped:", ", ".join(f"{count} {reason}" for reason, count in reader.skipped.items()), file=sys.stderr)
    if reader.num_bad_lines:
        print(f"{number} sentences tagged, {reader.num_bad_lines} that cannot be read skipped", file=sys.stderr)
        sys.exit(SKIPPED_SOME)


def _with_words(documents: Iterable[Document], skipped: Counter[str]) -> Iterator[Document]:
    """Yield texts that columns can hold; count the others."""
    for document in documents:
        if document.words:
            yield document
        else:
            skipped[WITHOUT_A_WORD] += 1


def _checked(chunks: Iterable[list[Document]], is_segmented: bool) -> Iterator[list[Document]]:
    """Yield texts; warn once where they are of a script without spaces, and the tagger knows words of such a script."""
    for chunk in chunks:
        if is_segmented and any("text" in each.fields and are_segmented([each.text]) for each in chunk):
            is_segmented = False
            print(
                "text of a script without spaces is split by character, but the training corpus has words of several: give "
                "words (--tokens), segmented as there",
                file=sys.stderr,
            )
        yield chunk


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
    rollback = action("rollback", "return to a version")
    rollback.add_argument("version", type=int, metavar="VERSION")
    seen = "the newest version that you know of: refuse where another is; without it the newest that is there is rolled back"
    rollback.add_argument("--seen", type=int, metavar="VERSION", help=seen)
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
    newest = len(memory.log())
    if action == "rollback" and (seen := options.pop("seen")) not in (None, newest):
        raise InputError(f"--seen: expected {newest}, the newest version, got {seen}; see the log, so that no edit is lost")
    if action == "relabel":
        options["tags"] = dict(options["tags"])
    if action == "merge":
        options["run"] = options.pop("other")
    if action == "remove":
        options["ids"] = options["ids"] or None
    print(_line(getattr(memory, action)(**options)))
