"""CycleAlign on a tiny model: rankings of a server, demonstrations that travel, budget, and judges of no use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import CoalignError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.judging.demonstrations import Demonstration, read_demonstrations
from coalign.loops.ranked_rows import distinct_places
from coalign.loops.readings import told
from coalign.loops.rounds import Round
from coalign.models.types import ResponseLogps
from coalign.selfalign import cyclealign
from coalign.training.losses.ranking_distillation import Constants, ranking_distillation
from coalign.training.objective import ScoredBatch
from tests.evaluation.test_ranking import LONGEST
from tests.models.endpoint_server import Server, running
from tests.preference.batches import naive_pro_ranks
from tests.preference.tiny_runs import run_system, write

OPTIONS: dict[str, Any] = {
    "rounds": 2, "samples": 3, "max_new_tokens": 8, "top_p": 1.0, "learning_rate": 1e-3, "batch_size": 2,
    "eval_fraction": 0.2, "max_length": 200, "interactions": 3,
}  # fmt: skip


def longest_first(answer: dict[str, Any]) -> dict[str, Any]:
    for choice in answer["choices"]:
        choice["message"]["content"] = LONGEST(choice["message"]["content"])
    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as server:
        server.change = longest_first
        yield server


def start(model: str, folder: Path, server: Server | None, **changes: Any) -> Run:
    folder.parent.mkdir(exist_ok=True)
    rows = [{"id": f"p{n}", "prompt": f"Say {n}.", "subject": f"s{n % 2}"} for n in range(10)]
    given = {"model": model, "prompts": str(write(folder.with_name("prompts.jsonl"), rows))}
    if server is not None:
        given["judge"] = server.address
    return run_system("cyclealign", cyclealign, folder, **{**OPTIONS, **given, **changes})


def keys_of(rows: list[dict[str, Any]]) -> set[str]:
    return {Demonstration(row["prompt"], tuple(row["responses"])).key for row in rows}


def test_a_server_ranks_and_its_last_order_is_learned(
    tiny_model: str, server: Server, tmp_path: Path
) -> None:
    run = start(tiny_model, tmp_path / "runs" / "run", server, topic="subject")
    for number in (1, 2):
        round = Round(run, number)
        for row in round.read("filter"):
            assert row["responses"] == sorted(row["responses"], key=len, reverse=True)
        facts = told(round)
        assert facts["ranked"] == 4
        assert facts["unreadable"] == facts["nothing to rank"] == 0
        assert facts["rank with length"] > 0.7
        assert 1 / 3 <= facts["agreement"] <= 1
        assert facts.keys() >= {"held-out preferred", "first shown best", "requests a prompt"}
        assert facts["calls"] >= 4
    assert len(read_rows(run.artefacts / "replies.jsonl")) == len(server.answered)
    fixed = {one.key for one in read_demonstrations("bundled")}
    memory = Round(run, 1).memory
    assert {row["topic"] for row in memory} <= {"s0", "s1"}
    for row in Round(run, 2).read("measure"):
        new = {*row["shown"][0]} - fixed
        assert new <= keys_of(memory), "the first request of round 2 goes by what round 1 left"
        own = [one for one in memory if one["topic"] == f"s{int(row['id'][1:]) % 2}"]
        assert new == keys_of(own)
    assert memory


def test_killed_while_ranking_the_queue_is_that_of_the_undisturbed_run(
    tiny_model: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = start(tiny_model, tmp_path / "whole" / "run", server, eval_fraction=0.0)
    remember, kills = Round.remember, [2, 1]

    def killed(round: Round, rows: Any) -> None:
        remember(round, rows)
        if round.number in kills:
            kills.remove(round.number)
            raise KeyboardInterrupt

    monkeypatch.setattr(Round, "remember", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            start(tiny_model, tmp_path / "cut" / "run", server, eval_fraction=0.0)
    cut = start(tiny_model, tmp_path / "cut" / "run", server, eval_fraction=0.0)
    assert not kills
    for number in (1, 2):
        one, other = (Round(run, number) for run in (whole, cut))
        assert one.memory == other.memory
        assert one.read("measure") == other.read("measure")
        assert told(one) == told(other)


def test_a_judge_that_never_ranks_is_told_in_its_words_and_its_replies_are_kept(
    tiny_model: str, server: Server, tmp_path: Path
) -> None:
    server.change = lambda answer: {
        **answer,
        "choices": [{**answer["choices"][0], "message": {"role": "assistant", "content": "All are nice."}}],
    }
    folder = tmp_path / "runs" / "run"
    with pytest.raises(CoalignError, match=r"4 of 4 verdicts are missing \(4 malformed\).*'All are nice\.'"):
        start(tiny_model, folder, server)
    asked = len(server.requests)
    assert len(read_rows(folder / "artefacts" / "replies.jsonl")) == asked == 8
    with pytest.raises(CoalignError, match="No prompt has responses that the judge tells apart"):
        start(tiny_model, folder, server, max_failures=1.0)
    assert len(server.requests) == asked, "nobody was asked twice"


def test_responses_that_do_not_differ_are_explained(tiny_model: str, server: Server, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run"
    with pytest.raises(CoalignError, match="No prompt has responses that the judge tells apart"):
        start(tiny_model, run, server, temperature=0.0)
    assert told(Round(Run(run), 1))["nothing to rank"] == 4
    assert not server.requests


def test_a_budget_of_calls_ends_the_asking_and_not_the_run(
    tiny_model: str, server: Server, tmp_path: Path
) -> None:
    run = start(tiny_model, tmp_path / "runs" / "run", server, max_calls=3)
    facts = [told(Round(run, number)) for number in (1, 2)]
    assert [one["calls"] for one in facts] == [3, 0]
    assert [one["not asked"] for one in facts] == [1, 4]
    assert [one["held-out calls"] for one in facts] == [0, 0]
    assert len(server.requests) == 3
    assert run.state == "done"


def test_which_responses_can_be_ranked() -> None:
    assert distinct_places(["a", " a", "", "b", "c"], [-1.0, -2.0, -1.0, -3.0, float("nan")]) == [0, 3]


@pytest.mark.parametrize("ranking", ["rrhf", "pro"])
def test_objective_against_a_loop(ranking: Any) -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([3, 1, 4, 2, 5])
    tokens = -torch.rand(int(lengths.sum()), dtype=torch.float64)
    index = torch.tensor([0, 0, 0, 1, 1])
    values = torch.tensor([0.0, 2.0, 1.0, 1.0, 0.0])
    means = [float(part.mean()) for part in torch.split(tokens, lengths.tolist())]
    expected = []
    for order in ([1, 2, 0], [3, 4]):
        pairs = [(i, j) for place, i in enumerate(order) for j in order[place + 1 :]]
        rank = sum(max(0.0, means[j] - means[i] + 0.1) for i, j in pairs)
        if ranking == "pro":
            rank = naive_pro_ranks(
                [means[i] for i in order], [-float(n) for n in range(len(order))], "none", 0.0
            )
        expected.append(0.5 * rank - 2 * means[order[0]])
    constants = Constants(
        ranking=ranking, rank_weight=0.5, ft_weight=2.0, margin=0.1 if ranking == "rrhf" else 0.0
    )
    batch = ScoredBatch(ResponseLogps(tokens, lengths, index), None, index, values)
    assert ranking_distillation(batch, constants).losses.tolist() == pytest.approx(expected)
