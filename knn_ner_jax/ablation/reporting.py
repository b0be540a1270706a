"""The files that say what came out of a study: tables, plots, summary and, when it is done, its page."""

from collections.abc import Mapping, Sequence
from typing import Any

from knn_ner_jax.ablation import summary
from knn_ner_jax.ablation.analysis import ConditionResult, Curve, find, find_curves
from knn_ner_jax.ablation.breakdown import Focus, add_sentences, look_closely
from knn_ner_jax.ablation.store import PLOTS, TABLES, Results, no_longer_shown
from knn_ner_jax.ablation.study import Corpora
from knn_ner_jax.io import write_text
from knn_ner_jax.report.evaluation import has_page_extra


def find_all(results: Results) -> list[ConditionResult]:
    """What came out for every condition of which something has been computed."""
    return [finding for condition in results.study.conditions if (finding := find(results, condition))]


def write_partial(results: Results) -> None:
    """Writes scores, trials, plots and the summary of an unfinished study, if there is anything to say."""
    findings = find_all(results)
    if findings:
        curves, folder = find_curves(results, findings), results.study.folder
        (folder / "report.html").unlink(missing_ok=True)  # of what the study was before
        plotted = _write_tables(results, findings, curves)
        text = summary.page(folder.name, findings, curves, _alternatives(plotted), None, no_longer_shown(results), True)
        write_text(folder / "summary.md", text)


def write(results: Results, corpora: Corpora, changed: bool) -> None:
    """Writes tables, plots, the summary and the page, which looks up sentences again.

    Args:
        results: of a finished study.
        corpora: what it was computed from.
        changed: the page is written even where the summary says what it said.
    """
    findings, folder = find_all(results), results.study.folder
    curves, looks = find_curves(results, findings), look_closely(results, findings, corpora)
    focus = looks[-1] if looks else None
    plotted = _write_tables(results, findings, curves, looks)
    opened, written = no_longer_shown(results), folder / "summary.md"
    text = summary.page(folder.name, findings, curves, _alternatives(plotted), focus, opened)
    same = (folder / "report.html").exists() and written.exists() and written.read_text(encoding="utf-8") == text
    if not has_page_extra():
        print("scores, plots and page need the extra report, which is not installed: pip install -e '.[report]'")
    elif changed or not same:
        from knn_ner_jax.ablation import page
        from knn_ner_jax.report.document import write_html as write_page

        shown = add_sentences(focus, results, corpora) if focus else None
        write_page(folder / "report.html", page.build_page(results, findings, curves, plotted, shown, opened))
    write_text(written, text)  # last: where it is of today, so is the page


def _write_tables(
    results: Results, findings: Sequence[ConditionResult], curves: Sequence[Curve], looks: Sequence[Focus] = ()
) -> Mapping[str, Any]:
    """Writes tables and plots, and returns the plots; none without the extra that they need. No earlier one stays."""
    folder, plotted, written = results.study.folder, dict[str, Any](), set[str]()
    if has_page_extra():
        from knn_ner_jax.ablation import plots, tidy

        tables = {"scores": tidy.scores(results), "trials": tidy.trials(results)}
        if looks:
            tables["where"] = tidy.where(looks)
        for name, rows in tables.items():
            tidy.write(rows, folder / name)
        plotted |= plots.plot(findings, curves)
        for name, figure in plotted.items():
            write_text(folder / f"{name}.svg", figure.svg + "\n")
        written = {f"{name}.{kind}" for name in tables for kind in ("csv", "parquet")} | {f"{name}.svg" for name in plotted}
    for name in {*TABLES, *PLOTS} - written:
        (folder / name).unlink(missing_ok=True)
    return plotted


def _alternatives(plotted: Mapping[str, Any]) -> dict[str, str]:
    return {name: figure.alt for name, figure in plotted.items()}
