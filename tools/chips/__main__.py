"""Compile what users run for the chips they own, on a machine that has none: `make chips`.

    python -m tools.chips                               programs that matter most, for v5e-8 and h200-1
    python -m tools.chips v5e-8/tag h200-1/train_step   those of these whose `target/program` holds one of the texts
    python -m tools.chips v4-8/tag-base-64x128-k64-2000000-border     one of any size, by its whole name
    python -m tools.chips --full                        also the paper's sizes, on 1, 8 and 256 chips of every kind
    python -m tools.chips --base CHECKOUT               first the same programs of another revision, to compare with

A file for each program, target and revision of the package goes to benchmarks/results/chips; what is there is not compiled
again, so that it can be killed and started again, unless it is of other compilers or of another revision of what reads and
judges (`JUDGES`): then it is replaced. `--keep FOLDER` keeps the compiled texts. Ends with exit status 1 where a program
breaks a budget.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.chips.target import BadName, Target, compilers, has_compiler
from tools.pages import RESULTS, ROOT

PACKAGE = ("knn_ner_jax",)
# What decides a result beside the package and the compilers.
JUDGES = ("tools/chips", ":(exclude)tools/chips/page.py", ":(exclude)tools/chips/measure.py")
CHANGES = "+changes"


def revision_of(checkout: Path, paths: Sequence[str] = PACKAGE) -> tuple[str, str]:
    """Return the last commit that changed some files of a checkout, `+changes` where they differ from that; and its date."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", *paths)
    revision, date = git("log", "-1", "--format=%h %cI", "--", *paths).split()
    return revision + (CHANGES if changed else ""), date


def kept(path: Path, origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the result of a file if it has the same origin, which committed files must have decided."""
    if not path.exists() or any(str(value).endswith(CHANGES) for value in origin.values()):
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result if all(result.get(name) == value for name, value in origin.items()) else None


def compile_apart(target: Target, program: str, package: Path, hlo: Path | None) -> dict[str, Any]:
    """Compile in a process of its own, and return what it prints, or how it failed."""
    command = [sys.executable, "-m", "tools.chips.compile", str(target), program, "--package", str(package)]
    command += ["--hlo", str(hlo)] if hlo else []
    done = subprocess.run(command, cwd=ROOT, env=os.environ | target.environment, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    return {"failed": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}


def summary(result: dict[str, Any]) -> str:
    """Return a line about a result."""
    if "failed" in result:
        return f"failed: {result['failed']}"
    if "out_of_memory" in result:
        return "does not fit: " + result["out_of_memory"].splitlines()[0]
    memory = f"arguments {result['arguments_mb']:,.0f} MB, temporary {result['temporary_mb']:,.0f} MB"
    if "unreadable" in result:
        return f"{memory}, not readable: {result['unreadable']}"
    times = ", ".join(
        f"{one['ms']:.1f} ms" + (f" at weight {weight}" if weight != "any" else "")
        for weight, one in result["estimates"].items()
    )
    return f"{memory}, {times}"


def main() -> None:
    """Compile, and end with exit status 1 where a program fails or breaks a budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="texts that `target/program` holds; all programs without one")
    parser.add_argument("--full", action="store_true", help="all sizes and chips")
    parser.add_argument("--base", type=Path, help="a checkout of another revision")
    parser.add_argument("--again", action="store_true", help="compile also what has been")
    parser.add_argument("--keep", type=Path, help="where compiled texts are kept")
    parser.add_argument("--folder", type=Path, default=RESULTS / "chips")
    arguments = parser.parse_args()
    from tools.chips.programs import choose_or_named

    try:
        chosen = choose_or_named(arguments.full, arguments.names)
    except BadName as error:
        sys.exit(f"chips: {error}")
    broken, judges = [], revision_of(ROOT, JUDGES)[0]
    for checkout in filter(None, (arguments.base, ROOT)):
        revision, date = revision_of(checkout)
        for spec, name in chosen:
            target = Target.parse(name)
            path = arguments.folder / str(target) / f"{spec.name}@{revision}.json"
            label = f"{target}/{spec.name}@{revision}"
            if not has_compiler(target.chip.platform):
                print(f"{label}: left out, its compiler is not installed", flush=True)
                continue
            origin = {"revision": revision, "judges": judges, "compilers": compilers(target.chip.platform)}
            result = None if arguments.again else kept(path, origin)
            if result is None:
                hlo = arguments.keep / f"{target}-{path.stem}.hlo" if arguments.keep else None
                result = compile_apart(target, spec.name, checkout, hlo)
                result |= {"target": str(target), "program": spec.name, "date": date, **origin}
                if "failed" not in result:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(f"{label}: {summary(result)}", flush=True)
            if checkout == ROOT:
                broken += [f"{label}: {message}" for message in result.get("broken", [])]
                broken += [f"{label}: {result['failed']}"] if "failed" in result else []
    if broken:
        sys.exit("\n".join(broken))


if __name__ == "__main__":
    main()
