"""AlignScore: how well is a text supported by its source, one number in [0, 1] without a reference text.

AlignScore: Evaluating Factual Consistency with a Unified Alignment Function (arXiv 2305.16739).

    coalign score alignscore pairs.jsonl
    coalign run alignscore --data pairs.jsonl
    coalign run alignscore --train snli=stanfordnlp/snli --train qqp=qqp.jsonl --data pairs.jsonl

The source is cut into chunks of about 350 words, the claim into sentences. An alignment function scores every chunk
against every sentence; a sentence counts by its best chunk, the claim by the mean over its sentences. So verbose claims
are penalised for every sentence that the source does not hold ("Sure!"), and neutral text scores low by design. Scores
crowd near 0 and 1: choose a threshold on data of your own (the report proposes one where labels are given).

The function is a published checkpoint, one trained here on many tasks at once, or any classifier for natural language
inference. Where paper and official code differ the code is followed: chunks are counted in whitespace words and hold
whole sentences, questions and answers are joined instead of rewritten. A pair whose sentence alone exceeds the encoder is
cut at both texts by itself; the code cuts its whole batch so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from coalign.core.errors import ConfigError
from coalign.core.files import append_rows, read_rows, write_json, write_rows
from coalign.core.options import Count, Fraction, OptionGroup, option, options_of
from coalign.core.runs import Run, is_main_process
from coalign.evaluation.factuality.functions import FunctionOptions, load_function
from coalign.evaluation.factuality.options import EncoderTraining, Head
from coalign.evaluation.factuality.pair_scoring import PairScorer
from coalign.evaluation.factuality.report import (
    claim_report,
    summarise,
    training_sections,
    write_claim_report,
)
from coalign.evaluation.factuality.scorer import ClaimScorer, score_rows
from coalign.evaluation.factuality.sources import read_sources
from coalign.evaluation.factuality.text_pairs import PairSet, TextPair, read_pairs
from coalign.models.devices import pick_device
from coalign.models.files.loading import load_tokenizer
from coalign.report.model import Command, Report
from coalign.training.material import announce

if TYPE_CHECKING:
    from coalign.evaluation.factuality.training import Trained

FUNCTION_OPTIONS = ("model", "revision", "entailment", "tokenizer", "device", "batch_tokens")
Mode = Literal["nli_sp", "bin_sp", "reg_sp", "nli", "bin", "reg"]


@dataclass(kw_only=True)
class ScoringOptions(OptionGroup):
    """What is scored, and how."""

    __group__ = "Scoring"

    model: str = option(
        "alignscore-base",
        "alignscore-base or -large (published), default-factuality (small, comes with the package), a .ckpt file, a folder or run of ours, or an NLI classifier (folder or hub id)",
        source="the paper's are base and large; base for its size",
    )
    mode: Mode = option(
        "nli_sp", "head that scores; with _sp chunks against sentences, else whole texts", source="paper"
    )
    words_per_chunk: Count = option(350, "words of the source in one chunk, about", source="official code")
    language: str = option("english", "of the sentence splitter", source="official code")
    threshold: Fraction = option(0.5, "sentences below it are shown as not supported; scores do not change")
    entailment: str | None = option(
        None, "name or number of the classifier's label that means entailment, where its labels do not say"
    )
    tokenizer: str | None = option(None, "of a .ckpt file; by default the one of its width")
    revision: str | None = option(None, "of the model on the hub")
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")
    batch_tokens: Count | None = option(None, "rows times longest row of a batch; by default by device")
    context_column: str | None = option(None, "column of the source text; by default context, source, …")
    claim_column: str | None = option(None, "column of the text to score; by default claim, summary, …")
    label_column: str | None = option(
        None, "column of what a person said: a number or true/false; by default label, where there is one"
    )
    split: str = option("test", "split of a hub data set")
    limit: Count | None = option(None, "score only so many rows")
    on_bad_record: Literal["fail", "skip"] = option("fail", "stop at rows that cannot be used, or count them")

    def function_options(self) -> FunctionOptions:
        same = {name: getattr(self, name) for name in FUNCTION_OPTIONS}
        return FunctionOptions(head=cast(Head, self.mode.removesuffix("_sp")), **same)

    def metric(self, function: PairScorer) -> ClaimScorer:
        return ClaimScorer(function, self.mode.endswith("_sp"), self.words_per_chunk, self.language)


def read(source: str, options: ScoringOptions) -> PairSet:
    """The pairs of a file; errors are those of `read_pairs`."""
    return read_pairs(
        source,
        context=options.context_column,
        claim=options.claim_column,
        label=options.label_column,
        split=options.split,
        on_bad_record=options.on_bad_record,
        limit=options.limit,
    )


@dataclass(kw_only=True)
class Config(ScoringOptions, EncoderTraining):
    """Options of `coalign run alignscore`."""

    __group__ = "Method"

    data: str | None = option(None, "pairs to score: a file, a hub id, a saved data set folder or -")
    train: list[str] = option(
        [],
        "records to train on first: NAME=SOURCE for a public data set's columns, or a file with task, text_a, text_b, …",
    )
    encoder: str = option(
        "FacebookAI/roberta-base",
        "what to train: an encoder by folder or hub id",
        source="paper",
        only_with="train",
    )
    max_records: Count = option(
        500_000, "most records of one training source", source="official code", only_with="train"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train:
            self.refuse(EncoderTraining, "here")
            return
        self.refuse(("model", "entailment", "tokenizer", "revision"), "with train")
        if self.data is None:
            used = {"device", "on_bad_record"}
            self.refuse({one.name for one in options_of(ScoringOptions)} - used, "here")


def run(config: Config, run: Run) -> None:
    """Train on records, where some are given; score pairs, where some are given; write the report.

    Raises:
        DataError, ModelError, ConfigError: see `read_pairs`, `read_task_records`, `load_function`.
    """
    if config.data is None and not config.train:
        raise ConfigError(
            "There is nothing to do: neither --data (pairs to score) nor --train (records to learn from) is given."
        )
    pairs = read(config.data, config) if config.data is not None else None
    trained = train(config, run) if config.train else None
    if not is_main_process():
        return
    rows: list[dict[str, Any]] = []
    if pairs is not None:
        function = config.function_options()
        if config.train:
            function = replace(function, model=str(run.model))
        metric = config.metric(load_function(function))
        path = run.artefacts / "scores.jsonl"
        score_rows(
            pairs.pairs,
            metric,
            done=[row["id"] for row in read_rows(path, repair=True)],
            on_window=lambda new: append_rows(path, new),
        )
        by_id = {row["id"]: row for row in read_rows(path)}
        rows = [by_id[one.id] for one in pairs.pairs]
        write_rows(path, rows)
        write_json(run.artefacts / "results.json", summarise(rows, config.threshold))
    more = Command(command=f"coalign score alignscore FILE --model {run.path}", purpose="score more texts")
    write_claim_report(
        run,
        config,
        pairs,
        rows,
        sections=training_sections(trained) if trained else (),
        then=[more] if trained else (),
    )


def scorer(options: ScoringOptions) -> Callable[[Sequence[TextPair]], list[dict[str, Any]]]:
    """What makes rows of pairs; the function is loaded now.

    Raises:
        ModelError, ConfigError: see `load_function`.
    """
    return partial(score_rows, metric=options.metric(load_function(options.function_options())))


def page(pairs: PairSet, rows: Sequence[dict[str, Any]], options: ScoringOptions) -> Report:
    """The page of `coalign score alignscore --html`."""
    headline, sections = claim_report(rows, pairs.pairs, options.threshold)
    return Report(title="Factual consistency", method="alignscore", verdict=headline, sections=sections)


def train(config: Config, run: Run) -> Trained:
    """Train the encoder with three heads on the records of `config.train`, and save it in the run folder.

    What was finished before is read, not done again.
    """
    from transformers import set_seed

    from coalign.evaluation.factuality.model import PairClassifier, pretrained_encoder, save_pair_classifier
    from coalign.evaluation.factuality.training import Trained, fit_pair_classifier

    done = run.artefacts / "training.json"
    if done.exists() and run.model.exists():
        return Trained(**json.loads(done.read_text(encoding="utf-8")))
    records = read_sources(
        config.train,
        config.max_records,
        config.on_bad_record,
        config.seed,
        tell=lambda note: announce([note], run),
    )
    held_out = records[: round(config.held_out * len(records))]
    tokenizer = load_tokenizer(config.encoder)
    set_seed(config.seed)  # the heads' first weights
    model = PairClassifier(pretrained_encoder(config.encoder), masked=config.mlm)
    model.to(pick_device(config.device))
    result = fit_pair_classifier(model, tokenizer, records[len(held_out) :], held_out, config, run)
    if is_main_process():
        save_pair_classifier(model, tokenizer, run.model, max_length=config.max_length)
        write_json(done, asdict(result))
    return result
