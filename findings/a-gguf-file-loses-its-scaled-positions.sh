#!/usr/bin/env bash
# Guess, before it was tried: AutoConfig.from_pretrained(..., gguf_file=...) gives the model that the file describes, or refuses it.
# Versions: transformers 5.23.0, gguf 0.19.0, torch 2.13.0.
# Seen: positions that the file says are scaled (llama.rope.scaling.type linear, factor 4) are read as plain ones, and of qwen3 the
#   head size (qwen3.attention.key_length 64) as the default 128; the first without a word. llama.cpp reads both.
# Touches: whoever checks a GGUF file by reading it back: a correct file of such a model gives other logits in Transformers. coalign
#   tests these against Transformers' own frequencies and against llama.cpp (tests/models/test_llama_cpp.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 transformers==5.23.0 gguf==0.19.0
cd "$folder"
cat > read.py <<'PY'
import sys

import gguf
import numpy as np
from transformers import AutoConfig


def write(family):
    writer = gguf.GGUFWriter(f"{family}.gguf", family)
    writer.add_block_count(1)
    writer.add_embedding_length(256)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_key_length(64)
    writer.add_value_length(64)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)
    writer.add_tensor("output_norm.weight", np.ones(256, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return AutoConfig.from_pretrained(".", gguf_file=f"{family}.gguf")


kind = write("llama").rope_parameters["rope_type"]
size = write("qwen3").head_dim
print("positions of the file: linear, read as:", kind, "| head size of the file: 64, read as:", size)
sys.exit(0 if (kind, size) == ("default", 128) else 1)
PY
venv/bin/python read.py 2>/dev/null
