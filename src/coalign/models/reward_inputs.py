"""What a reward model is given: a prompt and a response as one text, in training and in use alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from coalign.core.errors import DataError
from coalign.core.files import write_json
from coalign.core.progress import progress
from coalign.data.encoding import encode_prompt, encode_records, encode_response
from coalign.data.messages import render_transcript
from coalign.data.records import Messages, Record, responses_of
from coalign.models.files.places import Location
from coalign.models.scoring.sequence_states import SequenceStates, reads_last_token, sequence_states
from coalign.models.types import Responses

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coalign.data.media.prompts import PicturePrompt

Format = Literal["chat", "pair", "transcript"]
"""How prompt and response become one input: through the tokenizer's chat template; as the two segments of an encoder;
or as `\\n\\nHuman: ...\\n\\nAssistant: ...`."""
SETTINGS = "reward_model.json"
"""File beside a saved reward model that says how it was trained to read texts."""
SHARED_TOKENS = 2048
"""Most tokens of responses that share one computation of their prompt: attention is masked between them, not left out."""


@dataclass(frozen=True)
class RewardText:
    """One input.

    Attributes:
        ids: token ids; of a longer one than the model reads the beginning is cut off, but for an encoder's first token.
        segments: for each token the segment of an encoder that it belongs to.
        cut: whether that happened.
        pictures: of the prompt; None where it has none.
    """

    ids: tuple[int, ...]
    segments: tuple[int, ...]
    cut: bool = False
    pictures: PicturePrompt | None = None


@dataclass(frozen=True)
class RewardInputs:
    """How a reward model reads texts and how its reward is read.

    Attributes:
        format: see `Format`.
        max_length: tokens of an input; of longer ones the beginning is cut off.
        label: which output is the reward; None for models with one output. With a label the reward is the label's
            log-probability.
    """

    tokenizer: Any
    format: Format
    max_length: int
    label: int | None = None

    def text(self, prompt: Messages | str, response: str) -> RewardText:
        """A prompt and a response as one input.

        Raises:
            DataError: the chat template refuses the conversation.
        """
        messages = cast(
            Messages, [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        )
        if self.format == "pair":
            text = messages[0]["content"] if len(messages) == 1 else render_transcript(messages).strip()
            made = self.tokenizer(text, response, verbose=False)
            ids = made["input_ids"]
            return self._within(ids, made.get("token_type_ids", [0] * len(ids)))
        if self.format == "chat":
            begun = encode_prompt(self.tokenizer, messages)
            ids = begun + encode_response(self.tokenizer, messages, response)
        else:
            ids = self.tokenizer(f"{render_transcript(messages)} {response}", verbose=False)["input_ids"]
        return self._within(ids, [0] * len(ids))

    def texts(self, records: Sequence[Record], *, label: str | None = None) -> list[list[RewardText]]:
        """For each record its responses as inputs.

        An input with pictures is never shortened: where it is too long, `cut` says so, and it is not to be used.

        Args:
            label: show a progress bar under this name.

        Raises:
            DataError: records that the chat template refuses, or with pictures for another format than `chat`, every one
                named.
        """
        if self.format == "chat":
            encoded = encode_records(records, self.tokenizer, label=label, pictures=True).records
            return [
                [
                    self._within(one.prompt_ids + ids, [0] * (len(one.prompt_ids) + len(ids)), one.pictures)
                    for ids in one.response_ids
                ]
                for one in encoded
            ]
        shown = [
            one.problem("images", f"pictures in the format {self.format}", "the chat format")
            for one in records
            if one.pictures
        ]
        if shown:
            raise DataError(f"{len(shown)} of {len(records)} records have pictures.", shown)
        made = []
        with progress(len(records), label or "Tokenising", unit="record") as bar:
            for record in records:
                made.append([self.text(record.prompt, one) for one in responses_of(record)])
                bar.advance()
        return made

    def _within(
        self, ids: list[int], segments: list[int], pictures: PicturePrompt | None = None
    ) -> RewardText:
        over = len(ids) - self.max_length
        if over <= 0 or pictures is not None:  # the tokens of a picture cannot be a part of it
            return RewardText(tuple(ids), tuple(segments), over > 0, pictures)
        first = 1 if self.format == "pair" else 0  # encoders pool their first token
        kept = [[*one[:first], *one[first + over :]] for one in (ids, segments)]
        return RewardText(tuple(kept[0]), tuple(kept[1]), cut=True)

    def rewards(
        self,
        model: nn.Module,
        groups: Sequence[Sequence[RewardText]],
        *,
        batch_tokens: int | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> Tensor:
        """[B] rewards of the texts of all groups, in order. Gradients flow when autograd is on.

        Args:
            groups: texts that begin alike (the responses to one prompt); models that read the last token compute what
                they share once.
            batch_tokens: most tokens in one forward pass; None runs everything in one.
        """
        if reads_last_token(model):
            outputs = self.states(model, groups, batch_tokens=batch_tokens, on_batch=on_batch).outputs
        else:
            outputs = self._encoder_outputs(model, [one for group in groups for one in group])
            if on_batch:
                on_batch(len(outputs))
        return outputs[:, 0] if self.label is None else outputs.log_softmax(-1)[:, self.label]

    def states(
        self,
        model: nn.Module,
        groups: Sequence[Sequence[RewardText]],
        *,
        batch_tokens: int | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> SequenceStates:
        """What the head of a model that reads the last token reads, and what it gives; arguments as of `rewards`."""
        responses = shared_beginnings(groups)
        return sequence_states(model, responses, batch_tokens=batch_tokens, on_batch=on_batch)

    def _encoder_outputs(self, model: nn.Module, rows: Sequence[RewardText]) -> Tensor:
        """[B, L] logits, of rows padded on the right."""
        width, padding = max(len(one.ids) for one in rows), self.tokenizer.pad_token_id
        columns = {
            "input_ids": [[*one.ids, *[padding] * (width - len(one.ids))] for one in rows],
            "attention_mask": [[1] * len(one.ids) + [0] * (width - len(one.ids)) for one in rows],
        }
        if self.format == "pair" and "token_type_ids" in self.tokenizer.model_input_names:
            columns["token_type_ids"] = [[*one.segments, *[0] * (width - len(one.ids))] for one in rows]
        device = next(model.parameters()).device
        return model(
            **{name: torch.tensor(one, device=device) for name, one in columns.items()}
        ).logits.float()


def shared_beginnings(groups: Sequence[Sequence[RewardText]]) -> Responses:
    """The texts of each group as responses to the longest beginning that they share."""
    prompts: list[list[int]] = []
    responses: list[list[int]] = []
    index: list[int] = []
    for group in groups:
        shared = _common([one.ids for one in group])
        prompts.append(list(group[0].ids[:shared]))
        responses += [list(one.ids[shared:]) for one in group]
        index += [len(prompts) - 1] * len(group)
    shown = [group[0].pictures for group in groups]
    return Responses(prompts, responses, index, pictures=shown if any(shown) else None)


def _common(rows: Sequence[tuple[int, ...]]) -> int:
    """Length of the longest common beginning that leaves every row a token of its own."""
    shortest, longest = min(rows), max(rows)  # every other row lies between these two
    limit = min(map(len, rows)) - 1
    differ = (at for at, (one, other) in enumerate(zip(shortest, longest, strict=False)) if one != other)
    return min(next(differ, limit), limit)


def too_long_to_show(texts: Sequence[RewardText]) -> bool:
    """Whether inputs with pictures are longer than the model reads, so that their record cannot be used."""
    return any(one.cut and one.pictures is not None for one in texts)


def grouped(prompts: Sequence[Messages | str], texts: Sequence[RewardText]) -> list[list[int]]:
    """Places of texts to the same prompt, in groups of at most `SHARED_TOKENS` tokens; equal texts count once, at their
    first place.
    """
    groups: dict[str, list[list[int]]] = {}
    room: dict[str, int] = {}
    seen: set[RewardText] = set()
    for place, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        if text in seen:
            continue
        seen.add(text)
        key = json.dumps(prompt, sort_keys=True) + (f" {id(text.pictures)}" if text.pictures else "")
        if room.get(key, 0) < len(text.ids):
            groups.setdefault(key, []).append([])
            room[key] = SHARED_TOKENS
        groups[key][-1].append(place)
        room[key] -= len(text.ids)
    return [group for each in groups.values() for group in each]


def write_settings(folder: Path, inputs: RewardInputs) -> None:
    """Keep beside a saved reward model how it reads texts."""
    write_json(folder / SETTINGS, {"format": inputs.format, "max_length": inputs.max_length})


def read_settings(place: Location) -> dict[str, Any]:
    """What `write_settings` kept; empty for the models of others."""
    path = Path(place.path) / SETTINGS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
