"""What a user waits for: eval.py, train.py and predict.py as whole processes, beside the same job written by hand.

    python -m benchmarks.whole RUN [--only eval] [--repeats 3] [--base OLDER_CHECKOUT] [--peer SCRIPT]

RUN is a folder that train.py has filled. Every process is a fresh one, and all take turns, so that what slows the machine
for a while slows all of them. `cold` is with an empty cache of compiled programs, `warm` with that which the cold process
left; the datastore is built anew by both. One file for each corpus and machine goes to results/whole/, for report.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.run import RESULTS, describe_hardware, slug
from knn_ner_jax.cli import read_config
from knn_ner_jax.compile_cache import FOLDER, SECONDS, keep_programs
from knn_ner_jax.config import Config
from knn_ner_jax.io import resolve_path
from knn_ner_jax.run_dir import environment
from tools.pages import ROOT

SENTENCE = "Angela Merkel met Nokia's chairman in Helsinki before the Davos Forum."
PROGRAMS = ("eval", "train")
SEARCHES = {"FAISS": "faiss", "PyTorch": "torch"}  # of the peer: name in the tables -> its option
PEER = ROOT / "benchmarks" / "peer_eval.py"

Measured = dict[str, Any]  # seconds, cpu_seconds, peak_mb of a process; what else is known of it


class Job(NamedTuple):
    """What is measured."""

    run: Path  # a folder that train.py has filled
    config: Config  # of its training
    corpus: Path  # its folder
    grid: Mapping[str, str]  # values of k, temperature and weight, with commas between them, as the peers take them
    epochs: int  # of the trainings
    temporary: Path  # a folder for everything that is written


def with_cache(folder: Path) -> dict[str, str]:
    """Return this environment, in which the cache of compiled programs lies below a folder, kept as a user's is."""
    told = {"XDG_CACHE_HOME": str(folder)}
    keep_programs(told)
    told.pop("XDG_CACHE_HOME")  # other programs keep other things there
    return {name: value for name, value in os.environ.items() if name not in (FOLDER, SECONDS)} | {FOLDER: ""} | told


def wait_for(command: Sequence[str | Path], variables: Mapping[str, str], checkout: Path = ROOT) -> tuple[Measured, str]:
    """Run a Python script in a fresh process; return what it took, and the last line that it printed."""
    arguments = [sys.executable, *map(str, command)]
    variables = {**variables, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        started = time.perf_counter()
        process = subprocess.Popen(arguments, env=variables, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read().strip()
    if process.returncode:
        sys.exit(f"whole: exit status {process.returncode} of {' '.join(arguments)}\n{printed[-2000:]}")
    measured = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}
    return measured, printed.splitlines()[-1]


def evaluate_ours(job: Job, checkout: Path, folder: Path, cache: Path) -> Measured:
    """Evaluate the run into a new folder with the eval.py of a checkout."""
    fields = {"k": job.grid["k"], "temperature": job.grid["temperature"], "knn_weight": job.grid["weight"]}
    options = [f"--knn.{name}=[{values}]" for name, values in fields.items()]
    config = job.run / "config.yaml"
    command: list[str | Path] = [checkout / "eval.py", "--config", config, "--run_dir", job.run, "--eval_dir", folder]
    measured, _ = wait_for([*command, *options, "--knn.metric=cosine"], with_cache(cache), checkout)
    result = json.loads((folder / "eval.json").read_text(encoding="utf-8"))
    scores = {
        "dev": result["dev"]["knn"]["f1"],
        "test": result["test"]["knn"]["f1"],
        "tagger": result["test"]["tagger"]["f1"],
    }
    chosen = [result["selected"][name] for name in ("k", "temperature", "knn_weight")]
    stages, revision = result["seconds"], result["git_revision"]
    return {**measured, "git_revision": revision, "stages": stages, "chosen": chosen, "f1": scores}


def evaluate_peer(job: Job, script: Path, tagger: Path, search: str) -> Measured:
    """Evaluate the exported tagger with a script that takes the options of `peer_eval.py`."""
    options = [f"--{name}={values}" for name, values in job.grid.items()]
    batch = f"--batch={job.config.eval.batch_size}"
    measured, line = wait_for([script, tagger, job.corpus, f"--search={search}", batch, *options], os.environ)
    result = json.loads(line)
    scores = {"dev": result["dev"], "test": result["knn_test"], "tagger": result["vanilla_test"]}
    return {**measured, "stages": result["seconds"], "chosen": result["chosen"], "f1": scores}


def interleave(ways: Mapping[str, Callable[[Path], Measured]], temporary: Path, repeats: int) -> dict[str, list[Measured]]:
    """Run all ways in turn, several times; each gets a folder that those of its turn share."""
    results: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(repeats):
        folder = Path(tempfile.mkdtemp(dir=temporary))
        for name, way in ways.items():
            results[name].append(way(folder))
            last = results[name][-1]
            print(f"{name}: {last['seconds']:.1f} s, of the processor {last['cpu_seconds']:.1f} s", flush=True)
    return results


def differences(results: Mapping[str, Sequence[Measured]]) -> list[str]:
    """Return, for every way whose choice or scores are not those of the first, a line that says both."""

    def outcome(measured: Measured) -> str:
        setting = "k {:g}, temperature {:g}, weight {:g}".format(*measured["chosen"])
        scores = ", ".join(f"{name} {f1:.2f}" for name, f1 in measured["f1"].items())
        return f"{setting}: {scores}"

    first, *others = ((name, outcome(one)) for name, measured in results.items() for one in measured)
    differing = {f"{name}: {found}; {first[0]}: {first[1]}" for name, found in others if found != first[1]}
    return sorted(differing)


def measure_eval(job: Job, repeats: int, peer: Path, searches: Sequence[str], base: Path | None) -> dict[str, Any]:
    """Measure eval.py cold and warm, that of an older checkout, the peer with some of its searches, and predict.py."""
    tagger = job.temporary / "tagger"
    wait_for([ROOT / "export.py", job.run, tagger], os.environ)
    ways: dict[str, Callable[[Path], Measured]] = {
        "cold": lambda folder: evaluate_ours(job, ROOT, folder / "cold", folder / "cache"),
        "warm": lambda folder: evaluate_ours(job, ROOT, folder / "warm", folder / "cache"),
    }
    for name in searches:
        ways[name] = partial(lambda _, name: evaluate_peer(job, peer, tagger, SEARCHES[name]), name=name)
    if base is not None:
        ways["base"] = lambda folder: evaluate_ours(job, base, folder / "base", folder / "cache_of_base")
    results = interleave(ways, job.temporary, repeats)
    evaluated = next(job.temporary.glob("*/warm"))

    def predict(_: Path) -> Measured:
        return wait_for([ROOT / "predict.py", evaluated, SENTENCE], with_cache(evaluated.parent / "cache"))[0]

    predict(job.temporary)  # compiles
    predicted = interleave({"predict": predict}, job.temporary, repeats)
    manifest = json.loads((evaluated / "eval.json").read_text(encoding="utf-8"))["datastore"]
    options = {"grid": dict(job.grid), "rows": manifest["rows"], "dim": manifest["dim"]}
    return {**options, "processes": results | predicted, "differences": differences(results)}


def measure_train(job: Job, repeats: int) -> dict[str, Any]:
    """Measure train.py cold beside a PyTorch loop with as many sentences a step and epochs."""
    train, backbone = job.config.train, resolve_path(job.config.model.backbone)
    command: list[str | Path] = [
        ROOT / "train.py",
        "--config",
        job.run / "config.yaml",
        f"--train.epochs={job.epochs}",
        "--run_dir",
    ]
    peer = [ROOT / "benchmarks" / "peer_train.py", backbone, job.corpus]
    options = [f"--epochs={job.epochs}", f"--batch={train.batch_size}", f"--learning-rate={train.learning_rate}"]

    def ours(folder: Path) -> Measured:
        measured, _ = wait_for([*command, folder / "run"], with_cache(folder / "cache"))
        result = json.loads((folder / "run" / "train.json").read_text(encoding="utf-8"))
        return {**measured, "f1": {"dev": result["best_dev_f1"]}}

    def by_hand(folder: Path) -> Measured:
        measured, line = wait_for([*peer, folder / "peer", *options], os.environ)
        return {**measured, "f1": {"dev": json.loads(line)["dev"]}}

    results = interleave({"cold": ours, "PyTorch": by_hand}, job.temporary, repeats)
    return {"epochs": job.epochs, "batch_size": train.batch_size, "processes": results}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a folder that train.py has filled")
    parser.add_argument("corpus", type=Path, nargs="?", help="its corpus, of column files; default: data.dir of the run")
    parser.add_argument("--only", choices=PROGRAMS, help="what is measured; the file keeps the other")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="of the trainings; default: the run's")
    parser.add_argument("--k", default="8,32,128,512")
    parser.add_argument("--temperature", default="0.01,0.03,0.1,0.3")
    parser.add_argument("--weight", default="0.05,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0")
    parser.add_argument("--peer", type=Path, default=PEER, help="a script with the options of peer_eval.py")
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES), help="of the peer")
    parser.add_argument("--base", type=Path, help="an older checkout whose eval.py is measured, too")
    parser.add_argument("--folder", type=Path, default=RESULTS / "whole", help="where the results are written")
    arguments = parser.parse_args(argv)
    run = arguments.run.resolve()
    config = read_config(run / "config.yaml")
    corpus = arguments.corpus or resolve_path(config.data.dir)
    hardware = describe_hardware()
    path = arguments.folder / f"{slug(corpus.name)}_{slug(hardware['name'])}.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results: dict[str, Any] = earlier | {"corpus": corpus.name, "hardware": hardware}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for program in [arguments.only] if arguments.only else PROGRAMS:
        with tempfile.TemporaryDirectory() as temporary:
            grid = {name: getattr(arguments, name) for name in ("k", "temperature", "weight")}
            job = Job(run, config, corpus.resolve(), grid, arguments.epochs or config.train.epochs, Path(temporary))
            if program == "eval":
                base = arguments.base and arguments.base.resolve()
                measured = measure_eval(job, arguments.repeats, arguments.peer.resolve(), arguments.searches, base)
                print("\n".join(measured["differences"]) or "the same choice and scores, to two digits, by all")
            else:
                measured = measure_train(job, arguments.repeats)
        results[program] = {"git_revision": environment()["git_revision"], **measured}
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}; python -m benchmarks.report writes its tables")


if __name__ == "__main__":
    main()
