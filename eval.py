"""Score a trained tagger with and without neighbours: `python eval.py --config FILE`, the same as `knn-ner eval`."""

from knn_ner_jax.cli import run

if __name__ == "__main__":
    run("eval", "eval.py")
