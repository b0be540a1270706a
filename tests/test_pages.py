"""Parts of pages that scripts of tools/ write: between marks, and no other than the files of results say."""

import json

import pytest

from knn_ner_jax.data.tag_schemes import to_iob2
from knn_ner_jax.evaluation import audit
from knn_ner_jax.io import InputError
from tools import audit_study, confidence, findings, pages, seeds
from tools.chips import page as chips_page


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


def test_the_page_of_confidence_says_what_its_file_says():
    text, records = confidence.PAGE.read_text(encoding="utf-8"), json.loads(confidence.RECORD.read_text(encoding="utf-8"))
    assert confidence.write_page(text, records) == text, "python -m tools.confidence"
    for record in records.values():
        assert f"{record['test']['ece_after']:.1f} |" in text


def planted(draw: int, found: float) -> dict:
    precision = {str(n): found for n in audit_study.TOP}
    chosen = f"k {audit.K}, temperature {audit.TEMPERATURE}"
    return {"corpus": "beads", "kind": "random", "draw": draw} | {
        "planted": {"train": 300, "dev": 100},
        "words": {"train": 15000, "dev": 5000},
        "precision": {chosen: precision, audit_study.TAGGER: {"100": 0.25, "500": 0.125}},
    }


def test_the_page_of_audits_says_what_its_file_says():
    results = pages.RESULTS / "audit.json"
    rows = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
    text = audit_study.PAGE.read_text(encoding="utf-8")
    assert pages.replace_region(text, "audit", audit_study.table(rows)) == text, "python -m tools.audit_study"
    if rows:
        assert (pages.RESULTS / "audit.md").read_text(encoding="utf-8") == audit_study.results_page(rows)
    line = audit_study.table([planted(0, 0.5), planted(1, 0.75)])[2]
    assert line == "| beads, random | 2 | 400 of 20000 | 62.5 ± 17.7 | 62.5 ± 17.7 | 25.0 ± 0.0 | 12.5 ± 0.0 | 80.0 ± 0.0 |"


def test_tags_are_planted_in_words_or_in_types_of_entities_and_stay_valid():
    tags = [("B-group", "I-group", "O", "B-person"), ("O",) * 6, ("B-corporation", "O", "B-group", "I-group", "O")] * 40
    for plant, words in ((audit_study.plant_random, 600), (audit_study.plant_alike, 240)):
        wrong = plant(tags, 0.1, 0)
        changed = [(a, b) for old, new in zip(tags, wrong, strict=True) for a, b in zip(old, new, strict=True) if a != b]
        assert wrong == [to_iob2(each, "BIO").iob2 for each in wrong]
        # What is left of an entity that lost its beginning changes, too; entities are changed whole.
        assert 0 <= len(changed) - words // 10 <= 20
        assert plant(tags, 0.1, 0) == wrong != plant(tags, 0.1, 1)
    assert {(a[2:], b[2:]) for a, b in changed} == {("group", "corporation"), ("corporation", "group")}


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


def test_the_page_of_chips_has_the_tables_that_its_script_writes():
    text = chips_page.PAGE.read_text(encoding="utf-8")
    assert chips_page.write_page(text) == text


def ratios(memory: float, ms: float, **others: object) -> list[str]:
    """The lines of a training step that before held 100 GB and took a second."""

    def result(revision: str, memory: float, ms: float, **others: object) -> dict[str, object]:
        return {"revision": revision, "temporary_mb": memory, "estimates": {"any": {"ms": ms}}, **others}

    both = [result("aaa", 100_000.0, 1000.0, compilers={"libtpu": "1"}), result("bbb", memory, ms, **others)]
    return chips_page.ratios_table({("v5e-8", "train_step-base-64x128"): both})[2:]


def test_a_ratio_does_not_round_into_an_aim():
    same = {"compilers": {"libtpu": "1"}}
    beginning = "| v5e-8, train_step-base-64x128 | aaa, bbb |"
    assert f"{beginning} 0.501 | 0.700 | 0.5, 1.02 | **no**, yes |" in ratios(50_010.0, 700.0, **same)
    assert f"{beginning} 0.500 | 1.021 | 0.5, 1.02 | yes, **no** |" in ratios(50_000.0, 1020.1, **same)


def test_results_of_two_compilers_are_no_before_and_after():
    assert ratios(50_010.0, 700.0, compilers={"libtpu": "2"}) == []
