"""Chat logs without thumbs become preference pairs: what users say in their next turn judges the reply before it.

WildFeedback: Aligning LLMs With In-situ User Interactions And Feedback (arXiv 2408.15549).

    coalign run wildfeedback --data logs.jsonl --model MODEL --expert EXPERT --judge-model JUDGE
    coalign run wildfeedback --data logs.jsonl --model MODEL --version on-policy --detector trained --detector-data turns.jsonl

Personal data is masked before anything is stored. A judge, or a small classifier, finds turns in which a user is satisfied
or not; a turn judges the reply before it. For each reply that drew dissatisfaction the judge lists what this user wants; an
expert writes a better reply with the list in its system turn (the logged reply is the rejected one), or the model itself
writes one with and one without the list. On-policy pairs stay where the judge, shown the list, prefers the first in both
orders together; unsafe requests and replies are dropped. The model is trained on the better replies (SFT), then on the pairs
(DPO, against the SFT model), and compared with the start model on held-out conversations, with the lists and without.

No code of the paper is public. Reconstructed: training constants, the wording of every request, the tie rule of the
comparison in two orders. Ours: a signal is asked for in windows of turns, so that dialogues of any length fit; requests
are moderated before replies are written; held-out requests are a share of the conversations, where the paper picks 540 by
clusters of embeddings. Requests to the judge are in English; the logs may be in any language, a trained detector knows those
of its turns.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.files import stream_rows, write_json
from coalign.core.options import Positive, option
from coalign.core.runs import Run
from coalign.curation.feedback import steps as feedback
from coalign.curation.feedback.evaluation import compare_replies, held_out_replies
from coalign.curation.feedback.options import LogOptions, PairOptions, SignalOptions
from coalign.curation.feedback.report import write_feedback_report
from coalign.data.convert import convert
from coalign.data.personal import NOT_LOOKED_FOR, Masker, pattern_finder
from coalign.data.readers import read_records
from coalign.data.records import Record
from coalign.judging.language_judge import LanguageModelJudge
from coalign.judging.store import Deferred, ReplyStore
from coalign.loops.pipeline import Curated, read_source, run_pipeline
from coalign.loops.rounds import Round, run_rounds
from coalign.loops.rows import Row
from coalign.loops.steps.usual import Filter, Rewrite
from coalign.models.backends.open import open_generator, open_named
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.training.distributed.leading import led
from coalign.training.job import Job
from coalign.training.learning import train
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.material import announce
from coalign.training.objective import get_objective
from coalign.training.options import TrainingOptions


@dataclass(kw_only=True)
class Config(LogOptions, SignalOptions, PairOptions, DPOConstants, ModelOptions, TrainingOptions):
    """Options of `coalign run wildfeedback`."""

    __group__ = "Method"

    sft_epochs: Positive = option(1.0, "passes of the fine-tuning before", source="paper", group="Training")
    sft_learning_rate: Positive | None = option(
        None, "its peak learning rate; by default as of the pairs", source="reconstruction", group="Training"
    )
    max_prompt_length: int | None = option(
        2048,
        "most tokens of a prompt; longer ones lose their beginning",
        source="reconstruction",
        group="Training",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse(["eval_fraction", "eval_steps"], "here: held_out says what is tested on")


@led
def run(config: Config, run: Run) -> None:
    """Mask, find signals, build pairs, train, compare, report.

    Raises:
        ConfigError: no expert for expert pairs, no labelled turns for a trained detector.
        DataError: logs or labelled turns that cannot be used.
        MissingExtraError: personal data is to be masked and the extra is not there.
        CoalignError: no pair is left.
    """
    if config.version == "expert" and config.expert is None:
        raise ConfigError(
            "Expert pairs need somebody who writes them.", hint="Give --expert, or --version on-policy."
        )
    if config.detector == "trained" and config.detector_data is None:
        raise ConfigError(
            "A trained detector needs labelled turns.", hint="Give --detector-data, or --detector judge."
        )
    masker = Masker(pattern_finder(config.personal_kinds)) if config.personal_data == "mask" else None

    judge = open_judge(config, run)

    def build(round: Round) -> None:
        pairs = build_pairs(config, run, round, read_logs(config, masker, round), judge)
        training, test = held_out_rows(list(pairs.rows()), config.held_out, config.seed)
        if not training:
            worst = sorted(pairs.reasons().items(), key=lambda one: -one[1])[:3]
            told = "; ".join(f"{why} ({count})" for why, count in worst) or "no conversation was left"
            raise CoalignError(
                f"No pair is left to learn from. Most records fell for: {told}.",
                hint=f"All are in {pairs.rejects}; manifest.json beside it counts every step.",
            )
        round.write("training", training)
        round.write("held-out", test)

    def fit(round: Round) -> None:
        fit_both(config, round, read_records(round.path("training"), kind="preference").records)

    def evaluate(round: Round) -> None:
        rows = [{**row, **row["made_of"]} for row in round.read("held-out")]
        if rows:
            tuned = config.at(run.model)
            models = {"start": lambda: open_generator(config), "trained": lambda: open_generator(tuned)}
            greedy = Sampling(max_new_tokens=config.max_new_tokens, temperature=0.0)
            said = held_out_replies(round.folder, rows, models, greedy)
            limit = config.max_failures
            found = compare_replies(judge, rows, said["trained"], said["start"], max_failures=limit)
            write_json(run.artefacts / "results.json", found)

    (last,) = run_rounds(run, {"build": build, "fit": fit, "evaluate": evaluate})
    run.publish_records(last.path("training"))
    write_feedback_report(
        run, config, last, Curated(last.folder / "pairs"), Curated(last.folder / "conversations")
    )


def fit_both(config: Config, round: Round, pairs: Sequence[Record]) -> None:
    """Fine-tuning on the better replies, then DPO from there: the fine-tuned model is what it compares with."""
    rate = config.sft_learning_rate or config.learning_rate
    fine = replace(config, epochs=config.sft_epochs, learning_rate=rate)
    replies, folder = convert(pairs, "preference", "demonstration"), round.folder / "sft"
    train(
        Job(objective=get_objective("sft"), options=fine, run=round.run, records=replies, name="sft"), folder
    )
    tuned = config.at(folder)
    job = Job(objective=get_objective("dpo"), options=tuned, run=round.run, records=pairs, name="dpo")
    round.write("history", train(job, round.run.model).history)


def read_logs(config: Config, masker: Masker | None, round: Round) -> Curated:
    """The conversations that something can be learned from, masked; how often what was masked is told and kept."""
    source = feedback.Logs(
        config.data, split=config.split, limit=config.limit, merge=config.merge_turns, masker=masker
    )
    done = run_pipeline(round.folder / "conversations", source, feedback.conversation_steps(config.languages))
    hits: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for row in (*done.rows(), *(one["row"] for _, one in stream_rows(done.rejects))):
        hits.update(row["masked"])
        languages[row["language"] or "not said"] += 1
    masked = ", ".join(f"{count} {kind}" for kind, count in sorted(hits.items())) or "nothing"
    notes = [f"{sum(languages.values())} conversations, {done.manifest['kept']} of them usable."]
    notes += (
        [f"Masked in place before anything was stored: {masked}. Not looked for: {NOT_LOOKED_FOR}."]
        if masker is not None
        else ["Personal data was not masked."]
    )
    announce(notes, round.run)
    write_json(
        round.path("logs", ".json"), {"masked": dict(hits), "languages": dict(languages.most_common())}
    )
    return done


def build_pairs(config: Config, run: Run, round: Round, logs: Curated, judge: LanguageModelJudge) -> Curated:
    """The preference pairs: windows, signals, feedback, lists, replies, what is kept of them."""
    policy = lambda: open_generator(config)  # noqa: E731
    expert = lambda: open_named(config.expert, endpoint=config.expert_endpoint, device=config.device)  # noqa: E731
    ours = config.version == "on-policy"
    asked = Sampling(max_new_tokens=config.judge_tokens, temperature=0.0, seed=config.seed)
    written = Sampling(max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=config.seed)
    ask_judge = lambda: _open_judge_model(config)  # noqa: E731
    common: dict[str, Any] = {"clip": config.clip, "batch": config.request_batch}
    steps: list[Any] = [
        Rewrite("windows", lambda row: feedback.window_rows(row, config.window, config.history)),
        feedback.judged_signals(ask_judge, asked, name=config.judge_model, **common)
        if config.detector == "judge"
        else feedback.TrainedSignals(lambda: open_trained(config, run), config.threshold),
        Rewrite("feedback", feedback.feedback_rows),
        Filter("use", lambda row: feedback.unused(row, config.leave_out)),
    ]
    if config.most_per_category is not None:
        steps.append(feedback.MostOfEach(config.most_per_category))
    moderate = {"judge": config.judge_model, **common}
    if config.moderate:
        steps.append(feedback.moderated("safe requests", ask_judge, asked, column=None, **moderate))
    steps.append(feedback.checklist_step(ask_judge, asked, judge=config.judge_model, **common))
    by: dict[str, Any] = {"sampling": written, "batch": config.request_batch, "place": config.list_place}
    writer, name = (policy, config.model) if ours else (expert, str(config.expert))
    steps.append(feedback.reply_step("chosen", writer, guided=True, safe=not ours, model=name, **by))
    steps.append(
        feedback.reply_step("rejected", policy, guided=False, safe=False, model=config.model, **by)
        if ours
        else Rewrite("rejected", lambda row: {**row, "rejected": row["judged"]})
    )
    steps.append(Filter("pairs of two", feedback.bad_pair))
    if config.check_pairs == "always" or (config.check_pairs == "auto" and ours):
        steps.append(feedback.Preferred(judge, batch=config.request_batch))
    if config.moderate:
        steps.append(feedback.moderated("safe replies", ask_judge, asked, column="chosen", **moderate))
    steps.append(feedback.as_pairs())
    return run_pipeline(round.folder / "pairs", read_source(logs.kept), steps, total=logs.manifest["kept"])


def open_trained(config: Config, run: Run) -> tuple[Any, Any]:
    """The trained detector, saved into the run, and its encoder."""
    from coalign.curation.feedback.detector import open_detector
    from coalign.models.embedding import load_encoder

    encoder = load_encoder(config.encoder, device=config.device)
    detector = open_detector(str(config.detector_data), encoder.encode, seed=config.seed)
    detector.save(run.artefacts / "detector.json")
    return detector, encoder


def open_judge(config: Config, run: Run) -> LanguageModelJudge:
    """The judge that compares, by a letter; its replies are kept."""
    return LanguageModelJudge(
        Deferred(lambda: _open_judge_model(config)),
        name=config.judge_model,
        identity={"endpoint": config.judge_endpoint},
        store=ReplyStore(run.artefacts / "replies.jsonl"),
        sampling=Sampling(max_new_tokens=config.judge_tokens, temperature=0.0),
    )


def _open_judge_model(config: Config) -> Any:
    return open_named(config.judge_model, endpoint=config.judge_endpoint, device=config.device)


def held_out_rows(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training, held-out) pairs: a share of the conversations, by a seeded hash, so that none is on both sides."""
    names = {row["made_of"]["conversation"] for row in rows}
    order = sorted(names, key=lambda one: hashlib.blake2b(f"{seed}\0{one}".encode()).digest())
    count = min(round(share * len(order)) or (share > 0), len(order) - 1)
    held = {*order[: max(count, 0)]}
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        sides[row["made_of"]["conversation"] in held].append(row)
    return sides
