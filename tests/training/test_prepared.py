"""Examples whose tokens lie on disk are those of memory, cost no second tokenising, and train to the same weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coalign.core.errors import DataError
from coalign.data.encoding import EncodedRecord
from coalign.data.prepared import many
from coalign.data.prepared.tokens import Lengths, TokenStore, TokenWriter, merge
from coalign.data.records import Demonstration, Preference, Ranking, Record, Reply, Source
from coalign.models.adapters import add_adapter, disabled_adapter
from coalign.models.options import ModelOptions
from coalign.training import batches
from coalign.training import examples as module
from coalign.training.batches import Prepared, StoredExamples, have_reference, tags_of, tokens_of
from coalign.training.examples import prepare_examples, texts_of
from coalign.training.objective import Column
from coalign.training.options import TrainingOptions
from coalign.training.reference import with_reference
from coalign.training.trainer import AlignmentTrainer
from tests.data import tokenizers as made
from tests.models.tiny import make_model
from tests.training.helpers import PAIRS, TOKENS, arguments, logged

COUNTED = replace(PAIRS, columns=("weight", Column("level", default=0.5)))


def _user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def _pairs(count: int) -> list[Record]:
    return [
        Preference(
            prompt=_user(f"question {n} " + "on " * (n % 7)),
            chosen=f"good {n} " + "a" * (n % 5),
            rejected="same" if n % 6 else f"good {n} " + "a" * (n % 5),
            extra={"weight": [n, 2] if n % 2 else n} | ({"id": f"é{n}"} if n % 3 else {}),
            source=Source("a.jsonl", n + 1, n, tag="ab"[n % 2]),
        )
        for n in range(count)
    ]


def _both(
    monkeypatch: pytest.MonkeyPatch, records: Sequence[Record], objective: Any = PAIRS, **options: Any
) -> tuple[Prepared, Prepared]:
    """As stored and as in memory."""
    tokenizer, settings = made.byte_tokenizer(made.CHATML), TrainingOptions(**options)
    monkeypatch.setattr(many, "MANY", 4)
    stored = prepare_examples(records, objective, tokenizer, settings)
    monkeypatch.setattr(many, "MANY", 10**6)
    return stored, prepare_examples(records, objective, tokenizer, settings)


def _told(prepared: Prepared) -> Any:
    """All of it; examples as text, since the value of a response that nothing is said of is NaN."""
    return (
        repr([*prepared.examples]),
        (prepared.truncated_prompts, prepared.truncated_responses, prepared.dropped, prepared.same_tokens),
        (prepared.responses, prepared.prompt_tokens, prepared.response_tokens),
        prepared.by_source(),
        prepared.valued_lengths(),
        tags_of(prepared.examples),
        tokens_of(prepared.examples).tolist(),
    )


def _adapted() -> Any:
    return add_adapter(make_model("llama", scale=1.0, vocab_size=512), ModelOptions())  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("limits", [{}, {"max_length": 46}, {"max_length": 40, "max_prompt_length": 30}])
def test_stored_examples_are_those_of_memory(monkeypatch: pytest.MonkeyPatch, limits: Any) -> None:
    stored, memory = _both(monkeypatch, _pairs(40), COUNTED, **limits)
    assert isinstance(stored.examples, StoredExamples)
    assert isinstance(memory.examples, list)
    assert _told(stored) == _told(memory)
    longest = max(map(len, texts_of([memory])))
    assert max(map(len, texts_of([stored]))) == longest
    assert max(map(max, texts_of([stored]))) == max(map(max, texts_of([memory])))


@pytest.mark.parametrize("cores", [1, 3])
def test_blocks_by_one_process_or_several_are_the_whole(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr("coalign.data.prepared.blocks.BLOCK", 7)
    monkeypatch.setattr("torch.get_num_threads", lambda: cores)
    stored, memory = _both(monkeypatch, _pairs(40), COUNTED, max_length=46)
    assert isinstance(stored.examples, StoredExamples)
    assert _told(stored) == _told(memory)


def test_a_preparation_that_was_stopped_goes_on_with_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coalign.data.prepared.blocks.BLOCK", 7)
    monkeypatch.setattr(many, "MANY", 4)
    records, tokenizer = _pairs(40), made.byte_tokenizer(made.CHATML)
    write, done = module._write, list[int]()

    def stopped(folder: Path, records: Any, span: range, *rest: Any) -> None:
        if span.start == 21 and len(done) == 3:
            raise KeyboardInterrupt
        done.append(span.start)
        write(folder, records, span, *rest)

    monkeypatch.setattr(module, "_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare_examples(records, PAIRS, tokenizer, TrainingOptions())
    done.append(-1)
    stored = prepare_examples(records, PAIRS, tokenizer, TrainingOptions())
    assert done == [0, 7, 14, -1, 21, 28, 35]
    monkeypatch.setattr(many, "MANY", 10**6)
    assert _told(stored) == _told(prepare_examples(records, PAIRS, tokenizer, TrainingOptions()))


def test_a_few_records_of_many_on_disk_are_stored_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "MANY", 4)
    some = many.taken(many.gathered(iter(_pairs(12))), np.array([7, 2]))
    prepared = prepare_examples(some, PAIRS, made.byte_tokenizer(made.CHATML), TrainingOptions())
    assert isinstance(prepared.examples, StoredExamples)
    assert [one.id for one in prepared.examples] == ["b:é7", "a:é2"]


def test_masks_over_what_tools_returned_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: Any = [
        {"role": "assistant", "content": "I look"},
        {"role": "tool", "content": "it is 7"},
    ]
    records: list[Record] = [
        Demonstration(prompt=_user(f"q{n}"), completion=Reply(f"so {n}", {}, steps) if n % 2 else f"{n}")
        for n in range(9)
    ]
    for limit in (2048, 60):
        stored, memory = _both(monkeypatch, records, TOKENS, max_length=limit)
        assert _told(stored) == _told(memory)
        assert any(one.contexts[0].trained for one in stored.examples)


def test_the_second_start_tokenises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    records, tokenizer = _pairs(12), made.byte_tokenizer(made.CHATML)
    monkeypatch.setattr(many, "MANY", 4)
    first = prepare_examples(records, PAIRS, tokenizer, TrainingOptions())
    monkeypatch.setattr(module, "encode_batches", None)
    again = prepare_examples([*records], PAIRS, made.byte_tokenizer(made.CHATML), TrainingOptions())
    assert _told(first) == _told(again)
    others: list[tuple[Any, Any, Any]] = [
        (records[::-1], tokenizer, TrainingOptions()),
        (records, made.byte_tokenizer(made.LLAMA3), TrainingOptions()),
        (records, tokenizer, TrainingOptions(max_length=99)),
    ]
    for other in others:
        with pytest.raises(TypeError):
            prepare_examples(other[0], PAIRS, other[1], other[2])


@pytest.mark.parametrize(
    ("records", "objective", "options"),
    [
        ([Preference(prompt=_user("?"), chosen="a", rejected="a")] * 5, PAIRS, {}),
        (_pairs(9), PAIRS, {"max_length": 5}),
        ([*_pairs(9), *[replace(one, extra={}) for one in _pairs(9)]], COUNTED, {}),
        (
            [replace(one, prompt=[{"role": "tool", "content": "\n"}], tools=[{"a": 1}]) for one in _pairs(9)],
            PAIRS,
            {},
        ),
    ],
)
def test_errors_are_those_of_memory_and_leave_nothing(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path, records: Any, objective: Any, options: Any
) -> None:
    told = []
    monkeypatch.setattr("coalign.data.prepared.blocks.BLOCK", 4)
    for number in (4, 10**6):
        monkeypatch.setattr(many, "MANY", number)
        with pytest.raises(DataError) as caught:
            prepare_examples(records, objective, made.byte_tokenizer(made.CHATML), TrainingOptions(**options))
        told.append((caught.value.message, caught.value.problems, caught.value.hint))
    assert told[0] == told[1]
    assert not any(own_cache.rglob("*.bin"))


def test_training_on_stored_examples_is_training_on_those_of_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stored, memory = _both(monkeypatch, _pairs(14))
    losses: list[list[float]] = []
    for number, prepared in enumerate((stored, memory)):
        model = _adapted()
        with disabled_adapter(model):
            examples = with_reference(prepared.examples, model)
        assert have_reference(examples)
        trainer = AlignmentTrainer(
            model, PAIRS, None, examples, arguments(tmp_path / str(number)), batching="sorted"
        )
        trainer.train()
        losses.append([row["loss"] for row in logged(trainer)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_reference_of_stored_examples_is_computed_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stored, memory = _both(monkeypatch, _pairs(9))
    model = _adapted()
    monkeypatch.setattr("coalign.training.reference._PART", 4)
    first = with_reference(stored.examples, model, folder=tmp_path)
    monkeypatch.setattr("coalign.training.reference._score", None)
    again = with_reference(stored.examples, model, folder=tmp_path)
    monkeypatch.undo()
    for one, two, other in zip(first, again, with_reference(memory.examples, model), strict=True):
        assert one.reference is not None
        assert two.reference is not None
        assert other.reference is not None
        for mine, same, theirs in zip(one.reference, two.reference, other.reference, strict=True):
            assert mine.tolist() == same.tolist()
            assert mine.tolist() == pytest.approx(theirs.tolist(), abs=1e-5)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 4), st.sampled_from([math.nan, 0.0, 0.5, 1.0, 2.0])), max_size=4),
        max_size=6,
    )
)
def test_mean_lengths_of_better_and_worse_responses(drawn: list[list[tuple[int, float]]]) -> None:
    records = [
        EncodedRecord(n, [1], [[1] * length for length, _ in one], None, [value for _, value in one], False)
        for n, one in enumerate(drawn)
    ]
    best, worst = [], []
    for one in drawn:
        valued = [(value, length) for length, value in one if not math.isnan(value)]
        if len(valued) == 1:
            (best if valued[0][0] > 0.5 else worst).append(valued[0][1])
        elif valued and min(valued)[0] < max(valued)[0]:
            best.append(max(valued)[1])
            worst.append(min(valued)[1])
    wanted = (float(np.mean(best)), float(np.mean(worst))) if best and worst else None
    for at_a_time in (2, 50_000):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(batches, "_SORTED", at_a_time)
            found = Prepared([module.Example((one,), "", {}) for one in records]).valued_lengths()
        assert found == (wanted if wanted is None else pytest.approx(wanted))


@given(st.data())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    ids = st.lists(st.integers(0, 2**31 - 1), max_size=5)
    records: list[EncodedRecord] = []
    for n in range(data.draw(st.integers(0, 4))):
        responses = data.draw(st.lists(ids, max_size=3))
        masks = [
            data.draw(st.lists(st.booleans(), min_size=len(one), max_size=len(one))) for one in responses
        ]
        values = [1.5] * len(responses)
        records.append(
            EncodedRecord(
                n * 3, data.draw(ids), responses, data.draw(st.sampled_from([None, masks])), values, n == 1
            )
        )

    def write(some: list[EncodedRecord]) -> Path:
        folder = tmp_path_factory.mktemp("store")
        with TokenWriter(folder) as writer:
            for one in some:
                tag = f"tag{one.record_index % 2}"
                writer.add(one, f"ü{one.record_index}", tag, {"x": [1.0] * len(one.response_ids)})
            writer.finish(more=1)
        return folder

    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=3))), len(records)]
    parts = [write(records[start:end]) for start, end in itertools.pairwise(cuts)]
    merged = tmp_path_factory.mktemp("merged") / "store"
    merge(parts, merged, more=1)
    stores = TokenStore(write(records)), TokenStore(merged)
    for store in stores:
        assert [*store] == records
        for place, one in enumerate(records):
            assert (store.id(place), store.tag(place)) == (
                f"ü{one.record_index}",
                f"tag{one.record_index % 2}",
            )
            assert store.extras(place) == {"x": [1.0] * len(one.response_ids)}
    store = stores[1]
    assert (store.meta, store.extremes) == (stores[0].meta, stores[0].extremes)
    for mine, other in zip(vars(store.lengths()).values(), vars(Lengths.of(records)).values(), strict=True):
        assert np.array_equal(mine, other)


def test_a_ranking_of_many_responses_keeps_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[Record] = [
        Ranking(prompt=_user(f"{n}"), responses=("a", "bb", "c" * n + "d"), scores=(0.5, -1.0, float(n)))
        for n in range(6)
    ]
    stored, memory = _both(monkeypatch, records)
    assert _told(stored) == _told(memory)
