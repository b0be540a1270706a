"""Save a tagger for transformers: `python export.py RUN FOLDER`, the same as `knn-ner export`."""

from knn_ner_jax.cli import run

if __name__ == "__main__":
    run("export", "export.py")
