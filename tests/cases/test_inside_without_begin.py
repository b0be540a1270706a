"""An I- without a B- before it: an entity wherever entities are shown, and marked; no entity in strict scores."""

import io
import itertools

import numpy as np
import pytest
from rich.console import Console

from knn_ner_jax import metrics
from knn_ner_jax.data.tag_schemes import Span, opening_insides, shown_spans, strict_spans
from knn_ner_jax.entities import Entity, TaggedText
from knn_ner_jax.report.evaluation import print_entities
from knn_ner_jax.report.explorer import Token

WORDS = ("Rabbi", "Shoshana", "Levi-Katz", "and", "Imam", "Bilal", "Osmani", "of", "Oslo")
TAGS = ("O", "I-PER", "I-PER", "O", "O", "I-PER", "I-PER", "O", "B-LOC")


def test_what_is_shown_is_every_strict_span_and_what_an_inside_opens():
    names = ("O", "B-X", "I-X", "B-Y", "I-Y")
    for tags in itertools.product(names, repeat=4):
        spans = shown_spans(tags)
        assert [span for span in spans if tags[span.start].startswith("B-")] == strict_spans(tags, "BIO")
        covered = [position for span in spans for position in range(span.start, span.end)]
        assert covered == [position for position, tag in enumerate(tags) if tag != "O"]
        for span in spans:
            assert {tag[2:] for tag in tags[span.start : span.end]} == {span.type}
            assert all(tag.startswith("I-") for tag in tags[span.start + 1 : span.end])
            before = tags[span.start - 1] if span.start else "O"
            assert tags[span.start].startswith("B-") or before[2:] != span.type
        assert np.flatnonzero(opening_insides(tags)).tolist() == [s.start for s in spans if tags[s.start].startswith("I-")]


def test_scores_do_not_count_it():
    gold = [("O", "B-PER", "I-PER", "O", "O", "B-PER", "I-PER", "O", "B-LOC")]
    assert metrics.score(gold, [TAGS])["recall"] == pytest.approx(100 / 3)
    assert shown_spans(TAGS) == [Span("PER", 1, 3), Span("PER", 5, 7), Span("LOC", 8, 9)]


def test_the_console_marks_it():
    console = Console(file=io.StringIO(), width=200)
    entities = (Entity("PER", 0.8, "Shoshana Levi-Katz", 6, 24, (1, 3), False), Entity("LOC", 0.9, "Oslo", 50, 54, (8, 9)))
    print_entities(console, TaggedText(" ".join(WORDS), WORDS, TAGS, entities))
    shown = console.file.getvalue().splitlines()
    assert shown[0] == "Rabbi [Shoshana Levi-Katz | PER] and Imam Bilal Osmani of [Oslo | LOC]"
    assert shown[1:] == ["  Shoshana Levi-Katz: PER, score 0.800  (I- without B-)", "  Oslo: LOC, score 0.900"]


def test_the_page_marks_it():
    assert Token("Bilal", "B-PER", "I-PER", "I-PER", (False, True, True)).shown == ("B-PER", "I-PER*", "I-PER*")


def test_the_tagger_returns_every_word_that_is_tagged(knn_tagger, evaluated):
    blocks = (evaluated / "run" / "predictions" / "test.conll").read_text(encoding="utf-8").strip("\n").split("\n\n")
    tagged = knn_tagger.tag([[line.split("\t")[0] for line in block.split("\n")] for block in blocks])
    for text in tagged:
        shown = [position for entity in text.entities for position in range(*entity.words)]
        assert shown == [position for position, label in enumerate(text.labels) if label != "O"]
        assert [entity.is_strict for entity in text.entities] == [
            text.labels[entity.words[0]].startswith("B-") for entity in text.entities
        ]
    assert {entity.is_strict for text in tagged for entity in text.entities} == {True, False}
