"""The report of a search by description: what was found, what the labeller said, how the trainings went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.files import parse_json
from coalign.core.runs import Run
from coalign.data.media.records import MediaSet
from coalign.loops.rounds import Round, timings
from coalign.report.model import Command, Figure, Headline, TableSection, Unit
from coalign.report.page import publish
from coalign.report.parts import counted, curves, too_few
from coalign.report.pictures import Shown, gallery, thumbnail
from coalign.vision.search.lexicon import Lexicon

LABELLED, SEARCHED, FOUND = 24, 20, 5
"""Pictures with their pseudo-texts, queries, and pictures of a query that are shown."""
STAGES = ("build", "fit", "evaluate")
CHARTS = (
    ("loss", "Loss"),
    ("contrastive", "Contrastive loss"),
    ("words", "Cross-entropy of masked words"),
    ("ranking", "Ranking loss"),
    ("identity", "Identity loss"),
)
TRAINED = {"pretrained": "after pretraining", "tuned": "after fine-tuning"}


def write_search_report(
    config: Any,
    run: Run,
    round: Round,
    lexicon: Lexicon,
    data: MediaSet,
    captioned: MediaSet | None,
    test: MediaSet | None,
) -> None:
    """Write the report, the model card and the headline."""
    texts = round.read("pseudo_texts")
    trained = not config.label_only
    found: dict[str, dict[str, Any]] = {}
    if trained:
        found = parse_json(round.path("retrieval", ".json").read_text(encoding="utf-8"))
    histories = {
        name: round.read(f"history-{name}")
        for name in (["pretraining"] if trained else []) + (["fine-tuning"] if captioned is not None else [])
    }
    left_out = sum(len(one.problems) for one in (data, captioned, test) if one is not None)
    then = "train on the pseudo-texts" if config.label_only else "see these figures in the terminal"
    publish(
        run,
        config,
        title="Pictures found by a description" if found else "Pictures described by a lexicon",
        facts={"Labeller": config.model, "Data": config.data, "Seed": str(config.seed)},
        verdict=_headline(found, texts),
        sections=[
            *_retrieval(found),
            *_queries(round, test),
            *_attributes(lexicon, texts),
            *_sentences(texts),
            *_labelled(texts, data),
            *curves(CHARTS, histories),
        ],
        notes=[f"{left_out} pictures could not be used and are left out."] if left_out else [],
        rounds=timings([round], [one for one in STAGES if round.is_done(one)]),
        limitations=[
            "Attributes are what the labeller says, and its errors are in the pseudo-texts: look at the pictures above.",
            "Equal scores are ranked pessimistically: a picture of another identity with the same score stands first.",
            "Pictures of persons are personal data; this page holds thumbnails of them.",
        ],
        then=[Command(f"coalign report {run.path}", then)],
        figures=found[list(found)[-1]] if found else {"pictures": len(texts)},
        trained_on=_trained_on(config, data, captioned) if trained else None,
    )


def _trained_on(config: Any, data: MediaSet, captioned: MediaSet | None) -> str:
    tuned = (
        f", then on {len(captioned)} captioned pictures of {config.captions}" if captioned is not None else ""
    )
    return (
        f"{len(data)} pictures of {config.data} with texts made of phrases that {config.model} chose{tuned}. The folder"
        " holds both towers; `TwoTowers.load` reads it."
    )


def _headline(found: Mapping[str, Mapping[str, Any]], texts: Sequence[Mapping[str, Any]]) -> Headline:
    if not found:
        said = len({text for row in texts for text in row["captions"]})
        text = f"{len(texts):,} pictures have pseudo-texts, {said:,} different ones."
        return Headline(
            "neutral",
            text,
            [Figure("Pictures", len(texts), unit="integer"), Figure("Different texts", said, unit="integer")],
        )
    first, last = next(iter(found.values())), found[list(found)[-1]]
    text = f"Of {last['queries']:,} texts {last['Rank-1']:.1%} find a picture of their identity first among {last['gallery']:,}"
    text += f"; before fine-tuning {first['Rank-1']:.1%}." if len(found) > 1 else "."
    names = [name for name in last if name.startswith("Rank-")] + ["mAP"]
    figures = [
        Figure(name, last[name], unit="percent", before=first[name] if len(found) > 1 else None)
        for name in names
    ]
    return Headline("neutral", text + too_few(last["queries"]), figures)


def _retrieval(found: Mapping[str, Mapping[str, Any]]) -> list[TableSection]:
    if not found:
        return []
    names = list(next(iter(found.values())))
    units: dict[str, Unit] = {name: "percent" for name in names if name.startswith("Rank-") or name == "mAP"}
    return [
        TableSection(
            title="Texts over the gallery",
            note="Rank-k: a picture of the identity is among the first k. mAP counts all of its pictures.",
            columns=["towers", *names],
            rows=[[TRAINED[stage], *figures.values()] for stage, figures in found.items()],
            units={**units, "queries": "integer", "gallery": "integer"},
        )
    ]


def _queries(round: Round, test: MediaSet | None) -> Sequence[Any]:
    """Queries with the first pictures that they found, the worst first."""
    rows = round.read("evaluate") if test is not None else []
    pictures = {one.id: one.picture for one in test.records} if test is not None else {}
    rows.sort(key=lambda row: -row["rank"])

    def shown(row: Mapping[str, Any]) -> Shown:
        found = [
            thumbnail(pictures[name].open(), "right" if right else "other", side=96)  # type: ignore[union-attr]
            for name, right in list(zip(row["found"], row["right"], strict=True))[:FOUND]
        ]
        return Shown(found, row["query"], {"rank": row["rank"]}, tone="good" if row["rank"] == 1 else "bad")

    half = SEARCHED // 2
    kept = rows if len(rows) <= SEARCHED else [*rows[:half], *rows[-half:]]
    return gallery(
        "Found",
        (shown(row) for row in kept),
        note=f"The first {FOUND} pictures of a text; the hardest texts first, the easiest last.",
        total=len(rows),
    )


def _attributes(lexicon: Lexicon, texts: Sequence[Mapping[str, Any]]) -> list[TableSection]:
    rows: list[list[Any]] = []
    for category in lexicon.categories:
        said = Counter(row["phrases"][category.name] for row in texts if category.name in row["phrases"])
        sure = [row["sure"][category.name] for row in texts]
        common = ", ".join(f"{phrase} {count / len(texts):.0%}" for phrase, count in said.most_common(4))
        rows.append([category.name, said.total() / len(texts), sum(sure) / len(sure), common])
    return [
        TableSection(
            title="What the labeller says",
            note="A category of which one phrase holds nearly always tells pictures not apart; one that is never said may need"
            " other phrases or a lower threshold.",
            columns=["category", "said of", "how sure", "phrases"],
            rows=rows,
            units={"said of": "percent", "how sure": "percent"},
        )
    ]


def _sentences(texts: Sequence[Mapping[str, Any]]) -> list[TableSection]:
    """The pseudo-texts that most pictures share: in one batch they are negatives of each other, unless that is turned off."""
    counts = Counter(text for row in texts for text in row["captions"])
    shared = {text: count for text, count in counts.most_common(10) if count > 1}
    if not shared:
        return []
    equal = sum(count for count in counts.values() if count > 1)
    note = f"{equal:,} of {counts.total():,} pseudo-texts equal another one; --equal-captions positives makes pairs of them."
    return [counted("Texts of several pictures", ("text", "pictures"), shared, note=note)]


def _labelled(texts: Sequence[Mapping[str, Any]], data: MediaSet) -> Sequence[Any]:
    return gallery(
        "Pseudo-texts",
        (
            Shown([thumbnail(record.picture.open(), side=96)], row["captions"][0])  # type: ignore[union-attr]
            for row, record in zip(texts[:LABELLED], data.records, strict=False)
        ),
        total=len(texts),
    )
