"""Pretrained models: what a folder in transformers' layout or a hub id holds, and a trained tagger written in that layout.

A backbone is an encoder to be fine-tuned; one with a head and label names is a fine-tuned tagger, which can be used
untrained. `export` writes a folder that transformers' AutoModelForTokenClassification loads.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key
from safetensors.numpy import save_file

from knn_ner_jax.config import ModelConfig, ScratchConfig
from knn_ner_jax.data.label_names import ForeignLabels, read_label_names
from knn_ner_jax.data.pinyin import Pinyin
from knn_ner_jax.data.tokenization import Tokenizer, open_tokenizer
from knn_ner_jax.io import InputError, check_is_new, read_mapping, resolve_path
from knn_ner_jax.models import hf_checkpoint
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.chinese_bert import ChineseBertConfig
from knn_ner_jax.models.hf_checkpoint import (
    FAMILIES,
    HEAD,
    PINYIN_FOLDER,
    PYTORCH,
    SAFETENSORS,
    CheckpointError,
    Family,
    Tensor,
    encoder_config,
    open_tensors,
    recognise_family,
    source_config,
    weight_files,
)
from knn_ner_jax.models.tagger import Params, Tagger

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
HUB_FILES = ["config.json", "vocab.*", "merges.txt", "tokenizer*.json", "special_tokens_map.json", f"{PINYIN_FOLDER}/*"]
HUB_WEIGHTS = {name: [name, f"{name}.index.json", name.replace(".", "-*.")] for name in (SAFETENSORS, PYTORCH)}

_LETTERS = "embeddings.pinyin_embeddings.embedding.weight"
_GLYPHS = "embeddings.glyph_embeddings.embedding.weight"


@dataclass(frozen=True)
class Backbone:
    """A checkpoint before its tensors are read.

    Attributes:
        config: the encoder's sizes.
        tokenizer: its tokenizer.
        tensors: the encoder's and those of its heads; None for an encoder that starts from random weights.
        id2label: label names by number, as in config.json; empty where it has none.
        pinyin: the maps of a ChineseBERT; None for other encoders.
    """

    config: BertConfig
    tokenizer: Tokenizer
    tensors: tuple[Tensor, ...] | None
    id2label: Mapping[str, str] = field(default_factory=dict)
    pinyin: Pinyin | None = None

    def initial_params(self, tagger: Tagger, key: Key[Array, ""]) -> Params:
        """Return the parameters a tagger starts from: the head's are random, the encoder's those of the checkpoint, if any.

        Raises:
            CheckpointError: some tensors do not fit; all of them are listed.
        """
        if self.tensors is None:
            return tagger.init(key)
        encoder = {"encoder": tagger.abstract_params()["encoder"]}
        loaded = hf_checkpoint.load_params(self.tensors, FAMILIES[self.config.family], encoder)

        def others(key: Key[Array, ""]) -> Params:
            return {name: values for name, values in tagger.init(key).items() if name not in loaded}

        return jax.jit(others)(key) | loaded  # compiled, what is left out is not computed


def _download(backbone: str) -> Path:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(backbone, allow_patterns=HUB_FILES + HUB_WEIGHTS[SAFETENSORS]))
    if any((folder / name).is_file() for name in HUB_WEIGHTS[SAFETENSORS][:2]):
        return folder
    return Path(snapshot_download(backbone, allow_patterns=HUB_FILES + HUB_WEIGHTS[PYTORCH]))


def locate(backbone: str) -> Path:
    """Return the folder of a backbone: a local one, `pip:package/folder`, or a hub id, which is downloaded.

    Raises:
        InputError: it is none of the three, or the hub cannot be reached.
    """
    folder = resolve_path(backbone)
    if folder.is_dir():
        return folder
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return _download(backbone)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"model.backbone: expected a folder, pip:package/folder or a hub id, got {backbone!r}: "
            f"no such folder, and the hub says: {reason}"
        ) from error


def _expect(condition: bool, folder: Path, expected: str, actual: object) -> None:
    if not condition:
        raise InputError(f"model.backbone: {folder}: expected {expected}, found {actual}")


def open_backbone(folder: Path, lowercase: bool | None = None) -> Backbone:
    """Read config, tokenizer and the list of tensors of a folder in transformers' layout.

    Args:
        folder: the folder.
        lowercase: whether the tokenizer lower-cases words (see `open_tokenizer`).

    Raises:
        InputError: the architecture is none of `FAMILIES`, or a file is missing or unreadable.
    """
    _expect((folder / "config.json").is_file(), folder, "a file config.json", "none")
    content = read_mapping(folder / "config.json", "model.backbone")
    family = recognise_family(folder, content)
    positions = content.get("position_embedding_type", "absolute")
    _expect(positions == "absolute", folder, "position_embedding_type absolute", positions)
    tensors = tuple(open_tensors(weight_files(folder)))
    sizes, pinyin = {}, None
    if family.name == "chinesebert":
        pinyin = Pinyin.load(folder / PINYIN_FOLDER)
        tensors += _glyph_tables(folder, family, tensors)
        sizes = _chinese_sizes(family, tensors)
    config = _encoder_config(folder, family, content, sizes)
    tokenizer = open_tokenizer(folder, file_groups=family.tokenizer_files, lowercase=lowercase)
    _expect(
        len(tokenizer) <= config.vocab_size, folder, f"at most {config.vocab_size} subwords (vocab_size)", len(tokenizer)
    )
    if pinyin is not None and isinstance(config, ChineseBertConfig):
        letters = config.num_letters
        _expect(pinyin.num_letters <= letters, folder, f"at most {letters} letters in the pinyin maps", pinyin.num_letters)
    return Backbone(config, tokenizer, tensors, content.get("id2label", {}), pinyin)


def _encoder_config(folder: Path, family: Family, content: Mapping[str, Any], sizes: Mapping[str, int]) -> BertConfig:
    from huggingface_hub.errors import StrictDataclassError

    _expect(not content.get("is_decoder"), folder, "an encoder", "is_decoder in config.json")
    try:
        return encoder_config(family, content, **sizes)
    except (InputError, StrictDataclassError) as error:
        raise InputError(f"model.backbone: {folder / 'config.json'}: {error}") from error


def _glyph_tables(folder: Path, family: Family, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the glyphs of the fonts in a ChineseBERT folder, side by side by name; none where the weights have glyphs."""
    files = sorted((folder / PINYIN_FOLDER).glob("*.npy"))
    if not files or any(hf_checkpoint.canonical(tensor.name, family) == _GLYPHS for tensor in tensors):
        return ()
    logger.info("%s: no glyphs in the weights; taken from the fonts %s", folder, ", ".join(path.name for path in files))
    try:
        tables = [np.load(path).astype(np.float32) for path in files]
        glyphs = np.concatenate([table.reshape(len(table), -1) for table in tables], axis=1)
    except (ValueError, OSError) as error:
        names = ", ".join(path.name for path in files)
        raise CheckpointError(
            f"{folder / PINYIN_FOLDER}: {names}: expected pictures of the same characters: {error}"
        ) from error
    return (Tensor(_GLYPHS, folder / PINYIN_FOLDER, glyphs.shape, lambda: glyphs),)


def _chinese_sizes(family: Family, tensors: Sequence[Tensor]) -> dict[str, int]:
    """Return the sizes of a ChineseBERT that config.json leaves out, taken from its tensors."""
    shapes = {hf_checkpoint.canonical(tensor.name, family): tensor.shape for tensor in tensors}
    sizes = {}
    if len(shapes.get(_LETTERS, ())) == 2:
        sizes["num_letters"], sizes["letter_size"] = shapes[_LETTERS]
    if len(shapes.get(_GLYPHS, ())) == 2:
        sizes["num_pixels"] = shapes[_GLYPHS][1]
    return sizes


def scratch_backbone(scratch: ScratchConfig, lowercase: bool = False) -> Backbone:
    """Return the backbone of a BERT that has a vocabulary and sizes, and no weights yet.

    Args:
        scratch: vocabulary and sizes.
        lowercase: whether words are lower-cased, and their accents stripped, before they are split into subwords.

    Raises:
        InputError: the vocabulary is missing, or the sizes are impossible.
    """
    vocab = resolve_path(scratch.vocab)
    if not vocab.is_file():
        raise InputError(f"model.scratch.vocab: expected a file, got {scratch.vocab}")
    # Not str.splitlines(): it would also break at the line separator U+2028, which real vocabularies contain.
    subwords = vocab.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    missing = [token for token in SPECIAL_TOKENS if token not in subwords]
    if missing:
        raise InputError(
            f"model.scratch.vocab: {vocab}: expected {' '.join(SPECIAL_TOKENS)} in it, found no {' '.join(missing)}"
        )
    from transformers import BertTokenizer  # takes seconds

    tokenizer = BertTokenizer(vocab={subword: i for i, subword in enumerate(subwords)}, do_lower_case=lowercase)
    sizes = {name: value for name, value in asdict(scratch).items() if name in {entry.name for entry in fields(BertConfig)}}
    return Backbone(BertConfig(vocab_size=len(subwords), **sizes), Tokenizer.of(tokenizer), None)


def backbone_of(model: ModelConfig) -> Backbone:
    """Open the backbone that a configuration names.

    Raises:
        InputError: see `locate`, `open_backbone` and `scratch_backbone`.
    """
    if model.backbone == "scratch":
        return scratch_backbone(model.scratch, model.lowercase or False)
    return open_backbone(locate(model.backbone), model.lowercase)


def fingerprint(params: Params) -> str:
    """Return the SHA-256 of all parameters, their names and shapes included."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def foreign_labels(backbone: Backbone, model: ModelConfig, bare_type: str = "ENT") -> ForeignLabels:
    """Return the labels of a backbone's own head: those of `model.labels`, else of its config.json.

    Raises:
        InputError: it has none, or they are no labels of a scheme, or not of `model.label_scheme`.
    """
    names, origin = model.labels, "model.labels"
    if names is None:
        origin, id2label = "id2label in its config.json", backbone.id2label
        if not isinstance(id2label, Mapping) or not all(isinstance(name, str) for name in id2label.values()):
            setting = "id2label in the backbone's config.json"
            raise InputError(f"{setting}: expected a mapping from numbers to names, found {id2label}")
        labels = {str(number): name for number, name in id2label.items()}
        names = [labels.get(str(number), "") for number in range(len(labels))]
    try:
        return read_label_names(names, model.label_scheme, bare_type)
    except InputError as error:
        listed = ", ".join(f"{number}: {name}" for number, name in enumerate(names)) or "none"
        if model.labels is None and backbone.id2label:
            listed = ", ".join(f"{number}: {name}" for number, name in labels.items())
        raise InputError(
            f"train.epochs: 0 uses the backbone's own head; {origin}: expected {error}; found {listed}; "
            "model.labels: [O, B-PER, ...] in the order of the head's outputs says what they are"
        ) from error


def tagger_params(backbone: Backbone, tagger: Tagger) -> Params:
    """Read encoder and head of a fine-tuned tagger as they are.

    Args:
        backbone: the fine-tuned tagger.
        tagger: its encoder, a linear head, and the `outputs` of its `foreign_labels`.

    Raises:
        CheckpointError: tensors do not fit, those of the head included.
    """
    return hf_checkpoint.load_params(backbone.tensors or (), FAMILIES[tagger.config.family], tagger.abstract_params())


def check_exportable(tagger: Tagger, folder: Path) -> Family:
    """Return the family of a tagger, after checking that it can be exported.

    Raises:
        InputError: transformers has no such tagger, or the folder is in use.
    """
    family = FAMILIES[tagger.config.family]
    if family.tagger is None:
        known = ", ".join(name for name, entry in FAMILIES.items() if entry.tagger)
        raise InputError(f"expected a family of encoders that transformers has ({known}), got {family.name}")
    if tagger.head != "linear":
        raise InputError(f"model.head: expected linear, the head of transformers' taggers, got {tagger.head}")
    check_is_new(folder)
    return family


def export(
    tagger: Tagger,
    params: Params,
    label_names: tuple[str, ...],
    tokenizer: Tokenizer,
    folder: Path,
) -> None:
    """Write config.json, model.safetensors and the tokenizer of a tagger in transformers' layout.

    Args:
        tagger: the network.
        params: its parameters.
        label_names: names of the head's outputs.
        tokenizer: its tokenizer.
        folder: new or empty.

    Raises:
        InputError: transformers has no such tagger, or the folder is in use.
    """
    family = check_exportable(tagger, folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, path in hf_checkpoint.param_map(family, params).items():
        prefix = "" if name.rpartition(".")[0] in HEAD else family.prefix
        tensors[prefix + name] = np.ascontiguousarray(path.of(params))
    save_file(tensors, folder / SAFETENSORS, metadata={"format": "pt"})
    special = [name for name in ("pad_token", "bos_token", "eos_token") if tokenizer.config.get(name)]
    source_config(
        family,
        tagger.config,
        architectures=[family.tagger],
        id2label=dict(enumerate(label_names)),
        label2id={name: number for number, name in enumerate(label_names)},
        **{f"{name}_id": tokenizer.special_id(name) for name in special},
    ).save_pretrained(folder)
    tokenizer.save(folder)
