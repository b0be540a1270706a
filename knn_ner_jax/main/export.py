"""`export`: save the tagger of a run for transformers, or with its datastore as one program that JAX alone runs."""

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from knn_ner_jax.cli import Parser
from knn_ner_jax.io import InputError, check_finished, check_is_new, read_mapping

EVALUATION = "eval.json"
EXAMPLE = Path(__file__).parent.parent / "deploy" / "example.py"
PACKAGES = "jax flatbuffers numpy tokenizers safetensors"
EXAMPLE_LIMIT = "pinyin_ids"  # an input that the example does not make
TAGGER_USAGE = (
    "`transformers.AutoModelForTokenClassification.from_pretrained` loads this folder. A word's label is that of its first "
    "subword."
)
PROGRAM_USAGE = (
    "`{program}` is one function: encoder, head, exact search among the datastore, vote and mix. `jax.export.deserialize` "
    "reads it; it is StableHLO inside, for {platforms}. `manifest.json` describes inputs, outputs, settings. Windows have "
    "{length} tokens, special ones included."
)


def _platforms(text: str) -> tuple[str, ...]:
    """Read names with commas between them, each once.

    >>> _platforms("cpu,cuda")
    ('cpu', 'cuda')
    """
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in ("cpu", "cuda", "tpu")]:
        raise argparse.ArgumentTypeError(f"expected some of cpu,cuda,tpu, got {', '.join(unknown)}")
    return names


def _languages(text: str) -> list[str]:
    """Read codes of languages with commas between them.

    >>> _languages("en,de")
    ['en', 'de']
    """
    if not re.fullmatch(r"[a-z]{2,3}(,[a-z]{2,3})*", text):
        raise argparse.ArgumentTypeError(f"expected codes such as en or en,de, got {text}")
    return text.split(",")


def _license(text: str) -> str:
    """Read an identifier of a licence."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", text):
        raise argparse.ArgumentTypeError(f"expected an identifier of hubs such as mit, got {text}")
    return text


def _parser() -> Parser:
    parser = Parser(
        prog="knn-ner export", description="Save a trained tagger for use without this package.", allow_abbrev=False
    )
    parser.add_argument(
        "run_dir", metavar="RUN", help="the folder of a finished training; for stablehlo that which eval wrote to"
    )
    parser.add_argument("folder", metavar="FOLDER", help="new or empty")
    parser.add_argument(
        "--format",
        choices=("transformers", "stablehlo"),
        default="transformers",
        help="transformers: config.json, weights and tokenizer of the tagger, without its datastore (default); stablehlo: "
        "encoder, search, vote and mix as one program, with tokenizer and an example that uses it",
    )
    card = parser.add_argument_group("options of the model card, which says where they are not stated")
    card.add_argument("--language", type=_languages, metavar="CODES", help="of the text, such as en or en,de")
    card.add_argument("--license", type=_license, metavar="ID", help="of what is exported, such as mit or apache-2.0")
    program = parser.add_argument_group("options of stablehlo")
    program.add_argument(
        "--platforms", type=_platforms, default=("cpu", "cuda", "tpu"), help="what it runs on (default: cpu,cuda,tpu)"
    )
    program.add_argument(
        "--arrays",
        choices=("inside", "arguments"),
        default="inside",
        help="weights and datastore: constants of the program (default), or arguments, in a file beside it",
    )
    program.add_argument("--length", type=int, help="tokens of a window (default: 128, or max_length if that is less)")
    program.add_argument("--batch", type=int, help="windows in a batch (default: any number)")
    program.add_argument("--neighbours", type=int, default=0, help="how many to return for each word (default: 0)")
    return parser


def _export_tagger(source: Path, target: Path, stated: dict[str, Any]) -> None:
    check_finished(source, "training")

    import jax

    from knn_ner_jax import sharding
    from knn_ner_jax.cli import read_config
    from knn_ner_jax.deploy.card import write_card
    from knn_ner_jax.models.pretrained import check_exportable, export
    from knn_ner_jax.run_dir import TrainedModel
    from knn_ner_jax.training.checkpoints import Checkpoints

    model = TrainedModel.load(source)
    if model.label_set.protocol != "words":
        raise InputError(f"protocol: expected a run with words, got {model.label_set.protocol}, which labels pieces")
    check_exportable(model.tagger, target)
    with Checkpoints(source / "checkpoints") as checkpoints:
        params = checkpoints.load_best(model.tagger.abstract_params(), sharding.make_mesh(1))[2]
    names = model.output_names or model.label_set.names
    export(model.tagger, jax.device_get(params), names, model.tokenizer, target)
    results = read_mapping(source / EVALUATION, "run") if (source / EVALUATION).is_file() else None
    config = read_config(source / "config.yaml")
    write_card(target, config, results, "tagger", tuple(names), TAGGER_USAGE, stated=stated)
    print(f"{target}: config.json, weights, tokenizer and model card of {source}, without its datastore")


def _export_program(source: Path, target: Path, stated: dict[str, Any], options: dict[str, Any]) -> None:
    check_finished(source, "evaluation")
    check_is_new(target)

    from knn_ner_jax.deploy.card import write_card
    from knn_ner_jax.deploy.program import PROGRAM, ProgramOptions, write_program
    from knn_ner_jax.knn_tagger import load
    from knn_ner_jax.run_dir import load_evaluation

    tagger = load(source)
    manifest = write_program(tagger, target, ProgramOptions(**options))
    platforms = ", ".join(manifest["platforms"])
    usage = PROGRAM_USAGE.format(program=PROGRAM, platforms=platforms, length=manifest["length"])
    if EXAMPLE_LIMIT in [entry["name"] for entry in manifest["inputs"]]:
        usage += " There is no example, because what makes pinyin of text is not in this folder."
    else:
        shutil.copyfile(EXAMPLE, target / EXAMPLE.name)
        usage += f'\n\n```\npip install {PACKAGES}\npython {EXAMPLE.name} "Any sentence you like."\n```'
    results = read_mapping(source / EVALUATION, "run")
    config, labels = load_evaluation(source).config, tuple(manifest["labels"])
    write_card(target, config, results, "knn", labels, usage, tagger.num_rows, tagger.stored.version, stated)
    size = (target / PROGRAM).stat().st_size / 1e6
    print(f"{target / PROGRAM}: {size:,.1f} MB, for {platforms}; README.md says how to use it")


def main(argv: Sequence[str] | None = None) -> None:
    """Write what was trained, or trained and evaluated, into a folder.

    Args:
        argv: words of the command line after the command; None: those of the process.

    Raises:
        InputError: the command line is wrong, the training or evaluation is not finished, the folder is not empty, or what
            was trained cannot be exported in this format.
    """
    options = vars(_parser().parse_args(argv))
    source, target = (Path(options.pop(name)).expanduser() for name in ("run_dir", "folder"))
    stated = {name: options.pop(name) for name in ("language", "license")}
    if options.pop("format") == "stablehlo":
        return _export_program(source, target, stated, options)
    if chosen := [name for name, value in options.items() if value != _parser().get_default(name)]:
        raise InputError(f"--{chosen[0]}: expected with --format stablehlo alone, got it with transformers")
    _export_tagger(source, target, stated)
