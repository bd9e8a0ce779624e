"""Many continuations of a prompt at once: a causal language model over trees of tokens, every token computed once.

A row is a prompt and a tree that hangs from its end. Tokens of a tree are queries of the same row, so the prompt's keys
and values, and those of a shared beginning, exist once however many continuations grow from them; a mask shows every
token the prompt, its ancestors and itself. `open_trees` takes the cached path where a short probe on the model shows
that it agrees with the plain one, which computes every continuation anew and works for any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from coalign.models.generation.batching import left_padded
from coalign.models.generation.growing_cache import ReservedLayer
from coalign.models.generation.incremental import CachedRows, Call, PlainRows, additive
from coalign.models.modules import unwrap
from coalign.models.scoring.engine import attention_window
from coalign.models.scoring.probing import OnceAModel, agree, probe_ids

ROOT = -1
"""The parent of a first token: the end of the prompt."""


class Trees(Protocol):
    """Rows, each a prompt and a tree of tokens. A node is a number within its row."""

    def start(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """One row a prompt, without a tree. Returns the logits [R, V] after each prompt."""
        ...

    def grow(
        self, rows: Sequence[int], parents: Sequence[int], tokens: Sequence[int]
    ) -> tuple[list[int], Tensor]:
        """Add N nodes: `tokens[i]` after `parents[i]` (a node or `ROOT`) in row `rows[i]`.

        Returns:
            The new nodes, and the logits [N, V] after each.
        """
        ...

    def keep(self, rows: Sequence[int], paths: Sequence[Sequence[int]]) -> None:
        """Row i becomes row `rows[i]` with the nodes `paths[i]` alone, each the parent of the next, the first after
        the prompt. They are then called 0, 1, ... in that order.
        """
        ...


def open_trees(model: nn.Module, longest: int) -> Trees:
    """Trees on the cached path where the model allows it, else on the plain path (announced once a model).

    Args:
        longest: tokens of the longest text, prompt included; a text longer than a sliding window takes the plain path.
    """
    cacheable, window = _can_grow(model), attention_window(unwrap(model))
    fits = window is None or longest <= window
    return CachedTrees(model) if fits and cacheable else PlainTrees(model)


class CachedTrees:
    """Keys and values of all nodes are kept; nothing is computed twice.

    A row's cache holds the prompt (padded on the left to the longest), then a column a node. Every call of `grow` adds
    as many columns to each row as the row with most new nodes needs; the others are filled with nodes nobody sees.
    """

    def __init__(self, model: nn.Module) -> None:
        self._bare = unwrap(model)
        self._rows = CachedRows(model, whole=True)
        self._model = Call(model)
        if not self._model.takes_positions:
            raise NotImplementedError("it does not take the positions of tokens")
        config: Any = self._bare.config
        self._bool_mask = getattr(config, "_attn_implementation", None) == "sdpa"

    def start(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        device = next(self._bare.parameters()).device
        ids, mask = left_padded(prompts, device)
        logits = self._rows.start(ids, mask)
        layers = self._rows.cache.layers
        if {type(layer) for layer in layers} != {ReservedLayer}:
            raise NotImplementedError("some of its layers keep other states than all keys and values")
        self._layers: list[ReservedLayer] = list(layers)  # type: ignore[arg-type]
        self._prompt = mask.bool()
        self._owners = list(range(len(prompts)))  # which prompt a row holds
        self._length = 0  # columns after the prompt
        self._seen = torch.zeros(len(prompts), 0, 0, dtype=torch.bool, device=device)
        self._depths = torch.zeros(len(prompts), 0, dtype=torch.long, device=device)
        return logits

    def grow(
        self, rows: Sequence[int], parents: Sequence[int], tokens: Sequence[int]
    ) -> tuple[list[int], Tensor]:
        counts = [0] * len(self._owners)
        slots = []
        for row in rows:
            slots.append(counts[row])
            counts[row] += 1
        width, device = max(counts), self._prompt.device
        row_index, slot_index, parent, token = (
            torch.tensor(one, device=device) for one in (list(rows), slots, list(parents), list(tokens))
        )
        ids, ancestor = (torch.full((len(counts), width), fill, device=device) for fill in (0, ROOT))
        ids[row_index, slot_index] = token
        ancestor[row_index, slot_index] = parent
        positions = self._extend(ancestor)
        mask = torch.cat(
            [
                self._prompt[:, None, :].expand(-1, width, -1),
                self._seen[:, self._length - width : self._length, : self._length],
            ],
            dim=-1,
        )[:, None]
        logits = self._call(ids, positions, mask)[row_index, slot_index]
        return [self._length - width + slot for slot in slots], logits

    def keep(self, rows: Sequence[int], paths: Sequence[Sequence[int]]) -> None:
        owners = [self._owners[row] for row in rows]
        device, rows = self._prompt.device, list(rows)
        if len(rows) > len(self._owners) or owners != self._owners[: len(rows)]:
            index = torch.tensor(rows, device=device)
            for layer in self._layers:
                layer.reorder_cache(index)
            self._prompt = self._prompt[index]
            rows = list(range(len(rows)))
        else:
            self._prompt = self._prompt[: len(rows)]
        length = max(map(len, paths))
        # What fills shorter rows up is seen by nobody.
        filled = [[*path, *[0] * (length - len(path))] for path in paths]
        columns = torch.tensor(filled, dtype=torch.long, device=device)
        columns = columns.reshape(len(rows), length)
        same = _common(paths) if rows == list(range(len(rows))) else 0
        start = self._prompt.shape[1]
        for layer in self._layers:
            layer.keep_columns(torch.tensor(rows, device=device), start + columns[:, same:], start + same)
        self._owners, self._length = owners, length
        order = torch.arange(length, device=device)
        self._seen = (order[None, :] <= order[:, None])[None].repeat(len(rows), 1, 1)
        self._depths = order[None].repeat(len(rows), 1)

    def _extend(self, ancestor: Tensor) -> Tensor:
        """Make room for new nodes with the parents `ancestor` [R, Q]. Returns their positions [R, Q]."""
        rows, width = ancestor.shape
        before, self._length = self._length, self._length + width
        if self._seen.shape[-1] < self._length:
            room = max(self._length, 2 * before)
            seen = self._seen.new_zeros(rows, room, room)
            seen[:, :before, :before] = self._seen[:, :before, :before]
            depths = self._depths.new_zeros(rows, room)
            depths[:, :before] = self._depths[:, :before]
            self._seen, self._depths = seen, depths
        first = ancestor == ROOT
        place = torch.arange(rows, device=ancestor.device)[:, None]
        new = slice(before, self._length)
        self._seen[:, new] = self._seen[place, ancestor.clamp(min=0)] & ~first[..., None]
        own = torch.arange(before, self._length, device=ancestor.device)
        self._seen[:, own, own] = True
        self._depths[:, new] = torch.where(first, 0, self._depths[place, ancestor.clamp(min=0)] + 1)
        return self._prompt.sum(-1, keepdim=True) + self._depths[:, new]

    def _call(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        if not self._bool_mask:
            mask = additive(mask, next(self._bare.parameters()).dtype)
        return self._model(ids, mask, positions, past_key_values=self._rows.cache)


class PlainTrees:
    """Nothing is kept: every new node costs a pass over its whole row."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def start(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        self._prompts = [list(one) for one in prompts]
        self._paths: list[list[list[int]]] = [[] for _ in prompts]
        return self._logits(self._prompts)

    def grow(
        self, rows: Sequence[int], parents: Sequence[int], tokens: Sequence[int]
    ) -> tuple[list[int], Tensor]:
        nodes = []
        for row, parent, token in zip(rows, parents, tokens, strict=True):
            before = self._paths[row][parent] if parent != ROOT else []
            nodes.append(len(self._paths[row]))
            self._paths[row].append([*before, token])
        texts = [self._prompts[row] + self._paths[row][node] for row, node in zip(rows, nodes, strict=True)]
        return nodes, self._logits(texts)

    def keep(self, rows: Sequence[int], paths: Sequence[Sequence[int]]) -> None:
        kept = [
            [list(self._paths[row][node]) for node in path] for row, path in zip(rows, paths, strict=True)
        ]
        self._prompts = [self._prompts[row] for row in rows]
        self._paths = kept

    def _logits(self, texts: list[list[int]]) -> Tensor:
        device = next(self._model.parameters()).device
        return PlainRows(self._model).start(*left_padded(texts, device))


def _common(paths: Sequence[Sequence[int]]) -> int:
    """How many columns are in their place in every row already."""
    return min(next((place for place, node in enumerate(path) if node != place), len(path)) for path in paths)


@OnceAModel
def _can_grow(model: nn.Module) -> bool:
    """Try both paths on two short prompts whose trees branch, are pruned and grow on."""
    draw = probe_ids(model, 16).tolist()
    return agree(
        model,
        lambda: _probe_logits(PlainTrees(model), draw),
        lambda: _probe_logits(CachedTrees(model), draw),
        lacks="grow trees of tokens in its cache",
        differs="its logits differ with trees in the cache",
        instead="every continuation is computed anew, which is slow",
    )


def _probe_logits(trees: Trees, draw: list[int]) -> Tensor:
    trees.start([draw[:6], draw[2:6]])
    first, _ = trees.grow([0, 0, 1], [ROOT, ROOT, ROOT], draw[6:9])
    second, one = trees.grow([0, 0, 1], first, draw[9:12])
    trees.keep([0, 1, 0], [[first[1], second[1]], [first[2], second[2]], [first[0], second[0]]])
    _, two = trees.grow([0, 1, 2, 2], [1, 1, 1, 0], draw[12:16])
    return torch.cat([one, two])
