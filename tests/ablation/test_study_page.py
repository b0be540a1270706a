"""The page of a study from made-up findings: no condition goes unsaid."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from knn_ner_jax.ablation import findings
from knn_ner_jax.ablation.findings import Finding, OnDev
from knn_ner_jax.ablation.page import build_page
from knn_ner_jax.ablation.significance import Comparison, Estimate
from knn_ner_jax.ablation.spread import Spread

F1 = Spread(50.0, 1.0, 3)


def page(gains, opened=()):
    """Of a study with a condition for each gain, all intervals of which reach 1 to both sides."""
    found = []
    for number, gain in enumerate(gains):
        estimate = Estimate(50.0, 49.0, 51.0)
        compared = Comparison(estimate, estimate, Estimate(gain, gain - 1, gain + 1))
        f1 = {"vanilla": F1, "knn": F1}
        tested = findings.Tested({}, (None,) * 3, f1, f1, {"knn": compared}, None)
        found.append(Finding({"data.dir": number}, (OnDev({}, F1, F1, None),), (tested,), None))
    ablation = SimpleNamespace(seeds=[0, 1, 2])
    study = SimpleNamespace(config=SimpleNamespace(ablation=ablation), folder=Path("study"))
    return build_page(SimpleNamespace(study=study), found, [], {}, None, opened)


@pytest.mark.parametrize("number", [1, 4])
def test_the_summary_says_what_came_out_for_each_condition(number):
    said = page([2.0] * number).summary[:-1]
    assert [line.partition(":")[0] for line in said] == [f"data.dir {condition}" for condition in range(number)]
    assert said[0].endswith("gain +2.0 [+1.0, +3.0]: the interval excludes 0.")


def test_many_conditions_are_counted_and_the_last_one_is_said():
    assert page([2.0, -3.0, 0.5, 1.5, 0.0]).summary[:-1] == (
        "In 2 of 5 conditions the whole interval of the gain is above 0, in 1 below it; the table under Test has them all.",
        "The last of them: data.dir 4: tagger 50.0 ± 1.0, kNN-NER 50.0 ± 1.0, gain +0.0 [-1.0, +1.0]: the interval holds 0.",
    )


def test_what_test_was_opened_for_before_is_told_beside_what_it_says():
    entry = {"condition": {"data.dir": 0}, "choice": {"knn.metric": "l2"}, "setting": {"k": 1}}
    opened = [entry | {"seed": 0}, entry | {"seed": 2}, entry | {"seed": 1, "setting": None, "choice": {}}]
    again = (
        "Test was opened before, with taggers of this study, for what the study does not show any more, and what it said "
        "may have led to what is shown: for data.dir 0; knn.metric l2 (seed 0, 2), and for data.dir 0; as configured; "
        "learned mixing (seed 1). opened.jsonl has the settings."
    )
    assert again in {section.title: section for section in page([2.0], opened).sections}["Test"].text
    assert not any("opened before" in said for section in page([2.0]).sections for said in section.text)
