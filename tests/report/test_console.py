import io

from rich.console import Console

from knn_ner_jax.entities import Entity, Neighbour, TaggedText
from knn_ner_jax.report.evaluation import print_entities, print_scores


def test_words_that_look_like_markup_are_printed_as_they_are():
    neighbour = Neighbour(0.5, "B-[b]", "[/bold]", ("[/quote]", "[link]"), ("[red]",), (False, False))
    console = Console(file=io.StringIO(), width=200)
    entity = Entity("[i]", 0.75, "[/red]", 0, 6, (0, 1), neighbours=(neighbour,))
    print_entities(console, TaggedText("[/red] in [x]", ("[/red]", "in", "[x]"), ("B-[i]", "O", "O"), (entity,)))
    shown = console.file.getvalue()
    for part in ("[[/red] | [i]] in [x]", "[/red]: [i], score 0.750", "0.500  B-[b]        [/quote] [link] [[/bold]] [red]"):
        assert part in shown


def test_scores_are_printed_with_the_setting_and_what_was_skipped():
    scores = {"precision": 50.0, "recall": 25.0, "f1": 33.333, "f1_default": 20.0}
    evaluation = {
        "protocol": "words",
        "dev": {"tagger": scores, "knn": scores},
        "test": {"tagger": scores, "knn": scores | {"f1": 44.444}},
        "selected": {"k": "all", "temperature": 0.1, "knn_weight": 0.25, "metric": "l2"},
        "selected_on": "dev",
        "trials": [{}] * 7,
        "skipped_k": [512],
        "warnings": ["a [b]warning[/b]"],
        "datastore": {"rows": 100},
        "calibration": {
            "method": "temperature",
            "temperature": 1.25,
            "log_loss": {"none": 0.5, "temperature": 0.4},
            "dev": {"entities": 120},
            "test": {"ece_before": 12.34, "ece_after": 5.67},
        },
    }
    console = Console(file=io.StringIO(), width=80)
    print_scores(console, evaluation)
    shown = console.file.getvalue()
    assert "44.44" in shown
    assert shown.count("33.33") == 3
    assert "warning: a [b]warning[/b]" in shown
    assert "k all, temperature 0.1, knn_weight 0.25, l2: chosen on dev from 7 settings" in shown
    calibrated = "on the 120 of dev (temperature 1.25): expected calibration error on test 12.3 percent before, 5.7 after"
    assert calibrated in shown
    assert "skipped k [512]: more than the 100 rows" in shown
    assert "F1 (default mode)" in shown
    without_default = {name: value for name, value in scores.items() if name != "f1_default"}
    both = {"tagger": without_default, "knn": without_default}
    console = Console(file=io.StringIO(), width=80)
    print_scores(console, evaluation | {"protocol": "wang2022", "dev": both, "test": both})
    assert "protocol wang2022" in console.file.getvalue()
    assert "default mode" not in console.file.getvalue()
