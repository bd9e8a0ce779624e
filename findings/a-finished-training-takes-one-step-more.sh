#!/usr/bin/env bash
# Guess, before it was tried: a Trainer that is resumed from the checkpoint of its last step (max_steps) has nothing left to do.
# Versions: transformers 5.23.0, torch 2.13.0, accelerate 1.15.0.
# Seen: where that step lies inside of an epoch, one step more is taken: the loop over the epoch tests for the end only after a
#   step. The weights differ from those of the training that ended, and global_step is max_steps + 1.
# Touches: every training that is killed after its last checkpoint and before its model is saved. coalign leaves such an epoch
#   before it begins (coalign.training.module_trainer; tests/training/test_modules.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
venv/bin/python - 2>/dev/null <<'PY'
import sys
import torch
from transformers import Trainer, TrainingArguments

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x):
        return {"loss": (self.layer(x) ** 2).mean()}

def train(resume):
    torch.manual_seed(0)
    arguments = TrainingArguments(
        "out", max_steps=2, per_device_train_batch_size=1, save_strategy="steps", save_steps=1, report_to="none",
        disable_tqdm=True, use_cpu=True, logging_strategy="no",
    )
    data = [{"x": torch.ones(1)} for _ in range(3)]
    trainer = Trainer(Model(), arguments, train_dataset=data)
    trainer.train(resume_from_checkpoint="out/checkpoint-2" if resume else None)
    return trainer.state.global_step

first, again = train(False), train(True)
print("steps of the training", first, "and of the same, resumed from its end", again)
sys.exit(0 if (first, again) == (2, 3) else 1)
PY
