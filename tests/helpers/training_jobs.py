"""A tagger that learns words of letters, which mostly tell their tag, and jobs that train it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import transformers

from knn_ner_jax import sharding
from knn_ner_jax.config import TrainConfig
from knn_ner_jax.data.tag_schemes import LabelSet, Sentence
from knn_ner_jax.data.tokenization import EncodedSplit, Tokenizer, encode
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.tagger import Tagger
from knn_ner_jax.training import loop
from knn_ner_jax.training.loop import make_optimizer

LETTERS = {"O": "abcdefghij", "B-PER": "klm", "I-PER": "nop", "B-LOC": "qrs", "I-LOC": "tuv"}
LABEL_SET = LabelSet(("LOC", "PER"))
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
WINDOW = 12


def tagger_of(dropout: float = 0.0, dtype: str = "float32") -> Tagger:
    encoder = BertConfig(57, 16, 2, 2, 24, WINDOW, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    return Tagger(encoder, len(LABEL_SET), dtype)


def made_up_split(sentences: int, seed: int) -> EncodedSplit:
    """Sentences of one to fourteen words, some of two pieces; the longest need two windows."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(sentences):
        tags: list[str] = []
        for _ in range(rng.integers(1, 15)):
            inside = ["I" + tags[-1][1:]] if tags and tags[-1] != "O" else []
            tags.append(str(rng.choice(["O", "O", "B-PER", "B-LOC", *inside, *inside])))
        firsts = [rng.choice(list(LETTERS[tag] if rng.random() > 0.1 else ALPHABET)) for tag in tags]
        words = tuple(first + ("z" if rng.random() < 0.2 else "") for first in firsts)
        made.append(Sentence(words, tuple(tags), number))
    pieces = [*SPECIAL, *ALPHABET, *(f"##{letter}" for letter in ALPHABET)]
    tokenizer = transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    return encode(made, Tokenizer.of(tokenizer), WINDOW, LABEL_SET)


def make_job(tagger: Tagger, devices: int = 1, pad_to_multiple_of: int = WINDOW, **train) -> loop.TrainJob:
    config = TrainConfig(**{"batch_size": 6, "learning_rate": 3e-3, "save_every": 0, "log_every": 1, **train})
    mesh = sharding.make_mesh(devices)
    train_split, dev_split = made_up_split(40, seed=1), made_up_split(20, seed=2)
    return loop.TrainJob(tagger, config, train_split, dev_split, LABEL_SET, pad_to_multiple_of, 0, mesh)


def initial_params(tagger: Tagger) -> dict:
    """Random numbers of a useful size, drawn without compiling anything."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        return (rng.normal(size=leaf.shape) * 0.1 + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, tagger.abstract_params())


optimizer_of = functools.cache(make_optimizer)  # one object, so that equal jobs share what is compiled


def initial_state(job: loop.TrainJob, step: int = 0) -> loop.TrainState:
    state = loop.init_state(initial_params(job.tagger), optimizer_of(job.config, job.total_steps), job.mesh)
    return state._replace(step=jax.device_put(jnp.int32(step), sharding.replicated(job.mesh)))
