"""The studies in configs/ablations are what they say: every cell of each is a valid configuration."""

import functools
from pathlib import Path

import pytest

from knn_ner_jax import cli
from knn_ner_jax.ablation.config import StudyConfig
from knn_ner_jax.ablation.study import Files, Study, plan

CONFIGS = Path(__file__).parent.parent / "configs" / "ablations"
CELLS = {
    "cross_domain_politics": 3 * 5,
    "cross_domain_science": 3 * 5,
    "demo": 2 * 2,
    "key_bc5cdr": 2 * 13,
    "key_wnut17": 2 * 13,
    "low_resource_bc5cdr": 7 * 2,
    "low_resource_wnut17": 7 * 2,
    "paper_key": 13,
    "paper_low_resource": 7 * 2,
    "paper_settings": 3 * 3,
    "settings_wnut17": 9,
}


def test_every_study_is_listed():
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == sorted(CELLS)


@functools.cache
def planned(name: str) -> Study:
    """A study for one seed; the cells of the others are alike."""
    config = cli.parse("ablate.py", "", StudyConfig, ["--config", str(CONFIGS / f"{name}.yaml"), "--ablation.seeds", "[0]"])[
        0
    ]
    return plan(config, lambda config: Files((), (), "test"))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_a_configuration_and_the_header_gives_the_command(name):
    study = planned(name)
    assert len(study.cells) == CELLS[name]
    assert study.config.run_dir == f"runs/ablations/{name}"
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    assert f".venv/bin/knn-ner ablate --config configs/ablations/{name}.yaml" in text


@pytest.mark.slow
def test_studies_of_one_corpus_share_their_taggers():
    def taggers(name):
        return {cell.config.run_dir for cell in planned(name).cells}

    assert taggers("key_wnut17") <= taggers("low_resource_wnut17")
    assert taggers("settings_wnut17") <= taggers("low_resource_wnut17")
    assert taggers("key_bc5cdr") <= taggers("low_resource_bc5cdr")
    assert taggers("paper_key") == taggers("paper_settings") <= taggers("paper_low_resource")
