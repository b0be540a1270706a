"""Compute a study: `python ablate.py --config STUDY`, the same as `knn-ner ablate`."""

from knn_ner_jax.cli import run

if __name__ == "__main__":
    run("ablate", "ablate.py")
