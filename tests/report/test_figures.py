"""Plots: the same bytes again, readable on every page, a colour for each method, labels that do not collide."""

import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import made_up_page

from knn_ner_jax.report import figures
from knn_ner_jax.report.figures import Series

STYLE = Path(figures.__file__).parent / "templates" / "page.css"
WHITE, DARK = "#ffffff", "#0d1117"  # of pages that show a plot in a file of its own
READABLE = 3.0  # least contrast of what is not text, WCAG 1.4.11


def plots():
    numbers = Series("a $x$ <b>", "knn", [5, 10, 100], [1, 2, np.nan], [0, 1, 2], [2, 3, 4])
    values = np.array([[50.0, 60.0], [np.nan, 55.0]])
    names = Series("a", "tagger", ["中文", "$y$"], [1, 2], [0, 1], [2, 3])
    return [
        figures.lines([numbers, Series("b", "tagger", [5, 20], [2, 3])], "share", "F1"),
        figures.dots([names, Series("b", "knn", ["$y$"], [1])], "F1", ("alone", 1.5)),
        figures.heat_map(values, ["0.01", "0.1"], ["0.1", "0.5"], "temperature", "weight", (0, 1)),
    ]


HOSTILE_NAMES = [" ".join(text.split()) for text in made_up_page.HOSTILE]  # as a browser shows them


def texts(svg):
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_names_stand_in_a_plot_as_they_are_whatever_they_look_like():
    values = [float(number) for number, _ in enumerate(HOSTILE_NAMES)]
    svg = figures.dots([Series("knn", "knn", HOSTILE_NAMES, values)], "F1")
    assert [text for text in texts(svg) if text in HOSTILE_NAMES] == HOSTILE_NAMES


def strokes(svg):
    """Dashes and number of the colour of every line that has one."""
    found = re.findall(r'"fill: none; (?:stroke-dasharray: ([\d.,]+); [^"]*?)?stroke: var\(--series-(\d)', svg)
    return {(dashes, int(number)) for dashes, number in found}


def colours(svg):
    return {int(number) for number in re.findall(r"var\(--series-(\d)", svg)}


def test_plots_are_the_same_bytes_again_and_share_no_ids():
    first = plots()
    assert plots() == first
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in first]
    assert not [name for name, count in Counter(name for each in ids for name in each).items() if count > 1]


def test_plots_take_colours_and_font_of_the_page_and_keep_their_text():
    for svg in plots():
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert "var(--ink, " in svg
        assert "metadata" not in svg
        assert "DejaVu" not in svg
        for colour in (*figures.COLOURS, figures.INK):
            assert not re.search(rf"(?<!, ){colour}", svg, re.IGNORECASE)
    found = [text for svg in plots() for text in texts(svg)]
    for expected in ("a $x$ <b>", "$y$", "中文", "alone", "50.0", "60.0", "55.0", "temperature", "100"):
        assert expected in found
    assert "nan" not in found


def test_a_method_has_one_colour_in_every_plot():
    x, y = ["a", "b"], [1.0, 2.0]
    for method, number in {"tagger": 1, "knn": 2, "combiner": 3}.items():
        alone = Series(method, method, x, y, y, y)
        assert colours(figures.lines([alone], "x", "y")) == colours(figures.dots([alone], "y")) == {number}
    series = [Series(method, method, x, y) for method in ("combiner", "knn", "tagger")]
    assert {number for _, number in strokes(figures.lines(series, "x", "y"))} == {1, 2, 3}
    assert colours(figures.dots(series[1:2], "y", ("alone", 1.0))) == {1, 2}


@pytest.mark.parametrize("method", ["tagger", "knn", "combiner"])
def test_several_lines_of_a_method_can_be_told_apart(method):
    series = [Series(str(number), method, [1, 2], [number, number]) for number in range(figures.MOST_SERIES)]
    assert len(strokes(figures.lines(series, "x", "y"))) == len(series)


def test_numbers_that_span_much_stand_by_their_logarithm():
    def places(x):
        svg = figures.lines([Series("a", "knn", x, [1.0] * len(x))], "share", "F1")
        return texts(svg), re.findall(r'text-anchor: middle[^>]* x="([\d.]+)"', svg)

    found, at = places([0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert "share, log scale" in found
    assert found[:7] == ["0.05", "0.1", "0.2", "0.4", "0.6", "0.8", "1"]
    assert float(at[1]) - float(at[0]) == pytest.approx(float(at[2]) - float(at[1]), abs=1e-3)
    for linear in ([0.2, 0.6, 1.0], [0.0, 0.5, 10.0], [-5.0, 1.0, 50.0]):
        assert "share" in places(linear)[0]


def test_labels_that_would_collide_are_left_out_but_never_replaced():
    crowded = Series("a", "knn", [1.0, 1.01, 2.0, 2.01], [1.0] * 4)
    found = texts(figures.lines([crowded], "x", "F1"))
    assert found[: found.index("x")] == ["1.01", "2.01"]
    names = [*(str(2**power) for power in range(14)), "all"]
    found = texts(figures.lines([Series("a", "knn", names, [0.5] * 15)], "k", "F1"))
    shown = found[: found.index("k")]
    assert [name for name in names if name in shown] == shown
    assert {"1", "4096", "all"} <= set(shown) < set(names)


def test_dots_are_on_an_axis_cut_to_them_which_has_the_tagger_alone():
    def ticks(alone):
        found = texts(figures.dots([Series("a", "knn", ["x", "y"], [50.0, 51.0], [49.5, 50.0], [50.5, 52.0])], "F1", alone))
        return [float(text) for text in found if re.fullmatch(r"[\d.]+", text)]

    assert 49 <= min(ticks(None)) < max(ticks(None)) <= 52.5
    assert 40 <= min(ticks(("alone", 42.0))) < 45


def contrast(first, second):
    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(part * value for part, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def test_colours_can_be_seen_in_light_and_in_dark():
    of_page = dict(re.findall(r"--([\w-]+): light-dark\((#\w+, #\w+)\)", STYLE.read_text(encoding="utf-8")))
    pairs = {name: tuple(pair.split(", ")) for name, pair in of_page.items()}
    for number, colour in enumerate(figures.COLOURS, start=1):
        assert min(contrast(colour, page) for page in (WHITE, DARK)) >= READABLE
        assert min(map(contrast, pairs[f"series-{number}"], pairs["page"])) >= READABLE
    for text, page in (("muted", "page"), ("muted", "raised"), ("text", "fixed-tint"), ("text", "broken-tint")):
        assert min(map(contrast, pairs[text], pairs[page])) >= 4.5, (text, page)


def test_a_plot_of_more_series_than_can_be_told_apart_is_refused():
    with pytest.raises(ValueError, match="expected 1 to 6"):
        figures.lines([Series(str(i), "knn", [1], [1]) for i in range(7)], "x", "y")
    with pytest.raises(ValueError, match="expected 1 to 6"):
        figures.dots([], "y")


def test_reliability_shows_each_bin_once_where_calibration_changes_nothing():
    before = [{"score": 0.25, "precision": 0.5, "entities": 8}, {"score": 0.75, "precision": 0.625, "entities": 2}]
    after = [{"score": 0.5, "precision": 0.525, "entities": 10}]
    both, same = figures.reliability(before, after, "test"), figures.reliability(before, before, "test")
    assert {"before", "after"} <= set(texts(both.svg))
    assert not {"before", "after"} & set(texts(same.svg))
    assert "before: 0.25 0.50 (8), 0.75 0.62 (2); after: 0.50 0.53 (10)." in both.alt
    assert same.alt.count("0.75 0.62 (2)") == 1
    assert figures.reliability(before, after, "test") == both
