#!/usr/bin/env bash
# Guess, before it was tried: a 4-bit layer is frozen data; a model may be evaluated before it is trained, and gradients
#   pass through the layer afterwards as before.
# Versions: bitsandbytes 0.50.2, torch 2.13.0, on a CPU with AVX512-BF16.
# Seen: the first call in evaluation mode without gradients lays the weights out anew. From then on, in training mode too,
#   no gradient reaches the layer's input, so adapters below it stand still; a UserWarning about a missing autograd kernel
#   is all that tells. What dequantises the weights (DoRA's norms, merging) gets bfloat16 numbers of another order.
# Touches: `--quantization 4bit` on a CPU, where a start model is measured before it is trained. coalign keeps the layout
#   (`keep_gradients` in models/files/quantized.py; tests/models/test_quantized.py).
set -euo pipefail
if ! grep -q avx512_bf16 /proc/cpuinfo 2>/dev/null; then
    echo "This CPU has no AVX512-BF16: nothing to see here."
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 bitsandbytes==0.50.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import warnings

import bitsandbytes as bnb
import torch

warnings.simplefilter("ignore")
torch.manual_seed(0)


def layer():
    made = bnb.nn.Linear4bit(128, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    made.load_state_dict({"weight": torch.randn(64, 128)})
    return made.to("cpu")


def gradient(one):
    given = torch.ones(8, 128, requires_grad=True)
    one.train()(given).sum().backward()
    return given.grad


before = gradient(layer())
evaluated = layer().eval()
with torch.no_grad():
    evaluated(torch.ones(8, 128))
after = gradient(evaluated)
read = bnb.functional.dequantize_4bit(evaluated.weight.data, evaluated.weight.quant_state)
print("gradient of a fresh layer:", None if before is None else tuple(before.shape))
print("gradient of a layer that was evaluated first:", None if after is None else tuple(after.shape))
print("dequantised afterwards:", read.dtype)
raise SystemExit(not (before is not None and after is None))
PY
