"""Sixty everyday questions that a general assistant could answer in a few lines; no trick, nothing harmful."""

from __future__ import annotations

from coalign.checks.worlds.texts import read_texts

QUESTIONS: list[str] = read_texts("everyday_questions")
