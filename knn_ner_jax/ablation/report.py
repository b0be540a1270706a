"""The report of a study: tables and plots in files of their own, and one document, written as Markdown and as HTML.

The document is built once; `summary.md` has all of it, `report.html` also sentences to look into, the whole configuration,
and the versions of what made it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from knn_ner_jax.ablation import plots
from knn_ner_jax.ablation.analysis import (
    EDGE,
    SETTING,
    ConditionResult,
    Curve,
    TestResult,
    analyse,
    describe_interval,
    describe_seeds,
    find_curves,
)
from knn_ner_jax.ablation.breakdown import (
    Breakdown,
    break_down,
    breakdown_rows,
    breakdown_tables,
    describe_breakdown,
    describe_difference,
)
from knn_ner_jax.ablation.plots import Plots
from knn_ner_jax.ablation.run import delete_datastore, open_cell
from knn_ner_jax.ablation.statistics import Comparison
from knn_ner_jax.ablation.store import (
    PLOTS,
    TABLES,
    TEST_LOG,
    Corpora,
    Entry,
    Results,
    no_longer_shown,
    score_rows,
    trial_rows,
    write_table,
)
from knn_ner_jax.ablation.study import Cell, Study, describe
from knn_ner_jax.config import flatten
from knn_ner_jax.evaluation.predictions import METHODS, TaggedSentences
from knn_ner_jax.io import InputError, write_text
from knn_ner_jax.knn.combine import KnnParams
from knn_ner_jax.report.document import (
    Fact,
    Figure,
    Page,
    Section,
    Table,
    footer,
    has_page_extra,
    to_markdown,
    write_html,
)
from knn_ner_jax.report.explorer import Explorer, explore
from knn_ner_jax.run_dir import config_to_dict, environment

MAX_LISTED = 4  # conditions whose results the summary lists one by one
UNFINISHED = "The study is unfinished: the column of seeds says how many each number is of."
HOW = (
    "Strict F1 in percent, mean and standard deviation over seeds. k, temperature and knn_weight are selected on dev for "
    "each seed, the candidate on dev over all seeds, before test is searched; the first candidate is the reference. Gains "
    f"are on test, over the {METHODS['tagger']}."
)
INTERVALS = (
    "Intervals (95%) are of a paired bootstrap of sentences, to which the spread of seeds that sentences do not explain is "
    "added with Student's t."
)
TWO_SEEDS = "Do not trust the intervals of two seeds: they exclude 0 too often."
NOT_SEARCHED = "Not searched so far."
GAIN = "gain [95%]"  # heads the columns of gains over the tagger: of one weight for all words, of the combiner
PREFERRED = "dev prefers"
OVER_REFERENCE = "over the reference, seed by seed"
VS_FULL_DATA = f"What {METHODS['knn']} with less gains on test over the {METHODS['tagger']} with the largest value [95%]"
VS_FIRST_CURVE = f"What {METHODS['knn']} gains on test over {{first}}, which has the same {METHODS['tagger']} [95%]"
SETTINGS = (
    f"What dev selected for each seed, in the order of seeds, once where they agree; {EDGE}: the smallest or the largest of "
    "the search space, so that a better one may be beyond"
)


@dataclass(frozen=True)
class Content:
    """All that a study's document shows.

    Attributes:
        study: whose.
        methods: what it compares (`Results.methods`).
        conditions: their results.
        curves: of these.
        plots: of these; none without the extra `report`.
        breakdowns: of everything tested; none before the study is finished.
        hidden: entries of the log of searches of test whose results are no longer shown.
        is_finished: nothing is left to compute.
    """

    study: Study
    methods: Mapping[str, str]
    conditions: Sequence[ConditionResult]
    curves: Sequence[Curve] = ()
    plots: Plots = field(default_factory=dict)
    breakdowns: Sequence[Breakdown] = ()
    hidden: Sequence[Entry] = ()
    is_finished: bool = True

    def select_plots(self, *names: str) -> tuple[Figure, ...]:
        """Return those plots that there are."""
        return tuple(self.plots[name] for name in names if name in self.plots)


def write_partial(results: Results) -> None:
    """Write scores, trials, plots and the summary of an unfinished study, if there is anything to show."""
    conditions = analyse(results)
    if conditions:
        (results.study.folder / "report.html").unlink(missing_ok=True)  # of what the study was before
        content = _write_files(results, conditions, [], is_finished=False)
        write_text(results.study.folder / "summary.md", to_markdown(build_page(content)))


def write(results: Results, corpora: Corpora, changed: bool) -> None:
    """Write tables, plots, the summary and the HTML page, for which sentences are looked up again.

    Args:
        results: of a finished study.
        corpora: what it was computed from.
        changed: whether the page is written even where the summary stays the same.
    """
    conditions, folder = analyse(results), results.study.folder
    content = _write_files(results, conditions, break_down(results, conditions, corpora), is_finished=True)
    page, summary = build_page(content), folder / "summary.md"
    text = to_markdown(page)
    is_same = (folder / "report.html").exists() and summary.exists() and summary.read_text(encoding="utf-8") == text
    if not has_page_extra():
        print("scores, plots and page need the extra report, which is not installed: pip install -e '.[report]'")
    elif changed or not is_same:
        sentences = _look_up(results, content.breakdowns[-1].result.cells[0], corpora) if content.breakdowns else (None, "")
        write_html(folder / "report.html", add_html_only(page, results.study, *sentences))
    write_text(summary, text)  # last: where it is of today, so is the page


def _write_files(
    results: Results, conditions: Sequence[ConditionResult], breakdowns: Sequence[Breakdown], is_finished: bool
) -> Content:
    """Write tables and plots, none without the extra that they need, and delete all earlier ones."""
    folder, written = results.study.folder, set[str]()
    content = Content(
        results.study,
        results.methods,
        conditions,
        find_curves(results, conditions),
        breakdowns=breakdowns,
        hidden=no_longer_shown(results),
        is_finished=is_finished,
    )
    if has_page_extra():
        tables = {"scores": score_rows(results), "trials": trial_rows(results)}
        if breakdowns:
            tables["breakdown"] = breakdown_rows(breakdowns)
        for name, rows in tables.items():
            write_table(rows, folder / name)
            written |= {f"{name}.csv", f"{name}.parquet"}
        content = replace(content, plots=plots.plot(conditions, content.curves, results.methods))
        for figure in content.plots.values():
            write_text(folder / figure.file, figure.svg + "\n")
            written.add(figure.file)
    for name in {*TABLES, *PLOTS} - written:
        (folder / name).unlink(missing_ok=True)
    return content


def _look_up(results: Results, cell: Cell, corpora: Corpora) -> tuple[Explorer | None, str]:
    """Return the sentences of test that neighbours changed, or why there are none; rebuilds the cell's datastore."""
    sentences = TaggedSentences.of(corpora.of(cell.config).test, results.predictions(cell, "test"))
    setting = KnnParams(**results.read(cell, "test")["selected"])
    try:
        return explore(open_cell(cell, corpora).knn_tagger, setting, sentences, "test"), ""
    except InputError as error:  # the numbers are true without, even where the tagger they are of has been deleted
        return None, str(error)
    finally:
        if not results.study.config.ablation.keep_datastores:
            delete_datastore(cell)


def build_page(content: Content) -> Page:
    """Build the document of a study, which both writers write."""
    last = content.breakdowns[-1] if content.breakdowns else None
    sections = [_test_section(content), _dev_section(content)]
    if any(one.test for one in content.conditions):
        sections.append(_settings_section(content))
    if last is not None:
        sections.append(_breakdown_section(content, last))
    of_two = any(len(result.cells) == 2 for one in content.conditions for result in one.test)
    how = f"{HOW} {INTERVALS} {TWO_SEEDS}" if of_two else f"{HOW} {INTERVALS}"
    summary = (*_summary(content), how) if content.is_finished else (UNFINISHED, how)
    facts = () if last is None else _facts(last)
    return Page(f"Ablation: {content.study.folder.name}", summary, facts, tuple(sections))


def add_html_only(page: Page, study: Study, explorer: Explorer | None, why_no_explorer: str) -> Page:
    """Return a page with what only HTML has: sentences, or why there are none; configuration; versions."""
    sentences = [Section("Sentences", (f"No sentences are shown: {why_no_explorer}.",))] if why_no_explorer else []
    sections = (*page.sections, *sentences, _configuration_section(study))
    return replace(page, sections=sections, explorer=explorer, footer=footer(environment()))


def _summary(content: Content) -> list[str]:
    """Return the result of every condition or, where there are many, how many gain, and the last, which is broken down."""
    tested = [(one, result) for one in content.conditions for result in one.test[-1:]]
    listed = [f"{describe(one.condition)}: {_describe_result(result, content.methods)}" for one, result in tested]
    if len(listed) <= MAX_LISTED:
        return listed
    gains = [result.gains[result.preferred_method].gain for _, result in tested]
    above, below = sum(gain.low > 0 for gain in gains), sum(gain.high < 0 for gain in gains)
    counts = f"In {above} of {len(listed)} conditions the whole interval of the gain is above 0, in {below} below it"
    return [f"{counts}; the table under Test has them all.", f"The last of them: {listed[-1]}"]


def _describe_result(result: TestResult, methods: Mapping[str, str]) -> str:
    method = result.preferred_method
    gain = result.gains[method].gain
    certainty = "the interval excludes 0" if gain.excludes_zero else "the interval holds 0"
    if len(result.cells) == 1:
        certainty = "one seed, which says nothing of others"
    elif len(result.cells) == 2:
        certainty += ", but one of two seeds is not to be trusted"
    scores = f"{methods['tagger']} {result.f1['tagger']}, {methods[method]} {result.f1[method]}"
    return f"{scores}, gain {describe_interval(gain)}: {certainty}."


def _facts(last: Breakdown) -> tuple[Fact, ...]:
    gain, f1 = last.result.gains["knn"].gain, last.result.f1
    return (
        Fact(f"Test F1, {METHODS['tagger']}", str(f1["tagger"]), describe(last.condition.condition)),
        Fact(f"Test F1, {METHODS['knn']}", str(f1["knn"]), describe(last.result.candidate)),
        Fact("Gain", f"{gain.mean:+.2f}", f"95%: {gain.low:+.2f} to {gain.high:+.2f}"),
    )


def _test_section(content: Content) -> Section:
    is_searched = any(one.test for one in content.conditions)
    text = [] if is_searched else [NOT_SEARCHED]
    text += describe_hidden(content.hidden)
    tables = [test_table(content.conditions, content.methods)] if is_searched else []
    compared = [curve for curve in content.curves if curve.gain_vs_full_data]
    if compared:
        text += [curve.describe() for curve in compared]
        tables.append(_table_by_value(compared, [curve.gain_vs_full_data for curve in compared], VS_FULL_DATA))
    if others := [curve for curve in content.curves if curve.gain_vs_first_curve]:
        caption = VS_FIRST_CURVE.format(first=content.curves[0].name)
        tables.append(_table_by_value(others, [curve.gain_vs_first_curve for curve in others], caption))
    return Section("Test", tuple(text), tuple(tables), content.select_plots("curve", "gains"))


def test_table(conditions: Sequence[ConditionResult], methods: Mapping[str, str]) -> Table:
    """Return the table of test scores: a row for each condition and candidate tested."""
    has_combiner = any("combiner" in result.f1 for one in conditions for result in one.test)
    has_selected = any(one.selected_vs_reference for one in conditions)
    header = ["condition", "candidate", "seeds", methods["tagger"], methods["knn"], GAIN]
    header += [methods["combiner"], GAIN, f"over {methods['knn']} [95%]", PREFERRED] if has_combiner else []
    header += ["over the reference [95%]"] if has_selected else []
    rows = []
    for one in conditions:
        for number, result in enumerate(one.test):
            row = [describe(one.condition), describe(result.candidate), str(len(result.cells)), str(result.f1["tagger"])]
            row += [str(result.f1["knn"]), describe_interval(result.gains["knn"].gain)]
            if result.combiner_gain:
                row += [str(result.f1["combiner"]), describe_interval(result.gains["combiner"].gain)]
                row += [describe_interval(result.combiner_gain.gain), methods[result.preferred_method]]
            elif has_combiner:
                row += [""] * 4
            if has_selected:
                gain = one.selected_vs_reference
                row.append(describe_interval(gain.gain) if number and gain else "")
            rows.append(row)
    return Table.of(header, rows, 2)


def _table_by_value(curves: Sequence[Curve], gains_of: Sequence[Mapping[float, Comparison]], caption: str) -> Table:
    """Return a table of what curves gain: a row for each value of their field."""
    rows = [
        [str(value), *(describe_interval(gains[value].gain) if value in gains else "" for gains in gains_of)]
        for value in sorted({value for gains in gains_of for value in gains})
    ]
    names = (describe(curve.others) if curve.others else METHODS["knn"] for curve in curves)
    return Table.of([curves[0].field, *names], rows, 1, caption)


def describe_hidden(entries: Sequence[Entry]) -> list[str]:
    """Return a sentence on what test was searched for and is no longer shown, if any: it may have led to what is shown."""
    seeds: dict[str, list[str]] = {}
    for entry in entries:
        parts = describe(entry["condition"]), describe(entry["candidate"]), *filter(None, [entry.get("combiner")])
        seeds.setdefault("; ".join(parts), []).append(str(entry["seed"]))
    if not seeds:
        return []
    listed = ", and for ".join(f"{what} (seed {', '.join(dict.fromkeys(of_seeds))})" for what, of_seeds in seeds.items())
    return [
        "Test was searched before, with taggers of this study, for what the study does not show any more, and what came out "
        f"may have led to what is shown: for {listed}. {TEST_LOG} has the settings."
    ]


def dev_table(conditions: Sequence[ConditionResult], methods: Mapping[str, str]) -> Table:
    """Return the table of dev scores: every candidate, best first, then the combiner of those tested."""
    several = any(len(one.dev) > 1 for one in conditions)
    rows = []
    for one in conditions:
        condition = describe(one.condition)
        for dev in sorted(one.dev, key=lambda dev: -dev.knn.mean):
            row = [condition, describe(dev.candidate), str(dev.knn.seeds), str(dev.tagger), str(dev.knn)]
            gain = dev.gain_vs_reference
            rows.append(row + [describe_difference(gain) if gain else ""] * several)
        for result in one.test:
            if combiner := result.dev.get("combiner"):
                name = f"{describe(result.candidate)}; {methods['combiner']}"
                row = [condition, name, str(combiner.seeds), str(result.dev["tagger"]), str(combiner)]
                rows.append(row + [""] * several)
    header = ["condition", "candidate", "seeds", methods["tagger"], "strict F1 on dev", *[OVER_REFERENCE] * several]
    return Table.of(header, rows, 2)


def _dev_section(content: Content) -> Section:
    tables = [dev_table(content.conditions, content.methods)]
    rows = [
        [describe(one.condition), describe(result.candidate), *describe_seeds(result.settings)]
        for one in content.conditions
        for result in one.test
    ]
    if rows:
        tables.append(Table.of(["condition", "candidate", *SETTING], rows, 2, SETTINGS))
    return Section("Dev", ("Every candidate, best first.",), tuple(tables), content.select_plots("candidates"))


def _settings_section(content: Content) -> Section:
    """Return mean dev F1 over seeds by k, temperature and weight, of what dev selected for the last condition tested."""
    condition, result = [(one.condition, one.test[-1]) for one in content.conditions if one.test][-1]
    what = f"{describe(condition)}; {describe(result.candidate)}; means over seeds."
    names = "metric", *SETTING[:-1]
    rows = [
        [str(seed), *(setting[name] for name in names)] for seed, setting in zip(result.seeds, result.settings, strict=True)
    ]
    table = Table.of(["seed", *names], rows, 2, "What dev selected for each seed")
    return Section("k, temperature and knn_weight", (what,), (table,), content.select_plots("by_k", "surface"))


def _breakdown_section(content: Content, last: Breakdown) -> Section:
    text = describe_breakdown(last)
    if len(content.breakdowns) > 1:
        text += ("breakdown.csv, which is written beside this page, has the same for everything that was tested.",)
    return Section("Where it helps", text, breakdown_tables(last.diff))


def _configuration_section(study: Study) -> Section:
    counts = (
        (len(study.config.ablation.seeds), "seed"),
        (len(study.conditions), "condition"),
        (len(study.candidates), "candidate"),
    )
    text = ", ".join(f"{number} {name}{'s' * (number != 1)}" for number, name in counts)
    rows = [(name, str(value)) for name, value in flatten(config_to_dict(study.config)).items()]
    return Section("Configuration", (f"{text}.",), (Table.of(("field", "value"), rows, 2, "study.yaml", folded=True),))
