"""DPO, IPO, KTO and CPO compared: which loss, whether fine-tuning must come first, how many pairs are enough.

Insights into Alignment: Evaluating DPO and its Variants Across Multiple Tasks (arXiv 2404.14723).

    coalign run dpo-insights --data pairs.jsonl --model default

A controlled study: every objective from every start point on growing shares of the same pairs, one evaluation. The
objectives are those of `preference.pairwise` and `preference.binary`; this module only names what is compared. The
reference is the start point of the alignment stage. KTO learns from single responses: every pair gives it two
records, so that methods are compared at equal pairs, not at equal steps.

Reconstruction: the paper has no public code, and its search over constants could not be confirmed; defaults are
those of common libraries. IPO takes summed log-ratios as in its paper, where tau = 0.1 asks for 5 nats a response;
averaged (`length_normalised`) the same tau asks for 5 nats a token, which no model reaches, so raise it then.
"""

from __future__ import annotations

OBJECTIVES = ("dpo", "ipo", "kto", "cpo")
"""The compared objectives, by the names they are registered under."""

START_POINTS = ("fine-tuned", "pretrained", "instruction-tuned")
"""Fine-tuned by us and then aligned; aligned without fine-tuning, from a base and from an instruction model."""
