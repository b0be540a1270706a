"""Tags plain text with an evaluated run: entities, and the training words that were nearest to each."""

import logging
import sys
from pathlib import Path

from rich.console import Console

from knn_ner_jax import cli
from knn_ner_jax.evaluation.neighbours import tag_texts
from knn_ner_jax.io import InputError
from knn_ner_jax.knn_tagger import Stopwatch, load_evaluation, open_knn_tagger
from knn_ner_jax.report.evaluation import print_entities
from knn_ner_jax.run_dir import TrainedModel

PROGRAM = "predict.py"


def read_standard_input() -> str:
    """All of it; raises InputError where it is no text."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input: expected {error.encoding} text, got bytes that are none: {error.reason}"
        ) from error


def main() -> None:
    """Entry point."""
    parser = cli.Parser(prog=PROGRAM, description="Tag plain text with the neighbours and settings of eval.py.")
    parser.add_argument("eval_dir", type=str, help="the folder eval.py wrote to: its eval_dir, or the run_dir")
    parser.add_argument("text", type=str, nargs="*", help="sentences; without any, one on each line of the standard input")
    parser.add_argument("--neighbours", type=int, default=3, help="how many to show for each entity")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        arguments = parser.parse_args()
    except InputError as error:
        cli.fail(PROGRAM, str(error))
    folder = Path(arguments.eval_dir)
    try:
        texts = arguments.text or [line for line in read_standard_input().split("\n") if line.strip()]
        if arguments.neighbours < 1:
            raise InputError(f"--neighbours: expected at least 1, got {arguments.neighbours}")
        config, setting = load_evaluation(folder)
        model = TrainedModel.load(Path(config.run_dir))
        knn_tagger = open_knn_tagger(config, model, folder, None, Stopwatch())
        tagged = tag_texts(knn_tagger, setting, texts, arguments.neighbours)
    except InputError as error:
        cli.fail(PROGRAM, str(error))
    console = Console(soft_wrap=True, emoji=False)
    for words, entities in tagged:
        print_entities(console, words, entities)
