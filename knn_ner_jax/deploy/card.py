"""The model card of what is exported: README.md with the metadata that hubs read, and what a user of it has to know."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from knn_ner_jax.config import Config
from knn_ner_jax.data.tables import is_hub
from knn_ner_jax.io import write_text

TASK = "token-classification"
SCORES = {"f1": "F1", "precision": "Precision", "recall": "Recall"}
METHODS = {"tagger": "tagger", "knn": "kNN-NER"}
STATED = {"language": "the language of the text", "license": "the licence"}  # which no run knows
LIMITS = """\
- A word's label is read at its first subword; nested or discontinuous entities cannot be expressed.
- Labels are predictions of a statistical model for text like its training data; other text is labelled less well than the
  scores say.
- Scores are strict: an entity counts where its type and all its words are right (seqeval, mode strict, IOB2), words as the
  corpus has them."""


def _corpus_name(source: str) -> str:
    """Return what to call a corpus: its hub id, or the name of its folder.

    >>> _corpus_name("hub:owner/name"), _corpus_name("pip:knn_ner_jax/data/quickstart"), _corpus_name("/data/wnut17/")
    ('owner/name', 'quickstart', 'wnut17')
    """
    return "/".join(source.removeprefix("hub:").split("/")[:2]) if is_hub(Path(source)) else Path(source).name


def _hub_id(backbone: str) -> str | None:
    """Return the hub id of a backbone; None where it is no such."""
    return backbone if re.fullmatch(r"[\w.-]+/[\w.-]+|bert-[\w.-]+|roberta-[\w.-]+", backbone) else None


def _metadata(
    config: Config, results: Mapping[str, Any] | None, method: str, library: str, stated: Mapping[str, Any]
) -> str:
    """Return the metadata as YAML, checked by `huggingface_hub`."""
    from huggingface_hub import EvalResult, ModelCardData  # takes seconds

    name = _corpus_name(config.data.dir)
    scores = (
        []
        if results is None
        else [
            EvalResult(
                task_type=TASK,
                dataset_type=name,
                dataset_name=name,
                dataset_split=split,
                metric_type=metric,
                metric_name=f"{SCORES[metric]} (strict, IOB2)",
                metric_value=round(results[split][method][metric] / 100, 4),
            )
            for split in ("test", "dev")
            for metric in SCORES
        ]
    )
    data = ModelCardData(
        model_name=f"{name}-{METHODS[method]}" if scores else None,
        eval_results=scores or None,
        library_name=library,
        pipeline_tag=TASK,
        tags=[
            "named-entity-recognition",
            *(["knn-ner", "nearest-neighbours", "jax", "stablehlo"] if method == "knn" else []),
        ],
        base_model=_hub_id(config.model.backbone),
        datasets=[name] if is_hub(Path(config.data.dir)) else None,
        metrics=list(SCORES),
        seed=config.seed,
        **stated,
    )
    return data.to_yaml()


def _table(header: tuple[str, ...], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _sections(
    config: Config,
    results: Mapping[str, Any] | None,
    method: str,
    labels: tuple[str, ...],
    usage: str,
    num_rows: int,
    version: int,
    stated: Mapping[str, Any],
) -> Iterator[tuple[str, str]]:
    name = _corpus_name(config.data.dir)
    yield "Use", usage
    yield "Labels", ", ".join(labels)
    fraction = "" if config.data.train_fraction == 1 else f" ({config.data.train_fraction:.0%} of train, drawn by the seed)"
    trained = f"Trained on {name}{fraction} with seed {config.seed}, from {Path(config.model.backbone).name}."
    if results is None:
        yield "Data", trained
        yield "Scores", "Not evaluated."
    else:
        splits = results["corpus"].items()
        rows = [(split, entry["sentences"], entry["words"], f"`{entry['sha256'][:16]}`") for split, entry in splits]
        yield "Data", trained + "\n\n" + _table(("split", "sentences", "words", "SHA-256"), rows)
        methods = list(METHODS)[: 1 + list(METHODS).index(method)]
        columns = [*SCORES, "f1_default"]
        scores = [
            (split, METHODS[each], *(f"{results[split][each][column]:.2f}" for column in columns))
            for split in ("dev", "test")
            for each in methods
        ]
        how = (
            "Percent, of one seed. F1 of seqeval's default mode stands beside it, because the literature often reports that."
        )
        yield "Scores", how + "\n\n" + _table(("split", "method", *SCORES.values(), "F1 (default mode)"), scores)
        if method == "knn":
            chosen = ", ".join(f"{key} {value}" for key, value in results["selected"].items())
            store = results["datastore"]
            edits = f" Edited since, to version {version}; scores are those of version 0." if version else ""
            origin = f"from {Path(store['source']['path']).name}. Chosen on {results['selected_on']}: {chosen}."
            yield "Datastore", f"{num_rows} rows of {store['dim']} numbers ({store['key_dtype']}), {origin}{edits}"
    unstated = ", ".join(what for name, what in STATED.items() if stated.get(name) is None)
    yield "Limits", LIMITS + (f"\n- Not stated: {unstated}." if unstated else "")


def write_card(
    folder: Path,
    config: Config,
    results: Mapping[str, Any] | None,
    method: str,
    labels: tuple[str, ...],
    usage: str,
    num_rows: int = 0,
    version: int = 0,
    stated: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write README.md.

    Args:
        folder: where.
        config: of the run.
        results: the content of eval.json; None where nothing was evaluated.
        method: `tagger` or `knn`: whose scores the metadata have.
        labels: what is predicted.
        usage: what to do with the files, in Markdown.
        num_rows: of the datastore; of no account for the tagger alone.
        version: of the datastore, the number of its edits.
        stated: `language` (codes) and `license` (an identifier), as hubs spell them; either may be None or lacking.
    """
    library = "transformers" if method == "tagger" else "jax"
    title = f"# {_corpus_name(config.data.dir)}: {'a tagger' if method == 'tagger' else 'kNN-NER'}"
    sections = _sections(config, results, method, labels, usage, num_rows, version, stated)
    body = "\n\n".join([title, *(f"## {heading}\n\n{text}" for heading, text in sections)])
    write_text(folder / "README.md", f"---\n{_metadata(config, results, method, library, stated)}\n---\n\n{body}\n")
