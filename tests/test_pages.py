"""Parts of pages that scripts of tools/ write: between marks, and no other than the files of results say."""

import json

import pytest

from knn_ner_jax.io import InputError
from tools import findings, pages, seeds


def test_a_region_is_replaced_and_a_page_without_it_refused():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert pages.replace_region(text, "x", ["new"]) == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"
    for damaged in (text.replace("<!-- /x -->", ""), text * 2, "<!-- /x --><!-- x -->"):
        with pytest.raises(InputError, match="<!-- x -->"):
            pages.replace_region(damaged, "x", [])


def test_every_committed_finding_has_a_place_and_the_page_says_what_the_files_say():
    text = findings.PAGE.read_text(encoding="utf-8")
    assert findings.write_page(text, findings.RESULTS) == text, "python -m benchmarks.findings"
    readme = findings.README.read_text(encoding="utf-8")
    assert findings.write_readme(readme, findings.RESULTS) == readme, "python -m benchmarks.findings"
    for path in findings.RESULTS.glob("*/summary.md"):
        assert f"<!-- {path.parent.name} -->" in text


def test_the_pages_of_seeds_say_what_their_files_say():
    found = [path for path in pages.RESULTS.glob("*_*.json") if "training_minutes" in path.read_text(encoding="utf-8")]
    assert found
    for path in found:
        rows = json.loads(path.read_text(encoding="utf-8"))
        assert path.with_suffix(".md").read_text(encoding="utf-8") == seeds.page(path.stem, rows)


def test_a_page_of_seeds_has_mean_spread_and_gains_by_seed():
    def row(minutes: float, tagger: float, *knn: float) -> dict:
        def split(f1: float) -> dict:
            return {split: {"tagger": {"f1": tagger}, "knn": {"f1": f1}} for split in ("dev", "test")}

        return {"training_minutes": minutes} | {key: split(f1) for key, f1 in zip(seeds.KEYS, knn, strict=True)}

    lines = seeds.page("made_up", [row(3.2, 50, 51, 49), row(9.9, 52, 55, 52)]).splitlines()
    assert lines[0] == "# `made_up`, 2 seeds, 3 to 10 minutes of training each"
    assert lines[4:] == [
        "| tagger | 51.0 ± 1.4 | 51.0 ± 1.4 | |",
        "| kNN-NER, last layer | 53.0 ± 2.8 | 53.0 ± 2.8 | +1.0, +3.0 (mean +2.0) |",
        "| kNN-NER, last layer, whitened to 64 | 50.5 ± 2.1 | 50.5 ± 2.1 | -1.0, +0.0 (mean -0.5) |",
    ]
