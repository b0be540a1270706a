"""The report of a study: numbers of its tables, plots and page are those of its files; with a combiner beside."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
from helpers.studies import finish_study, run_study
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from knn_ner_jax import cli
from knn_ner_jax.ablation import analysis, plots, report
from knn_ner_jax.ablation.analysis import ConditionResult, analyse, analyse_condition, find_curves
from knn_ner_jax.ablation.breakdown import break_down, diff_predictions
from knn_ner_jax.ablation.config import StudyConfig
from knn_ner_jax.ablation.report import Content, build_page
from knn_ner_jax.ablation.store import Corpora, Results
from knn_ner_jax.ablation.study import plan
from knn_ner_jax.evaluation.predictions import Predictions
from knn_ner_jax.io import InputError
from knn_ner_jax.report.document import to_markdown
from tools import findings as kept_findings

REAL_PLOTS = True
VARIED = """
knn: {k: [1, 3], temperature: [0.05, 0.5]}
ablation:
  seeds: [0, 1]
  conditions:
    - knn.knn_weight: [0.3, 0.7, 1.0]
  combiner: knn_ner_jax.contrib.adaptive:AdaptiveCombiner
  resamples: 100
"""

# Each method, the folder of its labels, and their field.
WHERE = ("tagger", "test", "tagger"), ("knn", "test", "knn"), ("combiner", "combiner_test", "knn")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, taggers) -> tuple[Path, Counter[str]]:
    """A finished study of one candidate, and what it took."""
    folder = tmp_path_factory.mktemp("study_page")
    return folder / "study", finish_study(
        folder, VARIED.replace("resamples", f"taggers: {taggers}, resamples".replace(", ", "\n  "))
    )


@pytest.fixture(scope="module")
def folder(finished) -> Path:
    return finished[0]


@pytest.fixture
def results(folder, monkeypatch) -> Results:
    monkeypatch.chdir(folder.parent)
    config = cli.parse("ablate.py", "", StudyConfig, ["--config", "study.yaml"])[0]
    return Results(plan(config, Corpora().files))


def test_means_and_gains_are_those_of_the_files(results):
    for condition in results.study.conditions:
        one = analyse_condition(results, condition)
        assert one is not None
        (result,) = one.test
        for method, folder, column in WHERE:
            f1 = []
            for cell in results.study.seeds_of(condition, {}):
                labels = Predictions.load(results.study.folder / folder / f"{results.path(cell, folder).stem}.npz")
                tags = labels.tags(getattr(labels, column))
                gold = labels.tags(labels.gold)
                f1.append(100 * f1_score(gold, tags, mode="strict", scheme=IOB2, zero_division=0))
            assert (result.f1[method].mean, result.f1[method].std) == pytest.approx((fmean(f1), stdev(f1)))
            if method != "tagger":
                compared = result.gains[method]
                assert compared.second.mean == pytest.approx(fmean(f1), abs=1e-4)
                assert compared.gain.mean == pytest.approx(fmean(f1) - result.f1["tagger"].mean, abs=1e-4)
                assert compared.gain.low <= compared.gain.mean <= compared.gain.high
        assert result.combiner_gain is not None
        gain = result.f1["combiner"].mean - result.f1["knn"].mean
        assert result.combiner_gain.gain.mean == pytest.approx(gain, abs=1e-4)


def test_an_unfinished_study_shows_what_there_is(results, tmp_path):
    first = results.study.conditions[0]
    moved = [results.path(cell, "test") for cell in results.study.seeds_of(first, {})[1:]]
    for path in moved:
        path.rename(tmp_path / path.name)
    one = analyse_condition(results, first)
    for path in moved:
        (tmp_path / path.name).rename(path)
    assert one is not None
    assert [len(result.cells) for result in one.test] == [1]
    assert one.dev[0].knn.seeds == 2


def test_the_summary_has_a_row_for_each_condition_and_its_plots(folder, results):
    text = (folder / "summary.md").read_text()
    test, dev = text.split("## Dev")
    for table in (test, dev):
        assert len(re.findall(r"^\| knn.knn_weight [\d.]+ \| as configured \| 2 \|", table, re.MULTILINE)) == 3
    conditions = analyse(results)
    plotted = plots.plot(conditions, find_curves(results, conditions), results.methods)
    assert sorted(plotted) == ["by_k", "curve", "gains", "surface"]
    for name, figure in plotted.items():
        assert f"]({name}.svg)" in text
        assert (folder / f"{name}.svg").read_text() == figure.svg + "\n"
        assert figure.alt in text


def test_the_summary_has_what_dev_selected_for_each_seed_and_whether_it_is_at_an_edge(folder, results):
    table = (folder / "summary.md").read_text().partition(report.SETTINGS)[2]
    words = {1: "1", 3: "3*", 0.05: "0.05*", 0.5: "0.5*"}  # of k 1 and 3, temperature 0.05 and 0.5
    for condition, weight in zip(results.study.conditions, (0.3, 0.7, 1.0), strict=True):
        selected = [results.read(cell, "dev")["selected"] for cell in results.study.seeds_of(condition, {})]
        of_seeds = ([words[setting[name]] for setting in selected] for name in ("k", "temperature"))
        values = (seeds[0] if len(set(seeds)) == 1 else "; ".join(seeds) for seeds in of_seeds)
        row = " | ".join([f"knn.knn_weight {weight}", "as configured", *values, str(weight), "cosine"])
        assert f"| {row} |" in table


def test_the_curve_has_every_weight_and_the_tagger(results):
    conditions = analyse(results)
    alt = plots.plot(conditions, find_curves(results, conditions), results.methods)["curve"].alt
    for one, weight in zip(conditions, (0.3, 0.7, 1.0), strict=True):
        knn = one.test[0].gains["knn"]
        assert f"tagger, {weight}: {knn.first.mean:.1f}" in alt
        assert f"kNN-NER, {weight}: {knn.second.mean:.1f}" in alt


def with_taggers_of_their_own(conditions: list[ConditionResult]) -> list[ConditionResult]:
    """As if each condition had been trained for."""
    moved = []
    for number, one in enumerate(conditions):
        (result,) = one.test
        cells = tuple(replace(cell, config=replace(cell.config, run_dir=str(number))) for cell in result.cells)
        moved.append(replace(one, test=(replace(result, cells=cells),)))
    return moved


def test_each_fraction_is_compared_with_the_tagger_at_the_largest(results, monkeypatch):
    conditions = with_taggers_of_their_own(analyse(results))
    (curve,) = find_curves(results, conditions)
    assert (curve.field, curve.others, curve.last, curve.gain_vs_full_data) == ("knn.knn_weight", {}, 1.0, {})
    monkeypatch.setattr(analysis, "FRACTIONS", ("knn.knn_weight",))
    (curve,) = find_curves(results, conditions)
    one_seed = replace(conditions[1].test[0], cells=conditions[1].test[0].cells[:1])
    for unfinished in (conditions[:2], [conditions[0], replace(conditions[1], test=(one_seed,)), conditions[2]]):
        assert [one.gain_vs_full_data for one in find_curves(results, unfinished)] == [{}]
    last = results.study.seeds_of(results.study.conditions[-1], {})
    tagger = fmean(results.read(cell, "test")["tagger"]["f1"] for cell in last)
    text = to_markdown(build_page(Content(results.study, results.methods, conditions, [curve])))
    for condition, (value, compared) in zip(results.study.conditions, curve.gain_vs_full_data.items(), strict=True):
        knn = fmean(results.read(cell, "test")["knn"]["f1"] for cell in results.study.seeds_of(condition, {}))
        assert compared.gain.mean == pytest.approx(knn - tagger, abs=1e-4)
        assert f"| {value} | {knn - tagger:+.1f} [" in text
    assert curve.describe() in text


def test_one_tagger_is_not_compared_with_itself(folder, results, monkeypatch):
    monkeypatch.setattr(analysis, "FRACTIONS", ("knn.knn_weight",))
    (curve,) = find_curves(results, analyse(results))
    assert len(curve.points) == 3
    assert curve.gain_vs_full_data == {}
    assert report.VS_FULL_DATA not in (folder / "summary.md").read_text()


def test_a_curve_is_along_numbers_that_stand_once_and_its_points_are_in_order(results, monkeypatch):
    monkeypatch.setattr(analysis, "FRACTIONS", ("knn.knn_weight",))
    repeated = {"train.epochs": [8, 6, 6], "knn.knn_weight": [1.0, 0.3, 0.7]}
    by_weight = {one.condition["knn.knn_weight"]: one for one in analyse(results)}
    conditions = [
        replace(by_weight[weight], condition={"train.epochs": epochs, "knn.knn_weight": weight})
        for epochs, weight in zip(*repeated.values(), strict=True)
    ]
    (curve,) = find_curves(with_conditions(results, [repeated]), with_taggers_of_their_own(conditions))
    assert (curve.field, curve.others) == ("knn.knn_weight", {})
    assert list(curve.points) == list(curve.gain_vs_full_data) == [0.3, 0.7, 1.0]
    assert all(curve.points[weight].f1 == by_weight[weight].test[0].f1 for weight in curve.points)
    assert find_curves(with_conditions(results, [{"train.epochs": [8, 6, 6]}]), conditions) == []


def with_conditions(results: Results, conditions: list[dict[str, list]]) -> Results:
    """As if the study had been given them."""
    config = results.study.config
    ablation = replace(config.ablation, conditions=conditions)
    return Results(replace(results.study, config=replace(config, ablation=ablation)))


def test_dev_prefers_the_combiner_where_it_is_better_there(results):
    for one in analyse(results):
        cells = results.study.seeds_of(one.condition, {})
        combiner = fmean(results.read(cell, "combiner_dev")["knn"]["f1"] for cell in cells)
        one_weight = fmean(results.read(cell, "dev")["knn"]["f1"] for cell in cells)
        (result,) = one.test
        assert result.preferred_method == ("combiner" if combiner > one_weight else "knn")
        worse = replace(result, dev=result.dev | {"combiner": replace(result.dev["knn"], mean=one_weight - 1)})
        better = replace(result, dev=result.dev | {"combiner": replace(result.dev["knn"], mean=one_weight + 1)})
        assert (worse.preferred_method, better.preferred_method) == ("knn", "combiner")


def test_page_and_summary_break_the_last_condition_down(folder, results):
    page, text = (folder / "report.html").read_text(), (folder / "summary.md").read_text()
    for heading in ("Test", "Dev", "k, temperature and knn_weight", "Where it helps"):
        assert f">{heading}</h2>" in page
    cell = results.study.cells[-1]
    tagger = [results.read(one, "test")["tagger"]["f1"] for one in results.study.seeds_of(cell.condition, {})]
    assert f"{fmean(tagger):.1f} ± {stdev(tagger):.1f}" in page
    labels = [results.predictions(one, "test") for one in results.study.seeds_of(cell.condition, {})]
    fixed = fmean(int(((o.tagger != o.gold) & (o.knn == o.gold)).sum()) for o in labels)
    row = re.search(r"<td[^>]*>fixed</td>\s*<td[^>]*>([\d.,]+)</td>", page)
    assert row
    assert float(row[1]) == pytest.approx(fixed, abs=0.05)
    assert f"\n| fixed | {row[1]} |" in text.partition("## Where it helps")[2]
    scores = [results.read(one, "test") for one in results.study.seeds_of(cell.condition, {})]
    for name in scores[0]["knn"]["per_type"]:
        f1 = [[of[method]["per_type"][name]["f1"] for of in scores] for method in ("tagger", "knn")]
        difference = [after - before for before, after in zip(*f1, strict=True)]
        shown = re.escape(f"{fmean(difference):+.1f} ± {stdev(difference):.1f}")
        assert re.search(rf"<td[^>]*>{name}</td>.*{shown}</td>", page)
        assert re.search(rf"^\| {name} \| .* \| {shown} \|$", text, re.MULTILINE)


def test_occurrences_are_counted_in_what_each_seed_draws(results):
    def with_fraction(cell):
        return replace(cell, config=replace(cell.config, data=replace(cell.config.data, train_fraction=0.25)))

    last, corpora = analyse(results)[-1], Corpora()
    (result,) = last.test
    cells = tuple(map(with_fraction, result.cells))
    (breakdown,) = break_down(results, [replace(last, test=(replace(result, cells=cells),))], corpora)
    corpus = corpora.of(cells[0].config)
    labels = [results.predictions(cell, "test") for cell in cells]
    drawn = [corpus.train.draw(0.25, cell.config.seed)[0].sentences for cell in cells]
    assert repr(breakdown.diff) == repr(diff_predictions(corpus.test.sentences, labels, drawn))
    assert repr(breakdown.diff) != repr(diff_predictions(corpus.test.sentences, labels, [corpus.train.sentences] * 2))


def test_the_combiner_is_fitted_once_for_all_weights_and_dev_selects_its_epoch(results):
    assert len(list((results.study.folder / "combiner_dev").glob("*.json"))) == len(results.study.config.ablation.seeds)
    for cell in results.study.cells:
        dev, test = results.read(cell, "combiner_dev"), results.read(cell, "combiner_test")
        assert dev["selected"] == test["selected"]
        best = max(trial["f1"] for trial in dev["trials"])
        assert dev["knn"]["f1"] == pytest.approx(best, abs=1e-4)
        assert dev["tagger"] == results.read(cell, "dev")["tagger"]
        assert 0 < test["tagger_weight"] <= 1
        assert np.array_equal(results.predictions(cell, "combiner_test").gold, results.predictions(cell, "test").gold)


def test_each_split_is_searched_once_for_the_combiner_and_all_weights(finished):
    seeds, for_sentences = 2, 1
    assert finished[1] == {"searched": seeds * len(("dev", "test", "train")) + for_sentences}


def test_findings_are_copied_and_put_in_their_place(folder, tmp_path):
    kept_findings.copy_results(folder, tmp_path)
    assert (tmp_path / "study" / "scores.csv").read_bytes() == (folder / "scores.csv").read_bytes()
    text = kept_findings.write_page(
        "before\n<!-- study -->\nold\n<!-- /study -->\nafter\n<!-- none -->\n<!-- /none -->", tmp_path
    )
    assert "old" not in text
    assert "#### Test" in text
    assert "](../benchmarks/results/ablations/study/curve.svg)" in text
    assert "| knn.knn_weight 0.3 | as configured | 2 |" in text
    assert text.startswith("before\n<!-- study -->")
    assert text.endswith("<!-- none -->\n<!-- /none -->")
    with pytest.raises(InputError, match=r"expected a study \(summary.md\), found none"):
        kept_findings.copy_results(tmp_path, tmp_path)


def test_a_change_of_what_is_shown_changes_the_page(results, folder, monkeypatch):
    before = {name: (folder / name).read_text() for name in ("report.html", "summary.md")}
    run_study("--ablation.seeds", "[0]")
    assert "one seed, which says nothing of others" in (folder / "report.html").read_text()
    run_study()
    assert {name: (folder / name).read_text() for name in before} == before
