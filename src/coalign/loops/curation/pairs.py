"""Preferences out of rated responses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from coalign.core.errors import CoalignError
from coalign.data.records import responses_of
from coalign.loops.rows import Row

if TYPE_CHECKING:
    from coalign.data.records import Record
    from coalign.loops.curation.corpus import Corpus


def prompt_of(corpus: Corpus, row: Row) -> str:
    """What the responses that are compared have in common."""
    return json.dumps(_record(corpus, row).prompt, sort_keys=True)


def preference_of(corpus: Corpus, best: Row, worst: Row) -> Row:
    """The preference of two rated responses to one prompt."""
    record, other = _record(corpus, best), _record(corpus, worst)
    (chosen, *_), (rejected, *_) = responses_of(record), responses_of(other)
    return {"prompt": record.prompt, "chosen": chosen, "rejected": rejected}


def _record(corpus: Corpus, row: Row) -> Record:
    record = corpus.record(row)
    if record is None or not responses_of(record):
        raise CoalignError(f"Record {row['id']}: pair: no prompt with a response, expected both.")
    return record
