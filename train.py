"""Fine-tune a tagger: `python train.py --config FILE`, the same as `knn-ner train`."""

from knn_ner_jax.main.train import main

if __name__ == "__main__":
    main()
