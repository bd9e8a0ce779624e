"""Tasks that a model writes: seeds, requests, parsing, rules, scores of graders."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.judging.completion_judge import CompletionJudge
from coalign.judging.protocol import JudgeItem
from coalign.loops.rounds import Round
from coalign.models.types import Generation, Sampling
from coalign.selfalign.i_sheep import Config, inverse_perplexity_weights
from coalign.selfalign.synthesis.grading import read_score
from coalign.selfalign.synthesis.rounds import Requests
from coalign.selfalign.synthesis.rules import RULES, broken_rule, without_lead
from coalign.selfalign.synthesis.tasks import SeedTask, draw_tasks, numbered_blocks, parse_tasks, read_seeds
from tests.preference.tiny_runs import write

SEEDS = [
    SeedTask(f"s{n}", f"Do the thing number {n}.", "" if n % 2 else f"given {n}", f"done {n}")
    for n in range(8)
]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Sort.", "input": "b a", "output": "a b"}, ("Sort.", "b a", "a b")),
        ({"instruction": "Sort. ", "input": None}, ("Sort.", "", None)),
        (
            {"instruction": "Sort.", "instances": [{"input": "b a", "output": "a b"}, {}]},
            ("Sort.", "b a", "a b"),
        ),
        ({"prompt": "Sort b a.", "completion": "a b"}, ("Sort b a.", "", "a b")),
        ({"prompt": [{"role": "user", "content": "Sort b a."}], "response": "a b"}, ("Sort b a.", "", "a b")),
    ],
)
def test_seeds_in_every_layout(tmp_path: Path, row: dict[str, Any], expected: tuple[Any, ...]) -> None:
    (seed,) = read_seeds(str(write(tmp_path / "seeds.jsonl", [row])))
    assert (seed.instruction, seed.input, seed.output) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "x"},
            r"seeds\.jsonl:2: instruction: no task among text, expected a column instruction or prompt",
        ),
        ({"instruction": "  "}, r"seeds\.jsonl:2: instruction: only white space"),
        ({"instruction": 3}, r"seeds\.jsonl:2: instruction: the number 3, expected text"),
        ({"instruction": "x", "output": ["y"]}, r"seeds\.jsonl:2: output: a list, expected text"),
    ],
)
def test_bad_seeds_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_seeds(str(write(tmp_path / "seeds.jsonl", [{"instruction": "Fine."}, row])))
    with pytest.raises(DataError, match="'a' appears twice"):
        read_seeds(str(write(tmp_path / "twice.jsonl", [{"id": "a", "instruction": "x y"}] * 2)))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Name a bird for me.", "Sort these words: now"]), st.sampled_from(["", "b a"])
        ),
        min_size=1,
        max_size=6,
    )
)
def test_what_is_written_as_blocks_is_read_again(tasks: list[tuple[str, str]]) -> None:
    """The tasks after the first are a model's; the separator after the last makes it whole."""
    seeds = [SeedTask(str(n), one, given) for n, (one, given) in enumerate(tasks)]
    text = numbered_blocks(seeds).rpartition("###")[0] + "###"
    completion = text.split("1. Instruction:", 1)[1]
    found = parse_tasks(completion, 0)
    assert [(task["instruction"], task["input"]) for task, why in found if not why] == tasks
    assert parse_tasks("1. Instruction:" + completion, 0) == found


def one(instruction: str, given: str = "<noinput>", number: int = 2) -> str:
    return f" {instruction}\n{number}. Input:\n{given}\n###"


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (one("Name a bird for me."), ""),
        (one("Name a bird."), "fewer than 4 words"),
        (one("word " * 151), "more than 150 words"),
        (one("Draw a bird for me."), "names what a language model cannot do"),
        (
            one("Describe what is shown to you.", "An Image of a bird"),
            "names what a language model cannot do",
        ),
        (one("Describe the imagery of a poem."), ""),
        (one("(Name a bird for me.)"), "begins with punctuation or another script"),
        (one("Ñame a bird for me."), "begins with punctuation or another script"),
        (one("Name a bird for me.", "No input needed"), "an input that says that it is none"),
        (one("Name a bird. Then. Input: x y"), "a field inside a field"),
        (one("Read the page https://x.test now."), "an address of the web"),
        (one("Name a bird for me.", number=3), "not a block of its number, instruction and input"),
        (" Name a bird for me.###", "not a block of its number, instruction and input"),
    ],
)
def test_a_task_is_kept_or_says_why_not(completion: str, reason: str) -> None:
    ((_, found),) = parse_tasks(completion, 1)
    assert found == reason


def test_a_cut_block_is_left_out_and_an_empty_reply_has_none() -> None:
    assert len(parse_tasks(one("Name a bird for me.") + "\n3. Instruction: Name a", 1)) == 1
    assert parse_tasks("", 1) == parse_tasks("###", 1)[1:] == []
    assert len(parse_tasks(one("Name a bird for me.") + "\n###", 1)) == 1, "an empty block is none"
    assert parse_tasks(one("Draw a bird for me."), 1, unfit_words=()) == [
        ({"instruction": "Draw a bird for me.", "input": ""}, "")
    ]


@pytest.mark.parametrize(
    ("rule", "broken", "fine"),
    [
        ("empty", {"output": " \n"}, {"output": "."}),
        ("speakers", {"output": "Yes.\nUser: and"}, {"output": "The user: yes"}),
        ("questions", {"output": "Sure.\n\nWhat is it?"}, {"output": "What is it?"}),
        ("options", {"output": "It is (b)"}, {"output": "It is b"}),
        ("chinese", {"output": "好"}, {"output": "gut"}),
        ("placeholders", {"input": "<your text>"}, {"input": "1 < 2"}),
        (
            "repeated-input",
            {"instruction": "Sort: 3 1", "input": "3 1"},
            {"instruction": "Sort: 3 1", "input": " "},
        ),
        ("copied", {"instruction": "Say hi", "output": "Say hi "}, {"instruction": "Say hi", "output": "hi"}),
        ("repetitive", {"output": "so it is and " * 9}, {"output": " ".join(map(str, range(40)))}),
        ("unfinished", {"finish_reason": "length"}, {"finish_reason": "stop"}),
    ],
)
def test_every_rule_speaks_of_its_own(rule: str, broken: dict[str, str], fine: dict[str, str]) -> None:
    row = {"instruction": "Answer this.", "input": "", "output": "An answer."}
    assert broken_rule({**row, **broken}, [rule]) == RULES[rule][0]
    assert broken_rule({**row, **fine}, [rule]) == ""
    assert broken_rule({**row, **broken}, []) == ""


def test_a_lead_is_taken_off() -> None:
    assert without_lead("答案：答案: 4") == "4"
    assert without_lead("4 答案：") == "4 答案："


def test_seeds_are_drawn_without_repetition_and_by_weight() -> None:
    drawn = draw_tasks(SEEDS, 5, random.Random(0))
    assert len({one.id for one in drawn}) == 5
    assert len(draw_tasks(SEEDS[:2], 5, random.Random(0))) == 2
    only = draw_tasks(SEEDS, 3, random.Random(0), [0, 1, 0, 1, 0, 0, 0, 0])
    assert {one.id for one in only} == {"s1", "s3"}
    weights = inverse_perplexity_weights([2.0, 4.0, 1e-9, 8.0], [False, False, False, True])
    assert weights == pytest.approx([0.5 / 1.75, 0.25 / 1.75, 1 / 1.75, 0.0])


def test_requests_are_the_same_at_every_iteration_and_differ_between_rounds(tmp_path: Path) -> None:
    config = build(Config, {"data": "x", "tasks": 7, "shown": 3})
    requests = [Requests(SEEDS, config, Round(Run(tmp_path), n), brief="Write.", seed=1) for n in (1, 2)]
    first = list(requests[0])
    assert first == list(requests[0]) != list(requests[1])
    assert len(first) == len(requests[0]) == 7
    assert first[0]["request"].startswith("Write.\n###\n1. Instruction: Do the thing")
    assert first[0]["request"].endswith("###\n4. Instruction:")
    weighted = Requests(
        SEEDS, config, Round(Run(tmp_path), 1), brief="", seed=1,
        weights=lambda used: inverse_perplexity_weights([2.0] * 8, used),
    )  # fmt: skip
    names = [name for row in list(weighted)[:2] for name in row["seeds"]]
    assert len({*names}) == 6, "a seed that was drawn waits until the others were"


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("9||good", 9),
        (" 8.5", 8),
        ("9.5", 10),
        ("so 9", None),
        ("|| 7", 7),
        ("12", None),
        ("", None),
        ("-4||x", 4),
    ],
)
def test_a_grade_is_read_from_the_beginning(reply: str, score: int | None) -> None:
    assert read_score(reply) == score


class Said:
    """A generator that says what it was told to, and keeps what it was asked."""

    def __init__(self, text: str) -> None:
        self.text, self.asked = text, []

    def generate(self, prompts: Any, sampling: Sampling, **how: Any) -> list[list[Generation]]:
        self.asked += [(one, sampling.seed) for one in prompts]
        made = [[Generation(self.text)] for _ in prompts]
        how["on_batch"](dict(enumerate(made)))
        return made


def test_a_judge_that_completes_a_text_fills_it_once_and_asks_once() -> None:
    item = JudgeItem(id="a", prompt=[{"role": "user", "content": "Say {answer}"}], responses=("{question}",))
    generator = Said("9")
    judge = CompletionJudge(generator, "Q {question} A {answer}:", read_score, Sampling(temperature=1.0))
    (rating,), (again,) = judge.rate([item]), judge.rate([item])
    assert rating.score == 9
    assert [one for one, _ in generator.asked] == ["Q Say {answer} A {question}:"]
    assert again.cost.cached == 1
    chatting = CompletionJudge(Said("no"), "{question}", read_score, Sampling(), chat=True)
    (rating,) = chatting.rate([item])
    assert (rating.score, rating.failure) == (None, "malformed")
    with pytest.raises(ConfigError, match="one response at a time"):
        judge.compare([item])


def test_options_that_cannot_be_are_refused() -> None:
    for values, message in (
        ({"rules": ["emtpy"]}, "'emtpy' is no rule. Did you mean empty"),
        ({"requested": 8}, "leaves no new task"),
        ({"eval_fraction": 0.2}, "eval_fraction has no effect here"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(Config, {"data": "x", **values})


def test_the_options_are_json() -> None:
    assert json.dumps(build(Config, {"data": "x"}).rules)
