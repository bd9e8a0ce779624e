"""What `coalign data check` finds out about records before any model is loaded."""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from coalign.core.errors import DataError, RecordProblem
from coalign.data.checking.overlap import Overlap, find_overlap
from coalign.data.checking.usable import compares_nothing, undecodable
from coalign.data.encoding import Encoded, EncodedRecord, encode_records, shorten
from coalign.data.frame import EncodingError, Frame
from coalign.data.media.conversations import MARK
from coalign.data.media.prompts import image_token, processor_of
from coalign.data.readers import RecordSet
from coalign.data.records import (
    Feedback,
    Judgment,
    Preference,
    Ranking,
    Record,
    fields_of,
    message_of,
    response_names,
    responses_of,
    steps_of,
)
from coalign.data.splits import prompt_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Shown = TypeVar("Shown")
N_BINS = 12
SHAPES = 6
"""So many distinct shapes of records are shown token by token."""
SHAPE_TURNS = 8
"""Messages by which shapes are told apart."""
UNTRAINED = "not trained"
"""Name of the pieces of a response that nothing is learned from: what tools returned."""


NO_EVALUATION: Mapping[str, Sequence[Record]] = MappingProxyType({})


@dataclass(frozen=True)
class Lengths:
    """How long one part of the records is, in `unit`. `bins` are (from, to, count), both ends included."""

    part: str
    unit: str
    count: int
    mean: float
    median: float
    p95: int
    longest: int
    bins: list[tuple[int, int, int]]


@dataclass(frozen=True)
class Example(Generic[Shown]):
    """A record as the model would see it: the prompt as context, and (name, content) of each response, or of each of its
    pieces in order where nothing is learned from some (`UNTRAINED`).

    The content is text, or token by token as it is trained on.
    """

    place: str
    prompt: Shown
    responses: list[tuple[str, Shown]]


@dataclass(frozen=True)
class Check:
    """The findings.

    Attributes:
        usable: there is at least one good record, and no bad one that would stop a run.
        duplicates: records that repeat an earlier one exactly.
        repeated_prompts: records whose prompt an earlier record has, with other responses.
        identical_responses: records two of whose responses are the same.
        ties: preferences with equal scores, rankings with responses of equal score.
        reversed_scores: preferences whose rejected response has the higher score.
        classes: counts of thumbs up and down, for feedback and judged records that have them.
        truncated_prompts, truncated_responses, dropped: under the given lengths; None when none were given.
        columns: every column, and what is done with it.
        overlooked: what may have been meant otherwise: columns that are not used, text that is already templated.
        same_tokens: records whose compared responses are the same tokens (once they are cut, where lengths are given).
        pictures: the first record of each distinct shape, token by token; with a tokenizer.
        against: file of evaluation data to what it shares with these records.
        shown: pictures of the records, and records that have some.
    """

    source: str
    kind: str
    recognised: str
    usable: bool
    n_records: int
    n_bad: int
    problems: list[RecordProblem]
    lengths: list[Lengths]
    duplicates: int
    repeated_prompts: int
    empty_prompts: int
    identical_responses: int
    ties: int
    reversed_scores: int
    classes: dict[str, int] = field(default_factory=dict)
    max_prompt_length: int | None = None
    max_length: int | None = None
    truncated_prompts: int | None = None
    truncated_responses: int | None = None
    dropped: list[RecordProblem] | None = None
    examples: list[Example[str]] = field(default_factory=list)
    rejects: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    overlooked: tuple[str, ...] = ()
    same_tokens: int = 0
    pictures: list[Example[list[str]]] = field(default_factory=list)
    against: dict[str, Overlap] = field(default_factory=dict)
    shown: tuple[int, int] = (0, 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def warnings(self) -> list[str]:
        """What may be meant but often is a mistake, one sentence each."""
        counts = [
            (self.duplicates, "Exact duplicates of an earlier record"),
            (self.identical_responses, "Records with the same response twice, from which nothing is learnt"),
            (self.reversed_scores, "Records that score the rejected response above the chosen one"),
            (self.ties, "Records with tied scores"),
            (
                self.empty_prompts if self.empty_prompts < self.n_records else 0,
                "Records with an empty prompt",
            ),
            (
                self.same_tokens - self.identical_responses,
                "Records whose responses differ as text and are the same tokens, so that nothing is learnt",
            ),
            (self.truncated_responses or 0, "Responses that are cut and lose their end of turn"),
            (
                len(self.dropped or ()),
                "Records dropped because their prompt leaves no room for a response, or would lose its pictures",
            ),
        ]
        lines = [*self.overlooked, *(f"{what}: {number:,}." for number, what in counts if number > 0)]
        lines += [f"{file}: {one.told()}." for file, one in self.against.items() if one.matches]
        for name, number in self.classes.items():
            if number == 0:
                lines.append(f"No record is labelled {name}: most objectives on feedback need both.")
        return lines


def check_records(
    found: RecordSet,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    max_prompt_length: int | None = None,
    max_length: int | None = None,
    show: int = 3,
    skip_bad: bool = False,
    label: str | None = None,
    against: Mapping[str, Sequence[Record]] = NO_EVALUATION,
) -> Check:
    """Examine what `scan_records` found.

    Args:
        tokenizer: measure lengths in tokens and render the examples through its chat template; without one lengths
            are in words (characters, for scripts without spaces) and examples are as in the file.
        max_prompt_length, max_length: count what these lengths would cut or drop; they need a tokenizer.
        show: examples.
        skip_bad: bad records do not make the data unusable.
        label: show a progress bar under this name while encoding.
        against: file to records that will be evaluated on.
    """
    records = found.records
    problems = list(found.problems)
    encoded: Encoded | None = None
    if tokenizer is None:
        problems += undecodable(records)
    else:
        try:
            # Uncut first: the histogram shows what is there; what would be cut is counted from the same tokens.
            encoded = encode_records(records, tokenizer, label=label, pictures=True)
        except DataError as error:
            problems += error.problems
    keys = [prompt_key(record) for record in records]
    whole = [(key, responses_of(record)) for key, record in zip(keys, records, strict=True)]
    cut = _cut(encoded, tokenizer, records, max_prompt_length, max_length)
    return Check(
        source=found.source,
        kind=found.kind,
        recognised=found.recognised,
        usable=bool(records)
        and (len(problems) == len(found.problems))
        and (skip_bad or not problems)
        and cut.get("same_tokens") != len(records),
        n_records=len(records),
        n_bad=found.n_bad,
        problems=problems,
        lengths=_lengths(records, encoded),
        duplicates=len(whole) - len(set(whole)),
        repeated_prompts=len(set(whole)) - len(set(keys)),
        empty_prompts=sum(not record.prompt for record in records),
        identical_responses=sum(len(set(one)) < len(one) for one in map(responses_of, records)),
        ties=sum(map(_is_tied, records)),
        reversed_scores=sum(map(_is_reversed, records)),
        classes=_classes(records),
        max_prompt_length=max_prompt_length,
        max_length=max_length,
        examples=_examples(records[:show], tokenizer),
        rejects=str(found.rejects) if found.rejects else None,
        columns=dict(found.uses),
        overlooked=found.warnings,
        against={file: find_overlap(records, evaluated) for file, evaluated in against.items()},
        shown=(sum(len(one.pictures) for one in records), sum(bool(one.pictures) for one in records)),
        **cut,
    )


def _cut(
    encoded: Encoded | None,
    tokenizer: PreTrainedTokenizerBase | None,
    records: Sequence[Record],
    max_prompt_length: int | None,
    max_length: int | None,
) -> dict[str, Any]:
    if encoded is None or tokenizer is None:
        return {}
    shortened = shorten(encoded.records, records, tokenizer.bos_token_id, max_prompt_length, max_length)
    seen = {
        "same_tokens": sum(map(compares_nothing, shortened.records)),
        "pictures": _pictures(shortened.records, records, tokenizer),
    }
    if max_prompt_length is None and max_length is None:
        return seen
    return {
        **seen,
        "truncated_prompts": shortened.n_truncated_prompts,
        "truncated_responses": shortened.n_truncated_responses,
        "dropped": shortened.dropped,
    }


def _pictures(
    encoded: Sequence[EncodedRecord], records: Sequence[Record], tokenizer: PreTrainedTokenizerBase
) -> list[Example[list[str]]]:
    """The first record of each distinct shape: its roles, and what its messages have beside text."""
    first: dict[tuple[Any, ...], EncodedRecord] = {}
    for one in encoded:
        record = records[one.record_index]
        keys = tuple(
            (said["role"], *sorted(said.keys() - {"role", "content"})) for said in record.prompt[:SHAPE_TURNS]
        )
        replies = tuple(
            sorted(
                {key for reply in responses_of(record) for key in fields_of(reply)}
                | {one["role"] for reply in responses_of(record) for one in steps_of(reply)}
            )
        )
        shape = (keys, replies, len(record.pictures), bool(record.tools), *sorted(record.template_kwargs))
        first.setdefault(shape, one)

    processor = processor_of(tokenizer)
    place = tokenizer.convert_tokens_to_ids(image_token(processor)) if processor is not None else None

    def written(ids: Sequence[int]) -> list[str]:
        """Each token; those of a picture that follow each other once, with their number."""
        texts = []
        for one, run in itertools.groupby(ids):
            count, text = len(list(run)), str(tokenizer.decode([one]))
            texts += [f"{text} × {count}"] if one == place else [text] * count
        return texts

    pictures = []
    for one in list(first.values())[:SHAPES]:
        record, masks = records[one.record_index], one.trained or [None] * len(one.response_ids)
        named = [
            (part, written(ids))
            for name, response, mask in zip(response_names(record), one.response_ids, masks, strict=True)
            for part, ids in _parted(name, response, mask)
        ]
        pictures.append(Example(str(record.source), written(one.prompt_ids), named))
    return pictures


def _parted(
    name: str, ids: Sequence[int], mask: Sequence[bool] | None
) -> Iterable[tuple[str, Sequence[int]]]:
    """A response's tokens in runs, those that are not trained on under a name of their own."""
    if mask is None:
        return [(name, ids)]
    runs = itertools.groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])
    return [(name if counts else UNTRAINED, [one for one, _ in run]) for counts, run in runs]


def _lengths(records: Sequence[Record], encoded: Encoded | None) -> list[Lengths]:
    parts: dict[str, list[int]] = {"prompt": []}
    if encoded is not None:
        unit = "tokens"
        rows = [
            (records[one.record_index], len(one.prompt_ids), map(len, one.response_ids))
            for one in encoded.records
        ]
    else:
        texts = [text for record in records for text in (_prompt_text(record), *responses_of(record))]
        unit = "characters" if sum(map(len, texts)) > 15 * sum(map(_words, texts)) else "words"
        measure = len if unit == "characters" else _words
        rows = [
            (record, measure(_prompt_text(record)), map(measure, responses_of(record))) for record in records
        ]
    for record, prompt, responses in rows:
        parts["prompt"].append(prompt)
        for name, length in zip(response_names(record), responses, strict=True):
            parts.setdefault(name, []).append(length)
    return [_summary(part, unit, values) for part, values in parts.items() if values]


def _summary(part: str, unit: str, values: list[int]) -> Lengths:
    ordered = sorted(values)
    p95 = ordered[max(0, -(-95 * len(ordered) // 100) - 1)]
    return Lengths(
        part=part,
        unit=unit,
        count=len(values),
        mean=round(statistics.fmean(values), 1),
        median=statistics.median(values),
        p95=p95,
        longest=ordered[-1],
        bins=_bins(ordered, p95),
    )


def _bins(ordered: Sequence[int], p95: int) -> list[tuple[int, int, int]]:
    """Equal steps up to a little above the 95th percentile, the long tail in one last bin."""
    top = max(p95, 1)
    step = next(size for size in _steps() if size * (N_BINS - 1) > top)
    counts = Counter(min(value // step, N_BINS - 1) for value in ordered)
    last = max(counts)
    return [
        (index * step, ordered[-1] if index == last else (index + 1) * step - 1, counts[index])
        for index in range(min(counts), last + 1)
    ]


def _steps() -> Iterable[int]:
    """1, 2, 5, 10, 20, 50, ..."""
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def _prompt_text(record: Record) -> str:
    return "\n\n".join(one["content"] for one in record.prompt)


def _words(text: str) -> int:
    return len(text.split())


def _is_tied(record: Record) -> bool:
    if isinstance(record, Ranking):
        return len(set(record.scores)) < len(record.scores)
    return isinstance(record, Preference) and None is not record.chosen_score == record.rejected_score


def _is_reversed(record: Record) -> bool:
    if not isinstance(record, Preference) or record.chosen_score is None or record.rejected_score is None:
        return False
    return record.chosen_score < record.rejected_score


def _classes(records: Sequence[Record]) -> dict[str, int]:
    labels = [record.label for record in records if isinstance(record, Feedback | Judgment)]
    given = [label for label in labels if label is not None]
    return {"true": given.count(True), "false": given.count(False)} if given else {}


def _examples(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase | None) -> list[Example[str]]:
    frame = Frame(tokenizer) if tokenizer is not None else None
    examples = []
    for record in records:
        place = str(record.source)
        try:
            prompt, responses = (
                frame.segments(record)
                if frame
                else (_turns(record), [_said_in_turns(one) for one in responses_of(record)])
            )
        except EncodingError:  # already among the problems
            continue
        named = [
            (name if counts else UNTRAINED, text)
            for name, segments in zip(response_names(record), responses, strict=True)
            for text, counts in segments
        ]
        examples.append(Example(place, prompt, named))
    return examples


def _turns(record: Record) -> str:
    shown = iter(one.called for one in record.pictures)
    given = [
        f"{name}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in record.template_arguments.items()
    ]
    said = [f"{one['role']}: {_said(one)}" for one in record.prompt]
    return "\n".join(
        [*given, *(re.sub(MARK, lambda _: f"[picture {next(shown, '?')}]", one) for one in said)]
    )


def _said_in_turns(reply: str) -> list[tuple[str, bool]]:
    """A reply in words, turn by turn, and whether each is the assistant's."""
    return [(_said(one), one["role"] == "assistant") for one in (*steps_of(reply), message_of(reply))]


def _said(message: Mapping[str, Any]) -> str:
    """A message in words: its text, and its other keys as JSON."""
    more = {key: value for key, value in message.items() if key not in ("role", "content")}
    return " ".join(filter(None, (message["content"], json.dumps(more, ensure_ascii=False) if more else "")))
