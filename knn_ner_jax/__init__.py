"""kNN-NER (Wang et al. 2022, arXiv 2203.17103) in JAX: fine-tune, remember, retrieve."""

__version__ = "0.1.0"
