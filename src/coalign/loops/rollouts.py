"""Rollouts: responses that the policy in training samples, and their rewards, kept row by row and continued after a kill.

Rollout r lies in the run folder under `artefacts/rollouts/`:

    rollout-00001.jsonl          a row a prompt, in the schema of `coalign.loops.rows`, with `token_ids` and `logprobs`
    rollout-00001-scored.jsonl   the same place and id with `rewards` (null: not scorable) and the `values` they are made of
    rollout-00001-refill-1.jsonl, ... what dynamic sampling took in place of groups whose rewards are all equal
    rollout-00001.json           which of the stream's prompts it took; written last

The stream of prompts is a permutation of all prompts for every pass over them, drawn from (seed, pass). A rollout begins where
the one before it ended, so a kill loses no prompt and repeats none, and what is there is not asked for again. Under a launcher each process samples and
scores its share of the prompts, and all go on with all rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.files import write_json
from coalign.core.runs import is_main_process
from coalign.loops.rows import Keep, Prompted, Row, fill_rows_together
from coalign.models.generation.rows import row_of
from coalign.training.losses.policy_gradient import equal_groups
from coalign.training.online.policy_gradient import Rollout
from coalign.training.processes import process_count

if TYPE_CHECKING:
    from torch import Tensor

    from coalign.models.types import Generation, Generator, Sampling

ScoreRows = Callable[[Sequence[Row]], Sequence[Mapping[str, Any]]]
"""Rows of answers to columns of each: `rewards`, [n] numbers (None or NaN: not scorable), and `values`, {name: [n]}."""
Transform = Callable[["Tensor", Sequence[str]], "Tensor"]
"""Rewards [P, n] (NaN: does not count) and the ids of the P prompts to what is learnt from, [P, n]."""
Truncated = Literal["keep", "mask", "penalise"]
SCORED_AT_ONCE = 8
"""Prompts whose rewards are on disk together."""


@dataclass(frozen=True)
class Pass:
    """A task at its place in the stream: prompts come again, so the place is part of the id."""

    task: Prompted
    place: int

    @property
    def id(self) -> str:
        return f"{self.task.id}#{self.place}"

    @property
    def prompt(self) -> Any:
        return self.task.prompt


def stream_places(size: int, seed: int, first: int, count: int) -> list[int]:
    """Which prompts stand at the places `first`, ... of the endless stream over `size` of them."""
    from coalign.training.checkpoints import EpochShuffle

    found: list[int] = []
    while len(found) < count:
        number, within = divmod(first + len(found), size)
        shuffle = EpochShuffle(size, seed)
        shuffle.set_epoch(number)
        found += list(shuffle)[within : within + count - len(found)]
    return found


@dataclass(kw_only=True)
class Rollouts:
    """Makes the rollouts of a training.

    Attributes:
        folder: where they lie.
        prompts: to sample to.
        score: gives the rewards.
        sampling: how; its seed is that of the run.
        size: prompts of a rollout.
        transform: applied to the rewards before anything else, see `Transform`.
        truncated: what a response that ran out of tokens counts as: its reward, nothing (it is then in no mean, deviation or
            divisor), or its reward less `penalty`.
        refills: how often the prompts of equal groups are replaced by the next ones of the stream (dynamic sampling: DAPO, arXiv
            2503.14476, section 3.2); 0: never.
        most_unscorable: largest share of responses without a reward that is accepted in a rollout.
        tell: gets what a person should know.
    """

    folder: Path
    prompts: Sequence[Prompted]
    score: ScoreRows
    sampling: Sampling
    size: int
    transform: Transform | None = None
    truncated: Truncated = "keep"
    penalty: float = 1.0
    refills: int = 0
    most_unscorable: float = 0.5
    tell: Callable[[str], None] = print

    def collect(self, number: int, generator: Callable[[], Generator]) -> Rollout:
        """Rollout `number` (1, 2, ...), made where it is not there.

        Args:
            generator: opens the policy; called only where a row is missing. It has to give token ids.

        Raises:
            ConfigError: the back end gives no token ids.
            CoalignError: too many responses could not be scored; what there is stays on disk.
        """
        first = self.taken_before(number)
        taken, groups, everything = 0, [], []
        for attempt in range(self.refills + 1):
            missing = self.size - len(groups)
            passes = self._passes(first + taken, missing)
            taken += missing
            found = self._groups(self._stem(number, attempt), passes, generator, number, attempt)
            everything += found
            if self.refills:
                equal = equal_groups(self._learnt(found)).tolist()
                found = [row for row, same in zip(found, equal, strict=True) if not same]
            groups += found
            if len(groups) == self.size:
                break
        if len(groups) < self.size:
            self.tell(
                f"Rollout {number}: {self.size - len(groups)} of {self.size} prompts could not be replaced: all their "
                f"responses had one reward in {self.refills} refills."
            )
        if is_main_process():
            write_json(self.folder / f"{self._stem(number)}.json", {"first": first, "taken": taken})
        return self._rollout(groups, everything)

    def taken_before(self, number: int) -> int:
        """Places of the stream that the rollouts before `number` took."""
        if number == 1:
            return 0
        facts = json.loads((self.folder / f"{self._stem(number - 1)}.json").read_text(encoding="utf-8"))
        return facts["first"] + facts["taken"]

    def rows(self, number: int) -> list[Row]:
        """The rows of a rollout as they lie on disk, refills included."""
        from coalign.loops.rows import read_answers

        found = []
        for attempt in range(self.refills + 1):
            stem = self._stem(number, attempt)
            scored = {row["index"]: row for row in read_answers(self.folder / f"{stem}-scored.jsonl")}
            rows = read_answers(self.folder / f"{stem}.jsonl")
            found += [{**row, **scored.get(row["index"], {})} for row in rows]
        return found

    def _stem(self, number: int, attempt: int = 0) -> str:
        return f"rollout-{number:05d}" + (f"-refill-{attempt}" if attempt else "")

    def _passes(self, first: int, count: int) -> list[Pass]:
        places = stream_places(len(self.prompts), self.sampling.seed, first, count)
        return [Pass(self.prompts[one], first + index) for index, one in enumerate(places)]

    def _groups(
        self,
        stem: str,
        passes: list[Pass],
        generator: Callable[[], Generator],
        number: int,
        attempt: int,
    ) -> list[Row]:
        seed = (self.sampling.seed * 1_000_003 + number) * 1_009 + attempt
        sampling = replace(self.sampling, seed=seed, logprobs=True)
        rows = sampled_rows(self.folder / f"{stem}.jsonl", passes, generator, sampling)
        scored = scored_rows(self.folder / f"{stem}-scored.jsonl", passes, rows, self.score)
        self._check(number, scored)
        return [{**row, **more} for row, more in zip(rows, scored, strict=True)]

    def _check(self, number: int, scored: Sequence[Row]) -> None:
        rewards = [one for row in scored for one in row["rewards"]]
        missing = sum(one is None for one in rewards)
        if missing <= self.most_unscorable * len(rewards):
            return
        why = next((row["failure"] for row in scored if row.get("failure")), "")
        raise CoalignError(
            f"{missing} of {len(rewards)} responses of rollout {number} have no reward, more than the accepted share of "
            f"{self.most_unscorable:g}." + (f" The first failure: {why}" if why else ""),
            hint="Nothing is lost: responses and replies are kept. Mend the reward or the judge and run the same command in a new "
            "folder, or accept a larger share (--max-unscorable).",
        )

    def _rollout(self, rows: Sequence[Row], everything: Sequence[Row]) -> Rollout:
        logps: list[Any] = [one for row in rows for one in row.get("logprobs") or [None] * self.sampling.n]
        return Rollout(
            ids=[row["id"] for row in rows],
            prompt_ids=[row["prompt_ids"] for row in rows],
            response_ids=[one for row in rows for one in row["token_ids"]],
            rewards=self._learnt(rows),
            sampled_logps=None if None in logps else logps,
            temperature=self.sampling.temperature,
            longest=self.sampling.max_new_tokens,
            metrics=self._metrics(everything),
        )

    def _learnt(self, rows: Sequence[Row]) -> Tensor:
        """[P, n] what is learnt from, NaN where a response does not count."""
        learnt, cut = self._raw(rows), self._cut(rows)
        if self.transform is not None:
            learnt = self.transform(learnt, [row["id"].rpartition("#")[0] for row in rows])
        if self.truncated == "mask":
            return learnt.masked_fill(cut, math.nan)
        return learnt - self.penalty * cut if self.truncated == "penalise" else learnt

    def _raw(self, rows: Sequence[Row]) -> Tensor:
        values = [[math.nan if one is None else one for one in row["rewards"]] for row in rows]
        return torch.tensor(values, dtype=torch.float64).reshape(len(rows), self.sampling.n)

    def _cut(self, rows: Sequence[Row]) -> Tensor:
        ends = [[one == "length" for one in row["finish_reasons"]] for row in rows]
        return torch.tensor(ends, dtype=torch.bool).reshape(len(rows), self.sampling.n)

    def _metrics(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Of everything that was sampled. `reward`: as scored. `reward/deviation`: over the responses to a prompt that count.
        `reward/NAME`: of each reward. `values/all_equal`: prompts whose responses all have one reward. Shares of responses:
        `responses/truncated`, `responses/not_scorable`.
        """
        raw, learnt = self._raw(rows), self._learnt(rows)
        names = list(rows[0].get("values", {}))
        parts = {
            f"reward/{name}": torch.tensor(
                [math.nan if one is None else one for row in rows for one in row["values"][name]]
            )
            for name in (names if len(names) > 1 else [])
        }
        counted = [row[~row.isnan()] for row in learnt]
        return {
            "reward": raw.flatten(),
            "reward/deviation": torch.tensor([float(one.std()) for one in counted if len(one) > 1]),
            **parts,
            "values/all_equal": equal_groups(learnt).double()[: len(rows) if self.sampling.n > 1 else 0],
            "responses/truncated": self._cut(rows).double().flatten(),
            "responses/not_scorable": raw.isnan().double().flatten(),
        }


def sampled_rows(
    path: Path,
    tasks: Sequence[Prompted],
    generator: Callable[[], Generator],
    sampling: Sampling,
    *,
    label: str = "Sampling",
) -> list[Row]:
    """`coalign.loops.rows.answer_rows` with the token ids of prompts and responses.

    Raises:
        ConfigError: the back end gives no token ids, or no log-probabilities where they are asked for.
    """

    def work(done: list[int], keep: Keep) -> None:
        opened: Any = generator()
        encoded = [opened.encode(one.prompt, index) for index, one in enumerate(tasks)]

        def columns(index: int, samples: list[Generation]) -> Row:
            if not all(one.token_ids for one in samples):
                raise ConfigError(
                    "This back end does not say which tokens it sampled, and text that is encoded again can be other tokens.",
                    hint="Train with a model on this machine.",
                )
            ids = [one.token_ids for one in samples]
            return {
                "prompt": tasks[index].prompt,
                **row_of(samples),
                "prompt_ids": encoded[index],
                "token_ids": ids,
            }

        opened.generate(
            [one.prompt for one in tasks],
            sampling,
            done=done,
            on_batch=lambda found: keep({index: columns(index, mine) for index, mine in found.items()}),
            label=label,
            **(
                {"part": [one for one in range(len(tasks)) if one not in done]} if process_count() > 1 else {}
            ),
        )

    return fill_rows_together(path, [one.id for one in tasks], work)


def scored_rows(path: Path, tasks: Sequence[Prompted], rows: Sequence[Row], score: ScoreRows) -> list[Row]:
    """Rows of `rewards` and `values` of sampled rows, a few prompts at a time; rewards that are no finite number are null.

    Raises:
        CoalignError: a reward gave another number of values than there are responses.
    """

    def work(done: list[int], keep: Keep) -> None:
        left = sorted({*range(len(rows))} - {*done})
        for start in range(0, len(left), SCORED_AT_ONCE):
            places = left[start : start + SCORED_AT_ONCE]
            found = score([rows[place] for place in places])
            keep({place: _clean(rows[place], one) for place, one in zip(places, found, strict=True)})

    return fill_rows_together(path, [one.id for one in tasks], work)


def _clean(row: Row, found: Mapping[str, Any]) -> Row:
    expected = len(row["responses"])
    columns = {"rewards": found["rewards"], **found.get("values", {})}
    for name, values in columns.items():
        if len(values) != expected:
            raise CoalignError(
                f"{name}: {len(values)} values for {expected} responses to prompt {row['id']}."
            )
    values = {name: _numbers(one) for name, one in found.get("values", {}).items()}
    more = {"failure": found["failure"]} if found.get("failure") else {}
    return {"rewards": _numbers(found["rewards"]), "values": values, **more}


def _numbers(values: Sequence[float | None]) -> list[float | None]:
    return [float(one) if one is not None and math.isfinite(one) else None for one in values]
