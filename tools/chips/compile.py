"""Compile one program for one target and print what is told of it as JSON; `tools.chips` runs it in a process of its own.

python -m tools.chips.compile TARGET PROGRAM [--package FOLDER] [--hlo FILE]
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tools.chips.target import BadName, OutOfMemory, Target, compile_for, compilers


def describe(target: Target, name: str, hlo: Path | None) -> dict[str, Any]:
    """Compile a program and return what is told of it; of one that does not fit, or cannot be printed, what is known."""
    import jax

    from tools.chips import budgets, programs, reading
    from tools.chips.hlo import parse

    spec = programs.Spec.parse(name)
    call = programs.make_call(spec, target.mesh(), target.chip.platform)
    must_fit = f"{target}/{name}" not in programs.TOO_LARGE
    started = time.perf_counter()
    try:
        compiled = compile_for(target, call.function, *call.arguments, **call.static)
    except OutOfMemory as error:
        told: dict[str, Any] = {"out_of_memory": str(error)[:4000], "seconds": time.perf_counter() - started}
        return told | {"broken": [f"does not fit: {str(error).splitlines()[0]}"] if must_fit else []}
    seconds = time.perf_counter() - started
    memory, mega = compiled.memory_analysis(), reading.MEGABYTE
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    held = memory.argument_size_in_bytes + results + memory.temp_size_in_bytes
    told = {
        "seconds": seconds,
        "arguments_mb": memory.argument_size_in_bytes / mega,
        "arguments": {name: size / mega for name, size in programs.argument_bytes(call).items()},
        "results_mb": results / mega,
        "temporary_mb": memory.temp_size_in_bytes / mega,
        "broken": (budgets.memory(held, target.chip.hbm) if must_fit else []) + _changed(call, compiled),
    }
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        if "RET_CHECK" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        jaxlib = compilers(target.chip.platform)["jaxlib"]
        return told | {"unreadable": f"jaxlib {jaxlib} cannot print it, jax 0.12 can: install that ({reason})"}
    if hlo is not None:
        hlo.parent.mkdir(parents=True, exist_ok=True)
        hlo.write_text(text, encoding="utf-8")
    program = parse(text)
    told["broken"] += budgets.check(program, call.limits)
    return told | reading.read(program, target, call.rounds)


def _changed(call: Any, compiled: Any) -> list[str]:
    if call.carried is None:
        return []
    from tools.chips import budgets

    return budgets.changed(call.arguments[0], call.carried(compiled.out_info))


def main() -> None:
    """Print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="so many chips of a kind: v5e-8")
    parser.add_argument("program", help="see programs.Spec.name")
    parser.add_argument("--package", type=Path, help="a checkout whose knn_ner_jax is compiled")
    parser.add_argument("--hlo", type=Path, help="where the compiled text is kept")
    arguments = parser.parse_args()
    try:
        target = Target.parse(arguments.target)
        # Before JAX is imported.
        os.environ.update(target.environment)
        if arguments.package:
            sys.path.insert(0, str(arguments.package.resolve()))
        print(json.dumps(describe(target, arguments.program, arguments.hlo)))
    except BadName as error:
        sys.exit(f"compile: {error}")


if __name__ == "__main__":
    main()
