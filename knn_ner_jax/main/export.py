"""`export`: save the tagger of a run as a folder that transformers' AutoModelForTokenClassification loads."""

from pathlib import Path

import jax

from knn_ner_jax import sharding
from knn_ner_jax.io import InputError, check_finished
from knn_ner_jax.models.pretrained import check_exportable, export
from knn_ner_jax.run_dir import TrainedModel
from knn_ner_jax.training.checkpoints import Checkpoints


def main(run_dir: str, folder: str) -> None:
    """Write the best parameters of a run into a folder.

    Args:
        run_dir: the folder of a finished training.
        folder: new or empty.

    Raises:
        InputError: the training is not finished, the folder is not empty, or transformers has no such tagger.
    """
    source, target = Path(run_dir).expanduser(), Path(folder).expanduser()
    check_finished(source, "training")
    model = TrainedModel.load(source)
    if model.label_set.protocol != "words":
        raise InputError(f"protocol: expected a run with words, got {model.label_set.protocol}, which labels pieces")
    check_exportable(model.tagger, target)
    with Checkpoints(source / "checkpoints") as checkpoints:
        params = checkpoints.load_best(model.tagger.abstract_params(), sharding.make_mesh(1))[2]
    names = model.output_names or model.label_set.names
    export(model.tagger, jax.device_get(params), names, model.tokenizer, target)
    print(f"{target}: config.json, weights and tokenizer of {source}, without its datastore")
