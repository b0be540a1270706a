"""What a person reads of an evaluation: the scores and tagged text in the console, and the page report.html."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.table
from rich.console import Console
from rich.markup import escape

from knn_ner_jax.calibration import FEWEST_ENTITIES
from knn_ner_jax.evaluation.predictions import METHODS
from knn_ner_jax.report.document import Fact, Figure, Page, Section, Table, footer

if TYPE_CHECKING:
    from knn_ner_jax.entities import TaggedText
    from knn_ner_jax.report.explorer import Explorer

SCORES = {"precision": "precision", "recall": "recall", "f1": "F1", "f1_default": "F1 (default mode)"}
MATCHES = {
    "strict": "bounds and type",
    "exact": "bounds alone",
    "partial": "bounds alone, an overlap is half right",
    "ent_type": "type, and an overlap",
}
TITLES = {
    "words": "Percent, strict IOB2 spans of words (seqeval)",
    "wang2022": "Percent, protocol wang2022: BMES spans of subwords; not comparable with scores of words",
}


def describe_params(params: Mapping[str, Any]) -> str:
    """Return kNN parameters in words.

    >>> describe_params({"metric": "cosine", "k": 8, "temperature": 0.1, "knn_weight": 0.5})
    'k 8, temperature 0.1, knn_weight 0.5, cosine'
    """
    numbers = f"k {params['k']}, temperature {params['temperature']:g}, knn_weight {params['knn_weight']:g}"
    return f"{numbers}, {params['metric']}"


def how_chosen(evaluation: Mapping[str, Any]) -> str:
    """Return where the kNN parameters of an evaluation come from."""
    return {
        "dev": f"chosen on dev from {len(evaluation['trials'])} settings",
        "published": "as published, whichever split that was chosen on",
        "config": "given by the configuration",
    }[evaluation["selected_on"]]


def describe_calibration(evaluation: Mapping[str, Any]) -> str:
    """Return how the scores of entities were calibrated, and what that changed on test."""
    calibration = evaluation["calibration"]
    number, test = calibration["dev"]["entities"], calibration["test"]
    error = f"expected calibration error on test {test['ece_before']:.1f} percent"
    if not calibration["log_loss"]:
        return f"scores of entities are not calibrated: dev has {number}, expected at least {FEWEST_ENTITIES}; {error}"
    if calibration["method"] == "none":
        return f"scores of entities are left as they are: no map is clearly better on the {number} of dev; {error}"
    how = calibration["method"]
    if calibration["temperature"] is not None:
        how += f" {calibration['temperature']:.2f}"
    return f"scores of entities are calibrated on the {number} of dev ({how}): {error} before, {test['ece_after']:.1f} after"


def print_scores(console: Console, evaluation: dict[str, Any]) -> None:
    """Print precision, recall and F1 of both methods on dev and test, and the parameters they were reached with.

    Args:
        console: where to.
        evaluation: the content of eval.json.
    """
    table = rich.table.Table(title=TITLES[evaluation["protocol"]], title_justify="left")
    scores = {name: title for name, title in SCORES.items() if name in evaluation["test"]["knn"]}
    for column in ("split", "method", *scores.values()):
        table.add_column(column, justify="left" if column in ("split", "method") else "right")
    for split in ("dev", "test"):
        for key, method in METHODS.items():
            row = evaluation[split][key]
            table.add_row(split, method, *(f"{row[name]:.2f}" for name in scores))
    console.print(table)
    for warning in evaluation["warnings"]:
        console.print(f"[bold]warning[/bold]: {escape(warning)}", highlight=False, soft_wrap=True)
    selected = f"{describe_params(evaluation['selected'])}: {how_chosen(evaluation)}"
    console.print(selected, highlight=False, soft_wrap=True)
    console.print(describe_calibration(evaluation), highlight=False, soft_wrap=True)
    if evaluation["skipped_k"]:
        rows = evaluation["datastore"]["rows"]
        console.print(f"skipped k {evaluation['skipped_k']}: more than the {rows} rows of the datastore", highlight=False)


def print_entities(console: Console, tagged: "TaggedText") -> None:
    """Print a sentence with its entities marked, then each entity with its neighbours, in brackets in their sentences."""
    marked, position = [], 0
    for entity in tagged.entities:
        first, end = entity.words
        marked += [escape(word) for word in tagged.words[position:first]]
        marked.append(f"[bold]{escape(f'[{entity.word} | {entity.entity_group}]')}[/bold]")
        position = end
    console.print(" ".join(marked + [escape(word) for word in tagged.words[position:]]), highlight=False)
    for entity in tagged.entities:
        score = "" if entity.score is None else f", score {entity.score:.3f}"
        doubt = "" if entity.is_strict else "  (I- without B-)"
        console.print(f"  {escape(f'{entity.word}: {entity.entity_group}')}{score}{doubt}", highlight=False)
        for near in entity.neighbours:
            context = [*map(escape, near.before), f"[bold]{escape(f'[{near.word}]')}[/bold]", *map(escape, near.after)]
            label = escape(f"{near.label:<12}")
            console.print(f"    {near.similarity:6.3f}  {label} {' '.join(context)}", highlight=False)
    if not tagged.entities:
        console.print("  no entities", highlight=False)


def evaluation_page(evaluation: Mapping[str, Any], explorer: "Explorer | None", why_no_explorer: str = "") -> Page:
    """Return the page of an evaluation.

    Args:
        evaluation: the content of eval.json.
        explorer: of test, or None.
        why_no_explorer: where there is none.
    """
    test = evaluation["test"]
    before, after = test["tagger"]["f1"], test["knn"]["f1"]
    facts = [
        Fact("Test F1, tagger", f"{before:.2f}"),
        Fact("Test F1, kNN-NER", f"{after:.2f}"),
        Fact(
            "Difference",
            f"{after - before:+.2f}",
            "says nothing: see above" if evaluation["warnings"] else "one run, no interval",
        ),
    ]
    if explorer is not None:
        kinds = explorer.words
        facts.append(Fact("Words fixed / broken", f"{kinds['fixed']} / {kinds['broken']}", f"of {test['words']:,} in test"))
    parts = _scores, _types, _confidence, _choice, _made_of, _left_out
    sections = [part(evaluation) for part in parts]
    if explorer is None and why_no_explorer:
        sections.append(Section("Sentences", (f"No sentences are shown: {why_no_explorer}.",)))
    title = f"kNN-NER on {Path(evaluation['corpus']['test']['file']).parent.name}"
    return Page(title, _summary(evaluation), tuple(facts), tuple(sections), explorer, footer(evaluation))


def _summary(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    before, after = (evaluation["test"][method]["f1"] for method in METHODS)
    verb = "left" if f"{before:.2f}" == f"{after:.2f}" else "raised" if after > before else "lowered"
    change = f"at {after:.2f}" if verb == "left" else f"from {before:.2f} to {after:.2f}"
    counted = "strict F1" if evaluation["protocol"] == "words" else "F1 under protocol wang2022"
    result = f"Neighbours {verb} {counted} on test {change} percent."
    dev_before, dev_after = (evaluation["dev"][method]["f1"] for method in METHODS)
    selected = f"The setting: {describe_params(evaluation['selected'])}, {how_chosen(evaluation)}"
    selected += f"; F1 on dev {dev_before:.2f} without and {dev_after:.2f} with neighbours."
    doubt = "This is one tagger trained with one seed: a small difference may well be chance."
    warnings = (f"Warning: {warning}." for warning in evaluation["warnings"])
    return *warnings, result, selected, doubt


def _scores(evaluation: Mapping[str, Any]) -> Section:
    columns = {name: title for name, title in SCORES.items() if name in evaluation["test"]["knn"]}
    rows = tuple(
        (split, method, *(f"{evaluation[split][key][name]:.2f}" for name in columns))
        for split in ("dev", "test")
        for key, method in METHODS.items()
    )
    table = Table(("split", "method", *columns.values()), rows, "ll" + "r" * len(columns))
    text = f"{TITLES[evaluation['protocol']]}."
    if "f1_default" in columns:
        text += " seqeval's default mode, which much of the literature reports, counts differently."
    names = "correct", "incorrect", "partial", "missed", "spurious", "precision", "recall", "f1"
    partial = Table.of(
        ("split", "method", "matches", *(SCORES.get(name, name) for name in names)),
        [
            (split, method, title, *(f"{row[name]:.2f}" if name in SCORES else str(row[name]) for name in names))
            for split in ("dev", "test")
            for key, method in METHODS.items()
            for scheme, title in MATCHES.items()
            for row in [evaluation[split]["partial"][key][scheme]]
        ],
        3,
        "Partial matches, as nervaluate counts them",
        folded=True,
    )
    return Section("Scores", (text,), (table, partial))


def _types(evaluation: Mapping[str, Any]) -> Section:
    tagger, knn = (evaluation["test"][method]["per_type"] for method in METHODS)
    nothing = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    names = sorted({*tagger, *knn})
    pairs = [(name, tagger.get(name, nothing), knn.get(name, nothing)) for name in names]
    rows = tuple(
        (
            *(name, str(max(before["support"], after["support"]))),
            *(f"{before['f1']:.1f}", f"{after['f1']:.1f}", f"{after['f1'] - before['f1']:+.1f}"),
            *(f"{scores[score]:.1f}" for score in ("precision", "recall") for scores in (before, after)),
        )
        for name, before, after in pairs
    )
    both = [f"{score}, {method}" for score in ("precision", "recall") for method in ("tagger", "kNN")]
    f1 = "F1, tagger", "F1, kNN", "difference"
    table = Table(("type", "entities", *f1, *both), rows, "l" + "r" * 8)
    plots: tuple[Figure, ...] = ()
    if pairs:
        from knn_ner_jax.report import figures

        series = [
            figures.Series(METHODS["tagger"], "tagger", names, [before["f1"] for _, before, _ in pairs]),
            figures.Series(METHODS["knn"], "knn", names, [after["f1"] for _, _, after in pairs]),
        ]
        numbers = "; ".join(f"{name} {before['f1']:.1f}, {after['f1']:.1f}" for name, before, after in pairs)
        alt = f"Dots: F1 on test by entity type, tagger and kNN-NER. {numbers}."
        plots = (Figure(figures.dots(series, "F1 on test, percent"), alt, "F1 on test by entity type"),)
    return Section("By entity type", ("Test, percent.",), (table,), plots)


def _confidence(evaluation: Mapping[str, Any]) -> Section:
    calibration = evaluation["calibration"]
    splits = {name: calibration[name] for name in ("dev", "test")}
    errors = Table.of(
        ("split", "predicted entities", "ECE before, percent", "ECE after, percent"),
        [
            (name, f"{split['entities']:,}", f"{split['ece_before']:.2f}", f"{split['ece_after']:.2f}")
            for name, split in splits.items()
        ],
        1,
        "Expected calibration error, bins of equal width; on dev of held-out fifths",
    )

    def cells(point: Mapping[str, Any]) -> tuple[str, str]:
        if point["threshold"] is None:
            return "–", "–"
        return f"{point['precision']:.1f}", f"{point['threshold']:.3f}"

    points = list(zip(*(split["precision_at_recall"] for split in splits.values()), strict=True))
    reached = [row for row in points if any(point["threshold"] is not None for point in row)]
    thresholds = Table.of(
        ("recall, percent", *(f"{what}, {name}" for name in splits for what in ("precision", "threshold"))),
        [(str(row[0]["recall"]), *(cell for point in row for cell in cells(point))) for row in reached],
        0,
        "Precision at the recalls that are reached, and the highest threshold that reaches each",
    )
    text = f"{describe_calibration(evaluation)}."
    meaning = (
        "The score of an entity is the probability that it is right: the smallest, over its words, of the mixed probability "
        "of the word's label, calibrated on dev. Thresholds are chosen on dev; the columns of test say what they do there."
    )
    plots: tuple[Figure, ...] = ()
    if splits["test"]["entities"]:
        from knn_ner_jax.report import figures

        plots = (figures.reliability(splits["test"]["bins_before"], splits["test"]["bins_after"], "test"),)
    return Section("Confidence", (text[0].upper() + text[1:], meaning), (errors, thresholds), plots)


def _choice(evaluation: Mapping[str, Any]) -> Section:
    trials, selected = evaluation["trials"], evaluation["selected"]
    if len(trials) == 1:
        return Section("The setting", (f"{describe_params(selected)}: {how_chosen(evaluation)}.",))
    from knn_ner_jax.report import figures  # which needs matplotlib, and what is printed does not

    plots = []
    if len(figures.distinct_values(trials, "k", str)) > 1:
        plots.append(figures.by_k(trials, evaluation["dev"]["tagger"]["f1"]))
    if any(len(figures.distinct_values(trials, name)) > 1 for name in ("temperature", "knn_weight")):
        plots.append(figures.surface(trials, selected))
    ranked = sorted(trials, key=lambda trial: -trial["f1"])
    rows = tuple(
        (trial["metric"], str(trial["k"]), f"{trial['temperature']:g}", f"{trial['knn_weight']:g}", f"{trial['f1']:.2f}")
        for trial in ranked
    )
    table = Table(
        ("metric", "k", "temperature", "knn_weight", "F1 on dev"), rows, "lrrrr", "Every trial on dev", folded=True
    )
    text = f"{describe_params(selected)}: {how_chosen(evaluation)}. Test had no part in it."
    return Section("What dev chose", (text,), (table,), tuple(plots))


def _made_of(evaluation: Mapping[str, Any]) -> Section:
    store, seconds = evaluation["datastore"], evaluation["seconds"]
    whitened = "no" if store["whitening_dim"] is None else f"to {store['whitening_dim']} dimensions"
    facts = {
        "run": evaluation["run_dir"],
        "rows": f"{store['rows']:,}",
        "rows that most words are compared with: the border": f"{store['border']:,}",
        "dimensions": f"{store['dim']}, {store['key_dtype']}",
        "layers": ", ".join(map(str, store["layers"])),
        "whitened": whitened,
        "built from": store["source"]["path"],
        "devices": f"{evaluation['num_devices']} x {evaluation['device']}",
        "tokens per second on test": f"{evaluation['tokens_per_second']:,.0f}",
    }
    counts = {
        "words": "words",
        "words_at_border": "compared with the border",
        "words_searched": "with all rows",
        "words_within_rounding": "label within float32 rounding",
        "tokens": "tokens",
    }
    searched = tuple(f"{evaluation['test'][key]:,}" for key in counts)
    tables = (
        Table(("datastore and run", ""), tuple(facts.items()), "ll"),
        Table(tuple(counts.values()), (searched,), "r" * len(counts), "Words of test, by the rows they were compared with"),
        Table(("stage", "seconds"), tuple((name, f"{spent:.1f}") for name, spent in seconds.items()), "lr", "Time", True),
    )
    return Section("Datastore and cost", (), tables)


def _left_out(evaluation: Mapping[str, Any]) -> Section:
    corpus = evaluation["corpus"]
    rows = tuple(
        (
            *(name, split["file"], f"{split['sentences']:,}", f"{split['words']:,}"),
            ", ".join(f"{count} {reason}" for reason, count in split["skipped_lines"].items()) or "0",
            *(str(split[key]) for key in ("illegal_tags", "ragged_lines")),
            *(str(evaluation.get(name, {}).get(key, "–")) for key in ("num_empty_words", "num_long_sentences")),
        )
        for name, split in corpus.items()
    )
    header = "split", "file", "sentences", "words", "left out or read otherwise", "illegal tags", "ragged lines"
    table = Table((*header, "empty words", "sentences in several windows"), rows, "llrrrrrrr")
    notes = []
    if unseen := evaluation["unseen_types"]:
        listed = ", ".join(f"{name} ({count} entities)" for name, count in unseen.items())
        notes.append(f"Types that only dev or test has, counted as missed: {listed}.")
    if skipped := evaluation["skipped_k"]:
        notes.append(f"Skipped k {', '.join(map(str, skipped))}: more than the rows of the datastore.")
    lists = {
        "Illegal tags, which break the scheme and are read as O": "illegal_tags",
        "Ragged lines, of another number of columns than the first": "ragged_lines",
    }
    folded = tuple(
        Table(("file:line: what",), tuple((line,) for line in evaluation[key]), "l", title, folded=True)
        for title, key in lists.items()
        if evaluation[key]
    )
    return Section("Data, and what was left out", tuple(notes), (table, *folded))
