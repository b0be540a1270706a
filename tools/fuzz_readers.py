"""Read damaged files of every format and report what breaks a reader: `python -m tools.fuzz_readers 600`.

Valid files, written by the tests' writers, are damaged at random: bytes, numbers and JSON values are changed, cut, repeated
and mixed. Nothing but a `RawSplit` or an `InputError` may come of one, within seconds and a few gigabytes; what is read
without a bad line must survive being written as a column file and read again. A failure prints its seed, which
`python -m tools.fuzz_readers 1 --seed SEED` repeats, and leaves the file in build/fuzz.
"""

import argparse
import copy
import importlib.util
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from helpers.span_files import SUFFIXES, WRITERS, Text  # noqa: E402

from knn_ner_jax.config import DataConfig  # noqa: E402
from knn_ner_jax.data import tag_schemes  # noqa: E402
from knn_ner_jax.data.columns import parse_columns  # noqa: E402
from knn_ner_jax.data.formats import detection  # noqa: E402
from knn_ner_jax.data.readers import RawSplit  # noqa: E402
from knn_ner_jax.data.spans import Span  # noqa: E402
from knn_ner_jax.data.words import word_spans  # noqa: E402
from knn_ner_jax.io import InputError  # noqa: E402
from knn_ner_jax.main import convert  # noqa: E402

MEMORY = 6 << 30  # bytes
SECONDS = 5  # for one file
NUMBERS = ["-1", "0", "1", "2", "9", "99999", "1" + "0" * 30, "1e9", "1.5", "true", "null", "NaN", "1" * 5000, "٣", "²"]
PIECES = [
    *("\0", "\\ud800", "\\u0000", "\ud83d", "\ufeff", "\u2028", "\x1c", "\x0b", "\r", "\r\n", "\n\n", "\t", "\t\t", " "),
    *('"\\{}[]<>&|_*-#,;=/', "[" * 3000, "[1]", "# ", "|t|", "\t0\t1\t", "😀", "e\u0301", "\u200b", "B-", "I-X", "O"),
    *("&lt;", "&x;", "<!ENTITY a 'b'>", "<!DOCTYPE c [", "]]>", "<![CDATA[", "-DOCSTART-"),
]
VALUES: list[object] = [
    None,
    True,
    False,
    -1,
    0,
    1.5,
    10**30,
    "",
    "a",
    "\ud800",
    "\0",
    "X-",
    " x",
    "a\nb",
    [],
    {},
    [[]],
    [0, 1, "X"],
    {"a": 1},
]
OWN = {
    "msra": "中共/nt 致/o 李/nr \n\n在/o 北京/ns １／２\\/3/o\n",
    "weibo": "科0\tB-PER.NAM\n技1\tI-PER.NAM\n10\tO\n\n#0\tO\n",
    "conll2012": "#begin document (x); part 000\n"
    "x 0 0 Mr NNP * - - - A (PERSON* * -\nx 0 1 X NNP * - - - A *) * -\n\nx 0 0 a b * - - - A * * -\n#end document\n",
}


def _some_text(generator: random.Random) -> Text:
    signs = ["Ann", "Lee", "-", " ", " ", " ", "京", "😀", "e\u0301", "don't", ".", "3,000", "👩\u200d🚒", "\u00a0"]
    text = "".join(generator.choices(signs, k=generator.randint(1, 12)))
    words = word_spans(text)
    numbers = sorted(generator.sample(range(len(words) + 1), min(len(words) + 1, generator.choice([0, 2, 4]))))
    spans = [
        Span(words[a][0], words[b - 1][1], generator.choice(["PER", "a b"]))
        for a, b in zip(numbers[::2], numbers[1::2], strict=False)
    ]
    return Text(text, words, spans)


def _valid_file(path: Path, name: str, generator: random.Random) -> Path:
    if name in OWN:
        path.write_text(OWN[name], encoding="utf-8")
        return path
    texts = [text for text in (_some_text(generator) for _ in range(generator.randint(1, 4))) if text.words]
    return generator.choice(WRITERS[name])(path, texts or [Text("a", [(0, 1)], [])])


def damage_json(content: bytes, generator: random.Random) -> bytes:
    """Return JSON, an array or lines, with values changed, cut or left out."""
    text = content.decode()
    try:
        items = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return content
    for _ in range(generator.randint(1, 3)):
        node = items
        while isinstance(node, (list, dict)) and node:
            key = generator.choice(range(len(node)) if isinstance(node, list) else list(node))
            below = node[key]
            if not isinstance(below, (list, dict)) or not below or generator.random() < 0.2:
                if generator.random() < 0.2:
                    del node[key]
                else:
                    node[key] = copy.deepcopy(generator.choice(VALUES))
                break
            node = below
    if generator.random() < 0.5:
        return json.dumps(items, indent=generator.choice([None, 1])).encode()
    return "\n".join(map(json.dumps, items)).encode()


def damage_bytes(content: bytes, generator: random.Random) -> bytes:
    """Return bytes with parts of them changed, cut, repeated and mixed."""
    for _ in range(generator.choice([1, 1, 2, 4])):
        size = len(content)
        start = generator.randint(0, size)
        end = min(size, start + generator.choice([0, 1, 1, 3, 20, 200]))
        kind = generator.randrange(8)
        numbers = [place for place in range(size) if content[place : place + 1].isdigit()]
        if kind == 0:
            middle = b""
        elif kind == 1:
            middle = content[start:end] * 2
        elif kind == 2:
            middle = bytes(generator.randrange(256) for _ in range(generator.randint(1, 3)))
        elif kind == 3:
            return content[:start]
        elif kind == 4 and numbers:
            start = generator.choice(numbers)
            end = start + 1
            middle = generator.choice(NUMBERS).encode()
        elif kind == 5:
            lines = content.split(b"\n")
            generator.shuffle(lines)
            return b"\n".join(lines)
        else:
            middle = generator.choice(PIECES).encode(errors="surrogatepass")
        content = content[:start] + middle + content[end:]
    return content


def _damage(content: bytes, name: str, generator: random.Random) -> bytes:
    if name == "spacy" and generator.random() < 0.8:
        return zlib.compress(damage_bytes(zlib.decompress(content), generator))
    if content[:1] in (b"{", b"[") and generator.random() < 0.6:
        return damage_json(content, generator)
    return damage_bytes(content, generator)


def _check(raw: RawSplit, path: Path, name: str, folder: Path) -> str:
    """Return what came of a file; raise AssertionError where it is nothing that may."""
    for line in raw.bad_lines:
        assert "\n" not in line, line
        assert len(line) < 2000 or name == "weibo", line
        line.encode()
    for rows in [] if raw.bad_lines else raw.sentences:
        assert rows
        for row in rows:
            assert row.word.strip(" "), row
            assert not set(row.word) & set("\t\n\r\0"), row
            assert tag_schemes.is_tag(row.tag), row
            row.word.encode()
            row.tag.encode()
    assert all(isinstance(count, int) and count > 0 for count in raw.skipped.values()), raw.skipped
    assert len(raw.sha256) == 64
    if raw.bad_lines or not raw.sentences:
        return "bad" if raw.bad_lines else "empty"
    target = folder / "again.conll"
    convert.convert(name, path, target)
    again = parse_columns(target, DataConfig(""))
    target.unlink()
    assert not again.bad_lines, again.bad_lines[:1]
    assert [[row[:2] for row in rows] for rows in again.sentences] == [[row[:2] for row in rows] for rows in raw.sentences]
    return "read"


def run(seed: int, folder: Path, names: list[str]) -> str:
    """Read one damaged file; return its format and what came of it."""
    generator = random.Random(seed)
    name = generator.choice(names)
    path = _valid_file(folder / f"train{SUFFIXES.get(name, '.x')}", name, generator)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file == path or generator.random() < 0.5:
            file.write_bytes(_damage(file.read_bytes(), name, generator))
    cut_spans = generator.choice(["snap", "snap", "refuse"])
    start = time.monotonic()
    try:
        outcome = _check(detection.read(path, name, cut_spans), path, name, folder)
        detected = detection.detect(path)
        if detected is not None and detected != name:
            _check(detection.read(path, detected), path, detected, folder)
    except InputError:
        outcome = "refused"
    assert time.monotonic() - start < SECONDS, "it took too long"
    return f"{name} {outcome}"


def repeat(seconds: float, seed: int, run: Callable[[int, Path], str], keep: Callable[[int, Path], object]) -> None:
    """Run something with one seed after another, count what comes of it, print what it raises, and exit with 1 if it did.

    Args:
        seconds: how long to go on; it ends after 20 failures.
        seed: the first.
        run: what to do with a seed and an empty folder; returns what came of it.
        keep: keeps what a failed run left in its folder.
    """
    stop, outcomes, failures = time.monotonic() + seconds, Counter[str](), 0
    while time.monotonic() < stop and failures < 20:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            try:
                outcomes[run(seed, folder)] += 1
            except Exception as error:  # whatever it is, it is what this looks for
                failures += 1
                keep(seed, folder)
                place = traceback.extract_tb(error.__traceback__)[-1]
                print(f"seed {seed}: {place.filename}:{place.lineno}: {type(error).__name__}: {error!s:.300}", flush=True)
        seed += 1
    for outcome, count in sorted(outcomes.items()):
        print(f"{outcome}: {count}")
    print(f"{outcomes.total()} inputs, {failures} failures")
    sys.exit(failures > 0)


def main() -> None:
    """Read damaged files for the number of seconds that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, help="how long to go on")
    parser.add_argument("--seed", type=int, help="of the first file; default: the time")
    parser.add_argument("--format", action="append", help="one format, instead of all; may be repeated")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    names = arguments.format or [name for name in (*WRITERS, *OWN) if name != "spacy" or importlib.util.find_spec("spacy")]
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    print(f"first seed {seed}; formats {', '.join(names)}", flush=True)
    repeat(
        arguments.seconds,
        seed,
        lambda seed, folder: run(seed, folder, names),
        lambda seed, folder: shutil.copytree(folder, ROOT / "build" / "fuzz" / str(seed), dirs_exist_ok=True),
    )


if __name__ == "__main__":
    main()
