"""The analysis of token shift as a run: answers of the aligned model, the shift of every position, the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from coalign.core.errors import DataError
from coalign.core.files import write_json
from coalign.core.progress import progress
from coalign.core.runs import Run
from coalign.data.frame import Frame
from coalign.decoding.in_context import token_shift
from coalign.decoding.in_context.prefix import conversation_prompt, turns_of
from coalign.loops.rows import Keep, fill_rows
from coalign.models.backends.open import open_transformers
from coalign.models.files.places import short_name
from coalign.models.generation.endings import stop_token_ids
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.generation.growing_text import TokenTexts
from coalign.models.modules import unwrap
from coalign.models.options import ModelOptions
from coalign.models.types import Generation, Prompts, Sampling
from coalign.report import model as doc
from coalign.report.page import publish

TONES: dict[str, doc.Tone] = {"marginal": "s2", "shifted": "bad"}
TOP = 30
"""Rows of the table of shifted tokens."""
SHOWN_POSITIONS = 300


def run_token_shift(config: Any, run: Run, records: Sequence[Any]) -> None:
    """Answer with the aligned model, read every answer with both, and write rows, summary and report.

    `artefacts/shifts.jsonl` has a row a prompt with one entry a position; a killed run goes on at the first missing
    row.

    Raises:
        ModelError: the models have different tokenizers.
        DataError: a prompt that the aligned model's template refuses.
    """
    base = open_transformers(ModelOptions.of(config))
    aligned = open_transformers(ModelOptions.of(config).at(config.aligned_model))
    token_shift.assert_same_tokens(base.tokenizer, aligned.tokenizer)
    with progress(len(records), "Comparing", unit="answer") as bar:

        def work(done: list[int], keep: Keep) -> None:
            bar.advance(len(done))

            def on_answer(index: int, prompt: list[int], shifts: list[token_shift.Shift]) -> None:
                keep({index: _row(records[index], shifts, aligned.tokenizer, prompt)})
                bar.advance()

            prompts = [one.prompt for one in records]
            sampling = config.sampling(seed=config.seed)
            compare_answers(base, aligned, prompts, sampling, done=done, on_answer=on_answer)

        rows = fill_rows(run.artefacts / "shifts.jsonl", [one.id for one in records], work)
    write_shift_report(run, config, rows)


def compare_answers(
    base: TransformersGenerator,
    aligned: TransformersGenerator,
    prompts: Prompts,
    sampling: Sampling,
    *,
    on_answer: Callable[[int, list[int], list[token_shift.Shift]], None],
    done: Iterable[int] = (),
) -> None:
    """Answer with the aligned model behind its own template, and read every answer with both.

    The base model reads an answer behind `plain_prompt`, after BOS where its tokenizer puts one. The token that ends
    an answer is no position of it.

    Args:
        on_answer: called with the number of a prompt, the base model's prompt (token ids) and the shifts, as soon as
            they are there.
        done: prompts to leave out.
    """
    skipped = frozenset(done)
    stops = frozenset(stop_token_ids(unwrap(aligned.model), aligned.tokenizer))
    frame = Frame(base.tokenizer)
    behind = [frame.ids(frame.bos + plain_prompt(one)) for one in prompts]

    def keep(found: Mapping[int, Sequence[Generation]]) -> None:
        for index, samples in found.items():
            if index not in skipped:
                answer = [one for one in samples[0].token_ids if one not in stops]
                prompt = aligned.encode(prompts[index])
                shifts = token_shift.token_shifts(base.model, aligned.model, behind[index], prompt, answer)
                on_answer(index, behind[index], shifts)

    aligned.generate(prompts, replace(sampling, n=1), done=skipped, on_batch=keep, label="Answering")


def plain_prompt(messages: Any) -> str:
    """A query block and an open answer block; no instruction.

    Raises:
        DataError: messages that do not alternate.
    """
    try:
        system, turns = turns_of(messages)
    except DataError as error:
        raise DataError(f"prompt: {error.message}") from error
    first = f"{system}\n\n{turns[0]}" if system else turns[0]
    return conversation_prompt("", [first, *turns[1:]]).lstrip("\n")


def _row(
    record: Any, shifts: Sequence[token_shift.Shift], tokenizer: Any, prompt: Sequence[int]
) -> dict[str, Any]:
    special = frozenset(tokenizer.all_special_ids)
    texts = TokenTexts(tokenizer, prompt, special)
    positions = []
    for place, one in enumerate(shifts):
        text = texts.push(one.token)  # a part of a character is shown with the token that completes it
        entry = asdict(one)
        positions.append(
            {
                "position": place,
                "text": text or "",
                "class": one.position_class,
                "base_text": tokenizer.decode([one.base_token]),
                **{
                    key: round(value, 6) if isinstance(value, float) else value
                    for key, value in entry.items()
                },
            }
        )
    return {"prompt": record.prompt, "positions": positions}


def shifts_of(row: Mapping[str, Any]) -> list[token_shift.Shift]:
    """The positions of a row of `shifts.jsonl`."""
    names = [one.name for one in fields(token_shift.Shift)]
    return [token_shift.Shift(**{name: one[name] for name in names}) for one in row["positions"]]


def write_shift_report(run: Run, config: Any, rows: Sequence[Mapping[str, Any]]) -> doc.Report:
    """Write `summary.json`, `report.html` and the headline figures."""
    answers = [shifts_of(row) for row in rows]
    shares = token_shift.class_shares(one for answer in answers for one in answer)
    early, late = token_shift.shifted_share(answers, 0.0, 0.2), token_shift.shifted_share(answers, 0.5, 1.01)
    tokens = most_shifted(rows)
    positions = sum(map(len, answers))
    write_json(
        run.artefacts / "summary.json",
        {
            "answers": len(answers),
            "positions": positions,
            "shares": shares,
            "shifted, first fifth": early,
            "shifted, second half": late,
            "most shifted tokens": [{"token": token, "count": count} for token, count, _ in tokens],
        },
    )
    text = (
        f"{100 * shares['unshifted']:.1f} % of {positions} positions are the base model's first choice, "
        f"{100 * shares['marginal']:.1f} % its second or third, and {100 * shares['shifted']:.1f} % are shifted."
    )
    shown = {
        **{name.capitalize(): shares[name] for name in token_shift.CLASSES},
        "Shifted, first fifth of the answers": early,
        "Shifted, second half": late,
    }
    figures = [doc.Figure(name, value, unit="percent", better="neither") for name, value in shown.items()]
    return publish(
        run,
        config,
        title=f"Token shift from {short_name(config.model)} to {config.aligned_model}",
        verdict=doc.Headline("neutral", text, figures),
        facts={
            "Base model": config.model,
            "Aligned model": config.aligned_model,
            "Answers": str(len(answers)),
        },
        sections=[
            _curves(answers),
            doc.TableSection(
                "Most shifted tokens",
                note="Tokens of the aligned model at shifted positions, how often, and what the base model would have put there most often.",
                columns=["token", "shifted", "base model's choice"],
                rows=[[repr(token), count, repr(other)] for token, count, other in tokens],
                units={"shifted": "integer"},
            ),
            _texts(rows),
        ],
        limitations=[
            "A shifted token may be a matter of style or of substance: the classes look at ranks alone.",
            "The base model reads the aligned model's words before each position, so later positions are easier to agree on.",
        ],
        headline=f"{100 * shares['shifted']:.1f} % of positions shifted",
        figures={**shares, "positions": positions},
    )


def most_shifted(rows: Sequence[Mapping[str, Any]], top: int = TOP) -> list[tuple[str, int, str]]:
    """(token, how often it is shifted, the base model's most frequent choice there), most frequent first."""
    counts: Counter[str] = Counter()
    others: dict[str, Counter[str]] = {}
    for one in (one for row in rows for one in row["positions"] if one["class"] == "shifted"):
        counts[one["text"]] += 1
        others.setdefault(one["text"], Counter())[one["base_text"]] += 1
    return [(text, n, others[text].most_common(1)[0][0]) for text, n in counts.most_common(top)]


def _curves(answers: Sequence[Sequence[token_shift.Shift]]) -> doc.Curves:
    """Means by position, as far as a tenth of the answers reach."""
    enough = max(1, len(answers) // 10)
    measures = {
        "Share of shifted positions": lambda one: float(token_shift.position_class(one.rank) == "shifted"),
        "KL divergence (aligned from base), nats": lambda one: one.kl,
        "Base probability of the aligned token": lambda one: one.base_prob,
        "Base rank of the aligned token": lambda one: float(one.rank),
    }
    charts = []
    for title, measure in measures.items():
        means = token_shift.position_means(answers, measure, at_least=enough)[:SHOWN_POSITIONS]
        steps = [float(place) for place in range(len(means))]
        charts.append(doc.Chart(title, [doc.Series("mean", steps, means)], x_label="position"))
    return doc.Curves(
        "By position",
        note="Means over the answers at each token, as far as a tenth of the answers reach.",
        charts=charts,
    )


def _texts(rows: Sequence[Mapping[str, Any]]) -> doc.Samples:
    return doc.Samples(
        "Answers of the aligned model",
        note="Point at a mark to see the rank of its token under the base model, and what that would have written.",
        columns=["Answer"],
        rows=[
            doc.Sample("\n".join(one["content"] for one in row["prompt"]), [marked(row["positions"])])
            for row in rows
        ],
        score_name="shifted",
        better="neither",
        marks=TONES,
    )


def marked(positions: Sequence[Mapping[str, Any]]) -> doc.Output:
    """An answer with its marginal and shifted tokens marked."""
    text, marks = "", []
    for one in positions:
        start = len(text)
        text += one["text"]
        if one["class"] in TONES and one["text"]:
            note = f"rank {one['rank'] + 1}, probability {one['base_prob']:.3g}; base model: {one['base_text']!r}"
            marks.append(doc.Mark(start, len(text), one["class"], note))
    shifted = sum(one["class"] == "shifted" for one in positions) / max(len(positions), 1)
    return doc.Output(text, shifted, marks=marks)
