"""The one compiled function: encoder, head, search, vote and mix (paper, section 3)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, Sharding
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.data.batching import Batch
from knn_ner_jax.data.encoding import NO_WORD
from knn_ner_jax.knn import scouts, search
from knn_ner_jax.knn.datastore import Datastore, key_states
from knn_ner_jax.knn.rows import Rows
from knn_ner_jax.knn.scouts import Scouts
from knn_ner_jax.knn.vote import interpolate, knn_probabilities, undecided
from knn_ner_jax.knn.words import Waiting, Words, in_blocks, joined, label_full_blocks
from knn_ner_jax.mesh import replicated
from knn_ner_jax.models.tagger import Params, Tagger

QUERY_ROWS = 256
Scan = Literal["float32", "bfloat16"]
UNSURE = -1  # what the scouts say of a word that they do not settle

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
        mesh: devices the datastore is divided over; None for one.
        scan: how `tag` looks for the k nearest of all rows (see `search.search`).
    """

    tagger: Tagger
    layers: tuple[int, ...]
    k: int | Literal["all"]
    num_labels: int
    metric: str = "cosine"
    block_rows: int = search.BLOCK_ROWS
    query_rows: int = QUERY_ROWS
    mesh: Mesh | None = None
    scan: Scan = "float32"


class Tagging(NamedTuple):
    """How far the tagging of a split has come.

    Attributes:
        vanilla: the tagger's own label ids, by word of the split.
        knn: those of the mixed probabilities; final when the last batch is done.
        scouted: words looked up among the scouts.
        searched: words looked up among all rows; no vote could have changed the others.
        again: words among them that were searched again in float32, because a scan in bfloat16 proved nothing for them.
        for_scouts: words that wait for a block among the scouts.
        for_search: words that wait for a block among all rows.
    """

    vanilla: Int[Array, " words"]
    knn: Int[Array, " words"]
    scouted: Int[Array, ""]
    searched: Int[Array, ""]
    again: Int[Array, ""]
    for_scouts: Waiting
    for_search: Waiting


class Retrieved(NamedTuple):
    """All that tuning and explaining need to know of the words of a batch; rows from the batch's word count on are void.

    Attributes:
        slots: the word each row is about, `NO_WORD` in void rows.
        p_ner: the tagger's probabilities.
        found: neighbours and, for each temperature, shares of all rows.
    """

    slots: Int[Array, " words"]
    p_ner: Float[Array, "words labels"]
    found: search.Found


@cache
def _beginning(num_words: int, query_rows: int, dim: int, num_labels: int, sharding: Sharding) -> Callable[[], Tagging]:
    def state() -> Tagging:
        waiting = [Waiting.none(query_rows, dim, num_labels) for _ in range(2)]
        unlabelled = jnp.zeros((2, num_words), jnp.int32)
        return Tagging(unlabelled[0], unlabelled[1], *(jnp.int32(0) for _ in range(3)), *waiting)

    return jax.jit(state, out_shardings=sharding)


def begin(num_words: int, datastore: Datastore, settings: Retrieval) -> Tagging:
    """The state before the first batch of a split of at most `num_words`, on the devices of the datastore."""
    shape = num_words, settings.query_rows, datastore.keys.shape[1], settings.num_labels
    return _beginning(*shape, datastore.num_rows.sharding)()


def _everywhere(tree: _Tree, settings: Retrieval) -> _Tree:
    return tree if settings.mesh is None else jax.lax.with_sharding_constraint(tree, replicated(settings.mesh))


def _encode(params: Params, datastore: Datastore, batch: Batch, settings: Retrieval) -> Words:
    """The words of a batch and what stands between them, on every device."""
    output = settings.tagger(params, batch.token_ids, batch.attention_mask, pinyin_ids=batch.pinyin_ids)
    p_ner = jax.nn.softmax(output.logits.reshape(-1, output.logits.shape[-1]))
    beyond = settings.num_labels - p_ner.shape[1]
    queries = key_states(output.hidden_states, settings.layers, datastore.projection)
    words = Words(
        queries.reshape(-1, queries.shape[-1]), jnp.pad(p_ner, ((0, 0), (0, beyond))), jnp.asarray(batch.slots).reshape(-1)
    )
    return _everywhere(words, settings)


def _search(
    queries: Array, rows: Rows, temperatures: Array | None, k: int | None, settings: Retrieval, scan: Scan = "float32"
) -> search.Found:
    return search.search(
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


def _mixed(
    words: Words, rows: Rows, temperature: Array, knn_weight: Array, settings: Retrieval
) -> tuple[Float[Array, "words labels"], Bool[Array, " words"]]:
    """p(y) of some words, by the vote of some rows (paper, equations 3 and 4); and which of them were searched again."""
    if settings.k == "all":
        found = _search(words.queries, rows, temperature[None], None, settings)
        p_knn = found.shares[0]  # type: ignore[index]
    else:
        found = _search(words.queries, rows, None, min(settings.k, len(rows.values)), settings, settings.scan)
        near = found.neighbours
        p_knn = knn_probabilities(near.similarities, near.values, settings.num_labels, temperature)  # type: ignore[union-attr]
    again = jnp.zeros(len(p_knn), bool) if found.uncertified is None else found.uncertified
    return interpolate(words.p_ner, p_knn, knn_weight), again


def _ask_scouts(
    tagging: Tagging,
    chosen: Scouts,
    words: Words,
    wanted: Bool[Array, " words"],
    traced: tuple[Array, Array, Array],
    settings: Retrieval,
) -> tuple[Tagging, Words, Bool[Array, " words"]]:
    """Settles what the scouts can; returns the words that need a search of all rows, and which of them those are."""
    temperature, knn_weight, last = traced

    def label(block: Words) -> Int[Array, "rows 1"]:
        if settings.k == "all":
            shares = _search(block.queries, chosen.rows, temperature[None], None, settings).shares[0]  # type: ignore[index]
            said = scouts.vote_of_all(shares, chosen, block.queries, temperature, settings.metric)
        else:
            asked = min(settings.k + 1, len(chosen.rows.values))
            near = _search(block.queries, chosen.rows, None, asked, settings).neighbours
            args = chosen, block.queries, temperature, settings.num_labels, settings.metric
            said = scouts.vote(near, settings.k, *args)  # type: ignore[arg-type]
        return jnp.where(scouts.settle(block.p_ner, said, chosen, knn_weight), chosen.usual, UNSURE)[:, None]

    says_usual = wanted & (words.p_ner.argmax(axis=1) == chosen.usual)
    others = wanted & ~says_usual
    words, asked = joined(tagging.for_scouts, words, says_usual)
    said, done, waiting = label_full_blocks(label, words, asked, last, settings.query_rows)
    labels = said[:, 0]
    others = jnp.pad(others, (len(words.slots) - len(others), 0))
    settled = done & (labels != UNSURE)
    tagging = tagging._replace(
        knn=_put(tagging.knn, words.slots, labels, settled), scouted=tagging.scouted + done.sum(), for_scouts=waiting
    )
    return tagging, words, others | (done & ~settled)


def _put(labels: Array, slots: Array, new: Array, where: Array) -> Array:
    return labels.at[jnp.where(where, slots, len(labels))].set(new, mode="drop")


@partial(jax.jit, static_argnames="settings", donate_argnames="tagging")
def tag(
    tagging: Tagging,
    params: Params,
    datastore: Datastore,
    chosen: Scouts | None,
    batch: Batch,
    temperature: Float[Array, ""],
    knn_weight: Float[Array, ""],
    last: Bool[Array, ""],
    *,
    settings: Retrieval,
) -> Tagging:
    """Labels a batch: encoder, head, search, vote and mix in one program, compiled once for each batch shape and k.

    Only words are looked up, of them only those whose label a vote can change (`vote.undecided`), and among all rows only
    those that the scouts do not settle. The labels are those of a search of all rows for every word.

    Args:
        tagging: from `begin`, or of the batch before; given up.
        params: of `settings.tagger`.
        datastore: its contents are traced: another one of the same shape compiles nothing.
        chosen: scouts of the datastore, or None to do without.
        batch: windows of token ids.
        temperature: of the vote, > 0.
        knn_weight: share of the vote in the mix, in [0, 1].
        last: no other batch follows: words that wait are looked up as well.
        settings: what to compile for.
    """
    words = _encode(params, datastore, batch, settings)
    vanilla, is_word = words.p_ner.argmax(axis=1), words.slots != NO_WORD
    tagging = tagging._replace(
        vanilla=_put(tagging.vanilla, words.slots, vanilla, is_word), knn=_put(tagging.knn, words.slots, vanilla, is_word)
    )
    wanted = is_word & undecided(words.p_ner, knn_weight)
    if chosen is not None:
        tagging, words, wanted = _ask_scouts(tagging, chosen, words, wanted, (temperature, knn_weight, last), settings)

    def label(block: Words) -> Int[Array, "rows 2"]:
        mixed, again = _mixed(block, datastore.rows, temperature, knn_weight, settings)
        return jnp.stack([mixed.argmax(axis=1), again], axis=1)

    words, wanted = joined(tagging.for_search, words, wanted)
    said, done, waiting = label_full_blocks(label, words, wanted, last, settings.query_rows)
    tagging = tagging._replace(
        knn=_put(tagging.knn, words.slots, said[:, 0], done),
        searched=tagging.searched + done.sum(),
        again=tagging.again + (said[:, 1] * done).sum(),
        for_search=waiting,
    )
    return _everywhere(tagging, settings)


@partial(jax.jit, static_argnames="settings")
def retrieve(
    params: Params,
    datastore: Datastore,
    batch: Batch,
    temperatures: Float[Array, " temperatures"] | None,
    *,
    settings: Retrieval,
) -> Retrieved:
    """Looks up every word of a batch and returns what was found instead of voting.

    Args:
        params: of `settings.tagger`.
        datastore: what is searched.
        batch: windows of token ids.
        temperatures: for the shares that `k: all` needs; None for neighbours alone.
        settings: what to compile for; k is how many neighbours to return (`all`: none, the shares alone).
    """
    words = _encode(params, datastore, batch, settings)
    is_word = words.slots != NO_WORD
    k = None if settings.k == "all" else settings.k
    rows = min(settings.query_rows, len(is_word))
    order = jnp.nonzero(is_word, size=-(-len(is_word) // rows) * rows, fill_value=0)[0]
    num_blocks = (is_word.sum() + rows - 1) // rows

    def find(block: Words) -> search.Found:
        return _search(block.queries, datastore.rows, temperatures, k, settings)

    found = in_blocks(find, words, order, num_blocks, rows)
    slots = jnp.where(jnp.arange(len(order)) < is_word.sum(), words.slots[order], NO_WORD)
    return _everywhere(Retrieved(slots, words.p_ner[order], found), settings)
