"""New types taught to a finished tagger, five sentences of each: how well it then finds them.

    python -m tools.teach RUN CORPUS [--limit SENTENCES]

RUN is a folder that train.py and eval.py have filled; it is copied, not edited. CORPUS has types that RUN does not know. Of
its train file some sentences of each new type are drawn and added to the memory, all their tags as they are; then its test
file is tagged, and that of RUN's own corpus, to see what is forgotten. k, temperature and weight are those that RUN's dev
has chosen, or the best of a small grid on the first sentences of CORPUS' dev. Results: benchmarks/results/teach.json and
teach.md.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np

import knn_ner_jax as kn
from benchmarks.run import describe_hardware
from knn_ner_jax.config import DataConfig
from knn_ner_jax.data.corpus import Corpus, read_corpus
from knn_ner_jax.data.tag_schemes import LabelSet, Sentence, strict_spans
from knn_ner_jax.io import resolve_path, tune_memory, write_json
from knn_ner_jax.knn.combine import cached_knn_probabilities, interpolate
from knn_ner_jax.run_dir import environment, load_evaluation
from tools.pages import RESULTS, markdown

DRAWS, SENTENCES, DEV_SENTENCES = (0, 1, 2), 5, 50
GRID = list(itertools.product((1, 4, 16, 32), (0.03, 0.1, 0.3), (0.6, 0.8, 0.9, 1.0)))


def draw(sentences: Sequence[Sentence], types: Sequence[str], number: int, seed: int) -> list[Sentence]:
    """Draw so many sentences with each type, none twice; one that has several types stands for the first."""
    rng, chosen = np.random.default_rng(seed), dict[int, Sentence]()
    for type_ in types:
        options = [n for n, each in enumerate(sentences) if n not in chosen and f"B-{type_}" in each.tags]
        chosen |= {int(n): sentences[n] for n in rng.permutation(options)[:number]}
    return list(chosen.values())


def f1(gold: Sequence[Sentence], labels: Sequence[Sequence[str]], types: Sequence[str] | None = None) -> float:
    """Return strict F1 in percent over the entities of some types, or of all."""

    def spans(tags: Sequence[Sequence[str]]) -> set[tuple[int, Any]]:
        every = ((n, span) for n, each in enumerate(tags) for span in strict_spans(tuple(each), "BIO"))
        return {(n, span) for n, span in every if types is None or span.type in types}

    true, said = spans([sentence.tags for sentence in gold]), spans(labels)
    return 100 * 2 * len(true & said) / max(len(true) + len(said), 1)


def labellings(
    tagger: kn.KnnTagger, sentences: Sequence[Sentence], settings: Sequence[kn.KnnParams]
) -> Iterator[list[list[str]]]:
    """Yield the labels of sentences under each of some settings; they are searched for once."""
    gold = LabelSet.of(sentence.tags for sentence in sentences)
    split = tagger.encode(sentences, tagger.label_set.union(gold))
    cache = tagger.retrieve(split, max(int(each.k) for each in settings), settings[0].metric)
    ends, names = np.cumsum([len(each.words) for each in sentences]), np.array(tagger.label_set.names)
    for each in settings:
        (p_knn,) = cached_knn_probabilities(cache, each.k, [each.temperature])
        mixed = interpolate(cache.p_ner, np.asarray(p_knn), each.knn_weight)
        yield [part.tolist() for part in np.split(names[np.asarray(mixed).argmax(axis=1)], ends[:-1])]


def scores(
    tagger: kn.KnnTagger, settings: Sequence[kn.KnnParams], new: Corpus, own: Corpus, types: Sequence[str]
) -> list[dict[str, float]]:
    """Return F1 on test of the new corpus, over its new types and over all, and on test of the tagger's own, by setting."""
    both = (labellings(tagger, corpus.test.sentences, settings) for corpus in (new, own))
    gold = new.test.sentences
    return [
        {"new types": f1(gold, labels, types), "all types": f1(gold, labels), "own test": f1(own.test.sentences, others)}
        for labels, others in zip(*both, strict=True)
    ]


def study(run: Path, corpus: str, limit: int | None) -> dict[str, Any]:
    """Teach and score once for each draw; on the first sentences of each test alone, where there is a limit."""
    config = load_evaluation(run).config
    read = (read_corpus(DataConfig(folder, unseen_types="miss")) for folder in (corpus, config.data.dir))
    new, own = (replace(each, test=replace(each.test, sentences=each.test.sentences[:limit])) for each in read)
    with tempfile.TemporaryDirectory() as folder:
        tagger = kn.load(copytree(run, Path(folder) / "run"))
        chosen = tagger.knn_params
        assert chosen is not None
        types = [
            name
            for name in LabelSet.of(each.tags for each in new.train.sentences).types
            if name not in tagger.label_set.types
        ]
        memory, draws, dev = tagger.memory, [], new.dev.sentences[:DEV_SENTENCES]
        (before,) = scores(tagger, [chosen], new, own, types)
        print("before", before, flush=True)
        for seed in DRAWS:
            taught = draw(new.train.sentences, types, SENTENCES, seed)
            started = time.perf_counter()
            edit = memory.add(taught, source=f"draw {seed}")
            seconds = time.perf_counter() - started
            settings = [replace(chosen, k=k, temperature=t, knn_weight=w) for k, t, w in GRID]
            on_dev = [f1(dev, labels) for labels in labellings(tagger, dev, settings)]
            best = settings[int(np.argmax(on_dev))]
            as_chosen, best_on_dev = scores(tagger, [chosen, best], new, own, types)
            row = {
                "draw": seed,
                "sentences": edit.sentences,
                "words": edit.rows,
                "seconds": seconds,
                "as chosen": as_chosen,
                "best on dev": best_on_dev | {"settings": asdict(best)},
            }
            memory.rollback(0)
            print(row, flush=True)
            draws.append(row)
    names = {"run": config.data.dir and Path(config.data.dir).name, "corpus": resolve_path(corpus).name}
    setting = {"limit": limit, "types": types, "rows": tagger.num_rows, "chosen": asdict(chosen)}
    return names | setting | {"before": before, "draws": draws, "hardware": describe_hardware(), **environment()}


def page(result: dict[str, Any]) -> str:
    """Return the results as a page."""

    def spread(key: str, name: str) -> str:
        values = [row[key][name] for row in result["draws"]]
        return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"

    head = ["", "F1, new types", f"F1, all types of {result['corpus']}", f"F1, test of {result['run']}"]
    names = ("new types", "all types", "own test")
    rows = [["before", *(f"{result['before'][name]:.1f}" for name in names)]]
    titles = {
        "as chosen": "taught, settings of the run",
        "best on dev": f"taught, settings chosen on {DEV_SENTENCES} sentences of its dev",
    }
    rows += [[title, *(spread(key, name) for name in names)] for key, title in titles.items()]
    words = [f"{row['sentences']} sentences ({row['words']} words, {row['seconds']:.2f} s)" for row in result["draws"]]
    types = ", ".join(result["types"])
    lines = [
        "# New types taught to a finished tagger",
        "",
        "    .venv/bin/python -m tools.teach RUN CORPUS" + (f" --limit {result['limit']}" if result["limit"] else ""),
        "",
        f"A tagger of {result['run']}, with a datastore of {result['rows']:,} words, is taught {SENTENCES} sentences of",
        f"each type of {result['corpus']} that it does not know ({types}).",
        f"They are drawn from train {len(words)} times: {'; '.join(words)}.",
        f"Strict F1 in percent on {f'the first {limit}' if (limit := result['limit']) else 'all'} sentences of test,",
        "mean and standard deviation over the draws; nothing is trained.",
        "",
    ]
    return "\n".join([*lines, *markdown(head, rows)])


def main() -> None:
    """Run the study and write its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("corpus", help="a folder with train, dev and test")
    parser.add_argument("--limit", type=int, help="sentences of each test that are tagged; default: all")
    options = parser.parse_args()
    tune_memory()
    result = study(options.run, options.corpus, options.limit)
    write_json(RESULTS / "teach.json", result)
    (RESULTS / "teach.md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
