"""Make `default-factuality`, the alignment function that comes with the package: a difference of low rank to `default-encoder`.

    python -m shipped.factuality --prose gsm8k/train.jsonl --unseen-prose tico-19.en --run runs/default-factuality

`coalign run alignscore --train` learns from drawn facts and from the questions of GSM8K (MIT; openai/grade-school-math); held
out are kinds of facts that no training text has, the sentences of TICO-19 (CC0; tico-19.github.io), and `written.jsonl`:
pairs written by hand. What is measured is what was written at low rank and half precision. A killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coalign.core.files import read_rows, stream_rows, write_json, write_rows
from coalign.core.runs import Run
from coalign.evaluation import alignscore
from coalign.evaluation.factuality.functions import FunctionOptions, load_function
from coalign.evaluation.factuality.model import load_pair_classifier, save_as_difference
from coalign.measures.detection import roc_auc
from coalign.models.files.defaults import SHIPPED
from coalign.models.files.loading import load_tokenizer
from shipped.stated_facts import ALIGNED, KINDS, PEOPLE, Pair, drawn_pair, prose_pair

UNSEEN_KINDS = 5
WRITTEN = Path(__file__).with_name("written.jsonl")


@dataclass(kw_only=True)
class Settings:
    """What is drawn, and how it is learned."""

    records: int = 9000
    held_out: int = 400
    epochs: float = 1.0
    learning_rate: float = 1e-4
    batch_size: int = 16
    rank: int = 16
    seed: int = 0


def prose_of(path: Path) -> list[list[str]]:
    """Texts of two to six sentences: a question without its last sentence, or four lines that follow each other."""
    if path.suffix == ".jsonl":
        split = (re.split(r"(?<=[.!?])\s+", row["question"].strip())[:-1] for _, row in stream_rows(path))
        return [lines[:6] for lines in split if len(lines) > 1]
    lines = [one for one in path.read_text(encoding="utf-8").splitlines() if 5 <= len(one.split()) <= 30]
    return [lines[start : start + 4] for start in range(0, len(lines) - 4, 4)]


def prose_pairs(texts: Sequence[list[str]], draw: random.Random) -> Iterator[Pair]:
    """Pairs without end, from texts in a drawn order."""
    while True:
        lines = draw.choice(texts)
        pair = prose_pair(lines, draw.randrange(len(lines)), draw, names=PEOPLE[:26])
        if pair is not None:
            yield pair


def measured(pairs: Sequence[Pair], model: Path) -> dict[str, float]:
    """Area under the curve of aligned against the rest, and the share on the right side of 0.5."""
    scores = load_function(FunctionOptions(str(model)))([(one.text, one.claim) for one in pairs]).scores
    labels = [one.label == ALIGNED for one in pairs]
    right = sum((score >= 0.5) == label for score, label in zip(scores, labels, strict=True))
    return {
        "pairs": len(pairs),
        "area under the curve": round(roc_auc(labels, scores), 3),
        "accuracy at 0.5": round(right / len(pairs), 3),
    }


def make(prose: Path, unseen_prose: Path, path: Path, settings: Settings) -> dict[str, Any]:
    """Draw, train, write, measure."""
    draw = random.Random(settings.seed)
    kinds = draw.sample(KINDS, len(KINDS))
    seen, unseen = kinds[UNSEEN_KINDS:], kinds[:UNSEEN_KINDS]
    written = prose_pairs(prose_of(prose), draw)
    pairs = [next(written) if number % 2 else drawn_pair(seen, draw) for number in range(settings.records)]
    records = path.parent / f"{path.name}.records.jsonl"
    write_rows(
        records,
        [{"task": "nli", "text_a": one.text, "text_b": one.claim, "orig_label": one.label} for one in pairs],
    )
    config = alignscore.Config(
        train=[str(records)], encoder="default-encoder", learning_rate=settings.learning_rate, epochs=settings.epochs,
        batch_size=settings.batch_size, max_length=256, seed=settings.seed, device="cpu",
    )  # fmt: skip
    run = Run.start(path, "alignscore", config, seed=settings.seed)
    if not run.model.is_dir():
        alignscore.run(config, run)
    model, max_length = load_pair_classifier(run.model)
    small = run.artefacts / "default-factuality"
    save_as_difference(
        model,
        load_tokenizer("default-encoder"),
        small,
        max_length=max_length,
        base="default-encoder",
        rank=settings.rank,
    )
    draw = random.Random(f"{settings.seed}/held out")
    other = prose_pairs(prose_of(unseen_prose), draw)
    figures = {
        "new kinds of facts": measured([drawn_pair(unseen, draw) for _ in range(settings.held_out)], small),
        "prose of another field, one thing changed": measured(
            [next(other) for _ in range(settings.held_out)], small
        ),
        "written by hand": measured([Pair(**row) for row in read_rows(WRITTEN)], small),
        "written by hand, before it was cut to low rank": measured(
            [Pair(**row) for row in read_rows(WRITTEN)], run.model
        ),
    }
    write_json(run.artefacts / "default-factuality.json", figures)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prose", type=Path, required=True)
    parser.add_argument("--unseen-prose", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/default-factuality"))
    for name, value in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    path = given.pop("run")
    figures = make(given.pop("prose"), given.pop("unseen_prose"), path, Settings(**given))
    print(json.dumps(figures, indent=1))
    print(
        f"Copy {path}/artefacts/default-factuality to {SHIPPED['default-factuality']} when these are at least its card's."
    )


if __name__ == "__main__":
    main()
