"""Pages: everything is escaped, nothing is fetched, and the numbers are those that went in."""

import base64
import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from helpers.made_up_page import HOSTILE, TYPES, make_explorer, make_page

from knn_ner_jax.report import document

VOID = {"meta", "link", "input", "img"}


class Reader(HTMLParser):
    """What a browser would see: elements with their attributes and their text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "attrs": dict(attrs), "text": "", "parents": [each["tag"] for each in self.open]}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "attrs": dict(attrs), "text": "", "parents": []})

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def of_class(self, name):
        return [element for element in self.elements if name in (element["attrs"].get("class") or "").split()]

    def tags(self, name):
        return [element for element in self.elements if element["tag"] == name]


@pytest.fixture(scope="module")
def html():
    return document.to_html(make_page())


@pytest.fixture(scope="module")
def read(html):
    return Reader(html)


def test_no_text_becomes_markup(read):
    assert not read.open
    assert Counter(element["tag"] for element in read.elements)["script"] == 1
    assert not read.tags("img")
    assert "LOC" not in [element["text"] for element in read.tags("b")]
    for element in read.elements:
        assert not [name for name in element["attrs"] if name.startswith("on")]
    words = [word["text"] for word in read.of_class("w")]
    sentences = [token.word for sentence in make_explorer().sentences for token in sentence.tokens]
    assert [word for word in words if word in sentences or word in HOSTILE] == words
    assert Counter(words) >= Counter(sentences)
    assert read.tags("title")[0]["text"] == f"Made up {HOSTILE[0]}"
    assert [option["text"] for option in read.tags("option")][-3:] == sorted(TYPES)
    assert HOSTILE[1] in [caption["text"] for caption in read.tags("caption")]
    assert read.tags("figcaption")[0]["text"] == HOSTILE[3]
    images = [element["attrs"]["aria-label"] for element in read.elements if element["attrs"].get("role") == "img"]
    assert images == [f"Lines. {HOSTILE[2]}", "Dots."]


def test_nothing_is_fetched_and_no_other_script_may_run(html, read):
    for element in read.elements:
        for name, value in element["attrs"].items():
            if name in ("src", "href", "xlink:href", "action", "srcset", "data", "poster", "formaction"):
                assert value.startswith(("#", "data:,")), (element["tag"], name, value)
    style = read.tags("style")[0]["text"]
    assert "@import" not in html
    assert "url(" not in style
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    policy = next(meta for meta in read.tags("meta") if meta["attrs"].get("http-equiv") == "Content-Security-Policy")
    digest = hashlib.sha256(read.tags("script")[0]["text"].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy["attrs"]["content"]
    assert policy["attrs"]["content"].startswith("default-src 'none'; ")


def test_ids_are_unique_and_links_lead_somewhere(read):
    ids = Counter(element["attrs"]["id"] for element in read.elements if "id" in element["attrs"])
    assert set(ids.values()) == {1}
    for link in read.tags("a"):
        assert link["attrs"]["href"].removeprefix("#") in ids


def test_the_shares_on_the_page_add_up_to_the_vote_of_each_tag(html):
    changes = re.findall(r'<details class="change.*?</details>', html, re.DOTALL)
    assert len(changes) == sum(len(sentence.changes) for sentence in make_explorer().sentences)
    for change in changes:
        shares = defaultdict(float)
        read = Reader(change)
        for element in read.tags("data"):
            if "data-tag" in element["attrs"]:
                shares[element["attrs"]["data-tag"]] += float(element["attrs"]["value"])
        labels = [element for element in read.tags("th") if element["attrs"].get("scope") == "row"]
        p_knn = [float(element["attrs"]["value"]) for element in read.of_class("p-knn")]
        votes = dict(zip([label["text"].removesuffix(" gold") for label in labels], p_knn, strict=True))
        assert sum(p_knn) == pytest.approx(1, abs=1e-6)
        for tag, vote in votes.items():
            assert abs(shares.pop(tag, 0.0) - vote) <= 1e-6
        assert not shares


def test_a_neighbours_sentence_that_is_cut_says_so(read):
    first, second, third = (each["text"] for each in read.of_class("context")[:3])
    assert first.startswith("… ")
    assert not first.endswith("…")
    assert second.endswith(" …")
    assert not second.startswith("…")
    assert "…" not in third


def test_sentences_that_are_left_out_are_counted(html):
    said = " ".join(html.split())
    assert (
        "This page shows 4 of these sentences, picked in turn from each kind of change: 3 of 6 with a word fixed, " in said
    )
    assert "3 of 4 with a word broken, 1 of 1 with a word still wrong; 5 are left out." in said
    everything = replace(make_explorer(), num_changed=4)
    assert "left out" not in document.to_html(replace(make_page(), explorer=everything))
    nothing = replace(make_explorer(), sentences=(), num_changed=0, words={"fixed": 0, "broken": 0, "other": 0})
    assert 'id="filters"' not in document.to_html(replace(make_page(), explorer=nothing))
    assert (
        "explorer"
        not in document.to_html(replace(make_page(), explorer=None)).partition("<body>")[2].partition("<script>")[0]
    )


def test_the_filters_know_kinds_and_types_of_every_change(read):
    types = sorted(TYPES)
    changes = [change for sentence in make_explorer().sentences for change in sentence.changes]
    for element, change in zip(read.of_class("change"), changes, strict=True):
        assert element["attrs"]["data-kind"] == change.token.kind
        assert {types[int(number)] for number in element["attrs"]["data-types"].split()} == change.types


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    document.write_html(path, make_page())
    first = path.read_bytes()
    document.write_html(path, make_page())
    assert path.read_bytes() == first  # the same document, the same bytes

    def fails(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(OSError, match="no space left"):
        document.write_html(path, replace(make_page(), title="another"))
    assert path.read_bytes() == first


@pytest.mark.parametrize(("rows", "align"), [((("a",),), "lr"), ((("a", "1"),), "l"), ((("a", "1"),), "lx")])
def test_a_table_that_does_not_fit_its_header_is_refused(rows, align):
    with pytest.raises(ValueError, match="expected rows and letters l or r for 2 columns"):
        document.Table(("name", "number"), rows, align, "counts")
