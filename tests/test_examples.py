"""The examples run as they stand."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run_example(name: str, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_tag_text_prints_labels_entities_and_neighbours(evaluated, monkeypatch, capsys):
    monkeypatch.chdir(evaluated)
    run_example("tag_text", str(evaluated / "run"))
    lines = capsys.readouterr().out.splitlines()
    sentences = [line for line in lines if not line.startswith(" ")]
    assert [line.split()[0].split("/")[0] for line in sentences] == ["Nokia", "Words"]
    entities = [line for line in lines if re.match(r"  \d+ to \d+: ", line)]
    assert sum(line.startswith("    similarity ") for line in lines) == 3 * len(entities)


def test_tag_text_without_a_run_says_what_it_expects():
    with pytest.raises(SystemExit, match="expected the folder of an evaluated run"):
        run_example("tag_text")


def test_exact_search_finds_the_keys_that_the_queries_were_made_of(capsys):
    main = runpy.run_path(str(EXAMPLES / "exact_search.py"))["main"]
    main(num_keys=2_000)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["key 3", "key 1000", "key 1999"]


def test_another_combiner_is_fitted_to_made_up_words_and_says_what_it_selected(capsys):
    run_example("new_combiner")
    assert re.fullmatch(
        r"selected {'power': .*}; words labelled correctly: tagger \d+%, combined \d+%\n", capsys.readouterr().out
    )
