"""A trained tagger and its datastore: where words get their labels, in evaluation, ablations and `predict`.

There are two ways to the same labels. Where labels alone are wanted, as on test, one compiled program encodes, searches for
what must be looked up, votes and mixes. Where neighbours or probabilities are wanted, as by `KnnTagger.tag`, or many
settings tried, as on dev, words are searched for first, and the vote is over what came back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import overload

import jax
import numpy as np
from jax.sharding import Mesh

from knn_ner_jax import sharding
from knn_ner_jax.config import Config, K
from knn_ner_jax.data.batching import Batch, BatchPlan, bucket_length, placed_batches, plan_evaluation
from knn_ner_jax.data.tag_schemes import OUTSIDE, LabelSet, Sentence, shown_spans
from knn_ner_jax.data.texts import words_of
from knn_ner_jax.data.tokenization import EncodedSplit, encode
from knn_ner_jax.data.words import word_spans
from knn_ner_jax.io import InputError
from knn_ner_jax.knn import datastore, storage
from knn_ner_jax.knn.border import Border, Sweep, choose_border
from knn_ner_jax.knn.build import build_datastore
from knn_ner_jax.knn.combine import (
    Cache,
    CountedLabels,
    KnnParams,
    MixedLabels,
    SplitLabels,
    cached_knn_probabilities,
    interpolate,
)
from knn_ner_jax.knn.examples import DatastoreExamples, DatastoreText, Neighbour, fingerprint_of
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

WORDS = 64  # programs are compiled for a multiple of so many, not anew for every number of words


@dataclass(frozen=True)
class Entity:
    """An entity in a sentence (`tag_schemes.shown_spans`).

    Attributes:
        type: such as PER.
        start: position of its first word.
        end: position after its last word.
        text: as it stands in the text; where words were given, these joined by spaces.
        probability: of the label of its first word.
        neighbours: training words nearest to its first word, nearest first.
        is_strict: whether it begins with a B-; where an I- opens it, strict scores do not count it.
        offsets: where it begins and ends (exclusive) in the text, in code points; None where words were given.
    """

    type: str
    start: int
    end: int
    text: str
    probability: float
    neighbours: tuple[Neighbour, ...] = ()
    is_strict: bool = True
    offsets: tuple[int, int] | None = None


@dataclass(frozen=True)
class TaggedText:
    """A sentence with its entities.

    Attributes:
        words: of the sentence.
        labels: IOB2 tag of each word.
        entities: in order.
    """

    words: tuple[str, ...]
    labels: tuple[str, ...]
    entities: tuple[Entity, ...]


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
        return plan_evaluation(split.lengths, self.batch_size, self.pad_to_multiple_of)

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
        """Search for what `label_split` needs, and for at least `num_neighbours` neighbours or all rows there are."""
        if knn_params.k == "all":
            k: K = min(num_neighbours, self.num_rows) or "all"
            return self.retrieve(split, k, knn_params.metric, [knn_params.temperature], with_ids)
        return self.retrieve(split, min(self.num_rows, max(num_neighbours, knn_params.k)), knn_params.metric, None, with_ids)

    @cached_property
    def border(self) -> Border | None:
        """Rows that settle most words, copied when first needed; None without `prune`, or where they would be too many."""
        return choose_border(self.stored.datastore.rows, self.spec.num_labels, self.mesh) if self.prune else None

    @property
    def _labelling(self) -> RetrievalSpec:
        # Accelerators read all keys for 64 words in about the time they take for 256.
        few = self.border is not None and self.spec.platform == "cpu"
        return replace(self.spec, rest_rows=FEW_QUERY_ROWS if few else QUERY_ROWS)

    def begin(self, num_words: int) -> Tagging:
        """Return the state before the first batch of a split, with room for some more words (see `inference.begin`)."""
        return begin(bucket_length(num_words, WORDS), self.stored.datastore, self._labelling)

    def label_batch(self, tagging: Tagging, knn_params: KnnParams, batch: Batch, last: bool) -> Tagging:
        """Label a batch in one compiled program (see `inference.tag`)."""
        spec = replace(self._labelling, k=knn_params.k, metric=knn_params.metric)
        traced = np.float32(knn_params.temperature), np.float32(knn_params.knn_weight), np.bool_(last)
        return tag(tagging, self.params, self.stored.datastore, self.border, batch, *traced, spec=spec)

    def compile_for(self, split: EncodedSplit, knn_params: KnnParams) -> None:
        """Compile `label_split` for the batches of a split, so that labelling can be timed without it."""
        for batch in placed_batches(split, [self.plan(split)[0]._replace(rows=())], self.mesh):
            jax.block_until_ready(self.label_batch(self.begin(split.num_words), knn_params, batch, False))

    @overload
    def label_split(self, split: EncodedSplit, knn_params: KnnParams) -> CountedLabels: ...

    @overload
    def label_split(self, split: EncodedSplit, knn_params: KnnParams, retrieved: Cache) -> MixedLabels: ...

    def label_split(self, split: EncodedSplit, knn_params: KnnParams, retrieved: Cache | None = None) -> SplitLabels:
        """Label every word of a split.

        Args:
            split: the words.
            knn_params: how neighbours are found, vote and count.
            retrieved: what a search returned for every word (`retrieve_for`, or the search that tuning made); without it,
                only those words are searched for whose label neighbours can change, and labels alone are computed.

        Returns:
            Labels, with `retrieved` their probabilities too. Both ways give the same labels, except where the two largest
            probabilities, or the last neighbour that votes and the next, differ by less than float32 rounding.
        """
        if knn_params.k != "all" and knn_params.k > self.num_rows:  # words have been removed
            knn_params = replace(knn_params, k=self.num_rows)
        if retrieved is not None:
            filled = retrieved.fill_up(bucket_length(split.num_words, WORDS))
            (p_knn,) = cached_knn_probabilities(filled, knn_params.k, [knn_params.temperature])
            vote = np.asarray(p_knn)[: split.num_words]
            p = np.asarray(interpolate(retrieved.p_ner, vote, knn_params.knn_weight))
            tagger, knn = (probabilities.argmax(axis=1).astype(np.int32) for probabilities in (retrieved.p_ner, p))
            return MixedLabels(tagger, knn, retrieved.p_ner, vote, p)
        tagging, last = self.begin(split.num_words), len(self.plan(split))
        for number, batch in enumerate(self.batches(split), start=1):  # the host waits at the end only
            tagging = self.label_batch(tagging, knn_params, batch, number == last)
        (tagger, knn), *counts = jax.device_get((labels_of(tagging, spec=self._labelling), *tagging[4:]))
        return CountedLabels(tagger[: split.num_words], knn[: split.num_words], *map(int, counts))

    @cached_property
    def datastore_text(self) -> DatastoreText:
        """The sentences behind the rows, read when first needed; InputError where they are gone or have changed."""
        return DatastoreText(self.stored, self.label_set.names)

    @cached_property
    def memory(self) -> Memory:
        """What edits the datastore; made when first asked for, which gives room for more rows (see `Memory`)."""
        return Memory(self.stored.folder, self)

    def hold(self, stored: storage.Stored, num_labels: int) -> None:
        """Have another version of the datastore from now on, and programs for so many labels."""
        self.stored, self.label_set = stored, LabelSet(stored.source.types, self.label_set.protocol)
        self.spec = replace(self.spec, num_labels=num_labels)
        vars(self).pop("border", None)
        if text := vars(self).get("datastore_text"):
            self.datastore_text = DatastoreText(stored, self.label_set.names, text)

    def tag(self, texts: str | Sequence[str | Sequence[str]], neighbours: int = 0) -> list[TaggedText]:
        """Tag sentences with neighbours.

        Args:
            texts: one or several sentences; a string is split into words (`words.split_words`), a sequence of words
                is taken as it is.
            neighbours: how many of the nearest training words to return with each entity; how many vote is decided by
                `knn_params.k`.

        Returns:
            Words, labels and entities of each sentence.

        Raises:
            InputError: a sentence has no word; the run labels pieces (protocol wang2022) or is not evaluated; or, with
                `neighbours`, the corpus of the datastore is gone or has changed; a word is no text.
        """
        if self.label_set.protocol != "words":
            raise InputError(f"protocol: expected a run with words, got {self.label_set.protocol}, which labels pieces")
        if self.knn_params is None:
            raise InputError("knn_params: expected a tagger of a finished evaluation, got one without chosen parameters")
        if neighbours < 0:
            raise InputError(f"neighbours: expected at least 0, got {neighbours}")
        texts = [texts] if isinstance(texts, str) else texts
        words = [words_of(text, f"text {number}") for number, text in enumerate(texts, start=1)]
        if not words or not all(words):
            raise InputError("text: expected at least one sentence, and at least one word in each, got none")
        source = self.datastore_text if neighbours else None
        split = self.encode([Sentence(each, (OUTSIDE,) * len(each), 0) for each in words])
        retrieved = self.retrieve_for(split, self.knn_params, neighbours, with_ids=True)
        mixed = self.label_split(split, self.knn_params, retrieved)

        def entity(type_: str, start: int, end: int) -> Entity:
            near = source.neighbours(retrieved, first + start, neighbours) if source else ()
            shown, offsets = " ".join(sentence[start:end]), None
            if isinstance(text, str):
                offsets = places[start][0], places[end - 1][1]
                shown = text[slice(*offsets)]
            is_strict, probability = labels[start].startswith("B-"), float(mixed.p[first + start].max())
            return Entity(type_, start, end, shown, probability, near, is_strict, offsets)

        results, first = [], 0
        for text, sentence in zip(texts, words, strict=True):
            labels = tuple(self.label_set.names[label] for label in mixed.knn[first : first + len(sentence)])
            places = word_spans(text) if isinstance(text, str) else []
            results.append(TaggedText(sentence, labels, tuple(entity(*span) for span in shown_spans(labels))))
            first += len(sentence)
        return results


def open_datastore(
    config: Config,
    model: TrainedModel,
    params: Params,
    folder: Path,
    examples: DatastoreExamples | None,
    mesh: Mesh,
    watch: Stopwatch,
) -> storage.Stored:
    """Load the datastore of a folder; where `examples` are given, build it there first, or what is missing of it.

    Raises:
        storage.DatastoreError: the folder holds none, or one that was built otherwise than this configuration says.
    """
    expected = fingerprint_of(config, model, fingerprint(params))
    if examples is not None:
        plan = storage.Plan(
            expected, examples.source, config.datastore.shard_rows, config.eval.batch_size, config.data.pad_to_multiple_of
        )
        with watch.stage("build_datastore"):
            build_datastore(folder, model.tagger, params, examples.encoded, plan, mesh)
    with watch.stage("load_datastore"):
        return load_datastore(folder, expected, mesh)


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
    """
    mesh = sharding.make_mesh()
    with watch.stage("load_model"), Checkpoints(Path(config.run_dir) / "checkpoints") as checkpoints:
        params = checkpoints.load_best(model.tagger.abstract_params(), mesh)[2]
    stored = open_datastore(config, model, params, folder / "datastore", examples, mesh, watch)
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
    source = tagger.stored.source
    source = replace(source, path=str(evaluation.find_file(source.path, source.sha256)))
    return replace(tagger, stored=replace(tagger.stored, source=source))
