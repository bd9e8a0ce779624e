"""Reports: what became of rules and replies on the way to verified records, and the scores of a benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.curation.instructions.benchmark import ALL, Item, Scored
from coalign.loops.pipeline import Curated
from coalign.loops.pipeline_report import funnel, pipeline_sections
from coalign.loops.rows import Row
from coalign.models.files.places import short_name
from coalign.report import model as doc
from coalign.report.page import publish

COLUMNS = {
    "loose_instruction_score": "rules, loose",
    "strict_instruction_score": "rules, strict",
    "loose_prompt_score": "all rules, loose",
    "strict_prompt_score": "all rules, strict",
    "answer_score": "answers",
    "average": "average",
}


def write_data_report(
    run: Run, config: Any, parts: Mapping[str, Curated], supervisor: str, notes: Sequence[str]
) -> None:
    """Write `report.html` and the headline of the records that were made.

    Args:
        parts: title to pipeline, in their order; the last made the records.
    """
    *before, (_, last) = parts.items()
    made = list(last.rows())
    kept = len(made)
    rules = len({row["made_of"]["rule"] for row in made})
    pools = Counter(row["made_of"]["pool"] for row in made)
    checks = parts.get("Verifiers")
    publish(
        run,
        config,
        title=f"Verified instructions by {supervisor}",
        verdict=doc.Headline(
            "neutral",
            f"{kept:,} verified records under {rules:,} rules"
            + (f", {pools['rag']:,} of them with passages." if pools["rag"] else "."),
        ),
        facts={"Supervisor": supervisor, "Seed": str(config.seed)},
        sections=[
            *(funnel(done.manifest, title=f"{title}: what came of them") for title, done in before),
            *([_support(checks)] if checks is not None else []),
            *pipeline_sections(last, _text, title="Replies"),
        ],
        notes=notes,
        limitations=[
            "Verifiers that a model wrote are checked against each other, not against people.",
            "The rating of replies is the supervisor's own.",
        ],
        then=[
            doc.Command(
                f"coalign run sft --data {run.path}",
                "train a model on the records; add --data for others to mix in",
            ),
            doc.Command(f"coalign data check {run.path}", "see the records as a model is trained on them"),
        ],
        figures={"records": kept, "rules": rules},
    )


def write_benchmark_report(
    run: Run,
    config: Any,
    items: Sequence[Item],
    responses: Sequence[str],
    scored: Sequence[Scored],
    scores: Mapping[str, Mapping[str, float]],
    unread: int,
) -> None:
    """Write `report.html` and the headline of a model's scores.

    Args:
        unread: answers of which the judge's rating could not be read.
    """
    whole = scores[ALL]
    judged = sum(one.answer is not None for one in scored)
    answers = f" Answers: {whole['answer_score']:.2f} of {judged}." if "answer_score" in whole else ""
    publish(
        run,
        config,
        title=f"Rules and answers of {short_name(config.model)}"
        if not config.responses
        else "Rules and answers",
        verdict=doc.Headline(
            "neutral",
            f"{whole['loose_instruction_score']:.2f} % of the rules are followed (loose), "
            f"{whole['strict_instruction_score']:.2f} % strictly, over {len(items)} prompts.{answers}",
            [
                doc.Figure(label, whole[name], unit="number")
                for name, label in COLUMNS.items()
                if name in whole
            ],
        ),
        facts={
            "Model": "given responses" if config.responses else str(config.model),
            "Prompts": str(len(items)),
        },
        sections=[
            _score_table("Scores", scores),
            _score_table("By number of rules", _by(scored, lambda one: str(len(one.followed.strict)))),
            _rule_table(items, scored),
            _samples(items, responses, scored),
        ],
        notes=[f"{unread} ratings of answers could not be read; they are in no mean."] if unread else [],
        limitations=[
            "Loose: one of eight forms of the response follows the rule (without first or last line, without stars).",
            *(
                []
                if config.judge
                else ["An answer counts as right when a reference answer stands in it as whole words."]
            ),
        ],
        figures=dict(whole),
    )


def _support(done: Curated) -> doc.TableSection:
    facts = [note for one in done.provenance for note in one["steps"] if "supported once" in note]
    cases, alone = (sum(one[name] for one in facts) for name in ("cases", "supported once"))
    share = alone / cases if cases else None
    rows = [
        ["rules with verifiers", len(facts)],
        ["programs kept", sum(one["kept"] for one in facts)],
        ["programs tried", sum(one["programs"] for one in facts)],
        ["cases kept", cases],
        ["of these, share with a single supporter", share],
    ]
    return doc.TableSection("Written verifiers", columns=["what", "number"], rows=rows)


def _score_table(title: str, scores: Mapping[str, Mapping[str, float]]) -> doc.TableSection:
    names = [name for name in COLUMNS if any(name in one for one in scores.values())]
    return doc.TableSection(
        title,
        columns=["", *(COLUMNS[name] for name in names)],
        rows=[[kind, *(one.get(name) for name in names)] for kind, one in scores.items()],
    )


def _by(scored: Sequence[Scored], key: Any) -> dict[str, dict[str, float]]:
    from coalign.curation.instructions.benchmark import benchmark_scores

    groups: dict[str, list[Scored]] = {}
    for one in scored:
        groups.setdefault(key(one), []).append(one)
    return {name: benchmark_scores(groups[name])[ALL] for name in sorted(groups)}


def _rule_table(items: Sequence[Item], scored: Sequence[Scored]) -> doc.TableSection:
    found: dict[str, list[tuple[bool, bool]]] = {}
    for item, one in zip(items, scored, strict=True):
        for rule, strict, loose in zip(item.rules, one.followed.strict, one.followed.loose, strict=True):
            found.setdefault(rule.verifier, []).append((loose, strict))
    rows = [
        [name, len(each), *(100 * sum(column) / len(each) for column in zip(*each, strict=True))]
        for name, each in sorted(found.items())
    ]
    return doc.TableSection("By rule", columns=["rule", "prompts", "loose", "strict"], rows=rows)


def _samples(items: Sequence[Item], responses: Sequence[str], scored: Sequence[Scored]) -> doc.Samples:
    rows = [
        doc.Sample(
            item.text,
            [doc.Output(text, sum(one.followed.loose) / len(one.followed.loose))],
            tags=[
                f"{'follows' if done else 'breaks'}: {rule.describe()}"
                for rule, done in zip(item.rules, one.followed.loose, strict=True)
            ],
        )
        for item, text, one in list(zip(items, responses, scored, strict=True))[:100]
    ]
    return doc.Samples(
        "Responses",
        note="The first 100. Score: share of the rules that are followed loosely.",
        columns=["Response"],
        rows=rows,
        unit="number",
    )


def _text(row: Row) -> str:
    if "completion" in row:
        return f"{row['prompt']}\n\n→ {row['completion']}"
    asked = f"{row.get('query', '')}\n[{row['rule']}]"
    answer = row.get("reply") or "\n\n".join(row.get("replies", ()))
    return f"{asked}\n\n→ {answer}" if answer else asked
