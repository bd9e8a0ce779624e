#!/usr/bin/env bash
# Guess, before it was tried: `accelerate launch --cpu --num_processes 2` starts two processes that form a group over gloo.
# Versions: accelerate 1.15.0, torch 2.13.0.
# Seen: one process is started, with exit code 0 and without a word about the other. --multi_gpu, which asks for GPUs, starts two
#   on a machine that has none, and ACCELERATE_USE_CPU=true lets them form the group.
# Touches: whoever tries a training in several processes on a laptop: it works, and says nothing about several processes.
#   `coalign launch` starts with MULTI_GPU whatever the device (coalign.training.distributed.recipes), says below the plan what the
#   processes became, and refuses those that do not know of each other (tests/training/test_processes.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 accelerate==1.15.0
cd "$folder"
cat > hello.py <<'PY'
from accelerate import PartialState

state = PartialState(cpu=True)
print(f"process {state.process_index} of {state.num_processes}", flush=True)
PY
launch="venv/bin/python -m accelerate.commands.launch --mixed_precision no --dynamo_backend no --num_machines 1 --main_process_port 0"
asked=$($launch --cpu --num_processes 2 hello.py 2>/dev/null)
forced=$(ACCELERATE_USE_CPU=true $launch --multi_gpu --num_processes 2 hello.py 2>/dev/null | sort)
echo "--cpu --num_processes 2: $asked"
echo "--multi_gpu --num_processes 2: $(echo $forced)"
[ "$asked" = "process 0 of 1" ] && [ "$(echo $forced)" = "process 0 of 2 process 1 of 2" ]
