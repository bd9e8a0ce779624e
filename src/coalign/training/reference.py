"""Reference log-probabilities, computed once before training and kept on disk for every later run.

A reference never changes, so its log-probabilities are data: computing them beforehand saves a forward pass in every
epoch and, in full fine-tuning, a second copy of the model. The numbers are those of the live reference.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coalign.core.cache import cache_root, hold_limit, use
from coalign.core.files import atomic_path
from coalign.core.progress import progress
from coalign.core.runs import is_main_process
from coalign.models.adapters import START, adapter_prefix
from coalign.models.devices import autocast_of
from coalign.models.files.quantized import stored_parts
from coalign.models.generation.sampling import wide
from coalign.models.modules import unwrap
from coalign.models.scoring.engine import DEFAULT_BATCH_TOKENS, score_responses
from coalign.training.batches import Example, StoredExamples, responses_of_examples
from coalign.training.processes import form_group, gathered, over_processes

_PART = 4096
"""Stored examples that are scored together."""


def with_reference(
    examples: Sequence[Example],
    reference: nn.Module,
    *,
    folder: Path | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Sequence[Example]:
    """The examples with the token log-probabilities of their responses under `reference`; to be called by every process of a
    group, which share the work.

    Args:
        examples: what will be trained or evaluated on.
        reference: the frozen model, in evaluation mode (an adapted model inside `disabled_adapter`).
        folder: where results are kept; by default in coalign's cache. The file's name is a hash of the reference's
            weights, of the number format of weights and products, and of every token id, mask and picture, which stand for
            tokenizer, template, data and length limits.
        batch_tokens: most tokens in one forward pass.
    """
    if isinstance(examples, StoredExamples):
        return _stored(examples, reference, folder or cache_root() / "reference", batch_tokens)
    if not examples:
        return []
    path = (folder or cache_root() / "reference") / f"{_key(examples, reference)}.safetensors"
    use(path)
    if over_processes(int(not path.exists())):
        token_logps = _score_together(examples, reference, batch_tokens)
        if is_main_process():
            with atomic_path(path) as temporary:
                save_file({"token_logps": token_logps}, temporary)
            hold_limit()
    else:
        token_logps = load_file(path)["token_logps"]
    pieces = iter(torch.split(token_logps, [count for one in examples for count in one.counts()]))
    return [replace(one, reference=tuple(next(pieces) for _ in one.counts())) for one in examples]


def _score_together(examples: Sequence[Example], reference: nn.Module, batch_tokens: int) -> Tensor:
    """Each process scores a share of the examples, and all have all of it."""
    state = form_group()
    if state.num_processes == 1:
        return _score(examples, reference, batch_tokens)
    own = range(state.process_index, len(examples), state.num_processes)
    share = [examples[index] for index in own]
    scored = _score(share, reference, batch_tokens) if share else torch.zeros(0)
    pieces = torch.split(scored, [sum(one.counts()) for one in share])
    found = dict(gathered(list(zip(own, pieces, strict=True))))
    return torch.cat([found[index] for index in range(len(examples))])


def _stored(
    examples: StoredExamples, reference: nn.Module, folder: Path, batch_tokens: int
) -> StoredExamples:
    """As `with_reference`, a part of the examples in memory at a time."""
    key = hashlib.sha256(f"{examples.digest} {_fingerprint(reference).hex()} {_products(reference)}".encode())
    kept = folder / key.hexdigest()[:32]
    use(kept)
    if over_processes(int(not kept.exists())):
        parts = (examples[start : start + _PART] for start in range(0, len(examples), _PART))
        scored = ((part, _score_together(part, reference, batch_tokens)) for part in parts)
        if is_main_process():
            _write(kept, scored)
            hold_limit()
        else:
            deque(scored, maxlen=0)
        over_processes(0)  # until it is written
    size = (kept / "token_logps.bin").stat().st_size
    token_logps = np.memmap(kept / "token_logps.bin", np.float32, "r") if size else np.zeros(0, np.float32)
    return StoredExamples(examples.store, (token_logps, np.load(kept / "ends.npy")))


def _write(folder: Path, scored: Iterable[tuple[Sequence[Example], Tensor]]) -> None:
    """Log-probabilities of all counted tokens, and where those of each example end."""
    ends, total = array("q"), 0
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        with (temporary / "token_logps.bin").open("wb") as file:
            for part, token_logps in scored:
                file.write(token_logps.float().numpy().tobytes())
                for one in part:
                    total += sum(one.counts())
                    ends.append(total)
        np.save(temporary / "ends.npy", np.array(ends))


def _score(examples: Sequence[Example], reference: nn.Module, batch_tokens: int) -> Tensor:
    responses = responses_of_examples(examples)
    with (
        torch.no_grad(),
        autocast_of(reference),
        progress(len(responses.response_ids), "Scoring under the reference", unit="response") as bar,
    ):
        scored = score_responses(reference, responses, batch_tokens=batch_tokens, on_batch=bar.advance)
    return scored.token_logps.cpu().contiguous()


def _key(examples: Sequence[Example], reference: nn.Module) -> str:
    digest = hashlib.sha256(_fingerprint(reference))
    digest.update(_products(reference).encode())
    for example in examples:
        for one in example.contexts:
            digest.update(repr((one.prompt_ids, one.response_ids, one.trained)).encode())
            if one.pictures is not None:
                digest.update(one.pictures.key.encode())
    return digest.hexdigest()[:32]


def _products(reference: nn.Module) -> str:
    """The number format of the reference's products, where it is not that of its weights."""
    products = getattr(unwrap(reference), "autocast_dtype", None)
    return "" if products is None else str(products)


def _fingerprint(model: nn.Module) -> bytes:
    """A hash of the frozen weights: exact sums over slices of every parameter that is not an adapter's.

    Reading every weight once takes a fraction of a second per billion of them; hashing their bytes takes minutes.
    """
    digest = hashlib.sha256(type(unwrap(model)).__name__.encode())
    trained = adapter_prefix(model)
    for name, one in model.named_parameters():
        if trained and trained in name and f".{START}." not in name:
            continue
        dtype, sums = wide(one.device), []
        for part in stored_parts(one):
            flat = part.detach().reshape(-1)
            sums += [flat.to(dtype).sum(), flat[:: max(1, len(flat) // 4096)].to(dtype).square().sum()]
        weights = torch.stack(sums)
        clean = name.replace("base_model.model.", "").replace(".base_layer", "")
        digest.update(f"{clean} {tuple(one.shape)} {one.dtype} {weights.tolist()}".encode())
    return digest.digest()
