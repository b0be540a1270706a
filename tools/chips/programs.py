"""The jitted functions of training, building, tuning and labelling, with the shapes of real jobs.

What the functions take may differ between revisions: settings that a revision does not know are left out.
"""

import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from operator import itemgetter
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from knn_ner_jax import sharding
from knn_ner_jax.config import TrainConfig
from knn_ner_jax.data.batching import Batch
from knn_ner_jax.knn import border as borders
from knn_ner_jax.knn import build, inference, topk
from knn_ner_jax.knn.border import Border, LeftOut
from knn_ner_jax.knn.datastore import Datastore
from knn_ner_jax.knn.topk import Rows
from knn_ner_jax.models.bert import BertConfig
from knn_ner_jax.models.tagger import Params, Tagger
from knn_ner_jax.training import loop
from tools.chips.budgets import Limits
from tools.chips.target import BadName, Target

LABELS = 9  # of CoNLL 2003
WORDS_A_TOKEN = 1 / 1.3
BORDER_SHARE = 0.25  # of the rows
SPLIT_WORDS = 65536
TEMPERATURES = 4  # of tuning
# For weights of the vote, shares of the words that ask the border, and that ask all rows: those of BC5CDR at weights near
# these (benchmarks/results/speed).
ASKED = {0.3: (0.03, 0.0015), 0.7: (0.233, 0.0026)}
OPEN_TO_TUNING = 0.13  # of the words, those that the border does not settle for a whole grid: WNUT-17's dev on CPU

_Settings = TypeVar("_Settings")
Job = Literal["train_step", "predict", "batch_keys", "retrieve", "tag"]
JOBS, SEARCHES = get_args(Job), ("retrieve", "tag")
SIZES: dict[str, dict[str, Any]] = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
}
_NUMBER = r"[1-9][0-9]*"
_NAME = re.compile(
    rf"(?P<job>{'|'.join(JOBS)})-(?P<size>{'|'.join(SIZES)})-({_NUMBER})x({_NUMBER})"
    rf"(?:-k(?P<k>{_NUMBER}|all)-({_NUMBER})(-border)?)?"
)


@dataclass(frozen=True)
class Spec:
    """A program to compile.

    Attributes:
        job: the function.
        size: of the encoder.
        length: tokens of a row.
        batch: rows a chip.
        k: neighbours, of jobs that search.
        rows: of the datastore, all chips together; 0 where there is none.
        border: whether the border is asked first, by `retrieve` for a whole grid.
    """

    job: Job
    size: str
    length: int
    batch: int
    k: int | Literal["all"] | None = None
    rows: int = 0
    border: bool = False

    @property
    def name(self) -> str:
        """A name for files: `tag-base-64x128-k64-2000000-border`."""
        parts: list[str] = [self.job, self.size, f"{self.batch}x{self.length}"]
        parts += [f"k{self.k}", str(self.rows)] if self.rows else []
        return "-".join([*parts, *(["border"] if self.border else [])])

    @classmethod
    def parse(cls, name: str) -> "Spec":
        """Return the program of a name.

        >>> Spec.parse("tag-base-64x128-k64-2000000-border").name
        'tag-base-64x128-k64-2000000-border'

        Raises:
            BadName: it names none.
        """
        found = _NAME.fullmatch(name)
        if found is None or (found["job"] in SEARCHES) != (found["k"] is not None):
            wanted = f"JOB-SIZE-BATCHxTOKENS, JOB one of {', '.join(JOBS)}, SIZE one of {', '.join(SIZES)}"
            wanted += f", then -kK-ROWS or -kK-ROWS-border for {' and '.join(SEARCHES)} alone"
            raise BadName(f"program: expected {wanted}, got {name!r}")
        job, size, batch, length, k, rows, border = found.groups()
        wanted_k = k if k in (None, "all") else int(k)
        return cls(job, size, int(length), int(batch), wanted_k, int(rows or 0), border is not None)  # type: ignore[arg-type]


class Call(NamedTuple):
    """What compiles a program, and what its text is judged by.

    Attributes:
        function: what `jax.jit` returned.
        arguments: of shapes, with shardings.
        static: what it is compiled for.
        limits: its budgets.
        carried: from its results to what takes the place of its first argument in the next call; None where nothing does.
        rounds: for each weight, or `any`, the rounds of the loops that depend on data, in their order.
    """

    function: Any
    arguments: tuple[Any, ...]
    static: dict[str, Any]
    limits: Limits
    carried: Callable[[Any], Any] | None = None
    rounds: Mapping[str, tuple[float, ...]] = {}


def argument_bytes(call: Call) -> dict[str, int]:
    """Return the bytes of each argument, or field of one, on each chip, the largest first."""
    names = list(inspect.signature(call.function).parameters)
    leaves = jax.tree_util.tree_leaves_with_path(dict(zip(names, call.arguments, strict=False)))
    sizes: Counter[str] = Counter()
    for (argument, *path), leaf in leaves:
        field_ = f".{path[0].name}" if path and isinstance(path[0], jax.tree_util.GetAttrKey) else ""
        sizes[argument.key + field_] += math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return dict(sizes.most_common())


def _known(settings: Callable[..., _Settings], **values: Any) -> _Settings:
    """Make settings, without those that this revision does not have."""
    names = {field.name for field in fields(settings)}  # type: ignore[arg-type]
    return settings(**{name: value for name, value in values.items() if name in names})


def _on(tree: Any, placement: NamedSharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement), tree)


def _batch(rows: int, length: int, mesh: Mesh) -> Batch:
    whole: Any = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    return _on(Batch(whole, whole, whole, whole), sharding.split(mesh))


def _columns(rows: int, dim: int, mesh: Mesh) -> Rows:
    shapes = Rows(
        jax.ShapeDtypeStruct((rows, dim), jnp.float32),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct((rows,), jnp.float32),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct((rows,), jnp.int32),  # type: ignore[arg-type]
    )
    return _on(shapes, sharding.split(mesh))


def _datastore(rows: int, dim: int, mesh: Mesh) -> Datastore:
    columns = _columns(sharding.round_up(rows, mesh), dim, mesh)
    number = _on(jax.ShapeDtypeStruct((), jnp.int32), sharding.replicated(mesh))
    return Datastore(columns.keys, columns.squared_norms, columns.values, columns.values, columns.values, number, None)


def _border(rows: int, dim: int, mesh: Mesh) -> Border:
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    left_out = LeftOut(jax.ShapeDtypeStruct((dim,), jnp.float32), scalar, scalar, scalar)  # type: ignore[arg-type]
    usual, left_out = _on((jax.ShapeDtypeStruct((), jnp.int32), left_out), sharding.replicated(mesh))
    return Border(_columns(sharding.round_up(int(BORDER_SHARE * rows), mesh), dim, mesh), usual, left_out)


def _limits(function: Any, arguments: Sequence[Any], params: Params, chips: int) -> Limits:
    names = list(inspect.signature(function).parameters)
    leaves = jax.tree_util.tree_flatten_with_path(dict(zip(names, arguments, strict=False)))[0]
    divided = {path[0].key + jax.tree_util.keystr(path[1:]) for path, leaf in leaves if any(leaf.sharding.spec)}
    weights = {shape for leaf in jax.tree.leaves(params) for shape in (leaf.shape, leaf.shape[1:])}
    return Limits(divided=divided, weights=weights, chips=chips)


def make_call(spec: Spec, mesh: Mesh, platform: str) -> Call:
    """Return how a program is compiled for the devices of a mesh, which are CPUs, GPUs or TPUs by JAX's name of them."""
    everywhere = sharding.replicated(mesh)
    config = BertConfig(vocab_size=30522 if spec.size != "tiny" else 512, **SIZES[spec.size])
    tagger = _known(Tagger, config=config, num_labels=LABELS, dtype="bfloat16", platform=platform)
    params: Params = _on(tagger.abstract_params(), everywhere)
    batch, layers = _batch(spec.batch * mesh.size, spec.length, mesh), (config.num_hidden_layers,)

    def call(function: Any, arguments: tuple[Any, ...], static: dict[str, Any], **others: Any) -> Call:
        limits = _limits(function, arguments, params, mesh.size)._replace(**others.pop("limits", {}))
        return Call(function, arguments, static, limits, **others)

    if spec.job == "train_step":
        optimizer = loop.make_optimizer(TrainConfig(), 1000)
        step: Any = jax.ShapeDtypeStruct((), jnp.int32)
        state = loop.TrainState(params, jax.eval_shape(optimizer.init, params), step)
        arguments: tuple[Any, ...] = (
            _on(state, everywhere),
            batch,
            _on(jax.eval_shape(lambda: jax.random.key(0)), everywhere),
        )
        return call(loop.train_step, arguments, {"tagger": tagger, "optimizer": optimizer}, carried=itemgetter(0))
    if spec.job == "predict":
        predicted, places = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((1, SPLIT_WORDS), (SPLIT_WORDS,)))
        arguments = _on(predicted, everywhere), params, batch, _on(places, everywhere)
        return call(loop._predict, arguments, {"tagger": tagger, "mesh": mesh}, carried=lambda result: result)
    if spec.job == "batch_keys":
        # A host computes on its own devices what it writes, divided over them.
        static = {"tagger": tagger, "layers": layers, "dtype": "float32"}
        return call(build._batch_keys, (params, batch, None), static)
    assert spec.k is not None
    mesh_of_search = mesh if mesh.size > 1 else None
    options = {"tagger": tagger, "layers": layers, "num_labels": LABELS, "mesh": mesh_of_search, "platform": platform}
    retrieval = _known(inference.RetrievalSpec, k=spec.k, **options)
    datastore = _datastore(spec.rows, config.hidden_size, mesh)
    positions = spec.batch * mesh.size * spec.length
    words = positions * WORDS_A_TOKEN
    border = _border(spec.rows, config.hidden_size, mesh) if spec.border else None
    shares = [rows // mesh.size for rows in (spec.rows, BORDER_SHARE * spec.rows * spec.border)]
    limits: dict[str, Any] = {"queries": retrieval.query_rows, "dim": config.hidden_size}
    limits |= {} if spec.k == "all" else {"k": spec.k}
    # A share of one block is compared, and copied, as a whole.
    limits |= {"shares": tuple(int(rows) for rows in shares if rows > 1.5 * _block_rows(retrieval))}
    if spec.job == "retrieve":
        temperatures = _on(jax.ShapeDtypeStruct((TEMPERATURES,), jnp.float32), everywhere)
        arguments = params, datastore, batch, temperatures if spec.k == "all" else None
        rounds: tuple[float, ...] = (words / retrieval.query_rows,)
        if border is not None and hasattr(borders, "Sweep"):  # as tuning does
            ends = _on(jax.ShapeDtypeStruct((2,), jnp.float32), everywhere)
            arguments += (borders.Sweep(border, temperatures, ends, (spec.k,)),)
            rounds += (OPEN_TO_TUNING * words / retrieval.rest_rows,)
        limits |= {"positions": positions}
        return call(inference.retrieve, arguments, {"spec": retrieval}, limits=limits, rounds={"any": rounds})
    state = jax.eval_shape(partial(inference.begin, SPLIT_WORDS, datastore, retrieval))
    by_device = state.tagger.ndim > 1  # of older revisions it is the same everywhere
    tagging = jax.tree.map(lambda leaf: _on(leaf, sharding.split(mesh) if by_device and leaf.ndim else everywhere), state)
    number, flag = (_on(jax.ShapeDtypeStruct((), dtype), everywhere) for dtype in (jnp.float32, jnp.bool_))
    traced = {"temperature": number, "knn_weight": number, "with_scores": flag, "last": flag}  # older revisions lack some
    traced = {name: value for name, value in traced.items() if name in inspect.signature(inference.tag).parameters}
    arguments = tagging, params, datastore, border, batch, *traced.values()
    limits |= {"positions": positions, "traced": tuple(traced)}
    how: dict[str, Any] = {"carried": lambda result: result, "limits": limits, "rounds": _rounds(retrieval, border, words)}
    return call(inference.tag, arguments, {"spec": retrieval}, **how)


def _block_rows(spec: Any) -> int:
    """Return about how many rows are compared at a time; for many neighbours more."""
    if spec.k == "all":
        return spec.block_rows
    knows_platform = "platform" in inspect.signature(topk.rows_at_once).parameters  # older revisions do not
    how = {"platform": spec.platform} if knows_platform else {}
    return topk.rows_at_once(spec.k + 1, spec.query_rows, spec.block_rows, **how)


def _rounds(spec: Any, border: Border | None, words: float) -> dict[str, tuple[float, ...]]:
    if border is None:  # all that would ask it ask all rows
        return {str(weight): (asked * words / spec.rest_rows,) for weight, (asked, _) in ASKED.items()}
    return {str(w): (border * words / spec.query_rows, rest * words / spec.rest_rows) for w, (border, rest) in ASKED.items()}


_ROWS = 2_000_000
_PREDICT = Spec("predict", "base", 128, 64)  # whose encoder is that of `batch_keys`
_TUNING_ALL = Spec("retrieve", "base", 128, 64, "all", _ROWS)
_CHIEF = [
    Spec("train_step", "base", 128, 64),
    Spec("train_step", "base", 512, 16),
    Spec("train_step", "large", 128, 32),
    Spec("train_step", "large", 512, 8),
    Spec("batch_keys", "base", 128, 64),
    _TUNING_ALL,
    Spec("retrieve", "base", 128, 64, 512, _ROWS, border=True),
    Spec("tag", "base", 128, 64, 64, _ROWS, border=True),
    Spec("tag", "base", 128, 64, 1024, _ROWS, border=True),
    Spec("tag", "base", 128, 64, "all", _ROWS, border=True),
    Spec("tag", "base", 512, 16, 64, _ROWS),
    Spec("tag", "large", 128, 64, 64, _ROWS, border=True),
]
TINY = [
    Spec("train_step", "tiny", 32, 8),
    Spec("batch_keys", "tiny", 32, 8),
    Spec("retrieve", "tiny", 32, 8, "all", 512),
    Spec("retrieve", "tiny", 32, 8, 4, 512, border=True),
    Spec("tag", "tiny", 32, 8, 4, 512, border=True),
]
# Programs that are compiled to see by how much they do not fit; that others do not breaks a budget.
TOO_LARGE = {
    f"{kind}-1/{Spec('tag', 'base', 128, 64, k, 20_000_000, border=True).name}"
    for kind in ("v5e", "v4", "v6e")
    for k in (8, 64, 1024, "all")
}
CHIEF_TARGETS = ("v5e-8", "h200-1")
ALL_TARGETS = tuple(f"{kind}-{chips}" for kind in ("v5e", "v4", "v5p", "v6e", "h200", "h100") for chips in (1, 8, 256))


def _full() -> Iterator[tuple[Spec, str]]:
    for target in ALL_TARGETS:
        for spec in (*_CHIEF, _PREDICT):
            yield spec, target
        for k in (8, 64, 1024, "all"):
            for rows in (200_000, _ROWS, 20_000_000):
                spec = Spec("tag", "base", 128, 64, k, rows, border=True)
                if spec not in _CHIEF:
                    yield spec, target
        yield replace(_TUNING_ALL, k=1024), target


def choose(full: bool, names: Sequence[str] = ()) -> list[tuple[Spec, str]]:
    """Return programs with their targets: those that matter most, or all; of these, those whose `target/name` holds a text.

    >>> [(spec.name, target) for spec, target in choose(False, ["h200-1/tag-large"])]
    [('tag-large-64x128-k64-2000000-border', 'h200-1')]
    """
    programs = list(_full()) if full else [(spec, target) for target in CHIEF_TARGETS for spec in _CHIEF]
    return [(spec, target) for spec, target in programs if not names or any(n in f"{target}/{spec.name}" for n in names)]


def named(names: Sequence[str]) -> list[tuple[Spec, str]]:
    """Return programs of any size by their whole names, `target/program`.

    >>> named(["v4-8/train_step-tiny-8x128"])[0][0].batch
    8

    Raises:
        BadName: a target or a program is none.
    """
    programs = []
    for name in names:
        target, slash, program = name.partition("/")
        if not slash:
            raise BadName(f"program: expected TARGET/PROGRAM, or a part of one that is listed, got {name!r}")
        chips = str(Target.parse(target))
        programs.append((Spec.parse(program), chips))
    return programs


def choose_or_named(full: bool, names: Sequence[str]) -> list[tuple[Spec, str]]:
    """Return the programs that `choose` does, and for each text that none of them holds the one of that whole name.

    Raises:
        BadName: such a text is no name.
    """
    return choose(full, names) + named([name for name in names if not choose(full, [name])])
