#!/usr/bin/env bash
# Guess, before it was tried: a ZeRO 3 checkpoint that DeepSpeed's converter made universal, loaded again, has the optimizer that was
#   saved: the options of each group of weights, and the number of its steps.
# Versions: deepspeed 0.19.8, torch 2.13.0.
# Seen: every group has the options of the first, so that a group without weight decay decays (a rate of its own is lost in the same
#   way), and torch's AdamW, whose count of steps is a tensor, counts a step once for each group, because all of them are given the
#   one tensor: after three steps it says four. Nothing is said. ZeRO 2 loads both as they were.
# Touches: whoever goes on with another number of GPUs under ZeRO 3: on a tiny model two steps later weights are off by 4e-4 at a
#   rate of 1e-3. coalign sets both right (coalign.training.distributed.universal; tests/training/test_universal.py and
#   test_deepspeed.py, where weights are those of the undisturbed training to 1e-6).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 setuptools wheel ninja
"$folder/venv/bin/pip" install -q --no-build-isolation deepspeed==0.19.8
cd "$folder"
cat > moved.py <<'PY'
import argparse
import os
import sys

import deepspeed, torch
from deepspeed.checkpoint import ds_to_universal

os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT="29871")


def engine(universal):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    groups = [{"params": [*model[0].parameters()], "weight_decay": 0.1}, {"params": [*model[1].parameters()], "weight_decay": 0.0}]
    config = {
        "train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}, "zero_allow_untested_optimizer": True,
        "checkpoint": {"load_universal": universal},
    }
    return deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(groups, lr=0.01), config=config)[0]


def step(one):
    one.backward(one(torch.arange(4.0)[None]).pow(2).sum())
    one.step()


def seen(one):
    optimizer = one.optimizer.optimizer
    return [group["weight_decay"] for group in optimizer.param_groups], [int(state["step"]) for state in optimizer.state.values()]


before = engine(False)
step(before), step(before)
before.save_checkpoint("saved", tag="two")
ds_to_universal.main(argparse.Namespace(
    input_folder="saved/two", output_folder="saved/universal", num_extract_workers=1, num_merge_workers=1,
    keep_temp_folder=False, strict=True, inject_missing_state=True,
))
after = engine(True)
after.load_checkpoint("saved")
step(before), step(after)
print("went on:    weight decay of the groups, steps of the parts:", *seen(before))
print("was loaded: weight decay of the groups, steps of the parts:", *seen(after))
sys.exit(seen(before) != ([0.1, 0.0], [3, 3]) or seen(after) != ([0.1, 0.1], [4, 4]))
PY
PATH="$folder/venv/bin:$PATH" DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 venv/bin/python moved.py 2>/dev/null | grep weight
