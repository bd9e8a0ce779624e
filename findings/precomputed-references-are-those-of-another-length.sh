#!/usr/bin/env bash
# Guess, before it was tried: with precompute_ref_log_probs=True, DPOTrainer computes the reference anew when an option changes what
#   it sums over: ld_alpha, which weighs the tokens beyond the shorter response, or the length that texts are cut to at their end.
# Versions: trl 1.16.0, datasets 5.2.0, transformers 5.23.0, torch 2.13.0.
# Seen: the file in the data set's cache is named after the data set and the model's weights alone. A run with another ld_alpha, or with
#   another max_length under truncation_mode="keep_end", takes the sums of the run before, in a process of its own too. Nothing is said;
#   the loss before the first update is far from ln 2.
# Touches: whoever tries values of these options on one data set, as a sweep does: every run but the first learns from rewards that are
#   off by whole tokens. coalign keeps the reference token by token, under a hash of the weights and of every token id
#   (coalign.training.reference; tests/training/test_reference.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu \
  torch==2.13.0 transformers==5.23.0 trl==1.16.0 datasets==5.2.0 accelerate==1.15.0
cd "$folder"
cat > precomputed.py <<'PY'
import json
import pathlib
import sys

import datasets
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

datasets.disable_progress_bars()
words = ["<eos>", "<unk>", *"abcdefgh"]
inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>", unk_token="<unk>")
options = json.loads(sys.argv[1])
kept = pathlib.Path(sys.argv[2])
rows = [{"prompt": "a b", "chosen": " c d e f g h a b", "rejected": " f g h " + one} for one in "abcd"]
kept.mkdir(exist_ok=True)
if not (kept / "pairs.jsonl").exists():
    (kept / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
data = datasets.load_dataset("json", data_files=str(kept / "pairs.jsonl"), split="train", cache_dir=str(kept / "cache"))
torch.manual_seed(0)
shape = LlamaConfig(
    vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    bos_token_id=0, eos_token_id=0, pad_token_id=0,
)
arguments = DPOConfig(
    "out", max_steps=1, logging_steps=1, learning_rate=0.0, beta=1.0, per_device_train_batch_size=4, report_to="none",
    save_strategy="no", disable_tqdm=True, use_cpu=True, bf16=False, gradient_checkpointing=False,
    precompute_ref_log_probs=True, **options,
)
trainer = DPOTrainer(LlamaForCausalLM(shape), args=arguments, train_dataset=data, processing_class=tokenizer)
trainer.train()
print("FIRST", trainer.state.log_history[0]["loss"])
PY
first() { HF_HUB_OFFLINE=1 venv/bin/python precomputed.py "$1" "$2" 2>/dev/null | awk '$1 == "FIRST" {print $2}'; }
whole='{"max_length": null}'
weighed='{"max_length": null, "ld_alpha": 0.5}'
cut='{"max_length": 8, "truncation_mode": "keep_end"}'
a=$(first "$whole" shared) b=$(first "$weighed" shared) c=$(first "$cut" shared) d=$(first "$weighed" alone) e=$(first "$cut" other)
echo "loss before the first update (ln 2 is 0.6931): $a; then with ld_alpha $b, where nothing was kept $d; cut to 8 tokens $c, where nothing was kept $e"
python3 -c 'import sys; a, b, c, d, e = map(float, sys.argv[1:]); near = lambda one: abs(one - 0.693147) < 1e-4
sys.exit(not (near(a) and near(d) and near(e) and not near(b) and not near(c)))' "$a" "$b" "$c" "$d" "$e"
