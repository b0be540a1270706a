"""One configuration of a study, looked at closely: where neighbours help, and sentences that they changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from knn_ner_jax.ablation.breakdown import Breakdown, break_down
from knn_ner_jax.ablation.cells import delete_datastore, open_cell
from knn_ner_jax.ablation.corpora import Corpora
from knn_ner_jax.ablation.findings import Finding, Tested
from knn_ner_jax.ablation.results import Results
from knn_ner_jax.ablation.study import Cell
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation.explorer import Explorer, explore
from knn_ner_jax.evaluation.scoring import Columns
from knn_ner_jax.evaluation.tuning import Setting


@dataclass(frozen=True)
class Focus:
    """One configuration that is looked at closely: that of the last condition that dev chose.

    Attributes:
        finding: of its condition.
        tested: its choice.
        breakdown: of test, over seeds.
        explorer: of test, with the first seed, or None.
        why_no_explorer: where there is none.
    """

    finding: Finding
    tested: Tested
    breakdown: Breakdown
    explorer: Explorer | None
    why_no_explorer: str = ""


def look_closely(results: Results, findings: Sequence[Finding], corpora: Corpora) -> Focus | None:
    """The last condition that has been tested, with what dev chose; None where there is none.

    Occurrences in train are those in the whole file, which is the same for all seeds, whatever share they draw of it. Builds
    the datastore of the first seed, and deletes it unless datastores are kept.
    """
    tested = [finding for finding in findings if finding.tested]
    if not tested:
        return None
    chosen = tested[-1].tested[-1]
    cell = chosen.cells[0]
    corpus = corpora.of(cell.config)
    outcomes = [results.outcome(one, "test") for one in chosen.cells]
    breakdown = break_down(corpus.test.sentences, outcomes, corpus.train.sentences)
    explorer, why_not = _explore(results, cell, corpora)
    return Focus(tested[-1], chosen, breakdown, explorer, why_not)


def _explore(results: Results, cell: Cell, corpora: Corpora) -> tuple[Explorer | None, str]:
    """The explorer of a cell, or why there is none."""
    found = Columns.of(corpora.of(cell.config).test, results.outcome(cell, "test"))
    setting = Setting(**results.read(cell, "test")["selected"])
    try:
        return explore(open_cell(cell, corpora).knn_tagger, setting, found, "test"), ""
    except InputError as error:  # the numbers stand without, even where the tagger they are of is gone
        return None, str(error)
    finally:
        if not results.study.config.ablation.keep_datastores:
            delete_datastore(cell)
