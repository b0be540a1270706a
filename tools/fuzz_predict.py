"""Tag random input of every format and report what breaks `predict`: `python -m tools.fuzz_predict RUN 600`.

Valid inputs of sentences of all scripts are written as each format, some are damaged as `fuzz_readers` damages files, and
they are given as a file, on standard input or on the command line. Nothing but sentences or an `InputError` that says where
may come of one, within seconds. What was written whole must come back as it was; tokens are kept, every word gets a label,
and every entity is a slice of its text. A failure prints its seed, which `--seed SEED` repeats, and leaves the input in
build/fuzz.
"""

import argparse
import io
import json
import random
import re
import sys
import time
from pathlib import Path

import knn_ner_jax as kn
from knn_ner_jax.data.texts import STANDARD_INPUT, Document, TextReader
from knn_ner_jax.data.words import split_words
from knn_ner_jax.io import InputError
from knn_ner_jax.knn_tagger import KnnTagger
from tools.fuzz_readers import PIECES, ROOT, SECONDS, damage_bytes, damage_json, repeat

FORMATS = ("text", "tokens", "jsonl", "conll")
TAGGED = 4  # sentences at a time, of few words, so that the compiled programs have few shapes
WORDS = 24
PLACE = re.compile(r"(.*:\d+|text \d+|standard input|--\w+|input\.\w+|.*/input\.?\w*|text)(: |$)", re.DOTALL)
SIGNS = [
    *("Ann", "Lee", "Helsinki", "'s", "don't", "U.S.", "3,000", "1/2", "-", ".", "@ann_lee", "#", "# 1", "O", "B-PER", "\\"),
    *("दिल्ली", "সে", "சென்னை", "ශ්\u200dරී", "བོད་", "מֹשֶׁה", "قَالَ", "می\u200cخواهم", "สมชาย", "မြန်", "ភ្នំ", "北京", "東京タワー"),
    *(
        "\u1112\u1161\u11ab",
        "한국",
        "👩\u200d👩\u200d👧",
        "🏳️\u200d🌈",
        "🇩🇪",
        "1️⃣",
        "e\u0301",
        "Ի՞նչ",
        "O‘zbek",
        "\u0301",
        "\ufe0f",
    ),
    *(
        "\u200f",
        "\u202a",
        "\u200b",
        "\u00ad",
        "\u00a0",
        "\u3000",
        "\u2028",
        "\x85",
        "\x0c",
        "\x1c",
        "\0",
        "\ufffd",
        "\ufeff",
    ),
    *("[SEP]", "[UNK]", "-DOCSTART-", "<s>", "&amp;", '"', "{", "a" * 300, "\U0010ffff", "\ue000", "x" + "\u0301" * 40),
]


def _words(generator: random.Random) -> list[str]:
    return generator.choices(SIGNS, k=generator.choice([1, 2, 5, 12]))


def _is_token(word: str) -> bool:
    return word not in ("-DOCSTART-", "\ufeff") and not set(word) & set(" \t\r\n")  # these are left out


def _valid(text_format: str, generator: random.Random) -> tuple[bytes, list[str | tuple[str, ...]]]:
    """Return an input, and its sentences as they must be read."""
    sentences: list[str | tuple[str, ...]] = []
    lines: list[str] = []
    for _ in range(generator.randint(1, 6)):
        words = tuple(filter(_is_token, _words(generator))) or ("Ann",)
        text = generator.choice(["", " "]).join(words)
        if text_format == "text":
            sentences.append(text)
            lines.append(text)
        elif text_format == "tokens":
            sentences.append(words)
            lines.append(generator.choice([" ", "\t", "  "]).join(words))
        elif text_format == "jsonl":
            choices: list[tuple[str | tuple[str, ...], object]] = [
                (words, list(words)),
                (words, {"tokens": words, "id": 1}),
                (text, {"text": text}),
            ]
            sentence, record = generator.choice(choices)
            sentences.append(sentence)
            lines.append(json.dumps(record, ensure_ascii=generator.random() < 0.5))
        else:
            sentences.append(words)
            lines += [f"{word}\tO" for word in words]
            lines += [""] * generator.choice([1, 1, 2])
    if text_format == "text":
        sentences = [each for each in sentences if not isinstance(each, str) or split_words(each)]
    end = generator.choice(["\n", "\n", "\r\n", "\r"])
    content = end.join(lines) + generator.choice(["", end])
    return generator.choice([b"", b"\xef\xbb\xbf"]) + content.encode(), sentences


def _other_encoding(content: bytes, generator: random.Random) -> bytes:
    text = content.decode()
    return generator.choice(
        [
            text.encode("utf-16"),
            text.encode("utf-16-le"),
            text.encode("utf-32"),
            text.encode("latin-1", "replace"),
            text.encode("utf-8") * 50,
            text.replace("\n", " ").encode(),
            b"",
            b"\xef\xbb\xbf",
        ]
    )


def _read(content: bytes, text_format: str, folder: Path, generator: random.Random) -> list[Document]:
    way = generator.choice(["file", "file", "standard input", "arguments"])
    if way == "arguments" and text_format != "conll" and b"\0" not in content:
        arguments = [part.decode("utf-8", "surrogateescape") for part in content.split(b"\n")]
        return list(TextReader(text_format).arguments(arguments))
    if way == "standard input":
        sys.stdin = io.TextIOWrapper(io.BytesIO(content))
        try:
            return list(TextReader(text_format).read(STANDARD_INPUT))
        finally:
            sys.stdin = sys.__stdin__
    endings = {"text": "txt", "tokens": "tok", "jsonl": "jsonl", "conll": "conll"}
    path = folder / f"input.{endings[text_format]}"
    path.write_bytes(content)
    named = generator.choice(["auto", text_format]) if text_format != "tokens" else text_format
    return list(TextReader(named).read(str(path)))


def _given(document: Document) -> str | tuple[str, ...]:
    return document.fields.get("text", document.words)


def _check(documents: list[Document], tagger: KnnTagger) -> None:
    assert documents
    short: list[str | tuple[str, ...]] = []
    for each in documents:
        each.text.encode()  # no halves of surrogate pairs
        assert all(each.words)
        assert each.words == tuple(each.text[start:end] for start, end in each.spans)
        if len(each.words) <= WORDS and sum(map(len, each.words)) < 100:
            short.append(_given(each))
    # As many words in every call: the programs that vote are compiled for their number.
    short = short[:TAGGED]
    num_words = sum(len(split_words(each) if isinstance(each, str) else each) for each in short)
    filler = ("Ann",) * (TAGGED * WORDS + 1 - num_words)
    for text, tagged in zip(short, tagger.tag([*short, filler])[:-1], strict=True):
        words = split_words(text) if isinstance(text, str) else text
        assert tagged.words == words
        assert len(tagged.labels) == len(words)
        assert tagged.text == (text if isinstance(text, str) else " ".join(text))
        for entity in tagged.entities:
            first, end = entity.words
            assert 0 <= first < end <= len(words)
            assert entity.word == tagged.text[entity.start : entity.end]
            assert entity.word.startswith(words[first])
            assert entity.word.endswith(words[end - 1])


def run(seed: int, folder: Path, tagger: KnnTagger) -> str:
    """Read and tag one input; return its format and what came of it."""
    generator = random.Random(seed)
    text_format = generator.choice(FORMATS)
    content, sentences = _valid(text_format, generator)
    damage = generator.choice(["none", "bytes", "bytes", "pieces", "json", "encoding"])
    if damage == "bytes":
        content = damage_bytes(content, generator)
    elif damage == "pieces":
        content += "".join(generator.choices(PIECES, k=5)).encode(errors="surrogatepass")
    elif damage == "json" and text_format == "jsonl":
        content = damage_json(content.removeprefix(b"\xef\xbb\xbf"), generator)
    elif damage == "encoding":
        content = _other_encoding(content, generator)
    (folder / "content").write_bytes(content)
    start = time.monotonic()
    try:
        texts, refusal = _read(content, text_format, folder, generator), ""
    except InputError as error:
        refusal = str(error)
    assert time.monotonic() - start < SECONDS, "it took too long"
    if refusal:
        assert damage != "none" or not sentences or b"\r" in content, refusal
        assert PLACE.match(refusal), refusal
        assert "\n" not in refusal, refusal
        assert len(refusal) < 1000, refusal
    else:
        if damage == "none" and b"\r" not in content:  # which ends no argument
            read = [each.removeprefix("\ufeff") if isinstance(each, str) else each for each in map(_given, texts)]
            assert read == sentences, (read, sentences)
        _check(texts, tagger)
    return f"{text_format} {damage} {'refused' if refusal else 'tagged'}"


def main() -> None:
    """Tag random input for the number of seconds that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of an evaluation")
    parser.add_argument("seconds", type=float, help="how long to go on")
    parser.add_argument("--seed", type=int, help="of the first input; default: the time")
    arguments = parser.parse_args()
    tagger = kn.load(arguments.run)
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    print(f"first seed {seed}", flush=True)

    def keep(seed: int, folder: Path) -> None:
        kept = ROOT / "build" / "fuzz" / f"predict-{seed}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes((folder / "content").read_bytes())

    repeat(arguments.seconds, seed, lambda seed, folder: run(seed, folder, tagger), keep)


if __name__ == "__main__":
    main()
