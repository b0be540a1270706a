"""Many runs from one file: trains and searches what is missing of a study, then writes its tables, plots and page."""

import logging
import math
import shutil
import signal
import sys
from pathlib import Path

import jax
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import train
from knn_ner_jax import cli, runs, training
from knn_ner_jax.ablation import runner, summary
from knn_ner_jax.ablation.closeup import Focus, add_sentences, look_closely
from knn_ner_jax.ablation.corpora import Corpora
from knn_ner_jax.ablation.curves import Curve, find_curves
from knn_ner_jax.ablation.findings import Finding, find
from knn_ner_jax.ablation.locking import alone_in
from knn_ner_jax.ablation.results import Results
from knn_ner_jax.ablation.study import INDIFFERENT, Study, StudyConfig, plan
from knn_ner_jax.config import Config
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation.report import has_page_extra
from knn_ner_jax.memory import keep_freed_memory
from knn_ner_jax.step_log import TrainingError

PROGRAM = "ablate.py"
COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())


def run(config: StudyConfig, overwrite: bool) -> None:
    """Computes a study, or what is missing of it."""
    corpora, folder = Corpora(), Path(config.run_dir)
    study = plan(config, corpora.files)
    runs.refuse_file(folder, "run_dir")
    runs.refuse_foreign(folder, "run_dir", runner.FILES)
    with alone_in(folder):
        compute(study, corpora, overwrite)


def new_progress() -> Progress:
    """Steps take minutes: the time left is judged by all of them, not by those of the last half minute."""
    return Progress(*COLUMNS, speed_estimate_period=math.inf)


def train_or_continue(config: Config) -> None:
    """Trains a tagger, which its name lets anybody continue whose configuration decides the same."""
    train.run(config, overwrite=False, indifferent=INDIFFERENT)


def compute(study: Study, corpora: Corpora, overwrite: bool) -> None:
    """Computes what is missing and writes what there is to say."""
    config, folder = study.config, study.folder
    if overwrite:
        runs.clear(folder, runner.FILES)
    runs.store_config(folder / runner.FILES[0], config)
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        # Taggers of one size are trained by one program; the next tagger finds it again, and a study that was killed.
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    done = 0
    with new_progress() as progress:
        task = progress.add_task("cells", total=None)
        for done, step in enumerate(runner.compute(study, corpora, train_or_continue), start=1):
            progress.console.print(step.what, highlight=False, soft_wrap=True)
            progress.update(task, completed=done, total=done + step.left)
    results = Results(study)
    findings = [finding for condition in study.conditions if (finding := find(results, condition))]
    curves, focus = find_curves(results, findings), look_closely(results, findings, corpora)
    if has_page_extra():
        write_report(results, findings, curves, focus, corpora, changed=done > 0)
    else:
        print("scores, plots and page need the extra report, which is not installed: pip install -e '.[report]'")
        runs.write_text(folder / "summary.md", summary.page(folder.name, findings, curves, {}, focus))
    if not config.ablation.keep_datastores and (folder / "datastores").exists():
        # A process that died after the last result of a cell has left its datastore, which nothing asks for any more.
        shutil.rmtree(folder / "datastores")
    print((folder / "summary.md").read_text(encoding="utf-8"))


def write_report(
    results: Results, findings: list[Finding], curves: list[Curve], focus: Focus | None, corpora: Corpora, changed: bool
) -> None:
    """Writes the tables, the plots, the summary and the page, which looks up sentences again."""
    from knn_ner_jax.ablation import page, plots, tidy
    from knn_ner_jax.evaluation.page import write

    folder = results.study.folder
    tidy.write(tidy.scores(results), folder / "scores")
    tidy.write(tidy.trials(results), folder / "trials")
    plotted = plots.plot(findings, curves)
    for name, figure in plotted.items():
        runs.write_text(folder / f"{name}.svg", figure.svg + "\n")
    alternatives = {name: figure.alt for name, figure in plotted.items()}
    text, written = summary.page(folder.name, findings, curves, alternatives, focus), folder / "summary.md"
    same = (folder / "report.html").exists() and written.exists() and written.read_text(encoding="utf-8") == text
    if changed or not same:
        shown = add_sentences(focus, results, corpora) if focus else None
        write(folder / "report.html", page.build_page(results, findings, curves, plotted, shown))
    runs.write_text(written, text)  # last: where it is of today, so is the page


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
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped; started again it goes on", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except training.Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    keep_freed_memory()
    main()
