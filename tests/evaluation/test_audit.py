"""The audit: words are ranked by neighbours of other sentences alone, and corrections change what they say and no more."""

import errno
import json
import shutil
from collections import Counter
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from helpers import margins

import knn_ner_jax as kn
from knn_ner_jax import cli
from knn_ner_jax.config import Config, DataConfig, ModelConfig
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.tag_schemes import Sentence, strict_spans
from knn_ner_jax.evaluation import audit
from knn_ner_jax.evaluation.audit import Correction
from knn_ner_jax.io import InputError, write_text
from knn_ner_jax.knn.memory import Memory
from knn_ner_jax.main import audit as command


def test_disagreement_is_the_weight_of_the_other_label_against_that_of_the_own():
    rng = np.random.default_rng(0)
    similarities = np.sort(rng.uniform(0.3, 1, (50, 6)).astype(np.float32))[:, ::-1]
    neighbours, labels = rng.integers(0, 4, (50, 6)).astype(np.int32), rng.integers(0, 5, 50).astype(np.int32)
    scores, others = audit.disagreement(similarities, neighbours, labels, 5, 0.2)
    for word in range(50):
        weight = Counter()
        for similarity, label in zip(similarities[word].tolist(), neighbours[word].tolist(), strict=True):
            weight[label] += np.exp((similarity - 1) / 0.2)
        other = max((label for label in range(5) if label != labels[word]), key=lambda label: weight[label])
        assert others[word] == other
        expected = np.log((1 + weight[other]) / (1 + weight[int(labels[word])]))
        assert scores[word] == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_words_are_ranked_by_neighbours_of_other_sentences(knn_tagger):
    """As a search among all rows has it, from which those of a sentence of the same words are taken out."""
    stored = audit.stored_sentences(knn_tagger.stored, knn_tagger.label_set.names)
    train = read_corpus(DataConfig("corpus", unseen_types="miss")).train.sentences
    assert {number: each[:2] for number, each in stored.items()} == {n: each[:2] for n, each in enumerate(train)}
    ranking = audit.rank(knn_tagger, "train", stored, 10**6)
    split = knn_tagger.encode(list(stored.values()))
    cache = knn_tagger.retrieve(split, knn_tagger.num_rows, "cosine", with_ids=True)
    names, rounding = knn_tagger.label_set.names, margins.rounding_of_width(knn_tagger.stored.datastore.keys.shape[1])
    expected = {}
    for word, (number, position) in enumerate(zip(split.sentence_ids.tolist(), split.word_ids.tolist(), strict=True)):
        near = [
            (names[label], similarity)
            for row, label, similarity in zip(
                cache.neighbour_ids[word].tolist(),
                cache.neighbour_labels[word],
                cache.similarities[word].tolist(),
                strict=True,
            )
            if train[split.sentence_ids[row]].words != train[number].words
        ][: audit.K]
        weight = Counter({name: 0.0 for name in names})
        for name, similarity in near:
            weight[name] += np.exp((similarity - 1) / audit.TEMPERATURE)
        tag = train[number].tags[position]
        other = max(value for name, value in weight.items() if name != tag)
        expected[number, position] = np.log1p(other) - np.log1p(weight[tag])
    assert ranking.num_words == split.num_words
    scores = [suspect.score for suspect in ranking.suspects]
    assert scores == sorted(scores, reverse=True)
    # A cosine that rounds changes a weight by so much of it, and the logarithm by no more; scores have four decimals.
    tolerance = 4 * rounding / audit.TEMPERATURE + 1e-4
    assert len(scores) > 10
    for suspect in ranking.suspects:
        assert suspect.score == pytest.approx(expected[suspect.sentence, suspect.position], abs=tolerance)
        assert suspect.words == train[suspect.sentence].words
        assert (suspect.word, suspect.tag) == (
            suspect.words[suspect.position],
            train[suspect.sentence].tags[suspect.position],
        )
        for near in suspect.neighbours:
            text = train[near["sentence"]].words
            assert text != suspect.words
            assert " ".join([*near["before"], near["word"], *near["after"]]) in " ".join(text)
    listed = {(suspect.sentence, suspect.position) for suspect in ranking.suspects}
    assert not [place for place, score in expected.items() if score > tolerance and place not in listed]


def test_words_are_ranked_after_a_removal_as_by_who_opens_the_run_then(evaluated, tmp_path):
    tagger = kn.load(copytree(evaluated / "run", tmp_path / "run"))
    tagger.memory.remove(ids=[0, 5])
    both = tagger, kn.load(tmp_path / "run")
    assert len(both[0].stored.datastore.labels) > len(both[1].stored.datastore.labels)
    scores = []
    for each in both:
        ranking = audit.rank(each, "train", audit.stored_sentences(each.stored, each.label_set.names), 10**6)
        scores.append({(suspect.sentence, suspect.position): suspect.score for suspect in ranking.suspects})
    assert scores[0].keys() == scores[1].keys()
    assert {0, 5}.isdisjoint(number for number, _ in scores[0])
    # Rows are compared in blocks of other sizes, so that the last bits of a similarity, over the temperature, may differ.
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_corrections_leave_valid_tags_and_all_other_words_as_they_are():
    sentences = {3: Sentence(("New", "York", "Times", "and", "Oslo"), ("B-ORG", "I-ORG", "I-ORG", "O", "B-LOC"), 0)}

    def corrected(*changes):
        words, tags = sentences[3][:2]
        lines = [Correction("train", 3, place, words[place], tags[place], tag, "1") for place, tag in changes]
        after = audit.correct(sentences, lines)
        return after[3].tags if after else None

    assert corrected((0, "B-LOC"), (1, "I-LOC"), (2, "O")) == ("B-LOC", "I-LOC", "O", "O", "B-LOC")
    assert corrected((0, "O")) == ("O", "B-ORG", "I-ORG", "O", "B-LOC")
    assert corrected((1, "O")) == ("B-ORG", "O", "B-ORG", "O", "B-LOC")
    assert corrected((4, "I-PER")) == ("B-ORG", "I-ORG", "I-ORG", "O", "B-PER")
    assert corrected((4, "B-LOC")) is None


def run_audit(*arguments):
    cli.run("audit", "knn-ner audit", [str(argument) for argument in arguments])


@pytest.fixture
def audited(evaluated, copy_of):
    """A copy of the evaluated run that has been audited."""
    folder = copy_of(evaluated)
    run_audit("run", "--words=40")
    return folder


def lines_of(folder):
    return [json.loads(line) for line in (folder / "run" / "audit" / "audit.jsonl").read_text(encoding="utf-8").splitlines()]


def test_corrections_are_applied_to_the_corpus_and_to_the_datastore(audited, capsys):
    lines = lines_of(audited)
    assert max(Counter(line["split"] for line in lines).values()) <= 40
    page = (audited / "run" / "audit" / "audit.html").read_text(encoding="utf-8")
    assert f"{lines[0]['sentence']}:{lines[0]['position']}" in page
    corpus = read_corpus(DataConfig("corpus", unseen_types="miss"))
    before = {
        split: {n: list(each.tags) for n, each in enumerate(corpus.splits[split].sentences)} for split in corpus.splits
    }
    chosen, touched = [], set()
    for line in lines:  # a word of a sentence, so that nothing else has to be mended
        if line["suggested"][:2] != "I-" and (line["split"], line["sentence"]) not in touched:
            tags = before[line["split"]][line["sentence"]]
            if not "".join(tags[line["position"] + 1 : line["position"] + 2]).startswith("I-"):
                touched.add((line["split"], line["sentence"]))
                line["correction"] = tags[line["position"]] = line["suggested"]
                chosen.append(line)
    by_split = Counter(line["split"] for line in chosen)
    assert min(by_split["train"], by_split["dev"]) > 2
    (audited / "corrected.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)), encoding="utf-8")
    capsys.readouterr()
    run_audit("run", "--apply=corrected.jsonl", "--output=better", "--memory")
    said = capsys.readouterr().out
    assert f"{len(chosen)} corrections, {len(lines) - len(chosen)} lines without one" in said
    assert f"{by_split['train']} words of train, {by_split['dev']} words of dev, 0 words of test" in said
    better = read_corpus(DataConfig("better", unseen_types="miss"))
    for split in corpus.splits:
        assert [each.words for each in better.splits[split].sentences] == [e.words for e in corpus.splits[split].sentences]
        assert {n: list(each.tags) for n, each in enumerate(better.splits[split].sentences)} == before[split]
    (edit,) = Memory(audited / "run" / "datastore").log()
    assert (edit.action, edit.rows) == ("relabel", by_split["train"])
    for sentence in before["train"].values():
        assert all(span.type for span in strict_spans(tuple(sentence), "BIO"))


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run_audit(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_applied_is_one_error_and_changes_nothing(audited, capsys):
    train, dev = (next(line for line in lines_of(audited) if line["split"] == split) for split in ("train", "dev"))

    def applied(*lines, more=("--output=better", "--memory")):
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        (audited / "c.jsonl").write_text(text, encoding="utf-8")
        message = refused(capsys, "run", "--apply=c.jsonl", *more)
        assert not (audited / "better").exists()
        assert not Memory(audited / "run" / "datastore").log()
        return message

    right = train | {"correction": train["suggested"]}
    assert "expected lines with a correction, found none among 2" in applied(train, dev)
    assert "c.jsonl:2: expected a line that audit has written, found nonsense" in applied(right, "nonsense")
    assert "c.jsonl:1: correction: expected O, B-TYPE or I-TYPE, got 'PER'" in applied(right | {"correction": "PER"})
    assert "c.jsonl:2: expected each word once, found that of" in applied(right, right)
    other = right | {"tag": "B-OTHER"}
    assert f"c.jsonl:1: expected {train['word']} B-OTHER, found {train['word']} {train['tag']}" in applied(other)
    assert "found no such word" in applied(right | {"sentence": 10**6})
    assert "expected train or dev and two numbers, found 'test'" in applied(right | {"split": "test"})
    assert "the datastore has no words of dev" in applied(dev | {"correction": dev["suggested"]}, more=("--memory",))
    assert "expected --output FOLDER" in applied(right, more=())
    assert "expected none yet, found one, which may have corrections" in refused(capsys, "run")


@pytest.mark.parametrize("failure", [(Memory, "relabel"), (command, "write_text")])
def test_where_the_memory_or_the_corpus_cannot_be_written_neither_is(audited, capsys, monkeypatch, failure):
    def refuse(*_):
        raise InputError("it cannot be written")

    train = next(line for line in lines_of(audited) if line["split"] == "train")
    line = json.dumps(train | {"correction": train["suggested"]})
    (audited / "c.jsonl").write_text(line + "\n", encoding="utf-8")
    names = sorted(path.name for path in audited.iterdir())
    monkeypatch.setattr(*failure, refuse)
    assert "it cannot be written" in refused(capsys, "run", "--apply=c.jsonl", "--output=better", "--memory")
    assert sorted(path.name for path in audited.iterdir()) == names
    assert not Memory(audited / "run" / "datastore").log()


def test_train_is_audited_without_the_corpus(evaluated, tmp_path, monkeypatch, capsys):
    shutil.copytree(evaluated / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert "data.dir: expected a folder, got corpus" in refused(capsys, "run")
    run_audit("run", "--splits", "train", "--words", "3", "--output", "here")
    assert len((tmp_path / "here" / "audit.jsonl").read_text().splitlines()) == 3


@pytest.fixture
def write_corpus(tmp_path, monkeypatch):
    """Writes a corpus of one sentence, twice a word and its tag, into a folder of `tmp_path`."""

    def write(word, output="corrected"):
        sentence = Sentence((word, word), ("O", "B-LOC"), 0)
        monkeypatch.setattr(command, "_sentences", lambda config, split: {0: sentence})
        config = Config("run", DataConfig("corpus"), ModelConfig("backbone"))
        with command.writing_corpus(config, [], Path(output)):
            pass

    monkeypatch.chdir(tmp_path)
    return write


def test_a_word_that_no_column_file_can_hold_leaves_no_corpus_behind(write_corpus, tmp_path):
    with pytest.raises(InputError, match="expected words that column files hold"):
        write_corpus("b\tc")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_part_of_a_corpus_behind(write_corpus, tmp_path, monkeypatch):
    def full(path, text):
        if path.name == "test.conll" and path.absolute().is_relative_to(tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_text(path, text)

    monkeypatch.setattr(command, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_corpus("Oslo")
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_is_written_into_an_empty_folder_and_no_other(write_corpus, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    write_corpus("Oslo", ".")
    assert sorted(path.name for path in Path().iterdir()) == ["dev.conll", "test.conll", "train.conll"]
    with pytest.raises(InputError, match="expected a new or empty folder, found files"):
        write_corpus("Oslo", ".")
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]
