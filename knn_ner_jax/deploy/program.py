"""A tagger as one program: encoder, head, search, vote and mix in StableHLO, which runs where this package is not.

The program is a function of windows of one length, exported by `jax.export` for one or several kinds of devices. Weights and
datastore are constants in it, or arguments, which then lie beside it.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Bool, Int
from safetensors.numpy import save_file

from knn_ner_jax.data.batching import ROW_LENGTH, Batch
from knn_ner_jax.data.pinyin import LETTERS
from knn_ner_jax.data.tokenization import NO_WORD, NUM_SPECIAL
from knn_ner_jax.io import InputError, write_bytes, write_json
from knn_ner_jax.knn.combine import KnnParams, interpolate, knn_probabilities
from knn_ner_jax.knn.datastore import Datastore, Projection
from knn_ner_jax.knn.inference import QUERY_ROWS, RetrievalSpec, retrieve
from knn_ner_jax.knn_tagger import KnnTagger
from knn_ner_jax.models.tagger import Params

PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}  # kinds of devices: as jax.export calls them, and as we do
PROGRAM, ARRAYS, ROWS, MANIFEST = "program.jax_export", "arrays.safetensors", "rows.safetensors", "manifest.json"
MOST_BYTES = 2**31 - 2**24  # of constants: offsets in a flatbuffer have 31 bits, and the code needs some
MEANINGS = {
    "token_ids": "vocabulary ids: the classification token, subwords, the separator; 0 at padding",
    "segments": "1 where there is a token, 0 at padding: an attention mask; or numbers of several windows",
    "is_word": "whether a word is labelled here: at its first subword, in one window alone",
    "pinyin_ids": "letters of each token's pinyin",
    "label_ids": "the most likely label of each word, -1 where is_word is false",
    "p": "probabilities of the labels: p_knn and p_ner mixed; 0 where is_word is false, as in what follows",
    "p_ner": "the tagger's own",
    "p_knn": "those of the vote",
    "neighbour_ids": f"the nearest rows of the datastore, nearest first: {ROWS} says which words they are",
    "neighbour_similarities": "how near they are; larger is nearer",
}


@dataclass(frozen=True)
class ProgramOptions:
    """What to export.

    Attributes:
        platforms: keys of `PLATFORMS`.
        length: tokens of a window; None: `batching.ROW_LENGTH`, or what the encoder takes at most if that is less.
        batch: windows in a batch; None: any number.
        arrays: `inside`: weights and datastore are constants of the program; `arguments`: they are given to it.
        neighbours: how many rows of the datastore to return for each word.
    """

    platforms: tuple[str, ...] = tuple(PLATFORMS)
    length: int | None = None
    batch: int | None = None
    arrays: str = "inside"
    neighbours: int = 0


def arrays_of(knn_tagger: KnnTagger) -> dict[str, np.ndarray]:
    """Return the weights and the rows of a tagger by name, on the host, without padding."""
    store = knn_tagger.stored.datastore
    names = ("keys", "squared_norms", "labels")
    arrays = {f"datastore/{name}": np.asarray(getattr(store, name))[: knn_tagger.num_rows] for name in names}
    if store.projection is not None:
        arrays |= {f"datastore/{name}": np.asarray(value) for name, value in vars(store.projection).items()}
    for path, leaf in jax.tree.leaves_with_path(knn_tagger.params):
        arrays["weights/" + jax.tree_util.keystr(path, simple=True, separator="/")] = np.asarray(leaf)
    return arrays


def unflatten(arrays: Mapping[str, Any], like: Params) -> tuple[Params, Datastore]:
    """Return parameters and datastore of arrays by name."""
    names = [
        "weights/" + jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(like)
    ]
    params = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in names])
    keys, norms, labels = (jnp.asarray(arrays[f"datastore/{name}"]) for name in ("keys", "squared_norms", "labels"))
    projection = None
    if "datastore/mean" in arrays:
        projection = Projection(jnp.asarray(arrays["datastore/mean"]), jnp.asarray(arrays["datastore/matrix"]))
    nowhere = jnp.zeros_like(labels)
    return params, Datastore(keys, norms, labels, nowhere, nowhere, jnp.int32(len(norms)), projection)


def label_windows(
    params: Params,
    datastore: Datastore,
    token_ids: Int[Array, "batch length"],
    segments: Int[Array, "batch length"],
    is_word: Bool[Array, "batch length"],
    pinyin_ids: Int[Array, "batch length letters"] | None = None,
    *,
    knn_params: KnnParams,
    neighbours: int,
    spec: RetrievalSpec,
) -> dict[str, Array]:
    """Label the words of windows by a search for all of them (paper, section 3); see `MEANINGS`.

    Args:
        params: parameters of `spec.tagger`.
        datastore: what is searched.
        token_ids: of the windows.
        segments: see `batching.Batch`.
        is_word: where a word is labelled.
        pinyin_ids: for ChineseBERT.
        knn_params: how neighbours vote; k at most the rows.
        neighbours: how many to return, at most the rows.
        spec: of the search; its k and metric are replaced.
    """
    shape, size = token_ids.shape, token_ids.shape[0] * token_ids.shape[1]
    numbers = jnp.where(is_word, jnp.arange(size, dtype=jnp.int32).reshape(shape), NO_WORD)
    batch = Batch(token_ids, segments, numbers, jnp.zeros_like(token_ids), pinyin_ids)
    by_all = knn_params.k == "all"
    k = (neighbours or "all") if by_all else max(knn_params.k, neighbours)
    temperatures = jnp.float32([knn_params.temperature]) if by_all else None
    retrieved = retrieve(params, datastore, batch, temperatures, spec=replace(spec, k=k, metric=knn_params.metric))
    near, knn_probs, _ = retrieved.result
    if knn_probs is not None:
        p_knn = knn_probs[0]
    else:
        voters = near.similarities[:, : knn_params.k], near.values[:, : knn_params.k]
        p_knn = knn_probabilities(*voters, spec.num_labels, jnp.float32(knn_params.temperature))
    p = interpolate(retrieved.p_ner, p_knn, jnp.float32(knn_params.knn_weight))
    found = {"p": p, "p_ner": retrieved.p_ner, "p_knn": p_knn}
    if neighbours:
        found |= {"neighbour_ids": near.ids[:, :neighbours], "neighbour_similarities": near.similarities[:, :neighbours]}
    places = jnp.where(retrieved.word_index == NO_WORD, size, retrieved.word_index)

    def put(values: Array) -> Array:
        everywhere = jnp.zeros((size, *values.shape[1:]), values.dtype)
        return everywhere.at[places].set(values, mode="drop").reshape(*shape, *values.shape[1:])

    outputs = {name: put(values) for name, values in found.items()}
    return {"label_ids": jnp.where(is_word, outputs["p"].argmax(axis=-1), -1), **outputs}


def _check(options: ProgramOptions, knn_tagger: KnnTagger) -> ProgramOptions:
    """Return the options with all choices made."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise InputError(
            "--format stablehlo: expected the package flatbuffers, found none; pip install 'knn-ner-jax[export]'"
        )
    if knn_tagger.label_set.protocol != "words":
        raise InputError(f"protocol: expected a run with words, got {knn_tagger.label_set.protocol}, which labels pieces")
    longest = knn_tagger.model.max_length
    length = min(longest, ROW_LENGTH) if options.length is None else options.length
    if not NUM_SPECIAL + 2 <= length <= longest:
        raise InputError(f"--length: expected {NUM_SPECIAL + 2} to {longest} (the run's max_length), got {length}")
    if options.batch is not None and options.batch < 1:
        raise InputError(f"--batch: expected at least 1, got {options.batch}")
    if not 0 <= options.neighbours <= knn_tagger.num_rows:
        raise InputError(f"--neighbours: expected 0 to {knn_tagger.num_rows} (the rows), got {options.neighbours}")
    return replace(options, length=length)


def export_program(
    knn_tagger: KnnTagger, knn_params: KnnParams, arrays: Mapping[str, np.ndarray], options: ProgramOptions
) -> export.Exported:
    """Trace and lower the program of a tagger.

    Args:
        knn_tagger: of a finished evaluation.
        knn_params: how neighbours vote; k at most the rows.
        arrays: of `arrays_of`.
        options: with a length.

    Returns:
        A function of `token_ids`, `segments`, `is_word` and, for ChineseBERT, `pinyin_ids`; with `arrays: arguments` of all
        arrays by name before them.

    Raises:
        InputError: weights and datastore are too large to be constants.
    """
    num_bytes = sum(array.nbytes for array in arrays.values())
    if options.arrays == "inside" and num_bytes > MOST_BYTES:
        raise InputError(
            f"--arrays inside: expected weights and datastore of at most {MOST_BYTES:,} bytes together, what one file can "
            f"hold, got {num_bytes:,}; --arrays arguments puts them beside it"
        )
    assert options.length is not None
    # The plain formula of attention everywhere: a kernel of cuDNN is nothing that an artifact may rely on.
    tagger = replace(knn_tagger.spec.tagger, platform="cpu")
    spec = replace(knn_tagger.spec, tagger=tagger, mesh=None, query_rows=min(QUERY_ROWS, options.length))

    def on_platform(arrays: Mapping[str, Array | np.ndarray], *inputs: Array, platform: str) -> dict[str, Array]:
        params, datastore = unflatten(arrays, tagger.abstract_params())
        how: dict[str, Any] = {"knn_params": knn_params, "neighbours": options.neighbours}
        return label_windows(params, datastore, *inputs, **how, spec=replace(spec, platform=platform))

    def program(arrays: Mapping[str, Array | np.ndarray], *inputs: Array) -> dict[str, Array]:
        by_platform = {name: partial(on_platform, platform=PLATFORMS[name]) for name in options.platforms}
        if len(by_platform) == 1:
            return by_platform[options.platforms[0]](arrays, *inputs)
        return jax.lax.platform_dependent(arrays, *inputs, **by_platform)

    batch = options.batch or export.symbolic_shape("batch")[0]
    shape = (batch, options.length)
    inputs = [jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.int32, jnp.int32, jnp.bool_)]
    if knn_tagger.model.pinyin is not None:
        inputs.append(jax.ShapeDtypeStruct((*shape, LETTERS), jnp.int32))
    if options.arrays == "inside":
        return export.export(jax.jit(partial(program, arrays)), platforms=options.platforms)(*inputs)
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}
    return export.export(jax.jit(program), platforms=options.platforms)(shapes, *inputs)


def _described(names: list[str], avals: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Return name, shape (`batch` stands for any number), dtype and meaning of inputs or outputs."""
    shapes = [[size if isinstance(size, int) else str(size) for size in aval.shape] for aval in avals]
    entries = [
        {"name": name, "shape": shape, "dtype": str(aval.dtype)}
        for name, shape, aval in zip(names, shapes, avals, strict=True)
    ]
    return [entry | ({"meaning": MEANINGS[entry["name"]]} if entry["name"] in MEANINGS else {}) for entry in entries]


def write_program(knn_tagger: KnnTagger, folder: Path, options: ProgramOptions) -> dict[str, Any]:
    """Write the program of a tagger, its tokenizer and a manifest; return the manifest.

    Args:
        knn_tagger: of a finished evaluation.
        folder: new or empty.
        options: what to export.

    Raises:
        InputError: `flatbuffers` is missing, an option is out of range, the run labels pieces, or see `export_program`.
    """
    options = _check(options, knn_tagger)
    knn_params = knn_tagger.knn_params
    assert knn_params is not None
    if knn_params.k != "all":  # fewer rows than dev chose from, where words have been removed
        knn_params = replace(knn_params, k=min(knn_params.k, knn_tagger.num_rows))
    arrays = arrays_of(knn_tagger)
    exported = export_program(knn_tagger, knn_params, arrays, options)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / PROGRAM, bytes(exported.serialize()))
    if options.arrays == "arguments":
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / ARRAYS)
    if options.neighbours:
        store = knn_tagger.stored.datastore
        names = ("labels", "sentence_ids", "word_ids")
        columns = {name: np.asarray(getattr(store, name))[: knn_tagger.num_rows] for name in names}
        save_file(columns, folder / ROWS)
    model = knn_tagger.model
    model.tokenizer.save(folder)
    if model.pinyin is not None:
        model.pinyin.save(folder / "pinyin")
    given = sorted(arrays) if options.arrays == "arguments" else []
    inputs = ["token_ids", "segments", "is_word", "pinyin_ids"][: len(exported.in_avals) - len(given)]
    outputs = sorted({*MEANINGS} - {"token_ids", "segments", "is_word", "pinyin_ids"})
    if not options.neighbours:
        outputs = [name for name in outputs if not name.startswith("neighbour")]
    manifest = {
        "program": PROGRAM,
        "jax": jax.__version__,
        "calling_convention": exported.calling_convention_version,
        "platforms": exported.platforms,
        "arrays": ARRAYS if given else "inside",
        "batch": options.batch,
        "length": options.length,
        "labels": knn_tagger.label_set.names,
        "special_ids": {name: model.tokenizer.special_id(f"{name}_token") for name in ("cls", "sep", "unk")},
        "inputs": _described([*given, *inputs], exported.in_avals),
        "outputs": _described(outputs, exported.out_avals),
        "settings": {
            **asdict(knn_params),
            "layers": knn_tagger.spec.layers,
            "rows": knn_tagger.num_rows,
            "dim": arrays["datastore/keys"].shape[1],
            "key_dtype": str(arrays["datastore/keys"].dtype),
        },
        "calibration": asdict(knn_tagger.calibration),  # of the scores of entities, not applied to `p`
    }
    write_json(folder / MANIFEST, manifest)
    return manifest
