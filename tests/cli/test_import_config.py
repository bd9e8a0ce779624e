"""Configurations of other libraries: what becomes of each value, and what is said of the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from coalign.cli.files.translation import translate
from coalign.cli.peers import NAMES, SAID_OTHERWISE, counterpart, peer_of
from coalign.core.errors import ConfigError
from coalign.core.options import build, options_of
from coalign.platform.methods import find

TRL = {
    "model_name_or_path": "org/model", "dataset_name": "org/pairs", "learning_rate": 5e-7, "output_dir": "out/dpo",
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "use_peft": True, "lora_r": 32, "bf16": True,
    "loss_type": ["ipo"], "beta": 0.2, "report_to": ["tensorboard", "comet_ml"], "lr_scheduler_type": "greedy",
    "warmup_steps": 0.03, "load_in_4bit": True, "max_steps": -1, "optim": "came", "remove_unused_columns": False,
}  # fmt: skip
AXOLOTL = {
    "base_model": "org/model", "rl": "kto", "rl_beta": 0.3, "adapter": "qlora", "lora_target_linear": True,
    "datasets": [{"path": "json", "data_files": "thumbs.jsonl", "ds_type": "json", "split": "train", "shards": 4}],
    "val_set_size": 0.1, "micro_batch_size": 4, "num_epochs": 2, "learning_rate": 2e-4, "flash_attention": True,
    "warmup_steps": 10, "sample_packing": True, "optimizer": "adamw_bnb_8bit", "peft_use_dora": True,
}  # fmt: skip
FACTORY = {
    "model_name_or_path": "org/model", "stage": "dpo", "pref_loss": "simpo", "simpo_gamma": 0.7, "pref_beta": 2.5,
    "finetuning_type": "lora", "lora_target": "q_proj,v_proj", "dataset": "mine,theirs", "template": "llama3",
    "cutoff_len": 512, "max_samples": 100, "plot_loss": True, "val_size": 200, "fp16": True, "report_to": "none",
}  # fmt: skip


def options(method: str) -> type:
    return find(method)[1].Config


def test_trl() -> None:
    found = translate(TRL, "trl", options)
    assert (found.method, found.out) == ("ipo", "out/dpo")
    assert found.values == {
        "model": "org/model", "data": "org/pairs", "learning_rate": 5e-7, "batch_size": 2, "gradient_accumulation": 8,
        "tuning": "lora", "adapter_rank": 32, "tau": 0.2, "length_normalised": True, "report_to": ["tensorboard"],
        "warmup_ratio": 0.03, "epochs": 3.0, "schedule": "linear", "seed": 42, "max_length": 1024,
        "gradient_checkpointing": True, "adapter_dropout": 0.05, "quantization": "4bit",
    }  # fmt: skip
    assert sorted(found.silent) == [
        "adapter_dropout", "epochs", "gradient_checkpointing", "max_length", "schedule", "seed"
    ]  # fmt: skip
    left = dict(found.left)
    assert left.keys() == {"lr_scheduler_type: greedy", "report_to: comet_ml", "optim: came"}
    assert "one of: tensorboard, wandb, mlflow" in left["report_to: comet_ml"]
    assert [name for name, _ in found.needless] == ["remove_unused_columns"]


def test_axolotl() -> None:
    found = translate(AXOLOTL, "axolotl", options)
    assert found.method == "kto"
    assert found.values == {
        "model": "org/model", "beta": 0.3, "adapter_targets": ["all-linear"], "data": "thumbs.jsonl",
        "eval_fraction": 0.1, "batch_size": 4, "epochs": 2, "learning_rate": 2e-4, "max_length": 512, "seed": 42,
        "attn_implementation": "flash_attention_2", "tuning": "lora", "quantization": "4bit", "optimizer": "adamw_8bit",
        "adapter_kind": "dora",
    }  # fmt: skip
    assert {name for name, _ in found.left} == {
        "datasets: shards", "warmup_steps: 10", "sample_packing"
    }  # fmt: skip


def test_llama_factory_with_its_list_of_data_sets(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    info = {"mine": {"file_name": "mine.json", "columns": columns}, "theirs": {"hf_hub_url": "org/theirs"}}
    (tmp_path / "data/dataset_info.json").write_text(json.dumps(info))
    found = translate(FACTORY, "llama-factory", options, folder=tmp_path)
    assert found.method == "simpo"
    assert found.values == {
        "model": "org/model", "gamma": 0.7, "beta": 2.5, "tuning": "lora", "adapter_targets": ["q_proj", "v_proj"],
        "data": [{"path": str(tmp_path / "data/mine.json"), "columns": columns}, "org/theirs"], "report_to": [],
        "chat_template": "llama-3", "max_length": 512, "limit": 100, "epochs": 3.0, "schedule": "linear",
        "warmup_ratio": 0.0, "seed": 42, "learning_rate": 5e-5, "adapter_rank": 8, "adapter_alpha": 16.0,
    }  # fmt: skip
    assert {name for name, _ in found.left} == {"val_size: 200", "fp16"}


@pytest.mark.parametrize(
    ("peer", "config", "values", "left"),
    [
        ("llama-factory", {"pissa_init": True, "pissa_convert": True, "loraplus_lr_ratio": 16.0},
         {"adapter_init": "pissa_niter_16", "loraplus_lr_ratio": 16.0}, ""),
        ("llama-factory", {"pissa_init": True, "pissa_iter": -1}, {"adapter_init": "pissa"}, ""),
        ("llama-factory", {"pissa_iter": 4, "use_rslora": True}, {"adapter_kind": "rslora"}, ""),
        ("llama-factory", {"pissa_init": True, "pissa_iter": 4}, {}, "pissa, or pissa_niter_16"),
        ("llama-factory", {"finetuning_type": "oft", "oft_target": "q_proj", "optim": "lion_8bit"},
         {"tuning": "lora", "adapter_kind": "oft", "adapter_rank": 32, "adapter_targets": ["q_proj"], "optimizer": "lion_8bit"}, ""),
        ("llama-factory", {"finetuning_type": "freeze"}, {}, "--adapter-kind"),
        ("axolotl", {"adapter": "lora", "peft_init_lora_weights": "olora", "loraplus_lr_ratio": 4, "optimizer": "ademamix_8bit",
                     "lr_scheduler": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
         {"adapter_init": "olora", "loraplus_lr_ratio": 4, "optimizer": "ademamix_8bit", "schedule": "cosine_with_min_lr",
          "schedule_options": {"min_lr_rate": 0.1}}, ""),
        ("axolotl", {"peft_init_lora_weights": "eva"}, {}, "--adapter-init is zero"),
        ("trl", {"optim": "adamw_torch_8bit", "neftune_noise_alpha": 5, "use_dora": True},
         {"optimizer": "adamw_torch_8bit", "neftune_noise_alpha": 5, "adapter_kind": "dora"}, ""),
    ],
)  # fmt: skip
def test_kinds_of_adapters_and_optimizers(
    peer: Any, config: dict[str, Any], values: dict[str, Any], left: str
) -> None:
    found = translate(config, peer, options, method="sft")
    assert values.items() <= found.values.items()
    if found.values.get("adapter_kind") == "oft":
        assert "adapter_alpha" not in found.values
    assert [why for _, why in found.left if left and left in why] or not found.left


def test_responses_of_a_step_are_prompts_times_samples() -> None:
    config = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8, "num_generations": 16}
    found = translate(config, "trl", options, method="grpo")
    assert {"batch_size": 4, "prompts_per_step": 2, "samples": 16}.items() <= found.values.items()
    assert "gradient_accumulation" not in found.values


@pytest.mark.parametrize(
    ("config", "peer", "message"),
    [
        ({"learning_rate": 1e-5}, "trl", "does not say what it trains"),
        ({"loss_type": ["sigmoid", "sft"]}, "trl", "loss_type: .*no objective"),
        ({"loss_type": "robust"}, "trl", "loss_type: robust"),
        ({"rl": "gdpo"}, "axolotl", "rl: gdpo"),
        ({"stage": "pt"}, "llama-factory", "stage: pt"),
        ({"stage": "dpo", "pref_loss": "kto_pair"}, "llama-factory", "pref_loss: kto_pair"),
    ],
)
def test_what_has_no_counterpart_is_not_guessed(config: dict[str, Any], peer: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(config, peer, options)


@pytest.mark.parametrize("peer", list(NAMES))
def test_every_name_of_ours_is_an_option(peer: Any) -> None:
    trained = ("sft", "dpo", "kto", "simpo", "orpo", "cpo", "grpo", "reward-model")
    known = {one.name for name in trained for one in options_of(options(name))}
    assert {*NAMES[peer].values()} - known <= {"out"}


def test_whose_configuration_it_is() -> None:
    assert [peer_of(one) for one in (TRL, AXOLOTL, FACTORY, {"data": "x", "epochs": 1})] == [
        "trl", "axolotl", "llama-factory", None
    ]  # fmt: skip


def test_counterparts() -> None:
    assert counterpart("--per-device-train-batch-size") == (
        "TRL's per_device_train_batch_size is --batch-size here."
    )
    assert all(counterpart(name) for name in SAID_OTHERWISE)
    assert counterpart("colour") is None


def test_command_writes_what_run_takes(
    coalign: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dpo.yaml").write_text(yaml.safe_dump(TRL))
    result = coalign("import-config", "dpo.yaml", "--out", "ours.yaml")
    assert result.code == 0, result.err
    assert "optim: came" in result.err
    text = (tmp_path / "ours.yaml").read_text()
    assert "coalign run ipo --config ours.yaml --out out/dpo" in text
    assert build(options("ipo"), yaml.safe_load(text)).tau == 0.2
    again = coalign("import-config", "dpo.yaml", "--out", "ours.yaml")
    assert "exists" in again.err
    run = coalign("run", "dpo", "--config", "dpo.yaml")
    assert run.code == 2
    assert "coalign import-config dpo.yaml" in run.err
    (tmp_path / "any.yaml").write_text("a: 1\n")
    assert "--from" in coalign("import-config", "any.yaml").err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sft"], "It is a method: `coalign run sft`."),
        (["Reward_Model"], "It is a method: `coalign run Reward_Model`."),
        (["simp"], "run simpo"),
        (["run", "dpo", "--lora_r", "8"], "TRL's lora_r is --adapter-rank here."),
        (["run", "dpo", "--loraplus_lr_ratio"], "--loraplus-lr-ratio"),
        (["run", "dpo", "--pissa_init"], "--adapter-init pissa_niter_16"),
        (["run", "dpo", "--data", "x", "--adapter-kind", "prefix-tuning"], "virtual tokens"),
        (["run", "dpo", "--bf16"], "on CUDA products are bfloat16"),
    ],
)
def test_a_switcher_is_answered(coalign: Callable, argv: list[str], message: str) -> None:
    result = coalign(*argv)
    assert result.code == 2
    assert message in result.err


def test_underscores_in_flags(coalign: Callable) -> None:
    result = coalign("run", "dpo", "--data", "x.jsonl", "--learning_rate=0.5", "--print_config")
    assert result.code == 0, result.err
    assert yaml.safe_load(result.out)["learning_rate"] == 0.5


def test_objectives_come_before_systems(coalign: Callable) -> None:
    text = coalign("run", "--help").out
    places = [
        text.index(f"\n  {name} ") for name in ("sft", "dpo", "kto", "orpo", "simpo", "grpo", "preference")
    ]
    assert places == sorted(places)


def started(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a shell starts it without arguments."""
    command = [sys.executable, "-c", f"import sys; sys.argv = ['coalign']; {code}"]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **variables}
    )


def test_without_arguments_the_help_is_shown() -> None:
    code = "from coalign.cli.main import main; main()"
    result = started(code)
    assert "Traceback" not in result.stderr
    assert "Usage: coalign" in result.stdout + result.stderr
    asked = {"_COALIGN_COMPLETE": "bash_complete", "COMP_WORDS": "coalign run s", "COMP_CWORD": "2"}
    assert started(code, **asked).stdout.startswith("plain,sft")
