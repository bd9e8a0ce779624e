"""From instructions to rows with system messages and answers: values are drawn, spelled out for the instruction, put into a
system message, and answered under it. A pipeline over records; whatever answers prompts may be the teacher.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.options import Count, Fraction, OptionGroup, option
from coalign.curation.stated_values.collection import conversation, without_system
from coalign.judging.prompts import question_text
from coalign.loops.pipeline import Curated, Kept, Made, Rejected, run_pipeline
from coalign.loops.steps.usual import Distinct, Filter, Rewrite

if TYPE_CHECKING:
    from pathlib import Path

    from coalign.curation.stated_values.hierarchy import Hierarchy
    from coalign.data.records import Messages, Record
    from coalign.loops.rows import Row
    from coalign.models.types import Generation, Generator, Sampling

PREFERENCE = """What a person likes about answers is to be said for one request.

Request: How do I keep bread fresh?
Dimension: background knowledge, level
Value: The reader is a child of about eight years who knows no technical words.
Preference: Explains with things that a child sees in the kitchen, and says nothing of starch or moisture content.

Request: {question}
Dimension: {dimension}, {subdimension}
Value: {value}
Write the preference as one sentence of at most 40 words, in the form of the example, and nothing else.
Preference:"""
"""What a teacher is asked to spell a value out for an instruction."""
SYSTEM = """Somebody's preferences are to become instructions to an assistant.

Request: How do I keep bread fresh?
Preferences:
- Answers as a short list of steps.
- Explains with things that a child sees in the kitchen.
Instructions: You are a patient helper in a children's kitchen. Answer in a short list of steps, and explain each step with things that a child sees around it, without technical words.

Request: {question}
Preferences:
{preferences}
Write the instructions in the second person as a role, in two to four sentences. Cover every preference, do not answer the
request, and write nothing else.
Instructions:"""
"""What a teacher is asked for a system message."""
FRAMES = (
    "You are an assistant to a person with wishes of their own. {wishes}",
    "Write for somebody who cares about this: {wishes}",
    "Keep to the following in your answer. {wishes}",
)
"""System messages without a teacher; one is drawn for each."""


@dataclass(kw_only=True)
class WritingOptions(OptionGroup):
    """System messages that state values, and answers under them."""

    __group__ = "System messages"

    system_messages: Count = option(
        3, "system messages, each with an answer, of an instruction; pairs need two", source="paper"
    )
    preferences: Literal["teacher", "values"] = option(
        "teacher",
        "who says what a value means for an instruction: the teacher, or nobody, and the value's own sentence stands",
        source="paper: a teacher",
    )
    wording: Literal["teacher", "frames"] = option(
        "teacher",
        "who writes system messages: the teacher, or one of three fixed frames around the preferences",
        source="paper: a teacher",
    )
    unseen: Fraction = option(
        0.2, "share of the combinations of values that only held-out instructions get", source="our choice"
    )
    request_batch: Count = option(32, "requests to the teacher at a time; what a kill may cost")


def write_collection(
    folder: Path,
    records: Sequence[Record],
    hierarchy: Hierarchy,
    options: WritingOptions,
    teacher: Callable[[], Generator],
    sampling: Sampling,
    *,
    held_out: bool,
    seed: int,
    name: str,
    fold: bool = False,
) -> Curated:
    """Rows with `system`, `prompt` (the turns), `completion` and `preference_set`; `folder` holds what every step did.

    Args:
        held_out: draw from the combinations that are kept unseen.
        name: of the teacher, for the manifest.
        fold: the teacher's template has no system role.
    """
    from coalign.loops.steps.models import Ask

    def combined(row: Row) -> list[Made]:
        drawn = hierarchy.draw(
            options.system_messages, str(row["id"]), unseen=held_out, share=options.unseen, seed=seed
        )
        return [
            Kept(
                {
                    "prompt_id": row["id"],
                    "prompt": row["prompt"],
                    "preference_set": [one.preference for one in each],
                }
            )
            for each in drawn
        ]

    def asked_for(place: int) -> Callable[[Row], Messages]:
        def prompt(row: Row) -> Messages:
            one = row["preference_set"][place]
            return user(
                PREFERENCE.format(
                    question=question_text(row["prompt"]), value=one["description"], **_names(one)
                )
            )

        return prompt

    def spelled(place: int) -> Callable[[Row, Sequence[Generation]], list[Made]]:
        def read(row: Row, said: Sequence[Generation]) -> list[Made]:
            text = first_paragraph(said[0].text, "Preference:")
            sets = [dict(one) for one in row["preference_set"]]
            sets[place]["preference"] = text or sets[place]["description"]
            return [Kept({**row, "preference_set": sets}, {} if text else {"empty": True})]

        return read

    def worded(row: Row) -> Messages:
        listed = "\n".join(f"- {one['preference']}" for one in row["preference_set"])
        return user(SYSTEM.format(question=question_text(row["prompt"]), preferences=listed))

    def told(row: Row, said: Sequence[Generation]) -> list[Made]:
        text = first_paragraph(said[0].text, "Instructions:")
        return [Kept({**row, "system": text}) if text else Rejected(row, "no system message")]

    def answered(row: Row, said: Sequence[Generation]) -> list[Made]:
        return [Kept({**row, "completion": said[0].text.strip(), "finish_reason": said[0].finish_reason})]

    def ask(step: str, prompt: Callable[[Row], Messages], read: Any) -> Ask:
        return Ask(step, teacher, prompt, read, sampling, batch=options.request_batch, model=name)

    dimensions = list(hierarchy.dimensions) if options.preferences == "teacher" else []
    steps: list[Any] = [
        Distinct("duplicates", lambda row: question_text(row["prompt"])),
        Rewrite("combinations", combined),
        *(
            ask(f"preference: {one}", asked_for(place), spelled(place))
            for place, one in enumerate(dimensions)
        ),
        ask("system messages", worded, told)
        if options.wording == "teacher"
        else Rewrite("system messages", lambda row: {**row, "system": framed(row, seed)}),
        ask("answers", lambda row: conversation(row["system"], row["prompt"], fold=fold), answered),
        Filter("usable answers", unusable),
    ]
    source: list[Row] = [{"id": one.id, "prompt": without_system(one.prompt)[1]} for one in records]
    return run_pipeline(folder, source, steps, total=len(source))


def unusable(row: Row) -> str | None:
    """Why an answer cannot be learnt from."""
    if not row["completion"]:
        return "empty"
    return "ran out of tokens" if row["finish_reason"] == "length" else None


def first_paragraph(text: str, lead: str) -> str:
    """What a teacher wrote, without the word that leads it, up to the first empty line, in one line."""
    text = text.strip().removeprefix(lead).strip()
    return " ".join(text.split("\n\n", 1)[0].split()).strip("\"'").strip()


def framed(row: Row, seed: int) -> str:
    """A system message in a fixed frame, drawn by the row."""
    draw = random.Random(f"{seed}/{row['id']}/frame")
    return draw.choice(FRAMES).format(wishes=" ".join(one["preference"] for one in row["preference_set"]))


def user(text: str) -> Messages:
    """A prompt of one message."""
    return [{"role": "user", "content": text}]


def _names(one: Row) -> Row:
    return {"dimension": one["dimension"], "subdimension": one["subdimension"]}
