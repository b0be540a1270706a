"""Saves the tagger of a run as a folder that transformers' AutoModelForTokenClassification loads."""

from pathlib import Path

import jax

from knn_ner_jax import cli, sharding
from knn_ner_jax.io import InputError
from knn_ner_jax.models.pretrained import check_exportable, export
from knn_ner_jax.run_dir import TrainedModel
from knn_ner_jax.training.checkpoints import Checkpoints

PROGRAM = "export.py"


def run(run_dir: Path, folder: Path) -> None:
    """Writes the best parameters of `run_dir` into `folder`."""
    if not (run_dir / "train.json").is_file():
        raise InputError(f"run_dir: {run_dir}: expected a finished training (train.json), found none; run train.py first")
    model = TrainedModel.load(run_dir)
    if model.label_set.protocol != "words":
        raise InputError(f"protocol: expected a run with words, got {model.label_set.protocol}, which labels pieces")
    check_exportable(model.tagger, folder)
    with Checkpoints(run_dir / "checkpoints") as checkpoints:
        params = checkpoints.load_best(model.tagger.abstract_params(), sharding.make_mesh(1))[2]
    export(model.tagger, jax.device_get(params), model.label_set.names, model.tokenizer, folder)
    print(f"{folder}: config.json, weights and tokenizer of {run_dir}, without its datastore")


def main() -> None:
    """Entry point."""
    what = "Save a trained tagger for transformers' AutoModelForTokenClassification."
    parser = cli.Parser(prog=PROGRAM, description=what)
    parser.add_argument("run_dir", type=str, help="the folder of a finished training")
    parser.add_argument("folder", type=str, help="new or empty; receives config.json, model.safetensors and the tokenizer")
    try:
        arguments = parser.parse_args()
        run(Path(arguments.run_dir), Path(arguments.folder))
    except InputError as error:
        cli.fail(PROGRAM, str(error))
