#!/usr/bin/env bash
# Guess, before it was tried: LoraConfig(ensure_weight_tying=True), which gives a tied embedding and head one adapter, also makes
#   merging right: what merge_and_unload returns computes what the adapted model did.
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Seen: the adapted model computes with W + D at both ends. Merging adds D once for the embedding and once for the head, to the one
#   matrix that both share: the merged model holds W + 2 D, at both ends. merge_and_unload warns of tied
#   layers in general, with this option too, and does not say that the change is kept twice.
# Touches: whoever adds tokens or a language with an adapter on the embedding and publishes merged weights. coalign gives both ends
#   matrices of their own before it merges (coalign.models.adapters.merge; tests/models/test_adapters.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
cat > tied.py <<'PY'
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    tie_word_embeddings=True, initializer_range=0.3,
)
plain = LlamaForCausalLM(shape).eval()
before = plain.lm_head.weight.detach().clone()
config = LoraConfig(r=4, target_modules=["embed_tokens"], ensure_weight_tying=True, task_type="CAUSAL_LM")
adapted = get_peft_model(plain, config).eval()
with torch.no_grad():  # as if it had been trained
    for weight in (one for one in adapted.parameters() if one.requires_grad):
        weight.add_(torch.randn_like(weight) * 0.1)
ids = torch.arange(10)[None]
with torch.no_grad():
    wanted = adapted(ids).logits
    change = adapted.base_model.model.model.embed_tokens.get_delta_weight("default")
    merged = adapted.merge_and_unload()
    off = (merged(ids).logits - wanted).abs().max().item()
    shared = merged.lm_head.weight is merged.model.embed_tokens.weight
    twice = (merged.lm_head.weight - before - 2 * change).abs().max().item()
    merged.lm_head.weight.copy_(before + change)
    once = (merged(ids).logits - wanted).abs().max().item()
print(f"merged, logits are off by up to {off:.3f}; the shared matrix ({shared}) is W + 2 D to {twice:.0e}; with W + D they agree to {once:.0e}")
sys.exit(not (off > 0.1 and shared and twice < 1e-5 and once < 1e-4))
PY
venv/bin/python tied.py 2>/dev/null
