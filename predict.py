"""Tag plain text: `python predict.py RUN TEXT`, the same as `knn-ner predict`."""

from knn_ner_jax.cli import run

if __name__ == "__main__":
    run("predict", "predict.py")
