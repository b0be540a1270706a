"""The words of plain text: the one rule by which text becomes words, for every script.

Words are those of Unicode's word boundaries (UAX 29), with three differences that corpora of entities agree on: words hold
together across hyphens and full stops (`state-of-the-art`, `U.S.A`), English clitics stand alone (`did n't`), and so does
every character of a script that writes no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese ...). A
character is what a reader takes for one (a grapheme cluster): marks, vowel signs and joiners belong to their letter.
"""

from collections import Counter
from collections.abc import Iterable

import regex

BLANK_TOKEN = "\ufffd"  # stands for a word that is empty or blank; it is read as unknown, whatever the tokenizer

# Line_Break=SA are the South East Asian scripts whose words only a dictionary can tell apart.
_ALONE = r"[\p{Line_Break=SA}\p{Ideographic}\p{Hiragana}\p{Katakana}\u30fc\uff70--\p{Nd}]"
# ZWNJ, ZWJ, a word joiner and Mongolian's vowel separator shape the letters beside them, a soft hyphen says where a word may
# be broken. ALetter has the marks that Armenian writes within words; geresh and hyphen, which it has too, only join.
_LETTER = rf"[\p{{L}}\p{{N}}\p{{M}}\p{{WB=ALetter}}\u200c\u200d\u00ad\u2060\u180e--{_ALONE}--[\u05f3\u058a]]"
_DIRECTION = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # invisible marks of left and right
_JOINER = (
    r"""(?:['’‘＇.．\-\u2010\u2011\u058a_·‧״׳]|(?<=\p{Hebrew}\p{M}*)"(?=\p{Hebrew})|(?<=\p{N})[,٫٬](?=\p{N})"""
    rf"|[{_DIRECTION}]+)"
)
_SPACE = rf"[\s\u200b\ufeff{_DIRECTION}]"  # two more of no width separate words of Khmer and Thai or mark the byte order
_CLITICS = r"(?i:['’](?:s|re|ve|ll|d|m))"
_LONE_CLITIC = rf"(?<!\S){_CLITICS}(?![\w\-'’])"  # as in text whose tokens have blanks between them
_WORD = regex.compile(
    rf"(?={_ALONE})\X\p{{M}}*|{_LONE_CLITIC}|{_LETTER}+(?:{_JOINER}{_LETTER}+)*|(?!{_SPACE})\X",
    regex.VERSION1,
)
_SEVERAL = regex.compile(rf"{_ALONE}\p{{M}}*{_ALONE}", regex.VERSION1)
_ANY_ALONE = regex.compile(_ALONE, regex.VERSION1)
SEGMENTED = 0.2  # of the words of scripts without spaces hold several characters, where a segmenter found them
_CLITIC = regex.compile(rf"(?<=\w)(?:n['’]t|{_CLITICS})$", regex.IGNORECASE)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return where each word and punctuation mark of a text begins and ends (exclusive), in code points.

    >>> word_spans("Ann's dog")
    [(0, 3), (3, 5), (6, 9)]
    """
    spans: list[tuple[int, int]] = []
    for word in _WORD.finditer(text):
        start, end = word.span()
        clitic = _CLITIC.search(word[0])
        if clitic:
            spans += [(start, start + clitic.start()), (start + clitic.start(), end)]
        else:
            spans.append((start, end))
    return spans


def split_words(text: str) -> tuple[str, ...]:
    """Split plain text into words and punctuation marks.

    >>> split_words("Ann's dog didn't bark.")
    ('Ann', "'s", 'dog', 'did', "n't", 'bark', '.')
    >>> split_words("मैं दिल्ली में हूँ। 北京的3,000人")
    ('मैं', 'दिल्ली', 'में', 'हूँ', '।', '北', '京', '的', '3,000', '人')
    """
    return tuple(text[start:end] for start, end in word_spans(text))


def are_segmented(words: Iterable[str]) -> bool:
    """Return whether words of scripts that write no spaces hold several characters, which `split_words` would part.

    >>> are_segmented(("สมชาย", "อยู่", "ไทย")), are_segmented(("北", "京", "Rome"))
    (True, False)
    """
    several = Counter(_SEVERAL.search(word) is not None for word in words if _ANY_ALONE.search(word))
    return several[True] > SEGMENTED * several.total()
