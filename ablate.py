"""Many runs from one file: trains and searches what is missing of a study, then writes its tables, plots and page."""

import logging
import signal
import sys
from pathlib import Path

from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import train
from knn_ner_jax import cli, runs, training
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation import ablation, summary, tidy
from knn_ner_jax.evaluation.study import StudyConfig, plan
from knn_ner_jax.memory import keep_freed_memory
from knn_ner_jax.step_log import TrainingError

PROGRAM = "ablate.py"
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())


def run(config: StudyConfig, overwrite: bool) -> None:
    """Computes a study, or what is missing of it."""
    corpora, folder = ablation.Corpora(), Path(config.run_dir)
    study = plan(config, corpora.fingerprint)
    runs.refuse_file(folder, "run_dir")
    runs.refuse_foreign(folder, "run_dir", ablation.FILES)
    if overwrite:
        runs.clear(folder, ablation.FILES)
    runs.store_config(folder / ablation.FILES[0], config)
    with Progress(*COLUMNS) as progress:
        task = progress.add_task("cells", total=None)
        for done, step in enumerate(ablation.compute(study, corpora, lambda one: train.run(one, overwrite=False)), start=1):
            progress.console.print(step.what, highlight=False, soft_wrap=True)
            progress.update(task, completed=done, total=done + step.left)
    write_results(ablation.Results(study))


def write_results(results: ablation.Results) -> None:
    """Writes the tables and the summary of what is there."""
    folder = results.study.folder
    tidy.write(tidy.scores(results), folder / "scores")
    tidy.write(tidy.trials(results), folder / "trials")
    findings = [finding for condition in results.study.conditions if (finding := summary.find(results, condition))]
    text = summary.page(folder.name, findings)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    """Entry point."""
    config, overwrite = cli.parse(PROGRAM, "Compute an ablation.", StudyConfig)
    try:
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
        run(config, overwrite)
    except InputError as error:
        cli.fail(PROGRAM, str(error))
    except TrainingError as error:
        sys.exit(f"{PROGRAM}: error: {error}")
    except training.Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    keep_freed_memory()
    main()
