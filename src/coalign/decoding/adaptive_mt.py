"""Adaptive machine translation: a translation memory and a glossary in the prompt, so that a model follows them at once.

Adaptive Machine Translation with Large Language Models (arXiv 2301.13294). For each sentence the most similar entries of
the memory become examples in the prompt, the best one next to the sentence; terms of a glossary and a draft of another
translation system can be added. Nothing is trained, and a corrected sentence helps from the next one on.

    coalign run adaptive-mt --data new.tsv --memory memory.tmx --glossary terms.tsv
    coalign run adaptive-mt --interactive --memory memory.tmx

Without `--memory` each sentence of `--data` is translated with the others as memory, as in the paper. What differs:
matches go by position, never by the text, so that a repeated source is not its own match; spBLEU falls back to 13a
tokens where its tokeniser cannot be fetched, and says so. The paper's formats for terms and drafts are not in its
repository: the labels are options. COMET is left to its own package.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from coalign.core.errors import ConfigError
from coalign.core.files import read_rows
from coalign.core.options import Count, CountOrZero, option
from coalign.core.runs import Run
from coalign.decoding.translation.files import (
    read_glossary,
    read_sentences,
    write_tmx,
    write_tsv,
)
from coalign.decoding.translation.memory import TranslationUnit
from coalign.decoding.translation.prompts import Term
from coalign.decoding.translation.report import write_session_report, write_translation_report
from coalign.decoding.translation.runs import translate_arms
from coalign.decoding.translation.session import run_session, typed
from coalign.decoding.translation.translator import AdaptiveTranslator, TranslationOptions, open_memory
from coalign.measures.texts.translation_metrics import BleuTokens
from coalign.models.backends.open import open_generator
from coalign.models.backends.options import BackendOptions
from coalign.models.options import ModelOptions
from coalign.training.distributed.leading import led


@dataclass(kw_only=True)
class Config(TranslationOptions, ModelOptions, BackendOptions):
    """Options of `coalign run adaptive-mt`."""

    __group__ = "Method"

    data: list[Path] = option(
        [],
        "sentences to translate: TMX, TSV, JSONL or text; two text files: sources and references, line by line",
    )
    memory: list[Path] = option(
        [], "translation memory, in the same forms; by default the other sentences of the data"
    )
    glossary: Path | None = option(None, "terms: TSV (source, target) or TMX")
    shots: list[CountOrZero] = option(
        [0, 5],
        "numbers of fuzzy matches in the prompt; each is tried, and interactive work takes the last one",
    )
    random_shots: CountOrZero = option(0, "also try so many examples drawn at random, the paper's baseline")
    adapt: bool = option(
        False,
        "take the reference of each sentence into the memory once it is translated, as corrections come",
    )
    interactive: bool = option(
        False, "work with a translator: sentences of the data, or typed ones, with a correction after each"
    )
    limit: Count | None = option(None, "only the first so many sentences")
    bleu_tokens: BleuTokens = option(
        "auto",
        "tokeniser of BLEU; auto: that of Chinese, Japanese or Thai, else flores200 (spBLEU) where it can be had, else 13a",
        source="paper",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_training()
        if not self.shots:
            raise ValueError("shots is empty: give a number of matches")
        if self.interactive and (self.adapt or self.random_shots):
            raise ValueError(
                "adapt and random_shots have no effect with interactive: corrections are learnt anyway"
            )
        if self.adapt and not self.memory:
            raise ValueError("adapt needs a memory to begin with: without one the data is its own memory")


@led
def run(config: Config, run: Run) -> None:
    """Translate in every way asked for, score, report; or work with a translator.

    Raises:
        DataError: files that cannot be used.
        MissingExtraError: the extra `translation` is not installed.
    """
    if not config.data and not (config.interactive and config.memory):
        needed = "a memory, or data" if config.interactive else "data: sentences to translate"
        raise ConfigError(
            f"adaptive-mt needs {needed}.", hint="Give --data FILE, or --interactive --memory FILE."
        )
    glossary = read_glossary(config.glossary, config.codes) if config.glossary else []
    if config.interactive:
        _interact(config, run, glossary)
        return
    own = not config.memory
    sentences = read_sentences(config.data, config.codes, targets=own or config.adapt)[: config.limit]
    units = sentences if own else read_sentences(config.memory, config.codes, targets=True)
    if config.mt != "none" and not all(
        one.mt for one in [*sentences, *(units if config.mt == "all" else [])]
    ):
        raise ConfigError(f"mt: {config.mt} needs a draft in the column mt of every sentence and entry.")
    translator = open_translator(config, [one.unit for one in units], glossary, own=own)
    arms = translate_arms(run, config, translator, sentences)
    write_translation_report(run, config, translator, sentences, arms)


def open_translator(
    config: Config, units: list[TranslationUnit], glossary: list[Term], *, own: bool, **more: Any
) -> AdaptiveTranslator:
    """The model and a memory of `units`."""
    chat = config.prompt == "chat" or (config.prompt == "auto" and config.chosen_backend == "endpoint")
    memory = open_memory(config, units, **more)
    return AdaptiveTranslator(open_generator(config), memory, glossary, config, chat=chat, own=own)


def _interact(config: Config, run: Run, glossary: list[Term]) -> None:
    """Sentences of the data one by one, or typed ones; what was learnt is kept in the run folder."""
    units = read_sentences(config.memory, config.codes, targets=True) if config.memory else []
    journal = run.artefacts / "memory.jsonl"
    translator = open_translator(config, [one.unit for one in units], glossary, own=False, journal=journal)
    decided = len(read_rows(run.artefacts / "session.jsonl", repair=True))
    sentences = (
        read_sentences(config.data, config.codes, targets=False)[: config.limit]
        if config.data
        else typed(sys.stdin, lambda: click.echo("sentence> ", nl=False), first=decided)
    )

    def ask(prompt: str) -> str:
        click.echo(prompt, nl=False)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line

    run_session(run, translator, sentences, config.shots[-1], ask=ask, show=click.echo)
    write_tmx(run.path / "memory.tmx", translator.memory.units, config.codes)
    write_tsv(run.path / "memory.tsv", translator.memory.units)
    click.echo(f"Memory: {run.path / 'memory.tmx'}, {len(translator.memory)} entries")
    write_session_report(run, config, translator)
