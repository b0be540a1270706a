"""A trained tagger and its datastore: where words get their labels, in evaluation, ablations and `predict`.

There are two ways to the same labels and scores. Where these are wanted, as on test and by `KnnTagger.tag`, one compiled
program encodes, searches for what must be looked up, votes and mixes. Where neighbours are wanted or many settings tried, as
on dev, words are searched for first, and the vote is over what came back.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from knn_ner_jax import sharding
from knn_ner_jax.calibration import RAW, Calibration
from knn_ner_jax.config import Config, K
from knn_ner_jax.data import batching
from knn_ner_jax.data.batching import ROW_LENGTH, Batch, BatchPlan, BatchShape, bucket_length, placed_batches
from knn_ner_jax.data.tag_schemes import OUTSIDE, OUTSIDE_ID, LabelSet, Sentence
from knn_ner_jax.data.texts import Document
from knn_ner_jax.data.tokenization import EncodedSplit, encode
from knn_ner_jax.entities import TaggedText, Threshold, check_threshold, in_chunks, no_neighbours, tagged_texts
from knn_ner_jax.io import InputError
from knn_ner_jax.knn import datastore, storage
from knn_ner_jax.knn.border import Border, Sweep, choose_border
from knn_ner_jax.knn.build import build_datastore
from knn_ner_jax.knn.combine import Cache, CountedLabels, KnnParams, SplitLabels, labels_by_vote
from knn_ner_jax.knn.examples import DatastoreExamples, DatastoreText, fingerprint_of
from knn_ner_jax.knn.inference import (
    FEW_QUERY_ROWS,
    QUERY_ROWS,
    RetrievalSpec,
    Retrieved,
    Tagging,
    begin,
    collect,
    labels_of,
    retrieve,
    tag,
)
from knn_ner_jax.knn.memory import Memory, load_datastore
from knn_ner_jax.models.pretrained import fingerprint
from knn_ner_jax.models.tagger import Params
from knn_ner_jax.run_dir import Stopwatch, TrainedModel, load_evaluation
from knn_ner_jax.training.checkpoints import Checkpoints

Finish = Callable[[], list[TaggedText]]
WORDS = 2**16  # programs that label are compiled for so many words, not anew for every number of them


@dataclass(eq=False)
class KnnTagger:
    """A trained tagger and a datastore; only what its `memory` is taught changes it.

    Attributes:
        model: network, labels and tokenizer.
        params: of the network, on every device.
        stored: the datastore and its source.
        prune: whether words are compared with the border first, some rows that settle most of them.
        spec: what the compiled functions are compiled for; its k and metric are replaced as needed.
        label_set: labels of tagger and datastore together; gold labels beyond it are appended to it.
        batch_size: windows encoded at a time.
        pad_to_multiple_of: see `batching.bucket_length`.
        mesh: devices that hold parameters and datastore, and share each batch.
        knn_params: what `tag` labels with; None where nothing has been chosen yet.
        shape: of all batches; None: what suits a split.
        calibration: of the scores of entities that `tag` returns.
    """

    model: TrainedModel
    params: Params
    stored: storage.Stored
    prune: bool
    spec: RetrievalSpec
    label_set: LabelSet
    batch_size: int
    pad_to_multiple_of: int
    mesh: Mesh
    knn_params: KnnParams | None = None
    shape: BatchShape | None = None
    calibration: Calibration = RAW

    @property
    def num_rows(self) -> int:
        """Rows of the datastore."""
        return int(self.stored.datastore.num_rows)

    def encode(self, sentences: Sequence[Sentence], gold_labels: LabelSet | None = None) -> EncodedSplit:
        """Tokenize sentences; `gold_labels` are those of their tags where the tagger and the datastore lack some."""
        return encode(
            sentences, self.model.tokenizer, self.model.max_length, gold_labels or self.label_set, self.model.pinyin
        )

    def plan(self, split: EncodedSplit) -> list[BatchPlan]:
        """Return the batches of a split, in order."""
        if self.shape is not None:
            return batching.plan_batches(split.lengths, self.shape)
        return batching.plan_evaluation(split.lengths, self.batch_size, self.pad_to_multiple_of, split.like)

    def batches(self, split: EncodedSplit) -> Iterator[Batch]:
        """Yield every window of a split once, in batches on the devices."""
        return placed_batches(split, self.plan(split), self.mesh)

    def retrieve_batches(
        self,
        split: EncodedSplit,
        k: K,
        metric: str,
        temperatures: Sequence[float] | None = None,
        sweep: Sweep | None = None,
    ) -> Iterator[Retrieved]:
        """Search for every word of a split, a batch at a time.

        Args:
            split: the words.
            k: neighbours to return for each; `all`: none, p_kNN over all rows alone.
            metric: of the search.
            temperatures: for which to compute p_kNN over all rows; required for `all`.
            sweep: see `inference.retrieve`; row numbers are then not those of the datastore.
        """
        spec = replace(self.spec if sweep is None else self._labelling, k=k, metric=metric)
        if split.like is not None and spec.platform == "cpu":  # a batch has few of the words that were selected
            spec = replace(spec, query_rows=FEW_QUERY_ROWS)
        traced = None if temperatures is None else np.asarray(temperatures, np.float32)
        for batch in self.batches(split):
            yield retrieve(self.params, self.stored.datastore, batch, traced, sweep, spec=spec)

    def retrieve(
        self,
        split: EncodedSplit,
        k: K,
        metric: str,
        temperatures: Sequence[float] | None = None,
        with_ids: bool = False,
        sweep: Sweep | None = None,
    ) -> Cache:
        """Search for every word of a split and collect what was found; arguments as `retrieve_batches` and `collect`."""
        return collect(self.retrieve_batches(split, k, metric, temperatures, sweep), split.num_words, temperatures, with_ids)

    def retrieve_for(
        self, split: EncodedSplit, knn_params: KnnParams, num_neighbours: int = 0, with_ids: bool = False
    ) -> Cache:
        """Search for what `labels_by_vote` needs, and for at least `num_neighbours` neighbours or all rows there are."""
        if knn_params.k == "all":
            k: K = min(num_neighbours, self.num_rows) or "all"
            return self.retrieve(split, k, knn_params.metric, [knn_params.temperature], with_ids)
        return self.retrieve(split, min(self.num_rows, max(num_neighbours, knn_params.k)), knn_params.metric, None, with_ids)

    @cached_property
    def border(self) -> Border | None:
        """Rows that settle most words, copied when first needed.

        None without `prune`, where they would be too many, or where another tag than O is the commonest: what the border
        settles by underrating it has no score.
        """
        return self.choose_border(0) if self.prune else None

    def choose_border(self, num_rows: int) -> Border | None:
        """Return a new `border` of at least so many rows, padding among them."""
        border = choose_border(self.stored.datastore.rows, self.spec.num_labels, self.mesh, num_rows=num_rows)
        return border if border is not None and int(border.usual) == OUTSIDE_ID else None

    @property
    def _labelling(self) -> RetrievalSpec:
        # Accelerators read all keys for 64 words in about the time they take for 256.
        few = self.border is not None and self.spec.platform == "cpu"
        return replace(self.spec, rest_rows=FEW_QUERY_ROWS if few else QUERY_ROWS)

    def fit(self, knn_params: KnnParams) -> KnnParams:
        """Return parameters whose k does not exceed the rows, of which some may have been removed."""
        return replace(knn_params, k=knn_params.k if knn_params.k == "all" else min(knn_params.k, self.num_rows))

    def begin(self, num_words: int) -> Tagging:
        """Return the state before the first batch of a split, with room for some more words (see `inference.begin`)."""
        return begin(bucket_length(num_words, WORDS), self.stored.datastore, self._labelling)

    def label_batch(
        self, tagging: Tagging, knn_params: KnnParams, batch: Batch, last: bool, with_scores: bool = False
    ) -> Tagging:
        """Label a batch in one compiled program (see `inference.tag`)."""
        spec = replace(self._labelling, k=knn_params.k, metric=knn_params.metric)
        traced = *map(np.float32, (knn_params.temperature, knn_params.knn_weight)), np.bool_(with_scores), np.bool_(last)
        return tag(tagging, self.params, self.stored.datastore, self.border, batch, *traced, spec=spec)

    def compile_for(self, split: EncodedSplit, knn_params: KnnParams) -> None:
        """Compile `label_split` for the batches of a split, so that labelling can be timed without it."""
        for batch in placed_batches(split, [self.plan(split)[0]._replace(parts=())], self.mesh):
            jax.block_until_ready(self.label_batch(self.begin(split.num_words), knn_params, batch, False))

    def label_split(self, split: EncodedSplit, knn_params: KnnParams, with_scores: bool = False) -> CountedLabels:
        """Label every word of a split; only those are looked up whose label neighbours can change.

        They are those of `labels_by_vote` after `retrieve_for`, except where the two largest probabilities, or the last
        neighbour that votes and the next, differ by less than float32 rounding.

        Args:
            split: the words.
            knn_params: how neighbours are found, vote and count.
            with_scores: look up all words with another label than O, too, whose probabilities are returned then.
        """
        knn_params = self.fit(knn_params)
        tagging, last = self.begin(split.num_words), len(self.plan(split))
        for number, batch in enumerate(self.batches(split), start=1):  # the host waits at the end only
            tagging = self.label_batch(tagging, knn_params, batch, number == last, with_scores)
        labels = labels_of(tagging, split.num_words, knn_params.knn_weight, self._labelling)
        return labels if with_scores else replace(labels, probabilities=None)

    @cached_property
    def datastore_text(self) -> DatastoreText:
        """The sentences behind the rows."""
        return DatastoreText(self.stored, self.label_set.names)

    @cached_property
    def memory(self) -> Memory:
        """What edits the datastore; made when first asked for, which gives room for more rows (see `Memory`)."""
        return Memory(self.stored.folder, self)

    def hold(self, stored: storage.Stored, num_labels: int) -> None:
        """Have another version of the datastore from now on, and programs for so many labels."""
        self.stored, self.label_set = stored, LabelSet(stored.source.types, self.label_set.protocol)
        self.spec = replace(self.spec, num_labels=num_labels)
        for name in "border", "datastore_text":
            vars(self).pop(name, None)

    def tag(
        self,
        texts: str | Mapping[str, Any] | Sequence[str | Sequence[str] | Mapping[str, Any]],
        neighbours: int = 0,
        batch_size: int | None = None,
        probabilities: bool = True,
        threshold: Threshold = 0.0,
    ) -> list[TaggedText]:
        """Tag texts with neighbours.

        Args:
            texts: one or several: a text, which is split into words (`words.split_words`); words, which are taken as they
                are; or a mapping with `tokens` or a `text`, whose other fields are kept. Long ones are read in windows.
            neighbours: how many of the nearest training words to return with each entity; how many vote is decided by
                `knn_params.k`.
            batch_size: windows encoded at a time; None: as in the evaluation.
            probabilities: False: labels alone, for which fewer words are searched for.
            threshold: entities with a lower score are left out, of all types or of those named.

        Returns:
            Words, labels and entities of each text.

        Raises:
            InputError: a text is none, or not UTF-8; the run labels pieces (protocol wang2022) or is not evaluated; a number
                is too small; a threshold is no probability, or of an unknown type; or, with `neighbours`, the file of the
                datastore's sentences is damaged.
        """
        given = [texts] if isinstance(texts, str | Mapping) else texts
        chunks = list(in_chunks([Document.of(text, f"text {number}") for number, text in enumerate(given, start=1)]))
        tagged = self.tag_stream(chunks, neighbours, batch_size, probabilities, threshold, len(chunks) > 1)
        return list(itertools.chain.from_iterable(tagged))

    def tag_stream(
        self,
        chunks: Iterable[Sequence[Document]],
        neighbours: int = 0,
        batch_size: int | None = None,
        probabilities: bool = True,
        threshold: Threshold = 0.0,
        ahead: bool = True,
    ) -> Iterator[list[TaggedText]]:
        """Yield chunks of texts tagged, by one program (see `batching.grow`) and the datastore as it is when the first is.

        Args:
            chunks: of texts.
            neighbours: see `tag`.
            batch_size: likewise.
            probabilities: likewise.
            threshold: likewise.
            ahead: whether threads encode a chunk and label another while a third one is used.
        """
        if self.label_set.protocol != "words":
            raise InputError(f"protocol: expected a run with words, got {self.label_set.protocol}, which labels pieces")
        if (knn_params := self.knn_params) is None:
            raise InputError("knn_params: expected a tagger of a finished evaluation, got one without chosen parameters")
        if neighbours < 0:
            raise InputError(f"neighbours: expected at least 0, got {neighbours}")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, got {batch_size}")
        if neighbours and not probabilities:
            raise InputError(f"neighbours: expected 0 where labels alone are asked for, got {neighbours}")
        thresholds = check_threshold(threshold, self.label_set.types)
        if any(thresholds.values()) and not probabilities:
            raise InputError("threshold: expected none where labels alone are asked for, which have no scores")
        source = self.datastore_text if neighbours else None
        if source is None:
            _ = self.border
        tagger = copy(self)  # which has what was read and copied for this one
        tagger.batch_size = batch_size or self.batch_size
        shape, windows = BatchShape(1, ROW_LENGTH), 0
        in_turn: Callable[[Iterable[Any]], Iterable[Any]] = batching.read_ahead if ahead else iter

        def encoded(documents: Sequence[Document]) -> tuple[Sequence[Document], EncodedSplit | None, BatchShape]:
            nonlocal shape, windows
            sentences = [Sentence(each.words, (OUTSIDE,) * len(each.words), 0) for each in documents if each.words]
            if not sentences:
                return documents, None, shape
            split, most = self.encode(sentences), self.model.max_length
            if windows < tagger.batch_size or split.lengths.max() > shape.length:
                shape = batching.grow(shape, split.lengths, tagger.batch_size, most, self.pad_to_multiple_of)
            windows += len(split.lengths)
            return documents, split, shape

        def labelled(documents: Sequence[Document], split: EncodedSplit | None, shape: BatchShape) -> Finish:
            names = tagger.label_set.names
            if split is None:
                return partial(tagged_texts, documents, np.zeros(0, np.int32), names)
            tagger.shape = shape
            labels: SplitLabels
            if source is None:
                labels, near = tagger.label_split(split, knn_params, probabilities), no_neighbours
            else:
                retrieved = tagger.retrieve_for(split, knn_params, neighbours, with_ids=True)
                labels = labels_by_vote(retrieved, tagger.fit(knn_params))
                near = partial(source.neighbours, retrieved, count=neighbours)
            how = labels.probabilities, near, self.calibration, thresholds
            return partial(tagged_texts, documents, labels.knn, names, *how)

        for finish in in_turn(itertools.starmap(labelled, in_turn(map(encoded, chunks)))):
            yield finish()


def open_knn_tagger(
    config: Config,
    model: TrainedModel,
    folder: Path,
    examples: DatastoreExamples | None,
    watch: Stopwatch,
    knn_params: KnnParams | None = None,
) -> KnnTagger:
    """Load what labelling needs: the trained parameters of `config.run_dir`, and the datastore of `folder`.

    Args:
        config: of the run.
        model: the trained tagger without its parameters.
        folder: where the datastore is, or is written.
        examples: what to build the datastore from; None: it is there.
        watch: takes the time of each stage.
        knn_params: what `KnnTagger.tag` labels with.

    Raises:
        storage.DatastoreError: the folder holds no datastore, or one that was built otherwise than `config` says.
    """
    mesh = sharding.make_mesh()
    with watch.stage("load_model"), Checkpoints(Path(config.run_dir) / "checkpoints") as checkpoints:
        params = checkpoints.load_best(model.tagger.abstract_params(), mesh)[2]
    expected, store = fingerprint_of(config, model, fingerprint(params)), folder / "datastore"
    if examples is not None:
        sizes = config.datastore.shard_rows, config.eval.batch_size, config.data.pad_to_multiple_of
        with watch.stage("build_datastore"):
            plan = storage.Plan(expected, examples.source, *sizes)
            build_datastore(store, model.tagger, params, examples.encoded, examples.sentence_lines, plan, mesh)
    with watch.stage("load_datastore"):
        stored = load_datastore(store, expected, mesh)
    label_set = LabelSet(stored.source.types, model.label_set.protocol)
    spec = RetrievalSpec(
        tagger=model.tagger,
        layers=datastore.resolve_layers(config.datastore.layers, model.tagger.config.num_hidden_layers),
        k="all",
        num_labels=len(label_set),
        block_rows=config.knn.block_rows,
        mesh=mesh if mesh.size > 1 else None,
    )
    batches = config.eval.batch_size, config.data.pad_to_multiple_of
    return KnnTagger(model, params, stored, config.knn.prune, spec, label_set, *batches, mesh, knn_params)


def load(folder: str | Path) -> KnnTagger:
    """Load a trained and evaluated tagger, ready to tag text, wherever it was trained and whatever the current folder is.

    Args:
        folder: where `eval` has written eval.json: the eval_dir of a run, or its run_dir.

    Raises:
        InputError: no evaluation has finished in this folder, or its run or datastore is gone or another one.
    """
    evaluation = load_evaluation(Path(folder).expanduser())
    model = TrainedModel.load(Path(evaluation.config.run_dir))
    knn_params = KnnParams(**evaluation.selected)
    tagger = open_knn_tagger(evaluation.config, model, evaluation.folder, None, Stopwatch(), knn_params)
    return replace(tagger, calibration=evaluation.calibration)
