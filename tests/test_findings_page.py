"""The page of findings: answers are those of the tables of studies, and an unfinished study says so."""

from pathlib import Path

import pytest

from knn_ner_jax.ablation.report import UNFINISHED
from knn_ner_jax.report.document import Table, markdown_table, read_markdown_row
from tools import findings

TEST = """# study

How to read it.

## Test

Some text.

| condition | candidate | seeds | tagger | kNN-NER | gain [95%] | adaptive | gain [95%] | over | dev prefers | over |
| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |
| all | last layer | 3 | 44.2 | 45.0 | +0.8 [+0.2, +1.4] | 44.7 | +0.5 [-0.3, +1.3] | -0.3 | kNN-NER |  |
| fifth | last layer | 3 | 35.3 | 36.5 | +1.2 [+0.4, +2.0] | 36.1 | +0.8 [-2.8, +4.5] | -0.4 | kNN-NER |  |
| fifth | middle | 3 | 35.3 | 39.7 | +4.3 [+0.2, +8.5] | 38.6 | +3.2 [-0.3, +6.9] | -1.1 | adaptive | +3.2 |

![Dots](gains.svg)

## Dev

Nothing.
"""


@pytest.fixture
def results(tmp_path) -> Path:
    (tmp_path / "key_bc5cdr").mkdir()
    (tmp_path / "key_bc5cdr" / "summary.md").write_text(TEST)
    return tmp_path


def test_answers_are_of_the_first_key_and_of_the_one_that_dev_chose(results):
    _, _, *rows = findings.answers(results)
    assert rows == [
        "| BC5CDR | all | 44.2 | +0.8 [+0.2, +1.4] | the paper's | +0.8 [+0.2, +1.4] | +0.5 [-0.3, +1.3] | kNN-NER |",
        "| BC5CDR | fifth | 35.3 | +1.2 [+0.4, +2.0] | middle | +4.3 [+0.2, +8.5] | +3.2 [-0.3, +6.9] | adaptive |",
    ]


def test_an_unfinished_study_answers_nothing(results):
    path = results / "key_bc5cdr" / "summary.md"
    path.write_text(f"# study\n\n{UNFINISHED}\n\n## Test\n\nNot searched so far.\n\n## Dev\n")
    assert len(findings.answers(results)) == 2  # header and line


def test_answers_and_studies_stand_where_the_page_has_a_place_for_them(results):
    text = findings.write_page(
        "<!-- answers -->\n<!-- /answers -->\n<!-- key_bc5cdr -->\nold\n<!-- /key_bc5cdr -->", results
    )
    assert "| BC5CDR | fifth |" in text
    assert "#### Dev" in text
    assert "old" not in text
    assert findings.write_page("nothing", results) == "nothing"


def test_an_unfinished_study_says_so_on_the_page():
    assert UNFINISHED not in "\n".join(findings.region(TEST, "."))
    unfinished = findings.region(TEST.replace("How to read it.", UNFINISHED), ".")
    assert unfinished[:4] == ["", UNFINISHED, "", "#### Test"]


def test_names_that_look_like_borders_or_markup_come_through_tables(results):
    names = ["a | b", "<b>c</b>", "d &amp; e", "f \\| g"]
    lines = markdown_table(Table.of(["name", "f1"], [[name, "1.0"] for name in names], 1))
    assert all(line.count("|") == 3 and "<" not in line for line in lines[:-1])
    assert [read_markdown_row(line)[0] for line in lines[2:-1]] == names
    text = (results / "key_bc5cdr" / "summary.md").read_text()
    (results / "key_bc5cdr" / "summary.md").write_text(text.replace("| middle |", "| middle &#124; &lt;b> |"))
    assert "| middle &#124; &lt;b&gt; | +4.3 [+0.2, +8.5] |" in findings.answers(results)[-1]
