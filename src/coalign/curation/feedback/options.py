"""What a pipeline from logs to preferences is made of: the options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from coalign.core.options import Count, Fraction, NonNegative, OptionGroup, option, required
from coalign.curation.feedback.signals import DISSATISFIED
from coalign.data.personal import KINDS

_TRAINED: Any = {"detector": "trained"}


@dataclass(kw_only=True)
class LogOptions(OptionGroup):
    """Which conversations, and how they are read."""

    __group__ = "Data"

    data: str = required(
        "logs of conversations: `messages`, ShareGPT's `conversations` or WildChat's `conversation`; a file, a folder, a hub id"
    )
    split: str = option("train", "split of a hub data set")
    limit: Count | None = option(None, "read only so many conversations")
    languages: list[str] = option([], "only conversations whose column `language` is one of these")
    merge_turns: bool = option(
        False, "join turns of one speaker that follow each other, in place of leaving them out"
    )
    personal_data: Literal["mask", "keep"] = option(
        "mask", "mask what has the form of personal data before anything is stored (extra pii), or keep it"
    )
    personal_kinds: list[str] = option(
        [*KINDS], "which kinds are masked", source="our choice", only_with={"personal_data": "mask"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [one for one in self.personal_kinds if one not in KINDS]:
            raise ValueError(
                f"personal_kinds: {unknown[0]!r} is not known, expected some of: {', '.join(KINDS)}"
            )
        if not self.personal_kinds:
            raise ValueError("personal_kinds is empty; personal_data: keep masks nothing")


@dataclass(kw_only=True)
class SignalOptions(OptionGroup):
    """How turns of users are read as labels."""

    __group__ = "Signals"

    detector: Literal["judge", "trained"] = option(
        "judge",
        "who finds the signals: the judge model, or a small classifier of single turns",
        source="paper: GPT-4o",
    )
    detector_data: str | None = option(
        None,
        "labelled turns (text; label sat, dsat or none), or a detector.json of an earlier run",
        only_with=_TRAINED,
    )
    encoder: str = option("default-encoder", "sentence encoder of the classifier", only_with=_TRAINED)
    threshold: Fraction = option(0.5, "probability above which it sees a signal", only_with=_TRAINED)
    window: Count = option(8, "turns of the user that are judged in one request to the judge")
    history: Count = option(20, "most exchanges before those that a prompt keeps")
    clip: Count = option(
        1000, "characters of a turn that the judge is shown; of longer ones the middle is left out"
    )
    leave_out: list[str] = option(
        ["unrealistic_expectation"], "signs that nothing is learned from", source="our choice"
    )
    most_per_category: Count | None = option(
        None, "most pairs from one first-named sign; dissatisfaction is mostly of few kinds"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detector == "trained":
            self.refuse(["most_per_category", "leave_out"], "with detector: trained, which names no signs")
        if unknown := [one for one in self.leave_out if one not in DISSATISFIED]:
            raise ValueError(
                f"leave_out: {unknown[0]!r} is no sign, expected some of: {', '.join(DISSATISFIED)}"
            )


@dataclass(kw_only=True)
class PairOptions(OptionGroup):
    """Who writes the better replies, who judges, and what is kept."""

    __group__ = "Pairs"

    version: Literal["expert", "on-policy"] = option(
        "expert",
        "expert: another model's reply against the one that was logged; on-policy: the model's own with and without the list",
    )
    expert: str | None = option(
        None,
        "the expert: `default`, a hub id, a folder, or a name on its server",
        only_with={"version": "expert"},
    )
    expert_endpoint: str | None = option(None, "server of the expert", only_with="expert")
    judge_model: str = option("default", "finds signals, writes lists and judges; a name on its server")
    judge_endpoint: str | None = option(None, "server of the judge")
    judge_tokens: Count = option(512, "room for a reply of the judge")
    list_place: Literal["system", "user"] = option(
        "system",
        "where who writes sees the list; user: before the request, for templates without a system turn",
        source="paper",
    )
    max_failures: Fraction = option(
        0.2, "share of verdicts on held-out replies that may be missing before the run fails"
    )
    check_pairs: Literal["auto", "always", "never"] = option(
        "auto",
        "let the judge with the list, in both orders, drop pairs; auto: on-policy ones",
        source="paper",
    )
    moderate: bool = option(
        True, "let the judge drop unsafe requests before, and unsafe replies after they are written"
    )
    max_new_tokens: Count = option(512, "most tokens of a reply")
    temperature: NonNegative = option(0.7, "of replies", source="our choice")
    request_batch: Count = option(32, "requests to a model at a time")
    held_out: Fraction = option(
        0.1, "share of the conversations whose requests are tested on", source="paper: 540"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.held_out < 1:
            raise ValueError("held_out: 1 leaves nothing to learn from")
