"""What was tested in a study, looked at closely: where neighbours help, and sentences that they changed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from knn_ner_jax.ablation.breakdown import Breakdown, break_down
from knn_ner_jax.ablation.cells import delete_datastore, open_cell
from knn_ner_jax.ablation.corpora import Corpora
from knn_ner_jax.ablation.findings import Finding, Tested
from knn_ner_jax.ablation.results import Results
from knn_ner_jax.ablation.study import Cell
from knn_ner_jax.config import Config
from knn_ner_jax.data.corpus import Sentence
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation.explorer import Explorer, explore
from knn_ner_jax.evaluation.scoring import Columns
from knn_ner_jax.evaluation.tuning import Setting


@dataclass(frozen=True)
class Focus:
    """One configuration that is looked at closely.

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
    explorer: Explorer | None = None
    why_no_explorer: str = ""


def look_closely(results: Results, findings: Sequence[Finding], corpora: Corpora) -> list[Focus]:
    """Every configuration that has been tested, in order: the last is what dev chose for the last condition.

    Occurrences in train are those in the sentences that each seed draws.
    """
    return [
        Focus(finding, tested, _break_down(results, tested.cells, corpora))
        for finding in findings
        for tested in finding.tested
    ]


def _break_down(results: Results, cells: Sequence[Cell], corpora: Corpora) -> Breakdown:
    outcomes = [results.outcome(cell, "test") for cell in cells]
    trains = [_trained_on(cell.config, corpora) for cell in cells]
    return break_down(corpora.of(cells[0].config).test.sentences, outcomes, trains)


def add_sentences(focus: Focus, results: Results, corpora: Corpora) -> Focus:
    """Looks up sentences again: builds the datastore of the first seed, and deletes it unless datastores are kept."""
    explorer, why_not = _explore(results, focus.tested.cells[0], corpora)
    return replace(focus, explorer=explorer, why_no_explorer=why_not)


def _trained_on(config: Config, corpora: Corpora) -> Sequence[Sentence]:
    return corpora.of(config).draw(config.data.train_share, config.data.dev_share, config.seed).train.sentences


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
