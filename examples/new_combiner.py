"""Combine tagger and neighbours in a way of your own: the more the nearest neighbours agree, the more they count.

    python examples/new_combiner.py

A combiner is used in studies only. In the folder of the repository this one is reported beside one weight for all words by

    knn-ner ablate --config configs/ablations/demo.yaml --ablation.combiner examples.new_combiner:AgreementCombiner
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from knn_ner_jax.config import KnnConfig
from knn_ner_jax.contrib.combiner import Combiner, LabelledWords, RetrievedWords
from knn_ner_jax.data.tag_schemes import LabelSet


@dataclass(frozen=True)
class AgreementCombiner:
    """p = (1 - a^power) p_tagger + a^power p_vote, where a is the largest share of a label among the neighbours."""

    knn: KnnConfig
    name: str = "agreement"
    k: int = 8
    needs_train: bool = False
    settings: dict[str, Any] = field(default_factory=lambda: {"version": 1, "powers": [0.5, 1, 2, 4]})
    facts: dict[str, Any] = field(default_factory=dict)

    def fit(self, train: LabelledWords | None, dev: LabelledWords, label_set: LabelSet, seed: int) -> "AgreementCombiner":
        """Select the power that labels most words of dev correctly."""
        trials = [{"power": power, "accuracy": self._accuracy(dev, power)} for power in self.settings["powers"]]
        best = max(trials, key=lambda trial: trial["accuracy"])
        return AgreementCombiner(self.knn, facts={"selected": best, "trials": trials})

    def _accuracy(self, words: LabelledWords, power: float) -> float:
        return float((self._combine(words.words, power).argmax(axis=1) == words.gold).mean())

    def _combine(self, words: RetrievedWords, power: float) -> np.ndarray:
        p_ner = np.asarray(words.p_ner)
        vote = (np.asarray(words.neighbour_labels)[:, :, None] == np.arange(p_ner.shape[1])).mean(axis=1)
        weight = vote.max(axis=1, keepdims=True) ** power
        return weight * vote + (1 - weight) * p_ner

    def predict(self, words: RetrievedWords) -> np.ndarray:
        """Return p(y) of every word, [words, labels]."""
        return self._combine(words, self.facts["selected"]["power"])


if __name__ == "__main__":
    rng = np.random.default_rng(0)  # a made-up split: the tagger is often wrong, the neighbours are mostly right
    gold = rng.integers(0, 3, 100).astype(np.int32)
    neighbours = np.where(rng.random((100, 8)) < 0.7, gold[:, None], rng.integers(0, 3, (100, 8))).astype(np.int32)
    p_ner = rng.dirichlet(np.ones(3), 100).astype(np.float32)
    words = RetrievedWords(p_ner, np.sort(rng.random((100, 8)).astype(np.float32))[:, ::-1], neighbours)
    combiner: Combiner = AgreementCombiner(KnnConfig())
    fitted = combiner.fit(None, LabelledWords(words, gold, np.arange(100) // 5), LabelSet(("PER",)), seed=0)
    tagger, both = ((p.argmax(axis=1) == gold).mean() for p in (p_ner, fitted.predict(words)))
    print(f"selected {fitted.facts['selected']}; words labelled correctly: tagger {tagger:.0%}, combined {both:.0%}")
