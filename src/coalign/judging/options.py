"""Options of everything that judges, and the judge made from them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.engines.options import EngineOptions
from coalign.core.errors import ConfigError
from coalign.core.options import Count, Fraction, NonNegative, OptionGroup, option
from coalign.models.backends.options import BackendOptions, assert_spreadable

if TYPE_CHECKING:
    from coalign.core.runs import Run
    from coalign.judging.language_judge import LanguageModelJudge
    from coalign.judging.parsing import Form
    from coalign.judging.protocol import Choice, Cost, Judge, JudgeItem, Rubric, Scale
    from coalign.judging.spread_judge import SpreadJudge
    from coalign.judging.store import ReplyStore
    from coalign.models.types import Generator

_OF_MODELS: Any = {"judge": "model"}
_OF_WRITTEN: Any = {"judge_readout": "text", **_OF_MODELS}
_WITH_WEIGHTS: Any = {"judge": ("model", "reward")}


@dataclass(kw_only=True)
class RatingJudgeOptions(OptionGroup):
    """A model that rates on the side of what a run is for; a run without one rates nothing, or by programs."""

    __group__ = "Judge"
    __may_change__ = ("max_failures",)

    judge_model: str | None = option(None, "a model that rates from 1 to 5")
    judge_endpoint: str | None = option(None, "server of the judge; --judge-model is its name there")
    judge_readout: Literal["text", "logprobs"] = option(
        "text",
        "where the score is: in what the judge writes, or in the probabilities of its first token (for small models)",
        only_with="judge_model",
    )
    max_failures: Fraction = option(
        0.05, "share of ratings that may be missing before the run fails", only_with="judge_model"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judge_endpoint is not None and self.judge_model is None:
            raise ValueError("judge_endpoint: give the judge's name on that server as judge_model")


@dataclass(kw_only=True)
class JudgeOptions(BackendOptions):
    """Who judges, how it is asked, and what its failures may amount to."""

    __group__ = "Judge"
    __may_change__ = ("max_failures", "price_prompt", "price_reply")

    judge: Literal["model", "reward", "verifiers", "stored", "function"] = option(
        "model",
        "a language model; a reward model (sequence classification); the `constraints` column; verdicts in a file; a "
        "function of yours",
    )
    judge_function: str | None = option(
        None,
        "for --judge function: file.py:name, called with `prompts`, `completions` and further columns as a reward of TRL, "
        "which returns a number for each",
    )
    model: str = option(
        "default", "the language or reward model: `default`, a hub id or a folder", only_with=_WITH_WEIGHTS
    )
    revision: str | None = option(None, "branch, tag or commit on the hub", only_with=_WITH_WEIGHTS)
    device: str = option(
        "auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu", only_with=_WITH_WEIGHTS
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "number format of the weights", only_with=_WITH_WEIGHTS
    )
    trust_remote_code: bool = option(False, "run Python code that the model's repository brings")
    judge_template: Path | None = option(
        None,
        "your own request to the judge, a Jinja file; `coalign judge --print-template pair` shows ours",
        only_with=_OF_MODELS,
    )
    judge_form: Literal["relation", "choice", "score", "likert"] = option(
        "relation",
        "how it compares: one letter; choice: one letter, and no tie; a score for each; or one number from 1 to 5",
        only_with=_OF_MODELS,
    )
    judge_readout: Literal["text", "logprobs"] = option(
        "text",
        "where the verdict is: in what the model writes, or in the probabilities of its first token (for small models)",
        only_with=_OF_MODELS,
    )
    judge_calibrate: bool = option(
        False,
        "with judge_readout logprobs: take off what it says of two empty answers, its preference for a letter",
        only_with=_OF_MODELS,
    )
    judge_explain: bool = option(True, "ask for reasons before the verdict", only_with=_OF_WRITTEN)
    judge_max_new_tokens: Count = option(512, "room for reasons and verdict", only_with=_OF_WRITTEN)
    judge_temperature: NonNegative = option(
        0.0, "of the judge's sampling", source="common practice: 0", only_with=_OF_WRITTEN
    )
    criteria: str | None = option(
        None,
        "what to judge by, in words; by default helpful, relevant, accurate, detailed",
        only_with=_OF_MODELS,
    )
    scale_low: float = option(1, "lowest score")
    scale_high: float = option(10, "highest score")
    tie_margin: NonNegative = option(
        0.0, "rewards that differ by no more than this tie", only_with={"judge": ("reward", "function")}
    )
    stored_verdicts: Path | None = option(
        None,
        "file of verdicts for --judge stored, as `coalign annotate` writes it, or of chosen and rejected responses",
    )
    replies: Path | None = option(
        None,
        "file of the judge's replies, to share it between runs; by default in the run folder",
        only_with=_OF_MODELS,
    )
    max_failures: Fraction = option(0.05, "share of verdicts that may be missing before the run fails")
    price_prompt: NonNegative | None = option(
        None, "price of a million tokens that are sent, to report what it cost"
    )
    price_reply: NonNegative | None = option(None, "price of a million tokens that the judge writes")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_low >= self.scale_high:
            raise ValueError(f"scale_low {self.scale_low:g} is not below scale_high {self.scale_high:g}")
        if self.judge_readout != "logprobs":
            self.refuse(["judge_calibrate"], "without judge_readout: logprobs")
        elif self.judge_form not in ("relation", "choice"):
            self.refuse(["judge_form"], "with judge_readout: logprobs")
        if self.judge != "model":
            self.refuse(("backend", "endpoint"), f"with judge: {self.judge}")
        if (self.judge == "function") != (self.judge_function is not None):
            raise ValueError("judge_function goes with judge: function, and judge: function needs it")
        if (self.judge == "stored") != (self.stored_verdicts is not None):
            raise ValueError("stored_verdicts goes with judge: stored, and judge: stored needs it")

    @property
    def rubric(self) -> Rubric | None:
        from coalign.judging.protocol import Rubric

        return Rubric(criteria=self.criteria) if self.criteria else None

    @property
    def scale(self) -> Scale:
        from coalign.judging.protocol import Scale

        return Scale(low=self.scale_low, high=self.scale_high)

    def price(self, cost: Cost) -> float | None:
        """What the calls of `cost` cost, cached ones included; None where no price is known or tokens are not."""
        if self.price_prompt is None and self.price_reply is None:
            return None
        if self.price_prompt and cost.prompt_tokens is None:
            return None
        sent = (self.price_prompt or 0) * (cost.prompt_tokens or 0)
        return (sent + (self.price_reply or 0) * cost.tokens) / 1e6


def make_judge(options: JudgeOptions, run: Run, *, form: Form | None = None) -> Judge:
    """The judge that `options` describe. A model is loaded when it is first asked something new.

    Args:
        run: replies are kept in its folder.
        form: overrides the options'.

    Raises:
        ConfigError: a template or a file of verdicts that cannot be used.
    """
    if options.judge == "model":
        return language_judge(options, open_store(options, run), form=form)
    if isinstance(options, EngineOptions) and options.engine == "ray":
        return kept_judge(options, options, run)
    return local_judge(options)


def kept_judge(options: JudgeOptions, engine: EngineOptions, run: Run) -> SpreadJudge:
    """The judge that `options` describe, where it is no language model: its verdicts are kept in the run's folder.

    Raises:
        ConfigError: as `local_judge`, when it is first asked.
    """
    from coalign.judging.spread_judge import SpreadJudge

    opened = functools.partial(local_judge, options)
    return SpreadJudge(judge_name(options), opened, EngineOptions.of(engine), run.artefacts / "judged.jsonl")


def local_judge(options: JudgeOptions) -> Judge:
    """The judge that `options` describe, where it is no language model.

    Raises:
        ConfigError: a function or a file of verdicts that cannot be used.
    """
    if options.judge == "verifiers":
        from coalign.judging.scoring_judges import verifier_judge

        return verifier_judge()
    if options.judge == "reward":
        return _reward_judge(options)
    if options.judge == "function":
        from coalign.judging.scoring_judges import function_judge

        return function_judge(str(options.judge_function), tie_margin=options.tie_margin)
    return stored_judge(options.stored_verdicts)


def assert_judge_spreads(options: JudgeOptions) -> None:
    """Refuse a judge that a pool of workers would not make faster.

    Raises:
        ConfigError: stored verdicts, or as `assert_spreadable`.
    """
    if options.judge == "stored":
        raise ConfigError("--engine ray has no effect with --judge stored: nobody is asked.")
    if options.judge == "model":
        assert_spreadable(options)


def language_judge(
    options: JudgeOptions, store: ReplyStore, *, form: Form | None = None
) -> LanguageModelJudge:
    """The language model of `options` as judge.

    Raises:
        ConfigError: the template cannot be used.
    """
    from coalign.judging.language_judge import LanguageModelJudge
    from coalign.judging.prompts import load_template
    from coalign.judging.store import Deferred
    from coalign.models.types import Sampling

    if options.judge_template is not None:
        load_template("pair", options.judge_template)  # a bad one is found before anything is loaded
    return LanguageModelJudge(
        Deferred(lambda: _open_generator(options)),
        name=judge_name(options),
        identity=identity_of(options),
        store=store,
        form=form or options.judge_form,
        explain=options.judge_explain,
        readout=options.judge_readout,
        calibrate=options.judge_calibrate,
        scale=options.scale,
        template=options.judge_template,
        sampling=Sampling(max_new_tokens=options.judge_max_new_tokens, temperature=options.judge_temperature),
    )


def open_store(options: JudgeOptions, run: Run) -> ReplyStore:
    """The store of replies of a run."""
    from coalign.judging.store import ReplyStore

    return ReplyStore(options.replies or run.artefacts / "replies.jsonl")


def stored_judge(path: Path | None) -> Judge:
    """A judge of the verdicts in a file (see `judge_items.read_items`): a pair in either order is the same question.

    Raises:
        ConfigError: the file holds no verdicts.
    """
    from coalign.judging.items import read_items
    from coalign.judging.scoring_judges import StoredJudge

    found = read_items(str(path))
    verdicts: list[tuple[JudgeItem, Choice]] = [
        (item, label) for item, labels in zip(found.items, found.labels, strict=True) for label in labels
    ]
    if found.kind != "pairs" or not verdicts:
        raise ConfigError(
            f"{path}: {found.recognised}, and no verdicts.",
            hint="Needed: pairs with a column label (first, second or tie), or chosen and rejected responses.",
        )
    return StoredJudge(verdicts, name=f"verdicts in {path}")


def judge_name(options: JudgeOptions) -> str:
    """What reports call the judge."""
    if options.judge == "model" and options.chosen_backend == "endpoint":
        return options.endpoint_model or f"the model at {options.endpoint}"
    names = {
        "verifiers": "verifiers",
        "stored": "stored verdicts",
        "reward": f"the reward model {options.model}",
        "function": str(options.judge_function),
    }
    return names.get(options.judge, options.model)


def identity_of(options: JudgeOptions) -> dict[str, Any]:
    """What replies depend on besides the request: the endpoint's model, or what a model here is under its name."""
    if options.chosen_backend == "endpoint":
        return {"endpoint": options.endpoint, "model": options.endpoint_model}
    from coalign.models.files.identity import model_identity
    from coalign.models.options import ModelOptions

    identity = model_identity(ModelOptions.of(options))
    return {"model": options.model, "identity": identity, "backend": options.chosen_backend}


def _open_generator(options: JudgeOptions) -> Generator:
    from coalign.models.backends.open import open_generator
    from coalign.models.options import ModelOptions

    models = ModelOptions.of(options)
    if isinstance(options, EngineOptions) and options.engine == "ray":
        from coalign.models.backends.workers import SpreadGenerator

        opened = functools.partial(open_generator, models, BackendOptions.of(options))
        return SpreadGenerator(opened, models, options)
    return open_generator(models, options)


def _reward_judge(options: JudgeOptions) -> Judge:
    from coalign.judging.scoring_judges import reward_judge
    from coalign.models.reward_model import load_reward_model

    model = load_reward_model(
        options.model,
        revision=options.revision,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
    )
    return reward_judge(model.score, name=options.model, tie_margin=options.tie_margin)
