#!/usr/bin/env bash
# seqeval 1.2.2: with mode="strict" and a scheme, hyphens at the ends of a type are dropped, so that the types A and A- are
# one, and a prediction that confuses them all along is scored 100. The default mode keeps them apart and scores it 0.
# Names such as "Expression-" beside "Expression" are valid types of IOB2 tags; a good engineer would expect the same types in
# both modes.
#
# Seen with Python 3.11, numpy 2.4, scikit-learn 1.9:
#   strict 1.0 types ['A']
#   default 0.0 types ['A', 'A-']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q seqeval==1.2.2
"$folder/venv/bin/python" - << 'PYTHON' > "$folder/seen"
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2

gold, predicted = [["B-A-", "I-A-", "O", "B-A"]], [["B-A", "I-A", "O", "B-A-"]]
for name, options in (("strict", {"mode": "strict", "scheme": IOB2}), ("default", {})):
    report = classification_report(gold, predicted, output_dict=True, zero_division=0, **options)
    types = sorted(row for row in report if not row.endswith(" avg"))
    print(name, float(f1_score(gold, predicted, zero_division=0, **options)), "types", types)
PYTHON
cat "$folder/seen"
diff "$folder/seen" - << 'EXPECTED'
strict 1.0 types ['A']
default 0.0 types ['A', 'A-']
EXPECTED
