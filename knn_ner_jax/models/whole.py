"""A backbone that is a whole tagger, head and label names included: to be used as it is, without training."""

import re
from collections.abc import Mapping

import numpy as np

from knn_ner_jax.data.labels import OUTSIDE, LabelSet, tag_type
from knn_ner_jax.errors import InputError
from knn_ner_jax.models import weights
from knn_ner_jax.models.families import FAMILIES
from knn_ner_jax.models.pretrained import Backbone
from knn_ner_jax.models.tagger import Params, Tagger

NEVER = -1e9  # the bias of a label that the head does not know: its probability is 0 in float32


def _names(backbone: Backbone) -> list[str]:
    """Label names in the order of the head's outputs; refuses those that are not IOB2."""
    given: object = backbone.id2label
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given.values()):
        raise InputError(f"id2label in the backbone's config.json: expected a mapping from numbers to names, found {given}")
    labels = {str(number): name for number, name in given.items()}
    names = [labels.get(str(number), "") for number in range(len(labels))]
    types = {tag_type(name) for name in names} - {""}
    problem = ""
    if not names or any(re.fullmatch(r"LABEL_\d+", name) for name in names):
        problem = "names instead of numbers"
    elif len(set(names)) < len(names) or "" in names:
        problem = "one name for each number from 0 on"
    elif not all(name == OUTSIDE or (name[:2] in ("B-", "I-") and tag_type(name)) for name in names):
        problem = "IOB2: O, B-TYPE and I-TYPE alone"
    elif OUTSIDE not in names:
        problem = "O among them"
    elif without_b := sorted(type_ for type_ in types if f"B-{type_}" not in names):
        problem = f"IOB2, where every entity begins with a B-: none of {', '.join(without_b)} has one"
    if problem:
        found = ", ".join(f"{number}: {name}" for number, name in labels.items()) or "none"
        raise InputError(
            f"train.epochs: 0 uses the backbone's own head; id2label in its config.json: expected {problem}; found {found}"
        )
    return names


def label_set(backbone: Backbone) -> LabelSet:
    """The labels of the backbone's head, types sorted.

    Raises:
        InputError: it has none, or they are not IOB2.
    """
    return LabelSet(tuple(sorted({tag_type(name) for name in _names(backbone)} - {""})))


def params(backbone: Backbone, tagger: Tagger) -> Params:
    """Reads encoder and head; the head's outputs are put into the order of `label_set`.

    A type that the head has no I- for gets one that is never predicted.

    Args:
        backbone: a whole tagger.
        tagger: its encoder, a linear head, and as many labels as `label_set` has.

    Raises:
        InputError: the labels are not IOB2.
        CheckpointError: tensors do not fit, those of the head included.
    """
    names = _names(backbone)
    abstract = Tagger(tagger.config, len(names)).abstract_params()
    found = weights.load(backbone.tensors or (), FAMILIES[tagger.config.family], abstract)
    kernel = np.zeros((tagger.config.hidden_size, tagger.num_labels), np.float32)
    bias = np.full(tagger.num_labels, NEVER, np.float32)
    for number, name in enumerate(label_set(backbone).names):
        if name in names:
            theirs = names.index(name)
            kernel[:, number], bias[number] = found["head"]["kernel"][:, theirs], found["head"]["bias"][theirs]
    return found | {"head": {"kernel": kernel, "bias": bias}}
