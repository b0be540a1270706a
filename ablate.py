"""Many runs from one file: trains and searches what is missing of a study, then writes its tables, plots and page."""

import importlib.util
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
from knn_ner_jax.evaluation.cells import Corpora
from knn_ner_jax.evaluation.closeup import look_closely
from knn_ner_jax.evaluation.report import has_page_extra
from knn_ner_jax.evaluation.results import Results
from knn_ner_jax.evaluation.study import StudyConfig, plan
from knn_ner_jax.memory import keep_freed_memory
from knn_ner_jax.step_log import TrainingError

PROGRAM = "ablate.py"
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())


def run(config: StudyConfig, overwrite: bool) -> None:
    """Computes a study, or what is missing of it."""
    corpora, folder = Corpora(), Path(config.run_dir)
    study = plan(config, corpora.fingerprint)
    runs.refuse_file(folder, "run_dir")
    runs.refuse_foreign(folder, "run_dir", ablation.FILES)
    if overwrite:
        runs.clear(folder, ablation.FILES)
    runs.store_config(folder / ablation.FILES[0], config)
    done = 0
    with Progress(*COLUMNS) as progress:
        task = progress.add_task("cells", total=None)
        for done, step in enumerate(ablation.compute(study, corpora, lambda one: train.run(one, overwrite=False)), start=1):
            progress.console.print(step.what, highlight=False, soft_wrap=True)
            progress.update(task, completed=done, total=done + step.left)
    results = Results(study)
    findings = [finding for condition in study.conditions if (finding := summary.find(results, condition))]
    write_tables(results, findings)
    if not has_page_extra():
        print("report.html needs the extra report, which is not installed: pip install -e '.[report]'; none is written")
    elif done or not (folder / "report.html").exists():
        write_page(results, findings, corpora)


def write_tables(results: Results, findings: list[summary.Finding]) -> None:
    """Writes and prints what has been found so far."""
    folder = results.study.folder
    text = summary.page(folder.name, findings)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    print(text)
    if importlib.util.find_spec("pyarrow"):
        tidy.write(tidy.scores(results), folder / "scores")
        tidy.write(tidy.trials(results), folder / "trials")
    else:
        print("scores.csv and scores.parquet need the extra report, which is not installed; none are written")


def write_page(results: Results, findings: list[summary.Finding], corpora: Corpora) -> None:
    """Writes report.html; looks up the sentences that it shows."""
    from knn_ner_jax.evaluation import page, study_page

    focus = look_closely(results, findings, corpora)
    path = results.study.folder / "report.html"
    page.write(path, study_page.build_page(results, findings, focus))
    print(f"wrote {path}")


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
