"""Fine-tuning as one writes it by hand with PyTorch, transformers and seqeval: what train.py is compared with.

    python -m benchmarks.peer_train BACKBONE CORPUS OUTPUT [--epochs 5] [--batch 16] [--learning-rate 5e-5] [--seed 0]

CORPUS has train.*, dev.* and test.*, a word and its IOB2 tag on each line. Batches are of sentences of similar length; dev
is scored after every epoch, and the best tagger goes to OUTPUT. The last line printed is JSON: the best dev F1, and seconds.
"""

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

IGNORED = -100  # the label of positions without loss
MAX_LENGTH = 512
WARMUP, WEIGHT_DECAY, MAX_NORM = 0.1, 0.01, 1.0
POOL = 50  # batches whose sentences are sorted by length

Sentence = tuple[list[str], list[str]]  # words, tags
Row = tuple[list[int], list[int]]  # ids of pieces, positions of the words' first pieces


def read_columns(folder: Path, split: str) -> list[Sentence]:
    """Read the sentences of a split: a word first and a tag last on each line, an empty line between sentences."""
    (path,) = folder.glob(f"{split}.*")
    lines = [line.split() for line in path.read_text(encoding="utf-8").split("\n")]
    ends = [-1, *(number for number, line in enumerate(lines) if not line or line[0] == "-DOCSTART-"), len(lines)]
    blocks = (lines[end + 1 : next_end] for end, next_end in itertools.pairwise(ends))
    return [([line[0] for line in block], [line[-1] for line in block]) for block in blocks if block]


def first_pieces(word_ids: list[int | None]) -> list[int]:
    """Return the position of the first piece of each word.

    >>> first_pieces([None, 0, 0, 1, None])
    [1, 3]
    """
    return [i for i, word in enumerate(word_ids) if word is not None and word != word_ids[i - 1]]


def tokenize(tokenizer: Any, sentences: list[Sentence]) -> list[Row]:
    """Return a row for each sentence; what exceeds the model's length is cut off."""
    encoded = tokenizer([words for words, _ in sentences], is_split_into_words=True, truncation=True, max_length=MAX_LENGTH)
    return [(encoded["input_ids"][i], first_pieces(encoded.word_ids(i))) for i in range(len(sentences))]


def pad(rows: list[list[int]], value: int = 0) -> torch.Tensor:
    """Stack rows of different lengths."""
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


def inputs(rows: list[Row], batch: list[int]) -> dict[str, torch.Tensor]:
    """Return what the model takes of some rows."""
    return {"input_ids": pad([rows[i][0] for i in batch]), "attention_mask": pad([[1] * len(rows[i][0]) for i in batch])}


def sorted_batches(rows: list[Row], size: int) -> Iterator[list[int]]:
    """Yield the numbers of the rows of each batch, by length."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    yield from (order[start : start + size] for start in range(0, len(order), size))


def make_optimizer(model: Any, learning_rate: float, steps: int) -> tuple[Any, Any]:
    """Return AdamW, biases and norms without decay, and a schedule that rises and falls linearly."""
    plain = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    return optimizer, transformers.get_linear_schedule_with_warmup(optimizer, int(WARMUP * steps), steps)


def train_step(
    model: Any,
    batch: dict[str, torch.Tensor],
    optimizer: Any,
    schedule: Any,
    precision: AbstractContextManager | None = None,
) -> None:
    """Take one step; `precision` surrounds the forward pass."""
    with precision or nullcontext():
        loss = model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()


def make_batches(rows: list[Row], size: int, generator: random.Random) -> Iterator[list[int]]:
    """Yield the numbers of the rows of each batch: in random order, of similar lengths."""
    order = generator.sample(range(len(rows)), len(rows))
    pools = [order[start : start + POOL * size] for start in range(0, len(order), POOL * size)]
    order = [i for pool in pools for i in sorted(pool, key=lambda i: len(rows[i][0]))]
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    generator.shuffle(batches)
    yield from batches


def score(model: Any, rows: list[Row], gold: list[Sentence], names: list[str], size: int) -> float:
    """Return the strict F1 of a split in percent."""
    predicted: list[list[str]] = [[]] * len(rows)
    model.eval()
    with torch.inference_mode():
        for batch in sorted_batches(rows, size):
            best = model(**inputs(rows, batch)).logits.argmax(-1)
            for row, i in enumerate(batch):
                cut = len(gold[i][0]) - len(rows[i][1])
                predicted[i] = [names[label] for label in best[row, rows[i][1]].tolist()] + ["O"] * cut
    return 100 * f1_score([tags for _, tags in gold], predicted, mode="strict", scheme=IOB2)


def main() -> None:
    """Train, score dev after every epoch, keep the best."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    generator = random.Random(arguments.seed)
    train, dev = (read_columns(arguments.corpus, split) for split in ("train", "dev"))
    names = ["O", *sorted({tag for _, tags in train for tag in tags} - {"O"})]
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.backbone)
    model: Any = transformers.AutoModelForTokenClassification.from_pretrained(
        arguments.backbone,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={n: i for i, n in enumerate(names)},
    )
    rows, dev_rows = tokenize(tokenizer, train), tokenize(tokenizer, dev)
    labels = [[IGNORED] * len(ids) for ids, _ in rows]
    for (_, tags), (_, positions), of_sentence in zip(train, rows, labels, strict=True):
        for position, tag in zip(positions, tags, strict=False):
            of_sentence[position] = names.index(tag)
    steps = arguments.epochs * -(-len(rows) // arguments.batch)
    optimizer, schedule = make_optimizer(model, arguments.learning_rate, steps)
    best = -1.0
    for _ in range(arguments.epochs):
        model.train()
        for batch in make_batches(rows, arguments.batch, generator):
            targets = pad([labels[i] for i in batch], IGNORED)
            train_step(model, {**inputs(rows, batch), "labels": targets}, optimizer, schedule)
        f1 = score(model, dev_rows, dev, names, arguments.batch)
        if f1 > best:
            best = f1
            model.save_pretrained(arguments.output)
            tokenizer.save_pretrained(arguments.output)
    print(json.dumps({"dev": best, "seconds": {"all": time.perf_counter() - started}}))


if __name__ == "__main__":
    main()
