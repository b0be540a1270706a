"""The folder of a run: the files in it, the check whether a run may continue there, and the trained model it holds."""

import importlib.metadata
import json
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from knn_ner_jax.calibration import Calibration
from knn_ner_jax.cli import read_config
from knn_ner_jax.config import Config, flatten
from knn_ner_jax.data.corpus import Corpus, Split
from knn_ner_jax.data.pinyin import Pinyin
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.data.tokenization import Tokenizer
from knn_ner_jax.io import InputError, check_finished, read_mapping, write_json, write_text
from knn_ner_jax.models.hf_checkpoint import FAMILIES
from knn_ner_jax.models.tagger import Tagger

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "tokenizers", "numpy"),
    *("seqeval", "nervaluate", "scikit-learn"),
)

TRAINING_FILES = (
    "config.yaml",
    "config.environment.json",
    "corpus.json",
    "model.json",
    "tokenizer",
    "pinyin",
    "checkpoints",
    "metrics.jsonl",
    "tensorboard",
    "profile",
    "train.json",
)
EVALUATION_FILES = (
    *("eval.config.yaml", "eval.config.environment.json", "eval.json", "report.html", "predictions"),
    *("datastore", "datastore.new"),
)

# Training reads these fields; the others may change between two evaluations of one trained tagger.
TRAINING_FIELDS = ("seed", "protocol", "data.", "model.", "train.")
DATASTORE_FIELDS = (*TRAINING_FIELDS, "datastore.")
EVALUATION_FIELDS = (*DATASTORE_FIELDS, "knn.", "eval.")


class RunConflict(InputError):
    """A folder that holds a run of another configuration or corpus; the message lists what differs."""


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class TrainedModel:
    """A trained tagger without its parameters; stored as `model.json`, `tokenizer/` and `pinyin/`.

    Attributes:
        tagger: the network.
        label_set: the labels of its outputs.
        max_length: most tokens encoded at once.
        tokenizer: turns words into token ids.
        pinyin: the maps of a ChineseBERT; None for other encoders.
        output_names: for a head from elsewhere, the names that its outputs had there; they are exported with it.
        is_segmented: whether train has words that `split_words` would part (see `words.are_segmented`).
    """

    tagger: Tagger
    label_set: LabelSet
    max_length: int
    tokenizer: Tokenizer
    pinyin: Pinyin | None = None
    output_names: tuple[str, ...] = ()
    is_segmented: bool = False

    def save(self, folder: Path) -> None:
        """Write `model.json`, `tokenizer/` and, for a ChineseBERT, `pinyin/`."""
        self.tokenizer.save(folder / "tokenizer")
        if self.pinyin is not None:
            self.pinyin.save(folder / "pinyin")
        tagger = self.tagger
        content = asdict(self.label_set) | {"max_length": self.max_length, "dtype": tagger.dtype, "head": tagger.head}
        foreign = {"output_names": self.output_names, "outputs": tagger.outputs, "speaks_iob1": tagger.speaks_iob1}
        rest = {"encoder": asdict(tagger.config), "is_segmented": self.is_segmented}
        write_json(folder / "model.json", content | foreign | rest)

    @classmethod
    def load(cls, folder: Path) -> "TrainedModel":
        """Read what `save` wrote.

        Raises:
            InputError: the folder holds no trained tagger, or one that another version wrote.
        """
        if not (folder / "model.json").is_file():
            raise InputError(f"run_dir: {folder}: expected a trained tagger, found none; train first")
        try:
            content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            label_set = LabelSet(tuple(content["types"]), content["protocol"])
            config = FAMILIES[content["encoder"]["family"]].config(**content["encoder"])
            foreign = {"outputs": tuple(content["outputs"]), "speaks_iob1": content["speaks_iob1"]}
            tagger = Tagger(config, len(label_set), content["dtype"], content["head"], **foreign)
            max_length = content["max_length"]
            output_names, is_segmented = tuple(content["output_names"]), bool(content["is_segmented"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder / 'model.json'}: expected what this version writes, found {error!r}; train again"
            ) from error
        pinyin = Pinyin.load(folder / "pinyin") if config.family == "chinesebert" else None
        if not (folder / "tokenizer").is_dir():
            raise InputError(f"run_dir: {folder / 'tokenizer'}: expected the tokenizer of a trained tagger, found none")
        try:
            tokenizer = Tokenizer.load(folder / "tokenizer")
        except Exception as error:  # tokenizers has none of its own
            raise InputError(
                f"run_dir: {folder / 'tokenizer'}: expected the tokenizer of a trained tagger, found a damaged one; copy it "
                f"again, or train again ({error!r:.200})"
            ) from error
        return cls(tagger, label_set, max_length, tokenizer, pinyin, output_names, is_segmented)


@dataclass(frozen=True)
class FinishedEvaluation:
    """What eval has left in a folder, which may have been moved, or be used from elsewhere.

    Attributes:
        folder: the folder.
        config: of the evaluation; its run_dir is where the run is now.
        selected: the kNN parameters that were chosen, by name.
        calibration: of the scores of entities.
    """

    folder: Path
    config: Config
    selected: dict[str, Any]
    calibration: Calibration


def load_evaluation(folder: Path) -> FinishedEvaluation:
    """Read what a finished evaluation was of, and what it chose.

    Raises:
        InputError: no evaluation has finished in this folder.
    """
    check_finished(folder, "evaluation")
    config, results = read_config(folder / "eval.config.yaml"), read_mapping(folder / "eval.json", "eval_dir")
    # What a relative run_dir may be relative to.
    origins = [Path(), Path(results["folder"])]
    # A whole project that was moved, or is mounted elsewhere: the folder still ends as the configuration says.
    name, here = Path(config.eval_dir or config.run_dir), folder.resolve()
    if not name.is_absolute() and here.parts[-len(name.parts) :] == name.parts:
        origins.append(here.parents[len(name.parts) - 1])
    runs = [folder, *(origin / config.run_dir for origin in origins)]
    run_dir = next((run for run in runs if (run / "model.json").is_file()), Path(config.run_dir))
    if "calibration" not in results:
        raise InputError(f"{folder / 'eval.json'}: expected a calibration, found that of an earlier version; evaluate again")
    calibration = Calibration.from_dict(results["calibration"])
    return FinishedEvaluation(folder, replace(config, run_dir=str(run_dir)), results["selected"], calibration)


def _git_revision() -> str | None:
    """Return the git revision of the source, with `+changes` where it differs from the commit; None outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # fails in a repository that does not hold this file
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def environment() -> dict[str, Any]:
    """Return package versions and git revision."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"packages": versions, "git_revision": _git_revision()}


# How a run computes, and what it writes besides: another value changes no result, so a run may continue with it.
NOT_COMPARED = ("train.log_every", "train.save_every", "train.remat", "train.profile", "knn.prune")


def relevant_fields(flat: Mapping[str, Any], prefixes: Iterable[str]) -> dict[str, Any]:
    """Return the fields under some prefixes that decide what a run computes.

    >>> relevant_fields({"seed": 0, "train.epochs": 5, "train.remat": True, "knn.k": 8}, ["seed", "train."])
    {'seed': 0, 'train.epochs': 5}
    """
    return {name: value for name, value in flat.items() if name.startswith(tuple(prefixes)) and name not in NOT_COMPARED}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: expected the configuration of a run: {error}") from error
    if not isinstance(content, dict) or "run_dir" not in content:
        raise InputError(f"{path}: expected the configuration of a run, found something else")
    return content


def check_same_config(
    path: Path,
    config: Config,
    prefixes: Iterable[str],
    remedy: str = "--overwrite deletes it and starts again; or give another run_dir",
    ignored_fields: Sequence[str] = (),
) -> None:
    """Compare a stored configuration with this run's.

    Args:
        path: YAML file that an earlier run wrote.
        config: this run's configuration.
        prefixes: prefixes of the fields to compare.
        remedy: advice at the end of the message.
        ignored_fields: fields not to compare all the same.

    Raises:
        InputError: the file is missing or not a configuration.
        RunConflict: some fields differ; all of them are listed.
    """
    earlier, now = (relevant_fields(flatten(tree), prefixes) for tree in (_read_config(path), config_to_dict(config)))
    compared = [name for name in {**earlier, **now} if name not in ignored_fields]
    names = [name for name in compared if earlier.get(name) != now.get(name)]
    if names:
        lines = [f"{name}: the earlier run has {earlier.get(name)}, this one {now.get(name)}" for name in names]
        raise RunConflict(f"{path.parent} holds a run of another configuration; {remedy}:\n  " + "\n  ".join(lines))


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return a configuration as nested dictionaries, without `distributed`, which no result depends on."""
    return {name: value for name, value in asdict(config).items() if name != "distributed"}


def save_config(path: Path, config: Config) -> None:
    """Write the complete configuration, which `--config` reads, and the environment in a file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True))
    write_json(path.with_name(path.stem + ".environment.json"), environment())


def check_corpus(hashes: Mapping[str, str], splits: Mapping[str, Split], remedy: str) -> None:
    """Compare files with the hashes that an earlier run recorded, so that no run mixes two corpora.

    Args:
        hashes: SHA-256 of each split of the earlier run.
        splits: this run's splits.
        remedy: advice at the end of the message.

    Raises:
        RunConflict: a file has changed.
    """
    changed = [str(split.path) for name, split in splits.items() if hashes.get(name) != split.sha256]
    if changed:
        raise RunConflict(f"{', '.join(changed)}: changed since the earlier run; {remedy}")


def check_run_dir(folder: Path, setting: str, names: Sequence[str]) -> None:
    """Raise InputError where a folder holds files of these names without the first, which every run writes first."""
    config = names[0]
    if (folder / config).exists():
        _read_config(folder / config)
        return
    if files := ", ".join(name for name in names if (folder / name).exists()):
        raise InputError(f"{setting}: {folder}: expected an empty folder or a run, found {files} without {config}")


def check_nothing_was_taught(folder: Path) -> None:
    """Raise InputError where the datastore of a folder was edited: to delete it would lose the edits."""
    log = folder / "datastore" / "log.json"
    if log.exists() and (edits := json.loads(log.read_text(encoding="utf-8"))):
        raise InputError(
            f"{log.parent}: expected a datastore as it was built, found {len(edits)} edits, which --overwrite would delete "
            f"(knn-ner memory {folder} log lists them); evaluate into another --eval_dir, or delete {log.parent} first"
        )


def delete_run(folder: Path, names: Sequence[str]) -> None:
    """Delete files and folders of these names, the first one last: what a killed deletion leaves still counts as a run."""
    for path in (folder / name for name in reversed(names)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def init_run_dir(config: Config, corpus: Corpus, model: TrainedModel, overwrite: bool) -> None:
    """Write the files of a training that exist before its first step, or check that it is the same training as before.

    Args:
        config: the run's configuration; see `check_same_config`.
        corpus: the corpus it learns from.
        model: the model it trains.
        overwrite: whether to delete an earlier run first.

    Raises:
        RunConflict: the corpus has changed since the training began.
    """
    run_dir = Path(config.run_dir)
    config_path, hashes_path = run_dir / TRAINING_FILES[0], run_dir / "corpus.json"
    if overwrite:
        delete_run(run_dir, (*TRAINING_FILES, *EVALUATION_FILES))
    if not config_path.exists():
        save_config(config_path, config)
    splits = {"train": corpus.train, "dev": corpus.dev}
    if not hashes_path.exists():
        write_json(hashes_path, {name: split.sha256 for name, split in splits.items()})
    check_corpus(json.loads(hashes_path.read_text(encoding="utf-8")), splits, "--overwrite starts again")
    model.save(run_dir)
