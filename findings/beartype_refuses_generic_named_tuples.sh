#!/usr/bin/env bash
# beartype 0.23.1: a NamedTuple that is also Generic, which Python allows since 3.11, cannot be a hint, bare or subscripted:
# decorating a function with it raises BeartypeDecorHintPepUnsupportedException, whose text calls the hint "unsupported but
# erroneously detected as supported". A plain NamedTuple and a generic dataclass are fine. NamedTuples are what JAX code
# returns from compiled functions, so whoever checks shapes with jaxtyping's import hook meets it when a module is imported.
# One would expect the hint to be checked as a tuple class, or to be ignored.
#
# Seen with Python 3.11:
#   plain named tuple: fine
#   generic dataclass: fine
#   generic named tuple: BeartypeDecorHintPepUnsupportedException
#   generic named tuple of int: BeartypeDecorHintPepUnsupportedException
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q beartype==0.23.1
cat > "$folder/run.py" << 'PYTHON'
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from beartype import beartype

T = TypeVar("T")


class Plain(NamedTuple):
    value: int


@dataclass
class Box(Generic[T]):
    value: T


class Both(NamedTuple, Generic[T]):
    value: T


hints = {
    "plain named tuple": Plain,
    "generic dataclass": Box,
    "generic named tuple": Both,
    "generic named tuple of int": Both[int],
}
for name, hint in hints.items():

    def make(value):
        return (Plain if hint is Plain else Box if hint is Box else Both)(value)

    make.__annotations__["return"] = hint
    try:
        beartype(make)(1)
        print(f"{name}: fine")
    except Exception as error:
        print(f"{name}: {type(error).__name__}")
PYTHON
"$folder/venv/bin/python" "$folder/run.py" > "$folder/seen"
cat "$folder/seen"
diff "$folder/seen" - << 'EXPECTED'
plain named tuple: fine
generic dataclass: fine
generic named tuple: BeartypeDecorHintPepUnsupportedException
generic named tuple of int: BeartypeDecorHintPepUnsupportedException
EXPECTED
