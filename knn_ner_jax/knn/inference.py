"""The one compiled function: encoder, head, search, vote and mix (paper, section 3)."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Float, Int

from knn_ner_jax.data.batching import Batch
from knn_ner_jax.data.encoding import NO_WORD
from knn_ner_jax.knn import retrieval, search
from knn_ner_jax.knn.asking import ask
from knn_ner_jax.knn.datastore import Datastore, key_states
from knn_ner_jax.knn.retrieval import Retrieval, everywhere
from knn_ner_jax.knn.rows import Rows
from knn_ner_jax.knn.scouts import Panels
from knn_ner_jax.knn.vote import interpolate, knn_probabilities, undecided
from knn_ner_jax.knn.words import Waiting, Words, in_blocks, joined, label_full_blocks, put
from knn_ner_jax.models.tagger import Params


class Tagging(NamedTuple):
    """How far the tagging of a split has come.

    Attributes:
        vanilla: the tagger's own label ids, by word of the split.
        knn: those of the mixed probabilities; final when the last batch is done.
        scouted: words looked up among the scouts.
        at_border: words looked up among the rows of the border.
        searched: words looked up among all rows; nothing could have changed the others.
        again: words among them that were searched again in float32, because a scan in bfloat16 proved nothing for them.
        for_scouts: words that wait for a block among the scouts.
        for_border: words that wait for one among the border.
        for_search: words that wait for one among all rows.
    """

    vanilla: Int[Array, " words"]
    knn: Int[Array, " words"]
    scouted: Int[Array, ""]
    at_border: Int[Array, ""]
    searched: Int[Array, ""]
    again: Int[Array, ""]
    for_scouts: Waiting
    for_border: Waiting
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
def _beginning(
    num_words: int, blocks: tuple[int, ...], dim: int, num_labels: int, sharding: Sharding
) -> Callable[[], Tagging]:
    def state() -> Tagging:
        waiting = [Waiting.none(rows, dim, num_labels) for rows in blocks]
        unlabelled = jnp.zeros((2, num_words), jnp.int32)
        return Tagging(unlabelled[0], unlabelled[1], *(jnp.int32(0) for _ in range(4)), *waiting)

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


def _mixed(
    words: Words, rows: Rows, temperature: Array, knn_weight: Array, settings: Retrieval
) -> tuple[Float[Array, "words labels"], Bool[Array, " words"]]:
    """p(y) of some words, by the vote of some rows (paper, equations 3 and 4); and which of them were searched again."""
    if settings.k == "all":
        found = retrieval.search(words.queries, rows, temperature[None], None, settings)
        p_knn = found.shares[0]  # type: ignore[index]
    else:
        found = retrieval.search(words.queries, rows, None, min(settings.k, len(rows.values)), settings, settings.scan)
        near = found.neighbours
        p_knn = knn_probabilities(near.similarities, near.values, settings.num_labels, temperature)  # type: ignore[union-attr]
    again = jnp.zeros(len(p_knn), bool) if found.uncertified is None else found.uncertified
    return interpolate(words.p_ner, p_knn, knn_weight), again


def _ask_panels(
    tagging: Tagging,
    panels: Panels,
    words: Words,
    wanted: Bool[Array, " words"],
    traced: tuple[Array, ...],
    settings: Retrieval,
) -> tuple[Tagging, Words, Bool[Array, " words"]]:
    """Settles what the panels can; returns the words that need a search of all rows, and which of them those are."""
    if settings.k != "all":
        is_usual = words.p_ner.argmax(axis=1) == panels.scouts.usual
        answer = ask(panels.scouts, tagging.for_scouts, words, wanted & is_usual, traced, settings)
        others = jnp.pad(wanted & ~is_usual, (len(answer.done) - len(is_usual), 0))
        words, wanted = answer.words, others | answer.unsettled
        tagging = tagging._replace(
            knn=answer.put(tagging.knn), scouted=tagging.scouted + answer.done.sum(), for_scouts=answer.waiting
        )
    answer = ask(panels.border, tagging.for_border, words, wanted, traced, settings)
    tagging = tagging._replace(
        knn=answer.put(tagging.knn), at_border=tagging.at_border + answer.done.sum(), for_border=answer.waiting
    )
    return tagging, answer.words, answer.unsettled


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
    tagging = tagging._replace(
        vanilla=put(tagging.vanilla, words.slots, vanilla, is_word), knn=put(tagging.knn, words.slots, vanilla, is_word)
    )
    wanted = is_word & undecided(words.p_ner, knn_weight)
    if panels is not None:
        tagging, words, wanted = _ask_panels(tagging, panels, words, wanted, (temperature, knn_weight, last), settings)

    def label(block: Words) -> Int[Array, "rows 2"]:
        mixed, again = _mixed(block, datastore.rows, temperature, knn_weight, settings)
        return jnp.stack([mixed.argmax(axis=1), again], axis=1)

    words, wanted = joined(tagging.for_search, words, wanted)
    said, done, waiting = label_full_blocks(label, words, wanted, last, settings.rest_rows)
    tagging = tagging._replace(
        knn=put(tagging.knn, words.slots, said[:, 0], done),
        searched=tagging.searched + done.sum(),
        again=tagging.again + (said[:, 1] * done).sum(),
        for_search=waiting,
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
