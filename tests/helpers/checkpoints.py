"""Tiny checkpoint folders with random weights, each laid out as the published ones of its family are."""

import itertools
import json
import string
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers

from helpers.chinese_bert_torch import ChineseBertEmbeddings

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
POSITIONS = 64  # the longest window
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = ["_", *string.ascii_lowercase, *"12345"]


def words_of(corpus: Path) -> list[str]:
    """Every word of a corpus of column files, once, sorted."""
    lines = itertools.chain.from_iterable(path.read_text(encoding="utf-8").splitlines() for path in corpus.glob("*.conll"))
    return sorted({line.split("\t")[0] for line in lines if line.strip()})


def _save(folder: Path, model: transformers.PreTrainedModel) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("LayerNorm.weight"):
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)


def bert(folder: Path, words: Iterable[str]) -> Path:
    """A BERT whose vocabulary is these words."""
    pieces = [*SPECIAL, *words]
    torch.manual_seed(0)
    _save(
        folder,
        transformers.BertModel(transformers.BertConfig(vocab_size=len(pieces), max_position_embeddings=POSITIONS, **SHAPE)),
    )
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return folder


def byte_pairs(folder: Path) -> None:
    """A RoBERTa vocabulary of every byte and a few merges, as vocab.json and merges.txt."""
    merges = ["Ġ t", "h e", "Ġt he", "i n", "Ġ a"]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *alphabet, *(merge.replace(" ", "") for merge in merges), "<mask>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def roberta(folder: Path) -> Path:
    """A RoBERTa, with a language model's head as the published ones have."""
    byte_pairs(folder)
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    config = transformers.RobertaConfig(vocab_size=size, max_position_embeddings=POSITIONS + 2, type_vocab_size=1, **SHAPE)
    torch.manual_seed(0)
    _save(folder, transformers.RobertaForMaskedLM(config))
    return folder


def chinese_bert_model(vocab_size: int, pixels: int = 1728, letter_size: int = 128, **shape: int) -> transformers.BertModel:
    """transformers' BERT with the embeddings of a ChineseBERT."""
    config = transformers.BertConfig(vocab_size=vocab_size, max_position_embeddings=POSITIONS, **SHAPE | shape)
    model = transformers.BertModel(config)
    model.embeddings = ChineseBertEmbeddings(
        vocab_size, config.hidden_size, POSITIONS, letters=len(LETTERS), letter_size=letter_size, pixels=pixels
    )
    return model


def chinese_bert(folder: Path, words: Iterable[str]) -> Path:
    """A ChineseBERT: config.json of a BERT, PyTorch's weights under `bert.`, fonts and pinyin maps in `config/`."""
    pieces = [*SPECIAL, *words]
    torch.manual_seed(0)
    model = chinese_bert_model(len(pieces))
    (folder / "config").mkdir(parents=True)
    model.config.save_pretrained(folder)
    fonts = np.random.default_rng(0).integers(0, 255, (3, len(pieces), 24, 24), np.uint8)
    for name, font in zip(("STFANGSO.TTF24", "STXINGKA.TTF24", "方正古隶繁体.ttf24"), fonts, strict=True):
        np.save(folder / "config" / f"{name}.npy", font)
    state = {f"bert.{name}": tensor for name, tensor in model.state_dict().items()}
    # The published tensors are on this scale: pictures of 0 to 255 and a map that makes small numbers of them.
    state["bert.embeddings.glyph_embeddings.embedding.weight"] = torch.tensor(
        np.concatenate([font.reshape(len(pieces), -1) for font in fonts], axis=1), dtype=torch.float32
    )
    state["bert.embeddings.glyph_map.weight"] /= 100
    state["bert.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    state["cls.predictions.bias"] = torch.zeros(len(pieces))
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    pinyin_files(folder / "config")
    return folder


def pinyin_files(folder: Path) -> None:
    """The three maps: letters, readings (hang2 alone), and characters, which nothing reads."""
    ids = {letter: number for number, letter in enumerate(LETTERS)}
    hang = [ids[letter] for letter in "hang2"] + [0, 0, 0]
    for name, content in {
        "pinyin_map": {"idx2char": LETTERS, "char2idx": ids},
        "pinyin2tensor": {"hang2": hang},
        "id2pinyin": {"5": ["hang2"]},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
