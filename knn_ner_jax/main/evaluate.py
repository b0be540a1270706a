"""`eval`: build the datastore, choose kNN parameters on dev, label test once; write scores, predictions and a page."""

import json
import logging
from pathlib import Path
from typing import Any

from rich.console import Console

from knn_ner_jax import distributed
from knn_ner_jax.config import Config
from knn_ner_jax.data.corpus import check_dev, read_corpus
from knn_ner_jax.data.validation import warn_of_losses
from knn_ner_jax.evaluation.evaluate import Evaluation, evaluate_splits
from knn_ner_jax.evaluation.tuning import has_choice, make_grid
from knn_ner_jax.io import InputError, check_finished, check_is_dir, write_json
from knn_ner_jax.knn.datastore import check_keys
from knn_ner_jax.knn.examples import read_datastore_corpus, select_datastore_examples
from knn_ner_jax.knn.storage import MANIFEST, read_manifest
from knn_ner_jax.report.document import has_page_extra
from knn_ner_jax.report.evaluation import evaluation_page, print_scores
from knn_ner_jax.report.explorer import Explorer, explore
from knn_ner_jax.run_dir import (
    DATASTORE_FIELDS,
    EVALUATION_FIELDS,
    EVALUATION_FILES,
    TRAINING_FIELDS,
    Stopwatch,
    TrainedModel,
    check_corpus,
    check_nothing_was_taught,
    check_run_dir,
    check_same_config,
    config_to_dict,
    delete_run,
    save_config,
)
from knn_ner_jax.sharding import is_primary_host

logger = logging.getLogger(__name__)

AGAIN = "--overwrite evaluates again"
BESIDE = f"{AGAIN} and keeps the tagger; --eval_dir FOLDER puts this evaluation beside the other"


def prepare(folder: Path, config: Config, overwrite: bool) -> bool:
    """Return whether there is work to do; refuse an unfinished training, and a folder filled under another configuration."""
    run_dir = Path(config.run_dir)
    check_finished(run_dir, "training")
    training = run_dir / "config.yaml"
    remedy = f"these settings are the training's: --config {training} repeats them, or train into another run_dir"
    check_same_config(training, config, TRAINING_FIELDS, remedy)
    check_is_dir(folder, "eval_dir")
    # A datastore may have been copied here from another run; it is compared with this one when it is loaded.
    has_datastore = (folder / "datastore" / MANIFEST).exists()
    check_run_dir(folder, "eval_dir", [name for name in EVALUATION_FILES if name != "datastore" or not has_datastore])
    stored, results = folder / "eval.config.yaml", folder / "eval.json"
    if overwrite:
        check_nothing_was_taught(folder)
    if overwrite or not stored.exists():
        return True
    # Before there are results only the datastore, which may be there already, depends on the earlier configuration.
    check_same_config(stored, config, EVALUATION_FIELDS if results.exists() else DATASTORE_FIELDS, BESIDE)
    if not results.exists():
        return True
    evaluated, trained = (
        json.loads(path.read_text(encoding="utf-8"))["weights"] for path in (results, run_dir / "train.json")
    )
    if evaluated != trained:
        raise InputError(f"{folder} was evaluated with weights {evaluated}, {run_dir} has {trained}; {AGAIN}")
    return False


def check_datastore_corpus(config: Config, sha256: str) -> None:
    """Raise RunConflict where `datastore.corpus` has changed since the datastore was built from a file of this SHA-256."""
    if config.datastore.corpus is not None:
        check_corpus({"train": sha256}, {"train": read_datastore_corpus(config)}, AGAIN)


def check_results(config: Config, folder: Path) -> None:
    """Raise RunConflict where a finished evaluation was of another corpus."""
    evaluated = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
    hashes = {name: split["sha256"] for name, split in evaluated["corpus"].items()}
    corpus = read_corpus(config.data)
    check_corpus(hashes, corpus.splits, AGAIN)
    check_datastore_corpus(config, evaluated["datastore"]["source"]["sha256"])
    print(f"{folder} is evaluated; {AGAIN}")


def start_evaluation(config: Config, folder: Path, overwrite: bool) -> None:
    """Write the configuration of an evaluation, with `overwrite` after deleting what an earlier one left."""
    if overwrite:
        delete_run(folder, EVALUATION_FILES)
    save_config(folder / "eval.config.yaml", config)


def explore_test(evaluation: Evaluation) -> tuple[Explorer | None, str]:
    """Return the explorer of test for a page, or why there is none."""
    try:
        return explore(evaluation.knn_tagger, evaluation.knn_params, evaluation.test, "test"), ""
    except InputError as error:  # the scores stand without
        logger.warning("the page shows no neighbours: %s", error)
        return None, str(error)


def write_page(path: Path, result: dict[str, Any], explorer: Explorer | None, why_no_explorer: str) -> None:
    """Write report.html."""
    from knn_ner_jax.report.document import write_html

    write_html(path, evaluation_page(result, explorer, why_no_explorer))


def run(config: Config, folder: Path, overwrite: bool) -> bool:
    """Evaluate a run, unless that has been done, and return whether a page was written.

    Nothing is deleted or written before all checks have passed.
    """
    if not distributed.on_primary_host(lambda: prepare(folder, config, overwrite)):
        distributed.on_primary_host(lambda: check_results(config, folder))
        return False
    builds = distributed.on_primary_host(lambda: overwrite or not (folder / "datastore").exists())
    with distributed.sync_errors():
        corpus = read_corpus(config.data)
        run_dir = Path(config.run_dir)
        trained_on = json.loads((run_dir / "corpus.json").read_text(encoding="utf-8"))
        check_corpus(trained_on, {"train": corpus.train}, "train --overwrite trains again")
        if has_choice(config.knn):
            check_dev(corpus.draw(config.data.train_fraction, config.data.dev_fraction, config.seed).dev, corpus.test)
        model, examples = TrainedModel.load(run_dir), None
        warn_of_losses(model.tokenizer, corpus.train.sentences)
        if builds:
            examples = select_datastore_examples(config, corpus, model)
            check_keys(config.datastore, model.tagger.config)
            make_grid(config.knn, examples.encoded.num_words)
        else:
            check_datastore_corpus(config, read_manifest(folder / "datastore" / MANIFEST)["source"]["sha256"])
    files = [*corpus.splits.values(), *([examples.split] if examples else [])]
    distributed.assert_same_on_hosts([config_to_dict(config), overwrite, *(file.sha256 for file in files)])
    distributed.on_primary_host(lambda: start_evaluation(config, folder, overwrite))
    has_page = distributed.on_primary_host(has_page_extra)
    drawn = corpus.draw(config.data.train_fraction, config.data.dev_fraction, config.seed)
    watch = Stopwatch()
    evaluation = evaluate_splits(config, folder, drawn, model, examples, watch)
    with watch.stage("explore"):
        explorer, why_no_explorer = explore_test(evaluation) if has_page else (None, "")
    if not is_primary_host():
        return False
    result = evaluation.result | {"seconds": watch.seconds}
    if has_page:
        write_page(folder / "report.html", result, explorer, why_no_explorer)
    else:
        print("report.html needs the extra report, which is not installed: pip install -e '.[report]'; none is written")
    write_json(folder / "eval.json", result)
    return has_page


def main(config: Config, overwrite: bool) -> None:
    """Join the other hosts, evaluate, and print the scores.

    Args:
        config: of the run.
        overwrite: delete what an earlier evaluation left and start again.
    """
    distributed.connect(config.distributed, saves_on_sigterm=False)
    folder = Path(config.eval_dir or config.run_dir)
    with distributed.exclusive_lock(folder):
        wrote_page = run(config, folder, overwrite)
    if is_primary_host():
        print_scores(Console(), json.loads((folder / "eval.json").read_text(encoding="utf-8")))
        if wrote_page:
            print(f"wrote {folder / 'report.html'}")
