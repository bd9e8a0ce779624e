"""The reports of translating with a memory: scores by number of matches and by similarity; what a session learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coalign.core.files import read_rows, write_json
from coalign.core.runs import Run
from coalign.decoding.translation.files import Sentence
from coalign.decoding.translation.translator import AdaptiveTranslator
from coalign.measures.statistics import paired_bootstrap
from coalign.measures.texts.translation_metrics import TranslationScores, corpus_scores
from coalign.models.files.places import full_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import effect, estimate, judged, paired

BANDS = ((-1.0, 0.5), (0.5, 0.7), (0.7, 0.85), (0.85, 1.01))
"""Of the similarity of the best match."""
Rows = list[dict[str, Any]]


def write_translation_report(
    run: Run,
    config: Any,
    translator: AdaptiveTranslator,
    sentences: Sequence[Sentence],
    arms: dict[str, Rows],
) -> doc.Report:
    """Write `report.html`, `translations.json` with the scores, and the headline figures."""
    scored = all(one.target for one in sentences)
    scores = {name: _scores(rows, config) for name, rows in arms.items()} if scored else {}
    last = list(arms)[-1]
    measured = [_table(arms, scores), *_bands(arms), *_terms(arms)] if scored else []
    write_json(
        run.artefacts / "scores.json",
        {name: {**vars(one), **_shares(arms[name])} for name, one in scores.items()},
    )
    return publish(
        run,
        config,
        title=f"{config.source_language} to {config.target_language} with a translation memory",
        verdict=_headline(arms, scores) if scored else _unscored(sentences, arms),
        facts={
            "Model": full_name(config.endpoint_model or config.model),
            "Sentences": str(len(sentences)),
            "Memory": f"{len(translator.memory)} entries"
            + (", the sentences themselves" if not config.memory else ""),
            "Glossary": f"{len(translator.glossary)} terms",
            "Seed": str(config.seed),
        },
        sections=[*measured, _similarities(arms), _samples(arms, scored), *_notes(scores)],
        headline=f"chrF++ {scores[last].chrf:.1f} with {last}"
        if scored
        else f"{len(sentences)} sentences translated",
        figures={name: {"bleu": one.bleu, "chrf": one.chrf, "ter": one.ter} for name, one in scores.items()},
    )


def write_session_report(run: Run, config: Any, translator: AdaptiveTranslator) -> doc.Report:
    """Write the report of interactive work: how often proposals were accepted, what was corrected."""
    rows = read_rows(run.artefacts / "session.jsonl", repair=True)
    decided = [row for row in rows if row["final"]]
    accepted = sum(row["accepted"] for row in decided)
    share = accepted / len(decided) if decided else None
    text = (
        f"{len(decided)} sentences entered the memory: {accepted} as proposed, {len(decided) - accepted} corrected. "
        f"{len(rows) - len(decided)} were left out."
    )
    return publish(
        run,
        config,
        title=f"{config.source_language} to {config.target_language} with a translator",
        verdict=doc.Headline(
            "neutral", text, [doc.Figure("Accepted as proposed", share, unit="percent", better="neither")]
        ),
        facts={
            "Model": full_name(config.endpoint_model or config.model),
            "Memory": f"{len(translator.memory)} entries",
        },
        sections=[
            doc.TableSection(
                "Decisions",
                columns=["source", "proposal", "final", "best match"],
                rows=[
                    [
                        row["source"],
                        row["proposal"],
                        row["final"] or "(left out)",
                        row["matches"][0][1] if row["matches"] else None,
                    ]
                    for row in rows
                ],
                units={"best match": "percent"},
            )
        ],
        headline=f"{len(decided)} sentences learnt",
        figures={"accepted": share},
    )


def _scores(rows: Rows, config: Any) -> TranslationScores:
    return corpus_scores(
        [row["translation"] for row in rows],
        [row["reference"] for row in rows],
        tokens=config.bleu_tokens,
        language=config.codes[1],
    )


def _shares(rows: Rows) -> dict[str, float | None]:
    counted = sum(row["terms_counted"] for row in rows)
    used = sum(row["terms_used"] for row in rows)
    return {
        "terms_counted": counted,
        "term_usage": used / counted if counted else None,
        "copied": sum(row["copied"] for row in rows) / len(rows),
        "empty": sum(not row["translation"] for row in rows) / len(rows),
    }


def _headline(arms: dict[str, Rows], scores: dict[str, TranslationScores]) -> doc.Headline:
    first, last = next(iter(arms)), list(arms)[-1]
    after = scores[last]
    if first == last:
        text = f"With {last} the translations reach {after.chrf:.1f} chrF++ and {after.bleu:.1f} BLEU."
        return doc.Headline(
            "neutral", text, [doc.Figure("chrF++", after.chrf), doc.Figure("BLEU", after.bleu)]
        )
    before = scores[first]
    change = estimate(paired_bootstrap(_chrf(arms[first]), _chrf(arms[last])))
    said = effect(change, "higher")
    text = f"With {last} the translations reach {after.chrf:.1f} chrF++, {before.chrf:.1f} with {first}."
    if said != "better":
        text += (
            " They got worse." if said == "worse" else " The interval of the change does not exclude zero."
        )
    note = "difference: mean over sentences"
    return judged(
        change,
        text,
        [
            doc.Figure("chrF++", after.chrf, before=before.chrf, difference=change, note=note),
            doc.Figure("BLEU", after.bleu, before=before.bleu),
            doc.Figure("TER", after.ter, before=before.ter, better="lower"),
        ],
        n=len(arms[last]),
    )


def _unscored(sentences: Sequence[Sentence], arms: dict[str, Rows]) -> doc.Headline:
    return doc.Headline(
        "neutral",
        f"{len(sentences)} sentences were translated in {len(arms)} ways. There are no references, so nothing is scored.",
    )


def _table(arms: dict[str, Rows], scores: dict[str, TranslationScores]) -> doc.TableSection:
    shown = ("term_usage", "copied", "empty")
    shares = {name: [_shares(rows)[one] for one in shown] for name, rows in arms.items()}
    made = [[name, one.bleu, one.chrf, one.ter, *shares[name]] for name, one in scores.items()]
    return doc.TableSection(
        "Scores by number of matches",
        note="Corpus scores by sacrebleu; TER: lower is better. Terms used: of those whose target side the reference "
        "has. Copied: the translation of a match, word for word.",
        columns=["examples", "BLEU", "chrF++", "TER", "terms used", "copied", "empty"],
        rows=made,
        units={"terms used": "percent", "copied": "percent", "empty": "percent"},
    )


def _bands(arms: dict[str, Rows]) -> list[doc.AnySection]:
    """chrF++ by how similar the best match is: first way against last."""
    names = list(arms)
    if len(names) < 2:
        return []
    first, last = names[0], names[-1]
    pairs = list(zip(arms[first], arms[last], strict=True))
    made = [_row("all", pairs, emphasis=True)]
    for low, high in BANDS:
        inside = [pair for pair in pairs if low <= _similarity(pair[1]) < high]
        if inside:
            label = f"below {high:g}" if low < 0 else f"{low:g} to {min(high, 1.0):g}"
            made.append(_row(label, inside))
    return [
        doc.Comparison(
            "chrF++ by similarity of the best match",
            note="Mean of sentence scores with bootstrap intervals; the change is paired by sentence.",
            names=(first, last),
            rows=made,
        )
    ]


def _row(name: str, pairs: Sequence[Any], *, emphasis: bool = False) -> doc.ComparisonRow:
    before, after = ([pair[side]["chrf"] for pair in pairs] for side in (0, 1))
    return paired(name, before, after, unit="number", emphasis=emphasis)


def _terms(arms: dict[str, Rows]) -> list[doc.AnySection]:
    """Terms that were wanted and missing with the last way."""
    rows = list(arms.values())[-1]
    missing = [
        [row["source"], ", ".join(f"{one} = {other}" for one, other in row["terms"]), row["translation"]]
        for row in rows
        if row["terms_used"] < row["terms_counted"]
    ]
    if not missing:
        return []
    return [
        doc.TableSection(
            "Sentences that lack a term",
            note=f"With {list(arms)[-1]}; the first 50.",
            columns=["source", "terms in the prompt", "translation"],
            rows=missing[:50],
        )
    ]


def _similarities(arms: dict[str, Rows]) -> doc.Distribution:
    rows = list(arms.values())[-1]
    return doc.Distribution(
        "Similarity of the best match",
        note="Many values near 1 mean near-duplicates, which flatter the scores: max_similarity leaves them out.",
        samples=[doc.Values("best match", [row["similarity"] for row in rows])],
        x_label="similarity",
    )


def _samples(arms: dict[str, Rows], scored: bool) -> doc.Samples:
    rows = list(zip(*arms.values(), strict=True))
    return doc.Samples(
        "Translations side by side",
        columns=list(arms),
        rows=[
            doc.Sample(
                one[0]["source"] + (f"\n{one[0]['reference']}" if scored else ""),
                [doc.Output(each["translation"], each.get("chrf")) for each in one],
                tags=[f"best match {_similarity(one[-1]):.2f}"] if one[-1]["similarity"] is not None else [],
            )
            for one in rows
        ],
        score_name="chrF++",
        unit="number",
        note="Below each source its reference." if scored else "",
    )


def _notes(scores: dict[str, TranslationScores]) -> list[doc.AnySection]:
    if not scores:
        return []
    signatures = next(iter(scores.values())).signatures
    return [doc.Text("Signatures", paragraphs=[f"{name}: {one}" for name, one in signatures.items()])]


def _similarity(row: dict[str, Any]) -> float:
    return -1.0 if row["similarity"] is None else row["similarity"]


def _chrf(rows: Rows) -> list[float]:
    return [row["chrf"] for row in rows]
