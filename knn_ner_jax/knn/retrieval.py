"""What the compiled functions are compiled for, and a search as they make it."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import jax
from jax.sharding import Mesh
from jaxtyping import Array

from knn_ner_jax.knn import search as searching
from knn_ner_jax.knn.rows import Rows
from knn_ner_jax.mesh import replicated
from knn_ner_jax.models.tagger import Tagger

QUERY_ROWS = 256
FEW_QUERY_ROWS = 64  # on CPU, where few words are left to compare with all rows, so that a block is seldom full
Scan = Literal["float32", "bfloat16"]

_Tree = TypeVar("_Tree")


@dataclass(frozen=True)
class Retrieval:
    """What the compiled functions are compiled for; hashable, a static argument.

    Attributes:
        tagger: the network.
        layers: hidden states that make a key, as non-negative numbers; 0 is the embeddings' output.
        k: neighbours for each word; `all` lets every row vote.
        num_labels: labels of tagger and datastore together; the tagger gives those beyond its own probability 0.
        metric: cosine, ip or l2.
        block_rows: datastore rows compared at a time.
        query_rows: words compared at a time.
        rest_rows: words that `tag` compares with all rows at a time, those that no panel settles.
        mesh: devices the datastore is divided over; None for one.
        scan: how `tag` looks for the k nearest (see `search.search`).
    """

    tagger: Tagger
    layers: tuple[int, ...]
    k: int | Literal["all"]
    num_labels: int
    metric: str = "cosine"
    block_rows: int = searching.BLOCK_ROWS
    query_rows: int = QUERY_ROWS
    rest_rows: int = QUERY_ROWS
    mesh: Mesh | None = None
    scan: Scan = "float32"


def everywhere(tree: _Tree, settings: Retrieval) -> _Tree:
    """On every device."""
    return tree if settings.mesh is None else jax.lax.with_sharding_constraint(tree, replicated(settings.mesh))


def search(
    queries: Array, rows: Rows, temperatures: Array | None, k: int | None, settings: Retrieval, scan: Scan = "float32"
) -> searching.Found:
    """A search of some rows: for the k nearest, for the shares of all, or for both (see `search.search`)."""
    return searching.search(
        queries,
        rows,
        k=k,
        temperatures=temperatures,
        num_values=settings.num_labels,
        metric=settings.metric,
        block_rows=settings.block_rows,
        mesh=settings.mesh,
        scan=scan,
    )
