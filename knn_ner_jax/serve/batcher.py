"""One thread that owns a tagger: it tags what waits together, and edits between.

What came first is done next, together with all that waits of its kind. So a question may overtake an edit that came before
it, but none that has been acknowledged. Nothing waits for others to come: what comes while a batch is tagged is in the next
one, so that a request alone is tagged at once, and batches grow with the load.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Int

from knn_ner_jax.data.batching import ROW_LENGTH, BatchShape, bucket_length, plan_batches
from knn_ner_jax.data.tag_schemes import OUTSIDE, Sentence
from knn_ner_jax.data.texts import Document
from knn_ner_jax.data.tokenization import EncodedSplit
from knn_ner_jax.entities import TaggedText, no_neighbours, tagged_texts, with_opinions
from knn_ner_jax.io import InputError
from knn_ner_jax.knn.border import Border, Sweep
from knn_ner_jax.knn.combine import Cache, labels_by_vote
from knn_ner_jax.knn.memory import Memory
from knn_ner_jax.knn.storage import LOG, MANIFEST, read_json
from knn_ner_jax.knn_tagger import KnnTagger
from knn_ner_jax.serve.metrics import Metrics

SHORT_ROWS = 16, 32  # tokens of most sentences that are typed
ROWS = 8  # of the largest batch
WORDS = 512  # of requests that are tagged together, about
ENDED = "the thread that tags and edits has ended; start the server anew"

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class BusyError(RuntimeError):
    """More requests wait than may, or nothing is done for them any more."""


@dataclass(frozen=True)
class Tagged:
    """Texts that were tagged, and the version of the datastore that was asked."""

    texts: tuple[TaggedText, ...]
    version: int


@dataclass(frozen=True)
class _Job(Generic[_T]):
    """What waits: an edit, or documents to tag."""

    answer: "asyncio.Future[_T]"
    documents: tuple[Document, ...] = ()
    opinions: bool = False
    neighbours: int = 0
    edit: Callable[[Memory], _T] | None = None

    @property
    def kind(self) -> str:
        """What can be done together."""
        return "edit" if self.edit is not None else "opinions" if self.opinions else "entities"

    @property
    def num_words(self) -> int:
        """Words of its documents."""
        return sum(len(document.words) for document in self.documents)


def shapes_for(max_length: int, multiple: int) -> tuple[BatchShape, ...]:
    """Return the shapes of batches: of short sentences, of a row, of many rows, and of the longest window.

    >>> [tuple(shape) for shape in shapes_for(512, 8)]
    [(1, 16), (1, 32), (1, 128), (8, 128), (1, 512)]
    """
    longest = bucket_length(max_length, multiple)
    row = min(ROW_LENGTH, longest)
    shapes = [*((1, short) for short in SHORT_ROWS if short < row), (1, row), (ROWS, row)]
    shapes += [(1, longest)] if longest > row else []
    return tuple(BatchShape(*shape) for shape in shapes)


def shape_for(lengths: Int[np.ndarray, " windows"], shapes: Sequence[BatchShape]) -> BatchShape:
    """Return the smallest shape of which one batch holds all windows, or else the largest whose rows hold the longest.

    >>> tuple(shape_for(np.array([9, 7, 9]), [BatchShape(1, 16), BatchShape(2, 16)]))
    (2, 16)
    """
    allowed = [shape for shape in shapes if shape.length >= lengths.max()]
    fitting = (shape for shape in allowed if len(plan_batches(lengths, shape)) == 1)
    return next(fitting, allowed[-1])


class Batcher:
    """Tags and edits, one thing at a time, in a thread of its own.

    Args:
        tagger: an evaluated one; others keep theirs.
        neighbours: the most that are returned with an entity or a word.
        queue: requests that may wait.
        metrics: where it counts.
    """

    def __init__(self, tagger: KnnTagger, neighbours: int, queue: int, metrics: Metrics) -> None:
        self.shapes = shapes_for(tagger.model.max_length, tagger.pad_to_multiple_of)
        # An accelerator reads all keys for many words in the time that it takes for few.
        self._tagger = replace(tagger, spec=replace(tagger.spec, small_batches=tagger.spec.platform == "cpu"))
        self._neighbours, self._queue, self._metrics = neighbours, queue, metrics
        self._jobs: deque[_Job[Any]] = deque()
        self._changed, self._is_closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="tagger", daemon=True)
        self._border_rows = 0  # at least
        self._log: tuple[int, ...] | None = None  # of the file of edits, when it was read last
        self.trouble = ""  # why edits of other processes cannot be followed

    def start(self) -> None:
        """Open the memory, compile every program, and start the thread."""
        tagger = self._tagger
        _ = tagger.memory, tagger.datastore_text
        if tagger.border is not None:
            self._border_rows = len(tagger.border.rows.values) * 9 // 8  # room for what is taught
            tagger.hold(tagger.stored, tagger.spec.num_labels)
        for rows, length in self.shapes:
            words = Document.of(("a",) * (length - 2), "")  # each is one token, with two more a row
            for opinions in False, True:
                self._label([words] * rows, opinions, self._neighbours)
        self._metrics.count_compilations()
        self._thread.start()
        self._metrics.tags.set_function(lambda: float(self._thread.is_alive()))

    @property
    def has_ended(self) -> bool:
        """Whether its thread has begun and ended, so that nothing is tagged or edited any more."""
        return self._thread.ident is not None and not self._thread.is_alive()

    @property
    def num_rows(self) -> int:
        """Rows of the datastore."""
        return self._tagger.num_rows

    @property
    def types(self) -> tuple[str, ...]:
        """Entity types of the tagger and of the datastore."""
        return self._tagger.label_set.types

    @property
    def version(self) -> int:
        """The newest version of the datastore that is served."""
        return self._tagger.stored.version

    async def tag(self, documents: Sequence[Document], opinions: bool, neighbours: int = 0) -> Tagged:
        """Tag documents together with others that wait.

        Args:
            documents: of one request.
            opinions: whether to return what is said of each word.
            neighbours: of an entity or a word; there may be more where others that wait ask for more.

        Raises:
            BusyError: too many requests wait, or the thread has ended.
        """
        return await self._put(documents=tuple(documents), opinions=opinions, neighbours=neighbours)

    async def edit(self, edit: Callable[[Memory], _T]) -> _T:
        """Call a function with the memory of the tagger, once what came before is done; return what it returns.

        Raises:
            BusyError: too many requests wait, or the thread has ended.
        """
        return await self._put(edit=edit)

    def close(self) -> None:
        """Do what waits, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    async def _put(self, **job: Any) -> Any:
        if self.has_ended:
            raise BusyError(ENDED)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        with self._changed:
            if len(self._jobs) >= self._queue or self._is_closed:
                raise BusyError(f"expected at most {self._queue} requests to wait, found more; try again")
            self._jobs.append(_Job(answer, **job))
            self._metrics.waiting.set(len(self._jobs))
            self._changed.notify()
        return await answer

    def _next(self) -> list[_Job[Any]]:
        """Return what came first, and what waits of its kind and fits into a batch; none once all is done and closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._is_closed)
            batch: list[_Job[Any]] = []
            others: deque[_Job[Any]] = deque()
            words = 0
            for job in self._jobs:
                words += job.num_words if not batch or job.kind == batch[0].kind else 0
                fits = not batch or (job.kind == batch[0].kind and words <= WORDS)
                (batch if fits else others).append(job)
            self._jobs = others
            self._metrics.waiting.set(len(others))
            return batch

    def _work(self) -> None:
        while batch := self._next():
            # What was cancelled while it waited is left out, so that an edit that timed out before it began is not made.
            if batch := [job for job in batch if not job.answer.cancelled()]:
                self._do(batch)

    def _do(self, batch: list[_Job[Any]]) -> None:
        if batch[0].edit is None:
            self._answer_all(batch, lambda: self._tag(batch))
        for job in batch:
            if (edit := job.edit) is not None:
                self._answer_all([job], partial(self._edit, edit))
        self._metrics.rows.set(self._tagger.num_rows)
        self._metrics.version.set(self.version)

    def _answer_all(self, batch: list[_Job[Any]], work: Callable[[], list[Any]]) -> None:
        try:
            answers = work()
        except BaseException as error:  # the thread must not end while somebody waits
            for job in batch:
                self._answer(job, None, error)
            return
        for job, answer in zip(batch, answers, strict=True):
            self._answer(job, answer, None)

    def _edit(self, edit: Callable[[Memory], Any]) -> list[Any]:
        return [edit(self._tagger.memory)]

    def _tag(self, batch: list[_Job[Any]]) -> list[Tagged]:
        self._follow()
        documents = [document for job in batch for document in job.documents]
        texts = iter(self._label(documents, batch[0].opinions, max(job.neighbours for job in batch)))
        self._metrics.batch_requests.observe(len(batch))
        self._metrics.sentences.inc(len(documents))
        return [Tagged(tuple(next(texts) for _ in job.documents), self.version) for job in batch]

    def _label(self, documents: Sequence[Document], opinions: bool, neighbours: int) -> list[TaggedText]:
        """Return what `KnnTagger.tag` does, by programs that are compiled.

        That one is for streams: it chooses one shape for all chunks, and a program by whether neighbours are wanted. Here
        the shape is that of each batch, and the search is the same for those that want neighbours and for those that don't.
        """
        tagger, names = self._tagger, self._tagger.label_set.names
        assert tagger.knn_params is not None
        sentences = [Sentence(each.words, (OUTSIDE,) * len(each.words), 0) for each in documents if each.words]
        if not sentences:
            return tagged_texts(documents, np.zeros(0, np.int32), names)
        split = tagger.encode(sentences)
        tagger.shape = shape_for(split.lengths, self.shapes)
        retrieved = self._retrieve(split, None if opinions else self._border())
        mixed = labels_by_vote(retrieved, tagger.fit(tagger.knn_params))
        near = partial(tagger.datastore_text.neighbours, retrieved, count=neighbours) if neighbours else no_neighbours
        tagged = tagged_texts(documents, mixed.knn, names, mixed.probabilities, near, tagger.calibration)
        judges = {"tagger": mixed.p_ner, "knn": mixed.p_knn, "mix": mixed.p}
        return with_opinions(tagged, documents, judges, names, near) if opinions else tagged

    def _border(self) -> Border | None:
        """Return the border of the version that is held.

        It has room, so that editing hardly ever changes its size, for which programs are compiled.
        """
        tagger = self._tagger
        if not tagger.prune:
            return None
        if "border" not in vars(tagger):  # the datastore is another one
            tagger.border = tagger.choose_border(self._border_rows)
        return tagger.border

    def _retrieve(self, split: EncodedSplit, border: Border | None) -> Cache:
        """Search for the words; those that a border settles have its neighbours, which vote for the label of all rows."""
        tagger, knn_params = self._tagger, self._tagger.knn_params
        assert knn_params is not None
        voters = tagger.fit(knn_params).k
        k = min(self._neighbours if voters == "all" else max(self._neighbours, voters), tagger.num_rows)
        temperature, sweep = knn_params.temperature, None
        if border is not None and k < len(border.rows.values):
            weights = np.full(2, knn_params.knn_weight, np.float32)
            sweep = Sweep(border, np.array([temperature], np.float32), weights, (voters,))  # type: ignore[arg-type]
        temperatures = [temperature] if voters == "all" else None
        return tagger.retrieve(split, k, knn_params.metric, temperatures, True, sweep)

    def _follow(self) -> None:
        """Take part in what other processes have edited."""
        folder = self._tagger.stored.folder
        log = folder / LOG
        try:
            (folder / MANIFEST).stat()
            stat = log.stat() if self.version or log.exists() else None
            state = stat and (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if state != self._log and len(read_json(log)) != self.version:
                self._tagger.memory.refresh()
            self._log, self.trouble = state, ""
        except (InputError, OSError) as error:
            if str(error) != self.trouble:
                logger.warning("edits of others are not followed: %s", error)
            self.trouble = str(error)

    @staticmethod
    def _answer(job: _Job[Any], answer: Any, error: BaseException | None) -> None:
        def set_answer() -> None:
            if job.answer.done():
                return
            if error is None:
                job.answer.set_result(answer)
            else:
                job.answer.set_exception(error)

        with suppress(RuntimeError):  # a loop that is closed has nobody who waits
            job.answer.get_loop().call_soon_threadsafe(set_answer)
