"""The families of encoders: how each is recognised, and what its checkpoints call the tensors. A new one is a new entry.

PyTorch keeps dense weights as [out, in], convolutions as [out, in, width], and one tensor for each layer; ours are [in, out]
and [width, in, out], the layers stacked.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import transformers

from knn_ner_jax.data.pinyin import MAP_FILE
from knn_ner_jax.errors import InputError
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.chinese_bert import ChineseBertConfig

_DENSE = {"weight": "kernel", "bias": "bias"}
_NORM = {"weight": "scale", "bias": "bias"}
_EMBED = {"weight": "embedding"}

# source module -> (our module, names of its tensors); "layers" stands for the stacked layers, {i} for a layer's number
BERT = {
    "embeddings.word_embeddings": ("embeddings.word", _EMBED),
    "embeddings.position_embeddings": ("embeddings.position", _EMBED),
    "embeddings.token_type_embeddings": ("embeddings.token_type", _EMBED),
    "embeddings.LayerNorm": ("embeddings.norm", _NORM),
    "encoder.layer.{i}.attention.self.query": ("layers.attention.query", _DENSE),
    "encoder.layer.{i}.attention.self.key": ("layers.attention.key", _DENSE),
    "encoder.layer.{i}.attention.self.value": ("layers.attention.value", _DENSE),
    "encoder.layer.{i}.attention.output.dense": ("layers.attention.output", _DENSE),
    "encoder.layer.{i}.attention.output.LayerNorm": ("layers.attention.norm", _NORM),
    "encoder.layer.{i}.intermediate.dense": ("layers.feed_forward.up", _DENSE),
    "encoder.layer.{i}.output.dense": ("layers.feed_forward.down", _DENSE),
    "encoder.layer.{i}.output.LayerNorm": ("layers.feed_forward.norm", _NORM),
}
CHINESE_BERT = BERT | {
    "embeddings.pinyin_embeddings.embedding": ("embeddings.letter", _EMBED),
    "embeddings.pinyin_embeddings.conv": ("embeddings.pinyin", _DENSE),
    "embeddings.glyph_embeddings.embedding": ("embeddings.glyph", _EMBED),
    "embeddings.glyph_map": ("embeddings.glyph_map", _DENSE),
    "embeddings.map_fc": ("embeddings.fusion", _DENSE),
}
HEAD = {"classifier": ("head", _DENSE)}

# Buffers, poolers, and heads of pretraining and of other tasks, which a tagger has no use for.
IGNORED = re.compile(r"embeddings\.(position_ids|token_type_ids)|(pooler|cls|lm_head|classifier|qa_outputs)\..*")

_SHAPE = tuple(entry.name for entry in fields(BertConfig) if entry.name not in ("family", "position_offset"))
PINYIN_FOLDER = "config"  # of ChineseBERT folders: pinyin maps and glyph tables


@dataclass(frozen=True)
class Family:
    """Encoders of one kind.

    Attributes:
        name: as in config.json, but for ChineseBERT, which calls itself a BERT there.
        source: transformers' configuration.
        prefix: of the encoder's tensors in a checkpoint that has heads, too.
        tokenizer_files: any one of these groups makes a tokenizer.
        tagger: transformers' tagger of this family, if it has one.
        config: our configuration.
        table: names of the encoder's tensors.
        padding_first: whether the rows of the position table up to the padding id are padding's.
    """

    name: str
    source: type[transformers.PretrainedConfig]
    prefix: str
    tokenizer_files: tuple[tuple[str, ...], ...]
    tagger: str | None = None
    config: type[BertConfig] = BertConfig
    table: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=lambda: BERT)
    padding_first: bool = False


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "bert",
            transformers.BertConfig,
            prefix="bert.",
            tokenizer_files=(("tokenizer.json",), ("vocab.txt",)),
            tagger="BertForTokenClassification",
        ),
        Family(
            "roberta",
            transformers.RobertaConfig,
            prefix="roberta.",
            tokenizer_files=(("tokenizer.json",), ("vocab.json", "merges.txt")),
            tagger="RobertaForTokenClassification",
            padding_first=True,
        ),
        Family(
            "xlm-roberta",
            transformers.XLMRobertaConfig,
            prefix="roberta.",
            tokenizer_files=(("tokenizer.json",),),
            tagger="XLMRobertaForTokenClassification",
            padding_first=True,
        ),
        Family(
            "chinesebert",
            transformers.BertConfig,
            prefix="bert.",
            tokenizer_files=(("tokenizer.json",), ("vocab.txt",)),
            config=ChineseBertConfig,
            table=CHINESE_BERT,
        ),
    )
}


def recognise(folder: Path, content: Mapping[str, Any]) -> Family:
    """The family of a checkpoint.

    A published ChineseBERT calls itself a BERT; what tells it apart are the pinyin maps in its folder.

    Args:
        folder: of the checkpoint.
        content: of its config.json.

    Raises:
        InputError: there is no such family here; the message lists those there are.
    """
    model_type = content.get("model_type")
    if model_type == "bert" and (folder / PINYIN_FOLDER / MAP_FILE).is_file():
        return FAMILIES["chinesebert"]
    known = {name: family for name, family in FAMILIES.items() if family.source.model_type == name}
    if model_type not in known:
        raise InputError(
            f"model.backbone: {folder}: expected model_type {', '.join(known)} (ChineseBERT: bert, and a file "
            f"{PINYIN_FOLDER}/{MAP_FILE}), found {model_type}"
        )
    return known[model_type]


def encoder_config(family: Family, content: Mapping[str, Any], **sizes: int) -> BertConfig:
    """Our configuration from the content of a config.json, and from sizes that are not in there.

    Raises:
        InputError: the encoder does something that ours does not.
    """
    source = family.source(**content)
    shape: dict[str, Any] = {name: getattr(source, name) for name in _SHAPE}
    if family.padding_first and source.pad_token_id is None:
        raise InputError("pad_token_id: expected a number, from which positions are counted, found null")
    offset = source.pad_token_id + 1 if family.padding_first else 0
    return family.config(**(shape | sizes), family=family.name, position_offset=offset)


def source_config(family: Family, config: BertConfig, **rest: Any) -> transformers.PretrainedConfig:
    """transformers' configuration of an encoder of ours, and whatever else belongs into its config.json."""
    return family.source(**{name: getattr(config, name) for name in _SHAPE}, **rest)
