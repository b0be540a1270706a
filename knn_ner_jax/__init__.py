"""kNN-NER (Wang et al. 2022, arXiv 2203.17103) in JAX: fine-tune, remember, retrieve."""

import os

# transformers gives us tokenizers and configs; that it finds no PyTorch to run models with is no news.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

__version__ = "0.1.0"
