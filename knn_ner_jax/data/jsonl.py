"""JSON lines: each line an object whose `tokens` are words and whose `ner_tags` are as many tag names."""

import json
from pathlib import Path

from knn_ner_jax.data.records import Parsed, open_text


def parse(path: Path) -> Parsed:
    """Reads a file of JSON lines; fields other than `tokens` and `ner_tags` are not looked at, nor are blank lines."""
    parsed, lines = open_text(path)
    for number, line in lines:
        if not line.strip(" \t"):
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            parsed.reject(number, f"what is no JSON ({error})", "an object with tokens and ner_tags")
            continue
        if not isinstance(record, dict) or not {"tokens", "ner_tags"} <= record.keys():
            kind = f"an object with {', '.join(record) or 'nothing'}" if isinstance(record, dict) else type(record).__name__
            parsed.reject(number, kind, "an object with tokens and ner_tags")
        else:
            parsed.add_record(number, record["tokens"], record["ner_tags"])
    return parsed
