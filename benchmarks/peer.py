"""One peer, measured in this process; what it returns is printed as the last line, in JSON.

python -m benchmarks.peer MODULE FUNCTION '{"repeats": 5, ...}'
"""

import importlib
import json
import sys
from typing import Any

OWN = ("benchmarks", "knn_ner_jax")


def measure(module: str, function: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return what the peer returns; `left_out` and the reason where a package that only it needs is missing."""
    try:
        return getattr(importlib.import_module(f"benchmarks.{module}"), function)(**options)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in OWN:
            raise
        return {"left_out": f"needs the package {package}, which is not installed"}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
