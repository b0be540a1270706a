"""Any text: every entity, and every word, is the slice of it that its offsets say, and every word has one label."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knn_ner_jax.data.texts import Document
from knn_ner_jax.entities import tagged_texts
from knn_ner_jax.knn.combine import KnnParams, LabelProbabilities
from knn_ner_jax.knn_tagger import KnnTagger

SCRIPTS = (
    *("Angela Merkel 's Nokia", "Oslo, don't U.S.A. 3,000", "e\u0301tude a\u200db x\u0301\u0323"),
    *("\t \u00a0\u3000\u2028\x85\r\n", "\x00 \ufffd \ufeff \ufe0f \u00ad", "Ἀθῆναι Київ Ի՞նչ ქართ"),
    *("मैं दिल्ली में हूँ।", "สมชายอยู่ที่เชียงใหม่", "北京大学 東京タワー ﾔﾏﾀﾞ", "한국 \u1112\u1161\u11ab"),
    *("မြန်မာ ភ្នំពេញ བོད་ ລາວ", "מֹשֶׁה גר בחיפה", "صلاح الدين في القاهرة \u200f\u202eabc\u202c"),
    "👩\u200d👩\u200d👧 🏳️\u200d🌈 🇩🇪 1️⃣",
)
PIECES = st.sampled_from(SCRIPTS).flatmap(lambda text: st.text(text, max_size=12)) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=12
)
TEXTS = st.lists(PIECES | st.sampled_from(SCRIPTS), max_size=12).map("".join)
ANY = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)


def check(text: str, tagged) -> None:
    assert tagged.text == text
    assert len(tagged.labels) == len(tagged.words)
    end = 0
    for entity in tagged.entities:
        assert end <= entity.start < entity.end <= len(text)
        end = entity.end
        assert entity.word == text[entity.start : entity.end]
        first, last = tagged.words[entity.words[0]], tagged.words[entity.words[1] - 1]
        assert entity.word.startswith(first)
        assert entity.word.endswith(last)


@ANY
@given(st.lists(TEXTS, max_size=4), st.randoms(use_true_random=False))
def test_entities_of_any_labels_are_slices(texts, random):
    names = ("O", "B-X", "I-X", "I-Y")
    documents = [Document.of(text, "") for text in texts]
    labels = np.array([random.randrange(4) for each in documents for _ in each.words], np.int32)
    p = np.array([random.random() for _ in labels], np.float32)
    results = tagged_texts(documents, labels, names, LabelProbabilities(p, p, p))
    for text, document, tagged in zip(texts, documents, results, strict=True):
        check(text, tagged)
        assert document.words == tuple(text[start:end] for start, end in document.spans)
        covered = [position for entity in tagged.entities for position in range(*entity.words)]
        assert covered == [position for position, label in enumerate(tagged.labels) if label != "O"]


def tag_any(knn_tagger: KnnTagger, examples: int) -> None:
    """Tags so many texts, 40 at a time, with neighbours alone, which name most entities."""
    tagger = replace(knn_tagger, knn_params=KnnParams("cosine", 1, 0.1, 1.0))
    entities = 0

    @settings(ANY, max_examples=examples // 40)
    @given(st.lists(TEXTS, min_size=40, max_size=40))
    def tag(texts):
        nonlocal entities
        for text, tagged in zip(texts, tagger.tag(texts, batch_size=4), strict=True):
            check(text, tagged)
            entities += len(tagged.entities)

    tag()
    assert entities > examples // 10


def test_entities_of_any_text_are_slices_of_it(knn_tagger: KnnTagger):
    tag_any(knn_tagger, 80)


@pytest.mark.slow
def test_entities_of_two_thousand_texts_are_slices_of_them(knn_tagger: KnnTagger):
    tag_any(knn_tagger, 2000)


def test_a_text_of_fifty_thousand_characters_is_tagged_whole(knn_tagger: KnnTagger):
    text = ("".join(SCRIPTS) * 200)[:50_000]
    # The nearest neighbour alone names most entities.
    (tagged,) = replace(knn_tagger, knn_params=KnnParams("cosine", 1, 0.1, 1.0)).tag([text])
    assert len(tagged.words) > 10_000
    assert len(tagged.entities) > 100
    assert tagged.entities[-1].end > 40_000
    check(text, tagged)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann's  home is in Rome.", "Ann's  home is in Rome."),
        ("Ann is in Rome.", "Ann 's home is in Rome ."),  # not the text of these tokens
        (7, "Ann 's home is in Rome ."),
    ],
)
def test_offsets_of_tokens_are_those_of_the_text_that_comes_with_them(text, expected):
    tokens = ["Ann", "'s", "home", "is", "in", "Rome", "."]
    document = Document.of({"tokens": tokens, "text": text, "id": 3}, "line 1")
    assert document.text == expected
    assert [document.text[start:end] for start, end in document.spans] == tokens
    assert document.fields == {"id": 3, "text": expected if isinstance(text, str) else text}


def test_tokens_are_not_found_inside_other_words_of_a_text():
    document = Document.of({"tokens": ["an", "apple"], "text": "banana: an apple"}, "line 1")
    assert (document.text, document.spans) == ("an apple", ((0, 2), (3, 8)))
    assert Document.of({"tokens": ["an", "apple"], "text": "  an\u3000apple."}, "line 1").spans == ((2, 4), (5, 10))
