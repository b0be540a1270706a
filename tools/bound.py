"""Would a bound in few dimensions make the exact search faster? Shares of rows and times on the keys of a run.

    python -m tools.bound RUN

RUN is a folder that train.py and eval.py have filled. In the basis of the mean key and the principal components of the rest,
a vector is its first d coordinates and, as one more, the length of the rest: the product of two such vectors is no less than
that of the vectors themselves (Cauchy and Schwarz). So the candidates with the m largest bounds are scored in full, and
where the k-th of them exceeds the last bound, no other row can be among the k nearest; rounding, which would prove a few
less, is not counted. Queries are keys of a twentieth of the sentences, which are no rows. Results:
benchmarks/results/bound.json and bound.md.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evaluating import open_run
from benchmarks.measuring import seconds
from benchmarks.run import describe_hardware
from knn_ner_jax.io import tune_memory, write_json
from knn_ner_jax.knn import search
from knn_ner_jax.knn.similarity import products, squared_norms
from knn_ner_jax.knn.topk import Rows
from knn_ner_jax.run_dir import environment
from tools.pages import RESULTS, markdown

QUERIES, REPEATS, K = 256, 5, 64
DIMS, CANDIDATES = (16, 32, 64, 128), (512, 2048)
NEIGHBOURS = (8, 64, 512)


def split_rows(keys: np.ndarray, sentence_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return unit queries, of a twentieth of the sentences, and the unit keys of the others."""
    rng = np.random.default_rng(0)
    units = keys / np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-30)
    last = int(sentence_ids.max())
    is_query = np.isin(sentence_ids, rng.choice(last, max(last // 20, 1), replace=False))
    return units[rng.permutation(np.flatnonzero(is_query))[:QUERIES]], units[~is_query]


def basis_of(keys: np.ndarray) -> np.ndarray:
    """Return [dim, dim + 1]: the direction of the mean key, then the principal components of what is orthogonal to it."""
    mean = keys.mean(axis=0)
    mean /= np.linalg.norm(mean)
    rest = keys - np.outer(keys @ mean, mean)
    return np.concatenate([mean[:, None], np.linalg.eigh(rest.T @ rest)[1][:, ::-1]], axis=1)


def shorten(vectors: np.ndarray, basis: np.ndarray, dims: int) -> np.ndarray:
    """Return the first coordinates of unit vectors, and the length of the rest."""
    first = vectors @ basis[:, :dims]
    return np.concatenate([first, np.sqrt(np.maximum(1 - (first**2).sum(axis=1), 0))[:, None]], axis=1).astype(np.float32)


@partial(jax.jit, static_argnames=("k", "candidates"))
def search_by_bound(
    queries: jax.Array, short_queries: jax.Array, keys: jax.Array, short: Rows, k: int, candidates: int
) -> tuple[jax.Array, jax.Array]:
    """Return the k best cosines among the candidates with the largest bounds, and for which queries they are proved."""
    found = search.search(short_queries, short, k=candidates, metric="ip").neighbours
    assert found is not None

    def score(one: tuple[jax.Array, jax.Array]) -> jax.Array:
        return products(one[0][None], keys[one[1]])[0]

    best = jax.lax.top_k(jax.lax.map(score, (queries, found.ids), batch_size=16), k)[0]
    return best, best[:, -1] > found.similarities[:, -1]


def rows_of(keys: jax.Array) -> Rows:
    """Return keys as a search takes them."""
    return Rows(keys, squared_norms(keys), jnp.zeros(len(keys), jnp.int32))


def measure(queries: np.ndarray, keys: np.ndarray) -> dict[str, Any]:
    """Measure shares and times; times are medians in seconds."""
    cosines, basis = queries @ keys.T, basis_of(keys)
    kth = {k: -np.partition(-cosines, k - 1, axis=1)[:, k - 1] for k in NEIGHBOURS if k <= len(keys)}

    def time(call: Any) -> float:
        return statistics.median(seconds(lambda: jax.block_until_ready(call()), REPEATS))

    on_device, in_full = jnp.asarray(queries), rows_of(jnp.asarray(keys))
    full = jax.jit(partial(search.search, k=K, metric="ip"))
    result: dict[str, Any] = {"rows": len(keys), "queries": len(queries), "k": K}
    result["full"], result["dims"] = time(lambda: full(on_device, in_full).neighbours), {}
    for dims in (d for d in DIMS if d < keys.shape[1]):
        short_queries, short = shorten(queries, basis, dims), shorten(keys, basis, dims)
        bounds = short_queries @ short.T
        shares = {str(k): float((bounds >= lowest[:, None]).mean()) for k, lowest in kth.items()}
        found = {}
        for candidates in (m for m in CANDIDATES if m <= len(keys)):
            arguments = on_device, jnp.asarray(short_queries), in_full.keys, rows_of(jnp.asarray(short)), K, candidates
            proved = float(np.mean(search_by_bound(*arguments)[1]))
            call = partial(search_by_bound, *arguments)
            found[str(candidates)] = {"proved": proved, "seconds": time(call)}
        result["dims"][str(dims)] = {"rows_that_reach_the_kth": shares, "candidates": found}
    return result


def table(result: dict[str, Any]) -> str:
    """Format a Markdown table."""
    head = f"{result['corpus']}, {result['rows']:,} keys, {result['queries']} queries, k {result['k']}; full search"
    header = [f"{head} {result['full']:.2f} s; d", *(f"rows whose bound reaches neighbour {k}" for k in NEIGHBOURS)]
    header += [f"with {m:,} candidates: time, queries proved" for m in CANDIDATES]
    rows = []
    for dims, one in result["dims"].items():
        shares = [f"{share:.1%}" for share in one["rows_that_reach_the_kth"].values()]
        rows.append([dims, *shares, *(f"{c['seconds']:.2f} s, {c['proved']:.0%}" for c in one["candidates"].values())])
    return "\n".join(markdown(header, rows))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a folder that train.py has filled")
    parser.add_argument("--evaluation", type=Path, help="a folder that eval.py has filled; without it RUN")
    arguments = parser.parse_args()
    tune_memory()
    run = open_run(arguments.run, arguments.evaluation)
    datastore, rows = run.knn_tagger.stored.datastore, run.knn_tagger.num_rows
    measured = measure(*split_rows(np.asarray(datastore.keys, np.float32)[:rows], np.asarray(datastore.sentence_ids)[:rows]))
    facts = {"hardware": describe_hardware()["name"], "git_revision": environment()["git_revision"]}
    result = {"corpus": run.corpus, **facts, **measured}
    write_json(RESULTS / "bound.json", result)
    (RESULTS / "bound.md").write_text(table(result), encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
