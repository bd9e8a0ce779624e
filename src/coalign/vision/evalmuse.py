"""EvalMuse: does a generated picture show what its prompt asks for, overall and element by element.

EvalMuse-40K: A Reliable and Fine-Grained Benchmark with Comprehensive Human Annotations for Text-to-Image Generation Model
Evaluation (arXiv 2412.18150).

    coalign run evalmuse --train train.json --base Salesforce/blip2-itm-vit-g-coco --data test.json
    coalign run evalmuse --model fga_blip2.pth --data pictures.jsonl
    coalign run evalmuse --vqa Qwen/Qwen2-VL-7B-Instruct --data pictures.jsonl
    coalign run evalmuse --metric my_score --data scored.jsonl

An item is a prompt and a picture made of it. The trained scorer (FGA-BLIP2) says how well the picture shows the prompt, from
1 to 5, and each element ("red (color)") from 0 to 1; in its training prompts whose pictures differ in quality count more.
PN-VQA needs no training: any model that sees is asked twice about every element, once for yes and once for no. Where people
scored the items the run says how well the metric agrees with them (SRCC, KRCC, PLCC after the logistic fit, RMSE, element
accuracy) and ranks text-to-image models; with `--metric` a column of scores is benchmarked in the same way. The report shows
pictures with the elements that were missed.

Differences from the official code: the variance weight is on (the released loss reads the variance and does not use it);
the logistic curve maps the metric to people, as `utils.py` does and the track's script does not; an item whose picture cannot
be opened has no score in place of a wrong one. The code of PN-VQA is not released: the wording of its requests is ours, and
options. On a dual encoder (CLIP, SigLIP) joint layers of our own stand in place of the Q-Former. BLIP-2, and models that
answer questions, were run on random weights alone here.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import ConfigError
from coalign.core.files import write_json
from coalign.core.options import Count, Fraction, option, options_of
from coalign.core.runs import Run, is_main_process, model_folder
from coalign.models.backends.options import BackendOptions
from coalign.vision.fine_grained.questions import NEGATIVE, POSITIVE, QUESTION
from coalign.vision.fine_grained.released import is_released
from coalign.vision.fine_grained.training import DEFAULT_BASE, FineGrainedTraining

if TYPE_CHECKING:
    from coalign.vision.fine_grained.scoring import Metric

_ASKED = ("question", "positive", "negative", "negate")


@dataclass(kw_only=True)
class Config(FineGrainedTraining, BackendOptions):
    """Options of `coalign run evalmuse`."""

    __group__ = "Method"

    data: list[str] = option(
        [], "items to score: prompt and image, and what people say of them, where they do", split=False
    )
    train: list[str] = option([], "items with people's scores to learn from", split=False)
    base: str | None = option(
        None,
        f"what is trained, or what released weights stand on: BLIP-2 or a dual encoder by hub id or folder; by default {DEFAULT_BASE}",
    )
    model: str | None = option(
        None, "a scorer that was trained before: a run, its folder `model`, or the released fga_blip2.pth"
    )
    vqa: str | None = option(None, "PN-VQA with this image-text-to-text model; or give endpoint")
    clip_score: str | None = option(None, "CLIPScore with this dual encoder, as a baseline")
    metric: str | None = option(None, "a column of the items that holds a metric's score: benchmark that")
    question: str = option(
        QUESTION, "about an element that has no question of its own; {phrase}, {category}, {prompt}"
    )
    positive: str = option(POSITIVE, "asks whether the answer is yes; {question}", source="our wording")
    negative: str = option(NEGATIVE, "asks whether the answer is no; {question}", source="our wording")
    negate: bool = option(
        True, "ask both ways; without, the score of an element is P(yes) alone", source="paper"
    )
    threshold: Fraction = option(0.5, "elements below it are shown as missed", source="official code")
    score_batch: Count = option(8, "pictures that are scored at a time")
    limit: Count | None = option(None, "read only so many items, of each source")
    revision: str | None = option(None, "of base, vqa or clip_score on the hub")
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail", "stop at rows that cannot be used, or count them; broken pictures are always counted"
    )
    examples: Count = option(24, "pictures shown in the report, those with the most missed elements first")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train and not self.data:
            return  # `run` says that there is nothing to do
        ways = {
            "train": bool(self.train), "model": self.model is not None, "vqa": self.vqa is not None,
            "endpoint": self.endpoint is not None, "clip_score": self.clip_score is not None,
            "metric": self.metric is not None,
        }  # fmt: skip
        given = [name for name, is_given in ways.items() if is_given]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'nothing'} says what scores, expected one of {', '.join(ways)}"
            )
        if self.backend in ("vllm", "vllm-server"):
            raise ValueError(f"backend: {self.backend} is not used here: serve the model and give endpoint")
        self.refuse(["generation_precision"], "here: a question is answered by the logits of its first token")
        released = self.model is not None and is_released(self.model)
        if not (self.train or released):
            self.refuse(["base"], "without train or released weights")
        if not self.train:
            self.refuse({one.name for one in options_of(FineGrainedTraining)}, "without train")
        if not self.data:
            self.refuse(("threshold", "examples", "score_batch"), "without data")
        if not (self.vqa or self.endpoint):
            self.refuse(_ASKED, "without vqa or endpoint")
        elif not self.negate:
            self.refuse(("negative",), "with no_negate: it is not asked")
        if self.metric or (self.model and not released) or self.endpoint:
            self.refuse(("revision",), f"with {given[0]}")
        for name, form in (("positive", self.positive), ("negative", self.negative)):
            if "{question}" not in form:
                raise ValueError(f"{name}: {form!r} has no {{question}}")
            _assert_fields(name, form, ("question",))
        _assert_fields("question", self.question, ("phrase", "category", "prompt"))


def _assert_fields(name: str, form: str, known: tuple[str, ...]) -> None:
    """Refuse a form that could not be filled in: braces that name something else, or nothing."""
    wanted = " ".join(f"{{{one}}}" for one in known)
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(form) if field is not None}
    except ValueError as error:
        raise ValueError(f"{name}: {form!r} cannot be filled in ({error}), expected {wanted}") from error
    unknown = sorted(fields - {*known})
    if unknown:
        raise ValueError(f"{name}: {form!r} has {{{unknown[0]}}}, expected {wanted}")


def run(config: Config, run: Run) -> None:
    """Train, where there are items to learn from; score, hold against people, rank and report, where there are items to score.

    Raises:
        ConfigError: neither is given.
        DataError: items that cannot be used.
        ModelError: what scores cannot be loaded.
    """
    from coalign.vision.fine_grained.benchmark import summarise
    from coalign.vision.fine_grained.items import read_items
    from coalign.vision.fine_grained.report import write_evaluation_report
    from coalign.vision.fine_grained.scoring import score_items

    if not config.train and not config.data:
        raise ConfigError(
            "There is nothing to do: neither --train (items to learn from) nor --data (items to score) is given."
        )
    skip = config.on_bad_record == "skip"
    items = read_items(config.data, skip_bad=skip, limit=config.limit) if config.data else None
    trained = None
    if config.train:
        from coalign.vision.fine_grained.learning import train_scorer

        learning = read_items(config.train, skip_bad=skip, limit=config.limit)
        trained = train_scorer(learning, config.base or DEFAULT_BASE, config, run)
    if not is_main_process():
        return
    rows: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    if items is not None:
        rows = score_items(
            items.items, lambda: open_metric(config, run), run.artefacts / "scores.jsonl", config.score_batch
        )
        results = summarise(rows)
        write_json(run.artefacts / "results.json", results)
        run.publish_records(run.artefacts / "scores.jsonl")
    write_evaluation_report(run, config, items, rows, results, trained)


def open_metric(config: Config, run: Run) -> Metric:
    """What scores, as the options name it.

    Raises:
        ModelError, ConfigError, MissingExtraError: it cannot be loaded.
    """
    from coalign.vision.fine_grained import loading
    from coalign.vision.fine_grained.questions import EndpointYesNo
    from coalign.vision.fine_grained.scoring import ColumnMetric, QuestionMetric

    if config.metric is not None:
        return ColumnMetric(config.metric)
    if config.clip_score is not None:
        return loading.open_cosine(config.clip_score, config.revision, config.device)
    if config.chosen_backend == "endpoint":
        answers = EndpointYesNo(config)
    elif config.vqa is not None:
        answers = loading.open_yes_no(config.vqa, config.revision, config.device, config.score_batch)
    elif config.model is not None and is_released(config.model):
        path = Path(config.model).expanduser()
        return loading.open_released(path, config.base or DEFAULT_BASE, config.revision, config.device)
    else:
        return loading.open_scorer(
            run.model if config.train else model_folder(str(config.model)), config.device
        )
    return QuestionMetric(answers, config.question, config.positive, config.negative, config.negate)
