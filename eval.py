"""Scores a trained tagger with and without neighbours: datastore -> settings from dev -> test, once -> eval.json."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.logging import RichHandler

from knn_ner_jax import cli, runs
from knn_ner_jax.config import Config
from knn_ner_jax.data.corpus import Corpus, check_types, read_corpus
from knn_ner_jax.data.encoding import encode
from knn_ner_jax.data.labels import LabelSet
from knn_ner_jax.errors import InputError
from knn_ner_jax.evaluation import evaluate
from knn_ner_jax.evaluation.report import print_scores
from knn_ner_jax.evaluation.tuning import has_choice, refuse_test_as_dev
from knn_ner_jax.models.pretrained import fingerprint

PROGRAM = "eval.py"


def describe(corpus: Corpus, config: Config, knn_tagger: evaluate.KnnTagger) -> dict[str, Any]:
    """What was evaluated: data read and left out, datastore, device."""
    splits = {name: getattr(corpus, name) for name in ("train", "dev", "test")}
    store = knn_tagger.stored
    return {
        "run_dir": config.run_dir,
        "scheme": corpus.scheme,
        "corpus": {
            name: {
                "file": str(split.path),
                "sha256": split.sha256,
                "sentences": len(split.sentences),
                "words": split.num_words,
                "skipped_lines": dict(split.skipped),
                "illegal_tags": len(split.illegal_tags),
                "uneven_lines": len(split.uneven_lines),
            }
            for name, split in splits.items()
        },
        "illegal_tags": [tag for split in splits.values() for tag in split.illegal_tags],
        "uneven_lines": [line for split in splits.values() for line in split.uneven_lines],
        "datastore": {
            "rows": knn_tagger.num_rows,
            "dim": store.datastore.keys.shape[1],
            "layers": config.datastore.layers,
            "whiten": config.datastore.whiten,
            "source": asdict(store.source),
        },
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
    }


def prepare(folder: Path, config: Config, overwrite: bool) -> bool:
    """True when there is work to do; refuses an unfinished training and a folder that another configuration has filled."""
    run_dir = Path(config.run_dir)
    if not (run_dir / "train.json").exists():
        raise InputError(f"run_dir: {run_dir}: expected a finished training (train.json), found none; run train.py first")
    runs.check_same(
        run_dir / "config.yaml", config, runs.TRAINING_FIELDS, "these settings are the training's, in config.yaml"
    )
    runs.refuse_file(folder, "eval_dir")
    stored, results = folder / "eval.config.yaml", folder / "eval.json"
    if overwrite or not stored.exists():
        return True
    # Before there are results only the datastore, which may be there already, depends on what was given.
    runs.check_same(stored, config, runs.EVALUATION_FIELDS if results.exists() else runs.DATASTORE_FIELDS)
    if not results.exists():
        return True
    evaluated, trained = (
        json.loads(path.read_text(encoding="utf-8"))["weights"] for path in (results, run_dir / "train.json")
    )
    if evaluated != trained:
        raise InputError(
            f"{folder} was evaluated with weights {evaluated}, {run_dir} now has {trained}; --overwrite evaluates"
        )
    print(f"{folder} is evaluated; --overwrite evaluates again")
    return False


def evaluate_splits(config: Config, folder: Path, corpus: Corpus) -> dict[str, Any]:
    """Tunes on dev, tags dev and test with what dev chose, writes the predictions; the content of eval.json."""
    watch = evaluate.Stopwatch()
    remembered = evaluate.remembered_split(config, corpus)
    knn_tagger = evaluate.open_knn_tagger(config, folder, remembered, watch)
    unseen = check_types([corpus.dev, corpus.test], knn_tagger.label_set, config.data.unseen_types)
    gold_labels = knn_tagger.label_set.union(LabelSet(tuple(unseen)))
    model = knn_tagger.model
    with watch.stage("tokenize"):
        encoded = {
            name: encode(getattr(corpus, name).sentences, model.tokenizer, model.window, gold_labels, model.pinyin)
            for name in ("dev", "test")
        }
    with watch.stage("tune"):
        choice = evaluate.tune(knn_tagger, config, encoded["dev"], gold_labels.names, "dev")
    setting = choice.trial.setting
    with watch.stage("compile"):
        evaluate.compile_for(knn_tagger, setting, list(encoded.values()))
    result: dict[str, Any] = {
        "selected_on": choice.selected_on,
        "selected": asdict(setting),
        "selected_dev_f1": choice.trial.f1,
        "weights": fingerprint(knn_tagger.params),
        "unseen_types": unseen,
    }
    for name, split in encoded.items():
        with watch.stage(name):
            tagged = evaluate.tag_split(knn_tagger, setting, split)
        with watch.stage("score"):
            columns = [
                evaluate.by_sentence(ids, getattr(corpus, name), gold_labels.names) for ids in (tagged.vanilla, tagged.knn)
            ]
            evaluate.write_predictions(folder / "predictions" / f"{name}.conll", getattr(corpus, name), *columns)
            scores = evaluate.score_split(getattr(corpus, name), *columns)
        result[name] = scores | {
            "words": split.num_words,
            "words_searched": tagged.searched,
            "tokens": int(split.lengths.sum()),
            "erased_words": split.erased_words,
            "split_sentences": split.split_sentences,
        }
    result["seconds"] = watch.seconds
    result["tokens_per_second"] = result["test"]["tokens"] / watch.seconds["test"]
    result |= describe(corpus, config, knn_tagger) | runs.environment()
    return result | {"skipped_k": choice.skipped_k, "trials": [trial.as_dict() for trial in choice.trials]}


def main() -> None:
    """Entry point."""
    config, overwrite = cli.parse(PROGRAM, "Score a trained tagger with and without neighbours.")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    folder = Path(config.eval_dir or config.run_dir)
    try:
        if prepare(folder, config, overwrite):
            corpus = read_corpus(config.data.dir, config.data.scheme, config.data.on_error)
            runs.check_corpus(Path(config.run_dir) / "corpus.json", [corpus.train])
            evaluate.remembered_split(config, corpus)
            if has_choice(config.knn):
                refuse_test_as_dev(corpus.dev, corpus.test)
            if overwrite:  # not before everything given has proved right
                runs.clear(folder, runs.EVALUATION_FILES)
            runs.store_config(folder / "eval.config.yaml", config)
            runs.write_json(folder / "eval.json", evaluate_splits(config, folder, corpus))
    except InputError as error:
        cli.fail(PROGRAM, str(error))
    print_scores(Console(), json.loads((folder / "eval.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
