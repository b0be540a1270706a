"""What a study says: means over seeds, what dev chose, and gains on test with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from knn_ner_jax.ablation import significance
from knn_ner_jax.ablation.results import METHODS, Results
from knn_ner_jax.ablation.significance import Comparison, Estimate
from knn_ner_jax.ablation.spread import Spread
from knn_ner_jax.ablation.study import Cell, Values

KEY = 0  # of the draws behind the intervals


@dataclass(frozen=True)
class Tested:
    """One choice under one condition on test.

    Attributes:
        choice: which.
        cells: by seed.
        dev: F1 on dev by method.
        f1: by method.
        gains: over the tagger alone, by method.
    """

    choice: Values
    cells: tuple[Cell, ...]
    dev: dict[str, Spread]
    f1: dict[str, Spread]
    gains: dict[str, Comparison]


@dataclass(frozen=True)
class Finding:
    """What came out for one condition.

    Attributes:
        condition: which.
        vanilla: the tagger alone on dev.
        dev: every choice and its best F1 on dev.
        tested: the reference, then what dev chose if that is another; only what has been computed.
        between: what the second gains over the first on test, where there are two.
    """

    condition: Values
    vanilla: Spread
    dev: tuple[tuple[Values, Spread], ...]
    tested: tuple[Tested, ...]
    between: Comparison | None


def in_words(values: Values) -> str:
    """`data.train_share 0.05, datastore.share 1.0`."""
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "as configured"


def interval(estimate: Estimate) -> str:
    """`+1.2 [+0.3, +2.0]`."""
    return f"{estimate.mean:+.1f} [{estimate.low:+.1f}, {estimate.high:+.1f}]"


def _counts(results: Results, cells: Sequence[Cell], method: str) -> np.ndarray:
    """[seeds, sentences, 3] entities of test."""
    gold = results.tags(cells[0], "test", "gold")
    return np.stack([significance.sentence_counts(gold, results.tags(cell, "test", method)) for cell in cells])


def _compare(results: Results, first: np.ndarray, second: np.ndarray) -> Comparison:
    return significance.compare(first, second, jax.random.key(KEY), results.study.config.ablation.resamples)


def _f1(results: Results, cells: Sequence[Cell], split: str, method: str) -> list[float]:
    found = (results.scores(cell, split, method) for cell in cells)
    return [scores["f1"] for scores in found if scores is not None]


def _tested(results: Results, choice: Values, cells: Sequence[Cell]) -> Tested:
    f1 = {method: _f1(results, cells, "test", method) for method in METHODS}
    whole = [method for method, values in f1.items() if len(values) == len(cells)]
    vanilla = _counts(results, cells, "vanilla")
    gains = {method: _compare(results, vanilla, _counts(results, cells, method)) for method in whole if method != "vanilla"}
    dev = {method: Spread.of(_f1(results, cells, "dev", method)) for method in whole}
    return Tested(choice, tuple(cells), dev, {method: Spread.of(f1[method]) for method in whole}, gains)


def find(results: Results, condition: Values) -> Finding | None:
    """Sums up the finished cells of a condition; None where there is none yet."""
    study = results.study
    vanilla: list[float] = []
    dev, tested = [], []
    for choice in study.choices:
        cells = study.seeds_of(condition, choice)
        if of_choice := _f1(results, cells, "dev", "knn"):
            vanilla = vanilla or _f1(results, cells, "dev", "vanilla")
            dev.append((choice, Spread.of(of_choice)))
        on_test = [cell for cell in cells if results.path(cell, "test").exists()]
        if on_test and choice in results.for_test(condition):
            tested.append(_tested(results, choice, on_test))
    if not dev:
        return None
    between = None
    if len(tested) == 2 and len(tested[0].cells) == len(tested[1].cells):
        between = _compare(results, *(_counts(results, one.cells, "knn") for one in tested))
    return Finding(condition, Spread.of(vanilla), tuple(dev), tuple(tested), between)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table, the first column to the left."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def test_rows(findings: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of test scores: a row for each condition and choice tested."""
    methods = [name for name in METHODS if any(name in tested.f1 for one in findings for tested in one.tested)]
    header = ["condition", "choice", "seeds", METHODS["vanilla"]]
    header += [title for name in methods[1:] for title in (METHODS[name], "gain [95%]")] + ["over the reference [95%]"]
    rows = []
    for finding in findings:
        for number, tested in enumerate(finding.tested):
            row = [in_words(finding.condition), in_words(tested.choice), str(len(tested.cells)), str(tested.f1["vanilla"])]
            for name in methods[1:]:
                has = name in tested.f1
                row += [str(tested.f1[name]), interval(tested.gains[name].gain)] if has else ["", ""]
            rows.append([*row, interval(finding.between.gain) if number and finding.between else ""])
    return header, rows


def dev_rows(findings: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of dev scores: every choice, best first."""
    rows = []
    for finding in findings:
        rows.append([in_words(finding.condition), METHODS["vanilla"], str(finding.vanilla.seeds), str(finding.vanilla)])
        for choice, f1 in sorted(finding.dev, key=lambda listed: -listed[1].mean):
            rows.append([in_words(finding.condition), in_words(choice), str(f1.seeds), str(f1)])
        for tested in finding.tested:
            if learned := tested.dev.get("learned"):
                named = f"{in_words(tested.choice)}; {METHODS['learned']}"
                rows.append([in_words(finding.condition), named, str(learned.seeds), str(learned)])
    return ["condition", "choice", "seeds", "strict F1 on dev"], rows


def page(name: str, findings: Sequence[Finding], plots: Mapping[str, str]) -> str:
    """The summary as Markdown.

    Args:
        name: of the study.
        findings: of its conditions.
        plots: what each says, by the name of its SVG file.
    """
    lines = [
        f"# {name}",
        "",
        "Strict F1 in percent, mean and standard deviation over seeds. k, temperature and knn_weight are chosen on dev for "
        "each seed, the choice on dev over all seeds; the first choice is the reference. Gains are on test, over the tagger "
        "alone; intervals are of a paired bootstrap of sentences and seeds.",
        "",
        "## Test",
        "",
        *markdown(*test_rows(findings)),
        *(line for name in plots for line in (f"![{plots[name]}]({name}.svg)", "")),
        "## Dev",
        "",
        *markdown(*dev_rows(findings)),
    ]
    return "\n".join(lines)
