"""What a model says of the answers of every strategy: likelihoods with and without its own examples, and hidden states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from coalign.core.errors import CoalignError, DataError
from coalign.core.files import read_rows, write_rows
from coalign.curation.answer_styles.questions import Own, Question, Shown, fitted, is_right
from coalign.curation.answer_styles.scores import ifd_ratio, layer_similarities
from coalign.data.readers import read_records
from coalign.judging.store import content_hash
from coalign.loops.prompts import open_values
from coalign.loops.rows import Row, answer_rows
from coalign.loops.scoring import chunked_rows, scored_logps

if TYPE_CHECKING:
    from coalign.core.runs import Run
    from coalign.data.records import Messages
    from coalign.models.options import ModelOptions
    from coalign.models.types import Generator

Value = float | tuple[float, float]
Values = dict[str, dict[str, list[Value]]]
"""Score to strategy to [questions] values; of CAR reward and negative log-likelihood a token."""


_NO_LIMITS = SimpleNamespace(max_length=None, max_prompt_length=None)
"""Prompts and answers were made to fit before."""


@dataclass(frozen=True)
class _Asked:
    id: str
    prompt: Messages


def own_answers(config: Any, run: Run, questions: Sequence[Question], notes: list[str]) -> list[Own]:
    """The model's answers to questions, greedily and without examples, or those of `own_answers`; where the right answers
    are known, only right ones.

    Raises:
        CoalignError: none is left.
    """
    if config.own_answers is not None:
        records: Any = read_records(config.own_answers, kind="demonstration").records
        golds = {one.id: one.gold for one in questions}
        found = [Own(content_hash(one.prompt), one.completion.strip()) for one in records]
        gold_of = [
            str(one.extra[config.gold])
            if config.gold and config.gold in one.extra
            else golds.get(own.question)
            for one, own in zip(records, found, strict=True)
        ]
    else:
        # Questions that are not scored come first: their answers are never left out as the question's own.
        asked = [*questions[config.samples :], *questions[: config.samples]][: config.pool]
        texts = _answered(config, run, "own", asked)
        found = [Own(one.id, text) for one, text in zip(asked, texts, strict=True)]
        gold_of = [one.gold for one in asked]
    kept = [
        own
        for own, gold in zip(found, gold_of, strict=True)
        if own.text and (config.gold is None or (gold is not None and is_right(own.text, gold)))
    ]
    told = f"{len(kept)} of {len(found)} own answers are shown as examples"
    notes.append(told if config.gold is None else f"{told}: those whose final answer is right")
    if len({one.question for one in kept}) < 2:
        raise CoalignError(
            f"{told}, expected at least 2, so that none stands before its own question.",
            hint="Give more questions (--pool), or --own-answers, or rank by perplexity with --examples 0.",
        )
    return kept


def fit_examples(
    config: Any, questions: Sequence[Question], pool: Sequence[Own], notes: list[str]
) -> list[Shown]:
    """The questions with their examples; those that are too long even without are left out.

    Raises:
        DataError: none is left.
    """
    from coalign.data.encoding import encode_records
    from coalign.data.records import Ranking
    from coalign.models.files.loading import load_tokenizer

    tokenizer = load_tokenizer(config)

    def tokens(prompt: Messages, answers: Sequence[str]) -> int:
        record = Ranking(prompt=prompt, responses=tuple(answers), scores=(0.0,) * len(answers))
        (one,) = encode_records([record], tokenizer).records
        return len(one.prompt_ids) + max(map(len, one.response_ids))

    shown = [fitted(one, pool, config.examples, tokens, config.max_length) for one in questions]
    kept = [one for one in shown if one is not None]
    if len(kept) < len(shown):
        notes.append(
            f"{len(shown) - len(kept)} questions were left out: longer than max_length {config.max_length}"
        )
    fewer = sum(one.examples < config.examples for one in kept)
    if fewer:
        notes.append(f"{fewer} questions have fewer than {config.examples} examples before them")
    if not kept:
        raise DataError(f"All {len(shown)} questions are longer than max_length {config.max_length} tokens.")
    return kept


def answer_scores(config: Any, run: Run, shown: Sequence[Shown]) -> Values:
    """Every score of every strategy's answers; a score that some answer cannot have leaves that question out. Kept row by
    row in the run folder, with `scores.jsonl` for people.
    """
    names = list(shown[0].question.answers)
    kinds = {"plain": [one.question.prompt for one in shown], "alone": [[] for _ in shown]}
    if config.examples:
        kinds["self-aligned"] = [one.prompt for one in shown]
    logps = {
        kind: scored_logps(
            run.artefacts / f"logps-{kind}.jsonl",
            _rows(shown, prompts),
            config,
            _NO_LIMITS,
            label=f"Scoring, {kind}",
        )
        for kind, prompts in kinds.items()
    }
    losses = {kind: [[-one for one in each] for each in found.means()] for kind, found in logps.items()}
    table: dict[str, Sequence[Sequence[Value | None]]] = {
        "perplexity": [[_exp(one) for one in each] for each in losses["plain"]],
        "log_probability": [list(each) for each in logps["plain"].sums],
        "ifd": [
            [ifd_ratio(one, other) for one, other in zip(*both, strict=True)]
            for both in zip(losses["plain"], losses["alone"], strict=True)
        ],
    }
    if config.examples:
        table["self_aligned"] = [[_exp(one) for one in each] for each in losses["self-aligned"]]
    if config.reward is not None:
        rewards = _rewards(config, run, shown)
        table["car"] = [
            [(reward, loss) for reward, loss in zip(*both, strict=True)]
            for both in zip(rewards, losses["plain"], strict=True)
        ]
    if config.hidden_states:
        table["hidden_state"] = _dissimilarities(config, run, shown)
    write_rows(
        run.artefacts / "scores.jsonl",
        (
            {"question": one.question.id, "strategy": name, "tokens": logps["plain"].tokens[row][place],
             "examples": one.examples, **{score: found[row][place] for score, found in table.items()}}
            for row, one in enumerate(shown)
            for place, name in enumerate(names)
        ),
    )  # fmt: skip
    values: Values = {}
    for score, found in table.items():
        whole = [each for each in found if None not in each]
        if whole:
            values[score] = {
                name: [one for each in whole if (one := each[place]) is not None]
                for place, name in enumerate(names)
            }
    return values


def _rows(shown: Sequence[Shown], prompts: Sequence[Messages]) -> list[Row]:
    return [
        {"id": one.question.id, "prompt": prompt, "responses": one.texts}
        for one, prompt in zip(shown, prompts, strict=True)
    ]


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # the largest that a float holds


def _answered(config: Any, run: Run, name: str, questions: Sequence[Question]) -> list[str]:
    """The model's own answers, kept in `<name>.jsonl`."""
    from coalign.models.backends.open import open_generator
    from coalign.models.types import Sampling

    def opened() -> Generator:
        return open_generator(config)

    rows = answer_rows(
        run.artefacts / f"{name}.jsonl",
        [_Asked(one.id, one.prompt) for one in questions],
        opened,
        Sampling(max_new_tokens=config.max_new_tokens, temperature=0.0),
        label="Answering questions",
    )
    return [row["responses"][0].strip() for row in rows]


def _rewards(config: Any, run: Run, shown: Sequence[Shown]) -> list[list[float]]:
    """`[questions][strategies]` rewards, kept in `rewards.jsonl`."""
    path = run.artefacts / "rewards.jsonl"
    if not path.exists():
        tasks = [_Asked(one.question.id, one.question.prompt) for one in shown]
        rows = [
            {**row, "finish_reasons": ["stop"] * len(row["responses"])}
            for row in _rows(shown, [one.prompt for one in tasks])
        ]
        values: Any = open_values([config.reward], tasks)  # type: ignore[arg-type]
        found = values(tasks, rows)
        write_rows(path, ({"id": row["id"], "rewards": each} for row, each in zip(rows, found, strict=True)))
    return [row["rewards"] for row in read_rows(path)]


def _dissimilarities(config: Any, run: Run, shown: Sequence[Shown]) -> list[list[float | None]]:
    """`[questions][strategies]` `1 -` the mean over layers of the cosine with the model's own answer, kept row by row."""
    own = _answered(config, run, "own-scored", [one.question for one in shown])
    rows = [{**row, "own": text} for row, text in zip(_rows(shown, [[] for _ in shown]), own, strict=True)]

    def opened() -> Any:
        states = mean_states(config)

        def work(part: Sequence[Row]) -> list[Row]:
            made = []
            for row in part:
                mine = states(row["own"]) if row["own"] else None
                found = [
                    None if mine is None else 1 - float(layer_similarities(states(one), mine).mean())
                    for one in row["responses"]
                ]
                made.append({"values": found})
            return made

        return work

    kept = chunked_rows(run.artefacts / "states.jsonl", rows, opened, label="Comparing hidden states")
    return [row["values"] for row in kept]


def mean_states(options: ModelOptions) -> Any:
    """A function of a text to [L, 1, D] hidden states of a model, averaged over the text's tokens; the embedding layer is
    the first.
    """
    import torch

    from coalign.models.files.loading import load_model, load_tokenizer

    model: Any = load_model(options, training=False)
    tokenizer: Any = load_tokenizer(options)

    def states(text: str) -> Any:
        ids = torch.tensor(
            [tokenizer(text, add_special_tokens=False)["input_ids"]], device=next(model.parameters()).device
        )
        with torch.inference_mode():
            layers = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        return torch.stack([one[0].float().mean(0, keepdim=True) for one in layers]).cpu().numpy()

    return states
