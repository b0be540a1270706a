"""Plain text and its words."""

import pytest

from knn_ner_jax.data.tokenization import split_words

CASES = {
    "Ann's dog didn't bark.": "Ann 's dog did n't bark .",
    "I'm sure we've, they'll, he'd, you're": "I 'm sure we 've , they 'll , he 'd , you 're",
    "CAN'T": "CA N'T",
    "Ann’s dog didn’t bark": "Ann ’s dog did n’t bark",
    "the dogs' home": "the dogs ' home",
    "O'Brien": "O'Brien",
    "state-of-the-art, Franco-German": "state-of-the-art , Franco-German",
    "1990-1995 – and": "1990-1995 – and",
    "a 3.5% rise to $1.2": "a 3.5 % rise to $ 1.2",
    "U.S.A and Ph.D students": "U.S.A and Ph.D students",
    "(Paris)": "( Paris )",
    "“Paris”": "“ Paris ”",
    "我爱北京。": "我 爱 北 京 。",
    "东京タワー3号": "东 京 タ ワ ー 3 号",
    "COVID-19疫情": "COVID-19 疫 情",
    "Zürich  Łódź\tСанкт-Петербург": "Zürich Łódź Санкт-Петербург",
    "cafe\u0301s": "cafe\u0301s",
    "@ann #news": "@ ann # news",
    " \t\n": "",
}


@pytest.mark.parametrize("text", CASES)
def test_words_of_plain_text(text):
    assert split_words(text) == tuple(CASES[text].split())


@pytest.mark.parametrize("text", CASES)
def test_no_sign_is_lost(text):
    assert "".join(split_words(text)) == "".join(text.split())
