"""The processes of a launcher (`accelerate launch`, `torchrun`)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from coalign.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")

_ONE_HEAD = ("ForCausalLM", "ForSequenceClassification")
_alone = False


def process_count() -> int:
    """The processes of the launcher, known before they form a group; 1 without one, and for a process that is `alone`."""
    return 1 if _alone else int(os.environ.get("WORLD_SIZE", "1"))


def is_alone() -> bool:
    """Whether this process works as if there were no others."""
    return _alone


def alone() -> AbstractContextManager[None]:
    """In the block the first process of a launcher works as if it were the only one."""
    return _as(True)


def together() -> AbstractContextManager[None]:
    """In the block, inside of `alone`, it is one of all again."""
    return _as(False)


@contextlib.contextmanager
def _as(value: bool) -> Iterator[None]:
    global _alone
    before, _alone = _alone, value
    try:
        yield
    finally:
        _alone = before


def form_group() -> Any:
    """The group of the launcher's processes as accelerate knows it, formed where it is not. On a CPU accelerate forms one only
    when it is told that this is one.

    Returns:
        accelerate's `PartialState`.
    """
    import torch
    from accelerate import PartialState

    on_cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return PartialState(cpu=on_cpu)


def group_store(name: str) -> Any:
    """What all processes of the group can write to and read from, by keys under `name`; the group is formed where it is not."""
    import torch.distributed as dist
    from torch.distributed import distributed_c10d

    form_group()
    store: Any = distributed_c10d._get_default_store()  # pyright: ignore[reportPrivateUsage]
    with contextlib.suppress(AttributeError, RuntimeError, NotImplementedError):
        store = store.clone()  # a connection of its own: an operation that waits holds the other one
    return dist.PrefixStore(f"coalign/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}", store)


def process_index() -> int:
    """Of this process among those of the launcher."""
    return int(os.environ.get("RANK", "0"))


def own_share(size: int) -> range:
    """The places of this process among `size` equal pieces of work that all processes share."""
    return range(process_index(), size, process_count())


def assert_one_process(what: str) -> None:
    """Refuse to work under a launcher of several processes.

    Args:
        what: does and needs one process, for the message (`d2o samples`).

    Raises:
        ConfigError: there is more than one process.
    """
    if process_count() > 1:
        raise ConfigError(f"{what} in one process.", hint="Start it without a launcher.")


def assert_group(records: int) -> None:
    """Refuse to train where the processes of a launcher do not know of each other, or are more than the records.

    Args:
        records: to train on.

    Raises:
        ConfigError: the launcher started several processes, and accelerate knows of one: each would train alone on all
            records and write to the same folder; or this process is `alone`, and only here is the training begun.
        DataError: there are fewer records than processes.
    """
    if _alone and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "The first process would begin this training by itself, and wait for ever for the others, which serve it.",
            hint="Start it without a launcher.",
        )
    started, known = process_count(), form_group().num_processes
    if started > 1 and known == 1:
        raise ConfigError(
            f"The launcher started {started} processes, and each of them knows of itself alone: each would train on all "
            "records and write to the same folder.",
            hint=f"`coalign launch --processes {started} -- run ...` starts them so that they do.",
        )
    if 1 < known > records:
        raise DataError(
            f"{records} {'record' if records == 1 else 'records'} to train on, expected at least one for each of the "
            f"{known} processes.",
            hint="Start fewer processes, or give more records.",
        )


def arrangement(model: nn.Module) -> str:
    """What the processes of a training are to each other, whatever was asked for.

    Args:
        model: as it is trained: under FSDP2 its parameters are DTensors once the trainer has prepared it.
    """
    from accelerate.state import AcceleratorState
    from torch.distributed.tensor import DTensor

    state: Any = AcceleratorState()
    count, kind = state.num_processes, state.distributed_type.value
    parameters = list(model.parameters())
    sharded = sum(isinstance(one, DTensor) for one in parameters)
    if count == 1:
        return "one process"
    if kind == "DEEPSPEED":
        return f"DeepSpeed ZeRO stage {state.deepspeed_plugin.zero_stage} over {count} processes"
    if sharded:
        return f"FSDP2 over {count} processes, {sharded} of {len(parameters)} parameters sharded"
    if kind == "FSDP":
        return f"FSDP over {count} processes, no parameter is a DTensor"
    asked = [
        name
        for name, key in (("FSDP", "ACCELERATE_USE_FSDP"), ("DeepSpeed", "ACCELERATE_USE_DEEPSPEED"))
        if os.environ.get(key, "").lower() == "true"
    ]
    instead = f" ({asked[0]} was asked for)" if asked else ""
    return f"DDP over {count} processes, each with the whole model{instead}"


def may_leave_unused(model: nn.Module) -> bool:
    """Whether a step may leave trainable weights without a gradient, which DDP then has to look for in every step: experts that no
    token is sent to, encoders of pictures in a step without any, networks with several heads. A language model of text, with a
    head for tokens or one for rewards, uses all of its weights.
    """
    from transformers import PreTrainedModel

    from coalign.models.modules import unwrap

    bare = unwrap(model)
    if not isinstance(bare, PreTrainedModel) or not type(bare).__name__.endswith(_ONE_HEAD):
        return True
    config = bare.config.get_text_config()
    return config is not bare.config or any(
        "expert" in name for name in vars(config) if not name.startswith("_")
    )


def assert_whole_model(model: nn.Module, what: str) -> None:
    """Refuse processes that hold parts of the model, once the trainer has prepared it.

    Args:
        what: needs the whole of it, for the message.

    Raises:
        ConfigError: the weights are shared out (FSDP, DeepSpeed).
    """
    from accelerate.state import AcceleratorState
    from torch.distributed.tensor import DTensor

    shared_out = AcceleratorState().distributed_type.value in {"DEEPSPEED", "FSDP"}
    if shared_out or any(isinstance(one, DTensor) for one in model.parameters()):
        raise ConfigError(
            f"{what} needs the whole model in every process, which shares out its weights: {arrangement(model)}.",
            hint="Start it with `coalign launch` without a recipe.",
        )


def assert_whole_models(what: str) -> None:
    """As `assert_whole_model`, by what the launcher asked for, before anything is read.

    Raises:
        ConfigError: it asked for FSDP or DeepSpeed.
    """
    for name, key in (("FSDP", "FSDP"), ("DeepSpeed", "DEEPSPEED")):
        if os.environ.get(f"ACCELERATE_USE_{key}", "").lower() == "true":
            raise ConfigError(
                f"{what} needs the whole model in every process, which shares out its weights: {name} was asked for.",
                hint="Start it with `coalign launch` without a recipe.",
            )


def end_processes() -> None:
    """Leave the process group, where there is one: the last act of a command or script.

    A process that exits inside a group can be aborted by the threads that its back end still runs.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def over_processes(value: int) -> int:
    """The sum of a count over all processes; to be called by each of them."""
    import torch
    from accelerate.utils import reduce

    if process_count() == 1:
        return value
    counted = torch.tensor(value, device=form_group().device)
    return int(cast(Any, reduce(counted, reduction="sum")))


def gathered(values: Sequence[T]) -> list[T]:
    """What all processes have, one after the other; to be called by each of them."""
    from accelerate.utils import gather_object

    return list(gather_object(list(values))) if process_count() > 1 else list(values)


def told(value: T) -> T:
    """What the first process has; to be called by each of them."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0] if process_count() > 1 else value


def wait_for_all() -> None:
    """Go on once every process is here."""
    if process_count() > 1:
        form_group().wait_for_everyone()


def own_batches(
    data: Sequence[Any], size: int, collate: Callable[[list[Any]], Any], *, process: int, processes: int
) -> Iterator[tuple[Any, bool]]:
    """Batches of one process's share of records, each record in one share.

    Every process gets as many batches, because a forward pass of a sharded model waits for all of them: a process
    with less to do gets the first record once more.

    Args:
        data: records; the share are those at `process`, `process + processes`, ...
        size: records in a batch.
        process, processes: index of this process, and their number.

    Yields:
        (batch, whether it counts): a batch that only keeps step does not.
    """
    own = range(process, len(data), processes)
    for start in range(0, -(-len(data) // processes), size):
        records = [data[index] for index in own[start : start + size]]
        yield collate(records or [data[0]]), bool(records)
