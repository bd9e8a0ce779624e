#!/usr/bin/env bash
# Guess, before it was tried: oneDNN multiplies with a slice of a matrix at about the speed of a copy of it.
# Versions: torch 2.13.0 (CPU), which brings oneDNN.
# Seen: torch.ops.mkldnn._linear_pointwise with the first 576 columns of a [16, 1536] matrix as its weight takes more than a
#   hundred times as long as with the same numbers in a matrix of their own, with the same result and without a word.
# Touches: adapters whose layers share one matrix and take slices of it (VeRA): a training step took 14 s in place of 1.
#   coalign leaves slices to PyTorch's own products (coalign.models.scoring.products; tests/models/test_products.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 numpy
cd "$folder"
cat > slices.py <<'PY'
import statistics
import sys
import time

import torch

torch.set_num_threads(1)
shared = torch.randn(16, 1536)
part = shared[:, :576]
x = torch.randn(950, 576)


def seconds(weight):
    taken = []
    for _ in range(7):
        started = time.process_time()
        torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        taken.append(time.process_time() - started)
    return statistics.median(taken)


ratio = seconds(part) / seconds(part.contiguous())
print(f"a slice takes {ratio:.0f} times as long as its copy")
sys.exit(ratio < 20)
PY
venv/bin/python slices.py
