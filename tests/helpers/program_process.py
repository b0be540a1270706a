"""`python -I -S program_process.py FOLDER SITE ...`: labels sentences by the example of a folder, without this package.

Sentences are read from the standard input, and labels written to the standard output, as JSON. SITE is where packages are
installed; a package that is installed from a clone is not found, because nothing but these folders is looked at.
"""

import importlib.util
import json
import sys

sys.path += sys.argv[1:]
assert importlib.util.find_spec("knn_ner_jax") is None

import example  # noqa: E402

labels = [[name for name, _ in words] for words in example.label(json.load(sys.stdin))]
imported = [name for name in ("knn_ner_jax", "flax", "transformers", "safetensors") if name in sys.modules]
print(json.dumps({"labels": labels, "imported": imported}))
