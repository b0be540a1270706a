"""Label errors: words whose neighbours in other sentences disagree with their tag, ranked; and corrections of them.

What the tagger itself says of a training word counts for nothing, since it has learned the tag by heart, right or wrong. The
state of a word and those of its neighbours are made of words alone.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from knn_ner_jax.data.tag_schemes import OUTSIDE, LabelSet, Sentence, shown_spans, spans_to_iob2
from knn_ner_jax.data.texts import check_tag
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.evaluation.leave_one_out import number_sentences, retrieve_others
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import Cache
from knn_ner_jax.knn.storage import Stored
from knn_ner_jax.knn_tagger import KnnTagger

K = 32  # neighbours that vote
TEMPERATURE = 0.1  # of their cosines
SHOWN = 8  # neighbours that are listed
SPLITS = ("train", "dev")


@dataclass(frozen=True)
class Suspect:
    """A word whose neighbours disagree with its tag: a line of the file that is corrected.

    Attributes:
        split: train or dev.
        sentence: its number in the split, and
        position: of the word in it, both from 0.
        word: the word.
        tag: its tag.
        suggested: the tag that neighbours have instead.
        correction: the tag it is given when the file is applied; None: it keeps its own.
        score: see `disagreement`.
        neighbours: tag, cosine, number of the sentence, and the words around it, of the nearest words.
        words: of the sentence.
    """

    split: str
    sentence: int
    position: int
    word: str
    tag: str
    suggested: str
    correction: str | None
    score: float
    neighbours: tuple[dict[str, Any], ...]
    words: tuple[str, ...]


class Ranking(NamedTuple):
    """The words of a split that neighbours disagree with, those first that they disagree with most.

    Attributes:
        suspects: as many as were asked for.
        num_words: in the split.
        num_disagreeing: words with a score above 0.
    """

    suspects: tuple[Suspect, ...]
    num_words: int
    num_disagreeing: int


def disagreement(
    similarities: Float[np.ndarray, "words k"],
    neighbour_labels: Int[np.ndarray, "words k"],
    label_ids: Int[np.ndarray, " words"],
    num_labels: int,
    temperature: float = TEMPERATURE,
) -> tuple[Float[np.ndarray, " words"], Int[np.ndarray, " words"]]:
    """Return how much neighbours disagree with each word's label, and the other label that most of them have.

    A neighbour weighs exp((s - 1) / temperature), s its cosine: 1 where the two are the same, next to nothing where it is
    far. The score is log (1 + weight of the other label) / (1 + weight of the word's): few or far neighbours say little.

    >>> score, other = disagreement(np.float32([[1, 1, 1]]), np.int32([[2, 2, 1]]), np.int32([1]), num_labels=3)
    >>> score.round(3).tolist(), other.tolist()  # log 3/2
    ([0.405], [2])

    Args:
        similarities: cosines of the neighbours.
        neighbour_labels: likewise their labels.
        label_ids: of the words.
        num_labels: of all labels.
        temperature: of the cosines.
    """
    weights = np.exp((similarities.astype(np.float64) - 1) / temperature)
    by_label = np.zeros((len(label_ids), num_labels))
    words = np.arange(len(label_ids))
    np.add.at(by_label, (words[:, None], neighbour_labels), weights)
    own = by_label[words, label_ids]
    by_label[words, label_ids] = -1
    other = by_label.argmax(axis=1).astype(np.int32)
    return np.log1p(by_label[words, other]) - np.log1p(own), other


def stored_sentences(stored: Stored, names: Sequence[str]) -> dict[int, Sentence]:
    """Return the sentences that a datastore was built from, by number, with the tags that their rows have now.

    Sentences that were taught are left out.

    Args:
        stored: the datastore, on one host.
        names: of the label ids.
    """
    store = stored.datastore
    columns = (np.asarray(column)[: int(store.num_rows)] for column in (store.sentence_ids, store.word_ids, store.labels))
    tags: dict[int, list[str]] = {}
    for sentence, word, label in zip(*(column.tolist() for column in columns), strict=True):
        if sentence not in stored.sentences.added:
            if sentence not in tags:
                tags[sentence] = [OUTSIDE] * len(stored.sentences[sentence][0])
            tags[sentence][word] = names[label]
    return {number: Sentence(stored.sentences[number][0], tuple(tags[number]), 0) for number in sorted(tags)}


class Retrieval(NamedTuple):
    """Words, the labels of their tags and of all neighbours, and their neighbours in other sentences."""

    words: EncodedSplit
    label_set: LabelSet
    cache: Cache


def retrieve_words(tagger: KnnTagger, sentences: Sequence[Sentence], k: int = K) -> Retrieval:
    """Retrieve the k nearest neighbours, by cosine, of every word in other sentences, or as many as every word has.

    Args:
        tagger: with the datastore, on one host.
        sentences: the words, with their tags.
        k: neighbours of each.

    Raises:
        InputError: the run labels pieces, or the datastore has no words that are O, or rows of one sentence alone.
    """
    if tagger.label_set.protocol != "words":
        raise InputError(f"protocol: expected a run with words, got {tagger.label_set.protocol}, which labels pieces")
    if not tagger.stored.source.include_o:
        raise InputError("datastore.include_o: expected true, so that words that are O have neighbours like them, got false")
    label_set = tagger.label_set.union(LabelSet.of(each.tags for each in sentences))
    words = tagger.encode(sentences, label_set)
    row_numbers, sentence_numbers = number_sentences(tagger.stored, sentences)
    most = len(row_numbers) - int(np.bincount(row_numbers).max())
    if most < 1:
        raise InputError(f"audit: expected a datastore of several sentences, found one, with {len(row_numbers)} rows")
    numbers = sentence_numbers[words.sentence_ids]
    return Retrieval(words, label_set, retrieve_others(tagger, words, row_numbers, numbers, min(k, most), "cosine"))


def rank(tagger: KnnTagger, split: str, sentences: Mapping[int, Sentence], most: int) -> Ranking:
    """Rank the words of a split by how much their neighbours in other sentences disagree with their tags.

    Args:
        tagger: with the datastore, on one host.
        split: its name.
        sentences: by number.
        most: how many words to return.

    Raises:
        InputError: see `retrieve_words`.
    """
    encoded, label_set, cache = retrieve_words(tagger, list(sentences.values()))
    assert cache.similarities is not None
    assert cache.neighbour_labels is not None
    scores, others = disagreement(cache.similarities, cache.neighbour_labels, encoded.label_ids, len(label_set))
    order = np.argsort(-scores, kind="stable")[:most]
    numbers, texts = list(sentences), tagger.datastore_text

    def suspect(word: int) -> Suspect:
        number, position = numbers[encoded.sentence_ids[word]], int(encoded.word_ids[word])
        of_sentence = sentences[number]
        near = [
            {"tag": each.label, "similarity": round(each.similarity, 4), "sentence": each.sentence_id}
            | {"before": each.before, "word": each.word, "after": each.after}
            for each in texts.neighbours(cache, word, SHOWN)
        ]
        text, tag = of_sentence.words[position], of_sentence.tags[position]
        suggested, score = label_set.names[others[word]], round(float(scores[word]), 4)
        return Suspect(split, number, position, text, tag, suggested, None, score, tuple(near), of_sentence.words)

    disagreeing = int((scores > 0).sum())
    return Ranking(tuple(suspect(word) for word in order[:disagreeing].tolist()), encoded.num_words, disagreeing)


def to_lines(suspects: Iterable[Suspect]) -> str:
    """Return words as JSON lines."""
    return "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in suspects)


@dataclass(frozen=True)
class Correction:
    """A word that is given another tag.

    Attributes:
        split: train or dev.
        sentence: its number, and
        position: of the word in it.
        word: the word.
        tag: that it is expected to have.
        correction: that it is given.
        place: the line of the file that says so, for messages.
    """

    split: str
    sentence: int
    position: int
    word: str
    tag: str
    correction: str
    place: str


def _read_line(text: str, place: str) -> Correction | None:
    try:
        line = json.loads(text)
        split, sentence, position = (line[name] for name in ("split", "sentence", "position"))
        word, tag, correction = (line[name] for name in ("word", "tag", "correction"))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place}: expected a line that audit has written, found {text:.60}: {error!r}") from error
    if split not in SPLITS or type(sentence) is not int or type(position) is not int:
        raise InputError(f"{place}: expected train or dev and two numbers, found {split!r}, {sentence!r} and {position!r}")
    if correction is None:
        return None
    check_tag(correction, f"{place}: correction")
    return Correction(split, sentence, position, word, tag, correction, place)


def read_corrections(path: Path) -> tuple[list[Correction], int]:
    """Read a file that `audit` has written and somebody has corrected.

    Args:
        path: the file; lines may be gone from it, or stand in another order.

    Returns:
        The corrections, and the number of lines without one: words that keep their tag.

    Raises:
        InputError: no file, a line that is none of an audit, a correction that is no tag, or two of one word.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected the JSON lines of an audit: {error}") from error
    read = [_read_line(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    corrections = [each for each in read if each is not None]
    first: dict[tuple[str, int, int], Correction] = {}
    for each in corrections:
        earlier = first.setdefault((each.split, each.sentence, each.position), each)
        if earlier is not each:
            raise InputError(f"{each.place}: expected each word once, found that of {earlier.place} again")
    return corrections, len(read) - len(corrections)


def correct(sentences: Mapping[int, Sentence], corrections: Sequence[Correction]) -> dict[int, Sentence]:
    """Return those sentences that corrections change, by number.

    What is left of an entity whose beginning is corrected, an I- that continues nothing any more, begins with B-.

    >>> sentences = {7: Sentence(("New", "York", "won"), ("B-ORG", "I-ORG", "O"), 0)}
    >>> correct(sentences, [Correction("train", 7, 0, "New", "B-ORG", "B-LOC", "line 1")])[7].tags
    ('B-LOC', 'B-ORG', 'O')

    Args:
        sentences: of a split, by number, with IOB2 tags.
        corrections: of the split.

    Raises:
        InputError: corrections of words that are not there, or have another tag; they are counted, and five are named.
    """
    tags: dict[int, list[str]] = {}
    unfit = []
    for each in corrections:
        sentence, position = sentences.get(each.sentence), each.position
        there = None
        if sentence is not None and 0 <= position < len(sentence.words):
            there = sentence.words[position], sentence.tags[position]
        if sentence is None or there != (each.word, each.tag):
            found = "no such word" if there is None else " ".join(there)
            unfit.append(f"{each.place}: expected {each.word} {each.tag}, found {found}")
        else:
            tags.setdefault(each.sentence, list(sentence.tags))[position] = each.correction
    if unfit:
        more = f"\n({len(unfit) - 5} more)" if len(unfit) > 5 else ""
        raise InputError(
            "corrections of words that are no longer as they were; audit again:\n" + "\n".join(unfit[:5]) + more
        )
    mended = {number: spans_to_iob2(shown_spans(of_sentence), len(of_sentence)) for number, of_sentence in tags.items()}
    return {n: sentences[n]._replace(tags=new) for n, new in mended.items() if new != sentences[n].tags}


def changed_words(before: Mapping[int, Sentence], after: Mapping[int, Sentence]) -> dict[tuple[int, int], str]:
    """Return the new tag of each word that has another in `after`, by numbers of sentence and word."""
    return {
        (number, word): tag
        for number, sentence in after.items()
        for word, tag in enumerate(sentence.tags)
        if tag != before[number].tags[word]
    }
