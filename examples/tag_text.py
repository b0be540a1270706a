"""Tag text with a trained and evaluated run, and show why: `python examples/tag_text.py runs/quickstart`."""

import sys

import knn_ner_jax as kn

TEXTS = [
    "Nokia's chairman Risto Siilasmaa met Angela Merkel in Helsinki before the Davos Forum.",
    ["Words", "that", "are", "split", "already", "are", "taken", "as", "they", "are", ",", "Mr.", "Bond", "."],
]


def main(run_dir: str) -> None:
    """Print every sentence with its labels, and each entity with the training words nearest to it."""
    tagger = kn.load(run_dir)
    for tagged in tagger.tag(TEXTS, neighbours=3):
        print(" ".join(f"{word}/{label}" for word, label in zip(tagged.words, tagged.labels, strict=True)))
        for entity in tagged.entities:
            print(f"  {entity.start} to {entity.end}: {entity.word} is {entity.entity_group}, score {entity.score:.3f}")
            for near in entity.neighbours:
                sentence = " ".join([*near.before, f"[{near.word}]", *near.after])
                print(f"    similarity {near.similarity:.3f}, label {near.label}: {sentence}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected the folder of an evaluated run: python examples/tag_text.py runs/quickstart (make demo makes it)")
    main(sys.argv[1])
