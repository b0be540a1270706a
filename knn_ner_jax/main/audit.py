"""`audit`: words of train and dev that may have a wrong tag, on a page and as lines to correct; and corrections applied."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from knn_ner_jax.cli import Parser
from knn_ner_jax.config import Config
from knn_ner_jax.data.corpus import read_corpus, read_splits
from knn_ner_jax.data.tag_schemes import Sentence
from knn_ner_jax.evaluation import audit
from knn_ner_jax.evaluation.audit import SPLITS, Correction, Ranking, Suspect
from knn_ner_jax.io import InputError, check_finished, check_is_new, write_text
from knn_ner_jax.knn.examples import read_datastore_corpus
from knn_ner_jax.knn_tagger import load
from knn_ner_jax.report.document import Fact, Page, Section, Table, footer, has_page_extra, write_html
from knn_ner_jax.run_dir import environment, load_evaluation

LINES, PAGE = "audit.jsonl", "audit.html"
SHOWN = 3  # neighbours in a row of the page


def _in_context(before: Sequence[str], word: str, after: Sequence[str]) -> str:
    return " ".join([*before, f"[{word}]", *after])


def _row(number: int, suspect: Suspect) -> tuple[str, ...]:
    words, place = suspect.words, suspect.position
    context = _in_context(words[max(0, place - 5) : place], suspect.word, words[place + 1 : place + 6])
    nearest = suspect.neighbours[:SHOWN]
    shown = (f"{near['tag']}: {_in_context(near['before'], near['word'], near['after'])}" for near in nearest)
    cells = str(number), f"{suspect.sentence}:{place}", context, suspect.tag, suspect.suggested, " / ".join(shown)
    return *cells, f"{suspect.score:.2f}"


def page(name: str, rankings: dict[str, Ranking]) -> Page:
    """Return the page of an audit.

    Args:
        name: of the run.
        rankings: by split.
    """
    header = ("", "sentence:word", "word", "tag", "suggested", f"the {SHOWN} nearest words of other sentences", "score")
    sections, facts = [], []
    for split, ranking in rankings.items():
        rows = [_row(number, suspect) for number, suspect in enumerate(ranking.suspects, start=1)]
        tables = (Table.of(header, rows, 6, f"{len(rows)} of {ranking.num_disagreeing} words"),) if rows else ()
        sections.append(Section(split, (), tables))
        note = f"of {ranking.num_words}; {len(rows)} are shown"
        facts.append(Fact(f"words of {split} that neighbours disagree with", str(ranking.num_disagreeing), note))
    summary = (
        "Words whose nearest words in other sentences have another tag, those first that they disagree with most. "
        f"To give words other tags, fill in correction in {LINES} and apply it.",
    )
    return Page(f"Audit of {name}", summary, tuple(facts), tuple(sections), None, footer(environment()))


def _sentences(config: Config, split: str) -> dict[int, Sentence]:
    """Read a split as the run has it; `train` is what the datastore was built from."""
    if split == "train" and config.datastore.corpus is not None:
        return dict(enumerate(read_datastore_corpus(config).sentences))
    return dict(enumerate(read_corpus(config.data).splits[split].sentences))


def write_audit(folder: Path, config: Config, output: Path, splits: Sequence[str], most: int) -> None:
    """Rank the words of a run and write `audit.jsonl` and `audit.html`.

    Args:
        folder: where the evaluation is.
        config: of the run; train is read from the datastore, dev from `data.dir`.
        output: the folder to write to.
        splits: `train`, `dev`, or both.
        most: words of each split to list.

    Raises:
        InputError: there is an `audit.jsonl`, which may have corrections, or see `audit.rank`.
    """
    if most < 1:
        raise InputError(f"--words: expected at least 1, got {most}")
    if (output / LINES).exists():
        raise InputError(f"{output / LINES}: expected none yet, found one, which may have corrections; --output FOLDER")
    others = {split: _sentences(config, split) for split in splits if split != "train"}
    tagger = load(folder)
    stored = {"train": audit.stored_sentences(tagger.stored, tagger.label_set.names)} if "train" in splits else {}
    rankings = {split: audit.rank(tagger, split, each, most) for split, each in (stored | others).items()}
    output.mkdir(parents=True, exist_ok=True)
    if has_page_extra():
        write_html(output / PAGE, page(folder.resolve().name, rankings))
    suspects = [suspect for ranking in rankings.values() for suspect in ranking.suspects]
    write_text(output / LINES, audit.to_lines(suspects))
    for split, ranking in rankings.items():
        counts = f"neighbours disagree with {ranking.num_disagreeing}; {len(ranking.suspects)} are listed"
        print(f"{split}: {ranking.num_words} words, {counts}")
    print(f"wrote {output / LINES}" + (f" and {output / PAGE}" if has_page_extra() else "; a page needs the extra report"))


def write_columns(path: Path, sentences: Iterable[Sentence]) -> None:
    """Write a column file."""
    blocks = ("".join(f"{word}\t{tag}\n" for word, tag in zip(each.words, each.tags, strict=True)) for each in sentences)
    write_text(path, "\n".join(blocks))


@contextmanager
def writing_corpus(config: Config, corrections: Sequence[Correction], output: Path) -> Iterator[None]:
    """Write the corpus of a run with corrections, as column files; all of them, or none where what is done within fails.

    Args:
        config: of the run.
        corrections: of train and dev.
        output: a folder that does not exist, or is empty.

    Raises:
        InputError: the folder has files, corrections do not fit, or a word is none that a column file can hold.
    """
    check_is_new(output)
    whole, counts = {}, []
    for split in ("train", "dev", "test"):
        before = _sentences(config, split)
        after = audit.correct(before, [each for each in corrections if each.split == split])
        whole[split] = tuple((before | after).values())
        counts.append(f"{len(audit.changed_words(before, after))} words of {split}")
    target = output.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{target.name}-", dir=target.parent) as trial:
        paths = {split: Path(trial) / f"{split}.conll" for split in whole}
        for split, path in paths.items():
            write_columns(path, whole[split])
        try:
            read = read_splits(paths)[0]
            others = [name for name in read if [s[:2] for s in read[name].sentences] != [s[:2] for s in whole[name]]]
        except InputError:
            others = list(whole)
        if others:
            where = ", ".join(others)
            raise InputError(f"{where}: expected words that column files hold, found others; correct the file itself")
        yield
        target.mkdir(exist_ok=True)
        for path in paths.values():  # not the folder itself, which may be the current one
            shutil.move(path, target)
    print(f"wrote {output}: other tags than before have {', '.join(counts)}")


def apply(folder: Path, config: Config, path: Path, output: Path | None, edits_memory: bool) -> None:
    """Apply corrections to a copy of the corpus, to what the tagger remembers, or to both; where one fails, to neither.

    Args:
        folder: where the evaluation is.
        config: of the run.
        path: the corrected file.
        output: the folder of the corrected corpus; None: none is written.
        edits_memory: whether words of train are relabelled in the datastore.

    Raises:
        InputError: nothing to apply, or corrections that do not fit.
    """
    from knn_ner_jax.knn.memory import Memory

    if output is None and not edits_memory:
        raise InputError("--apply: expected --output FOLDER, for a corrected corpus, or --memory, or both")
    corrections, unchanged = audit.read_corrections(path)
    if not corrections:
        raise InputError(f"{path}: expected lines with a correction, found none among {unchanged}")
    print(f"{path}: {len(corrections)} corrections, {unchanged} lines without one")
    tags = {}
    if edits_memory:
        tagger = load(folder)
        stored = audit.stored_sentences(tagger.stored, tagger.label_set.names)
        tags = audit.changed_words(stored, audit.correct(stored, [each for each in corrections if each.split == "train"]))
        if not tags:
            raise InputError(
                f"--memory: {path}: expected corrections of train, found none: the datastore has no words of dev"
            )
    with nullcontext() if output is None else writing_corpus(config, corrections, output):
        if edits_memory:
            edit = Memory(folder / "datastore").relabel(tags)
            others = sum(each.split != "train" for each in corrections)
            done = f"version {edit.version}, {edit.rows} words labelled anew"
            print(f"datastore: {done}; {others} corrections of dev do not apply")


def main(argv: Sequence[str]) -> None:
    """Run the command `audit`.

    Args:
        argv: words of the command line after the command.

    Raises:
        InputError: see `write_audit` and `apply`.
    """
    parser = Parser(
        prog="knn-ner audit", description="Rank the words of train and dev whose neighbours disagree with their tag."
    )
    parser.add_argument(
        "eval_dir", metavar="RUN", type=Path, help="the folder that eval wrote to: its eval_dir, or the run_dir"
    )
    parser.add_argument("--words", type=int, default=500, help="words of each split to list (default: 500)")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: both; train needs no corpus")
    parser.add_argument("--corpus", help="the folder of the corpus, where it is not where the run says")
    parser.add_argument("--apply", type=Path, metavar="FILE", help="apply the corrections in FILE, a corrected audit.jsonl")
    parser.add_argument(
        "--memory", action="store_true", help="with --apply: give words of train their tags in the datastore"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="the folder to write to: audit.jsonl and audit.html (default: RUN/audit); with --apply the corpus",
    )
    options = parser.parse_args(argv)
    folder = options.eval_dir.expanduser()
    check_finished(folder, "evaluation")
    config = load_evaluation(folder).config
    if options.corpus is not None:
        config = replace(config, data=replace(config.data, dir=options.corpus))
    if options.apply is not None:
        apply(folder, config, options.apply, options.output, options.memory)
    elif options.memory:
        raise InputError("--memory: expected --apply FILE, got none")
    else:
        write_audit(folder, config, options.output or folder / "audit", options.splits, options.words)
