"""Prompts with pictures: what a model says is what Transformers says, alone or beside others, at once or streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import DataError, PromptError
from coalign.data.media.conversations import MARK, question_about, showing
from coalign.data.media.pictures import Picture
from coalign.data.media.prompts import processor_of
from coalign.models.backends.open import open_transformers
from coalign.models.generation import incremental
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions
from coalign.models.picture_questions import UntemplatedAnswerer, open_picture_answerer
from coalign.models.types import Sampling
from tests.data.media.making import encoded, picture
from tests.models.tiny_vision import save_tiny_idefics3, save_tiny_llava, save_tiny_qwen2_vl

MAKERS = {"llava": save_tiny_llava, "idefics3": save_tiny_idefics3, "qwen2-vl": save_tiny_qwen2_vl}
GREEDY = Sampling(max_new_tokens=6, temperature=0.0)
SIZES = ((30, 20), (40, 70), (64, 10))


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TransformersGenerator]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: open_transformers(ModelOptions(model=str(make(folder / name)), device="cpu", dtype="float32"))
        for name, make in MAKERS.items()
    }


def shown(number: int) -> Picture:
    return Picture(encoded(picture(*SIZES[number], number)))


def prompts() -> list[Any]:
    """One picture, none, two, a begun answer; of other lengths, so that rows are padded."""
    return [
        showing([{"role": "user", "content": f"{MARK}what is it"}], [shown(0)]),
        [{"role": "user", "content": "hello"}],
        showing([{"role": "user", "content": f"{MARK}this or that, say{MARK}"}], [shown(1), shown(2)]),
        showing(
            [{"role": "user", "content": f"look {MARK}"}, {"role": "assistant", "content": "It is"}],
            [shown(2)],
        ),
    ]


@pytest.mark.parametrize("name", MAKERS)
def test_greedy_text_is_that_of_transformers(generators: dict[str, TransformersGenerator], name: str) -> None:
    generator = generators[name]
    model: Any = generator.model
    processor: Any = processor_of(generator.tokenizer)
    pixels = shown(0).open()
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it"}]}]
    text = generator.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    made = processor(text=[text], images=[[pixels]], return_tensors="pt", add_special_tokens=False)
    expected = model.generate(**made, max_new_tokens=6, do_sample=False, pad_token_id=1)
    found = generator.generate(prompts()[:1], GREEDY)[0][0]
    assert isinstance(incremental.open_rows(model), incremental.CachedRows)
    assert found.token_ids == expected[0, made["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("plain", [False, True], ids=["cached", "plain"])
@pytest.mark.parametrize("name", MAKERS)
def test_left_padded_rows_say_what_each_says_alone(
    generators: dict[str, TransformersGenerator],
    name: str,
    plain: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if plain:
        monkeypatch.setattr(incremental, "open_rows", lambda model, _: incremental.PlainRows(model))
    together = generators[name].generate(prompts(), GREEDY)
    monkeypatch.undo()
    alone = [generators[name].generate([one], GREEDY)[0] for one in prompts()]
    assert [one[0].token_ids for one in together] == [one[0].token_ids for one in alone]


@pytest.mark.parametrize("plain", [False, True], ids=["cached", "plain"])
def test_samples_are_the_same_streamed_resumed_and_beside_others(
    generators: dict[str, TransformersGenerator], plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, sampling = generators["llava"], Sampling(max_new_tokens=5, temperature=1.0, n=2, seed=3)
    whole = generator.generate(prompts(), sampling)
    assert generator.generate(prompts(), sampling, done=[0, 1])[2] == whole[2]
    if plain:
        monkeypatch.setattr(incremental, "open_rows", lambda model, _: incremental.PlainRows(model))
    said: dict[tuple[int, int], Any] = {}
    for piece in generator.stream(prompts(), sampling):
        if piece.generation is not None:
            said[piece.prompt, piece.sample] = piece.generation
    assert [[said[place, sample].token_ids for sample in range(2)] for place in range(4)] == [
        [one.token_ids for one in samples] for samples in whole
    ]


def test_another_picture_gives_another_answer(generators: dict[str, TransformersGenerator]) -> None:
    asked = [showing([{"role": "user", "content": f"{MARK}what"}], [shown(one)]) for one in (0, 1)]
    how = Sampling(max_new_tokens=1, temperature=0.0, top_logprobs=5)
    one, other = (samples[0].top_logprobs for samples in generators["llava"].generate(asked, how))
    assert one != other


def test_a_broken_picture_and_a_method_that_shows_none_name_the_prompt(
    generators: dict[str, TransformersGenerator],
) -> None:
    broken = Picture(encoded(picture(64, 64))[:3000], name="half.png")
    asked = [*prompts(), showing([{"role": "user", "content": f"{MARK}what"}], [broken])]
    with pytest.raises(PromptError, match=r"prompt 4: images: half\.png: image file is truncated") as caught:
        generators["llava"].generate(asked, GREEDY)
    assert (caught.value.index, caught.value.field) == (4, "images")
    with pytest.raises(DataError, match="prompt 0: images: pictures cannot be used here"):
        generators["llava"].encode(prompts()[0])


def test_a_prompt_whose_pictures_leave_no_room_is_named(
    generators: dict[str, TransformersGenerator],
) -> None:
    with pytest.raises(PromptError, match=r"prompt 0: prompt: \d+ tokens.*expected at most 2"):
        generators["llava"].generate(prompts(), Sampling(max_new_tokens=510))


def test_qwen2_vl_needs_no_torchvision_for_pictures_and_is_scored_and_saved_with_its_processor(
    tmp_path: Path,
) -> None:
    from coalign.models.files.loading import load_model, load_tokenizer
    from coalign.models.files.saving import save_model

    folder = str(save_tiny_qwen2_vl(tmp_path / "model"))
    tokenizer = load_tokenizer(folder)
    assert type(processor_of(tokenizer)).__name__ == "Qwen2VLProcessor"
    save_model(load_model(folder, training=False), tokenizer, tmp_path / "saved")
    again = open_transformers(ModelOptions(model=str(tmp_path / "saved"), device="cpu", dtype="float32"))
    first = open_transformers(ModelOptions(model=folder, device="cpu", dtype="float32"))
    assert first.generate(prompts(), GREEDY) == again.generate(prompts(), GREEDY)
    # the position of the last token of a picture is less than their number
    ids, seen = first.encode_seen(prompts()[2])
    assert seen is not None
    call, row = incremental.Call(first.model), torch.tensor([ids])
    places = call.positions(row, torch.ones_like(row), call.shown([seen], len(ids)))
    assert places.shape == (3, 1, len(ids))
    assert int(places.max()) < len(ids) - 1


def test_text_alone_refuses_pictures(tmp_path: Path) -> None:
    from tests.preference.tiny_runs import save_tiny_model

    generator = open_transformers(ModelOptions(model=str(save_tiny_model(tmp_path)), device="cpu"))
    with pytest.raises(PromptError, match="pictures for a model of text alone"):
        generator.generate(prompts()[:1], GREEDY)


def test_pixels_are_made_in_the_format_of_the_weights(
    generators: dict[str, TransformersGenerator],
) -> None:
    model: Any = generators["llava"].model
    _, seen = generators["llava"].encode_seen(prompts()[0])
    assert seen is not None
    made = incremental.Call(model).shown([seen], len(seen.ids) + 3, left=True)
    assert made["pixel_values"].dtype == next(model.parameters()).dtype == torch.float32


def test_pictures_are_sent_to_an_endpoint_as_data_urls_and_their_pixels_are_the_key(
    server: Any, opened: Any, tmp_path: Path
) -> None:
    wide = tmp_path / "wide.png"
    wide.write_bytes(encoded(picture(3000, 10)))
    asked = showing([{"role": "user", "content": f"a{MARK}b"}], [Picture(wide)])
    kept = opened()
    server.change = lambda answer: {**answer, "choices": [{"message": {"content": "a line"}, "index": 0}]}
    assert kept.generate([asked], GREEDY)[0][0].text == "a line"
    before, sent, after = server.requests[0]["messages"][0]["content"]
    assert (before, after) == ({"type": "text", "text": "a"}, {"type": "text", "text": "b"})
    assert Picture(sent["image_url"]["url"]).info().width == 1024
    again = showing(asked, [Picture(wide.read_bytes())])
    kept.generate([again], GREEDY)
    assert len(server.requests) == 1
    wide.write_bytes(encoded(picture(3000, 10, 5)))
    kept.generate([asked], GREEDY)
    assert len(server.requests) == 2
    wide.write_bytes(wide.read_bytes()[:200])
    with pytest.raises(PromptError, match=r"prompt 0: images: .*wide\.png: .*truncated"):
        kept.generate([asked], GREEDY)
    with pytest.raises(PromptError, match="pictures cannot be used here"):
        kept.generate([[{"role": "user", "content": f"{MARK}lost"}]], GREEDY)


def test_a_model_without_a_template_is_asked_as_it_is(tmp_path: Path) -> None:
    folder = save_tiny_llava(tmp_path / "llava")
    (folder / "chat_template.jinja").unlink()
    answerer = open_picture_answerer(str(folder), device="cpu")
    assert isinstance(answerer, UntemplatedAnswerer)
    asked = [question_about(shown(one), "<image>what is it") for one in range(2)]
    sampling = Sampling(max_new_tokens=3, temperature=1.0, n=2)
    whole = answerer.generate(asked, sampling)
    assert [len(one) for one in whole] == [2, 2]
    assert answerer.generate(asked, sampling, done=[0])[1] == whole[1]
    with pytest.raises(PromptError, match="one question about one picture"):
        answerer.generate(["text"], sampling)
