"""The way back: a trained tagger as a folder that transformers' AutoModelForTokenClassification loads."""

from pathlib import Path

import numpy as np
import transformers
from safetensors.numpy import save_file

from knn_ner_jax.errors import InputError
from knn_ner_jax.models import weights
from knn_ner_jax.models.families import FAMILIES, HEAD, Family, source_config
from knn_ner_jax.models.tagger import Params, Tagger
from knn_ner_jax.models.tensors import SAFETENSORS


def check_exportable(tagger: Tagger, folder: Path) -> Family:
    """The family of a tagger that transformers has, too.

    Raises:
        InputError: it has not, or the folder is in use.
    """
    family = FAMILIES[tagger.config.family]
    if family.tagger is None:
        known = ", ".join(name for name, entry in FAMILIES.items() if entry.tagger)
        raise InputError(f"expected a family of encoders that transformers has ({known}), got {family.name}")
    if tagger.head != "linear":
        raise InputError(f"model.head: expected linear, the head of transformers' taggers, got {tagger.head}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: expected a new or empty folder, found files")
    return family


def export(
    tagger: Tagger,
    params: Params,
    label_names: tuple[str, ...],
    tokenizer: transformers.PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    """Writes config.json, model.safetensors and the tokenizer.

    Args:
        tagger: the network.
        params: its parameters.
        label_names: by label id.
        tokenizer: its tokenizer.
        folder: new or empty.

    Raises:
        InputError: transformers has no such tagger, or the folder is in use.
    """
    family = check_exportable(tagger, folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, place in weights.places(family, params).items():
        prefix = "" if name.rpartition(".")[0] in HEAD else family.prefix
        tensors[prefix + name] = np.ascontiguousarray(place.of(params))
    save_file(tensors, folder / SAFETENSORS, metadata={"format": "pt"})
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    source_config(
        family,
        tagger.config,
        architectures=[family.tagger],
        id2label=dict(enumerate(label_names)),
        label2id={name: number for number, name in enumerate(label_names)},
        **{name: number for name, number in special.items() if number is not None},
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
