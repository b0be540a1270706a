"""The pictures of README and docs, drawn as SVG text, each once for light and once for dark pages.

    python -m docs.make_images

The words and numbers in the first are those that the quickstart's `report.html` shows for one word of test; where the dots
lie is a sketch.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from random import Random

FOLDER = Path(__file__).with_name("images")
CONFIDENCE = FOLDER.parents[1] / "benchmarks" / "results" / "confidence.json"
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
# Colours of tags are Okabe and Ito's, which the colour-blind tell apart, lighter on dark pages.
THEMES = {
    "light": {
        **{
            "card": "#ffffff",
            "edge": "#d0d7de",
            "text": "#1f2328",
            "muted": "#59636e",
            "flow": "#8c959f",
            "query": "#1f2328",
        },
        **{"EVENT": "#c04f00", "ORG": "#0072b2", "LOC": "#00855f", "PER": "#b1568a", "O": "#afb8c1"},
    },
    "dark": {
        **{
            "card": "#161b22",
            "edge": "#3d444d",
            "text": "#e6edf3",
            "muted": "#9198a1",
            "flow": "#8b949e",
            "query": "#f0f6fc",
        },
        **{"EVENT": "#ff9a5c", "ORG": "#58a6ff", "LOC": "#3fcf9e", "PER": "#f0a6d0", "O": "#57606a"},
    },
}
# What the four nearest of the 16 training words that vote on "Storm" say: word, similarity, share of the vote.
NEIGHBOURS = (("Storm", 0.922, 0.167), ("Storm", 0.921, 0.165), ("Hurricane", 0.853, 0.084), ("Storm", 0.853, 0.084))
P_KNN = {"B-EVENT": 0.820, "B-ORG": 0.147}
P_NER = {"B-ORG": 0.437, "B-EVENT": 0.343}
KNN_WEIGHT = 0.4

Theme = Mapping[str, str]


def text(x: float, y: float, content: str, colour: str, size: float = 14, anchor: str = "start", weight: int = 400) -> str:
    """Return a line of text whose baseline begins, is centred or ends at a point."""
    style = f'font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(content)}</text>'


def card(x: float, y: float, width: float, height: float, theme: Theme) -> str:
    """Return a rectangle with round corners."""
    style = f'rx="10" fill="{theme["card"]}" stroke="{theme["edge"]}"'
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" {style}/>'


def bar(x: float, y: float, width: float, colour: str, height: float = 12, opacity: float = 1) -> str:
    """Return a bar of a length."""
    style = f'rx="2" fill="{colour}" fill-opacity="{opacity:g}"'
    return f'<rect x="{x:g}" y="{y:g}" width="{max(width, 1):.1f}" height="{height:g}" {style}/>'


def dot(x: float, y: float, radius: float, colour: str, filled: bool = True) -> str:
    """Return a circle."""
    style = f'fill="{colour}"' if filled else f'fill="none" stroke="{colour}" stroke-width="1.3"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {style}/>'


def arrow(points: Sequence[tuple[float, float]], colour: str) -> str:
    """Return a line through points that ends in a head."""
    (x0, y0), (x1, y1) = points[-2:]
    angle = math.atan2(y1 - y0, x1 - x0)
    head = [(x1, y1), *((x1 - 9 * math.cos(angle + turn), y1 - 9 * math.sin(angle + turn)) for turn in (0.42, -0.42))]
    tip = x1 - 7 * math.cos(angle), y1 - 7 * math.sin(angle)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (*points[:-1], tip))
    triangle = " ".join(f"{x:.1f},{y:.1f}" for x, y in head)
    line = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>'
    return f'{line}<polygon points="{triangle}" fill="{colour}"/>'


def document(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """Return a whole SVG file."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}">'
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>", ""])


def tag_colour(tag: str, theme: Theme) -> str:
    """Return the colour of a tag's type."""
    return theme[tag.rpartition("-")[2]]


def words(x: float, y: float, sentence: Sequence[tuple[str, str]], theme: Theme) -> Iterable[str]:
    """Yield the words of a sentence, each above its tag; `?` is a tag to be predicted."""
    for word, tag in sentence:
        is_plain = tag in ("O", "")
        width = 8.1 * max(len(word), 3 if tag != "O" else 1) + (10 if is_plain else 12)
        colour = {"": theme["muted"], "O": theme["muted"], "?": theme["query"]}.get(tag) or tag_colour(tag, theme)
        yield text(x + width / 2, y, word, theme["text"], 15, "middle", 400 if is_plain else 650)
        yield text(x + width / 2, y + 17, tag, colour, 11 if tag != "?" else 15, "middle", 400 if is_plain else 650)
        x += width + 5


def scatter(x: float, y: float, theme: Theme) -> Iterable[str]:
    """Yield the map of the datastore: clusters of keys, a query, and lines to its nearest keys."""
    random = Random(3)
    clusters = {"O": (70, 112, 42, 120), "PER": (212, 58, 19, 26), "LOC": (236, 128, 20, 26), "ORG": (158, 166, 20, 26)}
    for name, (cx, cy, spread, number) in clusters.items():
        for _ in range(number):
            radius, angle = spread * math.sqrt(random.random()) * 1.15, random.uniform(0, 2 * math.pi)
            yield dot(x + cx + radius * math.cos(angle), y + cy + radius * math.sin(angle), 3.2, theme[name])
    for name, cx, cy in (("O", 18, 52), ("PER", 176, 50), ("LOC", 200, 120), ("ORG", 116, 190)):
        yield text(x + cx, y + cy, name, theme["muted"] if name == "O" else theme[name], 12, "middle", 650)
    query = x + 196, y + 208
    nearest = ((228, 190), (232, 222), (204, 236), (240, 206))
    for px, py in nearest:
        yield (
            f'<line x1="{query[0]:g}" y1="{query[1]:g}" x2="{x + px:g}" y2="{y + py:g}" '
            f'stroke="{theme["query"]}" stroke-width="1.3" stroke-dasharray="3 2"/>'
        )
    for px, py in (*nearest, (258, 222), (254, 192), (236, 240), (262, 208)):
        yield dot(x + px, y + py, 3.6, theme["EVENT"])
    yield text(x + 252, y + 262, "EVENT", theme["EVENT"], 12, "middle", 650)
    yield dot(*query, 5, theme["query"])
    yield dot(*query, 8.5, theme["query"], filled=False)


def vote(x: float, y: float, theme: Theme) -> Iterable[str]:
    """Yield the nearest keys, each with its similarity and its share of the vote."""
    yield text(x, y, "cosine", theme["muted"], 11)
    yield text(x + 160, y, "share of the vote", theme["muted"], 11)
    for number, (word, similarity, share) in enumerate(NEIGHBOURS):
        line = y + 24 + 26 * number
        yield text(x, line, f"{similarity:.3f}", theme["muted"], 13)
        yield text(x + 48, line, word, theme["text"], 14)
        yield bar(x + 160, line - 10, 90 * share, theme["EVENT"])
        yield text(x + 166 + 90 * share, line, f"{share:.2f}", theme["muted"], 11)
    yield text(x, y + 140, "and twelve more; together:", theme["text"], 13)
    yield text(x, y + 160, f"p_kNN(B-EVENT) = {P_KNN['B-EVENT']:.3f}", theme["EVENT"], 14, weight=650)


def softmax(x: float, y: float, theme: Theme) -> Iterable[str]:
    """Yield the tagger's probabilities."""
    for number, (tag, share) in enumerate({**P_NER, "others": 1 - sum(P_NER.values())}.items()):
        line, colour = y + 26 * number, theme["O"] if tag == "others" else tag_colour(tag, theme)
        yield text(x, line, tag, theme["muted"] if tag == "others" else colour, 14, weight=400 if tag == "others" else 650)
        yield bar(x + 80, line - 11, 150 * share, colour)
        yield text(x + 86 + 150 * share, line, f"{share:.2f}", theme["muted"], 12)


def mix(x: float, y: float, theme: Theme) -> Iterable[str]:
    """Yield the mixed probabilities, the part of the vote and that of the tagger side by side."""
    for number, (tag, vote_share) in enumerate(P_KNN.items()):
        line, colour = y + 26 * number, tag_colour(tag, theme)
        from_vote, from_tagger = KNN_WEIGHT * vote_share, (1 - KNN_WEIGHT) * P_NER[tag]
        yield text(x, line, tag, colour, 14, weight=650)
        if from_vote:
            yield bar(x + 80, line - 11, 130 * from_vote, colour)
        yield bar(x + 80 + 130 * from_vote, line - 11, 130 * from_tagger, colour, opacity=0.5)
        total = from_vote + from_tagger
        yield text(x + 86 + 130 * total, line, f"{total:.2f}", theme["muted"], 12)


def overview(theme: Theme) -> str:
    """Return the picture of the whole idea."""
    flow, ink, muted = theme["flow"], theme["text"], theme["muted"]
    train = [
        [("delays", "O"), ("on", "O"), ("Storm", "B-EVENT"), ("Odile", "I-EVENT")],
        [("where", "O"), ("Storm", "B-EVENT"), ("Padraig", "I-EVENT"), ("dropped", "O")],
        [("cost", "O"), ("of", "O"), ("Hurricane", "B-EVENT"), ("Bettina", "I-EVENT")],
    ]
    parts = [
        card(10, 10, 300, 296, theme),
        text(28, 38, "Training sentences", ink, 16, weight=650),
        text(28, 58, "every word, once, after fine-tuning", muted, 13),
        *(part for number, sentence in enumerate(train) for part in words(24, 98 + 56 * number, sentence, theme)),
        text(160, 272, "…", muted, 18, "middle"),
        card(10, 326, 300, 124, theme),
        text(28, 354, "A word to tag", ink, 16, weight=650),
        *words(24, 398, [("warned", ""), ("that", ""), ("Storm", "?"), ("Odile", "")], theme),
        card(350, 10, 62, 440, theme),
        f'<g transform="translate(387 230) rotate(-90)">{text(0, 0, "fine-tuned BERT", ink, 16, "middle", 650)}</g>',
        arrow([(310, 150), (350, 150)], flow),
        arrow([(310, 388), (350, 388)], theme["query"]),
        card(464, 10, 290, 296, theme),
        text(482, 38, "Datastore", ink, 16, weight=650),
        text(482, 58, "6,429 keys, each with its tag", muted, 13),
        *scatter(470, 42, theme),
        arrow([(412, 120), (464, 120)], flow),
        text(438, 110, "keys", muted, 13, "middle"),
        arrow([(412, 250), (464, 250), (656, 250)], theme["query"]),
        text(438, 240, "query", theme["query"], 13, "middle", 650),
        card(464, 326, 290, 124, theme),
        text(482, 354, "The tagger's own softmax", ink, 16, weight=650),
        *softmax(482, 384, theme),
        arrow([(412, 388), (464, 388)], theme["query"]),
        card(796, 10, 294, 216, theme),
        text(814, 38, "The 16 nearest vote", ink, 16, weight=650),
        *vote(814, 58, theme),
        arrow([(754, 150), (796, 150)], flow),
        card(796, 262, 294, 188, theme),
        text(814, 290, "Mix", ink, 16, weight=650),
        text(850, 290, "0.4 · vote + 0.6 · softmax", muted, 13),
        *mix(814, 322, theme),
        arrow([(943, 226), (943, 262)], flow),
        arrow([(754, 388), (796, 388)], flow),
        text(814, 392, "label", muted, 13),
        text(854, 394, "B-EVENT", theme["EVENT"], 19, weight=700),
        text(814, 418, "the tagger alone: B-ORG", muted, 13),
        text(814, 436, "gold: B-EVENT", muted, 13),
    ]
    title = (
        "Training words become keys with tags; a new word's nearest keys vote; the vote is mixed with the tagger's softmax."
    )
    return document(1100, 460, title, parts)


def pruning(theme: Theme) -> str:
    """Return the picture of the bound behind pruning: angles from the direction that tells the tags apart."""
    cx, cy, radius = 380.0, 300.0, 250.0
    muted, ink = theme["muted"], theme["text"]

    def at(degrees: float, r: float = radius) -> tuple[float, float]:
        angle = math.radians(degrees)
        return cx + r * math.sin(angle), cy - r * math.cos(angle)

    def spoke(degrees: float, r: float, colour: str, dash: str = "") -> str:
        x, y = at(degrees, r)
        style = f'stroke="{colour}" stroke-width="1.5"' + (f' stroke-dasharray="{dash}"' if dash else "")
        return f'<line x1="{cx:g}" y1="{cy:g}" x2="{x:.1f}" y2="{y:.1f}" {style}/>'

    def arc(start: float, stop: float, r: float, colour: str, width: float) -> str:
        (x0, y0), (x1, y1) = at(start, r), at(stop, r)
        style = f'fill="none" stroke="{colour}" stroke-width="{width:g}"'
        return f'<path d="M {x0:.1f} {y0:.1f} A {r:g} {r:g} 0 0 1 {x1:.1f} {y1:.1f}" {style}/>'

    random, parts = Random(1), [arc(-80, 80, radius, theme["edge"], 1.5)]
    for _ in range(46):
        angle = random.uniform(-78, -12)
        parts.append(dot(*at(angle), 4.2, theme["O"], filled=random.random() < 0.1 or angle > -26))
    for angle in (14, 18, 24, 30, 38, 41, 47, 52, 60, 66):
        parts.append(dot(*at(angle), 4.2, theme["EVENT"]))
    query = 34
    parts += [
        *(spoke(-26, radius + 26, muted, "5 4"), spoke(query, radius, theme["query"]), dot(*at(query), 6, theme["query"])),
        *(arc(query, 52, 190, theme["EVENT"], 3), arc(-26, query, 146, muted, 3)),
        text(*at(-27, radius + 34), "limit", muted, 13, "middle"),
        text(*at(query - 1, radius + 16), "query", theme["query"], 14, "middle", 650),
        text(*at(-52, radius + 22), "rows of O", muted, 14, "end", 650),
        text(*at(56, radius + 18), "rows of other tags", theme["EVENT"], 14, "start", 650),
        text(cx + 8, cy - 168, "a row that is left out", muted, 13, "middle"),
        text(cx + 8, cy - 122, "at least this far", muted, 13, "middle"),
        text(*at(58, 150), "k-th neighbour", theme["EVENT"], 13, "start"),
        dot(80, 318, 4.2, theme["O"]),
        text(92, 323, "row of O that is compared", ink, 13),
        dot(300, 318, 4.2, theme["O"], filled=False),
        text(312, 323, "row of O that is left out", ink, 13),
        dot(506, 318, 4.2, theme["EVENT"]),
        text(518, 323, "row of another tag: compared", ink, 13),
    ]
    return document(
        760, 340, "A row beyond the limit is farther from the query than the k-th neighbour, so it cannot vote.", parts
    )


def confidence(theme: Theme) -> str:
    """Return the plot of precision by score, before and after calibration, on test of the first evaluation recorded."""
    record = next(iter(json.loads(CONFIDENCE.read_text(encoding="utf-8")).values()))["test"]
    left, top, size = 70.0, 30.0, 330.0

    def at(score: float, precision: float) -> tuple[float, float]:
        return left + size * score, top + size * (1 - precision)

    def line(points: Sequence[tuple[float, float]], colour: str, dash: str = "") -> str:
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        style = f'fill="none" stroke="{colour}" stroke-width="1.5"' + (f' stroke-dasharray="{dash}"' if dash else "")
        return f'<polyline points="{joined}" {style}/>'

    parts = [line([at(0, 1), at(0, 0), at(1, 0)], theme["edge"]), line([at(0, 0), at(1, 1)], theme["muted"], "2 4")]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        (x, y), label = at(tick, tick), f"{tick:g}"
        parts += [
            text(x, top + size + 20, label, theme["muted"], 12, "middle"),
            text(left - 10, y + 4, label, theme["muted"], 12, "end"),
        ]
    looks = [("before", theme["LOC"], "5 4"), ("after", theme["EVENT"], "")]
    if record["bins_before"] == record["bins_after"]:
        looks = looks[1:]
    most = max(each["entities"] for name, *_ in looks for each in record[f"bins_{name}"])
    for place, (name, colour, dash) in enumerate(looks):
        points = [at(each["score"], each["precision"]) for each in record[f"bins_{name}"]]
        radii = [round(3 + 6 * math.sqrt(each["entities"] / most), 1) for each in record[f"bins_{name}"]]
        parts += [
            line(points, colour, dash),
            *(dot(*point, radius, colour) for point, radius in zip(points, radii, strict=True)),
        ]
        y = top + 30 + 26 * place
        parts += [
            dot(left + size + 30, y, 6, colour),
            text(left + size + 44, y + 5, name if len(looks) > 1 else "score", theme["text"], 14),
        ]
    parts += [
        text(left + size / 2, top + size + 44, "score", theme["text"], 14, "middle"),
        text(left, top - 12, "precision", theme["text"], 14, "middle"),
    ]
    return document(520, 420, "Precision on test by score; larger dots are of more entities.", parts)


def images() -> dict[str, str]:
    """Return every picture by the name of its file."""
    drawings = {"overview": overview, "pruning": pruning, "confidence": confidence}
    return {f"{name}-{theme}.svg": draw(THEMES[theme]) for name, draw in drawings.items() for theme in THEMES}


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, svg in images().items():
        (FOLDER / name).write_text(svg, encoding="utf-8")
        print(f"wrote {FOLDER / name}")


if __name__ == "__main__":
    main()
