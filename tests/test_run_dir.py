"""The folder of a run: what is written into it, and when a later process may use it."""

import dataclasses
import importlib.metadata
import json
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from knn_ner_jax import cli, run_dir
from knn_ner_jax.config import Config, DataConfig, DatastoreConfig, DistributedConfig, KnnConfig, ModelConfig, TrainConfig
from knn_ner_jax.data.corpus import Split, read_corpus
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import subword_ids, tokenizer_fingerprint
from knn_ner_jax.io import InputError
from knn_ner_jax.models.pretrained import open_backbone
from knn_ner_jax.models.tagger import Tagger
from knn_ner_jax.run_dir import (
    EVALUATION_FIELDS,
    NOT_COMPARED,
    PACKAGES,
    TRAINING_FIELDS,
    TRAINING_FILES,
    RunConflict,
    TrainedModel,
    check_corpus,
    check_same_config,
    delete_run,
    environment,
    save_config,
)


@pytest.fixture
def config() -> Config:
    return Config("runs/a", DataConfig("corpora/été"), ModelConfig("folder"), TrainConfig(learning_rate=3e-5))


def stored(tmp_path: Path, config: Config) -> Path:
    path = tmp_path / "run" / "config.yaml"
    save_config(path, config)
    return path


@pytest.mark.parametrize(
    "knn",
    [
        KnnConfig(),
        KnnConfig(k="all", temperature=1e-3, knn_weight=1.0, metric="ip"),
        KnnConfig(k=[8, "all"], temperature=[1e-5, 1.0], metric=["cosine", "l2"]),
    ],
)
def test_a_stored_configuration_is_what_the_command_line_reads_back(tmp_path: Path, config: Config, knn: KnnConfig):
    config = dataclasses.replace(
        config, knn=knn, eval_dir="elsewhere", datastore=DatastoreConfig(layers=[-1, 0], whitening_dim=64)
    )
    path = stored(tmp_path, config)
    assert cli.parse("train.py", "", Config, ["--config", str(path)]) == (config, False)
    check_same_config(path, config, [""])


def test_how_processes_find_each_other_is_no_part_of_a_run(tmp_path: Path, config: Config):
    path = stored(tmp_path, dataclasses.replace(config, distributed=DistributedConfig("first:1234", 2, 1)))
    assert cli.parse("train.py", "", Config, ["--config", str(path)]) == (config, False)
    check_same_config(path, dataclasses.replace(config, distributed=DistributedConfig("other:1234", 4, 0)), [""])


def differing(path: Path, config: Config, prefixes: tuple[str, ...]) -> list[str]:
    with pytest.raises(RunConflict) as error:
        check_same_config(path, config, prefixes)
    first, *rest = str(error.value).split("\n")
    remedy = "--overwrite deletes it and starts again; or give another run_dir"
    assert first == f"{path.parent} holds a run of another configuration; {remedy}:"
    return [line.strip() for line in rest]


def test_exactly_the_differing_fields_are_listed_with_both_values(tmp_path: Path, config: Config):
    path = stored(tmp_path, config)
    changed = dataclasses.replace(
        config,
        run_dir="runs/b",
        seed=7,
        data=dataclasses.replace(config.data, max_length=64),
        train=dataclasses.replace(config.train, learning_rate=1e-4, dtype="bfloat16"),
        knn=dataclasses.replace(config.knn, k="all"),
        eval_dir="elsewhere",
    )
    training = [
        "data.max_length: the earlier run has None, this one 64",
        "train.learning_rate: the earlier run has 3e-05, this one 0.0001",
        "train.dtype: the earlier run has float32, this one bfloat16",
        "seed: the earlier run has 0, this one 7",
    ]
    assert sorted(differing(path, changed, TRAINING_FIELDS)) == sorted(training)
    assert sorted(differing(path, changed, EVALUATION_FIELDS)) == sorted(
        [*training, "knn.k: the earlier run has [8, 32, 128, 512], this one all"]
    )
    assert differing(path, changed, ("knn.",)) == ["knn.k: the earlier run has [8, 32, 128, 512], this one all"]


def test_fields_outside_the_prefixes_may_differ(tmp_path: Path, config: Config):
    path = stored(tmp_path, config)
    changed = dataclasses.replace(
        config, run_dir="b", eval_dir="c", knn=KnnConfig(k=1), datastore=DatastoreConfig(whitening_dim=8)
    )
    check_same_config(path, changed, TRAINING_FIELDS)
    check_same_config(path, dataclasses.replace(config, run_dir="b", eval_dir="c"), EVALUATION_FIELDS)


def test_how_a_run_computes_may_change_and_be_unknown_to_an_earlier_one(tmp_path: Path, config: Config):
    path = stored(tmp_path, config)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name in NOT_COMPARED:
        section, field = name.split(".")
        del content[section][field]
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    changed = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, remat=True, profile=3),
        knn=dataclasses.replace(config.knn, prune=False),
    )
    check_same_config(path, changed, EVALUATION_FIELDS)


def test_every_field_but_the_folders_belongs_to_an_evaluation():
    free = {field.name for field in dataclasses.fields(Config)} - {prefix.strip(".") for prefix in EVALUATION_FIELDS}
    assert free == {"run_dir", "eval_dir", "distributed"}


def test_a_field_that_only_one_side_has_is_listed(tmp_path: Path, config: Config):
    path = stored(tmp_path, config)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["train"]["momentum"] = content["train"].pop("warmup_ratio")
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert sorted(differing(path, config, ("train.",))) == [
        "train.momentum: the earlier run has 0.1, this one None",
        "train.warmup_ratio: the earlier run has None, this one 0.1",
    ]


def splits_of(folder: Path) -> dict[str, Split]:
    for name in ("train", "dev", "test"):
        path = folder / f"{name}.txt"
        if not path.exists():
            path.write_text(f"{name} B-X\n")
    return read_corpus(DataConfig(str(folder))).splits


def test_a_corpus_that_changed_is_refused(tmp_path: Path):
    hashes = {name: split.sha256 for name, split in splits_of(tmp_path).items()}
    check_corpus(hashes, splits_of(tmp_path), "try again")
    (tmp_path / "dev.txt").write_text("other B-X\n")
    (tmp_path / "test.txt").write_text("other B-X\n")
    changed = splits_of(tmp_path)
    with pytest.raises(RunConflict) as error:
        check_corpus(hashes, changed, "try again")
    assert str(error.value) == f"{tmp_path}/dev.txt, {tmp_path}/test.txt: changed since the earlier run; try again"
    check_corpus(hashes, {"train": changed["train"]}, "try again")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_trained_model_is_loaded_as_it_was_saved(tmp_path: Path, tiny_backbone: Path, dtype: str):
    backbone = open_backbone(tiny_backbone)
    label_set = LabelSet(("PER", "creative-work", "Ö"))
    model = TrainedModel(Tagger(backbone.config, len(label_set), dtype), label_set, 48, backbone.tokenizer)
    model.save(tmp_path)
    loaded = TrainedModel.load(tmp_path)
    assert loaded.tagger == model.tagger
    assert loaded.label_set == label_set
    assert loaded.max_length == 48
    sentences = [("Ångström", "visited", "LONDON", "[SEP]", "\u200b", "antidisestablishmentarianism", "東京", "e\u0301t")]
    assert subword_ids(sentences, loaded.tokenizer) == subword_ids(sentences, model.tokenizer)
    assert tokenizer_fingerprint(loaded.tokenizer) == tokenizer_fingerprint(model.tokenizer)
    assert loaded.tokenizer.config == model.tokenizer.config
    assert [loaded.tokenizer.special_id(f"{name}_token") for name in ("cls", "sep", "unk")] == [101, 102, 100]


def test_a_folder_without_a_trained_model_is_refused(tmp_path: Path):
    with pytest.raises(InputError) as error:
        TrainedModel.load(tmp_path)
    assert str(error.value) == f"run_dir: {tmp_path}: expected a trained tagger, found none; train first"


def test_deleting_a_run_deletes_the_named_files_and_folders_and_nothing_else(tmp_path: Path):
    for name in ("config.yaml", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    delete_run(tmp_path, TRAINING_FILES)
    delete_run(tmp_path / "none", TRAINING_FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "other"]


def test_the_environment_has_the_versions_in_use_and_lies_beside_the_configuration(tmp_path: Path, config: Config):
    path = stored(tmp_path, config)
    content = json.loads((path.parent / "config.environment.json").read_bytes())
    assert content == environment()
    packages = content["packages"]
    assert (packages["jax"], packages["numpy"]) == (jax.__version__, np.__version__)
    assert packages["transformers"] == importlib.metadata.version("transformers")
    assert set(PACKAGES) == packages.keys()
    assert {path.name, "config.environment.json"} <= set(TRAINING_FILES)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the module seems to run from; no git repository yet."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "checkout" / "package"
    folder.mkdir(parents=True)
    (folder / "run_dir.py").write_text("first\n")
    monkeypatch.setattr(run_dir, "__file__", str(folder / "run_dir.py"))
    return folder


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *settings, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_environment_has_the_git_revision_and_whether_the_source_differs(checkout: Path):
    assert environment()["git_revision"] is None
    git(checkout, "init", "--quiet")
    git(checkout, "add", "run_dir.py")
    git(checkout, "commit", "--quiet", "--message", "first")
    revision = git(checkout, "rev-parse", "HEAD")
    assert len(revision) == 40
    assert environment()["git_revision"] == revision
    (checkout / "untracked.txt").write_text("x")
    assert environment()["git_revision"] == revision
    (checkout / "run_dir.py").write_text("second\n")
    assert environment()["git_revision"] == f"{revision}+changes"


def test_a_repository_that_does_not_hold_the_package_is_not_its_revision(checkout: Path):
    # As where the package is installed in a virtual environment that lies inside the user's own repository.
    git(checkout.parent, "init", "--quiet")
    git(checkout.parent, "commit", "--quiet", "--allow-empty", "--message", "first")
    assert environment()["git_revision"] is None


def test_without_git_there_is_no_revision(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["git_revision"] is None
