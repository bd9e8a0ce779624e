"""Recipes of `coalign launch`: what each makes of the processes, as configurations of accelerate."""

from __future__ import annotations

from typing import Any, Literal, get_args

Recipe = Literal["ddp", "fsdp2"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)


def accelerate_configuration(recipe: Recipe, processes: int) -> dict[str, Any]:
    """What `accelerate launch --config_file` takes. Formats of numbers are the run's own choice.

    `MULTI_GPU` is what starts several processes at all, on a CPU too: with `use_cpu` accelerate starts one, however many
    are asked for.
    """
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}
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
    return made
