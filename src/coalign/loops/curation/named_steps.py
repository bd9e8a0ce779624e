"""The steps that a recipe can name, with their arguments."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.options import (
    Count,
    CountOrZero,
    Fraction,
    NonNegative,
    OptionGroup,
    Positive,
    Seed,
    option,
    required,
)
from coalign.loops.rows import Row
from coalign.loops.steps import choices, usual
from coalign.loops.steps.kinds import Kept, Made, Rejected, Step
from coalign.measures.texts.minhash import BANDS, PERMUTATIONS
from coalign.measures.texts.text_quality import rule_quality
from coalign.measures.texts.text_units import count_characters, words

if TYPE_CHECKING:
    from coalign.judging.options import JudgeOptions
    from coalign.judging.protocol import Judge
    from coalign.loops.curation.corpus import Corpus
    from coalign.models.types import Generation


@dataclass(frozen=True)
class Context:
    """What steps are made with."""

    corpus: Corpus
    options: JudgeOptions | None = None
    open_judge: Callable[[], Judge] | None = None


@dataclass(kw_only=True)
class NamedStep(OptionGroup):
    """What a recipe says of a step. `name` is what reports call it; by default its kind."""

    kind: ClassVar[str]
    asks: ClassVar[bool] = False
    name: str = option("", "what reports and rejects call it; by default its kind")

    def make(self, name: str, context: Context) -> Step:
        raise NotImplementedError


def filled(template: str, corpus: Corpus, row: Row, name: str, **more: str) -> str:
    """A request about a record: `{text}` stands for its whole text, `{COLUMN}` for a column, and each of `more` for itself.

    Args:
        name: of the step, for the message.

    Raises:
        CoalignError: the record lacks a column that the request names.
    """
    columns = {**row, "text": row.get("text", corpus.text(row)), **more}
    try:
        return template.format_map(columns)
    except KeyError as error:
        raise CoalignError(f"Record {row['id']}: {name}: prompt: no column {error}.") from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise CoalignError(f"Record {row['id']}: {name}: prompt cannot be filled in: {error}.") from error


@dataclass(kw_only=True)
class ExactStep(NamedStep):
    """Keeps one of the records with the same text."""

    kind = "exact"

    def make(self, name: str, context: Context) -> Step:
        return choices.Exact(name, context.corpus.text)


@dataclass(kw_only=True)
class NearStep(NamedStep):
    """Keeps one of the records with nearly the same text (MinHash; needs the extra `overlap`)."""

    kind = "near"
    threshold: Fraction = option(0.8, "least estimated Jaccard similarity of the n-grams of words")
    n: Count = option(3, "words of an n-gram")
    permutations: Count = option(PERMUTATIONS, "places of a signature")
    bands: Count = option(BANDS, "parts of a signature, one of which must be the same")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.permutations % self.bands:
            raise ValueError(f"bands {self.bands} do not divide permutations {self.permutations}")

    def make(self, name: str, context: Context) -> Step:
        return choices.Near(
            name,
            context.corpus.text,
            self.threshold,
            n=self.n,
            permutations=self.permutations,
            bands=self.bands,
        )


@dataclass(kw_only=True)
class NovelStep(NamedStep):
    """Keeps records whose text has a ROUGE-L of at most `most` with each kept before: exact, and slow above some 10,000."""

    kind = "novel"
    most: Fraction = option(0.7, "largest ROUGE-L F", source="Self-Instruct")

    def make(self, name: str, context: Context) -> Step:
        return usual.Novel(name, context.corpus.text, self.most)


@dataclass(kw_only=True)
class TemplateStep(NamedStep):
    """Keeps one of the records that come of one template: whose words are the same in order but for a few."""

    kind = "template"
    threshold: Fraction = option(0.6, "share of the longer text's words that two have in common, in order")

    def make(self, name: str, context: Context) -> Step:
        return usual.Untemplated(name, context.corpus.text, self.threshold)


@dataclass(kw_only=True)
class DiverseStep(NamedStep):
    """Keeps one record of each group of like tasks, by embeddings that learn from shared templates what likeness is."""

    kind = "diverse"
    encoder: str = option("default-encoder", "an encoder: hub id or folder")
    thresholds: list[Positive] = option(
        [0.2, 0.4, 0.6], "growing distances between embeddings (0 to 2) under which two are alike"
    )
    template: Fraction = option(0.6, "share of words in order from which on two texts share a template")
    margin: Positive = option(0.2, "of the triplet loss")
    steps: CountOrZero = option(200, "of training on triplets; 0: the encoder's embeddings as they are")
    coarse: Count = option(8, "coarse clusters")
    fine: Count = option(4, "clusters in each of them")
    seed: Seed = option(0, "of clusters, triplets and training")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.thresholds or sorted(self.thresholds) != self.thresholds:
            raise ValueError(f"thresholds: {self.thresholds}, expected one or more in growing order")

    def make(self, name: str, context: Context) -> Step:
        from coalign.loops.steps.diversity import Diverse
        from coalign.models.embedding import load_encoder

        opened = functools.cache(lambda: load_encoder(self.encoder))
        return Diverse(
            name, context.corpus.text, lambda texts: opened().encode(texts), self.thresholds, coarse=self.coarse,
            fine=self.fine, template=self.template, margin=self.margin, steps=self.steps, seed=self.seed,
        )  # fmt: skip


@dataclass(kw_only=True)
class AnchorStep(NamedStep):
    """Adds the column `column`: a record's quality, by the judge's comparisons with records that stand fast."""

    kind = "anchors"
    asks = True
    column: str = option("quality", "the column it adds, from 0 to 1")
    anchors: Count = option(30, "of each bucket", source="Baichuan Alignment, section 3.1.3")
    bucket: str = option("", "column of the data whose values are compared among each other alone")
    seed: Seed = option(0, "of the anchors")

    def make(self, name: str, context: Context) -> Step:
        from coalign.loops.steps.anchors import Anchored

        assert context.open_judge is not None
        return Anchored(
            name, self.column, context.open_judge(), lambda: context.corpus, context.corpus.text, self.anchors,
            bucket=self.bucket, seed=self.seed,
        )  # fmt: skip


@dataclass(kw_only=True)
class LengthStep(NamedStep):
    """Keeps texts of `min` to `max` words or characters."""

    kind = "length"
    min: Count | None = option(None, "fewest")
    max: Count | None = option(None, "most")
    unit: Literal["words", "characters"] = option("words", "what is counted")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min and self.max and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")

    def make(self, name: str, context: Context) -> Step:
        text, low, high = context.corpus.text, self.min or 0, self.max or float("inf")
        count = (lambda one: len(words(one))) if self.unit == "words" else count_characters

        def reason(row: Row) -> str | None:
            size = count(text(row))
            return "too short" if size < low else "too long" if size > high else None

        return usual.Filter(name, reason)


@dataclass(kw_only=True)
class MatchStep(NamedStep):
    """Keeps records whose text a regular expression finds something in, or with `keep=false` those it does not."""

    kind = "match"
    pattern: str = required("regular expression (Python's)")
    keep: bool = option(True, "keep what matches; false: drop it")

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression ({error})") from error

    def make(self, name: str, context: Context) -> Step:
        found, text, keep = re.compile(self.pattern).search, context.corpus.text, self.keep
        why = "does not match" if keep else "matches"
        return usual.Filter(name, lambda row: None if bool(found(text(row))) is keep else why)


@dataclass(kw_only=True)
class VerifyStep(NamedStep):
    """Keeps records whose response satisfies a verifier, such as `by=max_words:200` (docs: verifiers)."""

    kind = "verify"
    by: str = required("a verifier and its arguments, as --reward has them")

    def make(self, name: str, context: Context) -> Step:
        from coalign.data.records import responses_of
        from coalign.judging.rewards.specs import parse_reward

        rule = parse_reward(self.by).constraint
        if rule is None:
            raise ConfigError(f"steps: {name}: by: {self.by!r}, expected a verifier with its arguments.")

        def reason(row: Row) -> str | None:
            record = context.corpus.record(row)
            responses = responses_of(record) if record is not None else ()
            if record is None or not responses:
                return "no response to verify"
            prompt = "\n".join(one["content"] for one in record.prompt)
            return None if rule.verify(prompt, responses[0]) >= 1 else f"not {rule.describe()}"

        return usual.Filter(name, reason)


@dataclass(kw_only=True)
class QualityStep(NamedStep):
    """Adds a column: the share of the Gopher and C4 rules that the text keeps (no model; English stop words)."""

    kind = "quality"
    column: str = option("quality", "the column it adds")

    def make(self, name: str, context: Context) -> Step:
        text = context.corpus.text
        return usual.Score(name, self.column, lambda rows: [rule_quality(text(row)) for row in rows])


@dataclass(kw_only=True)
class JudgeStep(NamedStep):
    """Adds a column: the score that the judge of the run gives the response (`--judge`, `--model`, `--criteria`, ...)."""

    kind = "judge"
    asks = True
    column: str = option("score", "the column it adds")

    def make(self, name: str, context: Context) -> Step:
        from coalign.loops.steps.models import Rate

        assert context.options is not None
        assert context.open_judge is not None
        judged = context.options
        return Rate(
            name, self.column, context.open_judge(), context.corpus.item,
            rubric=judged.rubric, scale=judged.scale if judged.judge == "model" else None,
        )  # fmt: skip


@dataclass(kw_only=True)
class RewriteStep(NamedStep):
    """Puts what the run's model answers in place of a column (`--model`, `--endpoint`, ...)."""

    kind = "rewrite"
    asks = True
    prompt: str = required("what it is asked; {COLUMN} stands for a column, {text} for the whole text")
    column: str = required("the column that it writes")
    max_new_tokens: Count = option(512, "most tokens of an answer; one that is cut off is rejected")
    temperature: NonNegative = option(0.0, "of the sampling")
    seed: Seed = option(0, "of the sampling")

    def make(self, name: str, context: Context) -> Step:
        from coalign.judging.options import judge_name
        from coalign.loops.steps.models import Ask
        from coalign.models.backends.open import open_generator
        from coalign.models.options import ModelOptions
        from coalign.models.types import Sampling

        assert context.options is not None
        asked, column = context.options, self.column

        def read(row: Row, said: Sequence[Generation]) -> list[Made]:
            answer = said[0].text.strip()
            if said[0].finish_reason == "length":
                return [Rejected(row, "cut off")]
            return [Kept({**row, column: answer}) if answer else Rejected(row, "empty")]

        sampling = Sampling(max_new_tokens=self.max_new_tokens, temperature=self.temperature, seed=self.seed)
        return Ask(
            name,
            lambda: open_generator(ModelOptions.of(asked), asked),
            lambda row: filled(self.prompt, context.corpus, row, name),
            read,
            sampling,
            model=judge_name(asked),
        )


@dataclass(kw_only=True)
class AboveStep(NamedStep):
    """Keeps records whose number in a column is above `than`."""

    kind = "above"
    by: str = required("column of numbers")
    than: float = required("largest number that is not kept")

    def make(self, name: str, context: Context) -> Step:
        return usual.Above(name, self.by, self.than)


@dataclass(kw_only=True)
class TopStep(NamedStep):
    """Keeps the records with the highest number in a column; of equal ones the first."""

    kind = "top"
    by: str = required("column of numbers")
    share: Fraction | None = option(None, "what share of the records, rounded up")
    k: Count | None = option(None, "or how many")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.share is None) == (self.k is None):
            raise ValueError("give share or k")

    def make(self, name: str, context: Context) -> Step:
        return choices.Top(name, self.by, k=self.k, share=self.share)


@dataclass(kw_only=True)
class MixStep(NamedStep):
    """Draws records in given proportions of the values of a column, in a random order."""

    kind = "mix"
    by: str = option("source", "column that names a record's source; of several --data it is there")
    weights: dict[str, Positive] = required("value to its weight; on a command line web:3;books:1")
    size: Count | None = option(None, "how many at most")
    seed: Seed = option(0, "of the draw")

    def make(self, name: str, context: Context) -> Step:
        by = self.by
        return choices.Mix(name, lambda row: str(row[by]), self.weights, self.size, self.seed, needs=(by,))


@dataclass(kw_only=True)
class SampleStep(NamedStep):
    """Draws records at random."""

    kind = "sample"
    k: Count = required("how many at most")
    seed: Seed = option(0, "of the draw")

    def make(self, name: str, context: Context) -> Step:
        return choices.Mix(name, lambda _: "all", {"all": 1.0}, self.k, self.seed)


@dataclass(kw_only=True)
class PairStep(NamedStep):
    """Makes preferences: of the responses to one prompt the best and the worst by a column."""

    kind = "pair"
    by: str = option("score", "column of numbers")
    gap: NonNegative = option(0.0, "they differ by more than this")
    worst: float | None = option(
        None, "largest number of the worst; prompts all of whose responses are better are left out"
    )

    def make(self, name: str, context: Context) -> Step:
        from coalign.loops.curation.pairs import preference_of, prompt_of

        corpus = context.corpus
        return choices.Pair(
            name,
            lambda row: prompt_of(corpus, row),
            self.by,
            lambda a, b: preference_of(corpus, a, b),
            self.gap,
            float("inf") if self.worst is None else self.worst,
        )


@dataclass(kw_only=True)
class TakeStep(NamedStep):
    """Keeps the first records; nothing more is read."""

    kind = "take"
    k: Count = required("how many")

    def make(self, name: str, context: Context) -> Step:
        return usual.Take(name, self.k)


STEPS: dict[str, type[NamedStep]] = {
    one.kind: one
    for one in (
        ExactStep, NearStep, NovelStep, TemplateStep, DiverseStep, AnchorStep, LengthStep, MatchStep, VerifyStep, QualityStep, JudgeStep, RewriteStep, AboveStep,
        TopStep, MixStep, SampleStep, PairStep, TakeStep,
    )
}  # fmt: skip
