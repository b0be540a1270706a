"""Entities as a user gets them, beside those of transformers' own pipeline for the same tagger."""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import pipeline

from knn_ner_jax import cli
from knn_ner_jax.knn.combine import KnnParams
from knn_ner_jax.knn_tagger import KnnTagger

CUT = 7  # words, which one window holds


def known_texts(corpus: Path) -> list[str]:
    """The beginnings of training sentences, where transformers takes the same for words."""
    blocks = (corpus / "train.conll").read_text(encoding="utf-8").split("\n\n")
    beginnings = [[line.split("\t")[0] for line in block.split("\n")][:CUT] for block in blocks]
    return ["  ".join(words) for words in beginnings if all(word.isalnum() or word in ",." for word in words)]


def test_entities_are_those_of_transformers_pipeline_where_neighbours_have_no_weight(
    knn_tagger: KnnTagger, evaluated, tmp_path, monkeypatch
):
    monkeypatch.chdir(evaluated)
    cli.run("export", "export.py", ["run", str(tmp_path / "exported")])
    texts = known_texts(evaluated / "corpus")
    with torch.inference_mode():
        reference = pipeline("token-classification", model=str(tmp_path / "exported"), aggregation_strategy="first")(texts)
    results = replace(knn_tagger, knn_params=KnnParams("cosine", 1, 0.1, 0.0)).tag(texts, neighbours=1)
    assert sum(map(len, reference)) > 8
    for theirs, result in zip(reference, results, strict=True):
        ours = [entity.to_dict() for entity in result.entities]
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert one.keys() - other.keys() == {"p_tagger", "p_knn", "neighbours", "words", "is_strict"}
            assert not other.keys() - one.keys()
            assert [one[name] for name in ("entity_group", "start", "end")] == [
                other[name] for name in ("entity_group", "start", "end")
            ]
            assert one["score"] <= other["score"] + 1e-4  # the least of the words, where theirs is the mean
            assert one["score"] == one["p_tagger"]
