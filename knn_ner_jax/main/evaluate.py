"""Scores a trained tagger with and without neighbours: datastore -> settings from dev -> test, once -> eval.json, page."""

import json
import logging
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from knn_ner_jax import cli, distributed
from knn_ner_jax.config import Config
from knn_ner_jax.data.corpus import read_corpus, refuse_test_as_dev
from knn_ner_jax.evaluation.evaluate import Evaluated, evaluate_splits
from knn_ner_jax.evaluation.tuning import has_choice
from knn_ner_jax.io import InputError, write_json
from knn_ner_jax.knn.storage import MANIFEST, read_source
from knn_ner_jax.knn_tagger import check_settings, read_datastore_corpus, select_datastore_examples
from knn_ner_jax.report.document import has_page_extra
from knn_ner_jax.report.evaluation import print_scores
from knn_ner_jax.run_dir import (
    DATASTORE_FIELDS,
    EVALUATION_FIELDS,
    EVALUATION_FILES,
    TRAINING_FIELDS,
    TrainedModel,
    check_corpus,
    check_is_dir,
    check_run_dir,
    check_same_config,
    config_to_dict,
    delete_run,
    save_config,
)
from knn_ner_jax.sharding import is_primary_host

PROGRAM = "eval.py"
AGAIN = "--overwrite evaluates again"


def prepare(folder: Path, config: Config, overwrite: bool) -> bool:
    """True when there is work to do; refuses an unfinished training and a folder that another configuration has filled."""
    run_dir = Path(config.run_dir)
    if not (run_dir / "train.json").exists():
        raise InputError(f"run_dir: {run_dir}: expected a finished training (train.json), found none; run train.py first")
    check_same_config(run_dir / "config.yaml", config, TRAINING_FIELDS, "these settings are the training's, in config.yaml")
    check_is_dir(folder, "eval_dir")
    # A datastore may have been brought here from another run; it is compared with this one when it is loaded.
    brought = {"datastore"} if (folder / "datastore" / MANIFEST).exists() else set()
    check_run_dir(folder, "eval_dir", [name for name in EVALUATION_FILES if name not in brought])
    stored, results = folder / "eval.config.yaml", folder / "eval.json"
    if overwrite or not stored.exists():
        return True
    # Before there are results only the datastore, which may be there already, depends on what was given.
    check_same_config(stored, config, EVALUATION_FIELDS if results.exists() else DATASTORE_FIELDS)
    if not results.exists():
        return True
    evaluated, trained = (
        json.loads(path.read_text(encoding="utf-8"))["weights"] for path in (results, run_dir / "train.json")
    )
    if evaluated != trained:
        raise InputError(f"{folder} was evaluated with weights {evaluated}, {run_dir} has {trained}; --overwrite evaluates")
    return False


def check_remembered(config: Config, sha256: str) -> None:
    """Raises RunConflict where the other corpus that a datastore remembers has changed since; `sha256` is what it was."""
    if config.datastore.corpus is not None:
        check_corpus({"train": sha256}, {"train": read_datastore_corpus(config)}, AGAIN)


def check_results(config: Config, folder: Path) -> None:
    """Raises RunConflict where a finished evaluation was of another corpus."""
    evaluated = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
    hashes = {name: split["sha256"] for name, split in evaluated["corpus"].items()}
    corpus = read_corpus(config.data.dir, config.data.scheme, config.data.on_error)
    check_corpus(hashes, corpus.splits, AGAIN)
    check_remembered(config, evaluated["datastore"]["source"]["sha256"])
    print(f"{folder} is evaluated; {AGAIN}")


def start_evaluation(config: Config, folder: Path, overwrite: bool) -> None:
    """Deletes what an earlier evaluation left, where that is wanted, and writes the configuration of this one."""
    if overwrite:
        delete_run(folder, EVALUATION_FILES)
    save_config(folder / "eval.config.yaml", config)


def write_page(path: Path, evaluated: Evaluated) -> None:
    """Writes report.html."""
    from knn_ner_jax.report import document, evaluation

    document.write_html(path, evaluation.evaluation_page(evaluated.result, evaluated.explorer, evaluated.why_no_explorer))


def run(config: Config, folder: Path, overwrite: bool) -> None:
    """Evaluates, unless that has been done; deletes and writes nothing before everything given has proved right."""
    if not distributed.on_primary_host(lambda: prepare(folder, config, overwrite)):
        distributed.on_primary_host(lambda: check_results(config, folder))
        return
    builds = distributed.on_primary_host(lambda: overwrite or not (folder / "datastore").exists())
    with distributed.sync_errors():
        corpus = read_corpus(config.data.dir, config.data.scheme, config.data.on_error)
        run_dir = Path(config.run_dir)
        trained = json.loads((run_dir / "corpus.json").read_text(encoding="utf-8"))
        check_corpus(trained, {"train": corpus.train}, "train.py --overwrite trains again")
        if has_choice(config.knn):
            refuse_test_as_dev(corpus.dev, corpus.test)
        model, remembered = TrainedModel.load(run_dir), None
        if builds:
            remembered = select_datastore_examples(config, corpus, model)
            check_settings(config, model, remembered.encoded.num_words)
        else:
            check_remembered(config, read_source(folder / "datastore").sha256)
    files = [*corpus.splits.values(), *([remembered.split] if remembered else [])]
    distributed.assert_same_on_hosts([config_to_dict(config), overwrite, *(file.sha256 for file in files)])
    distributed.on_primary_host(lambda: start_evaluation(config, folder, overwrite))
    has_page = distributed.on_primary_host(has_page_extra)
    drawn = corpus.draw(config.data.train_fraction, config.data.dev_fraction, config.seed)
    evaluated = evaluate_splits(config, folder, drawn, model, remembered, has_page)
    if not is_primary_host():
        return
    if has_page:
        write_page(folder / "report.html", evaluated)
    else:
        print("report.html needs the extra report, which is not installed: pip install -e '.[report]'; none is written")
    write_json(folder / "eval.json", evaluated.result)


def main() -> None:
    """Entry point."""
    config, overwrite = cli.parse(PROGRAM, "Score a trained tagger with and without neighbours.", Config)
    folder = Path(config.eval_dir or config.run_dir)
    try:
        distributed.connect(config.distributed, saves_on_sigterm=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
        run(config, folder, overwrite)
    except InputError as error:
        cli.fail(PROGRAM, str(error))
    if is_primary_host():
        print_scores(Console(), json.loads((folder / "eval.json").read_text(encoding="utf-8")))
