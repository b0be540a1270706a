"""The table of the paper's scores and ours: made-up runs come out where they belong, the paper's slips are noted."""

import dataclasses
import functools
import json
import statistics
from pathlib import Path

import pytest
import yaml

from knn_ner_jax import cli
from knn_ner_jax.config import Config, flatten
from knn_ner_jax.io import InputError
from knn_ner_jax.run_dir import save_config
from tools import paper_table

ROOT = Path(__file__).parent.parent
RECIPE = "weibo_bert_base_zh"
PUBLISHED = paper_table.read_published(ROOT / "docs/paper/results.json")


@functools.cache
def parsed(*options: str) -> Config:
    """The recipe with options."""
    recipe = str(ROOT / "configs" / "paper" / f"{RECIPE}.yaml")
    return cli.parse("eval.py", "", Config, ["--config", recipe, "--data.dir", "weibo", *options])[0]


@pytest.fixture
def evaluate(tmp_path: Path):
    """Writes an eval.json and its configuration as eval.py does, with these scores on test."""

    def evaluate(
        folder: str,
        seed: int,
        tagger: list[float],
        knn: list[float],
        *options: str,
        selected_on: str = "dev",
        corpus: str = "one",
    ) -> Path:
        path = tmp_path / RECIPE / folder
        save_config(path / "eval.config.yaml", dataclasses.replace(parsed(*options), seed=seed, run_dir=str(path)))
        scores = {
            method: dict(zip(("precision", "recall", "f1"), row, strict=True))
            for method, row in (("tagger", tagger), ("knn", knn))
        }
        splits = {split: {"sha256": f"{split} of {corpus}"} for split in ("train", "dev", "test")}
        content = {"selected_on": selected_on, "dev": {}, "test": scores, "corpus": splits}
        (path / "eval.json").write_text(json.dumps(content))
        return path

    return evaluate


def cells(table: str, recipe: str = RECIPE) -> list[list[str]]:
    """The cells of a recipe's lines from the paper's tagger score on."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return [row[2:] for row in rows if row[1].startswith(f"`{recipe}`")]


def test_without_runs_ours_are_blank_and_every_published_number_is_there(tmp_path: Path):
    table = paper_table.paper_table(tmp_path / "none")
    for rows in PUBLISHED.values():
        for row in rows.values():
            assert f"{row['precision']:.2f} / {row['recall']:.2f} / {row['f1']:.2f}" in table
    recipes = json.loads((ROOT / "docs/paper/recipes.json").read_text())["recipes"]
    for recipe in recipes:
        ((_, tagger, _, knn, *rest),) = cells(table, recipe["recipe"])
        assert [tagger, knn, *rest] == [""] * 5
    assert "The authors' repository holds no script for BERT-Base on English CoNLL 2003." in table
    assert "No row in the paper for Chinese Resume." in table


def test_the_committed_table_has_the_published_columns_of_today(tmp_path: Path):
    committed = (ROOT / "docs" / "paper-table.md").read_text()
    today = paper_table.paper_table(tmp_path)
    published = [
        [(row[0], row[2]) for row in cells(table, recipe)]
        for table in (committed, today)
        for recipe in sorted(path.stem for path in (ROOT / "configs" / "paper").glob("*.yaml"))
    ]
    assert published[:22] == published[22:]


def test_seeds_are_averaged_with_their_spread_and_every_way_of_scoring_has_its_line(tmp_path: Path, evaluate):
    tagger, knn = [[60.0, 61.0, 60.5], [62.0, 65.0, 63.5], [61.0, 63.0, 62.0]], [[70.0, 71.0, 70.5]] * 3
    for seed, scores in enumerate(zip(tagger, knn, strict=True)):
        evaluate(f"seed{seed}", seed, *scores)
    published = ("--knn.selection", "published")
    evaluate("seed0/published", 0, [60, 61, 60.5], [50.123, 51, 50.5], *published, selected_on="published")
    evaluate("wang2022/seed0", 0, [1, 2, 3], [4, 5, 6], "--protocol", "wang2022")
    third, first, second = cells(paper_table.paper_table(tmp_path))
    assert first[4:] == ["words", "dev", "0, 1, 2"]
    means = [f"{statistics.mean(column):.2f} ± {statistics.stdev(column):.2f}" for column in zip(*tagger, strict=True)]
    assert first[1] == " / ".join(means) == "61.00 ± 1.00 / 63.00 ± 2.00 / 62.00 ± 1.50"
    assert first[3] == "70.00 ± 0.00 / 71.00 ± 0.00 / 70.50 ± 0.00"
    assert second[1:] == ["60.00 / 61.00 / 60.50", second[2], "50.12 / 51.00 / 50.50", "words", "published", "0"]
    assert third[1:] == ["1.00 / 2.00 / 3.00", third[2], "4.00 / 5.00 / 6.00", "wang2022", "dev", "0"]
    assert {row[2] for row in (first, second, third)} == {"70.07 / 67.87 / 68.96"}
    assert all(row[0].startswith("67.12 / 66.88 / 67.33[^") for row in (first, second, third))


def test_a_run_that_differs_from_its_recipe_stands_apart_and_says_so(tmp_path: Path, evaluate):
    evaluate("seed0", 0, [60, 60, 60], [70, 70, 70])
    evaluate("seed1", 1, [80, 80, 80], [90, 90, 90], "--train.epochs", "1", "--datastore.whitening_dim", "64")
    table = paper_table.paper_table(tmp_path)
    plain, other = cells(table)
    assert (plain[1], other[1]) == ("60.00 / 60.00 / 60.00", "80.00 / 80.00 / 80.00")
    assert "Differs from the recipe: train.epochs 1, datastore.whitening_dim 64." in table


def test_fields_that_change_no_score_do_not_set_a_run_apart(tmp_path: Path, evaluate):
    evaluate("seed0", 0, [60, 60, 60], [70, 70, 70], "--knn.block_rows", "99", "--train.save_every", "0")
    assert "Differs" not in paper_table.paper_table(tmp_path)
    config = cli.parse("", "", Config, ["--config", str(ROOT / "configs" / "paper" / f"{RECIPE}.yaml")])[0]
    save_config(tmp_path / "config.yaml", config)
    assert set(paper_table.FREE) <= flatten(yaml.safe_load((tmp_path / "config.yaml").read_text())).keys()


def test_two_evaluations_of_one_seed_are_refused(tmp_path: Path, evaluate):
    paths = [evaluate(folder, 7, [1, 1, 1], [1, 1, 1]) for folder in ("a", "b")]
    with pytest.raises(InputError, match="expected one evaluation of seed 7") as error:
        paper_table.paper_table(tmp_path)
    assert all(str(path) in str(error.value) for path in paths)


def test_evaluations_of_different_corpora_are_refused(tmp_path: Path, evaluate):
    evaluate("seed1", 1, [50, 50, 50], [60, 60, 60])
    evaluate("seed2", 2, [50, 50, 50], [60, 60, 60], corpus="another")
    with pytest.raises(InputError, match="expected evaluations of one corpus, got 2 that differ"):
        paper_table.paper_table(tmp_path)


def test_an_evaluation_without_its_configuration_is_refused_and_stray_files_are_not(tmp_path: Path, evaluate):
    folder = evaluate("seed1", 1, [50, 50, 50], [60, 60, 60])
    (tmp_path / ".DS_Store").write_text("")
    paper_table.paper_table(tmp_path)
    (folder / "eval.config.yaml").unlink()
    with pytest.raises(InputError, match=r"expected eval\.config\.yaml beside it, found none"):
        paper_table.paper_table(tmp_path)


def test_a_folder_that_is_no_recipes_is_refused(tmp_path: Path):
    (tmp_path / "weibo_bert_base").mkdir()
    with pytest.raises(InputError, match="weibo_bert_base: expected a folder named after a recipe"):
        paper_table.paper_table(tmp_path)


@pytest.mark.parametrize(
    ("precision", "recall", "f1", "consistent"),
    [
        (50.0, 50.0, 50.0, True),
        (50.0, 50.0, 50.01, True),  # 50.005 and 50.005
        (50.0, 50.0, 50.02, False),
        (60.0, 40.0, 48.0, True),
        (60.0, 40.0, 48.02, False),
        (60.0, 40.0, 47.98, False),
        (80.03, 83.33, 81.65, True),
    ],
)
def test_an_f1_is_consistent_if_some_unrounded_scores_give_it(precision, recall, f1, consistent):
    assert paper_table.is_consistent(precision, recall, f1) is consistent


def test_the_four_slips_of_the_paper_and_no_others_have_notes(tmp_path: Path):
    slips = {
        (row, method): scores
        for row, methods in PUBLISHED.items()
        for method, scores in methods.items()
        if abs(2 / (1 / scores["precision"] + 1 / scores["recall"]) - scores["f1"]) > 0.0101
    }
    assert {row for row, _ in slips} == {
        ("Chinese Weibo", "BERT-Base"),
        ("English CoNLL 2003", "BERT-Large"),
        ("English CoNLL 2003", "RoBERTa-Large"),
    }
    table = paper_table.paper_table(tmp_path)
    assert table.count("]: F1 is published as ") == len(slips) == 4
    for scores in slips.values():
        assert f"]: F1 is published as {scores['f1']:.2f};" in table
        assert f"{scores['precision']:.2f} / {scores['recall']:.2f} / {scores['f1']:.2f}[^" in table


def test_the_headers_of_the_recipes_have_the_rows_of_the_table():
    for recipe in json.loads((ROOT / "docs/paper/recipes.json").read_text())["recipes"]:
        header = (ROOT / "configs" / "paper" / f"{recipe['recipe']}.yaml").read_text()
        row = PUBLISHED.get(paper_table.row_of(recipe), {})
        for name, scores in zip(("tagger", "+kNN"), row.values(), strict=False):
            assert f"{name} {scores['precision']:.2f} / {scores['recall']:.2f} / {scores['f1']:.2f}" in header
