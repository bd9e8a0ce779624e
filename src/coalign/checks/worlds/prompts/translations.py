"""How likely the references of a text become under prompts with examples: material of a check of translation."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from coalign.checks.arms import Measures, keep_items
from coalign.core.runs import Run
from coalign.decoding.translation import prompts as prompting
from coalign.decoding.translation.files import Sentence
from coalign.measures.texts.translation_metrics import sentence_chrf
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.scoring.engine import DEFAULT_BATCH_TOKENS, score_responses
from coalign.models.types import Responses, Sampling

TRANSLATED = 4
"""Sentences of a seed that are translated too."""


@dataclass(frozen=True)
class TranslationTask:
    """The check's material for one seed: a memory, sentences out of it, and how similar all are to each other."""

    seed: int
    sentences: list[Sentence]
    tested: list[int]
    vectors: torch.Tensor
    generator: TransformersGenerator

    def prompt(self, place: int, examples: Sequence[int], best_last: bool = True) -> str:
        """For a sentence with some of the others as examples, best first."""
        shots = [
            prompting.Shot(self.sentences[one].source, self.sentences[one].target or "") for one in examples
        ]
        request = prompting.TranslationRequest(self.sentences[place].source, shots)
        return prompting.translation_prompt(
            request, prompting.Labels("English", "Spanish"), best_last=best_last
        )

    def nearest(self, place: int) -> list[int]:
        """The two most similar others."""
        scores = self.vectors @ self.vectors[place]
        scores[place] = -1
        return scores.topk(2).indices.tolist()

    def drawn(self, place: int) -> list[int]:
        """Two others at random."""
        others = [one for one in range(len(self.sentences)) if one != place]
        return random.Random(f"{self.seed} {place}").sample(others, 2)


def measured(
    run: Run, name: str, prompt: Callable[[TranslationTask, int], str], task: TranslationTask
) -> Measures:
    """Negative log-likelihood of a reference's token, and chrF++ of some greedy translations; kept by sentence."""
    tokenizer: Any = task.generator.tokenizer
    prompts = [prompt(task, place) for place in task.tested]
    references = [task.sentences[place].target or "" for place in task.tested]
    # The space after the colon belongs to the reference.
    scored = Responses(
        prompt_ids=[tokenizer(one, add_special_tokens=False)["input_ids"] for one in prompts],
        response_ids=[tokenizer(f" {one}", add_special_tokens=False)["input_ids"] for one in references],
        prompt_index=list(range(len(prompts))),
    )
    with torch.inference_mode():
        means = score_responses(task.generator.model, scored, batch_tokens=DEFAULT_BATCH_TOKENS).means()
    nll = [-one for one in means.tolist()]
    sampling = Sampling(max_new_tokens=40, temperature=0.0, stop=("\n",))
    replies = task.generator.generate(prompts[:TRANSLATED], sampling, label=name)
    made = [
        prompting.clean_translation(one[0].text, task.sentences[place].source)
        for one, place in zip(replies, task.tested, strict=False)
    ]
    similarity = [float(task.vectors[one] @ task.vectors[task.nearest(one)[0]]) for one in task.tested]
    keep_items(run, name, task.seed, nll=nll, similarity=similarity, translations=made)
    chrf = sentence_chrf(made, references[: len(made)])
    return {"nats per token": sum(nll) / len(nll), "chrF++": sum(chrf) / len(chrf)}
