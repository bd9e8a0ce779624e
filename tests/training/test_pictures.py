"""Image-text-to-text models through the one trainer: pictures reach the model, or the record is dropped or refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers as hf
from PIL import Image

from coalign.core.errors import DataError, ModelError
from coalign.data.checking.overlap import find_overlap
from coalign.data.encoding import Encoded, encode_records
from coalign.data.media.conversations import MARK
from coalign.data.readers import read_records, scan_records
from coalign.data.writers import write_records
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.scoring.engine import score_responses
from coalign.models.types import ResponseLogps
from coalign.training.batches import Example, responses_of_examples
from coalign.training.reference import with_reference
from tests.data.media.making import encoded, picture
from tests.models.tiny_vision import TOKENS, save_tiny_idefics3, save_tiny_llava
from tests.preference.tiny_runs import save_tiny_model, write

SIZES = ((30, 20), (40, 70), (64, 10), (33, 33))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    made = {"llava": save_tiny_llava, "idefics3": save_tiny_idefics3}
    return {name: str(make(folder / name)) for name, make in made.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, (width, height) in enumerate(SIZES):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(width, height, number)))
    return tmp_path


def pairs() -> list[dict[str, Any]]:
    """One picture, two, none, one: as TRL has them."""
    asked: list[list[dict[str, Any]]] = [
        [{"type": "image"}, {"type": "text", "text": "what is it"}],
        [{"type": "image"}, {"type": "text", "text": "or"}, {"type": "image"}],
        [{"type": "text", "text": "hi"}],
        [{"type": "text", "text": "the sea"}, {"type": "image"}],
    ]
    shown: list[list[str]] = [["0.png"], ["1.png", "2.png"], [], ["3.png"]]
    return [
        {
            "images": images,
            "prompt": [{"role": "user", "content": content}],
            "chosen": [{"role": "assistant", "content": "the sky is blue"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for images, content in zip(shown, asked, strict=True)
    ]


def many(n: int = 8) -> list[dict[str, Any]]:
    rows = [dict(row) for _ in range(n // 4) for row in pairs()]
    for number, row in enumerate(rows):
        text = {"type": "text", "text": f"number {number}"}
        row["prompt"] = [{"role": "user", "content": [*row["prompt"][0]["content"], text]}]
    return rows


def examples_of(found: Encoded) -> list[Example]:
    return [Example((one,), str(one.record_index), {}) for one in found.records]


def scored(model: str, path: Path, **how: Any) -> ResponseLogps:
    tokenizer = load_tokenizer(model)
    records = read_records(path, text_alone=False).records
    responses = responses_of_examples(examples_of(encode_records(records, tokenizer, pictures=True)))
    with torch.no_grad():
        return score_responses(load_model(model, training=False), responses, **how)


@pytest.mark.parametrize("name", ["llava", "idefics3"])
def test_log_probabilities_are_those_of_transformers(models: dict[str, str], folder: Path, name: str) -> None:
    rows = pairs()
    path = write(folder / "pairs.jsonl", rows)
    found = scored(models[name], path)
    assert torch.allclose(
        found.token_logps, scored(models[name], path, batch_tokens=120).token_logps, atol=1e-5
    )
    processor = hf.AutoProcessor.from_pretrained(models[name])
    model = hf.AutoModelForImageTextToText.from_pretrained(models[name]).eval()
    for place, row in enumerate(rows):
        whole = processor.apply_chat_template([*row["prompt"]], add_generation_prompt=True)
        pictures = [Image.open(folder / one) for one in row["images"]]
        how: dict[str, Any] = {"return_tensors": "pt", "add_special_tokens": False}
        made = processor(
            text=[whole + "the sky is blue<|im_end|>"], images=[pictures] if pictures else None, **how
        )
        with torch.no_grad():
            logps = model(**made).logits[0].log_softmax(-1)
        ids = made["input_ids"][0]
        expected = logps[:-1].gather(1, ids[1:, None])[:, 0][-int(found.lengths[2 * place]) :]
        assert torch.allclose(found.split()[2 * place], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["llava", "idefics3"])
def test_another_picture_gives_other_numbers_and_the_same_tokens(
    models: dict[str, str], folder: Path, name: str
) -> None:
    rows = pairs()[:1]
    first = scored(models[name], write(folder / "pairs.jsonl", rows))
    (folder / "0.png").write_bytes(encoded(picture(30, 20, 99)))
    second = scored(models[name], folder / "pairs.jsonl")
    assert first.lengths.tolist() == second.lengths.tolist()
    assert not torch.allclose(first.token_logps, second.token_logps, atol=1e-3)


def test_image_tokens_are_the_prompts_and_never_trained_on(models: dict[str, str], folder: Path) -> None:
    tokenizer = load_tokenizer(models["llava"])
    records = read_records(write(folder / "pairs.jsonl", pairs()), text_alone=False).records
    found = encode_records(records, tokenizer, pictures=True)
    token: Any = tokenizer.convert_tokens_to_ids("<image>")
    assert [one.prompt_ids.count(token) for one in found.records] == [TOKENS, 2 * TOKENS, 0, TOKENS]
    assert not any(token in ids for one in found.records for ids in one.response_ids)
    assert [one.pictures is None for one in found.records] == [False, False, True, False]


def test_a_record_whose_image_tokens_would_be_cut_is_dropped_and_counted(
    models: dict[str, str], folder: Path
) -> None:
    tokenizer = load_tokenizer(models["llava"])
    records = read_records(write(folder / "pairs.jsonl", pairs()), text_alone=False).records
    lengths = [len(one.prompt_ids) for one in encode_records(records, tokenizer, pictures=True).records]
    found = encode_records(records, tokenizer, pictures=True, max_prompt_length=10)
    assert [one.record_index for one in found.records] == [2]
    assert len(found.dropped) == 3
    assert "those of its pictures among them, which cannot be cut" in str(found.dropped[0])
    short = encode_records(records, tokenizer, pictures=True, max_length=lengths[0])
    assert len(short.dropped) == sum(length >= lengths[0] for length in lengths)
    assert all(len(one.prompt_ids) == lengths[one.record_index] for one in short.records)


LLAVA = {"id": "7", "image": "0.png", "conversations": [
    {"from": "human", "value": "<image>\nWhat is shown?"}, {"from": "gpt", "value": "the sky"},
]}  # fmt: skip
INSIDE = {"messages": [
    {"role": "user", "content": [{"type": "image", "image": "0.png"}, {"type": "text", "text": "What is shown?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "the sky"}]},
]}  # fmt: skip
URL = {"messages": [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "0.png"}}, {"type": "text", "text": "What is shown?"}]},
    {"role": "assistant", "content": "the sky"},
]}  # fmt: skip
ALONE = {"images": ["0.png"], "prompt": "What is shown?", "completion": "the sky"}


@pytest.mark.parametrize("row", [LLAVA, INSIDE, URL, ALONE], ids=["llava", "inside", "url", "alone"])
def test_every_way_to_say_where_a_picture_is(folder: Path, row: dict[str, Any]) -> None:
    (record,) = read_records(write(folder / "a.jsonl", [row]), text_alone=False).records
    assert record.prompt == [{"role": "user", "content": f"{MARK}What is shown?"}]
    assert record.pictures[0].open().size == SIZES[0]
    write_records(folder / "b.jsonl", [record], form="conversational")
    again = read_records(folder / "b.jsonl", text_alone=False).records[0]
    assert (again.prompt, again.pictures[0].open().size) == (record.prompt, SIZES[0])


def test_parquet_and_saved_data_sets_with_lists_of_pictures(folder: Path) -> None:
    data = [(folder / f"{number}.png").read_bytes() for number in range(2)]
    content = [
        {"index": 0, "type": "image", "text": None},
        {"index": None, "type": "text", "text": "What is shown?"},
    ]
    said = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{**content[1], "text": "the sky"}]},
    ]
    row = {"images": [[{"bytes": one, "path": None}] for one in data], "messages": [said, said]}
    features = {"images": datasets.List(datasets.Image())}
    made = datasets.Dataset.from_dict(row).cast_column("images", features["images"])
    made.to_parquet(str(folder / "a.parquet"))
    made.save_to_disk(str(folder / "saved"))
    for name in ("a.parquet", "saved"):
        records = read_records(folder / name, text_alone=False).records
        assert [one.prompt[0]["content"] for one in records] == [f"{MARK}What is shown?"] * 2
        assert [one.pictures[0].open().size for one in records] == list(SIZES[:2])


def test_whole_conversations_share_their_pictures(folder: Path) -> None:
    def said(picture: str, reply: str) -> list[dict[str, Any]]:
        content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is shown?"}]
        return [{"role": "user", "content": content}, {"role": "assistant", "content": reply}]

    same = {"chosen": said("0.png", "the sky"), "rejected": said("0.png", "no")}
    (record,) = read_records(write(folder / "a.jsonl", [same]), text_alone=False).records
    assert (record.prompt[0]["content"], len(record.pictures)) == (f"{MARK}What is shown?", 1)
    other = {**same, "rejected": said("1.png", "no")}
    problems = scan_records(write(folder / "b.jsonl", [same, same, other])).problems
    assert "rejected: other pictures than in chosen" in str(problems[0])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"images": ["0.png", "1.png"]}, "2 pictures for 1 places in the prompt"),
        ({"images": []}, "0 pictures for 1 places"),
        ({"images": ["none.png"]}, "no such file"),
        ({"images": ["https://example.org/a.png"]}, "a URL, and nothing is fetched"),
        ({"chosen": [{"role": "assistant", "content": [{"type": "image"}]}]}, "a picture in a response"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]},
            "a part of type video",
        ),
    ],
)
def test_bad_records_are_named(folder: Path, change: dict[str, Any], problem: str) -> None:
    found = scan_records(write(folder / "a.jsonl", [{**pairs()[0], **change}]), kind="preference")
    assert problem in " ".join(map(str, found.problems))


def test_a_picture_that_only_some_rows_have_is_not_forgotten(folder: Path) -> None:
    rows = [{"prompt": f"say {number}", "completion": "yes"} for number in range(5)]
    rows.append({"prompt": "what is it", "completion": "no", "image": "0.png"})
    records = read_records(write(folder / "a.jsonl", rows), text_alone=False).records
    assert [len(one.pictures) for one in records] == [0, 0, 0, 0, 0, 1]


def test_models_of_text_alone_and_callers_of_text_refuse_pictures(folder: Path) -> None:
    path = write(folder / "pairs.jsonl", pairs()[:1])
    records = read_records(path, text_alone=False).records
    with pytest.raises(DataError, match="pictures for a model of text alone"):
        encode_records(records, load_tokenizer(str(save_tiny_model(folder / "text"))), pictures=True)
    with pytest.raises(DataError, match="pictures cannot be used here"):
        encode_records(records, load_tokenizer(str(folder / "text")))
    with pytest.raises(DataError, match="pictures cannot be used here"):
        read_records(path)


def test_a_broken_picture_and_a_token_without_a_picture_are_named(
    models: dict[str, str], folder: Path
) -> None:
    rows = pairs()
    rows[2]["prompt"] = "is <image> a word?"
    rows[2]["chosen"], rows[2]["rejected"] = "a", "b"
    (folder / "0.png").write_bytes(encoded(picture(64, 64))[:3000])
    records = [
        read_records(write(folder / f"{place}.jsonl", [row]), text_alone=False).records[0]
        for place, row in enumerate(rows)
    ]
    with pytest.raises(DataError) as caught:
        encode_records(records, load_tokenizer(models["llava"]), pictures=True)
    assert "0.png: image file is truncated" in str(caught.value)
    assert "the text has <image>" in str(caught.value)


def test_a_picture_that_changes_while_the_run_goes_on_is_noticed(
    models: dict[str, str], folder: Path
) -> None:
    tokenizer = load_tokenizer(models["idefics3"])
    records = read_records(write(folder / "pairs.jsonl", pairs()[:1]), text_alone=False).records
    responses = responses_of_examples(examples_of(encode_records(records, tokenizer, pictures=True)))
    (folder / "0.png").write_bytes(encoded(picture(64, 8)))
    with pytest.raises(ModelError, match="other tokens of it than before"):
        score_responses(load_model(models["idefics3"], training=False), responses)


def test_reference_numbers_are_kept_by_picture(models: dict[str, str], folder: Path) -> None:
    tokenizer, model = load_tokenizer(models["llava"]), load_model(models["llava"], training=False)
    path = write(folder / "pairs.jsonl", pairs())
    found = []
    for seed in (0, 99):
        (folder / "0.png").write_bytes(encoded(picture(30, 20, seed)))
        examples = examples_of(
            encode_records(read_records(path, text_alone=False).records, tokenizer, pictures=True)
        )
        found.append(with_reference(examples, model, folder=folder / "kept"))
    assert len(list((folder / "kept").iterdir())) == 2
    first, second = (one[0].reference for one in found)
    assert first is not None
    assert second is not None
    assert not torch.allclose(first[0], second[0], atol=1e-3)


def test_question_on_another_picture_is_another_prompt(folder: Path) -> None:
    from coalign.data.splits import prompt_key

    rows = [{"image": f"{number}.png", "prompt": "what is it", "completion": "a"} for number in (0, 1, 0)]
    one, other, same = (
        prompt_key(record)
        for record in read_records(write(folder / "a.jsonl", rows), text_alone=False).records
    )
    assert one != other
    assert one == same


def test_a_copy_of_a_folder_of_pictures_is_split_as_the_folder_is(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from coalign.data.splits import prompt_key

    def keys(where: Path) -> list[str]:
        return [prompt_key(record) for record in read_records(where / "a.jsonl", text_alone=False).records]

    write(folder / "a.jsonl", pairs())
    copy = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(folder, copy)
    assert keys(folder) == keys(copy)
    rows = [{**row, "images": [str(folder / one) for one in row["images"]]} for row in pairs()]
    write(folder / "a.jsonl", rows)
    assert keys(folder) != keys(copy), "an absolute path is what the data say"


def test_the_same_question_on_another_picture_is_no_overlap(folder: Path) -> None:
    rows = [
        {"image": f"{number}.png", "prompt": "what is it then", "completion": "a"} for number in (0, 1, 1)
    ]
    records = read_records(write(folder / "a.jsonl", rows), text_alone=False).records
    assert [one.trained for one in find_overlap(records[:1], records[1:]).matches] == []
    assert len(find_overlap(records[1:2], records[2:]).matches) == 1
