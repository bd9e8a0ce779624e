"""Which risks are evaluated, on which questions."""

from __future__ import annotations

from dataclasses import dataclass

from coalign.core.options import Count, OptionGroup, option
from coalign.guide.risks.suite import Risk

ALWAYS: tuple[Risk, ...] = ("factuality", "ethics", "bias", "general")
ACT_ON: dict[Risk, list[str]] = {
    "factuality": ["facts", "passages"],
    "ethics": ["ethics"],
    "bias": ["bias"],
    "general": ["instructions"],
    "toxicity": ["toxicity"],
    "adversarial": ["requests"],
    "inner": ["queries", "tier_samples", "tier_tokens"],
}
"""Options that act on one risk alone."""


@dataclass(kw_only=True)
class RiskOptions(OptionGroup):
    """Which risks, on which questions."""

    __group__ = "Risks"

    risks: list[Risk] = option(
        [],
        "which are evaluated; by default factuality, ethics, bias, general, and those for which something is given",
    )
    facts: str | None = option(None, "questions of fact (TruthfulQA's columns); by default our own")
    passages: str | None = option(
        None, "texts with a question each, or to be summed up, whose answers are checked against them"
    )
    consistency: str = option(
        "alignscore-base",
        "what checks them: alignscore-base or -large, or an NLI classifier (hub id, folder or run of alignscore)",
        source="alignscore",
        only_with="passages",
    )
    ethics: str | None = option(None, "judgments (ETHICS' columns); by default our own")
    bias: str | None = option(
        None, "pairs of sentences or questions (CrowS-Pairs, StereoSet, BBQ); by default our own pairs"
    )
    instructions: str | None = option(None, "prompts with constraints; by default our own")
    openings: str | None = option(
        None, "texts to continue (RealToxicityPrompts' column); by default our own", only_with="toxicity"
    )
    toxicity: str | None = option(
        None,
        "what says how toxic a text is: a text classifier (hub id or folder), or a function file.py:NAME",
    )
    toxicity_label: str | None = option(
        None, "the classifier's label that means toxic, where its name does not say so", only_with="toxicity"
    )
    samples: Count = option(
        25, "continuations of each text", source="RealToxicityPrompts", only_with="toxicity"
    )
    requests: str | None = option(None, "requests that should be refused, for attacks in other tenses")
    attempts: Count = option(20, "tries a request, each condition", source="past-tense", only_with="requests")
    reformulator: str | None = option(
        None,
        "model that puts them into other tenses: `default`, a hub id or a folder",
        only_with="requests",
    )
    reformulations: str | None = option(
        None,
        "in its place a file: rows with id or request, and lists past and future",
        only_with="requests",
    )
    queries: Count | None = option(None, "only so many queries in the two tiers of `inner`")
    tier_samples: Count = option(10, "answers to each of them in each tier", source="alignment-faking")
    tier_tokens: Count = option(2048, "most tokens of such an answer", source="alignment-faking")
    limit: Count | None = option(None, "only so many questions of each risk")
    max_new_tokens: Count = option(128, "most tokens of an answer to an instruction or on a text")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len({*self.risks}) < len(self.risks):
            raise ValueError(f"risks: {', '.join(self.risks)} names one twice")
        needs = {"toxicity": self.toxicity, "adversarial": self.requests}
        for risk, given in needs.items():
            if risk in self.risks and given is None:
                raise ValueError(f"risks: {risk} needs {'toxicity' if risk == 'toxicity' else 'requests'}")
        if self.requests is not None and (self.reformulator is None) == (self.reformulations is None):
            raise ValueError(
                "requests needs one of reformulator and reformulations: who puts them into other tenses"
            )
        for risk, names in ACT_ON.items():
            if risk not in self.wanted:
                self.refuse(names, f"without the risk {risk}")
        if "general" not in self.wanted and self.passages is None:
            self.refuse(["max_new_tokens"], "without instructions or passages")
        if self.wanted == ("inner",):
            self.refuse(["limit"], "on the risk inner")

    @property
    def wanted(self) -> tuple[Risk, ...]:
        """The risks that are evaluated."""
        if self.risks:
            return tuple(self.risks)
        more: tuple[Risk, ...] = (
            *(("toxicity",) if self.toxicity else ()),
            *(("adversarial",) if self.requests else ()),
        )
        return (*ALWAYS, *more)
