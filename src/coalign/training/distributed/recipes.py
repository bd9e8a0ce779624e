"""Recipes of `coalign launch`: what each makes of the processes, as configurations of accelerate and DeepSpeed."""

from __future__ import annotations

from typing import Any, Literal, get_args

Recipe = Literal["ddp", "fsdp2", "zero2", "zero3"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)


def accelerate_configuration(
    recipe: Recipe, processes: int, *, deepspeed_file: str | None = None
) -> dict[str, Any]:
    """What `accelerate launch --config_file` takes. Formats of numbers are the run's own choice.

    `MULTI_GPU` is what starts several processes at all, on a CPU too: with `use_cpu` accelerate starts one, however many
    are asked for.

    Args:
        deepspeed_file: where `deepspeed_configuration` is, for `zero2` and `zero3`.
    """
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
    made: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": kinds[recipe],
        "num_processes": processes,
        "num_machines": 1,
        "machine_rank": 0,
        "main_process_port": 0,
        "mixed_precision": "no",
        "dynamo_backend": "NO",
        "use_cpu": False,
    }
    if recipe == "fsdp2":
        made["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_reshard_after_forward": True,
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
            # Every process reads the weights: references and probes are computed with a whole model.
            "fsdp_cpu_ram_efficient_loading": False,
            "fsdp_offload_params": False,
            "fsdp_activation_checkpointing": False,
        }
    if by_deepspeed(recipe):
        del made["mixed_precision"]  # accelerate takes it for one of DeepSpeed's own, which the file has
        made["deepspeed_config"] = {"deepspeed_config_file": deepspeed_file, "zero3_init_flag": False}
    return made


def by_deepspeed(recipe: Recipe) -> bool:
    """Whether DeepSpeed does it."""
    return recipe in ("zero2", "zero3")


def deepspeed_configuration(recipe: Recipe) -> dict[str, Any]:
    """DeepSpeed's own configuration. Everything is written out that has a value of its own when nothing is said: it clips at
    1.0 then, and ZeRO drops all but the last of several backward passes unless it knows their number. `auto` takes the value
    of the run (transformers.integrations.deepspeed).
    """
    stage = int(recipe.removeprefix("zero"))
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "contiguous_gradients": True}
    if stage == 3:
        zero |= {
            "stage3_gather_16bit_weights_on_model_save": True,
            "stage3_param_persistence_threshold": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "reduce_bucket_size": "auto",
        }
    return {
        "zero_optimization": zero,
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000_000,
    }
