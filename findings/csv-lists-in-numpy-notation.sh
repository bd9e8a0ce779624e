#!/usr/bin/env bash
# Guess, before it was tried: a data set whose columns hold lists comes back from CSV as it was, or `to_csv` refuses it.
# Versions: datasets 5.2.0, pandas 3.1.1.
# Seen: `Dataset.to_csv` writes lists as NumPy prints arrays, without commas. `from_csv` gives text. Read as a Python
#   literal, a list of two texts is a list of one: ['a' 'b'] is ['ab']. Of more than 1,000 elements the middle is written
#   as `...`, so it is lost without a word.
# Touches: preference data and chats that were saved as CSV. coalign reads messages in this notation and refuses every
#   other list in it, one with `...` too (tests/data/test_formats.py); docs/data.md says to write JSON in the cell.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0 pandas==3.1.1
cd "$folder"
HF_HOME="$folder/hf" venv/bin/python - <<'PY'
import ast, sys
import datasets

datasets.disable_progress_bars()
rows = [{"tags": ["a", "b"], "scores": [float(n) for n in range(1500)]}]
datasets.Dataset.from_list(rows).to_csv("a.csv")
back = datasets.Dataset.from_csv("a.csv")[0]
print("tags", repr(back["tags"]), "as a Python literal", ast.literal_eval(back["tags"]))
print("scores of 1,500 numbers:", back["scores"].replace("\n", " ")[:60])
seen = back["tags"] == "['a' 'b']" and ast.literal_eval(back["tags"]) == ["ab"] and "..." in back["scores"]
sys.exit(0 if seen else 1)
PY
