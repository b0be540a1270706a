"""Taggers from elsewhere whose labels, or answers, are not IOB2: read as IOB2, by hand and from end to end."""

import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from helpers.random_bert import save_random_bert
from helpers.sentences import quickstart_lines
from safetensors.numpy import load_file, save_file
from tokenizers import pre_tokenizers

from knn_ner_jax import cli, metrics, sharding
from knn_ner_jax.config import DataConfig, ModelConfig
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.label_names import read_label_names, speaks_iob1
from knn_ner_jax.data.tag_schemes import shown_spans, to_iob2
from knn_ner_jax.data.tokenization import NO_WORD
from knn_ner_jax.io import InputError
from knn_ner_jax.models.pretrained import Backbone, foreign_labels
from knn_ner_jax.models.tagger import group_logits, iob1_to_iob2
from knn_ner_jax.report.evaluation import evaluation_page

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.mark.parametrize(
    ("names", "scheme", "iob2"),
    [
        ("O B-X I-X", "BIO", "O B-X I-X"),
        ("I-X O B-X B-Y", "BIO", "I-X O B-X B-Y"),
        ("O I-X I-Y B-Y", "IOB1", "O I-X I-Y B-Y"),
        ("O I-X I-Y", "IOB1", "O I-X I-Y"),
        ("O S-X B-X I-X E-X", "BIOES", "O B-X B-X I-X I-X"),
        ("O B_X I_X", "BIO", "O B-X I-X"),
        ("0 X-B X-I", "BIO", "O B-X I-X"),
        ("o b-X i-X", "BIO", "O B-X I-X"),
        ("O S-X B-X M-X E-X", "BMES", "O B-X B-X I-X I-X"),
        ("O B-X I-X L-X U-X", "BILOU", "O B-X I-X I-X B-X"),
        ("O B I", "BIO", "O B-ENT I-ENT"),
        ("O S B I E", "BIOES", "O B-ENT B-ENT I-ENT I-ENT"),
        ("O B-X I-X [CLS] [SEP] X", "BIO", "O B-X I-X O O O"),
        ("PAD O B-X I-X", "BIO", "O O B-X I-X"),
    ],
)
def test_names_tell_the_scheme_and_what_each_label_is_read_as(names: str, scheme: str, iob2: str):
    labels = read_label_names(names.split())
    assert (labels.scheme, labels.iob2) == (scheme, tuple(iob2.split()))
    assert [labels.label_set.names[output] for output in labels.outputs] == iob2.split()


def with_names(*names: str) -> Backbone:
    return Backbone(None, None, (), {str(number): name for number, name in enumerate(names)})


@pytest.mark.parametrize(
    ("names", "fields", "message"),
    [
        (
            ("LABEL_0", "LABEL_1"),
            {},
            r"names instead of numbers; found 0: LABEL_0.*; model.labels: \[O, B-PER, ...\] in the",
        ),
        (("O", "PER"), {}, "O, and B-TYPE, I-TYPE and the like"),
        (("O", "B-X", "E-X", "L-X"), {}, "the prefixes of one scheme, got B E L"),
        (
            ("O", "B-X", "I-X"),
            {"label_scheme": "BIOES", "labels": ["O", "M-X"]},
            "model.labels: expected the prefixes of BIOES",
        ),
        (("O", "I-X"), {"label_scheme": "BIO"}, "BIO, where every entity begins with a B-: none of X has one"),
        (("B-X", "I-X"), {}, "O among them"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_remedy(names, fields, message):
    with pytest.raises(InputError, match=message):
        foreign_labels(with_names(*names), ModelConfig("x", **fields))


def test_labels_of_the_configuration_name_the_outputs():
    labels = foreign_labels(with_names("LABEL_0", "LABEL_1", "LABEL_2"), ModelConfig("x", labels=["B-X", "O", "I-X"]))
    assert labels.names == ("B-X", "O", "I-X")
    assert labels.outputs == (1, 0, 2)


def test_probabilities_of_outputs_that_are_one_label_are_added_up():
    logits = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    expected = np.zeros((2, 3, 4))
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=-1, keepdims=True)
    outputs = (1, 0, 1, 2, 2)
    for output, label in enumerate(outputs):
        expected[..., label] += p[..., output]
    actual = jax.nn.softmax(group_logits(jnp.asarray(logits), outputs, 4))
    # A softmax of five, and sums of two: each within a few units of the last place.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=8 * 2.0**-24)
    assert not np.asarray(actual)[..., 3].any()


def test_logits_of_iob1_are_read_window_by_window():
    rng = np.random.default_rng(2)
    logits, word_index = jnp.asarray(rng.normal(size=(1, 12, 5)), jnp.float32), np.arange(12, dtype=np.int32)[None]
    segments = np.repeat([1, 2, 3], [5, 4, 3])[None].astype(np.int32)
    apart = [
        iob1_to_iob2(logits[:, segments[0] == number], word_index[:, segments[0] == number], np.ones((1, size), np.int32))
        for number, size in ((1, 5), (2, 4), (3, 3))
    ]
    together = np.asarray(iob1_to_iob2(logits, word_index, segments))
    np.testing.assert_array_equal(together, np.concatenate(apart, axis=1))
    assert (together != np.asarray(iob1_to_iob2(logits, word_index, np.ones_like(segments)))).any()


def test_logits_of_iob1_are_read_word_by_word_as_by_hand():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20, 12, 5)).astype(np.float32) * 2
    word_index = np.where(rng.random((20, 12)) < 0.6, 1, NO_WORD).astype(np.int32)
    actual = np.asarray(jax.nn.softmax(iob1_to_iob2(jnp.asarray(logits), word_index, np.ones_like(word_index))), np.float64)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=-1, keepdims=True)
    decided = set()
    for row in range(20):
        before = "O"
        for place in np.flatnonzero(word_index[row] != NO_WORD):
            o, b_x, i_x, b_y, i_y = p[row, place]
            x_goes_on, y_goes_on = before == "X" and i_x >= b_x, before == "Y" and i_y >= b_y
            expected = [
                o,
                *((0, b_x + i_x) if x_goes_on else (b_x + i_x, 0)),
                *((0, b_y + i_y) if y_goes_on else (b_y + i_y, 0)),
            ]
            np.testing.assert_allclose(actual[row, place], expected, rtol=0, atol=1e-6)
            before = ["O", "X", "Y"][int(np.argmax([o, b_x + i_x, b_y + i_y]))]
            decided |= {(before, x_goes_on, y_goes_on)}
    assert len(decided) > 5


def test_the_tags_read_are_those_of_iob1_and_every_inside_is_legal():
    rng = np.random.default_rng(2)
    names, ours = ["O", "B-X", "I-X", "B-Y", "I-Y"], np.array(["O", "B-X", "I-X", "B-Y", "I-Y"], object)
    for _ in range(50):
        tags = [names[label] for label in rng.integers(0, 5, 9)]
        # IOB1 knows a B- only directly after a word of its type.
        tags = [t if t[2:] == b[2:] or t == "O" else "I" + t[1:] for b, t in zip(["O", *tags], tags, strict=False)]
        logits = np.full((1, 9, 5), -20.0, np.float32)
        logits[0, np.arange(9), [names.index(tag) for tag in tags]] = 20.0
        actual = ours[
            np.asarray(
                iob1_to_iob2(jnp.asarray(logits), np.arange(9, dtype=np.int32)[None], np.ones((1, 9), np.int32))
            ).argmax(axis=-1)[0]
        ].tolist()
        assert tuple(actual) == to_iob2(tags, "IOB1").iob2
        assert to_iob2(actual, "BIO").illegal == ()


def test_answers_in_iob1_are_told_from_bad_answers_in_iob2():
    gold = [["B-X", "I-X", "O", "B-Y", "B-Y"]] * 10
    right = ["I-X", "I-X", "O", "I-Y", "B-Y"]
    assert speaks_iob1(gold, [right] * 10)
    assert speaks_iob1(gold, [right] * 2 + [["O"] * 5] * 8)
    assert not speaks_iob1(gold, [["I-X", "I-X", "O", "O", "O"]] * 2 + [["O"] * 5] * 8)  # too few to tell
    assert not speaks_iob1(gold, gold)
    assert not speaks_iob1(gold, [["I-X", "I-X", "O", "B-Y", "B-Y"]] * 10)  # forgets some B-
    assert not speaks_iob1(gold, [["I-Y", "B-Y", "O", "I-X", "B-X"]] * 10)
    assert not speaks_iob1([["O"]], [["O"]])


def iob1(tags: tuple[str, ...]) -> list[str]:
    """IOB1 of IOB2."""
    pairs = zip(("O", *tags), tags, strict=False)
    return [tag if tag == "O" or (tag[0] == "B" and tag[2:] == before[2:]) else "I" + tag[1:] for before, tag in pairs]


def bioes(tags: tuple[str, ...]) -> list[str]:
    out = list(tags)
    for _, start, end in shown_spans(tags):
        if end - start == 1:
            out[start] = "S" + tags[start][1:]
        else:
            out[end - 1] = "E" + tags[start][1:]
    return out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for split, source, count in (("train", "dev", 24), ("dev", "test", 24), ("test", "test", 30)):
        (folder / f"{split}.conll").write_text(quickstart_lines(source, count), encoding="utf-8")
    with (folder / "train.conll").open("a", encoding="utf-8") as file:
        file.write("\n東京\tO\nへ\tO\n行く\tO\n")  # words that only a segmenter finds
    return folder


def save_tagger(folder: Path, corpus: Path, spell, names: list[str] | None = None) -> list[str]:
    """A tagger that knows dev by heart: a word's own state, which no context changes, times a head solved for its tags.

    Every word of dev and test is a piece; a word with several tags has the most frequent one.
    """
    splits = read_corpus(DataConfig(str(corpus))).splits.values()
    counts: dict[str, dict[str, int]] = {}
    for split in splits:
        for sentence in split.sentences:
            for word, tag in zip(sentence.words, spell(sentence.tags), strict=True):
                row = counts.setdefault(word, {})
                row[tag] = row.get(tag, 0) + 1
    words = sorted(counts)
    tags = [max(counts[word], key=lambda tag: (counts[word][tag], tag)) for word in words]
    labels = names or sorted({tag for row in counts.values() for tag in row} - {"O"} | {"O"})
    width = len(labels) + 4 - len(labels) % 4
    config = transformers.BertConfig(
        vocab_size=len(SPECIAL) + len(words),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=4,
        max_position_embeddings=128,
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
        architectures=["BertForTokenClassification"],
    )
    save_random_bert(folder, config)
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if not name.endswith("LayerNorm.weight"):
            tensors[name] = np.zeros_like(tensors[name])
    embedding = np.zeros((config.vocab_size, width), np.float32)
    for number, tag in enumerate(tags, start=len(SPECIAL)):
        embedding[number, labels.index(tag)] = 1
        embedding[number, -1] = 1e-3 * number
    tensors["embeddings.word_embeddings.weight"] = embedding
    tensors = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    tensors["classifier.weight"] = np.eye(len(labels), width, dtype=np.float32) * 3
    tensors["classifier.bias"] = np.zeros(len(labels), np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    pieces = [*SPECIAL, *words]
    tokenizer = transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=False)
    # Words with punctuation are pieces, too.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save_pretrained(folder)
    return labels


def run(name: str, corpus: Path, backbone: Path, *more: str) -> None:
    fields = ["--run_dir=run", f"--data.dir={corpus}", f"--model.backbone={backbone}", "--train.epochs=0", "--knn.k=4"]
    fields += ["--knn.temperature=0.1", "--knn.knn_weight=0.3", "--data.pad_to_multiple_of=64", "--knn.prune=false"]
    cli.run(name, f"{name}.py", [*fields, *more])


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda num_devices=1: make_mesh(num_devices))
    monkeypatch.chdir(tmp_path)


def iob2_names(corpus: Path) -> list[str]:
    """Every label of IOB2 of every type in a corpus."""
    tags = {
        tag[2:] for split in read_corpus(DataConfig(str(corpus))).splits.values() for s in split.sentences for tag in s.tags
    }
    return ["O", *(f"{prefix}-{type_}" for type_ in sorted(tags - {""}) for prefix in "BI")]


def test_a_tagger_that_answers_iob1_with_names_of_iob2_is_read_as_iob1(corpus, tmp_path, caplog):
    names = iob2_names(corpus)
    save_tagger(tmp_path / "foreign", corpus, iob1, names)
    with caplog.at_level(logging.WARNING):
        run("train", corpus, tmp_path / "foreign")
    assert "its answers are read as IOB1 and turned into IOB2; model.label_scheme: BIO would take them" in caplog.text
    read = json.loads((tmp_path / "run" / "train.json").read_text())["best_dev_f1"]
    assert json.loads((tmp_path / "run" / "model.json").read_text())["speaks_iob1"]
    assert read > 50
    run("eval", corpus, tmp_path / "foreign")
    result = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert result["dev"]["tagger"]["f1"] == pytest.approx(read, rel=1e-5)
    assert result["warnings"] == []
    blocks = (tmp_path / "run" / "predictions" / "dev.conll").read_text(encoding="utf-8").strip().split("\n\n")
    tags = [[line.split("\t")[2] for line in block.split("\n")] for block in blocks]
    assert all(to_iob2(sequence, "BIO").illegal == () for sequence in tags)

    cli.run("export", "export.py", ["run", "back"])
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    assert list(back["id2label"].values()) == names


def test_a_tagger_scored_next_to_nothing_for_its_scheme_is_doubted_everywhere(corpus, tmp_path, caplog, capsys):
    names = iob2_names(corpus)
    save_tagger(tmp_path / "foreign", corpus, iob1, names)
    for name in ("train", "eval"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            run(name, corpus, tmp_path / "foreign", "--model.label_scheme=BIO")
        assert "says nothing; a tagger that speaks another scheme is read with model.label_scheme" in caplog.text
    assert "warning: the tagger scores" in " ".join(capsys.readouterr().out.split())
    result = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert len(result["warnings"]) == 2
    page = evaluation_page(result, None)
    assert page.summary[0] == f"Warning: {result['warnings'][0]}."
    assert page.facts[2].note == "says nothing: see above"


@pytest.mark.parametrize("spell", [bioes, iob1], ids=["BIOES", "IOB1"])
def test_names_of_another_scheme_score_as_the_same_tagger_in_iob2(corpus, tmp_path, spell):
    names = save_tagger(tmp_path / "foreign", corpus, spell)
    run("train", corpus, tmp_path / "foreign")
    assert json.loads((tmp_path / "run" / "train.json").read_text())["best_dev_f1"] > 50
    model = json.loads((tmp_path / "run" / "model.json").read_text())
    assert model["output_names"] == names
    assert model["speaks_iob1"] == (spell is iob1)
    assert model["is_segmented"]


def test_numbers_are_read_with_the_labels_of_the_configuration(corpus, tmp_path, capsys):
    names = save_tagger(tmp_path / "foreign", corpus, bioes)
    config = json.loads((tmp_path / "foreign" / "config.json").read_text())
    config["id2label"] = {str(number): f"LABEL_{number}" for number in range(len(names))}
    (tmp_path / "foreign" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        run("train", corpus, tmp_path / "foreign")
    assert "model.labels: [O, B-PER, ...]" in capsys.readouterr().err
    run("train", corpus, tmp_path / "foreign", f"--model.labels=[{','.join(names)}]")
    assert json.loads((tmp_path / "run" / "train.json").read_text())["best_dev_f1"] > 50


@pytest.mark.parametrize(
    ("f1", "f1_default", "doubted"),
    [(0.0, 0.0, False), (0.0, 75.0, True), (9.9, 29.6, False), (9.9, 29.8, True), (60.0, 75.0, False)],
)
def test_when_scores_are_doubted(f1, f1_default, doubted):
    assert bool(metrics.scheme_doubt(f1, f1_default, "dev")) is doubted


@pytest.mark.parametrize("field", ["--model.labels=[O,B-X]", "--model.label_scheme=IOB1"])
def test_both_options_are_of_untrained_taggers_only(field, capsys, corpus):
    with pytest.raises(SystemExit):
        cli.run("train", "train.py", ["--run_dir=run", f"--data.dir={corpus}", "--model.backbone=x", field])
    assert "unless train.epochs is 0" in capsys.readouterr().err
