"""The memory of a tagger: the datastore as it was built, and every edit since, each of which makes a version.

The rows of all shards, in the order in which these came into being, are numbered; a version is a choice of them, with their
labels. An edit writes what it adds or changes to files of its own, syncs them, and then replaces the log, which names them
with their checksums: a process that dies leaves the version before, or the one after. No other file is ever written twice,
so that who reads a version keeps it. One process edits at a time, and first reads what others have done.

    edit-00001.safetensors   rows that edit 1 adds, a shard like those that were built
    edit-00001.json          words and sources of its sentences; or the rows that it removes or labels anew
    log.json                 the edits
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from knn_ner_jax.data.batching import ROW_LENGTH
from knn_ner_jax.data.tag_schemes import OUTSIDE, LabelSet, Sentence
from knn_ner_jax.data.texts import check_tag, tagged_sentence
from knn_ner_jax.data.tokenization import encode
from knn_ner_jax.io import InputError, exclusive_lock, file_sha256, sync_and_hash, sync_folder, write_json
from knn_ner_jax.knn import storage
from knn_ner_jax.knn.build import few_keys
from knn_ner_jax.knn.datastore import LABEL_COLUMNS, Datastore, EditableRows, place_numbered
from knn_ner_jax.knn.storage import LOG, DatastoreError, Edit, Fingerprint, ShardFile, Source, Stored, StoredSentences, Words
from knn_ner_jax.run_dir import load_evaluation

if TYPE_CHECKING:
    from knn_ner_jax.knn_tagger import KnnTagger

WHO = "KNN_NER_WHO"  # an environment variable: who edits
SPARE_LABELS = 16  # that can be taught before anything is compiled anew

_Tagged = tuple[Words, tuple[tuple[int, str], ...]]  # a sentence, and its words that are rows, with their tags
_Draft = tuple[Edit, dict[str, Any]]  # an edit before it is in the log, and the content of its JSON file, if any


@dataclass(frozen=True)
class Version:
    """The rows that a version has, by number, ascending; the label of each, and the types that these are labels of."""

    rows: Int[np.ndarray, " rows"]
    labels: Int[np.ndarray, " rows"]
    types: tuple[str, ...]


class History:
    """The versions of a datastore on disk.

    Args:
        folder: of the datastore.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, storage.read_manifest(folder / storage.MANIFEST)
        self.stored = storage.rows_of(folder, self.manifest)
        self.columns = {name: self.stored.read(name, 0, self.manifest["rows"]) for name in LABEL_COLUMNS}
        self.edits: tuple[Edit, ...] = ()
        self.sentences = StoredSentences(folder, self.manifest)  # all that were ever added, too
        self._contents: dict[int, dict[str, Any]] = {}
        self._first_rows: dict[int, int] = {}
        self.refresh()

    @property
    def version(self) -> int:
        """The newest version, of those that have been read."""
        return len(self.edits)

    def take(self, column: str, rows: Int[np.ndarray, " rows"]) -> np.ndarray:
        """Return some rows of a column, as they were stored first."""
        return self.stored.take(column, rows)

    def holding(self, datastore: Datastore, source: Source, version: int) -> Stored:
        """Return a version that is on the devices."""
        source = replace(source, types=self.at(version).types)
        return Stored(datastore, source, self.folder, self.sentences, version)

    def _file(self, version: int, ending: str = "json") -> Path:
        return self.folder / f"edit-{version:05d}.{ending}"

    def refresh(self) -> None:
        """Read the edits that others have made meanwhile."""
        path = self.folder / LOG
        edits = tuple(map(Edit.read, storage.read_json(path) if path.exists() else ()))
        manifest = storage.read_manifest(self.folder / storage.MANIFEST)
        if manifest != self.manifest or edits[: self.version] != self.edits:
            raise DatastoreError(f"{self.folder}: expected the datastore that was opened, found another; load it again")
        for edit in edits[self.version :]:
            content: dict[str, Any] = {}
            if edit.sha256:
                storage.verify(self._file(edit.version), edit.sha256)
                content = storage.read_json(self._file(edit.version))
            if edit.shard and edit.first_sentence is not None:
                start, stored = len(self.columns["labels"]), self.stored.followed_by(edit.shard)
                new = {name: stored.read(name, start, start + edit.shard.rows) for name in LABEL_COLUMNS}
                # From here on nothing fails: an edit that cannot be read now can be read later.
                self.stored, self._first_rows[edit.version] = stored, start
                self.columns = {name: np.concatenate([column, new[name]]) for name, column in self.columns.items()}
                pairs = content["sentences"]
                self.sentences.added |= enumerate(((tuple(words), source) for words, source in pairs), edit.first_sentence)
            self._contents[edit.version] = content
            self.edits += (edit,)

    def at(self, version: int) -> Version:
        """Return a version; raise InputError where there is none of this number."""
        if not 0 <= version <= self.version:
            raise InputError(f"version: expected 0 to {self.version}, got {version}")
        effective: list[Edit] = []  # the newest first
        while version:
            edit = self.edits[version - 1]
            effective += [edit] if edit.target is None else []
            version = version - 1 if edit.target is None else edit.target
        labels, is_there = self.columns["labels"].copy(), np.zeros(len(self.columns["labels"]), bool)
        is_there[: self.manifest["rows"]] = True
        for edit in reversed(effective):
            content = self._contents[edit.version]
            if edit.shard:
                start = self._first_rows[edit.version]
                is_there[start : start + edit.shard.rows] = True
            elif edit.action == "remove":
                is_there[content["rows"]] = False
            else:
                labels[content["rows"]] = content["labels"]
        rows = np.flatnonzero(is_there)
        built = self.manifest["source"]["types"]
        types = effective[0].types if effective else tuple(built)
        # Types that no row has any more are gone, so that adding and removing leave what was there before.
        return Version(rows, labels[rows], types[: max(len(built), (int(labels[rows].max()) + 1) // 2)])

    def contents(self) -> dict[int, tuple[_Tagged, str]]:
        """Return words, tags and source of every sentence that is there, by number."""
        version, tags = self.at(self.version), dict[int, list[tuple[int, str]]]()
        names = LabelSet(version.types).names
        places = (self.columns[name][version.rows].tolist() for name in ("sentence_ids", "word_ids"))
        for sentence, word, label in zip(*places, version.labels.tolist(), strict=True):
            tags.setdefault(sentence, []).append((word, names[label]))
        known = {number: self.sentences[number] for number in tags}
        return {n: ((words, tuple(tags[n])), source) for n, (words, source) in known.items()}

    def commit(self, make: Callable[[], _Draft], who: str | None) -> Edit:
        """Make an edit of the newest version; it is on the disk, in the log, when this returns.

        Args:
            make: returns the edit; called when no other process edits, and all edits have been read.
            who: makes it; None: as the environment variable `KNN_NER_WHO` says.
        """
        with exclusive_lock(self.folder, wait=True):
            self.refresh()
            edit, content = make()
            edit = replace(
                edit, when=datetime.now(UTC).isoformat(timespec="seconds"), who=who or os.environ.get(WHO) or None
            )
            if content:
                write_json(path := self._file(edit.version), content)
                edit = replace(edit, sha256=file_sha256(path))
            sync_folder(self.folder)
            write_json(self.folder / LOG, [asdict(each) for each in (*self.edits, edit)])
            sync_folder(self.folder)
            self.refresh()
        return edit

    def _edit(self, action: str, sentence_ids: Iterable[int], types: tuple[str, ...], **more: Any) -> Edit:
        numbers = list(sentence_ids)
        return Edit(self.version + 1, action, len(set(numbers)), len(numbers), types, **more)

    def addition(
        self, action: str, sentences: Sequence[tuple[Words, str]], columns: dict[str, np.ndarray], names: Sequence[str]
    ) -> _Draft:
        """Write rows of new sentences.

        Args:
            action: add or merge.
            sentences: words and source of each.
            columns: of the rows; `sentence_ids` are places in `sentences`, labels those of `names`.
            names: of the labels.
        """
        if not (tags := [names[label] for label in columns["labels"]]):
            raise InputError(f"{action}: expected words to store that are not there yet, found none")
        label_set = LabelSet(self.at(self.version).types).union(LabelSet.of([tags]))
        built = self.columns["sentence_ids"][: self.manifest["rows"]]
        first = 1 + max(int(built.max()), max(self.sentences.added, default=0))
        labels = np.array([label_set.ids()[tag] for tag in tags], np.int32)
        new = columns | {"labels": labels, "sentence_ids": columns["sentence_ids"] + first}
        path = self._file(self.version + 1, "safetensors")
        key_format = storage.KeyFormat(self.manifest["dim"], self.manifest["fingerprint"]["key_dtype"])
        for name, column in storage.create_shard(path, len(tags), key_format).items():
            column[:] = new[name]
        shard, sources = ShardFile(path.name, len(tags), sync_and_hash(path)), {source for _, source in sentences}
        edit = self._edit(
            action, new["sentence_ids"].tolist(), label_set.types, source=", ".join(sorted(sources)), first_sentence=first
        )
        return replace(edit, sentences=len(sentences), shard=shard), {"sentences": sentences}

    def removal(self, source: str | None, ids: Iterable[int] | None) -> _Draft:
        """Return the edit that removes the sentences of a source, or of some numbers."""
        if (source is None) == (ids is None):
            raise InputError("remove: expected a source, or numbers of sentences")
        version = self.at(self.version)
        sentence_ids = self.columns["sentence_ids"][version.rows]
        numbers, there = set(ids or ()), set(sentence_ids.tolist())
        if source is not None:
            numbers = {number for number, (_, under) in self.sentences.added.items() if under == source} & there
        if not numbers <= there or not numbers:
            sources = ", ".join(sorted({self.sentences[n][1] for n in self.sentences.added.keys() & there})) or "none"
            given = source if ids is None else ", ".join(map(str, sorted(numbers - there))) or "no number"
            raise InputError(f"remove: expected a source of what was added ({sources}) or sentences stored, got {given}")
        is_gone = np.isin(sentence_ids, list(numbers))
        if is_gone.all():
            raise InputError("remove: expected a sentence to be left, got all")
        rows = {"rows": version.rows[is_gone].tolist()}
        return self._edit("remove", sentence_ids[is_gone].tolist(), version.types, source=source), rows

    def correction(self, tags: Mapping[tuple[int, int], str]) -> _Draft:
        """Return the edit that labels words anew, each by the numbers of its sentence and of itself in it."""
        if not tags:
            raise InputError("relabel: expected words with their tags, got none")
        for (sentence, word), tag in tags.items():
            check_tag(tag, f"relabel: sentence {sentence}, word {word}")
        version = self.at(self.version)
        label_set = LabelSet(version.types).union(LabelSet.of([list(tags.values())]))
        places = zip(*(self.columns[name][version.rows].tolist() for name in ("sentence_ids", "word_ids")), strict=True)
        rows = {row: place for row, place in zip(version.rows.tolist(), places, strict=True) if place in tags}
        if missing := tags.keys() - set(rows.values()):
            sentence, word = min(missing)
            raise InputError(f"relabel: expected a word that is stored, got word {word} of sentence {sentence}")
        edit = self._edit("relabel", (sentence for sentence, _ in rows.values()), label_set.types)
        return edit, {"rows": list(rows), "labels": [label_set.ids()[tags[place]] for place in rows.values()]}

    def merger(self, other: "History", source: str | None) -> _Draft:
        """Write what another datastore of the same tagger has and this one has not.

        Args:
            other: where the sentences are; where both were built of the same, only those that were added count.
            source: what to call all of them; None: as there.
        """
        storage.compare(other.folder, other.manifest["fingerprint"], Fingerprint.read(self.manifest))
        there = {tagged for tagged, _ in self.contents().values()}
        new = {number: each for number, each in other.contents().items() if each[0] not in there}
        if other.manifest["shards"] == self.manifest["shards"]:
            new = {number: each for number, each in new.items() if number in other.sentences.added}
        version, places = other.at(other.version), {number: place for place, number in enumerate(new)}
        rows = version.rows[is_new := np.isin(other.columns["sentence_ids"][version.rows], list(new))]
        sentence_ids = [places[number] for number in other.columns["sentence_ids"][rows].tolist()]
        columns = {"keys": other.stored.take("keys", rows), "word_ids": other.columns["word_ids"][rows]}
        columns |= {"labels": version.labels[is_new], "sentence_ids": np.array(sentence_ids, np.int32)}
        sentences = [(words, source or under) for (words, _), under in new.values()]
        return self.addition("merge", sentences, columns, LabelSet(version.types).names)

    def rollback(self, target: int, seen: int) -> _Draft:
        """Return the edit that goes back to a version; refused where there are edits that nobody here has seen."""
        version = self.at(target)
        if self.version != seen:
            raise InputError(f"rollback: expected version {seen} to be the newest, found {self.version}; see the log first")
        return self._edit("rollback", [], version.types, target=target), {}


def load_datastore(folder: Path, expected: Fingerprint, mesh: Mesh) -> Stored:
    """Read a datastore with all its edits (see `storage.load`)."""
    if not (folder / LOG).exists():
        return storage.load(folder, expected, mesh)
    history = History(folder)
    storage.compare(folder, history.manifest["fingerprint"], expected)
    version, projection = history.at(history.version), storage.projection_of(folder, history.manifest)
    rows = place_numbered(history.take, version.rows, version.labels, projection, mesh)
    return history.holding(rows, storage.source_of(history.manifest), history.version)


class Memory:
    """What a tagger remembers, to be taught, corrected and taken back; each edit is a version on the disk.

        memory = tagger.memory
        memory.add([(["Kia", "Nurse", "won"], ["B-PER", "I-PER", "O"])], source="sports")
        memory.remove(source="sports")

    Its tagger takes part in each edit, after those that others have made; other processes, and copies of the tagger
    (`dataclasses.replace`), keep the version that they have. Making a memory gives the datastore room for more rows
    (`capacity_for`) and labels (`SPARE_LABELS`), and compiles what edits need; until the room is used up, no edit makes
    anything be compiled anew.

    Args:
        folder: of the datastore.
        tagger: that holds it; None: it is edited on the disk alone.

    Raises InputError for a run that labels pieces, and on several hosts.
    """

    def __init__(self, folder: Path, tagger: "KnnTagger | None" = None) -> None:
        self._history, self._tagger = History(folder), tagger
        self._how = Fingerprint.read(self._history.manifest)
        if self._how.subwords not in ("first", "all"):
            raise InputError(f"memory: {folder}: expected a run with words, got protocol wang2022, which labels pieces")
        if tagger is None:
            return
        if jax.process_count() > 1:
            raise InputError(f"memory: expected one host, got {jax.process_count()}")
        self._room, version = 0, self._history.at(tagger.stored.version)
        projection = tagger.stored.datastore.projection
        self._rows = EditableRows(self._history.take, version.rows, version.labels, projection, tagger.mesh)
        self._give(tagger, tagger.stored.version)
        for words in 1, ROW_LENGTH:  # compiles, for short rows and for long ones
            self._encode(tagger, [Sentence(("a",) * words, (OUTSIDE,) * words, 0)], LabelSet(()))

    def add(self, sentences: Iterable[Any], source: str, who: str | None = None) -> Edit:
        """Remember sentences.

        Args:
            sentences: pairs of words and IOB2 tags; these may be of types that the tagger does not know.
            source: what to call them, to remove them by.
            who: does this, for the log; None: as the environment variable `KNN_NER_WHO` says, or nobody.

        Raises:
            InputError: no sentence, words without tags, what is no tag, or no tagger that makes keys.
        """
        if self._tagger is None:
            raise InputError("add: expected a loaded tagger, whose network makes the keys, got none")
        if not isinstance(sentences, Iterable):
            raise InputError(f"add: expected sentences, got {sentences!r}")
        checked = [tagged_sentence(each, f"add: sentence {number}") for number, each in enumerate(sentences, start=1)]
        if not checked or not source:
            raise InputError(f"add: expected sentences and a source to call them by, got {len(checked)} and {source!r}")
        label_set = LabelSet.of(sentence.tags for sentence in checked)
        columns, named = self._encode(self._tagger, checked, label_set), [(each.words, source) for each in checked]
        return self._do(lambda: self._history.addition("add", named, columns, label_set.names), who)

    def remove(self, source: str | None = None, ids: Iterable[int] | None = None, who: str | None = None) -> Edit:
        """Forget the sentences of a source, or those of some numbers (`Neighbour.sentence_id`)."""
        return self._do(lambda: self._history.removal(source, ids), who)

    def relabel(self, tags: Mapping[tuple[int, int], str], who: str | None = None) -> Edit:
        """Give words other tags, each by its `Neighbour.sentence_id` and `word_id`: `relabel({(17, 3): "B-PER"})`."""
        return self._do(lambda: self._history.correction(tags), who)

    def merge(self, run: str | Path, source: str | None = None, who: str | None = None) -> Edit:
        """Take over what another run of the same tagger remembers: what it was taught, where both were built of the same.

        Args:
            run: the folder of its evaluation.
            source: what to call all of it; None: as there, sentences of its corpus by the file.
            who: as for `add`.
        """
        evaluation = load_evaluation(Path(run).expanduser())
        other = History(evaluation.folder / "datastore")
        return self._do(lambda: self._history.merger(other, source), who)

    def rollback(self, version: int, who: str | None = None) -> Edit:
        """Return to a version, by one more edit; refused where others have edited since this memory last read the log."""
        seen = self._history.version
        return self._do(lambda: self._history.rollback(version, seen), who)

    def log(self) -> tuple[Edit, ...]:
        """Return all edits, those of others too."""
        self._history.refresh()
        return self._history.edits

    def verify(self) -> int:
        """Read every file of every version, and return the number of rows now; DatastoreError for one that is damaged."""
        history = History(self._history.folder)
        history.stored.verify()
        history.sentences.verify()
        storage.projection_of(history.folder, history.manifest)
        return len(history.at(history.version).rows)

    def refresh(self) -> None:
        """Take part in the edits that others have made."""
        self._history.refresh()
        if self._tagger is not None:
            version = self._history.at(self._history.version)
            self._rows.change(version.rows, version.labels)
            self._give(self._tagger, self._history.version)

    def _do(self, make: Callable[[], _Draft], who: str | None) -> Edit:
        edit = self._history.commit(make, who)
        self.refresh()
        return edit

    def _give(self, tagger: "KnnTagger", version: int) -> None:
        stored = self._history.holding(self._rows.datastore, tagger.stored.source, version)
        if (labels := len(LabelSet(stored.source.types))) > self._room:
            self._room = labels + SPARE_LABELS
        tagger.hold(stored, self._room)

    def _encode(self, tagger: "KnnTagger", sentences: Sequence[Sentence], label_set: LabelSet) -> dict[str, np.ndarray]:
        """Return the columns of new rows; their sentences are numbered from 0."""
        model, projection = tagger.model, tagger.stored.datastore.projection
        split = encode(sentences, model.tokenizer, model.max_length, label_set, model.pinyin, self._how.subwords == "all")
        keys = few_keys(model.tagger, tagger.params, split, projection, self._how, tagger.mesh)
        columns = {"keys": keys, "labels": split.label_ids, "sentence_ids": split.sentence_ids, "word_ids": split.word_ids}
        is_kept = np.ones(len(keys), bool)
        if not self._history.manifest["source"]["include_o"]:
            is_kept = split.label_ids != label_set.ids()[OUTSIDE]
        return {name: column[is_kept] for name, column in columns.items()}
