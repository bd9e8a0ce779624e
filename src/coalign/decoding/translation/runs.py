"""A text translated in several ways: no examples, so many fuzzy matches, examples drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from coalign.core.progress import progress
from coalign.core.runs import Run
from coalign.decoding.translation.files import Sentence
from coalign.decoding.translation.memory import terms_in
from coalign.decoding.translation.translator import BATCH, AdaptiveTranslator, Proposal
from coalign.loops.rows import Keep, fill_rows
from coalign.measures.texts.translation_metrics import sentence_chrf, term_usage

ZERO = "no match"


def arm_name(shots: int, *, drawn: bool = False) -> str:
    """`no match`, `1 match`, `5 matches`, `2 at random`."""
    if drawn:
        return f"{shots} at random"
    return ZERO if shots == 0 else f"{shots} match{'es' if shots > 1 else ''}"


def translate_arms(
    run: Run, config: Any, translator: AdaptiveTranslator, sentences: Sequence[Sentence]
) -> dict[str, list[dict[str, Any]]]:
    """Translate with each number of matches, and with examples drawn at random if asked for.

    Sentences are sent in fixed batches of similar length; each is a row of `artefacts/<way>.jsonl` as soon as its batch
    is there, and a run that was cut goes on at the first missing batch. With `adapt` they go one by one in their order,
    each reference entering the memory afterwards.

    Returns:
        By name of the way its rows in the order of the sentences.
    """
    ways = [(shots, False) for shots in dict.fromkeys(config.shots)]
    if config.random_shots:
        ways.insert(1 if ways[0][0] == 0 else 0, (config.random_shots, True))
    translator.memory.prepare([one.source for one in sentences])
    size = len(translator.memory)
    found = {}
    for shots, drawn in ways:
        name = arm_name(shots, drawn=drawn)
        found[name] = _translated(run, config, translator, sentences, shots, drawn, name)
        translator.memory.forget(size)
    return found


def _translated(
    run: Run,
    config: Any,
    translator: AdaptiveTranslator,
    sentences: Sequence[Sentence],
    shots: int,
    drawn: bool,
    name: str,
) -> list[dict[str, Any]]:
    def work(done: list[int], keep: Keep) -> None:
        with progress(len(sentences), f"Translating, {name}", "sentence") as bar:
            for places in _batches(sentences, one_by_one=config.adapt):
                if not set(done).issuperset(places):
                    batch = [sentences[place] for place in places]
                    made = translator.translate(batch, shots, start=places[0], drawn=drawn, numbers=places)
                    keep({place: row_of(one, translator) for place, one in zip(places, made, strict=True)})
                if config.adapt:
                    for place in places:
                        translator.correct(sentences[place].source, sentences[place].target or "")
                bar.advance(len(places))

    path = run.artefacts / f"{name.replace(' ', '-')}.jsonl"
    return fill_rows(path, [one.id for one in sentences], work)


def _batches(sentences: Sequence[Sentence], *, one_by_one: bool) -> list[list[int]]:
    if one_by_one:
        return [[place] for place in range(len(sentences))]
    order = sorted(range(len(sentences)), key=lambda one: (len(sentences[one].source.split()), one))
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def row_of(one: Proposal, translator: AdaptiveTranslator) -> dict[str, Any]:
    """What is kept of a translation, its scores included where there is a reference."""
    sentence = one.sentence
    row: dict[str, Any] = {
        "source": sentence.source,
        "reference": sentence.target,
        "translation": one.translation,
        "raw": one.raw,
        "prompt": one.prompt,
        "matches": [
            [unit.source, unit.target, None if math.isnan(score) else round(score, 6)]
            for unit, score in one.matches
        ],
        "terms": [list(pair) for pair in one.terms],
        "similarity": None if one.top_similarity is None else round(one.top_similarity, 6),
        "copied": one.copied,
    }
    if sentence.target:
        wanted = terms_in([*sentence.terms, *translator.glossary], sentence.source)
        counted, used, _ = term_usage(wanted, one.translation, sentence.target)
        row |= {
            "chrf": round(sentence_chrf([one.translation], [sentence.target])[0], 4),
            "terms_counted": counted,
            "terms_used": used,
        }
    return row
