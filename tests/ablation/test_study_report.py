"""What a study says: numbers of its tables, plots and page are those of its files; with adaptive beside."""

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

from benchmarks import findings as kept_findings
from knn_ner_jax import cli
from knn_ner_jax.ablation import analysis, plots, summary
from knn_ner_jax.ablation.analysis import ConditionResult, find, find_curves
from knn_ner_jax.ablation.breakdown import break_down
from knn_ner_jax.ablation.store import Results
from knn_ner_jax.ablation.study import Corpora, plan
from knn_ner_jax.config import StudyConfig
from knn_ner_jax.evaluation.predictions import Predictions
from knn_ner_jax.io import InputError

VARIED = """
knn: {k: [1, 3], temperature: [0.05, 0.5]}
ablation:
  seeds: [0, 1]
  conditions:
    - knn.knn_weight: [0.3, 0.7, 1.0]
  combiner: knn_ner_jax.contrib.adaptive:AdaptiveCombiner
  resamples: 100
"""


# Each method, where the outcomes are that hold its labels, and which of their columns those are.
WHERE = ("tagger", "test", "tagger"), ("knn", "test", "knn"), ("combiner", "combiner_test", "knn")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Counter[str]]:
    """A finished study of one choice, and what it took."""
    folder = tmp_path_factory.mktemp("study_page")
    return folder / "study", finish_study(folder, VARIED)


@pytest.fixture(scope="module")
def folder(finished) -> Path:
    return finished[0]


@pytest.fixture
def results(folder, monkeypatch) -> Results:
    monkeypatch.chdir(folder.parent)
    config = cli.parse("ablate.py", "", StudyConfig, ["--config", "study.yaml"])[0]
    return Results(plan(config, Corpora().files))


def findings(results: Results) -> list[ConditionResult]:
    return [finding for condition in results.study.conditions if (finding := find(results, condition))]


def test_means_and_gains_are_those_of_the_files(results):
    for condition in results.study.conditions:
        finding = find(results, condition)
        assert finding is not None
        (tested,) = finding.tested
        for method, folder, column in WHERE:
            f1 = []
            for cell in results.study.seeds_of(condition, {}):
                outcome = Predictions.load(results.study.folder / folder / f"{results.path(cell, folder).stem}.npz")
                tags = outcome.tags(getattr(outcome, column))
                gold = outcome.tags(outcome.gold)
                f1.append(100 * f1_score(gold, tags, mode="strict", scheme=IOB2, zero_division=0))
            assert (tested.f1[method].mean, tested.f1[method].std) == pytest.approx((fmean(f1), stdev(f1)))
            if method != "tagger":
                gain = tested.gains[method]
                assert gain.second.mean == pytest.approx(fmean(f1), abs=1e-4)
                assert gain.gain.mean == pytest.approx(fmean(f1) - tested.f1["tagger"].mean, abs=1e-4)
                assert gain.gain.low <= gain.gain.mean <= gain.gain.high
        assert tested.combiner_gain is not None
        between = tested.f1["combiner"].mean - tested.f1["knn"].mean
        assert tested.combiner_gain.gain.mean == pytest.approx(between, abs=1e-4)


def test_an_unfinished_study_shows_what_there_is(results, tmp_path):
    first = results.study.conditions[0]
    moved = [results.path(cell, "test") for cell in results.study.seeds_of(first, {})[1:]]
    for path in moved:
        path.rename(tmp_path / path.name)
    finding = find(results, first)
    for path in moved:
        (tmp_path / path.name).rename(path)
    assert finding is not None
    assert [len(tested.cells) for tested in finding.tested] == [1]
    assert finding.dev[0].knn.seeds == 2


def test_the_summary_has_a_row_for_each_condition_and_its_plots(folder, results):
    text = (folder / "summary.md").read_text()
    test, dev = text.split("## Dev")
    for table in (test, dev):
        assert len(re.findall(r"^\| knn.knn_weight [\d.]+ \| as configured \| 2 \|", table, re.MULTILINE)) == 3
    found = findings(results)
    plotted = plots.plot(found, find_curves(results, found))
    assert sorted(plotted) == ["by_k", "curve", "gains", "surface"]
    for name, figure in plotted.items():
        assert f"]({name}.svg)" in text
        assert (folder / f"{name}.svg").read_text() == figure.svg + "\n"
        assert figure.alt in text


def test_the_summary_has_what_dev_chose_for_each_seed_and_whether_it_is_at_an_end(folder, results):
    table = (folder / "summary.md").read_text().partition(summary.SETTINGS)[2]
    said = {1: "1", 3: "3*", 0.05: "0.05*", 0.5: "0.5*"}  # of k 1 and 3, temperature 0.05 and 0.5
    for condition, weight in zip(results.study.conditions, (0.3, 0.7, 1.0), strict=True):
        selected = [results.read(cell, "dev")["selected"] for cell in results.study.seeds_of(condition, {})]
        values = ([said[setting[name]] for setting in selected] for name in ("k", "temperature"))
        chosen = (seeds[0] if len(set(seeds)) == 1 else "; ".join(seeds) for seeds in values)
        row = " | ".join([f"knn.knn_weight {weight}", "as configured", *chosen, str(weight), "cosine"])
        assert f"| {row} |" in table


def test_the_curve_has_every_weight_and_the_tagger(results):
    found = findings(results)
    alt = plots.plot(found, find_curves(results, found))["curve"].alt
    for finding, weight in zip(found, (0.3, 0.7, 1.0), strict=True):
        knn = finding.tested[0].gains["knn"]
        assert f"tagger, {weight}: {knn.first.mean:.1f}" in alt
        assert f"kNN-NER, {weight}: {knn.second.mean:.1f}" in alt


def with_taggers_of_their_own(found: list[ConditionResult]) -> list[ConditionResult]:
    """As if each condition had been trained for."""
    moved = []
    for number, finding in enumerate(found):
        (tested,) = finding.tested
        cells = tuple(replace(cell, config=replace(cell.config, run_dir=str(number))) for cell in tested.cells)
        moved.append(replace(finding, tested=(replace(tested, cells=cells),)))
    return moved


def test_each_share_is_compared_with_the_tagger_alone_at_the_largest(results, monkeypatch):
    found = with_taggers_of_their_own(findings(results))
    (curve,) = find_curves(results, found)
    assert (curve.field, curve.others, curve.last, curve.gain_vs_full_data) == ("knn.knn_weight", {}, 1.0, {})
    monkeypatch.setattr(analysis, "FRACTIONS", ("knn.knn_weight",))
    (curve,) = find_curves(results, found)
    one_seed = replace(found[1].tested[0], cells=found[1].tested[0].cells[:1])
    for unfinished in (found[:2], [found[0], replace(found[1], tested=(one_seed,)), found[2]]):
        assert [one.gain_vs_full_data for one in find_curves(results, unfinished)] == [{}]
    last = results.study.seeds_of(results.study.conditions[-1], {})
    alone = fmean(results.read(cell, "test")["tagger"]["f1"] for cell in last)
    text = summary.page("study", found, [curve], {}, None)
    for condition, (value, compared) in zip(results.study.conditions, curve.gain_vs_full_data.items(), strict=True):
        knn = fmean(results.read(cell, "test")["knn"]["f1"] for cell in results.study.seeds_of(condition, {}))
        assert compared.gain.mean == pytest.approx(knn - alone, abs=1e-4)
        assert f"| {value} | {knn - alone:+.1f} [" in text
    assert curve.in_words() in text


def test_one_tagger_is_not_compared_with_itself(folder, results, monkeypatch):
    monkeypatch.setattr(analysis, "FRACTIONS", ("knn.knn_weight",))
    (curve,) = find_curves(results, findings(results))
    assert len(curve.points) == 3
    assert curve.gain_vs_full_data == {}
    assert summary.ABOVE_THE_LAST not in (folder / "summary.md").read_text()


def test_a_curve_is_along_numbers_that_stand_once_and_its_points_are_in_order(results, monkeypatch):
    monkeypatch.setattr(analysis, "FRACTIONS", ("knn.knn_weight",))
    repeated = {"train.epochs": [8, 6, 6], "knn.knn_weight": [1.0, 0.3, 0.7]}
    by_weight = {finding.condition["knn.knn_weight"]: finding for finding in findings(results)}
    found = [
        replace(by_weight[weight], condition={"train.epochs": epochs, "knn.knn_weight": weight})
        for epochs, weight in zip(*repeated.values(), strict=True)
    ]
    (curve,) = find_curves(with_conditions(results, [repeated]), with_taggers_of_their_own(found))
    assert (curve.field, curve.others) == ("knn.knn_weight", {})
    assert list(curve.points) == list(curve.gain_vs_full_data) == [0.3, 0.7, 1.0]
    assert all(curve.points[weight].f1 == by_weight[weight].tested[0].f1 for weight in curve.points)
    assert find_curves(with_conditions(results, [{"train.epochs": [8, 6, 6]}]), found) == []


def with_conditions(results: Results, conditions: list[dict[str, list]]) -> Results:
    """As if the study had been given them."""
    config = results.study.config
    ablation = replace(config.ablation, conditions=conditions)
    return Results(replace(results.study, config=replace(config, ablation=ablation)))


def test_dev_prefers_learned_mixing_where_it_is_better_there(results):
    for finding in findings(results):
        cells = results.study.seeds_of(finding.condition, {})
        learned = fmean(results.read(cell, "combiner_dev")["knn"]["f1"] for cell in cells)
        constant = fmean(results.read(cell, "dev")["knn"]["f1"] for cell in cells)
        (tested,) = finding.tested
        assert tested.mixing == ("combiner" if learned > constant else "knn")
        worse = replace(tested, dev=tested.dev | {"combiner": replace(tested.dev["knn"], mean=constant - 1)})
        better = replace(tested, dev=tested.dev | {"combiner": replace(tested.dev["knn"], mean=constant + 1)})
        assert (worse.mixing, better.mixing) == ("knn", "combiner")


def test_page_and_summary_show_the_last_condition_closely(folder, results):
    page, text = (folder / "report.html").read_text(), (folder / "summary.md").read_text()
    for heading in ("Test", "Dev", "k, temperature and knn_weight", "Where it helps"):
        assert f">{heading}</h2>" in page
    cell = results.study.cells[-1]
    tagger = [results.read(one, "test")["tagger"]["f1"] for one in results.study.seeds_of(cell.condition, {})]
    assert f"{fmean(tagger):.1f} ± {stdev(tagger):.1f}" in page
    outcomes = [results.outcome(one, "test") for one in results.study.seeds_of(cell.condition, {})]
    fixed = fmean(int(((o.tagger != o.gold) & (o.knn == o.gold)).sum()) for o in outcomes)
    row = re.search(r"<td[^>]*>fixed</td>\s*<td[^>]*>([\d.,]+)</td>", page)
    assert row
    assert float(row[1]) == pytest.approx(fixed, abs=0.05)
    assert f"\n| fixed | {row[1]} |" in text.partition("## Where it helps")[2]
    scores = [results.read(one, "test") for one in results.study.seeds_of(cell.condition, {})]
    for name in scores[0]["knn"]["per_type"]:
        f1 = [[of[method]["per_type"][name]["f1"] for of in scores] for method in ("tagger", "knn")]
        difference = [after - before for before, after in zip(*f1, strict=True)]
        said = re.escape(f"{fmean(difference):+.1f} ± {stdev(difference):.1f}")
        assert re.search(rf"<td[^>]*>{name}</td>.*{said}</td>", page)
        assert re.search(rf"^\| {name} \| .* \| {said} \|$", text, re.MULTILINE)


def test_occurrences_are_counted_in_what_each_seed_draws(results):
    def with_share(cell):
        return replace(cell, config=replace(cell.config, data=replace(cell.config.data, train_fraction=0.25)))

    finding, corpora = findings(results)[-1], Corpora()
    (tested,) = finding.tested
    cells = tuple(map(with_share, tested.cells))
    (focus,) = break_down(results, [replace(finding, tested=(replace(tested, cells=cells),))], corpora)
    corpus = corpora.of(cells[0].config)
    outcomes = [results.outcome(cell, "test") for cell in cells]
    drawn = [corpus.train.draw(0.25, cell.config.seed)[0].sentences for cell in cells]
    assert repr(focus.breakdown) == repr(break_down(corpus.test.sentences, outcomes, drawn))
    assert repr(focus.breakdown) != repr(break_down(corpus.test.sentences, outcomes, [corpus.train.sentences] * 2))


def test_learned_mixing_is_chosen_on_dev_and_weights_share_it(results):
    assert len(list((results.study.folder / "combiner_dev").glob("*.json"))) == len(results.study.config.ablation.seeds)
    for cell in results.study.cells:
        dev, test = results.read(cell, "combiner_dev"), results.read(cell, "combiner_test")
        assert dev["selected"] == test["selected"]
        best = max(trial["f1"] for trial in dev["trials"])
        assert dev["knn"]["f1"] == pytest.approx(best, abs=1e-4)
        assert dev["tagger"] == results.read(cell, "dev")["tagger"]
        assert 0 < test["mean_share_of_the_tagger"] <= 1
        assert np.array_equal(results.outcome(cell, "combiner_test").gold, results.outcome(cell, "test").gold)


def test_each_split_is_searched_once_for_constant_and_learned_mixing_and_all_weights(finished):
    seeds, looked_closely = 2, 1
    assert finished[1] == {"trained": seeds, "searched": seeds * len(("dev", "test", "train")) + looked_closely}


def test_findings_are_copied_and_put_in_their_place(folder, tmp_path):
    kept_findings.keep(folder, tmp_path)
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
        kept_findings.keep(tmp_path, tmp_path)


def test_a_change_of_what_is_shown_changes_the_page(results, folder, monkeypatch):
    before = {name: (folder / name).read_text() for name in ("report.html", "summary.md")}
    run_study("--ablation.seeds", "[0]")
    assert "one seed, which says nothing of others" in (folder / "report.html").read_text()
    run_study()
    assert {name: (folder / name).read_text() for name in before} == before
