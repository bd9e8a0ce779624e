#!/usr/bin/env bash
# Guess, before it was tried: products of a linear layer keep nothing but their results, whatever the number of rows.
# Versions: torch 2.13.0 (CPU), which brings oneDNN.
# Seen: where a linear layer goes through oneDNN (torch.ops.mkldnn._linear_pointwise, as compiled CPU models do too), each number
#   of rows that it meets leaves a kernel in two caches of 1,024 entries: 399 numbers of rows on the four products of a model of
#   135 million parameters hold a GB. LRU_CACHE_CAPACITY=32 with ONEDNN_PRIMITIVE_CACHE_CAPACITY=64 holds a tenth of
#   it, in the same time; one of the two alone does not.
# Touches: servers and trainings on a CPU, whose rows are of any number. coalign sets both before its first product unless the
#   environment says otherwise (coalign.core.machine.cores.keep_few_kernels; tests/core/test_cores.py, and the memory of a server
#   in tests/drill/test_soak.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 psutil==7.2.2 numpy
cd "$folder"
cat > rows.py <<'PY'
import psutil
import torch

torch.set_num_threads(1)
weights = [torch.randn(outputs, inputs) for outputs, inputs in ((960, 576), (576, 576), (1536, 576), (576, 1536))]
packed = [torch.ops.mkldnn._reorder_linear_weight(one) for one in weights]


def multiply(rows):
    for weight, laid in zip(weights, packed, strict=True):
        x = torch.randn(rows, weight.shape[1])
        torch.ops.mkldnn._linear_pointwise(x, laid, None, "none", [], "")


multiply(400)
before = psutil.Process().memory_info().rss
for rows in range(1, 400):
    multiply(rows)
print(f"{(psutil.Process().memory_info().rss - before) / 2**20:.0f}")
PY
plain=$(venv/bin/python rows.py)
one=$(LRU_CACHE_CAPACITY=32 venv/bin/python rows.py)
both=$(LRU_CACHE_CAPACITY=32 ONEDNN_PRIMITIVE_CACHE_CAPACITY=64 venv/bin/python rows.py)
echo "MB after 399 numbers of rows: $plain; with a smaller cache of PyTorch: $one; with smaller caches of both: $both"
[ "$plain" -gt 200 ] && [ "$both" -lt $((plain / 3)) ] && [ "$one" -gt "$both" ]
