"""Translation by a language model that reads a translation memory, a glossary and drafts of another system."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

from coalign.core.errors import ConfigError
from coalign.core.options import Count, Fraction, NonNegative, OptionGroup, Positive, Seed, option
from coalign.data.records import Messages
from coalign.decoding.translation import memory as tm
from coalign.decoding.translation import prompts as wording
from coalign.decoding.translation.files import Sentence, language_code
from coalign.models.types import Generator, Sampling

BATCH = 32
"""Sentences that are sent together; the limit of new tokens is that of the longest."""


@dataclass(kw_only=True)
class TranslationOptions(OptionGroup):
    """What the model is told, and how it answers."""

    __group__ = "Translation"

    source_language: str = option("English", "name of the source language, as the prompt has it")
    target_language: str = option("Spanish", "name of the target language")
    source_code: str | None = option(None, "its code in TMX files; by default that of the name")
    target_code: str | None = option(None, "its code in TMX files")
    retrieval: tm.Retrieval = option(
        "embeddings",
        "how similar entries are found: cosine of embeddings, word-level edit similarity, the mean of both",
        source="official code",
    )
    encoder: str = option(
        "default-encoder",
        "sentence encoder: all-MiniLM-L6-v2, a hub id or a folder",
        source="official code",
        only_with={"retrieval": ("embeddings", "hybrid")},
    )
    max_similarity: Fraction = option(1.0, "leave out entries that are more similar (near-duplicates)")
    allow_exact: bool = option(False, "also use entries with the very same source")
    order: Literal["best last", "best first"] = option(
        "best last", "where the most similar example stands", source="official code"
    )
    terms: Literal["auto", "glossary", "matches", "none"] = option(
        "auto",
        "terms in the prompt: of the glossary; or extracted by the model from the matches; auto: the glossary if given",
    )
    max_terms: Count = option(5, "most terms for a sentence", source="paper")
    mt: Literal["none", "new", "all"] = option(
        "none", "drafts of another system (column mt): for the new sentence, or for the examples too"
    )
    terms_label: str = option("Terms", "what the line with terms begins with")
    mt_label: str = option("MT", "what a line with a draft begins with")
    temperature: NonNegative = option(0.3, "divides the logits; 0 is greedy", source="official code")
    top_p: Fraction = option(1.0, "nucleus of the sampling", source="official code")
    length_multiplier: Positive = option(
        4.0,
        "most new tokens: so many times the words of the longest source of a batch",
        source="official code",
    )
    prompt: Literal["auto", "plain", "chat"] = option(
        "auto", "plain text, or a user's turn of a chat; auto: chat on an endpoint, plain otherwise"
    )
    seed: Seed = option(0, "seed of the sampling")

    @property
    def codes(self) -> tuple[str, str]:
        """Of both languages, for TMX."""
        return (
            language_code(self.source_language, self.source_code),
            language_code(self.target_language, self.target_code),
        )

    @property
    def labels(self) -> wording.Labels:
        return wording.Labels(self.source_language, self.target_language, self.mt_label, self.terms_label)


@dataclass(frozen=True)
class Proposal:
    """A translation and what it was made with.

    Attributes:
        matches: entries of the memory in the prompt, best first, with their similarity.
        top_similarity: of the best match that was found, used or not; None without any.
        raw: the reply as it came.
        terms: pairs in the line of terms.
    """

    sentence: Sentence
    prompt: str
    translation: str
    raw: str
    matches: Sequence[tuple[tm.TranslationUnit, float]] = ()
    terms: Sequence[wording.Term] = field(default_factory=tuple)
    top_similarity: float | None = None

    @property
    def copied(self) -> bool:
        """Whether it is the translation of a match, word for word."""
        return any(self.translation == unit.target for unit, _ in self.matches)


@dataclass(eq=False)
class AdaptiveTranslator:
    """Translates with what the memory and the glossary hold at that moment.

    Args:
        generator: any back end.
        chat: send prompts as a user's turn.
        own: the memory is the text itself: sentence n is entry n and is not its own match.
    """

    generator: Generator
    memory: tm.TranslationMemory
    glossary: Sequence[wording.Term]
    options: TranslationOptions
    _: KW_ONLY
    chat: bool = False
    own: bool = False
    _extracted: dict[int, list[wording.Term]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.options.terms == "glossary" and not self.glossary:
            raise ConfigError("terms: glossary needs a glossary.", hint="Give one with --glossary.")

    def translate(
        self,
        sentences: Sequence[Sentence],
        shots: int,
        *,
        start: int = 0,
        numbers: Sequence[int] | None = None,
        drawn: bool = False,
        label: str = "Translating",
    ) -> list[Proposal]:
        """Translate sentences together, each with up to `shots` examples.

        Args:
            start: number of the first sentence in the whole text; with the seed it fixes what is sampled.
            numbers: of all of them, by default those that follow `start`.
            drawn: examples at random in place of the most similar ones (the baseline).
        """
        options = self.options
        numbers = range(start, start + len(sentences)) if numbers is None else numbers
        matches = [
            self._matches(one, number, max(shots, 1)) for one, number in zip(sentences, numbers, strict=True)
        ]
        used = [
            self._drawn(number, shots) if drawn else found[:shots]
            for number, found in zip(numbers, matches, strict=True)
        ]
        if options.terms == "matches":
            self._extract({one.index for found in used for one in found})
        requests = [self._request(one, found) for one, found in zip(sentences, used, strict=True)]
        prompts = [
            wording.translation_prompt(one, options.labels, best_last=options.order == "best last")
            for one in requests
        ]
        limit = wording.length_limit([one.source for one in sentences], options.length_multiplier)
        replies = self._ask(prompts, limit, options.seed + start, ("\n",), label)
        return [
            Proposal(
                sentence=one,
                prompt=prompt,
                translation=wording.clean_translation(reply, one.source),
                raw=reply,
                matches=tuple((self.memory.units[match.index], match.score) for match in found),
                terms=tuple(request.terms),
                top_similarity=near[0].score if near else None,
            )
            for one, prompt, reply, found, request, near in zip(
                sentences, prompts, replies, used, requests, matches, strict=True
            )
        ]

    def correct(self, source: str, target: str) -> None:
        """Take a corrected translation into the memory at once."""
        self.memory.add(tm.TranslationUnit(source, target))

    def _matches(self, sentence: Sentence, number: int, count: int) -> list[tm.Match]:
        options = self.options
        return self.memory.matches(
            sentence.source,
            count,
            leave_out=number if self.own else None,
            allow_exact=options.allow_exact,
            max_similarity=options.max_similarity,
        )

    def _drawn(self, number: int, count: int) -> list[tm.Match]:
        rest = [one for one in range(len(self.memory)) if not (self.own and one == number)]
        draw = random.Random(f"{self.options.seed} {number}")
        return [tm.Match(one, float("nan")) for one in draw.sample(rest, min(count, len(rest)))]

    def _request(self, sentence: Sentence, matches: Sequence[tm.Match]) -> wording.TranslationRequest:
        options = self.options
        units = [self.memory.units[one.index] for one in matches]
        in_shots = [self._shot_terms(one.index) for one in matches]
        shots = [
            wording.Shot(unit.source, unit.target, unit.mt if options.mt == "all" else None, terms)
            for unit, terms in zip(units, in_shots, strict=True)
        ]
        return wording.TranslationRequest(
            sentence.source,
            shots,
            sentence.mt if options.mt != "none" else None,
            self._terms(sentence, [pair for terms in in_shots for pair in terms]),
        )

    def _shot_terms(self, index: int) -> list[wording.Term]:
        unit, options = self.memory.units[index], self.options
        if options.terms == "none":
            return []
        if options.terms == "matches":
            return self._extracted.get(index, [])
        return tm.terms_in(self.glossary, unit.source, target=unit.target, count=options.max_terms)

    def _terms(self, sentence: Sentence, in_shots: Sequence[wording.Term]) -> list[wording.Term]:
        options = self.options
        if options.terms == "none":
            return []
        pool = list(in_shots) if options.terms == "matches" else [*sentence.terms, *self.glossary]
        return tm.terms_in(pool, sentence.source, count=options.max_terms)

    def _extract(self, indices: set[int]) -> None:
        """Have the model name the terms of entries that were not asked for yet."""
        new = sorted(indices - self._extracted.keys())
        if not new:
            return
        options, units = self.options, [self.memory.units[index] for index in new]
        prompts = [
            wording.extraction_prompt(one.source, one.target, options.labels, options.max_terms)
            for one in units
        ]
        replies = self._ask(prompts, 16 * options.max_terms, options.seed, ("\n\n",), "Extracting terms")
        for index, unit, reply in zip(new, units, replies, strict=True):
            found = wording.read_terms(reply, unit.source, unit.target, options.max_terms)
            self._extracted[index] = [one for one in found if not tm.everyday(one[0])]

    def _ask(
        self, prompts: Sequence[str], limit: int, seed: int, stop: tuple[str, ...], label: str
    ) -> list[str]:
        given: list[Messages | str] = [
            [{"role": "user", "content": one}] if self.chat else one for one in prompts
        ]
        sampling = Sampling(
            max_new_tokens=limit,
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            seed=seed,
            stop=() if self.chat else stop,
        )
        return [one[0].text for one in self.generator.generate(given, sampling, label=label)]


def open_memory(
    options: TranslationOptions, units: Sequence[tm.TranslationUnit], **more: Any
) -> tm.TranslationMemory:
    """A memory with the encoder that its retrieval needs."""
    encoder = None
    if options.retrieval != "edit":
        from coalign.decoding.translation.memory import KeptEncoder
        from coalign.models.embedding import load_encoder

        encoder = KeptEncoder(load_encoder(options.encoder), options.encoder)
    return tm.TranslationMemory(list(units), options.retrieval, encoder, **more)
