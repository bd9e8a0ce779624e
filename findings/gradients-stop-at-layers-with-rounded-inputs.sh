#!/usr/bin/env bash
# Guess, before it was tried: torchao's int8 weights with int8 activations, which Transformers calls trainable (`is_trainable` of the
#   quantizer), pass the gradient on to adapters below, rounded activations or not, as int8 weights alone do.
# Versions: torchao 0.18.0, peft 0.21.2, transformers 5.23.0, torch 2.13.0, on a CPU.
# Seen: the rounding of a layer's inputs has no gradient and nothing stands in for it. Only what reaches the end by the residual stream
#   learns: the adapters of o_proj and down_proj. Those of q, k, v, gate and up get exactly 0 in every layer, and nothing is said; the loss
#   falls all the same. With int8 weights alone all gradients are within 2 % of those without quantisation.
# Touches: adapters over quantised weights. `--quantization int8_weight_only` is offered; the kinds with dynamic activations are refused with
#   this reason (docs/how-to/training-options.md, tests/models/test_quantized.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu \
    torch==2.13.0 transformers==5.23.0 peft==0.21.2 torchao==0.18.0
cd "$folder"
cat > gradients.py <<'PY'
import sys

import torch
from peft import LoraConfig, get_peft_model
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, TorchAoConfig

torch.manual_seed(0)
shape = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
LlamaForCausalLM(shape).save_pretrained("model")
ids = torch.randint(0, 64, (2, 24))


def norms(kind):
    how = {"quantization_config": TorchAoConfig(kind)} if kind else {}
    model = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32, **how)
    assert kind is None or model.hf_quantizer.is_trainable
    torch.manual_seed(1)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    model(input_ids=ids, labels=ids).loss.backward()
    return {name.split(".")[-4]: weight.grad.norm().item() for name, weight in model.named_parameters() if "lora_B" in name}


plain, weights, both = norms(None), norms(Int8WeightOnlyConfig()), norms(Int8DynamicActivationInt8WeightConfig())
print("gradient of lora_B, second layer:  none    int8 weights  and activations")
print(*(f"{name:>34} {plain[name]:8.4f} {weights[name]:10.4f} {both[name]:12.4f}" for name in plain), sep="\n")
stopped = {name for name in both if both[name] == 0}
near = all(abs(weights[name] / plain[name] - 1) < 0.02 for name in plain)
sys.exit(not near or stopped != {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"})
PY
venv/bin/python gradients.py 2>/dev/null
