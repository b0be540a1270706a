"""Plain text and its words."""

import pytest

from knn_ner_jax.data.words import split_words

CASES = {
    "Ann's dog didn't bark.": "Ann 's dog did n't bark .",
    "I'm sure we've, they'll, he'd, you're": "I 'm sure we 've , they 'll , he 'd , you 're",
    "CAN'T": "CA N'T",
    "Ann’s dog didn’t bark": "Ann ’s dog did n’t bark",
    "Ann 's dog did n't , they 'LL": "Ann 's dog did n't , they 'LL",
    "'s-Gravenhage 'sure' 'S'": "' s-Gravenhage ' sure ' ' S '",
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
    "दिल्ली में रहता है।": "दिल्ली में रहता है ।",
    "বাংলাদেশের রাজধানী": "বাংলাদেশের রাজধানী",
    'מֹשֶׁה גר בחיפה. צה"ל': 'מֹשֶׁה גר בחיפה . צה"ל',
    "สมชายอยู่ที่น้ำ ๒๕๖๓": "ส ม ช า ย อ ยู่ ที่ น้ำ ๒๕๖๓",
    "မြန်မာ ខ្មែរ": "မြ န် မာ ខ្មែ រ",
    "می\u200cخواهم": "می\u200cخواهم",
    "l'any col·legi": "l'any col·legi",
    "3,000 of 1,2,x": "3,000 of 1,2 , x",
    "👩\u200d👧 ❤\ufe0f 🇩🇪": "👩\u200d👧 ❤\ufe0f 🇩🇪",
    "ខ្ញុំ\u200bទៅ": "ខ្ញុំ ទៅ",
    "Ի՞նչ է Հայաստա՜ն։ հա֊յ": "Ի՞նչ է Հայաստա՜ն ։ հա֊յ",
    "O‘zbekiston ‘a’": "O‘zbekiston ‘ a ’",
    "٣٫١٤ و٢٬٠٠٠": "٣٫١٤ و٢٬٠٠٠",
    "ᠮᠣᠩ\u180eᠭ a\u2060b": "ᠮᠣᠩ\u180eᠭ a\u2060b",
    "\u200fقَالَ\u200e \u202bab\u202c. c\u200ed": "قَالَ ab . c\u200ed",
    "@ann_lee _": "@ ann_lee _",
    "சென்னையில் ශ්\u200dරී 각": "சென்னையில் ශ්\u200dරී 각",
    "བོད་ལ": "བོད ་ ལ",
    " \t\n\u200f": "",
}
INVISIBLE = str.maketrans("", "", "\u200b\u200e\u200f\u202b\u202c")


@pytest.mark.parametrize("text", CASES)
def test_words_of_plain_text(text):
    assert split_words(text) == tuple(CASES[text].split())


@pytest.mark.parametrize("text", CASES)
def test_no_sign_is_lost(text):
    assert "".join(split_words(text)).translate(INVISIBLE) == "".join(text.translate(INVISIBLE).split())
