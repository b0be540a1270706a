"""Compute a study: `python ablate.py --config STUDY`, the same as `knn-ner ablate`."""

from knn_ner_jax.main.ablate import main

if __name__ == "__main__":
    main()
