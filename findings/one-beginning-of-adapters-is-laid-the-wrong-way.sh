#!/usr/bin/env bash
# Guess, before it was tried: init_lora_weights="olora" begins an adapter of GPT-2's Conv1D layers as "pissa" does, which also
#   factorises the weights.
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Seen: with "pissa" A is [rank, inputs] and B [outputs, rank], and the model computes what it did. With "olora" get_peft_model
#   raises nothing and makes A [rank, outputs] and B [inputs, rank]: the first forward pass ends in an error about shapes.
# Touches: whoever gives --adapter-init olora to a model of the GPT-2 family. coalign refuses it by name before anything is
#   loaded (the table of docs/how-to/training-options.md says where each beginning works).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
cat > beginnings.py <<'PY'
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

found = {}
for beginning in ("pissa", "olora"):
    config = GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    lora = LoraConfig(r=4, target_modules=["c_fc"], init_lora_weights=beginning, fan_in_fan_out=True)
    adapted = get_peft_model(model, lora)
    layer = next(module for name, module in adapted.named_modules() if name.endswith("c_fc"))
    found[beginning] = [*layer.lora_A["default"].weight.shape]
    try:
        adapted(torch.arange(12)[None])
        end = "a forward pass works"
    except RuntimeError as error:
        end = str(error)
    print(f"{beginning}: A of a layer of 32 inputs and 128 outputs is {found[beginning]}; {end}")
sys.exit(found != {"pissa": [4, 32], "olora": [4, 128]})
PY
venv/bin/python beginnings.py 2>/dev/null
