"""What jaxtyping's import hook checks calls of the package with: the types and shapes of arrays, by beartype."""

import inspect
import typing
from collections.abc import Callable

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for mypy


def _has_shape(hint: object) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(map(_has_shape, typing.get_args(hint)))


def check(function: Callable) -> Callable:
    """Decorate a function that takes or returns arrays; mypy checks the others.

    Not what makes a dataclass: JAX makes ones that hold specs, shapes or nothing in the place of arrays.
    """
    shapes = function.__name__ != "__init__" and any(map(_has_shape, function.__annotations__.values()))
    return _check(function) if shapes else function
