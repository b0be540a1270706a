"""A cased vocabulary that is opened lower-casing, and other things that a tokenizer loses in silence: told, and mended."""

import json
import logging
from pathlib import Path

import pytest
import tokenizers
import transformers
from helpers.random_bert import save_random_bert
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from knn_ner_jax import cli
from knn_ner_jax.config import ModelConfig
from knn_ner_jax.data.tokenization import Tokenizer, open_tokenizer, tokenizer_fingerprint
from knn_ner_jax.data.validation import tokenizer_losses
from knn_ner_jax.io import InputError
from knn_ner_jax.models.pretrained import backbone_of
from knn_ner_jax.run_dir import TrainedModel

WORDS = "Angela angel ##a Oslo o ##s ##lo NATO na ##to met"
PIECES = f"[PAD] [UNK] [CLS] [SEP] [MASK] {WORDS}".split()
CORPUS = {split: "Angela B-PER\nmet O\nNATO B-ORG\n\nOslo B-LOC\n" for split in ("train", "dev")}
CORPUS["test"] = "met O\nOslo B-LOC\n"


@pytest.fixture
def cased(tmp_path: Path) -> Path:
    """A BERT with a cased vocabulary and no tokenizer_config.json, as several published ones are."""
    folder = tmp_path / "cased"
    folder.mkdir()
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    save_random_bert(folder, transformers.BertConfig(vocab_size=len(PIECES), architectures=["BertModel"], **shape))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return folder


def pieces(tokenizer: Tokenizer) -> list[list[str]]:
    return [encoding.tokens for encoding in tokenizer.encode([["Angela"], ["met"], ["NATO"], ["Oslo"]])]


def test_the_option_decides_and_the_fingerprint_tells(cased: Path):
    default, lower, as_is = (open_tokenizer(cased, lowercase=lowercase) for lowercase in (None, True, False))
    assert pieces(as_is) == [["Angela"], ["met"], ["NATO"], ["Oslo"]]
    assert pieces(default) == pieces(lower) == [["angel", "##a"], ["met"], ["na", "##to"], ["o", "##s", "##lo"]]
    assert tokenizer_fingerprint(default) == tokenizer_fingerprint(lower) != tokenizer_fingerprint(as_is)


def test_it_is_found_and_the_option_named(cased: Path):
    (loss,) = tokenizer_losses(open_tokenizer(cased), ["Angela", "met"])
    assert loss == (
        "words are lower-cased, so that 3 of 11 subwords, those with capitals, never occur",
        "model.lowercase: false",
    )
    assert tokenizer_losses(open_tokenizer(cased, lowercase=False), ["Angela", "met"]) == []


def test_an_uncased_vocabulary_is_fine(minilm: Path):
    words = ["Angela", "Merkel", "met", "Nokia", "in", "Helsinki", ",", "and", "3,000", "others", "."]
    assert tokenizer_losses(open_tokenizer(minilm), words) == []
    (loss,) = tokenizer_losses(open_tokenizer(minilm, lowercase=False), words)
    assert loss.setting == "model.lowercase: true"
    assert "subwords are unknown" in loss.what


def test_a_tokenizer_without_the_choice_and_a_scratch_model_refuse_it(tmp_path: Path):
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model\.lowercase: .* expected null for a tokenizer without this choice"):
        open_tokenizer(tmp_path, lowercase=True)


def test_training_tells_and_the_run_and_the_export_keep_the_choice(cased: Path, tmp_path: Path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    for split, text in CORPUS.items():
        (tmp_path / "corpus" / f"{split}.conll").write_text(text)
    fields = ["--data.dir=corpus", f"--model.backbone={cased}", "--train.epochs=1", "--data.pad_to_multiple_of=8"]
    with caplog.at_level(logging.WARNING):
        cli.run("train", "train.py", [*fields, "--run_dir=lower"])
    assert "those with capitals, never occur; what may mend it: model.lowercase: false" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        cli.run("train", "train.py", [*fields, "--run_dir=cased", "--model.lowercase=false"])
    assert "never occur" not in caplog.text
    assert pieces(TrainedModel.load(Path("cased")).tokenizer)[2] == ["NATO"]
    assert pieces(backbone_of(ModelConfig(str(cased), lowercase=False)).tokenizer)[2] == ["NATO"]
    cli.run("export", "export.py", ["cased", "exported"])
    assert pieces(open_tokenizer(Path("exported")))[0] == ["Angela"]


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        ([str(number) for _ in range(9) for number in range(1, 8)], "data.columns"),
        ([f"en:{word}" for word in "abcdefghijklmnopqrstuvwxyz"], "data.token_prefix"),
        (["☃"] * 3 + ["a"] * 9, "another model.backbone"),
    ],
)
def test_other_losses_are_found_with_what_mends_them(minilm: Path, words: list[str], setting: str):
    assert [loss.setting for loss in tokenizer_losses(open_tokenizer(minilm), words)] == [setting]


def test_a_byte_level_tokenizer_without_the_space_before_words_is_found(tmp_path: Path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: number for number, piece in enumerate(["<unk>", *alphabet, *(f"Ġ{letter}" for letter in "abcdefg")])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, [("Ġ", letter) for letter in "abcdefg"], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    (loss,) = tokenizer_losses(Tokenizer.of(fast), list("abcdefg"))
    assert loss.what == "the space before a word, part of 8 subwords, is missing before 7 words"
    fast.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    assert tokenizer_losses(open_tokenizer(tmp_path), list("abcdefg")) == []
