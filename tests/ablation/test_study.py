"""What a study consists of: axes crossed and zipped, seeds outermost, cells named by what they depend on."""

from dataclasses import replace
from pathlib import Path

import pytest

from knn_ner_jax import cli
from knn_ner_jax.ablation.config import AblationConfig, StudyConfig
from knn_ner_jax.ablation.study import VERSION, Files, Study, plan
from knn_ner_jax.contrib import adaptive
from knn_ner_jax.io import InputError

ADAPTIVE = "knn_ner_jax.contrib.adaptive:AdaptiveCombiner"
OPTIONS = ["--run_dir", "study", "--data.dir", "corpus", "--model.backbone", "bert-{seed}"]


FILES = Files(("train", "dev", "backbone"), (), "test")


def study_of(ablation: AblationConfig, *options: str, files: Files = FILES) -> Study:
    config = cli.parse("ablate.py", "", StudyConfig, [*OPTIONS, *options])[0]
    return plan(replace(config, ablation=ablation), lambda config: files)


def test_an_axis_goes_together_and_axes_are_crossed_seeds_outermost():
    shares = {"data.train_fraction": [0.1, 1.0], "train.epochs": [20, 5]}
    layers = {"datastore.layers": [[-1], [3]]}
    study = study_of(AblationConfig(seeds=[7, 8], conditions=[shares], candidates=[layers]))
    planned = [
        (c.config.seed, c.config.data.train_fraction, c.config.train.epochs, c.config.datastore.layers) for c in study.cells
    ]
    expected = [
        (seed, share, epochs, layers) for seed in (7, 8) for share, epochs in ((0.1, 20), (1.0, 5)) for layers in ([-1], [3])
    ]
    assert planned == expected
    assert study.conditions == [
        {"data.train_fraction": 0.1, "train.epochs": 20},
        {"data.train_fraction": 1.0, "train.epochs": 5},
    ]
    assert study.candidates == [{"datastore.layers": [-1]}, {"datastore.layers": [3]}]
    assert [cell.config.seed for cell in study.seeds_of(study.conditions[1], study.candidates[0])] == [7, 8]


def test_the_seed_stands_in_texts():
    study = study_of(AblationConfig(seeds=[3, 4], conditions=[{"datastore.corpus": ["store-{seed}"]}]))
    assert [cell.config.model.backbone for cell in study.cells] == ["bert-3", "bert-4"]
    assert [cell.config.datastore.corpus for cell in study.cells] == ["store-3", "store-4"]


def test_without_axes_there_is_one_cell_for_each_seed():
    study = study_of(AblationConfig(seeds=[0, 1]))
    assert [(cell.config.seed, cell.condition, cell.candidate) for cell in study.cells] == [(0, {}, {}), (1, {}, {})]


def test_cells_share_a_tagger_where_training_is_the_same_and_a_search_where_keys_are():
    candidates = [{"datastore.layers": [[-1], [1]]}, {"knn.temperature": [0.1, 0.2]}, {"knn.metric": ["cosine", "ip"]}]
    study = study_of(AblationConfig(seeds=[0, 1], candidates=candidates))
    assert len(study.cells) == 16
    assert len({cell.config.run_dir for cell in study.cells}) == 2
    groups = study.by_search(study.cells)
    assert [len(group) for group in groups] == [2] * 8
    assert all([cell.config.knn.temperature for cell in group] == [0.1, 0.2] for group in groups)
    assert len({cell.dev_id for cell in study.cells}) == 16


def test_metrics_search_one_datastore_one_after_the_other():
    candidates = [{"knn.metric": ["cosine", "ip", "l2"]}, {"datastore.layers": [[-1], [1]]}]
    study = study_of(AblationConfig(seeds=[0], candidates=candidates))
    searched = [(cell.config.datastore.layers, cell.config.knn.metric) for (cell,) in study.by_search(study.cells)]
    assert searched == [(layers, metric) for layers in ([-1], [1]) for metric in ("cosine", "ip", "l2")]
    assert len({cell.folder for cell in study.cells}) == 2


def test_a_name_changes_with_what_it_depends_on_and_with_nothing_else():
    def names(*options: str, files: Files = FILES) -> tuple[str, ...]:
        cell = study_of(AblationConfig(seeds=[0], combiner=ADAPTIVE), *options, files=files).cells[0]
        named = cell.config.run_dir, cell.search_id, cell.dev_id, cell.test_id
        return (*named, cell.combiner_id, cell.combiner_test_id)

    first = names()
    without_effect = [
        *("--eval.batch_size", "8", "--knn.block_rows", "64", "--knn.prune", "false", "--datastore.shard_rows", "9"),
        *("--train.log_every", "3", "--train.save_every", "7", "--data.unseen_types", "miss"),
        *("--data.dir", "./corpus", "--data.on_error", "report"),
    ]
    assert names(*without_effect) == first
    changed = {
        name: [a != b for a, b in zip(other, first, strict=True)]
        for name, other in {
            "training": names("--train.epochs", "9"),
            "training files": names(files=FILES._replace(tagger=("another", "dev", "backbone"))),
            "keys": names("--datastore.include_o", "false"),
            "metric": names("--knn.metric", "l2"),
            "files of keys": names(files=FILES._replace(keys=("other",))),
            "grid": names("--knn.k", "3"),
            "test file": names(files=FILES._replace(test="another")),
        }.items()
    }
    assert changed == {
        "training": [True] * 6,
        "training files": [True] * 6,
        "keys": [False, True, True, True, True, True],
        "metric": [False, True, True, True, True, True],
        "files of keys": [False, True, True, True, True, True],
        "grid": [False, False, True, True, False, False],
        "test file": [False, False, False, True, False, True],
    }


def test_another_version_computes_all_results_again_with_the_same_taggers(monkeypatch):
    ablation = AblationConfig(seeds=[0], combiner=ADAPTIVE)
    first = study_of(ablation).cells[0]
    monkeypatch.setattr("knn_ner_jax.ablation.study.VERSION", VERSION + 1)
    again = study_of(ablation).cells[0]
    assert again.config.run_dir == first.config.run_dir
    for name in ("folder", "search_id", "dev_id", "test_id", "combiner_id", "combiner_test_id"):
        assert getattr(again, name) != getattr(first, name)


def test_results_of_a_combiner_are_named_by_its_class_and_settings(monkeypatch):
    def names(*options: str, combiner: str = ADAPTIVE) -> tuple[str, str]:
        cell = study_of(AblationConfig(seeds=[0], combiner=combiner), *options).cells[0]
        return cell.combiner_id, cell.combiner_test_id

    first, by_l2 = names(), names("--knn.metric", "l2")
    assert names("--knn.temperature", "9.0", "--knn.knn_weight", "0.5") == first
    assert names("--knn.metric", "l2", "--knn.knn_weight", "0.5") == by_l2
    distinct = [first, by_l2, names("--knn.metric", "l2", "--knn.temperature", "9.0")]
    distinct.append(names(combiner="helpers.studies:UniformCombiner"))
    with monkeypatch.context() as patch:
        patch.setattr(adaptive, "VERSION", adaptive.VERSION + 1)
        distinct.append(names())
    monkeypatch.setattr(adaptive, "settings_for", lambda knn: adaptive.AdaptiveSettings(epochs=9))
    distinct.append(names())
    assert len({name for pair in distinct for name in pair}) == 2 * len(distinct)


@pytest.mark.parametrize(
    ("combiner", "message"),
    [
        ("adaptive", "ablation.combiner: expected module:ClassName, got adaptive"),
        ("no_such_module:Name", "expected a class that can be imported, got no_such_module:Name: No module named"),
        ("knn_ner_jax.contrib.adaptive:None_", "expected a class that can be imported, got .*has no attribute 'None_'"),
        ("helpers.studies:NoCombiner", "helpers.studies:NoCombiner lacks settings, needs_train, fit"),
        ("fractions:Fraction", "expected a class that is made of the knn section alone, got fractions:Fraction"),
    ],
)
def test_a_combiner_that_is_none_is_refused(combiner, message):
    with pytest.raises(InputError, match=message):
        study_of(AblationConfig(seeds=[0], combiner=combiner))


def test_equal_datastores_have_one_name():
    study = study_of(
        AblationConfig(seeds=[0], conditions=[{"data.train_fraction": [0.5, 1.0]}, {"datastore.fraction": [None, 1.0]}])
    )
    half, half_of_all, whole, whole_of_all = (cell.dev_id for cell in study.cells)
    assert whole == whole_of_all
    assert len({half, half_of_all, whole}) == 3


def test_taggers_may_be_shared_between_studies():
    study = study_of(AblationConfig(seeds=[0], taggers="elsewhere"))
    assert Path(study.cells[0].config.run_dir).parent == Path("elsewhere")


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            {"conditions": [{"knn.k": [1], "knn.metric": ["ip", "l2"]}]},
            r"conditions\[0\]: expected lists of one length, got",
        ),
        ({"candidates": [{"knn.k": []}]}, r"candidates\[0\]: expected lists of one length"),
        ({"candidates": [{}]}, r"candidates\[0\]: expected lists of one length"),
        ({"conditions": [{"seed": [1]}]}, r"conditions\[0\]: expected fields that may vary, got seed"),
        ({"conditions": [{"distributed.process_id": [1]}]}, r"expected fields that may vary, got distributed.process_id"),
        ({"conditions": [{"knn.k": [1]}], "candidates": [{"knn.k": [2]}]}, r"candidates\[0\]: .*one axis, got knn.k again"),
        ({"seeds": []}, "seeds: expected different seeds, got"),
        ({"seeds": [1, 1]}, "seeds: expected different seeds, got"),
        ({"resamples": 0}, "resamples: expected at least 1, got 0"),
    ],
)
def test_what_is_no_axis_is_refused(axes, message):
    with pytest.raises(InputError, match=message):
        AblationConfig(**axes)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ({"knn.q": [1]}, "knn.q: no such field"),
        ({"knn.k.x": [1]}, "knn.k.x: no such field"),
        ({"knn.k": [0]}, "knn.k: expected at least 1, or all, got 0"),
        ({"train.epochs": ["many"]}, "train.epochs: expected an integer, got many"),
        ({"knn.metric": [["ip", "l2"]]}, "knn.metric: expected one; several are an axis"),
        ({"knn.k": [3, 4, 3]}, "ablation.conditions: expected every combination once, got {'knn.k': 3} again"),
        ({"protocol": ["wang2022"]}, "protocol: expected words in an ablation, got wang2022"),
    ],
)
def test_a_cell_that_is_no_configuration_is_refused(axis, message):
    with pytest.raises(InputError, match=message):
        study_of(AblationConfig(conditions=[axis]))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--eval_dir", "mine", "eval_dir: expected none, a study has its own, got mine"),
        ("--distributed.num_processes", "4", "distributed: expected none, a study has its own, got "),
    ],
)
def test_what_a_study_would_not_use_is_refused(option, value, message):
    with pytest.raises(InputError, match=message):
        study_of(AblationConfig(), option, value)


def test_seeds_of_one_condition_have_one_test_file():
    def files(config):
        return FILES._replace(test=config.data.dir)

    def planned(**axes) -> Study:
        config = cli.parse("ablate.py", "", StudyConfig, OPTIONS)[0]
        return plan(replace(config, ablation=AblationConfig(seeds=[3, 4], **axes)), files)

    assert len(planned(conditions=[{"data.dir": ["one", "two"]}]).cells) == 4
    message = r"data.dir fold-\{seed\}: expected one test file for all seeds, got others for seeds 3 and 4"
    with pytest.raises(InputError, match=message):
        planned(conditions=[{"data.dir": ["one", "fold-{seed}"]}])
