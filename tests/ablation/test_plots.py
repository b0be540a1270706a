"""Plots of made-up findings: which lines and dots they have, and what they are called."""

import dataclasses
import re
from types import SimpleNamespace

from knn_ner_jax.ablation import analysis, plots
from knn_ner_jax.ablation.analysis import ConditionResult, Curve, DevResult
from knn_ner_jax.ablation.statistics import Comparison, Estimate, Spread
from knn_ner_jax.evaluation.predictions import METHODS

REAL_PLOTS = True
FRACTIONS = (0.1, 0.5, 1.0)


def plot(conditions, curves):
    return plots.plot(conditions, curves, METHODS | {"combiner": "adaptive"})


def around(mean):
    return Estimate(mean, mean - 1, mean + 1)


def on_test(run_dir, tagger, gain, combiner=None):
    cell = SimpleNamespace(config=SimpleNamespace(run_dir=run_dir, seed=0))
    by_method = {"knn": gain} | ({} if combiner is None else {"combiner": combiner})
    gains = {name: Comparison(around(tagger), around(tagger + by), around(by)) for name, by in by_method.items()}
    return analysis.TestResult({}, (cell,), {"tagger": Spread(20.0, 0.5, 3)}, {}, gains, None)


def curve(others, taggers, tagger, gain):
    points = {share: on_test(f"{taggers}/{share}", tagger + share, gain) for share in FRACTIONS}
    return Curve("data.train_fraction", others, points, {})


def finding(condition, dev=((20.0, 21.0),), *searched):
    candidates = [{"datastore.layers": [number]} for number, _ in enumerate(dev)]
    on_dev = [
        DevResult(c, Spread(alone, 0.5, 3), Spread(f1, 0.5, 3), None) for c, (alone, f1) in zip(candidates, dev, strict=True)
    ]
    return ConditionResult(condition, tuple(on_dev), searched, None)


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_each_tagger_has_a_line_which_says_whose_it_is():
    given = [
        curve({"model.backbone": name, "datastore.fraction": share}, name, tagger, gain)
        for name, tagger in (("small", 30.0), ("large", 40.0))
        for share, gain in ((0.5, 1.0), (1.0, 2.0))
    ]
    svg = plot([], given)["curve"].svg
    assert [text for text in texts(svg) if text.startswith("tagger")] == [
        "tagger (model.backbone small)",
        "tagger (model.backbone large)",
    ]
    alt = plot([], given)["curve"].alt
    for expected in (
        "backbone small), 0.5: 30.5",
        "backbone large), 1.0: 41.0",
        "backbone large, datastore.fraction 1.0), 0.1: 42.1",
    ):
        assert expected in alt
    shared = plot([], given[:2])["curve"]
    assert shared.alt.count("tagger, ") == len(FRACTIONS)
    assert "tagger" in texts(shared.svg)


def test_where_less_data_is_compared_with_all_a_line_across_shows_the_tagger_with_all():
    alone, two = (
        curve({"datastore.fraction": share}, tagger, 30.0, 1.0) for share, tagger in ((0.5, "one"), (1.0, "other"))
    )
    compared = dataclasses.replace(alone, gain_vs_full_data={1.0: alone.points[1.0].gains["knn"]})
    thin = "stroke-width: 0.8"
    with_line, without = (plot([], [given])["curve"] for given in (compared, alone))
    assert with_line.caption.endswith("; the line across is the tagger at 1.0")
    axis = without.svg.count(thin)
    assert with_line.svg.count(thin) == axis + 1
    of_two_taggers = plot([], [compared, two])["curve"]
    assert (of_two_taggers.svg.count(thin), "across" in of_two_taggers.caption) == (axis, False)


def test_a_field_whose_name_is_part_of_anothers_keeps_its_section():
    found = [finding({"data.train_fraction": 0.1, "datastore.fraction": 1.0}, ((20.0, 21.0),), on_test("tagger", 30.0, 1.2))]
    assert "kNN-NER, train_fraction 0.1, datastore.fraction 1.0: +1.2" in plot(found, [])["gains"].alt


def test_more_lines_than_can_be_told_apart_are_counted():
    given = [curve({"datastore.fraction": number}, "same", 30.0, 1.0) for number in range(8)]
    figure = plot([], given)["curve"]
    assert figure.caption.endswith("; the first 6 of 9 lines")
    assert "datastore.fraction 7), 1.0: 32.0" in figure.alt


def test_gains_have_a_row_for_each_condition_in_which_its_fields_stay_whole():
    layers = [1, 2, 3, 4, 5, 6, 7, 8, 9]  # longer than a line
    conditions = [
        {"data.train_fraction": share, "datastore.layers": layers, "datastore.whitening_dim": None} for share in FRACTIONS
    ]
    found = [
        finding(condition, ((20.0, 21.0),), on_test("tagger", 30.0, 1.2, 0.5 if number else None))
        for number, condition in enumerate(conditions)
    ]
    figure = plot(found, [])["gains"]
    assert "kNN-NER, train_fraction 0.1, layers [1, 2, 3, 4, 5, 6, 7, 8, 9], whitening_dim default: +1.2; " in figure.alt
    assert figure.alt.count("adaptive, ") == 2
    shown = texts(figure.svg)
    assert {"tagger", "kNN-NER", "adaptive", "0.0"} <= set(shown)
    assert [text for text in shown if "train_fraction" in text] == [f"train_fraction {share}," for share in FRACTIONS]
    assert shown.count("layers [1, 2, 3, 4, 5, 6, 7, 8, 9],") == shown.count("whitening_dim default") == len(FRACTIONS)


def test_candidates_stand_beside_the_tagger_which_may_be_one_for_all():
    one = plot([finding({}, ((20.0, 21.0), (20.0, 22.5)))], [])["candidates"]
    several = plot([finding({}, ((20.0, 21.0), (20.5, 22.5)))], [])["candidates"]
    assert one.alt.endswith("layers [0]: 21.0 ± 0.5, tagger 20.0 ± 0.5; layers [1]: 22.5 ± 0.5, tagger 20.0 ± 0.5.")
    dashed = r"stroke-dasharray: [\d., ]+; stroke-dashoffset: 0; stroke: var\(--series-1"
    assert re.search(dashed, one.svg)
    assert not re.search(dashed, several.svg)
    for figure in (one, several):
        assert {"tagger", "kNN-NER"} <= set(texts(figure.svg))


def test_one_seed_has_dots_without_whiskers():
    alone = [DevResult({"knn.k": k}, Spread.of([20.0]), Spread.of([f1]), None) for k, f1 in ((1, 21.0), (2, 22.0))]
    assert "k 2: 22.0, tagger 20.0" in plot([ConditionResult({}, tuple(alone), (), None)], [])["candidates"].alt


def test_settings_of_the_last_condition_are_plotted_with_what_they_are_of():
    def trial(k, temperature, f1):
        return {"k": k, "temperature": temperature, "knn_weight": 0.5, "metric": "cosine", "f1": f1}

    def plotted(*trials):
        tested = dataclasses.replace(on_test("tagger", 30.0, 1.2), trials=trials)
        return plot([finding({"data.train_fraction": share}, ((20.0, 21.0),), tested) for share in FRACTIONS], [])

    both = plotted(trial(8, 0.1, 41.0), trial(8, 1.0, 42.0), trial("all", 0.1, 40.5), trial("all", 1.0, 40.0))
    assert both["by_k"].alt == (
        "Lines: best F1 on dev by k. cosine, k 8: 42.0; cosine, k all: 40.5; tagger: 20.0. "
        "data.train_fraction 1.0; as configured; means over seeds."
    )
    assert "k 8, cosine, from 41.0 to 42.0" in both["surface"].alt
    assert both["surface"].caption.endswith("k 8, cosine; the best by the mean is framed")
    assert set(plotted(trial(8, 0.1, 41.0), trial(64, 0.1, 42.0))) == {"gains", "by_k"}
    assert set(plotted(trial(8, 0.1, 41.0), trial(8, 1.0, 42.0))) == {"gains", "surface"}
    assert set(plotted(trial(8, 0.1, 41.0))) == {"gains"}
