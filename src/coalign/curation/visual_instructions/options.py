"""Options of the rewards, the cascade and the rewriting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, OptionGroup, Positive, option

LEARNT = "annotations"
CUT: dict[str, object] = {"unit": "conversation"}


@dataclass(kw_only=True)
class RewardLearning(OptionGroup):
    """How both rewards learn from what people say."""

    __group__ = "Rewards"

    annotations: list[str] = option(
        [],
        "questions and answers about pictures, ranked or scored by people: files, folders or globs",
        split=False,
    )
    rewards: str | None = option(
        None, "rewards that were learnt before: a run of this method or its folder `model`"
    )
    reward_model: str = option(
        "openai/clip-vit-large-patch14-336",
        "what the rewards stand on: an image-text encoder, whose features stay as they are, or an image-text-to-text model, "
        "which gets an adapter and a head",
        source="the encoder of LLaVA-1.5, whose 7B model is the authors' choice",
        only_with=LEARNT,
    )
    augment: Fraction = option(
        0.25,
        "chance that a candidate is also compared with a corrupted copy of itself",
        source="official code",
        only_with=LEARNT,
    )
    average: Literal["pairs", "groups"] = option(
        "pairs", "of the losses: pairs count alike, or pictures do", source="official code", only_with=LEARNT
    )
    dropout: Fraction = option(0.2, "in the head on features", only_with=LEARNT)
    learning_rate: Positive | None = option(
        None,
        "peak learning rate; by default 1e-3 for a head on features, 2e-5 for an adapter",
        source="official code: 2e-5",
        only_with=LEARNT,
    )
    epochs: Positive | None = option(
        None,
        "passes over the annotations; by default 10 for a head on features, 5 for an adapter",
        source="official code: 5",
        only_with=LEARNT,
    )
    max_steps: Count | None = option(
        None, "stop after this many optimizer steps, whatever `epochs` says", only_with=LEARNT
    )
    batch_size: Count = option(
        32, "annotated groups, each with all its texts, in one forward pass", only_with=LEARNT
    )
    gradient_accumulation: Count = option(1, "forward passes in one optimizer step", only_with=LEARNT)
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = option(
        "cosine", "learning-rate schedule", source="official code", only_with=LEARNT
    )
    warmup_ratio: Fraction = option(
        0.03, "share of the steps with rising learning rate", source="official code", only_with=LEARNT
    )
    weight_decay: NonNegative = option(0.0, "AdamW weight decay", source="official code", only_with=LEARNT)
    max_grad_norm: Positive = option(1.0, "gradient clipping", only_with=LEARNT)
    eval_fraction: Fraction = option(0.1, "share of the annotated pictures held out", only_with=LEARNT)
    save_steps: CountOrZero = option(
        500, "write a checkpoint every so many steps; 0 writes none", only_with=LEARNT
    )

    gradient_checkpointing: ClassVar = False
    eval_steps: ClassVar = None
    logging_steps: ClassVar = 10
    report_to: ClassVar = ()


@dataclass(kw_only=True)
class Cascade(OptionGroup):
    """What is kept of a corpus."""

    __group__ = "Selection"

    data: list[str] = option(
        [],
        "visual instructions: LLaVA's records (image, conversations), or image, question and answers",
        split=False,
    )
    image_folder: Path | None = option(
        None, "that relative pictures start from; by default the folder of their file"
    )
    alpha: Fraction = option(
        0.3, "share that is kept by its questions", source="official code", only_with="data"
    )
    beta: Fraction = option(
        0.3, "share of these that is kept by its answers", source="official code", only_with="data"
    )
    unit: Literal["conversation", "answer"] = option(
        "conversation",
        "what is kept: whole conversations, each turn with its best answer, the share taken within each type of instruction; or "
        "single answers of single turns, the share taken of all",
        source="official code; answer is the first reading of the figure",
        only_with="data",
    )
    per_type: bool = option(
        True,
        "take the shares within each type of instruction (column type)",
        source="official code",
        only_with={"unit": "conversation"},
    )
    most_of_picture: Count | None = option(
        None, "most records of one picture in the first stage; by default any number", only_with="data"
    )
    score_batch: Count = option(16, "records that are scored at a time", only_with="data")
    limit: Count | None = option(None, "read only so many records of each source", only_with="data")


@dataclass(kw_only=True)
class RewritingOptions(OptionGroup):
    """How the model that will be tuned says what is kept."""

    __group__ = "Rewriting"

    rewrite: Literal["both", "question", "answer", "none"] = option(
        "both", "what of a turn is said anew", only_with="data"
    )
    model: str = option(
        "default",
        "who rewrites, best the text model inside the one to be tuned: `default`, a hub id, a folder, or the address of an "
        "OpenAI-compatible server",
        source="paper: Vicuna for LLaVA-1.5",
    )
    served: str | None = option(
        None, "the model's name on that server; by default the only one that it lists"
    )
    temperature: NonNegative = option(0.7, "of the rewriting; the review is greedy", source="reconstruction")
    top_p: Positive = option(0.9, "nucleus of the rewriting", source="reconstruction")
    max_new_tokens: Count = option(256, "most tokens of a rewriting", source="reconstruction")
    request_template: Path | None = option(
        None, "your own request to rewrite, a text with {question} and {answer}"
    )
    facts: Path | None = option(
        None,
        "words of your own, one a line, that a rewriting must neither lose nor add, besides numbers, colours, places and names",
    )
    review: Literal["both", "given", "none"] = option(
        "both",
        "show original and rewriting in both orders, and take the rewriting where it wins both; in one order; or take all that "
        "pass the guard",
        source="reconstruction; the figure shows one order",
    )
    reviewer: str | None = option(
        None, "who reviews, as model; by default the same model", only_with={"review": ("both", "given")}
    )
    reviewer_served: str | None = option(None, "the reviewer's name on its server", only_with="reviewer")
    judge_readout: Literal["text", "logprobs"] = option(
        "text",
        "where the verdict is: in what the reviewer writes, or in the probabilities of its first token (for small models)",
        only_with={"review": ("both", "given")},
    )
    max_failures: Fraction = option(
        0.2,
        "share of reviews without a verdict before the run fails",
        only_with={"review": ("both", "given")},
    )
    likelihood: bool = option(
        True, "measure how likely the answers are to the rewriting model before and after (a local model)"
    )
    request_batch: Count = option(16, "records that are rewritten at a time")

    __may_change__ = ("max_failures",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p:g} is not usable, expected above 0 and at most 1")
