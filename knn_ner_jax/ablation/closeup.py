"""One configuration of a study, looked at closely: where neighbours help, and sentences that they changed."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from knn_ner_jax.ablation.breakdown import Breakdown, break_down
from knn_ner_jax.ablation.cells import datastore_folder, open_cell
from knn_ner_jax.ablation.corpora import Corpora
from knn_ner_jax.ablation.findings import Finding, Tested
from knn_ner_jax.ablation.results import Results
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
    explorer: Explorer | None
    why_no_explorer: str = ""


def look_closely(results: Results, findings: Sequence[Finding], corpora: Corpora) -> Focus | None:
    """The last condition that has been tested, with what dev chose; None where there is none.

    Occurrences in train are those in the sentences that each seed draws. Builds the datastore of the first seed, and deletes
    it unless datastores are kept.
    """
    tested = [finding for finding in findings if finding.tested]
    if not tested:
        return None
    chosen = tested[-1].tested[-1]
    cell = chosen.cells[0]
    test = corpora.of(cell.config).test
    outcomes = [results.outcome(one, "test") for one in chosen.cells]
    breakdown = break_down(test.sentences, outcomes, [_trained_on(one.config, corpora) for one in chosen.cells])
    opened = open_cell(cell, corpora)
    setting = Setting(**results.read(cell, "test")["selected"])
    explorer, why_not = None, ""
    try:
        explorer = explore(opened.knn_tagger, setting, Columns.of(test, outcomes[0]), "test")
    except InputError as error:  # the numbers stand without
        why_not = str(error)
    finally:
        if not results.study.config.ablation.keep_datastores:
            shutil.rmtree(datastore_folder(cell))
    return Focus(tested[-1], chosen, breakdown, explorer, why_not)


def _trained_on(config: Config, corpora: Corpora) -> Sequence[Sentence]:
    return corpora.of(config).draw(config.data.train_share, config.data.dev_share, config.seed).train.sentences
