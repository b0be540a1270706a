"""The one compiled function: encoder, head, search, vote and mix (paper, section 3)."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.data.batching import Batch
from knn_ner_jax.data.encoding import NO_WORD
from knn_ner_jax.knn import retrieval, search
from knn_ner_jax.knn.asking import ask_all, ask_panel
from knn_ner_jax.knn.datastore import Datastore, key_states
from knn_ner_jax.knn.retrieval import Retrieval, everywhere
from knn_ner_jax.knn.scouts import Panels
from knn_ner_jax.knn.vote import MARGIN_SETTLES_BELOW, undecided
from knn_ner_jax.knn.words import Ask, Queue, Words, in_blocks, label_in_turn, put
from knn_ner_jax.models.tagger import Params


class Tagging(NamedTuple):
    """How far the tagging of a split has come.

    Attributes:
        vanilla: the tagger's own label ids, by word of the split.
        knn: those of the mixed probabilities; final when the last batch is done.
        for_scouts: words to look up among the scouts.
        for_border: among the rows of the border.
        for_all: among all rows; nothing could have changed the others.
    """

    vanilla: Int[Array, " words"]
    knn: Int[Array, " words"]
    for_scouts: Queue
    for_border: Queue
    for_all: Queue


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
def _beginning(
    num_words: int, blocks: tuple[int, ...], dim: int, num_labels: int, sharding: Sharding
) -> Callable[[], Tagging]:
    def state() -> Tagging:
        unlabelled = jnp.zeros((2, num_words), jnp.int32)
        return Tagging(unlabelled[0], unlabelled[1], *(Queue.empty(rows, dim, num_labels) for rows in blocks))

    return jax.jit(state, out_shardings=sharding)


def begin(num_words: int, datastore: Datastore, settings: Retrieval) -> Tagging:
    """The state before the first batch of a split of at most `num_words`, on the devices of the datastore."""
    blocks = settings.query_rows, settings.query_rows, settings.rest_rows
    shape = num_words, blocks, datastore.keys.shape[1], settings.num_labels
    return _beginning(*shape, datastore.num_rows.sharding)()


def _encode(params: Params, datastore: Datastore, batch: Batch, settings: Retrieval) -> Words:
    """The words of a batch and what stands between them, on every device."""
    output = settings.tagger(params, batch.token_ids, batch.attention_mask, pinyin_ids=batch.pinyin_ids)
    p_ner = jax.nn.softmax(output.logits.reshape(-1, output.logits.shape[-1]))
    beyond = settings.num_labels - p_ner.shape[1]
    queries = key_states(output.hidden_states, settings.layers, datastore.projection)
    words = Words(
        queries.reshape(-1, queries.shape[-1]), jnp.pad(p_ner, ((0, 0), (0, beyond))), jnp.asarray(batch.slots).reshape(-1)
    )
    return everywhere(words, settings)


def _asks(
    datastore: Datastore, panels: Panels | None, temperature: Array, knn_weight: Array, settings: Retrieval
) -> dict[str, Ask]:
    """Who is asked about a word, in turn, by the name of the queue for them."""
    traced: dict[str, Any] = {"temperature": temperature, "knn_weight": knn_weight, "settings": settings}
    asks: dict[str, Ask] = {}
    # What the margin leaves at a smaller weight lies between the tags, where scouts are sure of next to nothing.
    scouts_settle_many = knn_weight >= MARGIN_SETTLES_BELOW
    if panels is not None and settings.k != "all":
        asks["for_scouts"] = Ask(partial(ask_panel, panels.scouts, **traced), scouts_settle_many)
    if panels is not None:
        asks["for_border"] = Ask(partial(ask_panel, panels.border, **traced), jnp.bool_(True))
    return asks | {"for_all": Ask(partial(ask_all, datastore.rows, **traced), jnp.bool_(True))}


@partial(jax.jit, static_argnames="settings", donate_argnames="tagging")
def tag(
    tagging: Tagging,
    params: Params,
    datastore: Datastore,
    panels: Panels | None,
    batch: Batch,
    temperature: Float[Array, ""],
    knn_weight: Float[Array, ""],
    last: Bool[Array, ""],
    *,
    settings: Retrieval,
) -> Tagging:
    """Labels a batch: encoder, head, search, vote and mix in one program, compiled once for each batch shape and k.

    Only words are looked up, of them only those whose label a vote can change (`vote.undecided`), and among all rows only
    those that `scouts` do not settle. The labels are those of a search of all rows for every word.

    Args:
        tagging: from `begin`, or of the batch before; given up.
        params: of `settings.tagger`.
        datastore: its contents are traced: another one of the same shape compiles nothing.
        panels: rows of the datastore that are asked first, or None to do without.
        batch: windows of token ids.
        temperature: of the vote, > 0.
        knn_weight: share of the vote in the mix, in [0, 1].
        last: no other batch follows: words that wait are looked up as well.
        settings: what to compile for.
    """
    words = _encode(params, datastore, batch, settings)
    vanilla, is_word = words.p_ner.argmax(axis=1), words.slots != NO_WORD
    wanted = is_word & undecided(words.p_ner, knn_weight)
    asks = _asks(datastore, panels, temperature, knn_weight, settings)
    labels = put(tagging.knn, words.slots, vanilla, is_word)
    waiting = [getattr(tagging, name) for name in asks]
    labels, queues = label_in_turn(list(asks.values()), labels, waiting, words, wanted, last)
    tagging = tagging._replace(
        vanilla=put(tagging.vanilla, words.slots, vanilla, is_word), knn=labels, **dict(zip(asks, queues, strict=True))
    )
    return everywhere(tagging, settings)


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
        return retrieval.search(block.queries, datastore.rows, temperatures, k, settings)

    found = in_blocks(find, words, order, num_blocks, rows)
    slots = jnp.where(jnp.arange(len(order)) < is_word.sum(), words.slots[order], NO_WORD)
    return everywhere(Retrieved(slots, words.p_ner[order], found), settings)
