"""Tag plain text: `python predict.py RUN TEXT`, the same as `knn-ner predict`."""

from knn_ner_jax.main.predict import main

if __name__ == "__main__":
    main()
