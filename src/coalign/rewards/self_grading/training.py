"""From labelled answers to a trained grader: requests with and without the reference, and the training on both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.errors import DataError, ModelError
from coalign.core.files import write_json, write_text
from coalign.core.runs import Run, is_main_process
from coalign.data.encoding import EncodedRecord, encode_records
from coalign.data.records import Demonstration
from coalign.judging.graders import GraderFacts, write_grader
from coalign.judging.prompts import TEMPLATES, load_template
from coalign.judging.protocol import JudgeItem
from coalign.training.distillation import TokenExample
from coalign.training.distributed.shared_work import by_all
from coalign.training.self_distillation import SelfDistillation, TwoViews


@dataclass(frozen=True)
class Answered:
    """A question, the model's answer to it, and the answer that is known to be good."""

    record: Demonstration
    response: str

    def item(self, *, reference: bool) -> JudgeItem:
        """To judge with or without the reference."""
        record = self.record
        good = record.completion if reference else None
        return JudgeItem(id=record.id, prompt=record.prompt, responses=(self.response,), reference=good)


def begun_template(path: Path) -> Path:
    """The shipped request with the beginning of the reply, written to `path`: a model that was not trained to grade seldom begins
    with a digit by itself.
    """
    text = TEMPLATES["rate"].read_text(encoding="utf-8")
    write_text(path, text + "{% block assistant %}Score:{% endblock %}\n")
    return path


def similarities(answered: Sequence[Answered], encoder: str, *, device: str = "auto") -> list[float]:
    """[n] cosines of the embeddings of answer and reference.

    Raises:
        ModelError: the encoder cannot be loaded.
    """
    from coalign.models.embedding import load_encoder

    model = load_encoder(encoder, device=device)
    answers, references = (
        model.encode(texts)
        for texts in ([one.response for one in answered], [one.record.completion for one in answered])
    )
    return (answers * references).sum(1).tolist()


def make_views(
    answered: Sequence[Answered], labels: Mapping[str, int], tokenizer: Any, config: Any, run: Run
) -> tuple[list[TwoViews], GraderFacts]:
    """Each labelled answer as two requests with one digit as the reply, and how the digit comes.

    A request that does not fit into `max_length` is left out with its record and counted: cutting it would cut what is asked.

    Raises:
        DataError: nothing is left.
        ModelError: the tokenizer does not write a digit as one token.
    """
    kept = [one for one in answered if one.record.id in labels]
    views: list[dict[int, EncodedRecord]] = []
    for reference in (True, False):
        template = load_template("rate", config.judge_template)
        records = [
            Demonstration(
                prompt=template.render(one.item(reference=reference), scale=GraderFacts().scale, bare=True),
                completion=str(labels[one.record.id]),
                source=one.record.source,
            )
            for one in kept
        ]
        encoded = encode_records(records, tokenizer)
        views.append({one.record_index: one for one in encoded.records})
    examples = []
    for place, one in enumerate(kept):
        pair = [_example(view[place]) for view in views]
        if config.max_length is None or max(len(each.ids) for each in pair) <= config.max_length:
            examples.append(TwoViews(one.record.id, *pair))
    left_out = len(kept) - len(examples)
    run.log("encoded", records=len(examples), too_long=left_out)
    if not examples:
        raise DataError(
            f"None of {len(kept)} judgements fits into max_length {config.max_length}."
            if kept
            else "No answer has a label to learn from.",
            hint="Raise --max-length, or give shorter answers (--max-new-tokens).",
        )
    own = config.judge_template and str(config.judge_template)
    return examples, GraderFacts(first_tokens=_digit_place(tokenizer, views[1]) + 1, template=own)


@by_all
def train_grader(
    config: Any, answered: Sequence[Answered], labels: Mapping[str, int], run: Run
) -> dict[str, Any]:
    """Train the model of `config` to grade and save it as the run's model; what was finished before is not done again.

    Args:
        config: model and training options, `judge_template`, `student_weight` and `divergence_weight`.
        labels: id to the digit; answers without one are not learnt from.

    Raises:
        DataError: nothing to learn from.
    """
    from transformers import set_seed

    from coalign.models.adapters import trainable_summary
    from coalign.models.files.loading import load_for_training, load_tokenizer
    from coalign.models.files.saving import save_model
    from coalign.training.modules import fit_module

    done = run.artefacts / "training.json"
    if done.exists() and run.model.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(config)
    examples, facts = make_views(answered, labels, tokenizer, config, run)
    set_seed(config.seed)  # a new adapter's first weights
    model = load_for_training(config)
    run.log("model", summary=trainable_summary(model))
    task = SelfDistillation(student_weight=config.student_weight, divergence_weight=config.divergence_weight)
    fitted = fit_module(model, task, examples, config, run)
    found = {"records": len(examples), "steps": fitted.steps, "history": fitted.history}
    if is_main_process():
        save_model(model, tokenizer, run.model)
        write_grader(run.model, facts)
        write_json(done, found)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    return found


def _example(record: EncodedRecord) -> TokenExample:
    (response,) = record.response_ids
    trained = [False] * len(record.prompt_ids) + [True] * len(response)
    return TokenExample([*record.prompt_ids, *response], trained)


def _digit_place(tokenizer: Any, views: Mapping[int, EncodedRecord]) -> int:
    """How many tokens of the reply come before its digit.

    Raises:
        ModelError: no token of a reply is a digit alone.
    """
    places = set()
    for one in views.values():
        texts = [tokenizer.decode([token]).strip() for token in one.response_ids[0]]
        places.add(next((place for place, text in enumerate(texts) if text), None))
        first = next((text for text in texts if text), "")
        if not (first.isdecimal() and len(first) == 1):
            raise ModelError(
                f"The tokenizer writes the score as {texts}, expected a token that is the digit."
            )
    (place,) = places
    return place or 0
