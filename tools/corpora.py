"""Reads corpora as their authors publish them, from clones of their repositories, and compares the counts.

    python -m tools.corpora FOLDER_OF_CLONES
    python -m tools.corpora --page

The folder holds a clone of each repository of `tools/published.py` as `OWNER+NAME`; what is missing is said and left
out, and keeps the result of an earlier run. Counts go to benchmarks/results/corpora.json, and from there to the table in
docs/data.md; no text of a corpus does. `--page` writes the table alone.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import corpus, tag_schemes
from knn_ner_jax.data.corpus import DataError
from knn_ner_jax.io import InputError, write_json
from tools import pages
from tools.pages import ROOT, markdown, replace_region
from tools.published import COMMITS, CORPORA, Published

RESULTS, PAGE = pages.RESULTS / "corpora.json", ROOT / "docs" / "data.md"
SPLITS = ("train", "dev", "test")

Result = dict[str, Any]


def folder_name(name: str) -> str:
    """Return the folder that the commands make for a corpus.

    >>> folder_name("UNER English-EWT")
    'uner_english-ewt'
    """
    return name.lower().replace(",", "").replace("(", "").replace(")", "").replace(" ", "_")


def _target(published: Published, split: str) -> str:
    """Return the name of a split's file in the folder of the corpus."""
    endings = {Path(path).suffix for path in published.splits[split]}
    known = endings & {".json", ".jsonl", ".csv", ".parquet"}
    return f"{split}{min(known) if known else '.conll'}"


def as_it_lies(published: Published) -> str | None:
    """Return the folder in the repository that can be `data.dir`: it holds one file of each of the three splits."""
    paths = [Path(path) for of_split in published.splits.values() for path in of_split]
    if len(paths) != len(SPLITS) or len({path.parent for path in paths}) > 1 or "*" in str(paths):
        return None
    return str(paths[0].parent)


def commands(published: Published, found: bool) -> list[str]:
    """Return the shell commands that make `data.dir` from clones, and the one that checks it.

    Args:
        published: the corpus.
        found: whether its folder in the clone is `data.dir` as it is.
    """
    repository = published.repository.replace("/", "+")
    settings = "".join(f" --data.{name} {_argument(value)}" for name, value in published.settings.items())
    if found:
        return [f"knn-ner check {repository}/{as_it_lies(published)}".removesuffix("/.") + settings]
    folder = folder_name(published.name)
    lines = [f"mkdir -p {folder}"]
    for split, paths in published.splits.items():
        target = f"{folder}/{_target(published, split)}"
        if len(paths) == 1 and "*" not in paths[0]:
            lines.append(f"cp {repository}/{paths[0]} {target}")
        else:
            sources = " ".join(f"{repository}/{path}" for path in paths)
            lines.append(f'for file in {sources}; do cat "$file"; echo; done > {target}')
    return [*lines, f"knn-ner check {folder}{settings}"]


def _argument(value: Any) -> str:
    return value if isinstance(value, str) else f"'{json.dumps(value)}'"


def copy_splits(published: Published, clone: Path, folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Copy the files of the splits as the commands do.

    Returns:
        The file of each split, and the splits whose files the clone lacks.
    """
    copies, missing = {}, []
    for split, paths in published.splits.items():
        files = [file for path in paths for file in sorted(clone.glob(path))]
        if not files or any(not file.stat().st_size for file in files):
            missing.append(split)
            continue
        copies[split] = folder / _target(published, split)
        if len(files) == 1:
            shutil.copy(files[0], copies[split])
        else:
            copies[split].write_bytes(b"".join(file.read_bytes() + b"\n" for file in files))
    return copies, missing


def is_found(published: Published, clone: Path) -> bool:
    """Return whether the folder of the files in the clone can be `data.dir` as it is."""
    folder = as_it_lies(published)
    if folder is None:
        return False
    try:
        splits = corpus.find_splits(clone / folder)
    except InputError:
        return False
    return {split: (str(path.relative_to(clone)),) for split, path in splits.items()} == dict(published.splits)


def read(published: Published, clone: Path) -> Result:
    """Read a corpus; what cannot be read is counted.

    Args:
        published: the corpus.
        clone: of its repository.
    """
    data = DataConfig("", **published.settings)
    with tempfile.TemporaryDirectory() as name:
        paths, missing = copy_splits(published, clone, Path(name))
        started = time.perf_counter()
        files = corpus.parse_all(paths, data)
        scheme: str = data.scheme
        if scheme == "auto":
            scheme = tag_schemes.detect_scheme([tags for raw in files.values() for tags in raw.tags])
        splits = {}
        for split, raw in files.items():
            of_split = corpus.to_split(raw, scheme)
            tags = Counter(tag[0] for sentence in of_split.sentences for tag in sentence.tags)
            splits[split] = {
                "sentences": len(of_split.sentences),
                "words": of_split.num_words,
                "entities": tags["B"],
                "bad_lines": len(raw.bad_lines),
                "illegal_tags": len(of_split.illegal_tags),
                "ragged_lines": len(of_split.ragged_lines),
                "skipped": dict(sorted(raw.skipped.items())),
                "other_tag_columns": list(raw.other_tags),
                "sha256": raw.sha256,
            }
    columns = next((raw.columns for raw in files.values() if raw.columns), None)
    return {
        "commit": COMMITS[published.repository],
        "found_as_it_lies": is_found(published, clone),
        "missing": missing,
        "scheme": scheme,
        "columns": columns,
        "splits": splits,
        "seconds": round(time.perf_counter() - started, 1),
    }


def disagreements(published: Published, result: Result) -> list[str]:
    """Return the counts that are not the published ones, each as `split counts: read, published`."""
    return [
        f"{split} {what}: {result['splits'][split][what]:,}, published {count:,}"
        for what, of_splits in (("sentences", published.sentences), ("entities", published.entities))
        for split, count in of_splits.items()
        if split in result["splits"] and result["splits"][split][what] != count
    ]


def _counts(result: Result, what: str, known: Mapping[str, int]) -> str:
    cells = []
    for split in SPLITS:
        of_split = result["splits"].get(split)
        published = known.get(split)
        cell = f"{of_split[what]:,}" if of_split else "-"
        if of_split and published is not None:
            cell = f"**{cell}**" if of_split[what] == published else f"{cell} (not {published:,})"
        cells.append(cell)
    return " / ".join(cells)


def _remarks(published: Published, result: Result) -> str:
    splits = result["splits"].values()
    totals = {name: sum(split[name] for split in splits) for name in ("bad_lines", "illegal_tags", "ragged_lines")}
    counted = [f"{name.replace('_', ' ')}: {count:,}" for name, count in totals.items() if count]
    lacking = [f"{', '.join(result['missing'])} not at hand"] if result["missing"] else []
    source = [f"published: {published.source}"] if published.source else []
    return "; ".join([*source, *counted, *lacking, *([published.note] if published.note else [])])


def page(results: Mapping[str, Result]) -> list[str]:
    """Return the table of the corpora that were read, and the commands."""
    read_ones = [published for published in CORPORA if published.name in results]
    rows = [
        [
            f"[{published.name}](https://github.com/{published.repository})",
            published.language,
            published.layout,
            results[published.name]["scheme"],
            _counts(results[published.name], "sentences", published.sentences),
            _counts(results[published.name], "entities", published.entities),
            _remarks(published, results[published.name]),
        ]
        for published in read_ones
    ]
    header = ["corpus", "language", "layout", "scheme", "sentences", "entities", "remarks"]
    lines = ["", *markdown(header, rows), "The commands, in the folder that holds the clones as `OWNER+NAME`:", "", "```"]
    for published in read_ones:
        lines += [f"# {published.name}", *commands(published, results[published.name]["found_as_it_lies"]), ""]
    return [*lines[:-1], "```", ""]


def load() -> dict[str, Result]:
    """Return the results that are committed, by name of the corpus."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def write_page(results: Mapping[str, Result]) -> None:
    """Write the table into docs/data.md."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replace_region(text, "corpora", page(results)), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the corpora, write the counts and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clones", type=Path, nargs="?", help="folder with a clone of each repository, as OWNER+NAME")
    parser.add_argument("--only", default="", help="only corpora with this in their name")
    parser.add_argument("--page", action="store_true", help="write the page from the results that are there")
    arguments = parser.parse_args(argv)
    if (arguments.clones is None) != arguments.page:
        parser.error("give FOLDER_OF_CLONES or --page")
    results = load()
    for published in CORPORA if arguments.clones else ():
        clone = arguments.clones / published.repository.replace("/", "+")
        if arguments.only not in published.name:
            continue
        if not clone.is_dir():
            print(f"{published.name}: no clone at {clone}")
            continue
        try:
            result = read(published, clone)
        except DataError as error:
            print(f"{published.name}: {error}", file=sys.stderr)
            continue
        results[published.name] = result
        write_json(RESULTS, {row.name: results[row.name] for row in CORPORA if row.name in results})
        differing = disagreements(published, result)
        splits = {
            name: (split["sentences"], split["entities"], split["bad_lines"]) for name, split in result["splits"].items()
        }
        print(f"{published.name}: {result['scheme']} {splits} {result['seconds']} s {'; '.join(differing)}", flush=True)
    write_page(results)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
