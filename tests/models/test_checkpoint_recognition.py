"""Which family a folder belongs to; tokenizers of byte pairs; the folder of a ChineseBERT."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from helpers import checkpoints

from knn_ner_jax.data.tokenization import Tokenizer, open_tokenizer, subword_ids
from knn_ner_jax.io import InputError
from knn_ner_jax.models import pretrained
from knn_ner_jax.models.chinese_bert import ChineseBertConfig
from knn_ner_jax.models.hf_checkpoint import CheckpointError
from knn_ner_jax.models.tagger import Tagger


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.fixture(scope="module")
def roberta_folder(tmp_path_factory):
    return checkpoints.roberta(tmp_path_factory.mktemp("roberta"))


def test_roberta_counts_positions_from_its_padding_id(roberta_folder):
    config = pretrained.open_backbone(roberta_folder).config
    assert (config.family, config.position_offset, config.max_position_embeddings) == ("roberta", 2, 66)
    assert config.max_length == checkpoints.POSITIONS


def test_roberta_without_a_padding_id_is_refused(roberta_folder, tmp_path):
    for path in roberta_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    edit_json(tmp_path / "config.json", pad_token_id=None)
    with pytest.raises(InputError, match="pad_token_id: expected a number"):
        pretrained.open_backbone(tmp_path)


def test_a_word_of_byte_pairs_has_the_same_pieces_wherever_it_stands(roberta_folder):
    tokenizer = pretrained.open_backbone(roberta_folder).tokenizer
    pieces, erased = subword_ids([("the", "in", "the"), ("<s>",)], tokenizer)
    assert tokenizer.subwords(pieces[0][0]) == ["Ġthe"]
    assert pieces[0][0] == pieces[0][2]
    assert tokenizer.subwords(pieces[1][0]) == ["Ġ", "<", "s", ">"]
    assert (tokenizer.special_id("cls_token"), tokenizer.special_id("sep_token"), erased) == (0, 2, 0)


@pytest.mark.parametrize("kind", ["RobertaTokenizer", "PreTrainedTokenizerFast"])
def test_a_tokenizer_saved_without_the_leading_space_gets_it(roberta_folder, tmp_path, kind):
    tokenizer = transformers.RobertaTokenizer.from_pretrained(roberta_folder)
    tokenizer.save_pretrained(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", tokenizer_class=kind)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(roberta_folder / name)
    opened_tokenizer = pretrained.open_backbone(tmp_path).tokenizer
    opened_tokenizer.save(tmp_path / "again")
    assert opened_tokenizer.encode([("the",)])[0].tokens == ["Ġthe"]
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(["the"], is_split_into_words=True, add_special_tokens=False).tokens() == ["Ġthe"]


def test_the_published_roberta_vocabulary(shared, roberta_folder, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((shared / "vocab" / f"roberta-{name}").read_bytes())
    shape = {name: value for name, value in checkpoints.SHAPE.items() if name != "hidden_size"}
    config = transformers.RobertaConfig(vocab_size=50265, hidden_size=2 * 2, **shape)
    transformers.RobertaModel(config).save_pretrained(tmp_path)
    tokenizer = pretrained.open_backbone(tmp_path).tokenizer
    assert subword_ids([("Hello", "world")], tokenizer)[0] == [[[20920], [232]]]


TEXTS = [
    [
        "Die",
        "the",
        "tin",
        "[SEP]",
        "</s>",
        "<mask>ed",
        "Zürich's",
        "北京",
        "\u200b",
        "e\u0301t\u00e9",
        "intent",
        "a b",
        "😀",
    ],
    ["the", "😀"],
    ["\ufffd", ",", "..."] * 300,
]


@pytest.fixture(params=["bert", "cased", "roberta", "roberta published", "xlm-roberta", "chinesebert", "unigram alone"])
def tokenizer_folder(request, tmp_path, minilm, roberta_folder):
    if request.param == "bert":
        return minilm
    if request.param == "roberta":
        return roberta_folder
    if request.param == "chinesebert":
        return checkpoints.chinese_bert(tmp_path, list("在北京银行"))
    if request.param == "xlm-roberta":
        return sentence_pieces(tmp_path)
    if request.param == "unigram alone":  # a class that is made from tokenizer.json, not from a vocabulary
        edit_json(sentence_pieces(tmp_path) / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
        return tmp_path
    vocab = request.getfixturevalue("shared") / "vocab"
    published = {"vocab.txt": "bert-base-cased.txt"}
    if request.param == "roberta published":
        published = {"vocab.json": "roberta-vocab.json", "merges.txt": "roberta-merges.txt"}
    for name, file in published.items():
        (tmp_path / name).write_bytes((vocab / file).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": request.param.split()[0].replace("cased", "bert")}))
    return tmp_path


def test_words_are_cut_as_transformers_cuts_them(tokenizer_folder, tmp_path):
    own = open_tokenizer(tokenizer_folder)
    own.save(tmp_path / "run")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    for each in (own, Tokenizer.load(tmp_path / "run")):
        encodings = theirs(TEXTS, is_split_into_words=True, add_special_tokens=False, split_special_tokens=True).encodings
        for actual, expected in zip(each.encode(TEXTS), encodings, strict=True):
            for name in ("ids", "word_ids", "offsets", "tokens"):
                assert getattr(actual, name) == getattr(expected, name)
        special = {name: getattr(theirs, f"{name}_id") for name in theirs.special_tokens_map}
        assert {"unk_token", "sep_token", "pad_token", "cls_token", "mask_token"} <= special.keys()
        assert {name: each.special_id(name) for name in special} == special
        assert len(each) == len(theirs)
        assert each.subwords(range(len(each))) == theirs.convert_ids_to_tokens(range(len(theirs)))
        assert each.backend.to_str() == theirs.backend_tokenizer.to_str()
    theirs.save_pretrained(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def sentence_pieces(folder):
    pieces = [(piece, -float(rank)) for rank, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁the", "▁", "t", "in"])]
    transformers.XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)]).save_pretrained(folder)
    return folder


def test_xlm_roberta_reads_sentence_pieces(tmp_path):
    sentence_pieces(tmp_path)
    config = transformers.XLMRobertaConfig(vocab_size=9, max_position_embeddings=18, type_vocab_size=1, **checkpoints.SHAPE)
    transformers.XLMRobertaModel(config).save_pretrained(tmp_path)
    backbone = pretrained.open_backbone(tmp_path)
    assert (backbone.config.family, backbone.config.max_length) == ("xlm-roberta", 16)
    actual, _ = subword_ids([("the", "tin")], backbone.tokenizer)
    assert [backbone.tokenizer.subwords(word) for word in actual[0]] == [["▁the"], ["▁", "t", "in"]]
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"expected a tokenizer \(tokenizer\.json\), found none"):
        pretrained.open_backbone(tmp_path)


@pytest.fixture
def chinese_folder(tmp_path):
    return checkpoints.chinese_bert(tmp_path / "chinesebert", list("在北京银行"))


def test_a_chinese_bert_is_known_by_its_pinyin_maps(chinese_folder):
    backbone = pretrained.open_backbone(chinese_folder)
    assert isinstance(backbone.config, ChineseBertConfig)
    assert (backbone.config.num_letters, backbone.config.letter_size, backbone.config.num_pixels) == (32, 128, 1728)
    assert backbone.pinyin.letters["a"] == 1
    (chinese_folder / "config" / "pinyin_map.json").unlink()
    without = pretrained.open_backbone(chinese_folder)
    assert without.config.family == "bert"
    with pytest.raises(CheckpointError, match=r"unmapped: bert\.embeddings\.glyph_map\.weight"):
        without.initial_params(Tagger(without.config, 3), jax.random.key(0))


def test_fonts_stand_in_for_glyphs_that_the_weights_lack(chinese_folder, caplog):
    backbone = pretrained.open_backbone(chinese_folder)
    expected = backbone.initial_params(Tagger(backbone.config, 3), jax.random.key(0))["encoder"]
    state = torch.load(chinese_folder / "pytorch_model.bin", weights_only=True)
    del state["bert.embeddings.glyph_embeddings.embedding.weight"]
    torch.save(state, chinese_folder / "pytorch_model.bin")
    with caplog.at_level("INFO"):
        backbone = pretrained.open_backbone(chinese_folder)
    assert "taken from the fonts STFANGSO.TTF24.npy, STXINGKA.TTF24.npy, 方正古隶繁体.ttf24.npy" in caplog.text
    actual = backbone.initial_params(Tagger(backbone.config, 3), jax.random.key(0))["encoder"]
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    font = np.load(chinese_folder / "config" / "STXINGKA.TTF24.npy")
    np.testing.assert_array_equal(actual["embeddings"]["glyph"]["embedding"][6, 576:1152], font[6].reshape(-1))


def test_fonts_of_different_vocabularies_are_refused(chinese_folder):
    state = torch.load(chinese_folder / "pytorch_model.bin", weights_only=True)
    del state["bert.embeddings.glyph_embeddings.embedding.weight"]
    torch.save(state, chinese_folder / "pytorch_model.bin")
    np.save(chinese_folder / "config" / "STXINGKA.TTF24.npy", np.zeros((3, 24, 24), np.uint8))
    with pytest.raises(CheckpointError, match="expected pictures of the same characters"):
        pretrained.open_backbone(chinese_folder)


def test_maps_with_more_letters_than_the_weights_are_refused(chinese_folder):
    edit_json(chinese_folder / "config" / "pinyin2tensor.json", a1=[32, 0, 0, 0, 0, 0, 0, 0])
    with pytest.raises(InputError, match="expected at most 32 letters in the pinyin maps, found 33"):
        pretrained.open_backbone(chinese_folder)
