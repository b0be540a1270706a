"""What a person reads at the end: a table of scores, and tagged text with the neighbours that voted.

The page of a single evaluation: what eval.json says, and the sentences that neighbours changed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.table
from rich.console import Console
from rich.markup import escape

from knn_ner_jax.evaluation.neighbours import Entity
from knn_ner_jax.report import figures
from knn_ner_jax.report.document import METHODS, Fact, Figure, Page, Section, Table, footer
from knn_ner_jax.report.explorer import Explorer

SCORES = {"precision": "precision", "recall": "recall", "f1": "F1", "f1_default": "F1 (default mode)"}
TITLES = {
    "words": "Percent, strict IOB2 spans of words (seqeval)",
    "wang2022": "Percent, protocol wang2022: BMES spans of word pieces; not comparable with scores of words",
}


def name_setting(setting: Mapping[str, Any]) -> str:
    """A setting in words."""
    numbers = f"k {setting['k']}, temperature {setting['temperature']:g}, knn_weight {setting['knn_weight']:g}"
    return f"{numbers}, {setting['metric']}"


def how_chosen(evaluation: Mapping[str, Any]) -> str:
    """Where the setting of an evaluation comes from."""
    return {
        "dev": f"chosen on dev from {len(evaluation['trials'])} settings",
        "published": "as published, whichever split that was chosen on",
        "config": "given by the configuration",
    }[evaluation["selected_on"]]


def print_scores(console: Console, evaluation: dict[str, Any]) -> None:
    """Prints precision, recall and F1 of both methods on dev and test, and the setting they were reached with.

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
    chosen = f"{name_setting(evaluation['selected'])}: {how_chosen(evaluation)}"
    console.print(chosen, highlight=False, soft_wrap=True)
    if evaluation["skipped_k"]:
        rows = evaluation["datastore"]["rows"]
        console.print(f"skipped k {evaluation['skipped_k']}: more than the {rows} rows of the datastore", highlight=False)


def print_entities(console: Console, words: Sequence[str], entities: Sequence[Entity]) -> None:
    """Prints a sentence with its entities marked, then each entity with its neighbours."""
    shown, position = [], 0
    for entity in entities:
        shown += [escape(word) for word in words[position : entity.span.start]]
        text = " ".join(words[entity.span.start : entity.span.end])
        shown.append(f"[bold]{escape(f'[{text} | {entity.span.type}]')}[/bold]")
        position = entity.span.end
    console.print(" ".join(shown + [escape(word) for word in words[position:]]), highlight=False)
    for entity in entities:
        text = " ".join(words[entity.span.start : entity.span.end])
        console.print(f"  {escape(f'{text}: {entity.span.type}')}, p {entity.probability:.3f}", highlight=False)
        for near in entity.neighbours:
            context = [*map(escape, near.before), f"[bold]{escape(near.word)}[/bold]", *map(escape, near.after)]
            label = escape(f"{near.label:<12}")
            console.print(f"    {near.similarity:6.3f}  {label} {' '.join(context)}", highlight=False)
    if not entities:
        console.print("  no entities", highlight=False)


def evaluation_page(evaluation: Mapping[str, Any], explorer: Explorer | None, why_no_explorer: str = "") -> Page:
    """Lays out a page.

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
        Fact("Difference", f"{after - before:+.2f}", "one run, no interval"),
    ]
    if explorer is not None:
        kinds = explorer.words
        facts.append(Fact("Words fixed / broken", f"{kinds['fixed']} / {kinds['broken']}", f"of {test['words']:,} in test"))
    sections = [_scores(evaluation), _types(evaluation), _choice(evaluation), _made_of(evaluation), _left_out(evaluation)]
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
    chosen = f"The setting: {name_setting(evaluation['selected'])}, {how_chosen(evaluation)}"
    chosen += f"; F1 on dev {dev_before:.2f} without and {dev_after:.2f} with neighbours."
    doubt = "This is one tagger trained with one seed: a small difference may well be chance."
    return result, chosen, doubt


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
    return Section("Scores", (text,), (table,))


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
    plotted: tuple[Figure, ...] = ()
    if pairs:
        series = [
            figures.Series(METHODS["tagger"], "tagger", names, [before["f1"] for _, before, _ in pairs]),
            figures.Series(METHODS["knn"], "knn", names, [after["f1"] for _, _, after in pairs]),
        ]
        said = "; ".join(f"{name} {before['f1']:.1f}, {after['f1']:.1f}" for name, before, after in pairs)
        alt = f"Dots: F1 on test by entity type, tagger and kNN-NER. {said}."
        plotted = (Figure(figures.dots(series, "F1 on test, percent"), alt, "F1 on test by entity type"),)
    return Section("By entity type", ("Test, percent.",), (table,), plotted)


def _choice(evaluation: Mapping[str, Any]) -> Section:
    trials, chosen = evaluation["trials"], evaluation["selected"]
    if len(trials) == 1:
        return Section("The setting", (f"{name_setting(chosen)}: {how_chosen(evaluation)}.",))
    plotted = []
    if len(figures.distinct_values(trials, "k", str)) > 1:
        plotted.append(figures.by_k(trials, evaluation["dev"]["tagger"]["f1"]))
    if len(figures.distinct_values(trials, "temperature")) > 1 or len(figures.distinct_values(trials, "knn_weight")) > 1:
        plotted.append(figures.surface(trials, chosen))
    ranked = sorted(trials, key=lambda trial: -trial["f1"])
    rows = tuple(
        (trial["metric"], str(trial["k"]), f"{trial['temperature']:g}", f"{trial['knn_weight']:g}", f"{trial['f1']:.2f}")
        for trial in ranked
    )
    table = Table(
        ("metric", "k", "temperature", "knn_weight", "F1 on dev"), rows, "lrrrr", "Every trial on dev", folded=True
    )
    text = f"{name_setting(chosen)}: {how_chosen(evaluation)}. Test had no part in it."
    return Section("What dev chose", (text,), (table,), tuple(plotted))


def _made_of(evaluation: Mapping[str, Any]) -> Section:
    store, seconds = evaluation["datastore"], evaluation["seconds"]
    whitened = "no" if store["whitening_dim"] is None else f"to {store['whitening_dim']} dimensions"
    facts = {
        "run": evaluation["run_dir"],
        "rows": f"{store['rows']:,}",
        "of them scouts; border": f"{store['scouts']:,}; {store['border']:,}",
        "dimensions": f"{store['dim']}, {store['dtype']}",
        "layers": ", ".join(map(str, store["layers"])),
        "whitened": whitened,
        "remembers": store["source"]["path"],
        "devices": f"{evaluation['num_devices']} x {evaluation['device']}",
        "tokens per second on test": f"{evaluation['tokens_per_second']:,.0f}",
    }
    searched = tuple(
        (
            name,
            *(
                f"{evaluation[name][key]:,}"
                for key in ("words", "words_scouted", "words_at_border", "words_searched", "words_searched_again", "tokens")
            ),
        )
        for name in ("dev", "test")
    )
    tables = (
        Table(("datastore and run", ""), tuple(facts.items()), "ll"),
        Table(
            ("split", "words", "asked of scouts", "of the border", "of all rows", "of them again in float32", "tokens"),
            searched,
            "lrrrrrr",
            "Words looked up",
        ),
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
    header = "split", "file", "sentences", "words", "lines skipped", "tags read as O", "uneven lines"
    table = Table((*header, "erased words", "sentences in several windows"), rows, "llrrrrrrr")
    notes = []
    if unseen := evaluation["unseen_types"]:
        listed = ", ".join(f"{name} ({count} entities)" for name, count in unseen.items())
        notes.append(f"Types that the training data has not, counted as missed: {listed}.")
    if skipped := evaluation["skipped_k"]:
        notes.append(f"Skipped k {', '.join(map(str, skipped))}: more than the rows of the datastore.")
    lists = {"Tags that break the scheme and are read as O": "illegal_tags", "Uneven lines": "ragged_lines"}
    folded = tuple(
        Table(("file:line: what",), tuple((line,) for line in evaluation[key]), "l", title, folded=True)
        for title, key in lists.items()
        if evaluation[key]
    )
    return Section("Data, and what was left out", tuple(notes), (table, *folded))
