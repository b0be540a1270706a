"""What calls of the package are checked with: the types and shapes of arrays, by jaxtyping's import hook and beartype."""

import inspect
import typing
from collections.abc import Callable

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for mypy


def _has_shape(hint: object) -> bool:
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, typing.get_args(hint)))


def check_calls() -> None:
    """From now on, check every call of the package's functions that take or return arrays.

    The others are left as they are: mypy checks them, and for most of them the hook's wrapper takes longer than they do. So
    are dataclasses: JAX makes ones that hold specs, shapes or nothing in the place of arrays.
    """
    wrap = jaxtyping.jaxtyped

    def jaxtyped(typechecker: Callable) -> Callable[[Callable], Callable]:
        def decorate(decorated: Callable) -> Callable:
            has_shapes = inspect.isfunction(decorated) and any(map(_has_shape, decorated.__annotations__.values()))
            return wrap(decorated, typechecker=typechecker) if has_shapes else decorated

        return decorate

    jaxtyping.jaxtyped = jaxtyped  # what the hook decorates functions with
    jaxtyping.install_import_hook("knn_ner_jax", f"{__name__}.check")
