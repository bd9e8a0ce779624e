"""The four pipelines from seed rules to verified replies, as steps over records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from coalign.curation.instructions import rules as words
from coalign.curation.instructions.queries import Query
from coalign.curation.instructions.rules import Rule
from coalign.curation.instructions.written import (
    CrossChecked,
    Execute,
    agreement,
    cross_validate,
    verifier_request,
)
from coalign.judging.verifiers.constraints import Constraint
from coalign.loops.pipeline import Kept, Made, Rejected
from coalign.loops.rows import Row
from coalign.loops.steps.models import Ask
from coalign.loops.steps.usual import Distinct, Filter, Rewrite
from coalign.measures.texts.text_units import fold
from coalign.models.types import leaves_room

if TYPE_CHECKING:
    from coalign.data.records import Messages
    from coalign.models.types import Generation, Generator, Sampling

MULTIPLE, CHAIN = "multiple constraints", "chain rule"


@dataclass(frozen=True, kw_only=True)
class Supervisor:
    """The model that writes and rates.

    Attributes:
        open_model: opens it; it stays open from one step to the next.
        sampling: of what it writes; the number of samples is each step's own.
        batch: requests at a time.
        name: what the manifest calls it.
    """

    open_model: Callable[[], Generator]
    sampling: Sampling
    batch: int
    name: str

    def ask(
        self,
        name: str,
        request: Callable[[Row], str],
        read: Callable[[Row, list[str]], list[Made]],
        n: int = 1,
    ) -> Ask:
        """A step that asks for `n` texts about every record. Texts that ran out of tokens are not read."""

        def prompt(row: Row) -> Messages:
            return [{"role": "user", "content": request(row)}]

        def whole(row: Row, samples: Sequence[Generation]) -> list[Made]:
            texts = [one.text for one in samples if one.finish_reason != "length"]
            return read(row, texts) if texts else [Rejected(row, "cut off")]

        return Ask(
            name,
            self.open_model,
            prompt,
            whole,
            replace(self.sampling, n=n),
            batch=self.batch,
            model=self.name,
        )

    def fits(self, name: str, request: Callable[[Row], str]) -> Filter:
        """Rejects records whose request leaves no room for an answer in the model's context, where the back end says how long
        that is: one that is too long would end the run.
        """

        def too_long(row: Row) -> str | None:
            prompt: Messages = [{"role": "user", "content": request(row)}]
            fits = leaves_room(self.open_model(), prompt, self.sampling.max_new_tokens)
            return None if fits else "longer than the model's context"

        return Filter(name, too_long)


class CrossCheck:
    """Puts `verifiers` and `cases` in the place of a record's `replies`: what is left of the programs in them."""

    needs = ("replies",)
    batch = 8
    alone = True

    def __init__(self, execute: Execute, **limits: Any) -> None:
        self.name, self._execute, self._limits = "cross-validation", execute, limits

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        return [[self._one(row)] for row in rows]

    def _one(self, row: Row) -> Made:
        found: CrossChecked = cross_validate(row["replies"], self._execute, **self._limits)
        facts = {"programs": len(found.accuracies), "cases": len(found.cases), "supported once": found.alone}
        if found.reason:
            return Rejected(row, found.reason, facts)
        rest = {name: value for name, value in row.items() if name != "replies"}
        made = {**rest, "verifiers": list(map(list, found.functions)), "cases": list(map(list, found.cases))}
        return Kept(made, {**facts, "kept": len(found.functions)})


class Executor:
    """Makes a record of every reply that the rule's verifiers accept: more than none of them, and at least `share`."""

    needs = ("replies", "rule")
    batch = 16
    alone = True

    def __init__(self, execute: Execute, share: float) -> None:
        self.name, self._execute, self._share = "verification", execute, share

    def __call__(self, rows: Sequence[Row]) -> list[list[Made]]:
        return [self._each(row) for row in rows]

    def _each(self, row: Row) -> list[Made]:
        rest = {name: value for name, value in row.items() if name != "replies"}
        made: list[Made] = []
        for reply, value in zip(row["replies"], self._values(row), strict=True):
            one = {**rest, "reply": reply, "accuracy": value}
            keep = value > 0 and value >= self._share
            made.append(
                Kept(one, {"score": value})
                if keep
                else Rejected(one, "does not follow the rule", {"score": value})
            )
        return made

    def _values(self, row: Row) -> list[float]:
        replies = row["replies"]
        if row.get("constraints"):
            rules = list(map(Constraint.from_json, row["constraints"]))
            return [float(all(one.verify(row["query"], reply) >= 1 for one in rules)) for reply in replies]
        sources = [source for source, _ in row["verifiers"]]
        ran = self._execute(sources, replies)
        columns: Iterable[Any] = zip(*(one or [None] * len(replies) for one in ran), strict=True)
        return [agreement(column) for column in columns]


def rule_row(name: str, rule: Rule) -> Row:
    """A rule as a record."""
    kind = {"kind": CHAIN if rule.chained else MULTIPLE, "parts": list(rule.parts)} if rule.parts else {}
    checked: Row = {"constraints": [one.to_json() for one in rule.constraints]} if rule.constraints else {}
    if rule.verifiers:
        checked = {"verifiers": list(map(list, rule.verifiers))}
    return {"id": name, "rule": rule.text, **kind, **checked}


def rule_of(row: Mapping[str, Any]) -> Rule:
    """The rule of such a record."""
    constraints = tuple(map(Constraint.from_json, row.get("constraints", ())))
    verifiers = tuple((source, value) for source, value in row.get("verifiers", ()))
    return Rule(
        row["rule"], constraints, verifiers, tuple(row.get("parts", ())), chained=row.get("kind") == CHAIN
    )


def is_checked(row: Row) -> bool:
    """Whether a rule needs no program any more."""
    return bool(row.get("constraints") or row.get("verifiers"))


def augmentation(supervisor: Supervisor, known: Sequence[Rule]) -> list[Any]:
    """From requests (`request`) to new rules (`rule`)."""
    taken = {fold(one.text) for one in known}

    def parsed(row: Row, said: list[str]) -> list[Made]:
        found = [one for text in said for one in words.parse_rules(text)]
        return [Kept({"rule": one}) for one in found] or [Rejected(row, "no rule")]

    def unfit(row: Row) -> str | None:
        if len(row["rule"]) > words.LONGEST:
            return f"longer than {words.LONGEST} characters"
        return "a seed rule" if fold(row["rule"]) in taken else None

    return [
        supervisor.ask("new rules", lambda row: row["request"], parsed),
        Filter("fit", unfit),
        Distinct("distinct rules", lambda row: fold(row["rule"])),
    ]


def composition(supervisor: Supervisor, least: int) -> list[Any]:
    """Composites whose parts can hold together, by the supervisor's score."""

    def scored(row: Row, said: list[str]) -> list[Made]:
        score = words.read_score(said[0])
        if score is None:
            return [Rejected(row, "no score")]
        facts = {"score": score}
        return [Kept(row, facts) if score >= least else Rejected(row, f"score below {least}", facts)]

    return [supervisor.ask("composition check", lambda row: words.composition_request(row["rule"]), scored)]


def verification(supervisor: Supervisor, n: int, execute: Execute, **limits: Any) -> list[Any]:
    """From rules to rules with written verifiers (`verifiers`, `cases`), of `n` replies each."""

    def written(row: Row, said: list[str]) -> list[Made]:
        return [Kept({**row, "replies": said})]

    ask = supervisor.ask("verifiers", lambda row: verifier_request(row["rule"]), written, n)
    return [ask, CrossCheck(execute, **limits)]


def replies(
    supervisor: Supervisor, n: int, execute: Execute, share: float, raters: int, above: float
) -> list[Any]:
    """From rules with queries to demonstrations: `n` replies each, those that verifiers accept, those that answer.

    Args:
        share: see `Executor`.
        raters: scores that the supervisor gives a reply; 0: none is asked for.
        above: the mean score has to be above it.
    """

    def answered(row: Row, said: list[str]) -> list[Made]:
        texts = [one.strip() for one in said if one.strip()]
        return [Kept({**row, "replies": texts})] if texts else [Rejected(row, "blank")]

    def rated(row: Row, said: list[str]) -> list[Made]:
        mean = words.mean_score(said)
        if mean is None:
            return [Rejected(row, "no score")]
        facts = {"score": mean}
        if mean <= above:
            return [Rejected(row, f"mean score not above {above:g}", facts)]
        return [Kept({**row, "consistency": mean}, facts)]

    def rating(row: Row) -> str:
        return words.consistency_request(row["rule"], row["query"], row["reply"])

    rate = [
        supervisor.fits("room for a rating", rating),
        supervisor.ask("consistency", rating, rated, raters),
    ]
    return [
        supervisor.fits("room for a reply", reply_request),
        supervisor.ask("replies", reply_request, answered, n),
        Executor(execute, share),
        Distinct("distinct replies", lambda row: f"{row['rule']}\0{row['query']}\0{row['reply']}"),
        *(rate if raters else []),
        Rewrite("demonstrations", demonstration),
    ]


def reply_request(row: Row) -> str:
    """What the supervisor is asked under a rule."""
    query = _query(row).with_passages()
    return f"Answer the query. Follow this rule strictly:\n[Rule]\n{row['rule']}\n[Query]\n{query}"


def demonstration(row: Row) -> dict[str, Any]:
    """Query, rule and reply as a record to learn from; where verifiers of coalign check it, with its `constraints`."""
    query = _query(row)
    about = {name: row[name] for name in ("rule", "kind", "pool", "accuracy", "consistency") if name in row}
    checked = {"constraints": row["constraints"]} if row.get("constraints") else {}
    asked = query.with_passages(words.instructed(query.text, row["rule"]))
    return {"prompt": asked, "completion": row["reply"], **checked, "made_of": {**about, "query": query.text}}


def _query(row: Row) -> Query:
    return Query(row["id"], row["query"], tuple(row["passages"]))
