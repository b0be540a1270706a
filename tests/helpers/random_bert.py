"""A BERT as PyTorch would make it, made without PyTorch."""

from pathlib import Path

import numpy as np
import transformers
from safetensors.numpy import save_file


def save_random_bert(folder: Path, config: transformers.BertConfig) -> None:
    """Write config.json and model.safetensors: weights from N(0, 0.02), no biases."""
    config.save_pretrained(folder)
    width, inner = config.hidden_size, config.intermediate_size
    products, norms = {"pooler.dense": (width, width)}, ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{number}" for number in range(config.num_hidden_layers)):
        squares = (*(f"attention.self.{name}" for name in ("query", "key", "value")), "attention.output.dense")
        products |= {f"{layer}.{name}": (width, width) for name in squares}
        products |= {f"{layer}.intermediate.dense": (inner, width), f"{layer}.output.dense": (width, inner)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    rows = {"word": config.vocab_size, "position": config.max_position_embeddings, "token_type": config.type_vocab_size}
    shapes = {f"embeddings.{name}_embeddings.weight": (count, width) for name, count in rows.items()}
    shapes |= {f"{name}.weight": shape for name, shape in products.items()}
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in products.items()}
    for name in norms:
        tensors |= {f"{name}.weight": np.ones(width, np.float32), f"{name}.bias": np.zeros(width, np.float32)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
