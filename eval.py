"""Scores a trained tagger with and without neighbours: datastore -> settings from dev -> test, once -> eval.json, page."""

import json
import logging
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from knn_ner_jax import cli, hosts, runs
from knn_ner_jax.config import Config
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation import opening
from knn_ner_jax.evaluation.evaluate import Evaluated, evaluate_splits
from knn_ner_jax.evaluation.report import has_page_extra, print_scores
from knn_ner_jax.evaluation.tuning import has_choice, refuse_test_as_dev
from knn_ner_jax.files import write_json
from knn_ner_jax.knn.storage import MANIFEST, read_source
from knn_ner_jax.memory import keep_freed_memory
from knn_ner_jax.mesh import is_first_host

PROGRAM = "eval.py"
AGAIN = "--overwrite evaluates again"


def prepare(folder: Path, config: Config, overwrite: bool) -> bool:
    """True when there is work to do; refuses an unfinished training and a folder that another configuration has filled."""
    run_dir = Path(config.run_dir)
    if not (run_dir / "train.json").exists():
        raise InputError(f"run_dir: {run_dir}: expected a finished training (train.json), found none; run train.py first")
    runs.check_same(
        run_dir / "config.yaml", config, runs.TRAINING_FIELDS, "these settings are the training's, in config.yaml"
    )
    runs.refuse_file(folder, "eval_dir")
    # A datastore may have been brought here from another run; it is compared with this one when it is loaded.
    brought = {"datastore"} if (folder / "datastore" / MANIFEST).exists() else set()
    runs.refuse_foreign(folder, "eval_dir", [name for name in runs.EVALUATION_FILES if name not in brought])
    stored, results = folder / "eval.config.yaml", folder / "eval.json"
    if overwrite or not stored.exists():
        return True
    # Before there are results only the datastore, which may be there already, depends on what was given.
    runs.check_same(stored, config, runs.EVALUATION_FIELDS if results.exists() else runs.DATASTORE_FIELDS)
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
        runs.check_corpus({"train": sha256}, {"train": opening.read_other(config)}, AGAIN)


def check_results(config: Config, folder: Path) -> None:
    """Raises RunConflict where a finished evaluation was of another corpus."""
    evaluated = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
    hashes = {name: split["sha256"] for name, split in evaluated["corpus"].items()}
    corpus = read_corpus(config.data.dir, config.data.scheme, config.data.on_error)
    runs.check_corpus(hashes, corpus.splits, AGAIN)
    check_remembered(config, evaluated["datastore"]["source"]["sha256"])
    print(f"{folder} is evaluated; {AGAIN}")


def start_evaluation(config: Config, folder: Path, overwrite: bool) -> None:
    """Deletes what an earlier evaluation left, where that is wanted, and writes the configuration of this one."""
    if overwrite:
        runs.clear(folder, runs.EVALUATION_FILES)
    runs.store_config(folder / "eval.config.yaml", config)


def write_page(path: Path, evaluated: Evaluated) -> None:
    """Writes report.html."""
    from knn_ner_jax.evaluation import page, run_page  # they need the extra

    page.write(path, run_page.build_page(evaluated.result, evaluated.explorer, evaluated.why_no_explorer))


def run(config: Config, folder: Path, overwrite: bool) -> None:
    """Evaluates, unless that has been done; deletes and writes nothing before everything given has proved right."""
    if not hosts.on_first_host(lambda: prepare(folder, config, overwrite)):
        hosts.on_first_host(lambda: check_results(config, folder))
        return
    builds = hosts.on_first_host(lambda: overwrite or not (folder / "datastore").exists())
    with hosts.all_or_none():
        corpus = read_corpus(config.data.dir, config.data.scheme, config.data.on_error)
        run_dir = Path(config.run_dir)
        trained = json.loads((run_dir / "corpus.json").read_text(encoding="utf-8"))
        runs.check_corpus(trained, {"train": corpus.train}, "train.py --overwrite trains again")
        if has_choice(config.knn):
            refuse_test_as_dev(corpus.dev, corpus.test)
        model, remembered = runs.TrainedModel.load(run_dir), None
        if builds:
            remembered = opening.remember(config, corpus, model)
            opening.check_settings(config, model, remembered.encoded.num_words)
        else:
            check_remembered(config, read_source(folder / "datastore").sha256)
    files = [*corpus.splits.values(), *([remembered.split] if remembered else [])]
    hosts.check_same([runs.what_to_store(config), overwrite, *(file.sha256 for file in files)])
    hosts.on_first_host(lambda: start_evaluation(config, folder, overwrite))
    has_page = hosts.on_first_host(has_page_extra)
    drawn = corpus.draw(config.data.train_share, config.data.dev_share, config.seed)
    evaluated = evaluate_splits(config, folder, drawn, model, remembered, has_page)
    if not is_first_host():
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
        hosts.connect(config.hosts, saves_on_sigterm=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
        run(config, folder, overwrite)
    except InputError as error:
        cli.fail(PROGRAM, str(error))
    if is_first_host():
        print_scores(Console(), json.loads((folder / "eval.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    keep_freed_memory()
    main()
