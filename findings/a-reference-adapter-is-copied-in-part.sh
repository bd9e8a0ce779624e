#!/usr/bin/env bash
# Guess, before it was tried: DPOTrainer that is given a model with a trained adapter and no reference model compares with a copy of
#   that adapter, whatever its kind, so that before the first update both give the same numbers.
# Versions: trl 1.16.0, peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Seen: only tensors whose name holds ".default." are copied. What peft keeps in a ParameterDict is named "….default" and stays
#   as a new adapter begins: LoRA on embeddings, trainable_token_indices, LoHa, LoKr, VeRA, IA3, BOFT, HRA. The reference is then the
#   base model, or the base with half of the adapter, without a word, and the first loss is not ln 2. KTO, GRPO and RLOO have the same
#   lines.
# Touches: whoever goes on from supervised training of such an adapter: the policy is held to a model that it never was. coalign folds
#   the adapter in, so that the reference is the start model, or loads the folder twice
#   (coalign.models.files.loading.load_adapter_twice; tests/models/test_continued_adapters.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu \
  torch==2.13.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0 datasets==5.2.0 accelerate==1.15.0
cd "$folder"
cat > reference.py <<'PY'
import math
import sys

import datasets
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, VeraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

datasets.disable_progress_bars()
words = ["<eos>", "<unk>", *"abcdefgh"]
inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>", unk_token="<unk>")
data = datasets.Dataset.from_list([{"prompt": "a b", "chosen": " c d e", "rejected": " f g"}] * 4)


def first_loss(config):
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, initializer_range=0.3,
    )
    model = get_peft_model(LlamaForCausalLM(shape), config)
    with torch.no_grad():  # as if it had been trained
        for weight in (one for one in model.parameters() if one.requires_grad):
            weight.add_(torch.randn_like(weight))
    arguments = DPOConfig(
        "out", max_steps=1, logging_steps=1, learning_rate=0.0, beta=1.0, per_device_train_batch_size=4, report_to="none",
        save_strategy="no", disable_tqdm=True, use_cpu=True, bf16=False, gradient_checkpointing=False,
    )
    trainer = DPOTrainer(model, args=arguments, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    return trainer.state.log_history[0]["loss"]


layers = ["q_proj"]
kinds = {
    "LoRA": LoraConfig(r=4, target_modules=layers, task_type="CAUSAL_LM"),
    "LoRA, embeddings too": LoraConfig(r=4, target_modules=[*layers, "embed_tokens"], task_type="CAUSAL_LM"),
    "LoRA, trained tokens": LoraConfig(r=4, target_modules=layers, trainable_token_indices=[2, 3], task_type="CAUSAL_LM"),
    "LoHa": LoHaConfig(r=4, target_modules=layers, task_type="CAUSAL_LM"),
    "VeRA": VeraConfig(r=4, target_modules=layers, task_type="CAUSAL_LM"),
    "IA3": IA3Config(target_modules=layers, feedforward_modules=[], task_type="CAUSAL_LM"),
}
off = {}
for name, config in kinds.items():
    off[name] = abs(first_loss(config) - math.log(2))
    print(f"{name}: the first loss is {off[name]:.6f} away from ln 2")
sys.exit(not (off.pop("LoRA") < 1e-6 and min(off.values()) > 1e-5))
PY
HF_HUB_OFFLINE=1 venv/bin/python reference.py 2>/dev/null | grep away
