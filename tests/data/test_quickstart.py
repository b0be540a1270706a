"""The embedded corpus is what its README says."""

import itertools
import re
from collections import Counter

import pytest

from knn_ner_jax.config import DataConfig
from knn_ner_jax.data import corpus
from knn_ner_jax.data.corpus import Split


@pytest.fixture(scope="module")
def quickstart() -> corpus.Corpus:
    return corpus.read_corpus(DataConfig("pip:knn_ner_jax/data/quickstart", scheme="BIO"))


def names_of(split: Split) -> list[tuple[str, str]]:
    """Type and text of every entity, read off the IOB2 tags."""
    names: list[tuple[str, str]] = []
    for word, tag in itertools.chain.from_iterable(zip(s.words, s.tags, strict=True) for s in split.sentences):
        if tag.startswith("B-"):
            names.append((tag[2:], word))
        elif tag.startswith("I-"):
            names[-1] = (names[-1][0], f"{names[-1][1]} {word}")
    return names


def test_the_embedded_corpus_has_enough_of_everything(quickstart: corpus.Corpus):
    splits = [quickstart.train, quickstart.dev, quickstart.test]
    assert sum(len(split.sentences) for split in splits) >= 400
    for split in splits:
        assert {type_ for type_, _ in names_of(split)} == {"PER", "LOC", "ORG", "EVENT"}
        assert split.illegal_tags == ()
        assert not split.skipped


def test_no_sentence_of_the_embedded_corpus_occurs_twice(quickstart: corpus.Corpus):
    splits = [quickstart.train, quickstart.dev, quickstart.test]
    counts = Counter(" ".join(sentence.words).lower() for split in splits for sentence in split.sentences)
    assert [sentence for sentence, count in counts.items() if count > 1] == []


def test_at_least_half_of_the_names_of_the_embedded_corpus_occur_once(quickstart: corpus.Corpus):
    splits = [quickstart.train, quickstart.dev, quickstart.test]
    counts = Counter(name for split in splits for _, name in names_of(split))
    assert 2 * sum(count == 1 for count in counts.values()) >= len(counts)


def test_the_readme_of_the_embedded_corpus_counts_rightly(quickstart: corpus.Corpus):
    readme = (quickstart.train.path.parent / "README.md").read_text(encoding="utf-8")
    for name in ("train", "dev", "test"):
        split = getattr(quickstart, name)
        types = Counter(type_ for type_, _ in names_of(split))
        counts = [len(split.sentences), split.num_words, *(types[t] for t in ("PER", "LOC", "ORG", "EVENT")), types.total()]
        row = re.search(rf"^\| {name} +\|(.*)\|$", readme, re.MULTILINE)
        assert row
        assert [int(count) for count in row[1].split("|")] == counts
