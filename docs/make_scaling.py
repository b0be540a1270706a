"""Write the tables of docs/scaling.md: what chips hold and take, and what a datastore of a billion keys would.

    python -m docs.make_scaling

Sizes are arithmetic. Times follow from what compilers make of the programs (`tools.chips`), those of a billion keys from the
rates that `benchmarks.run` has measured.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import read_results
from benchmarks.tables import MeasuredPart, ours, parts_of
from knn_ner_jax.cli import read_config
from tools.chips import page as chips_page
from tools.chips.programs import BORDER_SHARE
from tools.chips.target import Target
from tools.pages import RESULTS, ROOT, markdown, replace_region

PAGE = ROOT / "docs" / "scaling.md"
ROWS, CHIPS, DIM = 1_000_000_000, 64, 768
QUERIES = 1000
LABELS = 9  # of CoNLL 2003, for `all`
TOKENS_PER_WORD = 1.3
FLOAT, INT = 4, 4  # bytes
COLUMNS = 3 * INT + FLOAT  # of a row beside its key: label, sentence, word, squared norm
CANDIDATE = FLOAT + 2 * INT  # similarity, row id, label
GIGABYTE = 1e9


MACHINES = ("v5e-8", "v5p-8", "v6e-8", "h200-1")
MEGABYTE, SECOND = 1e6, 1e3  # ms
WORDS = 1_000_000
LABELLING = "tag-base-64x128-k64-2000000-border"
JOBS = {
    "training, one epoch, BERT-base, rows of 128 tokens": "train_step-base-64x128",
    "the same, rows of 512": "train_step-base-16x512",
    "the same, BERT-large, rows of 512": "train_step-large-8x512",
    "building the datastore, BERT-base": "batch_keys-base-64x128",
    "labels, BERT-base, k 64, 2,000,000 rows, knn_weight 0.3 / 0.7": LABELLING,
}
TRAINING = {"base": "train_step-base-64x128", "large": "train_step-large-32x128"}  # of the recipes
# Words or characters of the training splits of the paper's corpora, and tokens of each.
CORPORA = {
    "conll": ("CoNLL 2003", 203_621, TOKENS_PER_WORD),
    "onto_zh": ("OntoNotes 4.0", 491_903, 1.0),
    "onto": ("OntoNotes 5.0", 1_088_503, TOKENS_PER_WORD),
    "msra": ("MSRA", 2_169_879, 1.0),
    "weibo": ("Weibo", 73_778, 1.0),
    "resume": ("Resume", 124_099, 1.0),
}

Results = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


def tokens_a_call(program: str, target: Target) -> int:
    """Return the tokens of a batch of a program, of all chips.

    >>> tokens_a_call("train_step-base-16x512", Target.parse("v5e-8"))
    65536
    """
    rows, _, length = program.split("-")[2].partition("x")
    return int(rows) * int(length) * target.chips


def hours(tokens: float, program: str, target: Target, results: Results) -> list[float]:
    """Return the estimated hours that a program takes for so many tokens, for each weight; nothing without a result."""
    compiled = [one for one in results.get((str(target), program), []) if "estimates" in one]
    if not compiled:
        return []
    calls = tokens / tokens_a_call(program, target)
    return [calls * one["ms"] / SECOND / 3600 for one in compiled[-1]["estimates"].values()]


def most_rows(target: Target, results: Results) -> int:
    """Estimate how many rows of BERT-base fit beside parameters and temporaries; those of a v5e where none are known."""
    known = str(target) if (str(target), LABELLING) in results else "v5e-8"
    one = results[(known, LABELLING)][-1]
    row, chips = (DIM * FLOAT + COLUMNS), Target.parse(known).chips
    store = int(LABELLING.split("-")[4]) * (1 + BORDER_SHARE) * row / chips
    others = (one["arguments_mb"] + one["temporary_mb"]) * MEGABYTE - store
    return int((target.chip.hbm - others) * target.chips / (row * (1 + BORDER_SHARE)))


def _times(hours_: Sequence[float]) -> str:
    return " / ".join(f"{3600 * one:,.1f} s" if one < 1 / 60 else f"{60 * one:,.0f} min" for one in hours_)


def _compiled_for(programs: Sequence[str], results: Results) -> list[Target]:
    targets = map(Target.parse, MACHINES)
    return [target for target in targets if any(hours(1, program, target, results) for program in programs)]


def compilers_lines(results: Results) -> list[str]:
    """Name the compilers that the times come from, of each machine that was compiled for."""
    programs = {*JOBS.values(), *TRAINING.values()}
    lines = []
    for target in _compiled_for(sorted(programs), results):
        known = ((program, all_[-1]) for (name, program), all_ in results.items() if name == str(target))
        newest = [one for program, one in known if program in programs and "estimates" in one]
        # Some results say no more than the version of jax.
        told = [one.get("compilers") or {"jax": one["jax"], "its compiler": "not recorded"} for one in newest]
        names = [", ".join(f"{package} {version}" for package, version in one.items()) for one in told]
        lines.append(f"* {target}: {'; '.join(dict.fromkeys(names))}")
    return [*lines, ""]


def rows_table(results: Results) -> list[str]:
    """Format how many rows each machine holds."""
    rows = [f"{most_rows(Target.parse(name), results) / 1e6:,.0f} million" for name in MACHINES]
    label = "rows of 768 x float32, a quarter of them in the border, too, *estimated*"
    return markdown(["", *MACHINES], [[label, *rows]])


def jobs_table(results: Results) -> list[str]:
    """Format the time for a million words on the machines that were compiled for."""
    machines = _compiled_for(list(JOBS.values()), results)
    rows = [
        [f"{job}, *estimated*", *(_times(hours(WORDS * TOKENS_PER_WORD, program, one, results)) for one in machines)]
        for job, program in JOBS.items()
    ]
    return markdown([f"{WORDS:,} words", *map(str, machines)], rows)


def recipes_table(results: Results) -> list[str]:
    """Format the time of training of the paper's recipes."""
    rows, machines = [], _compiled_for(list(TRAINING.values()), results)
    for path in sorted((ROOT / "configs" / "paper").glob("*.yaml")):
        family = next(name for name in ("conll", "msra", "weibo", "resume", "onto") if name in path.stem)
        is_chinese = family == "onto" and ("zh" in path.stem or "chinesebert" in path.stem)
        corpus, words, tokens_per_word = CORPORA["onto_zh" if is_chinese else family]
        epochs, program = read_config(path).train.epochs, TRAINING["large" if "large" in path.stem else "base"]
        times = [_times(hours(epochs * words * tokens_per_word, program, one, results)) for one in machines]
        rows.append([f"`{path.stem}`", corpus, str(epochs), *times])
    return markdown(["recipe", "corpus", "epochs", *(f"{one}, *estimated*" for one in machines)], rows)


def rows_per_chip(rows: int = ROWS, chips: int = CHIPS) -> int:
    """Return the number of rows that a chip holds."""
    return -(-rows // chips)


def memory_table() -> list[str]:
    """Format the memory of a chip by the form of the keys, in GB of 10^9 bytes."""
    forms = {
        f"{DIM} x float32": DIM * FLOAT,
        f"{DIM} x bfloat16 (compression)": DIM * 2,
        "whitened to 64 x float32": 64 * FLOAT,
    }
    rows = [
        [name, f"{size:,} B", f"{COLUMNS} B", f"{rows_per_chip() * (size + COLUMNS) / GIGABYTE:.1f} GB"]
        for name, size in forms.items()
    ]
    return markdown(["keys", "key", "squared norm, label, sentence and word id", "on each chip"], rows)


def traffic_table() -> list[str]:
    """Format the bytes that travel for one query: the query to every chip, every chip's candidates to every other."""
    rows = [[f"k = {k}", f"{DIM * FLOAT:,} B", f"{CHIPS * k * CANDIDATE:,} B"] for k in (8, 64, 1024)]
    rows.append([f"k = all, {LABELS} labels", f"{DIM * FLOAT:,} B", f"{CHIPS * (LABELS + 1) * FLOAT:,} B"])
    return markdown(["", "query, received by each chip", f"candidates of {CHIPS} chips, received by each"], rows)


def seconds_per_search(part: MeasuredPart, seconds: Sequence[float]) -> float:
    """Return the seconds of `QUERIES` queries over a chip's share of the rows, at the rate of a measured search.

    Args:
        part: the search; rows, queries and dim of it are counted.
        seconds: of its repeats.
    """
    options = part["options"]
    comparisons = options["rows"] * options["queries"] * options["dim"]
    return statistics.median(seconds) * QUERIES * rows_per_chip() * DIM / comparisons


def rates_table(results: Mapping[str, Any]) -> list[str]:
    """Format the times of one kind of chip, by its largest measured search and its measured encoder."""
    searches = parts_of(results, "search")
    if not searches:
        return []
    part = max(searches, key=lambda one: one["options"]["rows"])
    options = part["options"]
    rows = [
        [name, f"{seconds_per_search(part, result['seconds']):,.2f} s"]
        for name, result in ours(part).items()
        if not name.startswith("product")
    ]
    for tagging in parts_of(results, "tagging"):
        rate = ours(tagging)["tokens"] / statistics.median(ours(tagging)["forward"])
        hours = ROWS * TOKENS_PER_WORD / rate / CHIPS / 3600
        rows.append(["encoding all keys once, MiniLM-L6", f"{hours:,.1f} h"])
    lines = [
        f"Chips as fast as one **{results['hardware']['name']}**, extrapolated from {options['queries']} queries over "
        f"{options['rows']:,} x {options['dim']} keys:",
        "",
    ]
    return lines + markdown([f"{QUERIES:,} words, every one looked up", "time"], rows)


def write_page(text: str) -> str:
    """Return the text of docs/scaling.md with its tables."""
    compiled = chips_page.read_results()
    lines = [*compilers_lines(compiled), *rows_table(compiled), *jobs_table(compiled), *recipes_table(compiled)]
    text = replace_region(text, "chips", ["", *lines])
    tables = [line for results in read_results(RESULTS / "speed") for line in rates_table(results)]
    return replace_region(text, "billion", ["", *memory_table(), *traffic_table(), *tables])


def main() -> None:
    """Write the page."""
    PAGE.write_text(write_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
