"""`ablate`: train and search what is missing of a study, then write its tables, plots and page."""

import math
import shutil
import signal
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from knn_ner_jax.ablation import report
from knn_ner_jax.ablation import run as computation
from knn_ner_jax.ablation.config import StudyConfig
from knn_ner_jax.ablation.store import Corpora, Results
from knn_ner_jax.ablation.study import IGNORED_FIELDS, Study, plan
from knn_ner_jax.config import Config
from knn_ner_jax.io import InputError, NonFiniteLossError, Preempted, check_is_dir, exclusive_lock
from knn_ner_jax.main import train
from knn_ner_jax.run_dir import check_run_dir, delete_run, save_config

COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())


def run(config: StudyConfig, overwrite: bool) -> None:
    """Compute what is missing of a study, with `overwrite` all of it."""
    corpora, folder = Corpora(), Path(config.run_dir)
    study = plan(config, corpora.files)
    for tagger in {cell.config.run_dir: cell.config for cell in study.cells}.values():
        train.draw_corpus(tagger, corpora.of(tagger))  # refuses now, not when its turn comes, what cannot be trained on
    check_is_dir(folder, "run_dir")
    check_run_dir(folder, "run_dir", computation.FILES)
    with exclusive_lock(folder):
        compute(study, corpora, overwrite)


def new_progress() -> Progress:
    """Return a progress bar; steps take minutes, so that all of them count for the time left, not the last half minute."""
    return Progress(*COLUMNS, speed_estimate_period=math.inf)


def train_or_continue(config: Config) -> None:
    """Train a tagger, or continue one that any study of the same taggers has begun."""
    train.run(config, overwrite=False, ignored_fields=IGNORED_FIELDS)


def compute(study: Study, corpora: Corpora, overwrite: bool) -> None:
    """Compute what is missing and write tables, plots and page."""
    config, folder = study.config, study.folder
    if overwrite:
        delete_run(folder, computation.FILES)
    save_config(folder / computation.FILES[0], config)
    results = Results(study)
    try:
        done = advance(results, corpora)
    except (KeyboardInterrupt, Preempted, InputError, NonFiniteLossError):
        report.write_partial(results)
        raise
    if config.ablation.stop_before_test:
        report.write_partial(results)
    else:
        report.write(results, corpora, changed=done > 0)
    if not config.ablation.keep_datastores and (folder / "datastores").exists():
        # A process that died after the last result of a cell has left its datastore, which nothing needs any more.
        shutil.rmtree(folder / "datastores")
    print((folder / "summary.md").read_text(encoding="utf-8"))
    if (folder / "report.html").exists():
        print(f"wrote {folder / 'report.html'}")
    if config.ablation.stop_before_test:
        print(
            f"dev has selected: commit {folder / 'selected'}; "
            "the same command without ablation.stop_before_test then searches test"
        )


def describe_progress(left: int, seconds: float) -> str:
    """Return what is left in words, for those who see no bar.

    >>> describe_progress(3, 720.0)
    '3 left, about 12 min'
    """
    if not left:
        return "none left"
    minutes = max(1, round(seconds / 60))
    return f"{left} left, about {minutes} min" if minutes < 100 else f"{left} left, about {minutes / 60:.0f} h"


def advance(results: Results, corpora: Corpora) -> int:
    """Compute what is missing, write partial results after each seed, and return how many results were missing."""
    done, started = 0, time.monotonic()
    with new_progress() as progress:
        task = progress.add_task("cells", total=computation.count_missing(results))
        for done, step in enumerate(computation.compute(results.study, corpora, train_or_continue), start=1):
            left = describe_progress(step.left, step.left * (time.monotonic() - started) / done)
            progress.console.print(f"{step.what}; {left}", highlight=False, soft_wrap=True)
            progress.update(task, completed=done, total=done + step.left)
            if step.ends_seed and step.left:
                report.write_partial(results)
    return done


def raise_preempted(*_: object) -> None:
    """Handle SIGTERM wherever no tagger is being trained, which saves its state first."""
    raise Preempted("stopped by SIGTERM; started again it goes on")


def main(config: StudyConfig, overwrite: bool) -> None:
    """Compute a study (see `run`); SIGTERM stops it after what is finished has been written."""
    signal.signal(signal.SIGTERM, raise_preempted)
    run(config, overwrite)
