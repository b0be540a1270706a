"""The page of a study: what was gained and how surely, what dev chose, where it helps, and sentences to look into."""

from collections.abc import Sequence
from typing import Any

from knn_ner_jax.ablation import breakdown, summary
from knn_ner_jax.ablation.analysis import NAMES, ConditionResult, Curve, TestResult, in_words, interval
from knn_ner_jax.ablation.breakdown import Focus
from knn_ner_jax.ablation.plots import Plots
from knn_ner_jax.ablation.store import METHODS, PLOTS_ON_TEST, Entry, Results
from knn_ner_jax.ablation.study import Study
from knn_ner_jax.config import flatten
from knn_ner_jax.report.document import Fact, Page, Section, Table
from knn_ner_jax.report.evaluation import footer
from knn_ner_jax.run_dir import config_to_dict, environment

MOST_SAID = 4  # conditions of which the summary says each


def build_page(
    results: Results,
    findings: Sequence[ConditionResult],
    curves: Sequence[Curve],
    plots: Plots,
    focus: Focus | None,
    opened: Sequence[Entry] = (),
) -> Page:
    """Lays out a page.

    Args:
        results: of a study.
        findings: of its conditions.
        curves: of the findings.
        plots: of the findings (see `plots.plot`).
        focus: what to look at closely, or None.
        opened: what test was opened for and is no longer shown.
    """
    tested = [(finding, one) for finding in findings for one in finding.tested[-1:]]
    sections = [_gains(findings, curves, plots, opened), _dev(findings, plots)]
    if focus is not None:
        sections += [
            _settings(results, focus, plots),
            _where(focus, of_several=sum(len(one.tested) for one in findings) > 1),
        ]
        if focus.why_no_explorer:
            sections.append(Section("Sentences", (f"No sentences are shown: {focus.why_no_explorer}.",)))
    facts = tuple(_facts(focus)) if focus is not None else ()
    how = (
        "Strict F1 in percent, means over seeds. k, temperature and knn_weight are chosen on dev for each seed, the choice "
        f"on dev over all seeds, before test is searched. {summary.intervals(findings)}"
    )
    sections.append(_made_of(results.study))
    explorer = None if focus is None else focus.explorer
    title = f"Ablation: {results.study.folder.name}"
    return Page(title, (*_summary(tested), how), facts, tuple(sections), explorer, footer(environment()))


def _made_of(study: Study) -> Section:
    """The configuration of a study, every field of it."""
    counts = (
        (len(study.config.ablation.seeds), "seed"),
        (len(study.conditions), "condition"),
        (len(study.candidates), "choice"),
    )
    said = ", ".join(f"{number} {name}{'s' * (number != 1)}" for number, name in counts)
    rows = tuple((name, str(value)) for name, value in flatten(config_to_dict(study.config)).items())
    return Section("Configuration", (f"{said}.",), (Table(("field", "value"), rows, "ll", "study.yaml", folded=True),))


def _summary(tested: Sequence[tuple[ConditionResult, TestResult]]) -> list[str]:
    """What came out for every condition or, where they are many, how many gain, and the last, which is looked at closely."""
    said = [f"{in_words(finding.condition)}: {_result(one)}" for finding, one in tested]
    if len(said) <= MOST_SAID:
        return said
    gains = [one.gains[one.mixing].gain for _, one in tested]
    above, below = sum(gain.low > 0 for gain in gains), sum(gain.high < 0 for gain in gains)
    counted = f"In {above} of {len(said)} conditions the whole interval of the gain is above 0, in {below} below it"
    return [f"{counted}; the table under Test has them all.", f"The last of them: {said[-1]}"]


def _result(tested: TestResult) -> str:
    method = tested.mixing
    gain = tested.gains[method].gain
    sure = "the interval excludes 0" if gain.excludes_zero else "the interval holds 0"
    if len(tested.cells) == 1:
        sure = "one seed, which says nothing of others"
    elif len(tested.cells) == 2:
        sure += ", but one of two seeds is not to be trusted"
    return f"tagger {tested.f1['tagger']}, {METHODS[method]} {tested.f1[method]}, gain {interval(gain)}: {sure}."


def _facts(focus: Focus) -> list[Fact]:
    gain, condition = focus.tested.gains["knn"].gain, in_words(focus.finding.condition)
    return [
        Fact("Test F1, tagger", str(focus.tested.f1["tagger"]), condition),
        Fact("Test F1, kNN-NER", str(focus.tested.f1["knn"]), in_words(focus.tested.choice)),
        Fact("Gain", f"{gain.mean:+.2f}", f"95%: {gain.low:+.2f} to {gain.high:+.2f}"),
    ]


def _table(content: tuple[list[str], list[list[str]]], words: int, **more: Any) -> Table:
    header, rows = content
    align = "l" * words + "r" * (len(header) - words)
    return Table(tuple(header), tuple(tuple(row) for row in rows), align, **more)


def _gains(findings: Sequence[ConditionResult], curves: Sequence[Curve], plots: Plots, opened: Sequence[Entry]) -> Section:
    plotted = tuple(plots[name] for name in PLOTS_ON_TEST if name in plots)
    tables = [_table(summary.test_rows(findings), 2)]
    compared = [curve for curve in curves if curve.over_the_last]
    said = ["The first choice of each condition is the reference.", *summary.opened_before(opened)]
    said += [curve.in_words() for curve in compared]
    if compared:
        tables.append(_table(summary.curve_rows(compared), 1, caption=summary.ABOVE_THE_LAST))
    if others := [curve for curve in curves if curve.over_the_first]:
        caption = summary.ABOVE_THE_FIRST.format(first=curves[0].name)
        tables.append(_table(summary.over_the_first_rows(others), 1, caption=caption))
    return Section("Test", tuple(said), tuple(tables), plotted)


def _dev(findings: Sequence[ConditionResult], plots: Plots) -> Section:
    plotted = tuple(plots[name] for name in ("choices",) if name in plots)
    return Section("Dev", ("Every choice, best first.",), (_table(summary.dev_rows(findings), 2),), plotted)


def _settings(results: Results, focus: Focus, plots: Plots) -> Section:
    """Mean dev F1 over seeds of every k, temperature and weight."""
    names = "metric", *NAMES[:-1]
    rows = [
        [str(cell.config.seed), *(str(results.read(cell, "dev")["selected"][name]) for name in names)]
        for cell in focus.tested.cells
    ]
    shown = f"{in_words(focus.finding.condition)}; {in_words(focus.tested.choice)}; means over seeds."
    caption = "What dev chose for each seed"
    table = _table((["seed", *names], rows), 2, caption=caption)
    plotted = tuple(plots[name] for name in ("by_k", "surface") if name in plots)
    return Section("k, temperature and knn_weight", (shown,), (table,), plotted)


def _where(focus: Focus, of_several: bool) -> Section:
    """Strict scores by group of entities; words and entities fixed and broken."""
    tables = (
        _table((table.header, table.rows), 1, caption=table.title) for table in breakdown.breakdown_tables(focus.breakdown)
    )
    said = breakdown.breakdown_caption(focus)
    if of_several:
        said += ("breakdown.csv, which is written beside this page, has the same for everything that was tested.",)
    return Section("Where it helps", said, tuple(tables))
