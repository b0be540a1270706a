"""brat, BioC, PubTator and spaCy's DocBin in their documented layouts, read by hand; an emoji stands before the entities."""

import importlib.util
import sys
from pathlib import Path

import pytest
from helpers.span_files import Text, faults, read, sentences_of, write_spacy

from knn_ner_jax.data.formats import detection
from knn_ner_jax.data.readers import DataError
from knn_ner_jax.data.spans import Span

BRAT_TEXT = "😀 Sony formed a joint venture with Ericsson.\r\nNorth and South America.\n"
BRAT = """T1\tOrganization 2 6\tSony
T2\tMERGE-ORG 16 29\tjoint venture
T3\tOrganization 35 43\tEricsson
E1\tMERGE-ORG:T2 Org1:T1 Org2:T3
T4\tLocation 46 51;62 69\tNorth America
T5\tLocation 56 69\tSouth America
R1\tOrigin Arg1:T3 Arg2:T4
A1\tNegation E1
*\tEquiv T1 T3
#1\tAnnotatorNotes T1\tthis is a note
"""
BRAT_READ = [
    "😀/O Sony/B-Organization formed/O a/O joint/B-MERGE-ORG venture/I-MERGE-ORG with/O Ericsson/B-Organization ./O",
    "North/O and/O South/B-Location America/I-Location ./O",
]
BRAT_COUNTS = {"annotation that is no span": 5, "discontinuous span": 1}


def pair(folder: Path, name: str, text: str, annotations: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_bytes(text.encode())
    (folder / f"{name}.ann").write_bytes(annotations.encode())
    return folder / f"{name}.ann"


def test_a_pair_of_brat(tmp_path: Path):
    path = pair(tmp_path, "train", BRAT_TEXT, BRAT)
    for half in (path, path.with_suffix(".txt")):
        raw = read(half, "brat")
        assert faults(raw) == []
        assert sentences_of(raw) == BRAT_READ
        assert raw.skipped == BRAT_COUNTS
        assert [rows[0].line for rows in raw.sentences] == [1, 2]


def test_a_folder_of_brat(tmp_path: Path):
    pair(tmp_path / "train", "b", BRAT_TEXT, BRAT)
    pair(tmp_path / "train", "a/c", "Ann.", "T1\tPER 0 3\tAnn\n")
    pair(tmp_path / "train", "a/d", "No one.", "")
    (tmp_path / "train" / "unread.txt").write_text("Not annotated.")
    (tmp_path / "train" / "annotation.conf").write_text("[entities]")
    raw = read(tmp_path / "train", "brat")
    assert sentences_of(raw) == ["Ann/B-PER ./O", "No/O one/O ./O", *BRAT_READ]
    assert raw.skipped == {**BRAT_COUNTS, "text without annotations": 1}
    assert [rows[0].line for rows in raw.sentences] == [1, 2, 3, 3]
    # The hash is of names and contents.
    hashes = {raw.sha256, read(tmp_path / "train" / "b.ann", "brat").sha256}
    (tmp_path / "train" / "b.ann").rename(tmp_path / "train" / "e.ann")
    (tmp_path / "train" / "b.txt").rename(tmp_path / "train" / "e.txt")
    hashes.add(read(tmp_path / "train", "brat").sha256)
    (tmp_path / "train" / "e.txt").write_text(BRAT_TEXT + "x")
    hashes.add(read(tmp_path / "train", "brat").sha256)
    assert len(hashes) == 4


def test_a_span_of_brat_over_a_line_end_is_one_span(tmp_path: Path):
    path = pair(tmp_path, "train", "New York\nCity", "T1\tLOC 4 8;9 13\tYork City\nT2\tLOC 0 3;4 8\tNew York\n")
    raw = read(path, "brat")
    assert sentences_of(raw) == ["New/B-LOC York/I-LOC", "City/O"]
    assert raw.skipped == {"span across the end of a sentence": 1}


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("T1\tPER 0 3\tEve", "'Ann' from 0 to 3, expected 'Eve', the text that the file gives that span"),
        ("T1\tPER 0 9\tAnn", "a span from 0 to 9 in a text of 4 characters, expected offsets of whole characters"),
        ("T1\tPER -1 3\tAnn", "'T1\\tPER -1 3\\tAnn', expected T1, a tab, TYPE START END, a tab and the text"),
        ("T1 PER 0 3 Ann", "'T1 PER 0 3 Ann', expected T1, a tab, TYPE START END, a tab and the text"),
        ("Tx\tPER 0 3\tAnn", "'Tx\\tPER 0 3\\tAnn', expected T1, a tab, TYPE START END, a tab and the text"),
        ("T1\tPER 3 0\t", "a span from 3 to 0 in a text of 4 characters, expected"),
        (f"T1\tPER 0 {'9' * 5000}\tAnn", "the offset '9999999999"),
        ("nonsense", "'nonsense', expected T1, a tab, TYPE START END, a tab and the text"),
        ("T1\tPER 0 3", "'T1\\tPER 0 3', expected T1, a tab, TYPE START END, a tab and the text"),
    ],
)
def test_a_bad_line_of_brat_is_named_in_its_file(tmp_path: Path, row: str, found: str):
    raw = read(pair(tmp_path, "train", "Ann.", f"#1\tNote\n{row}\n"), "brat")
    (line,) = faults(raw)
    assert line.startswith(f"train.ann:2: found {found}")


def test_halves_of_pairs_and_texts_that_are_none_are_bad_lines(tmp_path: Path):
    path = pair(tmp_path / "train", "a", "Ann.", "")
    path.with_suffix(".txt").write_bytes(b"one\n\xff")
    (tmp_path / "train" / "b.ann").write_text("")
    assert [line.replace(f"{tmp_path}/", "") for line in read(tmp_path / "train", "brat").bad_lines] == [
        "train/a.txt:2: found byte 0xff, expected UTF-8 text",
        "train/b.ann: found no .txt beside it, expected the text that it annotates",
    ]
    with pytest.raises(DataError, match=r"b\.txt: expected a file, found none"):
        read(tmp_path / "train" / "b.ann", "brat")


BIOC = """<?xml version='1.0' encoding='UTF-8'?>
<!DOCTYPE collection SYSTEM "BioC.dtd">
<collection><source>BC5CDR</source><date></date><key></key>
<document><id>354896</id>
<passage><infon key="type">title</infon><offset>0</offset><text>😀 Lidocaine-induced cardiac asystole.</text>
<annotation id="1"><infon key="type">Disease</infon><infon key="MESH">D006323</infon>
<location offset="{0}" length="16"/><text>cardiac asystole</text></annotation>
</passage>
<passage><offset>{1}</offset>
<sentence><offset>{1}</offset><text>A dose of</text></sentence>
<sentence><offset>{2}</offset><text>lidocaine &amp; more.</text>
<annotation id="2"><infon key="type">Chemical</infon><location offset="{2}" length="9"/><text>lidocaine</text></annotation>
<annotation id="3"><infon key="type">Chemical</infon><location offset="{2}" length="2"/><location offset="{3}" length="2"/>
<text>li ca</text></annotation></sentence>
<annotation id="4"><infon key="type">X</infon><location offset="{1}" length="12"/><text>A dose of li</text></annotation>
<annotation id="5"><infon key="type">X</infon><text>somewhere</text></annotation>
</passage>
</document></collection>
"""
BIOC_READ = [
    "😀/O Lidocaine-induced/O cardiac/B-Disease asystole/I-Disease ./O",
    "A/O dose/O of/O",
    "lidocaine/B-Chemical &/O more/O ./O",
]


@pytest.mark.parametrize("shift", [0, 3], ids=["code points", "bytes"])
def test_bioc_in_bytes_and_in_code_points(tmp_path: Path, shift: int):
    content = BIOC.format(20 + shift, 39 + shift, 49 + shift, 53 + shift)
    raw = read(tmp_path / "train.xml", "bioc", content)
    assert faults(raw) == []
    assert sentences_of(raw) == BIOC_READ
    assert raw.skipped == {"discontinuous span": 1, "span across the end of a sentence": 1, "annotation without a place": 1}
    assert [rows[0].line for rows in raw.sentences] == [5, 10, 11]


def test_bioc_counts_passages_without_text_and_refuses_what_is_no_number(tmp_path: Path):
    annotation = '<annotation><infon key="type">X</infon><location offset="{}" length="1"/><text>a</text></annotation>'
    body = (
        f"<passage><offset>5</offset><text>a</text>{annotation.format(0)}\n{annotation.format('1e3')}\n"
        "<annotation><location offset='5' length='1'/><text>a</text></annotation></passage>"
        "<passage><offset>9</offset></passage>\n<passage><offset>x</offset><text>b</text></passage>"
    )
    raw = read(tmp_path / "train.xml", "bioc", f"<collection><document>{body}</document></collection>")
    assert faults(raw) == [
        "train.xml:4: found the offset 'x', expected a number",
        "train.xml:1: found a location at 0 of length 1, expected numbers, within a passage",
        "train.xml:2: found a location at '1e3' of length 1, expected numbers, within a passage",
        "train.xml:1: found the type None, expected a name without line ends, and without blanks or hyphens at its ends",
    ]
    assert raw.skipped == {"passage without text": 1}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('<!DOCTYPE c [<!ENTITY a "b">]><collection>&a;</collection>', "declarations of entities or a DTD within the file"),
        ("<!DOCTYPE c [<!ELEMENT c ANY>]><collection/>", "declarations of entities or a DTD within the file"),
        ('<!DOCTYPE c SYSTEM "BioC.dtd"><collection>&a;</collection>', "declarations of entities or a DTD within the file"),
        ("<collection>&a;</collection>", "undefined entity"),
        ("<collection><document>", "no element found"),
        ("", "no element found"),
        (b"<collection>\xff</collection>", "not well-formed"),
        (b"<?xml version='1.0' encoding='nothing'?><collection/>", "unknown encoding"),
        ("<collection>\0</collection>", "not well-formed"),
    ],
)
def test_what_is_not_read_as_xml_is_a_bad_line(tmp_path: Path, content: str | bytes, found: str):
    (line,) = faults(read(tmp_path / "train.xml", "bioc", content))
    assert line.startswith("train.xml:1: found what is not read as XML (")
    assert found in line


def test_elements_nested_without_end_are_read_in_no_long_time(tmp_path: Path):
    raw = read(tmp_path / "train.xml", "bioc", "<collection>" + "<document>" * 2000 + "</document>" * 2000 + "</collection>")
    assert raw.sentences == []


PUBTATOR = """354896|t|😀 Lidocaine-induced cardiac asystole.
354896|a|Administration of lidocaine.
354896\t2\t11\tLidocaine\tChemical\tD008012
354896\t20\t36\tcardiac asystole\tDisease\tD006323
354896\t56\t65\tlidocaine\tChemical\tD008012
354896\tCID\tD008012\tD006323

1|t|None here
1|a|
"""


def test_pubtator(tmp_path: Path):
    raw = read(tmp_path / "train", "pubtator", PUBTATOR)
    assert faults(raw) == []
    assert sentences_of(raw) == [
        "😀/O Lidocaine-induced/B-Chemical cardiac/B-Disease asystole/I-Disease ./O",
        "Administration/O of/O lidocaine/B-Chemical ./O",
        "None/O here/O",
    ]
    assert raw.skipped == {"relation": 1, "span that cuts a word, read as the whole words": 1}
    assert [rows[0].line for rows in raw.sentences] == [1, 1, 8]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("1|t|Ann\n1\t0\t3\tEve\tPER\n", "1: found 'Ann' from 0 to 3, expected 'Eve', the text"),
        ("1|t|Ann\n2\t0\t3\tAnn\tPER\n", "2: found '2\\t0\\t3\\tAnn\\tPER', expected lines of 1, or an empty line"),
        ("1|t|Ann\n2|t|Bob\n", "2: found '2|t|Bob', expected lines of 1, or an empty line"),
        ("1\t0\t3\tAnn\tPER\n", "1: found '1\\t0\\t3\\tAnn\\tPER', expected ID|t|title"),
        ("1|t|Ann\n1\t0\n", "2: found '1\\t0', expected ID, start, end, text and type of a span"),
        ("1|t|Ann\n1\t0\t99\tAnn\tPER\n", "1: found a span from 0 to 99 in a text of 3 characters"),
        ("1|t|A\0nn\n", "1: found U+0000 in text, expected"),
        (b"1|t|Ann\n\xe9\n", "2: found byte 0xe9, expected UTF-8 text"),
    ],
)
def test_a_bad_line_of_pubtator_is_named(tmp_path: Path, content: str | bytes, found: str):
    (line,) = faults(read(tmp_path / "train", "pubtator", content))
    assert line.startswith(f"train:{found}")


def test_without_spacy_its_files_are_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    (tmp_path / "train.spacy").write_bytes(b"")
    with pytest.raises(DataError, match=r"expected the package spacy, found none; the extra spacy brings it: pip install"):
        read(tmp_path / "train.spacy", "spacy")


spacy_alone = pytest.mark.skipif(not importlib.util.find_spec("spacy"), reason="needs the extra spacy")


@spacy_alone
def test_a_docbin(tmp_path: Path):
    from spacy.tokens import Doc, DocBin
    from spacy.tokens import Span as SpacySpan
    from spacy.vocab import Vocab

    vocab = Vocab()
    words = ["😀", "Ann", "Lee", "ca", "n't", ".", "\n", "Köln", "!"]
    doc = Doc(vocab, words=words, spaces=[True, True, True, False, False, False, False, False, False])
    doc.ents = [SpacySpan(doc, 1, 3, label="PER"), SpacySpan(doc, 7, 8, label="LOC")]
    doc.spans["more"] = [SpacySpan(doc, 0, 1, label="X")]
    split = Doc(vocab, words=["One", ".", "Two", "."], sent_starts=[True, False, True, False])
    split.ents = []
    unset = Doc(vocab, words=["Who", "knows"])
    (tmp_path / "train.spacy").write_bytes(DocBin(docs=[doc, split, unset]).to_bytes())
    raw = read(tmp_path / "train.spacy", "spacy")
    assert faults(raw) == []
    assert sentences_of(raw) == ["😀/O Ann/B-PER Lee/I-PER ca/O n't/O ./O", "Köln/B-LOC !/O", "One/O ./O", "Two/O ./O"]
    assert raw.skipped == {"blank token": 1, "span of a group": 1, "text whose entities are not set": 1}
    assert [rows[0].line for rows in raw.sentences] == [1, 1, 2, 2]
    assert detection.detect(tmp_path / "train.spacy") == "spacy"


@spacy_alone
@pytest.mark.parametrize("position", [0, 5, 40, -1])
def test_a_damaged_docbin_is_a_bad_line(tmp_path: Path, position: int):
    path = write_spacy(tmp_path / "train.spacy", [Text("Ann x", [(0, 3), (4, 5)], [Span(0, 3, "PER")])])
    content = bytearray(path.read_bytes())
    content[position] ^= 255
    (line,) = faults(read(path, "spacy", bytes(content)))
    assert line.startswith("train.spacy:1: found what spaCy does not read (")


def test_a_message_about_xml_is_short(tmp_path: Path):
    (tmp_path / "train.xml").write_text(f'<?xml version="1.0" encoding="UTF-{"1" * 5000}"?><collection/>')
    (line,) = faults(read(tmp_path / "train.xml", "bioc"))
    assert len(line) < 200
