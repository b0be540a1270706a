"""One configuration of a study, looked at closely: where neighbours help, and sentences that they changed."""

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
    explorer: Explorer | None = None
    why_no_explorer: str = ""


def look_closely(results: Results, findings: Sequence[Finding], corpora: Corpora) -> Focus | None:
    """The last condition that has been tested, with what dev chose; None where there is none.

    Occurrences in train are those in the sentences that each seed draws.
    """
    tested = [finding for finding in findings if finding.tested]
    if not tested:
        return None
    chosen = tested[-1].tested[-1]
    test = corpora.of(chosen.cells[0].config).test
    outcomes = [results.outcome(cell, "test") for cell in chosen.cells]
    trains = [_trained_on(cell.config, corpora) for cell in chosen.cells]
    return Focus(tested[-1], chosen, break_down(test.sentences, outcomes, trains))


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
