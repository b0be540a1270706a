"""What is measured, at which sizes, and the command line that CPU and accelerator share."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.bench import REPEATS, RESULTS, Part, Results
from benchmarks.reading import failures
from knn_ner_jax.knn.combine import MARGIN_SETTLES_BELOW

WEIGHTS = (0.24, 0.41, 0.7)


@dataclass(frozen=True)
class Sizes:
    """How large the work is.

    Attributes:
        repeats: timed calls of everything.
        searches: rows and queries of each full search.
        whole_queries: the fewest of these queries with `--whole`.
        dim: width of the random keys.
        k: neighbours of the full searches.
        memory_rows: numbers of rows at which the peak memory is taken.
        memory_queries: looked up there.
        memory_k: neighbours there.
        build_sentences: that a datastore is built of.
        encoder: one of `building.ENCODERS`.
        dtype: of its arithmetic.
        test_sentences: of a run's test split that are tagged.
        compression_queries: words of them looked up in keys of both types.
    """

    repeats: int = REPEATS
    searches: tuple[tuple[int, int], ...] = ((200_000, 256), (2_000_000, 64))
    whole_queries: int = 256
    dim: int = 768
    k: tuple[int | str, ...] = (8, 64, 1024, "all")
    memory_rows: tuple[int, ...] = (100_000, 500_000, 2_000_000)
    memory_queries: int = 256
    memory_k: int = 64
    build_sentences: int = 384
    encoder: str = "MiniLM-L6"
    dtype: str = "float32"
    test_sentences: int = 200
    compression_queries: int = 1024


TINY = Sizes(
    repeats=1,
    searches=((600, 4),),
    whole_queries=6,
    dim=16,
    k=(2, "all"),
    memory_rows=(300, 600),
    memory_queries=4,
    memory_k=2,
    build_sentences=8,
    encoder="tiny",
    test_sentences=4,
    compression_queries=8,
)


def make_parts(
    sizes: Sizes,
    search_peers: tuple[str, ...],
    tagging_peers: tuple[str, ...],
    bfloat16: bool,
    arguments: argparse.Namespace,
) -> list[Part]:
    """Return every part that was requested, those that need an evaluated run only where there is one."""
    common: dict[str, Any] = {"repeats": sizes.repeats}
    parts = [Part("tagging", "tagging", tagging_peers, common)] if tagging_peers else []
    search = common | {"dim": sizes.dim, "k": sizes.k, "bfloat16": bfloat16}
    for rows, queries in sizes.searches:
        queries = max(queries, sizes.whole_queries) if arguments.whole else queries
        parts.append(Part(f"search {rows}", "searching", search_peers, search | {"rows": rows, "queries": queries}))
    memory = {"repeats": 1, "dim": sizes.dim, "queries": sizes.memory_queries, "k": sizes.memory_k}
    parts += [Part(f"memory {rows}", "searching", ("peak",), memory | {"rows": rows}) for rows in sizes.memory_rows]
    build = {"sentences": sizes.build_sentences, "encoder": sizes.encoder, "dtype": sizes.dtype}
    parts.append(Part("build", "building", ("ours",), common | build))
    if arguments.run is not None:
        of_run = common | {"run": arguments.run, "sentences": sizes.test_sentences}
        parts.append(Part("evaluation", "evaluating", ("tagging",), of_run | {"weights": WEIGHTS}))
        finite = [value for value in sizes.k if value != "all"]
        keys = {"k": finite, "queries": sizes.compression_queries}
        parts.append(Part("compression", "evaluating", ("compression",), of_run | keys))
        if arguments.whole:
            decided = tuple(weight for weight in WEIGHTS if weight < MARGIN_SETTLES_BELOW)
            whole = {"sentences": None, "weights": decided, "time_full": False}
            parts.append(Part("evaluation of all", "evaluating", ("tagging",), of_run | whole))
    return _named(parts, arguments.only)


def parse_arguments(description: str | None) -> argparse.Namespace:
    """Read `run`, `whole`, `only`, `tiny` and `folder` from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="a folder that train.py and eval.py have filled; its test split is tagged")
    parser.add_argument(
        "--whole", action="store_true", help="also tag the whole test split, and as many queries over all numbers of rows"
    )
    parser.add_argument("--only", nargs="+", help="parts to measure, by name; what the file has of others is kept")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that everything runs")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the results are written")
    return parser.parse_args()


def _named(parts: list[Part], names: list[str] | None) -> list[Part]:
    if names is None:
        return parts
    known = [part.name for part in parts]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"bench: --only: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    return [part for part in parts if part.name in names]


def not_measured(arguments: argparse.Namespace) -> dict[str, str]:
    """Return what these arguments leave out, and why."""
    left_out = {} if arguments.run else {"evaluation, compression": "no trained run was given (--run)"}
    return left_out | ({"tagging": "its sizes are fixed (--tiny)"} if arguments.tiny else {})


def finish(results: Results) -> None:
    """Print the results side by side; end with exit status 1 where a peer broke."""
    print("\n".join(tables.page(results)))
    if failures(results):
        sys.exit("\n".join(["failed:", *failures(results)]))
