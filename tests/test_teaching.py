"""A tagger that is taught, corrected and taken back: its labels are those of a datastore built of the same sentences."""

import logging
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers.margins import clear_words

import knn_ner_jax as kn
from knn_ner_jax import cli
from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.tag_schemes import Sentence
from knn_ner_jax.data.texts import Document
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.combine import KnnParams, labels_by_vote
from knn_ner_jax.knn.memory import SPARE_LABELS

ONE = KnnParams("cosine", 1, 0.1, 1.0)
FOUR = KnnParams("cosine", 4, 0.1, 0.6)
NEW = [
    (["Quokka", "Tower", "burned", "in", "Perth"], ["B-BUILDING", "I-BUILDING", "O", "O", "B-LOC"]),
    (["They", "left", "Wombat", "House"], ["O", "O", "B-BUILDING", "I-BUILDING"]),
]
TEXT = ["Quokka", "Tower", "burned", "in", "Perth"]


@pytest.fixture
def run(evaluated, copy_of):
    """A copy of the evaluated run, to be edited."""
    return copy_of(evaluated) / "run"


def opened(run, params=ONE):
    return replace(kn.load(run), knn_params=params)


def compiled(caplog):
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling")]


def test_a_taught_type_is_tagged_at_once_and_shown_with_its_sentence_and_forgotten_again(run):
    tagger = opened(run)
    tagger.memory.refresh()  # programs of another shape may round otherwise
    before = tagger.tag([TEXT], 2)
    edit = tagger.memory.add(NEW, source="fires")
    (after,) = tagger.tag([TEXT], 2)
    assert after.labels == tuple(NEW[0][1])
    tower = after.entities[0]
    near = tower.neighbours[0]
    assert (tower.entity_group, near.word, near.label, near.after) == ("BUILDING", "Quokka", "B-BUILDING", tuple(TEXT[1:]))
    assert (near.sentence_id, near.word_id) == (edit.first_sentence, 0)
    tagger.memory.relabel({(near.sentence_id, near.word_id): "B-ANIMAL"})
    assert tagger.tag([TEXT])[0].labels[0] == "B-ANIMAL"
    tagger.memory.remove(source="fires")
    assert tagger.tag([TEXT], 2) == before
    assert "BUILDING" not in tagger.label_set.types
    tagger.memory.rollback(1)
    assert tagger.tag([TEXT], 2) == [after]


def test_editing_compiles_nothing_anew(run, caplog):
    tagger = opened(run)
    memory = tagger.memory
    tagger.tag([TEXT, ["Oslo"]], 2)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        edit = memory.add(NEW, source="fires")
        assert tagger.tag([TEXT, ["Oslo"]], 2)[0].labels[0] == "B-BUILDING"
        memory.add([(["Oslo"] * 300, ["B-LOC"] * 300)], source="long")
        memory.relabel({(edit.first_sentence, 0): "B-ANIMAL"})
        memory.remove(source="long")
        memory.rollback(0)
        tagger.tag([TEXT, ["Oslo"]], 2)
        types = [f"T{n}" for n in range(SPARE_LABELS // 2)]
        memory.add([(types, [f"B-{type_}" for type_ in types])], source="types")
        tagger.tag([types[:5], ["Oslo"]], 2)
    assert compiled(caplog) == []
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        memory.add([(["one", "more"], ["B-MORE", "O"])], source="one type more than there is room for")
        tagger.tag([TEXT, ["Oslo"]], 2)
    assert any("retrieve" in message for message in compiled(caplog))


@pytest.mark.parametrize(
    "params",
    [FOUR, *(pytest.param(each, marks=pytest.mark.slow) for each in (ONE, replace(FOUR, k="all")))],
    ids=lambda params: f"k {params.k}",
)
def test_labels_after_edits_are_those_of_a_datastore_built_of_the_same_sentences(run, run_eval, params):
    blocks = (run.parent / "corpus" / "train.conll").read_text(encoding="utf-8").strip("\n").split("\n\n")
    gone, wrong = [2, 7, 8], 11
    tagger = opened(run, params)
    border_before = tagger.border
    tagger.memory.remove(ids=gone)
    tagger.memory.add(NEW, source="fires")
    tags = [line.split("\t")[1] for line in blocks[wrong].split("\n")]
    tagger.memory.relabel({(wrong, n): "B-LOC" if tag == "O" else "O" for n, tag in enumerate(tags)})
    words = [line.split("\t")[0] for line in blocks[wrong].split("\n")]
    blocks[wrong] = "\n".join(f"{w}\t{'B-LOC' if tag == 'O' else 'O'}" for w, tag in zip(words, tags, strict=True))
    kept = [block for number, block in enumerate(blocks) if number not in gone]
    kept += ["\n".join("\t".join(pair) for pair in zip(*sentence, strict=True)) for sentence in NEW]
    (run.parent / "other").mkdir()
    (run.parent / "other" / "train.conll").write_text("\n\n".join(kept) + "\n", encoding="utf-8")
    run_eval("--eval_dir=scratch", "--datastore.corpus=other", "--knn.k=1", "--knn.temperature=0.1", "--knn.knn_weight=1.0")
    scratch = opened("scratch", params)
    assert scratch.label_set.types == tagger.label_set.types
    assert scratch.num_rows == tagger.num_rows
    sentences = read_corpus(DataConfig("corpus")).test.sentences
    split = scratch.encode(sentences)
    clear = clear_words(scratch, split, params)
    assert clear.mean() > 0.5
    expected = labels_by_vote(scratch.retrieve_for(split, params), params).knn
    by_search = labels_by_vote(tagger.retrieve_for(split, params), params).knn
    by_border = tagger.label_split(split, params).knn
    np.testing.assert_array_equal(by_search[clear], expected[clear])
    np.testing.assert_array_equal(by_border[clear], expected[clear])
    assert tagger.border is None or tagger.border is not border_before


def test_all_vote_where_fewer_rows_are_left_than_should(run):
    tagger = opened(run, FOUR)
    tagger.memory.remove(ids=range(1, 48))
    left = tagger.num_rows
    few, all_ = (replace(tagger, knn_params=replace(FOUR, k=k)) for k in (left + 1, left))
    assert few.tag([TEXT]) == all_.tag([TEXT])
    split = tagger.encode([Sentence(tuple(TEXT), ("O",) * len(TEXT), 0)])
    np.testing.assert_array_equal(few.label_split(split, few.knn_params).knn, all_.label_split(split, all_.knn_params).knn)


def test_another_process_and_a_copy_keep_their_version_until_they_edit(run):
    tagger = opened(run)
    tagger.memory.refresh()
    copy, other = replace(tagger), opened(run)
    tagger.memory.add(NEW, source="fires")
    fresh = opened(run)
    assert fresh.tag([TEXT]) == tagger.tag([TEXT])
    assert fresh.stored.version == 1
    assert copy.tag([TEXT]) == other.tag([TEXT])
    assert "B-BUILDING" not in copy.tag([TEXT])[0].labels
    assert other.memory.log()[0].source == "fires"
    assert "B-BUILDING" not in other.tag([TEXT])[0].labels  # to look at the log is no edit
    other.memory.add([(["Emu"], ["B-ANIMAL"])], source="birds")
    assert other.tag([["Emu"], TEXT], 1) != copy.tag([["Emu"], TEXT], 1)
    assert [result.labels[0] for result in other.tag([["Emu"], TEXT])] == ["B-ANIMAL", "B-BUILDING"]
    tagger.memory.refresh()
    assert tagger.tag([["Emu"]])[0].labels == ("B-ANIMAL",)


def test_a_run_takes_over_what_another_was_taught_or_all_of_another_corpus(run, run_eval, tmp_path):
    shutil.copytree(run, tmp_path / "sibling")
    opened(tmp_path / "sibling").memory.add(NEW, source="fires")
    tagger = opened(run)
    edit = tagger.memory.merge(tmp_path / "sibling")
    assert (edit.action, edit.sentences, edit.source) == ("merge", 2, "fires")
    assert tagger.tag([TEXT])[0].labels == tuple(NEW[0][1])
    with pytest.raises(InputError, match="merge: expected words to store that are not there yet, found none"):
        tagger.memory.merge(tmp_path / "sibling")
    (run.parent / "other").mkdir()
    (run.parent / "other" / "train.conll").write_text("Emu\tB-ANIMAL\nran\tO\n\nDingo\tB-ANIMAL\n", encoding="utf-8")
    run_eval("--eval_dir=beside", "--datastore.corpus=other", "--knn.k=1", "--knn.temperature=0.1", "--knn.knn_weight=1.0")
    shutil.rmtree(run.parent / "other")  # its words are in its datastore
    assert tagger.memory.merge("beside", source="animals").rows == 3
    result, _ = tagger.tag([["Emu", "ran"], ["Dingo"]], 1)
    assert result.labels == ("B-ANIMAL", "O")
    assert result.entities[0].neighbours[0].after == ("ran",)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([], "add: expected sentences and a source to call them by, got 0 and 'x'"),
        ([(["Oslo"], ["B-LOC"]), "Oslo"], r"add: sentence 2: expected words and a tag for each, .* got"),
        ([(["Oslo", "is"], ["B-LOC"])], r"add: sentence 1: expected words and a tag .* got 2 words and 1 tags"),
        ([("Oslo", ["B-LOC"])], r"add: sentence 1: expected words .* got 0 words and 1 tags"),
        ([([], [])], r"add: sentence 1: expected words .* got 0 words and 0 tags"),
        ([(["Oslo"], ["S-LOC"])], r"add: sentence 1, word 1: expected O, B-TYPE or I-TYPE, got 'S-LOC'"),
        ([([7], ["O"])], r"add: sentence 1: expected words that are text, got 7"),
        ([(["\ud83d"], ["O"])], r"add: sentence 1: expected characters of Unicode"),
        (7, r"add: expected"),
    ],
)
def test_what_cannot_be_taught_is_refused(run, sentences, message):
    memory = opened(run).memory
    with pytest.raises(InputError, match=message) as error:
        memory.add(sentences, source="x")
    assert "\n" not in str(error.value)
    assert memory.log() == ()


def test_the_command_edits_and_says_what_it_did(run, capsys, monkeypatch):
    def memory(*arguments):
        capsys.readouterr()
        cli.run("memory", "knn-ner memory", [str(run), *arguments])
        return capsys.readouterr().out

    (run.parent / "fires.conll").write_text(
        "\n\n".join("\n".join(map("\t".join, zip(*each, strict=True))) for each in NEW) + "\n", encoding="utf-8"
    )
    assert memory("log") == "no edits\n"
    assert "add       2 sentences, 9 words  from fires.conll  numbers 48 to 49  by Aino" in memory(
        "add", "fires.conll", "--who=Aino"
    )
    assert "relabel   1 sentences, 2 words" in memory("relabel", "48:0=B-ANIMAL", "48:1=I-ANIMAL")
    assert opened(run).tag([TEXT])[0].labels[:2] == ("B-ANIMAL", "I-ANIMAL")
    assert "rollback  to version 1" in memory("rollback", "1")
    assert "remove    1 sentences, 4 words" in memory("remove", "49")
    assert "remove    1 sentences, 5 words  from fires.conll" in memory("remove", "--source=fires.conll")
    lines = memory("log").splitlines()
    assert [line.split()[::2][:2] for line in lines] == [
        ["1", "add"], ["2", "relabel"], ["3", "rollback"], ["4", "remove"], ["5", "remove"]
    ]  # fmt: skip
    assert memory("verify").endswith("rows, version 5: every file is whole\n")

    def refused(*arguments):
        with pytest.raises(SystemExit) as end:
            memory(*arguments)
        assert end.value.code == 2
        return capsys.readouterr().err

    assert "error: version: expected 0 to 5, got 9" in refused("rollback", "9")
    assert "expected SENTENCE:WORD=TAG, such as 17:3=B-PER, got 17" in refused("relabel", "17")
    assert "remove: expected a source, or numbers of sentences" in refused("remove")
    assert "invalid choice: 'forget'" in refused("forget")
    assert "no.conll" in refused("add", "no.conll")
    assert len(memory("log").splitlines()) == 5


def test_a_stream_goes_on_with_the_version_it_began_with(run):
    tagger = opened(run, ONE)
    tagger.memory.add(NEW, source="news")
    before = [result.labels for result in tagger.tag([TEXT, TEXT])]
    chunks = [[Document.of(TEXT, "text")]] * 2
    stream = tagger.tag_stream(chunks, ahead=False)
    labels = [next(stream)[0].labels]
    tagger.memory.remove(source="news")
    labels += [result.labels for (result,) in stream]
    assert labels == before
    assert "B-BUILDING" in labels[1]
    assert "B-BUILDING" not in tagger.tag([TEXT])[0].labels


@pytest.mark.parametrize("program", ["train", "eval"])
def test_what_was_taught_is_not_overwritten(run, settings, program, capsys):
    tagger = opened(run)
    tagger.memory.add(NEW, source="news")
    with pytest.raises(SystemExit):
        cli.run(program, f"{program}.py", [*settings, f"--run_dir={run}", "--overwrite"])
    assert "expected a datastore as it was built, found 1 edits" in capsys.readouterr().err
    assert len(opened(run).memory.log()) == 1


def test_a_rollback_of_what_was_not_seen_is_refused_on_the_command_line(run, capsys):
    memory = opened(run).memory
    memory.relabel({(0, 0): "O"})
    memory.relabel({(0, 0): "B-LOC"})
    with pytest.raises(SystemExit):
        cli.run("memory", "knn-ner memory", [str(run), "rollback", "0", "--seen", "1"])
    assert "--seen: expected 2, the newest version, got 1" in capsys.readouterr().err
    cli.run("memory", "knn-ner memory", [str(run), "rollback", "0", "--seen", "2"])
    assert "rollback  to version 0" in capsys.readouterr().out
