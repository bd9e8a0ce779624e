#!/usr/bin/env bash
# Guess, before it was tried: add_weighted_adapter with combination_type="cat" is the weighted sum of the adapters' changes, for rsLoRA
#   as for LoRA; with "svd" of full rank too.
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Seen: weights and scales are multiplied into the new matrices, and lora_alpha is set to the rank, which makes a scale of 1 for LoRA.
#   With use_rslora=True the new adapter keeps rsLoRA's rule, alpha / sqrt(rank): of two adapters of rank 4 the sum of rank 8 is 2.83
#   times what it should be, by "svd" twice. Nothing is said.
# Touches: whoever combines adapters trained with --adapter-kind rslora in peft. `coalign run merge` folds each adapter into its base first,
#   with its own scale (tests/models/test_merging.py); docs/how-to/training-options.md tells users of peft.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
cat > weighted.py <<'PY'
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def times_too_large(rslora, combination):
    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], use_rslora=rslora, task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(shape), config, adapter_name="one")
    model.add_adapter("two", config)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    with torch.no_grad():  # as if they had been trained; of rank 4 together, so that svd loses nothing
        for name in ("one", "two"):
            torch.nn.init.normal_(layer.lora_B[name].weight, std=0.1)
        layer.lora_A["two"].weight.copy_(layer.lora_A["one"].weight)
        wanted = 0.7 * layer.get_delta_weight("one") + 0.3 * layer.get_delta_weight("two")
        model.add_weighted_adapter(["one", "two"], [0.7, 0.3], "both", combination_type=combination)
        found = layer.get_delta_weight("both")
    factor = (found * wanted).sum() / (wanted * wanted).sum()
    assert torch.allclose(found, factor * wanted, atol=1e-5)
    return round(factor.item(), 3)


seen = {(rslora, way): times_too_large(rslora, way) for rslora in (False, True) for way in ("cat", "svd")}
for (rslora, way), factor in seen.items():
    print(f"{'rsLoRA' if rslora else 'LoRA'}, {way}: {factor} times the weighted sum")
sys.exit([*seen.values()] != [1.0, 1.0, 2.828, 2.0])
PY
venv/bin/python weighted.py 2>/dev/null
