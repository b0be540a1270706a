"""Random PyTorch models and the same taggers here, for tests that compare the two."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx

from knn_ner_jax.models import hf_checkpoint
from knn_ner_jax.models.bert import Bert
from knn_ner_jax.models.hf_checkpoint import FAMILIES, encoder_config, open_tensors
from knn_ner_jax.models.tagger import Params, Tagger

MODULE, WHOLE = 1e-5, 1e-4  # largest differences allowed: one module, the whole model
LABELS = 5
SMALL = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 40}
POSITIONS, UNUSED = 16, 49  # the longest window, and a token id that `ragged_batch` never draws


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Large random hf_checkpoint, biases and norms included, so that a tensor in the wrong place cannot hide."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(mean=1.0 if name.endswith("LayerNorm.weight") else 0.0, std=0.2)
    return module.eval()


def random_reference(shape: dict, family: str = "bert") -> transformers.PreTrainedModel:
    """transformers' tagger of a family, `POSITIONS` tokens long at most."""
    kind = FAMILIES[family]
    positions = POSITIONS + 2 if kind.padding_first else POSITIONS  # RoBERTa's padding id is 1
    types = 1 if kind.padding_first else 2
    settings = {"vocab_size": 50, "max_position_embeddings": positions, "type_vocab_size": types, "layer_norm_eps": 1e-5}
    config = getattr(transformers, kind.source)(num_labels=LABELS, **settings | shape)
    return randomise(getattr(transformers, kind.tagger)(config))


def load_encoder(path: Path, abstract: Params, family: str = "bert") -> Params:
    """The encoder in a safetensors file."""
    return hf_checkpoint.load_params(open_tensors([path]), FAMILIES[family], {"encoder": abstract})["encoder"]


def ours(reference: transformers.PreTrainedModel, folder: Path) -> tuple[Tagger, Params]:
    """The same tagger in JAX, by way of the files that save_pretrained writes, the head copied."""
    family = reference.config.model_type
    reference.base_model.save_pretrained(folder)
    tagger = Tagger(encoder_config(FAMILIES[family], reference.config.to_dict()), reference.num_labels)
    encoder = load_encoder(folder / "model.safetensors", tagger.abstract_params()["encoder"], family)
    weight, bias = (tensor.detach().numpy() for tensor in (reference.classifier.weight, reference.classifier.bias))
    return tagger, {"encoder": encoder, "head": {"kernel": weight.T, "bias": bias}}


def ragged_batch(lengths: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, mask and token types (both kinds in every row) of windows of these lengths."""
    rng = np.random.default_rng(3)
    mask = np.arange(max(lengths))[None, :] < np.array(lengths)[:, None]
    ids = np.where(mask, rng.integers(1, UNUSED, mask.shape), 0).astype(np.int32)
    return ids, mask, rng.integers(0, 2, mask.shape).astype(np.int32)


def encoder_module(tagger: Tagger, params: Params) -> Bert:
    """The encoder as a module, whose parts can be called."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Bert(tagger.config, tagger.platform, nnx.Rngs(0))), nnx.Param)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params["encoder"]))
    return nnx.merge(graphdef, state)


def assert_same_output(output, reference, ids, mask, types):
    """Every hidden state and the logits, wherever there is a token."""
    with torch.no_grad():
        expected = reference(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask, dtype=torch.long),
            token_type_ids=torch.tensor(types),
            output_hidden_states=True,
        )
    assert len(output.hidden_states) == len(expected.hidden_states) == reference.config.num_hidden_layers + 1
    for state, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
        np.testing.assert_allclose(state[mask], theirs[mask], rtol=0, atol=WHOLE)
    np.testing.assert_allclose(output.logits[mask], expected.logits[mask], rtol=0, atol=WHOLE)
