"""What a study says, as Markdown: tables of test and dev, and of where kNN-NER with less meets the tagger alone with all."""

import html
from collections.abc import Mapping, Sequence

from knn_ner_jax.ablation import breakdown
from knn_ner_jax.ablation.analysis import EDGE, NAMES, ConditionResult, Curve, describe_seeds, in_words, interval
from knn_ner_jax.ablation.breakdown import Focus
from knn_ner_jax.ablation.statistics import Comparison
from knn_ner_jax.ablation.store import METHODS, OPENED_FILE, PLOTS_ON_DEV, PLOTS_ON_TEST, Entry

MIXING = {"knn": "one weight", "learned": METHODS["learned"]}  # which of the two dev prefers
ABOVE_THE_FIRST = "What kNN-NER gains on test over {first}, which has the same tagger [95%]"
ABOVE_THE_LAST = "What kNN-NER with less gains on test over the tagger alone with the largest value [95%]"
INTERVALS = (
    "Intervals (95%) are of a paired bootstrap of sentences, to which the spread of seeds that sentences do not explain is "
    "added with Student's t."
)
TWO_SEEDS = "Do not trust the intervals of two seeds: they exclude 0 too often."
SETTINGS = (
    f"What dev chose for each seed, in the order of seeds, once where they agree; {EDGE}: the smallest or the largest that "
    "was offered, so that a better one may lie beyond."
)
OVER_REFERENCE = "over the reference, seed by seed"
UNFINISHED = "The study is unfinished: the column of seeds says how many each number is of."


def markdown(content: tuple[Sequence[str], Sequence[Sequence[str]]], words: int) -> list[str]:
    """A table, its first columns, which hold words, to the left.

    Args:
        content: header and rows.
        words: columns of them.
    """
    header, rows = content
    lines = [header, ["---"] * words + ["--:"] * (len(header) - words), *rows]
    return ["| " + " | ".join(map(_escaped, line)) + " |" for line in lines] + [""]


def _escaped(cell: str) -> str:
    """What would be a border or markup as entities, because a name may come from a corpus."""
    return html.escape(cell, quote=False).replace("|", "&#124;")


def read_row(line: str) -> list[str]:
    """The cells of a row that `markdown` wrote."""
    return [html.unescape(cell.strip()) for cell in line.strip("|").split("|")]


def intervals(findings: Sequence[ConditionResult]) -> str:
    """What intervals are of, and which are not to be trusted."""
    of_two = any(len(tested.cells) == 2 for finding in findings for tested in finding.tested)
    return f"{INTERVALS} {TWO_SEEDS}" if of_two else INTERVALS


def test_rows(findings: Sequence[ConditionResult]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of test scores: a row for each condition and choice tested."""
    methods = [name for name in METHODS if any(name in tested.f1 for one in findings for tested in one.tested)]
    learned, chosen = "learned" in methods, any(finding.between for finding in findings)
    header = ["condition", "choice", "seeds", METHODS["tagger"]]
    header += [title for name in methods[1:] for title in (METHODS[name], "gain [95%]")]
    header += ["over one weight [95%]", "dev prefers"] * learned + ["over the reference [95%]"] * chosen
    rows = []
    for finding in findings:
        for number, tested in enumerate(finding.tested):
            row = [in_words(finding.condition), in_words(tested.choice), str(len(tested.cells)), str(tested.f1["tagger"])]
            for name in methods[1:]:
                has = name in tested.f1
                row += [str(tested.f1[name]), interval(tested.gains[name].gain)] if has else ["", ""]
            between = tested.learned_over_constant
            row += [interval(between.gain), MIXING[tested.mixing]] if between else [""] * 2 * learned
            row += [interval(finding.between.gain) if number and finding.between else ""] * chosen
            rows.append(row)
    return header, rows


def curve_rows(curves: Sequence[Curve]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of what kNN-NER with less gains over the tagger alone with all: a row for each value."""
    return _by_value(curves, [curve.over_the_last for curve in curves])


def over_the_first_rows(curves: Sequence[Curve]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of what the other curves gain over the first: a row for each value."""
    return _by_value(curves, [curve.over_the_first for curve in curves])


def _by_value(curves: Sequence[Curve], compared: Sequence[Mapping[float, Comparison]]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [str(value), *(interval(by_value[value].gain) if value in by_value else "" for by_value in compared)]
        for value in sorted({value for by_value in compared for value in by_value})
    ]
    return [curves[0].field, *(in_words(curve.others) if curve.others else METHODS["knn"] for curve in curves)], rows


def dev_rows(findings: Sequence[ConditionResult]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of dev scores: every choice, best first."""
    several = any(len(finding.dev) > 1 for finding in findings)
    rows = []
    for finding in findings:
        condition = in_words(finding.condition)
        for one in sorted(finding.dev, key=lambda one: -one.knn.mean):
            row = [condition, in_words(one.choice), str(one.knn.seeds), str(one.tagger), str(one.knn)]
            rows.append(row + [breakdown.difference(one.over_reference) if one.over_reference else ""] * several)
        for tested in finding.tested:
            if learned := tested.dev.get("learned"):
                name = f"{in_words(tested.choice)}; {METHODS['learned']}"
                row = [condition, name, str(learned.seeds), str(tested.dev["tagger"]), str(learned)]
                rows.append(row + [""] * several)
    return ["condition", "choice", "seeds", METHODS["tagger"], "strict F1 on dev"] + [OVER_REFERENCE] * several, rows


def setting_rows(findings: Sequence[ConditionResult]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of what dev chose for each seed: a row for each condition and choice tested."""
    rows = [
        [
            *(in_words(finding.condition), in_words(tested.choice)),
            *describe_seeds(tested.settings),
        ]
        for finding in findings
        for tested in finding.tested
    ]
    return ["condition", "choice", *NAMES], rows


def opened_before(entries: Sequence[Entry]) -> list[str]:
    """A sentence on what test was opened for and is no longer shown, if there is any: it may have led to what is shown."""
    seeds: dict[str, list[str]] = {}
    for entry in entries:
        of = (
            in_words(entry["condition"]),
            in_words(entry["choice"]),
            *((METHODS["learned"],) if not entry["setting"] else ()),
        )
        seeds.setdefault("; ".join(of), []).append(str(entry["seed"]))
    if not seeds:
        return []
    listed = ", and for ".join(
        f"{of} (seed {', '.join(dict.fromkeys(describe_seeds))})" for of, describe_seeds in seeds.items()
    )
    said = "Test was opened before, with taggers of this study, for what the study does not show any more, and what it said"
    return [f"{said} may have led to what is shown: for {listed}. {OPENED_FILE} has the settings."]


def _on_test(findings: Sequence[ConditionResult], opened: Sequence[Entry]) -> list[str]:
    tested = any(one.tested for one in findings)
    table = markdown(test_rows(findings), 2) if tested else ["Not searched so far.", ""]
    return ["## Test", "", *table, *(line for sentence in opened_before(opened) for line in (sentence, ""))]


def _of_curves(curves: Sequence[Curve]) -> list[str]:
    lines: list[str] = []
    if compared := [curve for curve in curves if curve.over_the_last]:
        said = [line for curve in compared for line in (curve.in_words(), "")]
        lines += [f"{ABOVE_THE_LAST}:", "", *markdown(curve_rows(compared), 1), *said]
    if others := [curve for curve in curves if curve.over_the_first]:
        title = ABOVE_THE_FIRST.format(first=curves[0].name)
        lines += [f"{title}:", "", *markdown(over_the_first_rows(others), 1)]
    return lines


def _plotted(plots: Mapping[str, str], names: Sequence[str]) -> list[str]:
    return [line for name in names if name in plots for line in (f"![{plots[name]}]({name}.svg)", "")]


def _where(focus: Focus) -> list[str]:
    lines = ["## Where it helps", "", *breakdown.breakdown_caption(focus), ""]
    for table in breakdown.breakdown_tables(focus.breakdown):
        lines += [f"{table.title}:", "", *markdown((table.header, table.rows), 1)]
    return lines


def page(
    name: str,
    findings: Sequence[ConditionResult],
    curves: Sequence[Curve],
    plots: Mapping[str, str],
    focus: Focus | None,
    opened: Sequence[Entry] = (),
    unfinished: bool = False,
) -> str:
    """The summary as Markdown.

    Args:
        name: of the study.
        findings: of its conditions.
        curves: of the findings.
        plots: what each says, by the name of its SVG file.
        focus: what was looked at closely, or None.
        opened: what test was opened for and is no longer shown.
        unfinished: more will be computed.
    """
    lines = [
        f"# {name}",
        "",
        *([UNFINISHED, ""] if unfinished else ()),
        "Strict F1 in percent, mean and standard deviation over seeds. k, temperature and knn_weight are chosen on dev for "
        "each seed, the choice on dev over all seeds; the first choice is the reference. Gains are on test, over the tagger "
        f"alone. {intervals(findings)}",
        "",
        *_on_test(findings, opened),
        *_of_curves(curves),
        *_plotted(plots, PLOTS_ON_TEST),
        "## Dev",
        "",
        *markdown(dev_rows(findings), 2),
        *_plotted(plots, PLOTS_ON_DEV),
        *([SETTINGS, "", *markdown(setting_rows(findings), 2)] if any(one.tested for one in findings) else ()),
        *(_where(focus) if focus else ()),
    ]
    return "\n".join(lines)
