"""Compute a study: train and search what is missing, then write its tables, plots and report."""

import logging
import math
import shutil
import signal
import sys
import time
from pathlib import Path

import jax
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from knn_ner_jax import cli
from knn_ner_jax.ablation import report
from knn_ner_jax.ablation import run as computation
from knn_ner_jax.ablation.store import Corpora, Results
from knn_ner_jax.ablation.study import IGNORED_FIELDS, Study, StudyConfig, plan
from knn_ner_jax.config import Config
from knn_ner_jax.io import InputError, exclusive_lock
from knn_ner_jax.main import train
from knn_ner_jax.run_dir import check_is_dir, check_run_dir, delete_run, save_config
from knn_ner_jax.training import loop
from knn_ner_jax.training.metrics_logger import NonFiniteLossError

PROGRAM = "ablate.py"
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())


def run(config: StudyConfig, overwrite: bool) -> None:
    """Compute a study, or what is missing of it."""
    corpora, folder = Corpora(), Path(config.run_dir)
    study = plan(config, corpora.files)
    for tagger in {cell.config.run_dir: cell.config for cell in study.cells}.values():
        train.draw_corpus(tagger, corpora.of(tagger))  # refuses now, not when its turn comes, what cannot be trained on
    check_is_dir(folder, "run_dir")
    check_run_dir(folder, "run_dir", computation.FILES)
    with exclusive_lock(folder):
        compute(study, corpora, overwrite)


def new_progress() -> Progress:
    """Return a bar that estimates the time left from all steps, since they take minutes, not from the last half minute."""
    return Progress(*COLUMNS, speed_estimate_period=math.inf)


def train_or_continue(config: Config) -> None:
    """Train a tagger, or continue one whose configuration differs only in fields that decide no result."""
    train.run(config, overwrite=False, ignored_fields=IGNORED_FIELDS)


def compute(study: Study, corpora: Corpora, overwrite: bool) -> None:
    """Compute what is missing and write the report."""
    config, folder = study.config, study.folder
    if overwrite:
        delete_run(folder, computation.FILES)
    save_config(folder / computation.FILES[0], config)
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        # Taggers of one size are trained by one program; the next tagger finds it again, and a study that was killed.
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    results = Results(study)
    try:
        done = advance(results, corpora)
    except (KeyboardInterrupt, loop.Preempted, InputError, NonFiniteLossError):
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
    """Return what is left, for those who see no bar.

    >>> describe_progress(3, 700.0)
    '3 left, about 12 min'
    """
    if not left:
        return "none left"
    minutes = max(1, round(seconds / 60))
    return f"{left} left, about {minutes} min" if minutes < 100 else f"{left} left, about {minutes / 60:.0f} h"


def advance(results: Results, corpora: Corpora) -> int:
    """Compute what is missing, with a report after each seed; return how many results were missing."""
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


def stop_when_told(*_: object) -> None:
    """Handles SIGTERM wherever no tagger is being trained, which saves its state first."""
    raise loop.Preempted("stopped by SIGTERM; started again it goes on")


def main() -> None:
    """Entry point."""
    config, overwrite = cli.parse(PROGRAM, "Compute an ablation.", StudyConfig)
    try:
        signal.signal(signal.SIGTERM, stop_when_told)
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
        run(config, overwrite)
    except InputError as error:
        cli.fail(PROGRAM, str(error))
    except NonFiniteLossError as error:
        sys.exit(f"{PROGRAM}: error: {error}")
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped; started again it goes on", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except loop.Preempted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
