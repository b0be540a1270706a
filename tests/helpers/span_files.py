"""Files of annotation tools: writers of every format, and the sentences that are read from a file."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax import saxutils

from knn_ner_jax.data.formats import detection
from knn_ner_jax.data.readers import RawSplit
from knn_ner_jax.data.spans import Span


class Text(NamedTuple):
    """A line of text, where its words are, and its entities, each of whole words."""

    text: str
    words: Sequence[tuple[int, int]]
    spans: Sequence[Span]

    def word_numbers(self, span: Span) -> tuple[int, int]:
        """The first and the last word of an entity."""
        covered = [number for number, (start, end) in enumerate(self.words) if span.start <= start and end <= span.end]
        return covered[0], covered[-1]

    @property
    def word_texts(self) -> list[str]:
        return [self.text[start:end] for start, end in self.words]

    @property
    def tags(self) -> list[str]:
        tags = ["O"] * len(self.words)
        for span in self.spans:
            first, last = self.word_numbers(span)
            tags[first : last + 1] = [f"B-{span.type}"] + [f"I-{span.type}"] * (last - first)
        return tags


def utf16(text: str, place: int) -> int:
    return len(text[:place].encode("utf-16-le")) // 2


def num_bytes(text: str, place: int) -> int:
    return len(text[:place].encode())


def _json_lines(path: Path, records: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def write_brat(path: Path, texts: Sequence[Text]) -> Path:
    path.mkdir()
    for number, (text, _, entities) in enumerate(texts):
        rows = (f"T{i}\t{type_} {start} {end}\t{text[start:end]}\n" for i, (start, end, type_) in enumerate(entities))
        (path / f"{number:03}.txt").write_bytes(text.encode())
        (path / f"{number:03}.ann").write_bytes("".join(rows).encode())
    return path


def write_doccano(path: Path, texts: Sequence[Text], measure: Callable[[str, int], int] = utf16) -> Path:
    return _json_lines(
        path,
        [
            {
                "id": 1,
                "text": text,
                "label": [[measure(text, start), measure(text, end), type_] for start, end, type_ in spans],
            }
            for text, _, spans in texts
        ],
    )


def write_doccano_code_points(path: Path, texts: Sequence[Text]) -> Path:
    return write_doccano(path, texts, lambda text, place: place)


def write_label_studio(path: Path, texts: Sequence[Text]) -> Path:
    def result(text: str, start: int, end: int, type_: str) -> dict:
        value = {"start": start, "end": end, "text": text[start:end], "labels": [type_]}
        return {"value": value, "id": "x", "from_name": "label", "to_name": "text", "type": "labels"}

    tasks = [
        {"id": 1, "annotations": [{"result": [result(text, *span) for span in spans]}], "data": {"text": text}}
        for text, _, spans in texts
    ]
    path.write_text(json.dumps(tasks, indent=2), encoding="utf-8")
    return path


def write_prodigy(path: Path, texts: Sequence[Text]) -> Path:
    return _json_lines(
        path,
        [
            {
                "text": text,
                "_task_hash": 1,
                "tokens": [
                    {"text": text[start:end], "start": start, "end": end, "id": i} for i, (start, end) in enumerate(words)
                ],
                "spans": [{"start": start, "end": end, "label": type_} for start, end, type_ in spans],
                "answer": "accept",
            }
            for text, words, spans in texts
        ],
    )


def write_webanno(path: Path, texts: Sequence[Text]) -> Path:
    lines = ["#FORMAT=WebAnno TSV 3.3", "#T_SP=de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity|identifier|value", ""]
    base = 0
    for sentence, item in enumerate(texts, start=1):
        # A sentence begins with its first token.
        text = item.text[item.words[0][0] :] if item.words else item.text
        shift = len(item.text) - len(text)
        lines += ["", "#Text=" + text.replace("\\", "\\\\").replace("\t", "\\t")]
        values = ["_"] * len(item.words)
        for number, span in enumerate(item.spans, start=1):
            first, last = item.word_numbers(span)
            value = "".join("\\" + sign if sign in "\\[]|_;*" else sign for sign in span.type).replace("->", "\\->")
            values[first : last + 1] = [f"{value}[{sentence}{number:03}]"] * (last - first + 1)
        for number, ((start, end), value) in enumerate(zip(item.words, values, strict=True), start=1):
            place = f"{base + utf16(text, start - shift)}-{base + utf16(text, end - shift)}"
            lines.append(f"{sentence}-{number}\t{place}\t{item.text[start:end]}\t*\t{value}\t")
        base += utf16(text, len(text)) + 1
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_bioc(path: Path, texts: Sequence[Text], measure: Callable[[str, int], int] = num_bytes) -> Path:
    passages, base = [], 0
    for text, _, spans in texts:
        annotations = "".join(
            f'<annotation id="1"><infon key="type">{saxutils.escape(type_)}</infon>'
            f'<location offset="{base + measure(text, start)}" length="{measure(text, end) - measure(text, start)}"/>'
            f"<text>{saxutils.escape(text[start:end])}</text></annotation>"
            for start, end, type_ in spans
        )
        passages.append(f"<passage><offset>{base}</offset><text>{saxutils.escape(text)}</text>{annotations}</passage>\n")
        base += measure(text, len(text)) + 1
    body = f"<document><id>1</id>\n{''.join(passages)}</document>"
    head = "<?xml version='1.0' encoding='UTF-8'?>\n<!DOCTYPE collection SYSTEM 'BioC.dtd'>\n"
    path.write_text(f"{head}<collection><source/><date/><key/>{body}</collection>\n", encoding="utf-8")
    return path


def write_bioc_code_points(path: Path, texts: Sequence[Text]) -> Path:
    return write_bioc(path, texts, lambda text, place: place)


def write_pubtator(path: Path, texts: Sequence[Text]) -> Path:
    blocks = []
    for number, (text, _, spans) in enumerate(texts, start=1):
        rows = (f"{number}\t{start}\t{end}\t{text[start:end]}\t{type_}\tD1\n" for start, end, type_ in spans)
        blocks.append(f"{number}|t|{text}\n{number}|a|\n{''.join(rows)}")
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


def write_cluener(path: Path, texts: Sequence[Text]) -> Path:
    records = []
    for text, _, spans in texts:
        label: dict[str, dict[str, list[list[int]]]] = {}
        for start, end, type_ in spans:
            label.setdefault(type_, {}).setdefault(text[start:end], []).append([start, end - 1])
        records.append({"text": text, "label": label})
    return _json_lines(path, records)


def write_cmeee(path: Path, texts: Sequence[Text], inclusive: bool = True) -> Path:
    records = [
        {
            "text": text,
            "entities": [
                {"start_idx": start, "end_idx": end - inclusive, "type": type_, "entity": text[start:end]}
                for start, end, type_ in spans
            ],
        }
        for text, _, spans in texts
    ]
    path.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def write_cmeee_exclusive(path: Path, texts: Sequence[Text]) -> Path:
    return write_cmeee(path, texts, inclusive=False)


def write_gliner(path: Path, texts: Sequence[Text]) -> Path:
    records = [
        {"tokenized_text": item.word_texts, "ner": [[*item.word_numbers(span), span.type] for span in item.spans]}
        for item in texts
    ]
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def _write_rows(path: Path, texts: Sequence[Text], middle: str, last: str) -> Path:
    rows = (
        "".join(
            f"{number}\t{word}\t{middle.format(tag)}{last.format(tag)}\n"
            for number, (word, tag) in enumerate(zip(item.word_texts, item.tags, strict=True), start=1)
        )
        for item in texts
    )
    path.write_text("".join(f"# sent_id = x\n{block}\n" for block in rows), encoding="utf-8")
    return path


def write_conllu(path: Path, texts: Sequence[Text]) -> Path:
    return _write_rows(path, texts, "_\t" * 7, "SpaceAfter=No|name={}")


def write_uner(path: Path, texts: Sequence[Text]) -> Path:
    return _write_rows(path, texts, "{}\t-\t", "someone")


def write_hipe(path: Path, texts: Sequence[Text]) -> Path:
    header = "TOKEN NE-COARSE-LIT NE-COARSE-METO NE-FINE-LIT NE-FINE-METO NE-FINE-COMP NE-NESTED NEL-LIT NEL-METO MISC"
    lines = [header.replace(" ", "\t"), "# hipe2022:document_id = x"]
    for item in texts:
        for number, (word, tag) in enumerate(zip(item.word_texts, item.tags, strict=True), start=1):
            flag = "NoSpaceAfter|EndOfSentence" if number == len(item.words) else "_"
            lines.append("\t".join([word, tag, *"_______", flag]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_spacy(path: Path, texts: Sequence[Text]) -> Path:
    from spacy.tokens import Doc, DocBin
    from spacy.tokens import Span as SpacySpan
    from spacy.vocab import Vocab

    vocab, docs = Vocab(), []
    for item in texts:
        doc = Doc(vocab, words=item.word_texts)
        numbers = [(*item.word_numbers(span), span.type) for span in item.spans]
        doc.ents = [SpacySpan(doc, first, last + 1, label=type_) for first, last, type_ in numbers]
        docs.append(doc)
    path.write_bytes(DocBin(docs=docs).to_bytes())
    return path


# The format that a file is read in -> what writes it; several where releases of it differ.
WRITERS: dict[str, list[Callable[[Path, Sequence[Text]], Path]]] = {
    "brat": [write_brat],
    "doccano": [write_doccano],
    "doccano-code-points": [write_doccano_code_points],
    "label-studio": [write_label_studio],
    "prodigy": [write_prodigy],
    "webanno": [write_webanno],
    "spacy": [write_spacy],
    "bioc": [write_bioc, write_bioc_code_points],
    "pubtator": [write_pubtator],
    "cluener": [write_cluener],
    "cmeee": [write_cmeee, write_cmeee_exclusive],
    "gliner": [write_gliner],
    "conllu": [write_conllu],
    "hipe": [write_hipe],
    "uner": [write_uner],
}
SUFFIXES = {"spacy": ".spacy", "brat": ""}


def sentences_of(raw: RawSplit) -> list[str]:
    """The sentences of a file, each as `word/TAG word/TAG`."""
    return [" ".join(f"{row.word}/{row.tag}" for row in rows) for rows in raw.sentences]


def read(path: Path, name: str, content: str | bytes | None = None, cut_spans: str = "snap") -> RawSplit:
    """A file read in a format, after it was written where there is content."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return detection.read(path, name, cut_spans)  # type: ignore[arg-type]


def faults(raw: RawSplit) -> list[str]:
    """The bad lines of a file, without the folders before its name."""
    return [line.replace(f"{raw.path.parent}/", "") for line in raw.bad_lines]
