"""The page of a study from made-up findings: no condition goes unsaid."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from knn_ner_jax.ablation import analysis, summary
from knn_ner_jax.ablation.analysis import ConditionResult, DevResult
from knn_ner_jax.ablation.page import build_page
from knn_ner_jax.ablation.statistics import Comparison, Estimate, Spread
from knn_ner_jax.ablation.study import Study
from knn_ner_jax.config import AblationConfig, DataConfig, ModelConfig, StudyConfig

F1 = Spread(50.0, 1.0, 3)


def page(gains, opened=(), seeds=3):
    """Of a study with a condition for each gain, all intervals of which reach 1 to both sides."""
    found = []
    for number, gain in enumerate(gains):
        estimate = Estimate(50.0, 49.0, 51.0)
        compared = Comparison(estimate, estimate, Estimate(gain, gain - 1, gain + 1))
        f1 = {"tagger": F1, "knn": F1}
        tested = analysis.TestResult({}, (None,) * seeds, f1, f1, {"knn": compared}, None)
        found.append(ConditionResult({"data.dir": number}, (DevResult({}, F1, F1, None),), (tested,), None))
    config = StudyConfig("study", DataConfig("corpus"), ModelConfig("backbone"), ablation=AblationConfig([*range(seeds)]))
    study = Study(Path("study"), config, ())
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


def test_an_interval_of_two_seeds_is_said_not_to_be_trusted():
    of_two, of_three = (page([2.0], seeds=seeds).summary for seeds in (2, 3))
    assert of_two[0].endswith("the interval excludes 0, but one of two seeds is not to be trusted.")
    assert of_two[-1].endswith(summary.TWO_SEEDS)
    assert not any("trust" in said for said in of_three)


def test_a_page_says_what_it_was_made_of_and_with(monkeypatch):
    monkeypatch.setattr("knn_ner_jax.runs.environment", lambda: {"packages": {"jax": "1.2"}, "git_revision": "abc"})
    made = page([2.0], seeds=1)
    assert made.footer == ("jax 1.2", "git revision abc")
    section = made.sections[-1]
    assert (section.title, section.text) == ("Configuration", ("1 seed, 1 condition, 1 choice.",))
    fields = dict(section.tables[0].rows)
    assert (fields["data.dir"], fields["ablation.seeds"]) == ("corpus", "[0]")


def test_dev_prefers_no_mixing_before_learned_mixing_is_fitted():
    estimate = Estimate(2.0, 1.0, 3.0)
    compared = Comparison(estimate, estimate, estimate)
    f1, gains = {"tagger": F1, "knn": F1}, {"knn": compared}
    fitted = analysis.TestResult(
        {}, (None,), f1 | {"learned": F1}, f1 | {"learned": F1}, gains | {"learned": compared}, compared
    )
    tested = fitted, analysis.TestResult({}, (None,), f1, f1, gains, None)
    header, rows = summary.test_rows([ConditionResult({"knn.k": k}, (), (one,), None) for k, one in enumerate(tested)])
    prefers, over = header.index("dev prefers"), header.index("over one weight [95%]")
    assert [(row[over], row[prefers]) for row in rows] == [("+2.0 [+1.0, +3.0]", "one weight"), ("", "")]
