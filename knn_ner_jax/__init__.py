"""kNN-NER (Wang et al. 2022, arXiv 2203.17103) in JAX: a tagger that looks up its training words when it tags.

    import knn_ner_jax as kn

    tagger = kn.load("runs/quickstart")
    for tagged in tagger.tag(["Angela Merkel met Nokia in Helsinki."], neighbours=3):
        print(tagged.entities)

What is named here is imported when it is first used, because JAX takes a second.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from knn_ner_jax.entities import Entity, TaggedText
    from knn_ner_jax.knn.combine import KnnParams
    from knn_ner_jax.knn.search import top_k
    from knn_ner_jax.knn_tagger import KnnTagger, load

__version__ = "0.1.0"
__all__ = ["Entity", "KnnParams", "KnnTagger", "TaggedText", "__version__", "load", "top_k"]

# transformers gives us tokenizers and configs; that it finds no PyTorch to run models with is no news.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

_MODULES = {
    **dict.fromkeys(("Entity", "TaggedText"), "knn_ner_jax.entities"),
    **dict.fromkeys(("KnnTagger", "load"), "knn_ner_jax.knn_tagger"),
    "KnnParams": "knn_ner_jax.knn.combine",
    "top_k": "knn_ner_jax.knn.search",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
