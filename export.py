"""Save a tagger for transformers: `python export.py RUN FOLDER`, the same as `knn-ner export`."""

from knn_ner_jax.main.export import main

if __name__ == "__main__":
    main()
