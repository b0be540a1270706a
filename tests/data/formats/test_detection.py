"""Which format a file or a folder is in, by its content: every format that a tool writes, and nothing else."""

import json
from pathlib import Path

import pytest
from helpers.span_files import SUFFIXES, WRITERS, Text

from knn_ner_jax.data import corpus
from knn_ner_jax.data.formats import detection
from knn_ner_jax.data.spans import Span

TEXTS = [Text("No one.", [(0, 2), (3, 6), (6, 7)], []), Text("In 北京", [(0, 2), (3, 4), (4, 5)], [Span(3, 5, "LOC")])]
QUICKSTART = Path(corpus.__file__).parent / "quickstart"


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("spacy", "doccano-code-points")])
def test_every_format_is_detected_by_its_content(tmp_path: Path, name: str):
    for number, write in enumerate(WRITERS[name]):
        path = write(tmp_path / f"train{number}{SUFFIXES.get(name, '.txt')}", TEXTS)
        assert detection.detect(path) == name
        assert detection.read(path, name).tags[-1] == ["O", "B-LOC", "I-LOC"]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("中共/nt 致/o 李/nr \n", "msra"),
        ("#begin document (bc/x/00/x_0000); part 000\n", "conll2012"),
        ("EU B-ORG\nrejects O\n", None),
        ("EU\tNNP\tB-NP\tB-ORG\n", None),
        ("-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\n", None),
        ("1\tEU\tNNP\tx\tB-ORG\n", None),  # columns whose first word is a number
        ("1 2 3 4 5 6 7 8 9 B-ORG\n", None),
        ("1\t2\t3\t4\t5\t6\t7\t8\t9\tO\n", None),
        ("1\tEU\tO\n", None),
        ("科0\tB-PER.NAM\n", None),  # only asked for by its name
        ("and/or O\n", None),
        ("a/o" * 20_000 + "x", None),  # in no long time
        ("<p> O\n", None),
        ("{ O\n} O\n", None),
        ("[ O\n", None),
        ("", None),
        (" \n", None),
        ('{"tokens": ["a"], "ner_tags": ["O"]}\n', None),
        ('{"tokens": ["a"], "ner_tags": ["O"], "text": "a", "spans": [{"start": 0, "end": 1, "label": "X"}]}\n', None),
        ('{"text": "a"}\n', None),
        ('{"text": "a", "label": []}\n', None),
        ('{"text": "a", "label": "good"}\n', None),
        ("<html></html>", None),
        (b"\xff\xfe\x00\x00", None),
    ],
)
def test_columns_and_the_package_s_own_objects_are_none_of_them(tmp_path: Path, content: str | bytes, name: str | None):
    for suffix in (".txt", ".json", ".conll", ""):
        path = tmp_path / f"train{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert detection.detect(path) == name


def test_an_object_without_entities_leaves_it_to_the_next(tmp_path: Path):
    records = [{"text": "a", "label": []}] * 2500 + [{"text": "a", "label": [[0, 1, "X"]]}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert detection.detect(tmp_path / "train.jsonl") == "doccano"
    (tmp_path / "train.json").write_text(json.dumps([{"text": "a" * 100_000, "label": [[0, 1, "X"]]}]))
    assert detection.detect(tmp_path / "train.json") == "doccano"


def test_the_corpus_of_the_package_and_paths_that_are_not_there_are_none(tmp_path: Path):
    assert [detection.detect(path) for path in corpus.find_splits(QUICKSTART).values()] == [None] * 3
    assert detection.detect(tmp_path / "nothing") is None
    assert detection.detect(tmp_path) is None
    assert detection.detect(Path("hub:owner/name/train")) is None


def test_a_pair_of_brat_is_detected_by_either_half_and_a_text_alone_is_none(tmp_path: Path):
    (tmp_path / "train.txt").write_text("Ann B-PER\n")
    assert detection.detect(tmp_path / "train.txt") is None
    (tmp_path / "train.ann").write_text("")
    assert [detection.detect(tmp_path / f"train{suffix}") for suffix in (".txt", ".ann")] == ["brat", "brat"]


def test_the_page_about_corpora_has_a_line_for_every_format():
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [name for name in detection.FORMATS if not any(f"`{name}`" in row.split("|")[1] for row in rows)] == []
