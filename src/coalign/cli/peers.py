"""Names of TRL, LLaMA-Factory and axolotl, and what stands for them here.

Read from the sources of TRL 1.16, LLaMA-Factory 0.9.5, axolotl 0.19 and Transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Peer = Literal["trl", "llama-factory", "axolotl"]
TITLES: dict[Peer, str] = {"trl": "TRL", "llama-factory": "LLaMA-Factory", "axolotl": "axolotl"}

_TRAINER = {
    "output_dir": "out",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "learning_rate": "learning_rate",
    "lr_scheduler_type": "schedule",
    "lr_scheduler_kwargs": "schedule_options",
    "warmup_ratio": "warmup_ratio",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "neftune_noise_alpha": "neftune_noise_alpha",
    "gradient_checkpointing": "gradient_checkpointing",
    "logging_steps": "logging_steps",
    "save_steps": "save_steps",
    "eval_steps": "eval_steps",
    "report_to": "report_to",
    "seed": "seed",
}
"""Names of Transformers' `TrainingArguments`, which TRL and LLaMA-Factory share."""
_MODEL = {
    "trust_remote_code": "trust_remote_code",
    "attn_implementation": "attn_implementation",
    "lora_alpha": "adapter_alpha",
    "lora_dropout": "adapter_dropout",
}

NAMES: dict[Peer, dict[str, str]] = {
    "trl": {
        **_TRAINER,
        **_MODEL,
        "model_name_or_path": "model",
        "model_revision": "revision",
        "dtype": "dtype",
        "torch_dtype": "dtype",
        "lora_r": "adapter_rank",
        "lora_target_modules": "adapter_targets",
        "dataset_name": "data",
        "dataset_train_split": "split",
        "chat_template_path": "chat_template",
        "max_length": "max_length",
        "max_prompt_length": "max_prompt_length",
        "beta": "beta",
        "desirable_weight": "desirable_weight",
        "undesirable_weight": "undesirable_weight",
        "center_rewards_coefficient": "center_rewards_coefficient",
        "num_generations": "samples",
        "max_completion_length": "max_new_tokens",
        "num_iterations": "updates",
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "epsilon": "epsilon",
        "epsilon_high": "epsilon_high",
        "delta": "delta",
        "scale_rewards": "scale_rewards",
        "importance_sampling_level": "importance_level",
        "reward_funcs": "reward",
        "reward_model_name_or_path": "reward",
    },
    "llama-factory": {
        **_TRAINER,
        **_MODEL,
        "model_name_or_path": "model",
        "model_revision": "revision",
        "lora_rank": "adapter_rank",
        "lora_target": "adapter_targets",
        "loraplus_lr_ratio": "loraplus_lr_ratio",
        "oft_block_size": "adapter_rank",
        "oft_target": "adapter_targets",
        "finetuning_type": "tuning",
        "template": "chat_template",
        "dataset": "data",
        "eval_dataset": "eval_data",
        "max_samples": "limit",
        "cutoff_len": "max_length",
        "val_size": "eval_fraction",
        "pref_beta": "beta",
        "simpo_gamma": "gamma",
        "kto_chosen_weight": "desirable_weight",
        "kto_rejected_weight": "undesirable_weight",
        "reward_model": "reward",
        "infer_dtype": "dtype",
    },
    "axolotl": {
        **_MODEL,
        **{
            name: _TRAINER[name]
            for name in _TRAINER
            if not name.startswith(("per_device", "num_train", "lr_"))
        },
        "base_model": "model",
        "revision_of_model": "revision",
        "lora_r": "adapter_rank",
        "lora_target_modules": "adapter_targets",
        "loraplus_lr_ratio": "loraplus_lr_ratio",
        "adapter": "tuning",
        "chat_template": "chat_template",
        "datasets": "data",
        "test_datasets": "eval_data",
        "sequence_len": "max_length",
        "max_prompt_len": "max_prompt_length",
        "val_set_size": "eval_fraction",
        "micro_batch_size": "batch_size",
        "num_epochs": "epochs",
        "lr_scheduler": "schedule",
        "lr_scheduler_kwargs": "schedule_options",
        "rl_beta": "beta",
        "simpo_gamma": "gamma",
        "orpo_alpha": "odds_weight",
        "cpo_alpha": "nll_weight",
        "kto_desirable_weight": "desirable_weight",
        "kto_undesirable_weight": "undesirable_weight",
        "center_rewards_coefficient": "center_rewards_coefficient",
    },
}
"""Their name to ours, where the two mean the same."""

SAID_OTHERWISE = {
    "lr": "--learning-rate",
    "gpus": "`coalign launch --processes N METHOD`",
    "num_gpus": "`coalign launch --processes N METHOD`",
    "nproc_per_node": "`coalign launch --processes N METHOD`",
    "resume": "the same command with the same --out goes on where it stopped",
    "bf16": "nothing: on CUDA products are bfloat16, unless --dtype float32 is said",
    "fp16": "nothing is trained in float16: on CUDA products are bfloat16",
    "use_peft": "--tuning lora",
    "lora_target_linear": "--adapter-targets all-linear",
    "load_in_4bit": "--quantization 4bit",
    "load_in_8bit": "--quantization 8bit",
    "quantization_bit": "--quantization 4bit or 8bit",
    "use_dora": "--adapter-kind dora",
    "use_rslora": "--adapter-kind rslora",
    "peft_use_dora": "--adapter-kind dora",
    "peft_use_rslora": "--adapter-kind rslora",
    "init_lora_weights": "--adapter-init",
    "peft_init_lora_weights": "--adapter-init",
    "pissa_init": "--adapter-init pissa_niter_16, or pissa for the exact decomposition",
    "lora_model_dir": "--model with the adapter's folder, whose training goes on",
    "optim": "--optimizer",
    "flash_attention": "--attn-implementation flash_attention_2",
    "flash_attn": "--attn-implementation",
    "precompute_ref_log_probs": "--reference-logps precomputed",
    "mask_truncated_completions": "--truncated mask",
    "disable_gradient_checkpointing": "--no-gradient-checkpointing",
    "eval_strategy": "--eval-fraction or --eval-data: what is held out is evaluated",
    "resume_from_checkpoint": "the same command with the same --out goes on where it stopped",
    "loss_type": "`coalign run OBJECTIVE`: `coalign objectives` lists them",
    "pref_loss": "`coalign run OBJECTIVE`: `coalign objectives` lists them",
    "rl": "`coalign run OBJECTIVE`: `coalign objectives` lists them",
    "stage": "`coalign run sft`, `reward-model`, `dpo`, `kto` or `ppo`",
    "wandb_project": "--report-to wandb, and the project in WANDB_PROJECT",
    "use_wandb": "--report-to wandb",
    "use_tensorboard": "--report-to tensorboard",
}
"""Their name to what one writes here, where there is no option of the same meaning."""

NEEDLESS = {
    "remove_unused_columns": "columns that are not used are left alone",
    "overwrite_output_dir": "a run folder is continued, never overwritten",
    "overwrite_cache": "caches belong to the content of what they hold",
    "preprocessing_num_workers": "reading needs no workers",
    "dataset_num_proc": "reading needs no workers",
    "dataset_processes": "reading needs no workers",
    "dataset_prepared_path": "nothing is prepared ahead",
    "dataloader_num_workers": "reading needs no workers",
    "ddp_timeout": "a limit of the launcher",
    "do_train": "`coalign run` trains",
    "do_eval": "what is held out is evaluated",
    "plot_loss": "every report has the curves",
    "push_to_hub": "the run folder's `model` is a Hugging Face folder: `hf upload`",
    "train_on_inputs": "prompts are never trained on",
    "train_on_prompt": "prompts are never trained on",
    "completion_only_loss": "prompts are never trained on",
    "pissa_convert": "an adapter that took a part out of weights is saved as an ordinary one of twice the rank",
    "bnb_4bit_quant_type": "4 bits are NF4",
    "use_bnb_nested_quant": "the blocks' constants are quantised too",
    "double_quantization": "the blocks' constants are quantised too",
    "peft_autocast_adapter_dtype": "adapters are float32",
    "save_total_limit": "the last checkpoint is kept",
    "pad_to_sequence_len": "rows are as long as their longest",
    "strict": "every name is checked",
    "gradient_checkpointing_kwargs": "checkpointing is without re-entry",
    "disable_dropout": "dropout is the model's own, in the reference off",
    "tf32": "products are computed as PyTorch is set up",
    "padding_free": "prompts share a row without padding",
    "use_liger_kernel": "the output layer never holds all logits",
    "logging_strategy": "see logging_steps",
    "save_strategy": "see save_steps",
}
"""Names that need nothing here, and why."""


def counterpart(name: str) -> str | None:
    """What one writes here for an option of another library, as a sentence; None for a name that none of them has."""
    name = name.lstrip("-").replace("-", "_")
    for peer, names in NAMES.items():
        if name in names:
            return f"{TITLES[peer]}'s {name} is --{names[name].replace('_', '-')} here."
    if name in SAID_OTHERWISE:
        return f"Here: {SAID_OTHERWISE[name]}."
    if NEEDLESS.get(name):
        return f"Nothing stands for {name} here: {NEEDLESS[name]}."
    return None


def peer_of(config: Mapping[str, Any]) -> Peer | None:
    """Whose configuration it is, by names that only one of the libraries has; None where nothing tells."""
    if "base_model" in config:
        return "axolotl"
    if config.keys() & {"stage", "finetuning_type", "cutoff_len", "template", "dataset_dir"}:
        return "llama-factory"
    if config.keys() & {
        "model_name_or_path",
        "dataset_name",
        "per_device_train_batch_size",
        "num_train_epochs",
    }:
        return "trl"
    return None
