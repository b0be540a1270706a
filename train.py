"""Fine-tune a tagger: `python train.py --config FILE`, the same as `knn-ner train`."""

from knn_ner_jax.cli import run

if __name__ == "__main__":
    run("train", "train.py")
