"""The document of a study from made-up results: no condition is left out, and doubts are stated."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from knn_ner_jax.ablation import analysis, report
from knn_ner_jax.ablation.analysis import ConditionResult, DevResult
from knn_ner_jax.ablation.config import AblationConfig, StudyConfig
from knn_ner_jax.ablation.report import Content, add_html_only, build_page
from knn_ner_jax.ablation.statistics import Comparison, Estimate, Spread
from knn_ner_jax.ablation.study import Study
from knn_ner_jax.config import DataConfig, ModelConfig
from knn_ner_jax.evaluation.predictions import METHODS
from knn_ner_jax.report.document import Page

F1 = Spread(50.0, 1.0, 3)
SETTING = {"k": "8", "temperature": "0.1", "knn_weight": "0.5", "metric": "cosine"}


def study_of(seeds=3) -> Study:
    config = StudyConfig("study", DataConfig("corpus"), ModelConfig("backbone"), ablation=AblationConfig([*range(seeds)]))
    return Study(Path("study"), config, ())


def page(gains, hidden=(), seeds=3, is_finished=True) -> Page:
    """Of a study with a condition for each gain, all intervals of which reach 1 to both sides."""
    conditions = []
    for number, gain in enumerate(gains):
        estimate = Estimate(50.0, 49.0, 51.0)
        compared = Comparison(estimate, estimate, Estimate(gain, gain - 1, gain + 1))
        f1 = {"tagger": F1, "knn": F1}
        cells = tuple(SimpleNamespace(config=SimpleNamespace(seed=seed)) for seed in range(seeds))
        test = analysis.TestResult({}, cells, f1, f1, {"knn": compared}, None, (SETTING,) * seeds)
        conditions.append(ConditionResult({"data.dir": number}, (DevResult({}, F1, F1, None),), (test,), None))
    return build_page(Content(study_of(seeds), METHODS, conditions, hidden=hidden, is_finished=is_finished))


@pytest.mark.parametrize("number", [1, 4])
def test_the_summary_has_the_result_of_each_condition(number):
    listed = page([2.0] * number).summary[:-1]
    assert [line.partition(":")[0] for line in listed] == [f"data.dir {condition}" for condition in range(number)]
    assert listed[0].endswith("gain +2.0 [+1.0, +3.0]: the interval excludes 0.")


def test_many_conditions_are_counted_and_the_last_one_is_spelt_out():
    assert page([2.0, -3.0, 0.5, 1.5, 0.0]).summary[:-1] == (
        "In 2 of 5 conditions the whole interval of the gain is above 0, in 1 below it; the table under Test has them all.",
        "The last of them: data.dir 4: tagger 50.0 ± 1.0, kNN-NER 50.0 ± 1.0, gain +0.0 [-1.0, +1.0]: the interval holds 0.",
    )


def test_what_test_was_searched_for_before_is_listed_beside_its_scores():
    entry = {"condition": {"data.dir": 0}, "candidate": {"knn.metric": "l2"}, "setting": {"k": 1}}
    of_combiner = entry | {"seed": 1, "setting": None, "candidate": {}, "combiner": "adaptive"}
    hidden = [entry | {"seed": 0}, entry | {"seed": 2}, of_combiner]
    warning = (
        "Test was searched before, with taggers of this study, for what the study does not show any more, and what came out "
        "may have led to what is shown: for data.dir 0; knn.metric l2 (seed 0, 2), and for data.dir 0; as configured; "
        "adaptive (seed 1). test_searches.jsonl has the settings."
    )
    assert warning in {section.title: section for section in page([2.0], hidden).sections}["Test"].text
    assert not any("searched before" in text for section in page([2.0]).sections for text in section.text)


def test_an_unfinished_study_warns_before_anything_else():
    assert page([2.0], is_finished=False).summary[0] == report.UNFINISHED
    assert report.UNFINISHED not in page([2.0]).summary


def test_an_interval_of_two_seeds_is_not_to_be_trusted():
    of_two, of_three = (page([2.0], seeds=seeds).summary for seeds in (2, 3))
    assert of_two[0].endswith("the interval excludes 0, but one of two seeds is not to be trusted.")
    assert of_two[-1].endswith(report.TWO_SEEDS)
    assert not any("trust" in text for text in of_three)


def test_html_has_the_configuration_and_the_versions_that_made_it(monkeypatch):
    monkeypatch.setattr(report, "environment", lambda: {"packages": {"jax": "1.2"}, "git_revision": "abc"})
    document = page([2.0], seeds=1)
    html_page = add_html_only(document, study_of(1), None, "the corpus is gone")
    assert html_page.footer == ("jax 1.2", "git revision abc")
    assert html_page.sections[:-2] == document.sections
    sentences, configuration = html_page.sections[-2:]
    assert sentences.text == ("No sentences are shown: the corpus is gone.",)
    assert (configuration.title, configuration.text) == ("Configuration", ("1 seed, 1 condition, 1 candidate.",))
    fields = dict(configuration.tables[0].rows)
    assert (fields["data.dir"], fields["ablation.seeds"]) == ("corpus", "[0]")


def test_dev_prefers_no_method_before_the_combiner_is_fitted():
    estimate = Estimate(2.0, 1.0, 3.0)
    compared = Comparison(estimate, estimate, estimate)
    f1, gains = {"tagger": F1, "knn": F1}, {"knn": compared}
    of_combiner = f1 | {"combiner": F1}
    fitted = analysis.TestResult({}, (None,), of_combiner, of_combiner, gains | {"combiner": compared}, compared)
    results = fitted, analysis.TestResult({}, (None,), f1, f1, gains, None)
    conditions = [ConditionResult({"knn.k": k}, (), (one,), None) for k, one in enumerate(results)]
    table = report.test_table(conditions, METHODS | {"combiner": "mine"})
    assert "mine" in table.header
    preferred, over = table.header.index("dev prefers"), table.header.index("over kNN-NER [95%]")
    assert [(row[over], row[preferred]) for row in table.rows] == [("+2.0 [+1.0, +3.0]", "kNN-NER"), ("", "")]
