"""A page with everything a page can have, made up: text that looks like markup, and text that runs from right to left."""

from knn_ner_jax.entities import Neighbour
from knn_ner_jax.knn.combine import KnnParams
from knn_ner_jax.report import figures
from knn_ner_jax.report.document import Fact, Figure, Page, Section, Table
from knn_ner_jax.report.explorer import Change, Explorer, ExplorerSentence, LabelLine, NeighbourLine, Token

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '"quoted"\'',
    "&amp;",
    "a\u2028b",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u202eoverride",
    "{{7*7}}",
    "{% raw %}",
    "-->",
    "$x$",
    *("font-family: x", "font: 9px y", 'x id="z" y', ": #0072B2", "a | b > c"),
)
TYPES = ("PER", "<b>LOC</b>", '"a & b"')


def _change(place: int, token: Token, shares: tuple[float, ...]) -> Change:
    near = [
        NeighbourLine(
            token.knn, share, 1, Neighbour(0.9 - 0.1 * i, token.knn, word, HOSTILE[:2], HOSTILE[2:], (i == 0, i == 1))
        )
        for i, (share, word) in enumerate(zip(shares, HOSTILE, strict=False))
    ]
    rest = 1 - sum(shares)
    away = "I-PER" if token.knn == "O" else "O"
    voters = (*near, NeighbourLine(token.knn, rest / 4, 7, None), NeighbourLine(away, 3 * rest / 4, 120, None))
    labels = (
        LabelLine(token.knn, 0.2, sum(shares) + rest / 4, 0.7),
        LabelLine(away, 0.3, 3 * rest / 4, 0.2),
        *(LabelLine(tag, 0.1, 0.0, 0.1) for tag in sorted({token.gold, token.tagger} - {token.knn, away})),
    )
    return Change(place, token, labels, voters)


def _sentence(number: int, words: tuple[str, ...], changed: dict[int, tuple[str, str, str]]) -> ExplorerSentence:
    tokens = tuple(Token(word, *changed.get(place, ("O", "O", "O"))) for place, word in enumerate(words))
    changes = tuple(_change(place, tokens[place], (0.4, 0.2, 0.1 / 3)) for place in changed)
    return ExplorerSentence(number, tokens, changes)


def make_explorer() -> Explorer:
    """Four sentences of nine that have a change; the second has one word of each kind."""
    fixed, broken = ("B-PER", "O", "B-PER"), (f"B-{TYPES[1]}", f"B-{TYPES[1]}", "O")
    other = (f"B-{TYPES[2]}", "B-PER", "I-PER")
    sentences = (
        _sentence(3, ("Ann", *HOSTILE, "x" * 90), {0: fixed}),
        _sentence(5, HOSTILE, {0: fixed, 1: broken, 2: other}),
        _sentence(8, (HOSTILE[5], HOSTILE[5], "Ann"), {0: broken}),
        _sentence(11, ("Zo\u00eb", "went", "to", "Harbour", "City"), {3: fixed, 4: ("I-PER", "I-PER", "B-PER")}),
    )
    setting = KnnParams("cosine", "all", 0.03, 0.7)
    return Explorer(
        "test", setting, sentences, 9, {"fixed": 6, "broken": 4, "other": 1}, {"fixed": 6, "broken": 5, "other": 1}
    )


def make_page() -> Page:
    """All kinds of contents."""
    names = ["1", "8", "64", "all"]
    lines = [
        figures.Series("kNN-NER", "knn", names, [50, 52, 53.5, 51], [49, 51, 52, 50], [51, 53, 54, 52]),
        figures.Series("tagger <alone>", "tagger", names, [50] * 4),
    ]
    dots = [
        figures.Series("tagger", "tagger", TYPES, [50, 20, 70]),
        figures.Series("kNN", "knn", TYPES, [55, 18, 71], [50, 9, 70], [60, 20, 75]),
    ]
    wide = tuple(f"column {number}" for number in range(12))
    tables = (
        Table(("method", "F1"), (("tagger", "43.70"), (HOSTILE[0], "4.05")), "lr", HOSTILE[1]),
        Table(
            wide, tuple(tuple(f"{row * column:.2f}" for column in range(12)) for row in range(30)), "r" * 12, "Many", True
        ),
        Table(wide, (tuple(f"{1000 * column:,}" for column in range(12)),), "r" * 12),
    )
    plots = (
        Figure(figures.lines(lines, "k", "F1"), f"Lines. {HOSTILE[2]}", HOSTILE[3]),
        Figure(figures.dots(dots, "F1"), "Dots."),
    )
    facts = Fact("Test F1, tagger", "43.74"), Fact("Test F1, kNN-NER", "44.10"), Fact("Difference", "+0.36", HOSTILE[1])
    sections = Section("Scores", ("Percent.", HOSTILE[0]), tables, plots), Section(HOSTILE[1], ("Text.",))
    return Page(f"Made up {HOSTILE[0]}", (HOSTILE[1], "More."), facts, sections, make_explorer(), ("made with", HOSTILE[0]))
