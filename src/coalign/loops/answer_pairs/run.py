"""Preferences and demonstrations out of a model's own answers, without a person who compares.

    coalign run answer-pairs --data demonstrations.jsonl --model runs/sft --rejected 4
    coalign run answer-pairs --data questions.jsonl --model runs/sft --reward 'final_answer:{answer}'

Without `--reward` (Self-Contrast, arXiv 2404.00604) the given answer of a demonstration is chosen, and of the model's answers some
that an encoder finds unlike it are rejected. With `--reward` answers are right or wrong by it: right ones are demonstrations
(rejective fine-tuning), right against wrong ones are pairs. In the run folder are then `pairs.jsonl` and, with a reward,
`demonstrations.jsonl`; the run stands for the pairs, and with `--give demonstrations` for these (`--data RUN`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from coalign.core.errors import CoalignError, DataError
from coalign.core.files import write_json
from coalign.core.options import Count, Fraction, Positive, Seed, option, required
from coalign.core.runs import Run
from coalign.data.checking.usable import repeated_ids
from coalign.data.records import Demonstration, Preference, Record
from coalign.data.sources import DataSources, canonical_sources, named
from coalign.data.writers import write_records
from coalign.judging.rewards.specs import RewardOptions
from coalign.loops.answer_pairs.choosing import dissimilar, drawn_pairs, right_and_wrong
from coalign.loops.rows import Keep, Row, answer_rows, fill_rows
from coalign.models.backends.options import BackendOptions
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.report import model as doc
from coalign.training.distributed.leading import led
from coalign.training.material import ReadingOptions, announce, read_sources

PAIRS, DEMONSTRATIONS = "pairs.jsonl", "demonstrations.jsonl"
AT_ONCE = 8
"""Prompts whose answers are embedded and kept together."""


@dataclass(kw_only=True)
class Config(RewardOptions, SamplingOptions, ReadingOptions, BackendOptions, ModelOptions):
    """Options of `coalign run answer-pairs`; --model is the model that answers."""

    __group__ = "Method"

    data: DataSources = required(
        "demonstrations, or with --reward prompts: a file, a folder or a glob of files, a hub id or a run folder; given several "
        "times they are mixed, as --data of `coalign run dpo`",
        group="Data",
    )
    samples: Count = option(32, "answers to each prompt", source="Self-Contrast's code")
    rejected: Count = option(
        1,
        "most pairs of a prompt; without a reward prompts with fewer unlike answers are left out",
        source="Self-Contrast: 1 to 16",
    )
    encoder: str = option(
        "default-encoder", "sentence encoder that compares answers: a folder or a hub id", source="our choice"
    )
    unlike: Fraction = option(
        0.75,
        "share of the answers, from the least similar on, that may be rejected",
        source="Self-Contrast's code",
    )
    right_from: float = option(1.0, "an answer is right from this reward on", only_with="reward")
    wrong_to: float = option(0.0, "and wrong up to this one", only_with="reward")
    give: Literal["pairs", "demonstrations"] = option(
        "pairs", "what the run stands for where records are read", only_with="reward"
    )
    max_unscorable: Fraction = option(
        0.5, "largest share of answers without a reward", only_with="reward", group="Rewards"
    )
    verifier_seconds: Positive = option(
        10.0,
        "a verifier that takes longer is ended, and its answer has no reward",
        only_with="reward",
        group="Rewards",
    )
    max_new_tokens: Count = option(512, "most tokens of one answer", group="Sampling")
    seed: Seed = option(0, "seed of sampling and drawing")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_training()
        if self.data is not None:
            self.data = canonical_sources(self.data, "data", weights=False)
        if self.reward:
            self.refuse(["encoder", "unlike"], "with a reward")
            if self.wrong_to >= self.right_from:
                raise ValueError(
                    f"wrong_to: {self.wrong_to:g} is right as well, expected less than right_from"
                )
        else:
            self.refuse(["combine", "normalise", "judge_model"], "without a reward")
        if self.samples == 1 and self.temperature == 0 and self.reward and self.give == "pairs":
            raise ValueError("samples: one answer is not right and wrong, expected at least 2")


@dataclass(frozen=True)
class Chosen:
    """What became of a prompt: the pairs, and the answers that are right."""

    pairs: list[tuple[str, str]]
    right: list[str]


@led
def run(config: Config, run: Run) -> None:
    """Answer, compare, write the pairs, report. What is there is not made again.

    Raises:
        DataError: records that cannot be used.
        ConfigError: a reward that cannot be used.
        CoalignError: too many answers without a reward, or nothing that the run could stand for.
    """
    from coalign.models.backends.open import open_generator

    notes: list[str] = []
    kind = "prompt" if config.reward else "demonstration"
    parts = read_sources(config, config.data, kind, notes, seed=config.seed, run=run, text_alone=True)
    records: list[Any] = [record for one in parts for record in one.records]
    if problems := repeated_ids(records):
        raise DataError(f"{len(problems)} of {len(records)} records cannot be used.", problems)
    announce(notes, run)
    score = _rewards(config, records, run) if config.reward else _similarities(config, records)
    rows = answer_rows(
        run.artefacts / "answers.jsonl",
        records,
        lambda: open_generator(config),
        config.sampling(n=config.samples, seed=config.seed),
        label="Answering",
    )
    scored = score(run, rows)
    choose = _by_reward if config.reward else _by_similarity
    chosen = [
        choose(config, place, record, row["responses"], one)
        for place, (record, row, one) in enumerate(zip(records, rows, scored, strict=True))
    ]
    _write(config, run, records, chosen)
    _report(config, run, records, rows, chosen, notes)


Score = Callable[[Run, Sequence[Row]], list[list[float]]]
"""`[prompts][answers]` similarities to the given answer, or rewards (NaN: none); kept in the run folder."""


def _similarities(config: Config, records: Sequence[Any]) -> Score:
    def score(run: Run, rows: Sequence[Row]) -> list[list[float]]:
        def work(done: list[int], keep: Keep) -> None:
            from coalign.models.embedding import load_encoder

            encoder = load_encoder(config.encoder, device=config.device)
            left = sorted({*range(len(rows))} - {*done})
            for start in range(0, len(left), AT_ONCE):
                found = {}
                for place in left[start : start + AT_ONCE]:
                    vectors = encoder.encode([records[place].completion, *rows[place]["responses"]])
                    found[place] = {"similarities": (vectors[1:] @ vectors[0]).tolist()}
                keep(found)

        path = run.artefacts / "similarities.jsonl"
        return [row["similarities"] for row in fill_rows(path, [one.id for one in records], work)]

    return score


def _rewards(config: Config, records: Sequence[Record], run: Run) -> Score:
    """The rewards of the options; what they need of the prompts is checked now."""
    from coalign.loops.online_run import Task, open_rewards, scorer
    from coalign.loops.rollouts import scored_rows

    tasks = [Task(place, one.id, one.prompt, one) for place, one in enumerate(records)]
    score_rows = scorer(open_rewards(config, tasks, run), {one.id: one.number for one in tasks})

    def score(run: Run, rows: Sequence[Row]) -> list[list[float]]:
        found = scored_rows(run.artefacts / "rewards.jsonl", tasks, rows, score_rows)
        values = [[math.nan if one is None else one for one in row["rewards"]] for row in found]
        missing, whole = sum(math.isnan(one) for row in values for one in row), sum(map(len, values))
        if missing > config.max_unscorable * whole:
            why = next((row["failure"] for row in found if row.get("failure")), "")
            raise CoalignError(
                f"{missing} of {whole} answers have no reward, more than the accepted share of {config.max_unscorable:g}."
                + (f" The first failure: {why}" if why else ""),
                hint="Every answer is kept. Mend the reward or the judge, or raise --max-unscorable.",
            )
        return values

    return score


def _by_similarity(
    config: Config, place: int, record: Any, answers: list[str], values: list[float]
) -> Chosen:
    kept = dissimilar(answers, values, config.unlike)[1]
    kept = [one for one in kept if answers[one].strip() != record.completion.strip()]
    if len(kept) < config.rejected:
        return Chosen([], [])
    pairs = drawn_pairs([-1], kept, config.rejected, config.seed + 7919 * place)
    return Chosen([(record.completion, answers[worse]) for _, worse in pairs], [])


def _by_reward(config: Config, place: int, record: Any, answers: list[str], values: list[float]) -> Chosen:
    right, wrong = right_and_wrong(answers, values, right_from=config.right_from, wrong_to=config.wrong_to)
    pairs = drawn_pairs(right, wrong, config.rejected, config.seed + 7919 * place)
    return Chosen([(answers[one], answers[other]) for one, other in pairs], [answers[one] for one in right])


def _write(config: Config, run: Run, records: Sequence[Record], chosen: Sequence[Chosen]) -> None:
    pairs, shown = [], []
    for record, one in zip(records, chosen, strict=True):
        pairs += [Preference.of(record, chosen=better, rejected=worse) for better, worse in one.pairs]
        shown += [Demonstration.of(record, completion=text) for text in one.right]
    wanted = shown if config.give == "demonstrations" else pairs
    if not wanted:
        raise CoalignError(
            f"{named(config.data)}: no {config.give} came of the answers to {len(records)} prompts.",
            hint="Every answer is kept in artefacts/answers.jsonl. Use more --samples or a higher --temperature, or other limits of "
            "what is right" + ("." if config.reward else ", or fewer --rejected."),
        )
    for name, made in ((PAIRS, pairs), (DEMONSTRATIONS, shown)):
        if made or (name == PAIRS and config.give == "pairs"):
            write_records(run.artefacts / name, made, form="conversational")
    run.publish_records(run.artefacts / (DEMONSTRATIONS if config.give == "demonstrations" else PAIRS))


def _report(
    config: Config,
    run: Run,
    records: Sequence[Record],
    rows: Sequence[Row],
    chosen: Sequence[Chosen],
    notes: list[str],
) -> None:
    from coalign.report.page import publish

    pairs, right = sum(len(one.pairs) for one in chosen), sum(len(one.right) for one in chosen)
    paired = sum(bool(one.pairs) for one in chosen)
    text = f"{pairs} pairs out of {config.samples} answers to each of {len(records)} prompts; {paired} prompts gave some."
    figures = [
        doc.Figure("Pairs", pairs, unit="integer"),
        doc.Figure("Prompts with pairs", paired / len(records), unit="percent"),
    ]
    if config.reward:
        text += f" {right} different answers are right."
        figures.append(doc.Figure("Right answers", right, unit="integer"))
    write_json(
        run.artefacts / "results.json",
        {"prompts": len(records), "pairs": pairs, "prompts_with_pairs": paired, "right": right},
    )
    table = [
        [row["id"], better, worse]
        for row, one in zip(rows, chosen, strict=True)
        for better, worse in one.pairs[:1]
    ]
    learn = "sft" if config.give == "demonstrations" else "dpo"
    publish(
        run,
        config,
        title="Pairs of a model's own answers",
        verdict=doc.Headline("neutral", text, figures),
        sections=[
            doc.TableSection(
                "Pairs",
                columns=("prompt", "chosen", "rejected"),
                rows=table[:12],
                note="The first one of twelve prompts.",
            )
        ],
        notes=notes,
        limitations=[
            "What is rejected is unlike the given answer, not worse by anybody's word."
            if not config.reward
            else "Right and wrong are what the reward says."
        ],
        then=[doc.Command(f"coalign run {learn} --data {run.path}", "learn from them")],
    )
