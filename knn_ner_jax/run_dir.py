"""The folder of a run: what is in it, whether it may be continued, and what a finished one needs to be used again."""

import importlib.metadata
import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from knn_ner_jax.config import Config, flatten
from knn_ner_jax.data.corpus import Corpus, Split
from knn_ner_jax.data.pinyin import Pinyin
from knn_ner_jax.data.tag_schemes import LabelSet
from knn_ner_jax.io import InputError, write_json, write_text
from knn_ner_jax.models.hf_checkpoint import FAMILIES
from knn_ner_jax.models.tagger import Tagger

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "tokenizers", "numpy", "seqeval")

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

# Training reads these; the rest of the configuration may change between two evaluations of one trained tagger.
TRAINING_FIELDS = ("seed", "protocol", "data.", "model.", "train.")
DATASTORE_FIELDS = (*TRAINING_FIELDS, "datastore.")
EVALUATION_FIELDS = (*DATASTORE_FIELDS, "knn.")


class RunConflict(InputError):
    """The folder holds a run of another configuration; the message lists the fields that differ."""


@dataclass(frozen=True)
class TrainedModel:
    """What is needed beside the parameters to run a trained tagger; stored as `model.json`, `tokenizer/` and `pinyin/`.

    Attributes:
        tagger: the network.
        label_set: what its outputs mean.
        max_length: most tokens encoded at once.
        tokenizer: words to token ids.
        pinyin: characters to pinyin ids, for ChineseBERT alone.
    """

    tagger: Tagger
    label_set: LabelSet
    max_length: int
    tokenizer: PreTrainedTokenizerBase
    pinyin: Pinyin | None = None

    def save(self, folder: Path) -> None:
        """Writes `model.json`, `tokenizer/` and, if there is one, `pinyin/`."""
        self.tokenizer.save_pretrained(folder / "tokenizer")
        if self.pinyin is not None:
            self.pinyin.save(folder / "pinyin")
        tagger = self.tagger
        content = asdict(self.label_set) | {"max_length": self.max_length, "dtype": tagger.dtype, "head": tagger.head}
        write_json(folder / "model.json", content | {"encoder": asdict(tagger.config)})

    @classmethod
    def load(cls, folder: Path) -> "TrainedModel":
        """Reads what `save` wrote.

        Raises:
            InputError: nothing has been trained in this folder, or by another version.
        """
        if not (folder / "model.json").is_file():
            raise InputError(f"run_dir: {folder}: expected a trained tagger, found none; train first")
        try:
            content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            label_set = LabelSet(tuple(content["types"]), content["protocol"])
            config = FAMILIES[content["encoder"]["family"]].config(**content["encoder"])
            tagger = Tagger(config, len(label_set), content["dtype"], content["head"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder / 'model.json'}: expected what this version writes, found {error!r}; train again"
            ) from error
        pinyin = Pinyin.load(folder / "pinyin") if config.family == "chinesebert" else None
        return cls(tagger, label_set, content["max_length"], AutoTokenizer.from_pretrained(folder / "tokenizer"), pinyin)


def _git_revision() -> str | None:
    """Revision of the source the package runs from, `+changes` where it differs from the commit; None outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # fails in a repository that does not hold this file
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def environment() -> dict[str, Any]:
    """Package versions and git revision."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"packages": versions, "git_revision": _git_revision()}


# How a run computes, and what it writes beside: another value neither changes it nor stands in the way of going on.
NOT_COMPARED = ("train.remat", "train.profile", "knn.search_dtype", "knn.prune")


def relevant_fields(flat: Mapping[str, Any], prefixes: Iterable[str]) -> dict[str, Any]:
    """The fields under some prefixes that decide what a run computes."""
    return {name: value for name, value in flat.items() if name.startswith(tuple(prefixes)) and name not in NOT_COMPARED}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: expected the configuration of a run: {error}") from error
    if not isinstance(stored, dict) or "run_dir" not in stored:
        raise InputError(f"{path}: expected the configuration of a run, found something else")
    return stored


def check_same_config(
    path: Path,
    config: Config,
    prefixes: Iterable[str],
    remedy: str = "--overwrite deletes it",
    ignored_fields: Sequence[str] = (),
) -> None:
    """Compares a stored configuration with this one.

    Args:
        path: YAML file an earlier run wrote.
        config: this run's.
        prefixes: which fields count.
        remedy: what the message advises.
        ignored_fields: fields that do not count all the same.

    Raises:
        InputError: the file is missing or not a configuration.
        RunConflict: some of them differ; all are listed.
    """
    stored = flatten(_read_config(path))
    flat_stored, flat_now = relevant_fields(stored, prefixes), relevant_fields(flatten(config_to_dict(config)), prefixes)
    counted = [name for name in {**flat_stored, **flat_now} if name not in ignored_fields]
    names = [name for name in counted if flat_stored.get(name) != flat_now.get(name)]
    if names:
        lines = [f"{name}: the earlier run has {flat_stored.get(name)}, this one {flat_now.get(name)}" for name in names]
        raise RunConflict(f"{path.parent} holds a run of another configuration; {remedy}:\n  " + "\n  ".join(lines))


def config_to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested dictionaries, without `distributed`: where a process runs is no part of what the run is."""
    return {name: value for name, value in asdict(config).items() if name != "distributed"}


def save_config(path: Path, config: Config) -> None:
    """Writes the resolved configuration, which `--config` reads, and beside it the environment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True))
    write_json(path.with_name(path.stem + ".environment.json"), environment())


def check_corpus(stored: Mapping[str, str], splits: Mapping[str, Split], remedy: str) -> None:
    """Compares files with the hashes an earlier run recorded, so that no run mixes two corpora.

    Args:
        stored: SHA-256 by split.
        splits: this run's.
        remedy: what the message advises.

    Raises:
        RunConflict: a file has changed.
    """
    changed = [str(split.path) for name, split in splits.items() if stored.get(name) != split.sha256]
    if changed:
        raise RunConflict(f"{', '.join(changed)}: changed since the earlier run; {remedy}")


def check_is_dir(folder: Path, setting: str) -> None:
    """Raises InputError where a file stands in the way of a folder; makes nothing."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"{setting}: expected a folder, got {folder}: {nearest} is a file")


def check_run_dir(folder: Path, setting: str, names: Sequence[str]) -> None:
    """Raises InputError where a folder holds files of these names without the first, which a run of ours writes first."""
    config = names[0]
    if (folder / config).exists():
        _read_config(folder / config)
        return
    found = [name for name in names if (folder / name).exists()]
    if found:
        raise InputError(
            f"{setting}: {folder}: expected an empty folder or a run, found {', '.join(found)} without {config}"
        )


def delete_run(folder: Path, names: Sequence[str]) -> None:
    """Deletes files and folders of these names, the first one last: while the configuration stands, a rest is refused."""
    for path in (folder / name for name in reversed(names)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def init_run_dir(config: Config, corpus: Corpus, model: TrainedModel, overwrite: bool) -> None:
    """Writes what is known of a training before its first step, or checks that it is the one that began here.

    Args:
        config: its configuration; see `check_same_config`.
        corpus: what it learns from.
        model: what it trains.
        overwrite: delete an earlier run first.

    Raises:
        RunConflict: the corpus has changed since it began.
    """
    run_dir = Path(config.run_dir)
    stored, hashes = run_dir / TRAINING_FILES[0], run_dir / "corpus.json"
    if overwrite:
        delete_run(run_dir, (*TRAINING_FILES, *EVALUATION_FILES))
    if not stored.exists():
        save_config(stored, config)
    splits = {"train": corpus.train, "dev": corpus.dev}
    if not hashes.exists():
        write_json(hashes, {name: split.sha256 for name, split in splits.items()})
    check_corpus(json.loads(hashes.read_text(encoding="utf-8")), splits, "--overwrite starts again")
    model.save(run_dir)
