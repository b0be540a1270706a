"""The authors' protocol against sentences worked out by hand from its rules."""

import numpy as np
import pytest
import transformers

from knn_ner_jax.data.tag_schemes import LabelSet, Sentence, wang2022_spans, wang2022_tags
from knn_ner_jax.data.tokenization import NO_WORD, Tokenizer, encode

PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "an",
    "##gel",
    "##a",
    "mer",
    "##kel",
    "met",
    "the",
    "un",
    "in",
    "da",
    "##vos",
    "for",
    "##um",
]
LABELS = LabelSet(("LOC", "ORG", "PER"), "wang2022")
WORDS = ("angela", "merkel", "met", "the", "un", "in", "davos")
TAGS = ("B-PER", "I-PER", "O", "B-ORG", "I-ORG", "O", "B-LOC")
# an ##gel ##a mer ##kel met the un in da ##vos
PIECE_TAGS = ["B-PER", "M-PER", "M-PER", "M-PER", "E-PER", "O", "B-ORG", "E-ORG", "O", "S-LOC", "S-LOC"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.of(transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(PIECES)}))


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O S-X O", [("X", 1, 2)]),
        ("B-X E-X", [("X", 0, 2)]),
        ("B-X M-X M-X E-X S-Y", [("X", 0, 4), ("Y", 4, 5)]),
        ("B-X B-Y E-Y", [("X", 0, 1)]),  # B-Y broke X and is skipped; E-Y ends nothing
        ("B-X B-Y B-Z E-Z", [("X", 0, 1), ("Z", 2, 4)]),  # the label after the skipped one opens again
        ("B-X S-Y S-Z", [("X", 0, 1), ("Z", 2, 3)]),
        ("B-X M-Y E-Y", [("X", 0, 1)]),
        ("B-X E-Y", [("X", 0, 1)]),
        ("B-X M-X O E-X", [("X", 0, 1)]),
        ("B-X M-X", [("X", 0, 1)]),  # the end of the sentence leaves one token
        ("B-X", [("X", 0, 1)]),
        ("M-X E-X O", []),
        ("E-X B-X E-X E-X", [("X", 1, 3)]),
        ("O", []),
    ],
)
def test_entities_are_those_of_the_rules(tags, spans):
    assert [tuple(span) for span in wang2022_spans(tags.split())] == spans


def test_pieces_are_tagged_by_the_rules():
    assert wang2022_tags(TAGS, [3, 2, 1, 1, 1, 1, 2]) == PIECE_TAGS
    # Inside an entity of three words, and at its end, where M stands before the last piece.
    assert wang2022_tags(("B-X", "I-X", "I-X", "B-X"), [1, 2, 3, 1]) == ["B-X", "M-X", "M-X", "M-X", "M-X", "E-X", "S-X"]
    assert [tuple(span) for span in wang2022_spans(PIECE_TAGS)] == [
        ("PER", 0, 5),
        ("ORG", 6, 8),
        ("LOC", 9, 10),
        ("LOC", 10, 11),
    ]


def test_every_piece_and_special_token_has_a_slot(tokenizer):
    sentences = [Sentence(WORDS, TAGS, 1), Sentence(("un", "forum"), ("B-ORG", "O"), 9)]
    split = encode(sentences, tokenizer, 32, LABELS)
    assert [window.word_index.tolist() for window in split.windows] == [list(range(13)), list(range(13, 18))]
    assert tokenizer.subwords(split.windows[1].token_ids.tolist()) == ["[CLS]", "un", "for", "##um", "[SEP]"]
    assert [LABELS.names[label] for label in split.label_ids] == ["O", *PIECE_TAGS, "O", "O", "S-ORG", "O", "O", "O"]
    assert split.word_ids.tolist() == [NO_WORD, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 6, NO_WORD, NO_WORD, 0, 1, 1, NO_WORD]
    assert split.sentence_ids.tolist() == [0] * 13 + [1] * 5
    assert split.is_scored.tolist() == [word != NO_WORD for word in split.word_ids]


@pytest.mark.parametrize("window", [5, 8, 12])
def test_a_long_sentence_has_one_slot_for_every_piece_and_two_special_tokens(tokenizer, window):
    split = encode([Sentence(WORDS, TAGS, 1)], tokenizer, window, LABELS)
    assert len(split.windows) > 1
    word_index = np.concatenate([window.word_index for window in split.windows])
    assert sorted(word_index[word_index != NO_WORD].tolist()) == list(range(13))
    tokens = {}
    for actual in split.windows:
        names = tokenizer.subwords(actual.token_ids.tolist())
        tokens |= {slot: name for slot, name in zip(actual.word_index.tolist(), names, strict=True) if slot != NO_WORD}
    assert [tokens[slot] for slot in range(13)] == ["[CLS]", *PIECES[5:16], "[SEP]"]
    assert split.windows[0].word_index[0] == 0
    assert split.windows[-1].word_index[-1] == 12
