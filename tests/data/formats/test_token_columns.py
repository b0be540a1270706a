"""CoNLL-U, HIPE, Universal NER and WebAnno TSV 3 in their documented layouts, read by hand, an emoji before the entities."""

from pathlib import Path

import pytest
from helpers.span_files import faults, read, sentences_of

NORNE = """# sent_id = 1
# text = 😀 Dommer Finn Eilertsen sier det.
1\t😀\t😀\tSYM\t_\t_\t0\troot\t_\tname=O
2\tDommer\tdommer\tNOUN\t_\t_\t0\troot\t_\t_
3\tFinn\tFinn\tPROPN\t_\t_\t2\tappos\t_\tname=B-PER
4-5\tEilertsens\t_\t_\t_\t_\t_\t_\t_\t_
4\tEilertsen\tEilertsen\tPROPN\t_\t_\t3\tflat\t_\tSpaceAfter=No|name=I-PER
5\ts\ts\tPART\t_\t_\t3\tflat\t_\tname=O
5.1\tx\tx\tVERB\t_\t_\t_\t_\t_\t_
6\t10 000\t10000\tNUM\t_\t_\t3\tflat\t_\tname=O
"""
NAMETAG = """1\tVáclav\t_\t_\t_\t_\t_\t_\t_\tNE=P_1-pf_2
2\tHavel\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No|NE=P_1-ps_3
3\tJan\t_\t_\t_\t_\t_\t_\t_\tNE=P_4
4\tbyl\t_\t_\t_\t_\t_\t_\t_\t_

1\tHavel\t_\t_\t_\t_\t_\t_\t_\tNE=ps_5
"""
HIPE = """TOKEN\tNE-COARSE-LIT\tNE-COARSE-METO\tNE-FINE-LIT\tNE-FINE-METO\tNE-FINE-COMP\tNE-NESTED\tNEL-LIT\tNEL-METO\tMISC
# hipe2022:document_id = 1
# a comment\twith a tab
😀\tO\t_\tO\t_\t_\tO\t_\t_\t_
#\tO\t_\tO\t_\t_\tO\t_\t_\t_
Ajax\tB-pers\t_\tB-pers.myth\t_\t_\tO\tQ172725\t_\tLED0.00
Buschorà\tI-pers\t_\tI-pers.myth\t_\t_\tO\tQ172725\t_\tPartial-0:7
.\tO\t_\tO\t_\t_\tO\t_\t_\tNoSpaceAfter|EndOfSentence
Hence\tO\t_\tO\t_\t_\tO\t_\t_\tEndOfLine

# hipe2022:document_id = 2
Athens\tB-loc\t_\tB-loc\t_\t_\tO\tQ1\t_\tEndOfSentence
"""
HIPE_2020 = """TOKEN\tNE-COARSE-LIT\tRENDER\tSEG\tMISC
Ann\tB-pers\tNoSpaceAfter|EndOfLine\tEndOfSentence\t_
left\tO\t_\t_\t_
"""
UNER = """# sent_id = answers-1
# text = 😀 # in tampa bay
1\t😀\tO\t-\t-
2\t#\tO\t-\t-
3\tin\tO\t-\t-
4\ttampa\tB-LOC\t-\tstephen
5\tbay\tI-LOC\t-\tstephen

# sent_id = answers-2
1\tok\tO\t-\t-
"""
WEBANNO = """#FORMAT=WebAnno TSV 3.3
#T_SP=de.tudarmstadt.ukp.dkpro.core.api.lexmorph.type.pos.POS|PosValue
#T_SP=de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity|identifier|value
#T_RL=webanno.custom.Relation|value|BT_de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity


#Text=😀 Ms. Haag
#Text=plays Elianti\\\\.
1-1\t0-2\t😀\tSYM\t_\t_\t_\t_\t
1-2\t3-6\tMs.\tNNP\t*[1]|*[2]\tPER[1]|PERpart[2]\t*\t1-1[0_1]\t
1-3\t7-11\tHaag\tNNP\t*[1]\tPER[1]\t_\t_\t
1-4\t12-17\tplays\tVBD\t_\t_\t_\t_\t
1-4.1\t12-16\tplay\t_\t*\tSTEM\\_X\t_\t_\t
1-5\t18-25\tElianti\tNNP\t*\tOTH\t_\t_\t
1-6\t25-27\t\\\\.\t.\t*\t*\t_\t_\t

#Sentence.id=s2
#Text=In Bonn
2-1\t28-30\tIn\tIN\t*[3]\tLOC[3]\t_\t_\t
2-2\t31-35\tBonn\tNNP\t*[4]|*[3]\tLOC[4]|LOC[3]\t_\t_\t

#Text=End
3-1\t36-39\tEnd\tNN\t*[4]\tLOC[4]\t_\t_\t
"""

DOCUMENTED = {
    "norne": (
        "conllu",
        NORNE,
        ["😀/O Dommer/O Finn/B-PER Eilertsen/I-PER s/O 10 000/O"],
        {"comment": 2, "multiword token, whose words are read": 1, "empty node": 1},
    ),
    "nametag": (
        "conllu",
        NAMETAG,
        ["Václav/B-P Havel/I-P Jan/B-P byl/O", "Havel/B-ps"],
        {"span that overlaps a longer or earlier one": 2},
    ),
    "hipe 2022": (
        "hipe",
        HIPE,
        ["😀/O #/O Ajax/B-pers Buschorà/I-pers ./O", "Hence/O", "Athens/B-loc"],
        {"comment": 3, "name that covers a part of its word, read as the whole word": 1},
    ),
    "hipe 2020": ("hipe", HIPE_2020, ["Ann/B-pers", "left/O"], {}),
    "uner": ("uner", UNER, ["😀/O #/O in/O tampa/B-LOC bay/I-LOC", "ok/O"], {"comment": 3}),
    "webanno": (
        "webanno",
        WEBANNO,
        ["😀/O Ms./B-PER Haag/I-PER plays/B-STEM_X Elianti/B-OTH \\./O", "In/B-LOC Bonn/I-LOC", "End/O"],
        {
            "span that overlaps a longer or earlier one": 1,
            "span that cuts a word, read as the whole words": 1,
            "span without a type": 1,
            "span across the end of a sentence": 1,
        },
    ),
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("case", DOCUMENTED)
def test_the_documented_layout_with_every_line_end(tmp_path: Path, case: str, end: str):
    name, content, expected, counts = DOCUMENTED[case]
    raw = read(tmp_path / "train", name, content.replace("\n", end))
    assert faults(raw) == []
    assert sentences_of(raw) == expected
    assert raw.skipped == counts


def test_the_line_of_a_word_is_its_own(tmp_path: Path):
    assert [row.line for row in read(tmp_path / "train", "uner", UNER).rows] == [3, 4, 5, 6, 7, 10]


def test_a_name_in_a_part_of_its_word_is_refused_on_demand(tmp_path: Path):
    raw = read(tmp_path / "train", "hipe", HIPE, "refuse")
    assert faults(raw) == ["train:7: found a name in a part of 'Buschorà', expected names of whole words"]
    assert raw.skipped["span that cuts a word"] == 1


def test_a_sentence_of_webanno_without_tokens_is_counted(tmp_path: Path):
    raw = read(tmp_path / "train", "webanno", WEBANNO + "\n#Text= \n\n#Text=x\n5-1\t45-46\tx\t_\t_\t_\t_\t_\t\n")
    assert sentences_of(raw)[-1] == "x/O"
    assert raw.skipped["sentence without words"] == 1


def test_webanno_before_3_2_escapes_signs_beyond_the_bmp_in_two(tmp_path: Path):
    header = "#FORMAT=WebAnno TSV 3.1\n#T_SP=webanno.custom.Name|kind\n\n\n"
    rows = "#Text=\\ud83d\\ude00 Ann\n1-1\t0-2\t\\ud83d\\ude00\t_\t\n1-2\t3-6\tAnn\tPER\t\n"
    assert sentences_of(read(tmp_path / "train", "webanno", header + rows)) == ["😀/O Ann/B-PER"]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("conllu", NORNE.replace("name=", "mane="), " found no names, expected name=, NE=, NER=, ner= in the last column"),
        ("conllu", "1\ta\tO\n", "1: found '1\\ta\\tO', expected 10 columns with tabs between, the first a number"),
        ("conllu", NORNE.replace("B-PER", "PER"), "5: found the tag 'PER', expected O or B-TYPE"),
        ("conllu", NAMETAG.replace("P_1-pf_2", "P_1-pf"), "1: found the tag 'P_1-pf', expected O or B-TYPE"),
        ("conllu", NAMETAG.replace("NE=ps_5", "NE="), "6: found the tag '', expected O or B-TYPE"),
        ("conllu", NORNE.replace("name=B-PER", "name=B- "), "5: found the tag 'B-', expected O or B-TYPE"),
        ("conllu", NORNE.replace("3\tFinn", "3\t \u3000"), "5: found the token '\\u3000', expected a word"),
        ("conllu", NORNE.replace("3\tFinn", "3\ta\0"), "5: found U+0000 in the token, expected characters that UTF-8"),
        ("conllu", NORNE.encode().replace(b"Finn\t", b"\xff\t"), "5: found byte 0xff, expected UTF-8 text"),
        ("hipe", "TOKEN\tLEMMA\n", "1: found 'TOKEN\\tLEMMA', expected a header with the columns TOKEN and NE-COARSE-LIT"),
        ("hipe", HIPE.replace("B-loc\t_", "B-loc"), "12: found 8 columns, expected 10, as in the header"),
        ("hipe", HIPE.replace("Athens\tB-loc", "Athens\t_"), "12: found the tag '_', expected O or B-TYPE"),
        (
            "uner",
            UNER.replace("4\ttampa", "four\ttampa"),
            "6: found 'four\\ttampa\\tB-LOC\\t-\\tstephen', expected 3 columns",
        ),
        ("webanno", "#FORMAT=WebAnno TSV 2\n", "1: found '#FORMAT=WebAnno TSV 2', expected #FORMAT=WebAnno TSV 3.x"),
        ("webanno", "", "1: found '', expected #FORMAT=WebAnno TSV 3.x"),
        ("webanno", "#FORMAT=WebAnno TSV 3.3\n#T_SP=a|x\n#T_SP=b|x\n", "1: found the layers of spans a, b, expected one"),
        ("webanno", "#FORMAT=WebAnno TSV 3.3\n#T_SP=a|x|y\n", "1: found the features x, y of a, expected one layer"),
        ("webanno", WEBANNO.replace("3-6", "3-x"), "10: found '1-2\\t3-x\\tMs.\\tNNP\\t*[1]|*[2]\\tPER[1]|PERpart[2]"),
        ("webanno", WEBANNO.replace("3-6", "4-6"), "10: found 'Ms.', expected 's.', as in the #Text"),
        ("webanno", WEBANNO.replace("3-6", "1-6"), "10: found 'Ms.' from 1 to 6 in a sentence from 0, expected offsets"),
        ("webanno", WEBANNO.replace("7-11", "5-11"), "11: found 'Haag' from 5 to 11 in a sentence from 0, expected offsets"),
        ("webanno", WEBANNO.replace("3-6", f"3-{'9' * 18}"), "10: found 'Ms.' from 3 to 999999999999999999 in a sentence"),
        ("webanno", WEBANNO.replace("OTH\t", "O[TH\t"), "14: found 'O[TH', expected values with bars between"),
        (
            "webanno",
            WEBANNO.replace("\tOTH\t_\t_\t", ""),
            "14: found '1-5\\t18-25\\tElianti\\tNNP\\t*', expected SENTENCE-TOKEN",
        ),
        ("webanno", WEBANNO.replace("OTH", " OTH"), "9: found the type ' OTH', expected a name"),
        ("webanno", WEBANNO.encode().replace(b"Haag\t", b"\xff\t"), "11: found byte 0xff, expected UTF-8 text"),
        ("webanno", WEBANNO.replace("Haag", "\\ud83d"), "9: found U+D83D in text, expected characters that UTF-8 can"),
        ("msra", "在/o\0/o\n", "1: found U+0000 in text, expected characters"),
        ("weibo", "\x000 O\n", "1: found U+0000 in text, expected characters"),
        ("conll2012", "a 0 0 b c d e f g h (X-) -\n", "1: found the type 'X-', expected a name without hyphens"),
        ("weibo", "科0 B-PER.NAM\n技1 I\n", "2: found the tag 'I', expected O or B-TYPE"),
        ("conll2012", "a 0 0 \0 b c d e f g * -\n", "1: found U+0000 in text, expected characters"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, content: str | bytes, found: str):
    line = faults(read(tmp_path / "train", name, content))[0]
    assert line.startswith(f"train:{found}")
