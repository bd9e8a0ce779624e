"""Pictures from the command line: `generate`, `chat`, `judge` and what `serve` takes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from coalign.cli.serving.chat import chat
from coalign.core.files import read_rows
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.media.conversations import MARK, pictures_of
from coalign.data.media.pictures import Picture
from coalign.data.readers import read_records
from coalign.judging import run as judge_run
from coalign.judging.items import read_items
from coalign.judging.language_judge import LanguageModelJudge
from coalign.models.backends.open import open_transformers
from coalign.models.options import ModelOptions
from tests.data.media.making import encoded, picture
from tests.evaluation.scripted import ScriptedGenerator
from tests.models import endpoint_server
from tests.models.tiny_vision import save_tiny_llava
from tests.preference.tiny_runs import save_tiny_model, write
from tests.web.serving import asked

GREEDY = ("--temperature", "0", "--max-new-tokens", "5")
LOCAL = ("--dtype", "float32", "--device", "cpu")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_llava(tmp_path_factory.mktemp("models") / "llava"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COALIGN_CACHE", str(tmp_path / "cache"))
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(30 + number, 20, number)))
    seen = [{"type": "text", "text": "see"}, {"type": "image", "image": "1.png"}]
    write(
        tmp_path / "prompts.jsonl",
        [
            {"prompt": "what is it", "image": "0.png"},
            {"prompt": "hello"},
            {"prompt": [{"role": "user", "content": seen}]},
        ],
    )
    return tmp_path


def test_generate_shows_pictures_and_its_rows_are_data(coalign: Any, llava: str, folder: Path) -> None:
    command = ["generate", "--model", llava, *LOCAL, "--prompts", "prompts.jsonl", *GREEDY]
    result = coalign(*command, "--out", "out.jsonl")
    assert result.code == 0, result.err
    rows = read_rows(folder / "out.jsonl")
    assert [len(one.get("images", [])) for one in rows] == [1, 0, 1]
    again = read_records("out.jsonl", kind="demonstration", pictures=True).records
    assert [one.prompt[-1]["content"] for one in again] == [f"{MARK}what is it", "hello", f"see{MARK}"]
    assert [len(one.pictures) for one in again] == [1, 0, 1]


def test_rows_of_other_pixels_are_not_continued(
    coalign: Any, llava: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coalign.models.generation.generator import TransformersGenerator

    command = ["generate", "--model", llava, *LOCAL, "--prompts", "prompts.jsonl", *GREEDY]

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TransformersGenerator, "_decode", killed)
        assert coalign(*command, "--out", "out.jsonl").code != 0
    (folder / "1.png").write_bytes(encoded(picture(31, 20, 9)))
    refused = coalign(*command, "--out", "out.jsonl")
    assert refused.code == 2
    assert "prompts:" in refused.err


def test_pictures_that_cannot_be_used_are_named_by_file_and_line(
    coalign: Any, llava: str, folder: Path
) -> None:
    text = str(save_tiny_model(folder / "text"))
    command = ["generate", "--prompts", "prompts.jsonl", "--device", "cpu"]
    refused = coalign(*command, *GREEDY, "--model", text, "--out", "a.jsonl")
    assert refused.code == 1
    assert "prompts.jsonl:1: images: pictures for a model of text alone" in refused.err
    long = coalign(*command, "--model", llava, "--max-new-tokens", "505", "--out", "b.jsonl")
    assert long.code == 1
    assert "prompts.jsonl:1: prompt: " in long.err
    (folder / "1.png").write_bytes(encoded(picture(64, 64))[:3000])
    broken = coalign(*command, "--model", "nowhere/none", "--out", "c.jsonl")
    assert broken.code == 1
    assert "prompts.jsonl:3: images: " in broken.err
    assert "1.png: image file is truncated" in broken.err


def test_generate_sends_pictures_to_an_endpoint(coalign: Any, folder: Path) -> None:
    with endpoint_server.running() as server:
        server.change = lambda answer: {**answer, "choices": [{"message": {"content": "a line"}}]}
        command = ["generate", "--endpoint", server.address, "--prompts", "prompts.jsonl", *GREEDY]
        result = coalign(*command, "--out", "out.jsonl")
    assert result.code == 0, result.err
    sent = {str(one["messages"][0]["content"])[:40] for one in server.requests}
    assert len(sent) == 3
    assert sum("image_url" in one for one in sent) == 1
    assert [one["responses"] for one in read_rows(folder / "out.jsonl")] == [["a line"]] * 3


def test_chat_shows_pictures(llava: str, folder: Path) -> None:
    (folder / "half.png").write_bytes(encoded(picture(64, 64))[:3000])

    def said(said: str, *more: str, model: str = llava) -> Any:
        return CliRunner().invoke(chat, [model, *LOCAL, *GREEDY, *more], input=said)

    seen = said("what\n", "--image", "0.png")
    assert seen.exit_code == 0, seen.output
    assert seen.stdout == said("/image 0.png\nwhat\n").stdout
    assert seen.stdout != said("what\n").stdout
    longer = said("/image 0.png\nwhat\n/image 1.png\nand now\n")
    assert longer.exit_code == 0
    assert longer.stdout.startswith(seen.stdout.rstrip("\n"))
    for given, model, problem in (
        ("/image half.png\nx\n", llava, "half.png: image file is truncated"),
        ("/image none.png\nx\n", llava, "none.png: no such file"),
        ("/image 0.png\nx\n", str(save_tiny_model(folder / "text")), "pictures for a model of text alone"),
    ):
        found = said(given, model=model)
        assert found.exit_code != 0
        assert problem in str(found.exception)


def test_serve_takes_pictures_in_the_request_alone(llava: str, folder: Path) -> None:
    generator = open_transformers(ModelOptions(model=llava, device="cpu", dtype="float32"))
    data = base64.b64encode((folder / "0.png").read_bytes()).decode()
    url = f"data:image/png;base64,{data}"

    def content(url: str) -> list[Any]:
        return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what"}]

    how: dict[str, Any] = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    with asked(generator) as (address, client):
        found = client.chat.completions.create(messages=[{"role": "user", "content": content(url)}], **how)
        told = client.chat.completions.create(
            messages=[{"role": "user", "content": content(url)}], stream=True, **how
        )
        streamed = "".join(one.choices[0].delta.content or "" for one in told)

        def refused(url: str) -> httpx.Response:
            body = {**how, "messages": [{"role": "user", "content": content(url)}]}
            return httpx.post(f"{address}/chat/completions", json=body)

        for other in ("https://example.org/a.png", "0.png", f"file://{folder}/0.png"):
            answer = refused(other)
            assert answer.status_code == 400
            assert "nothing is fetched; expected a data URL" in answer.json()["error"]["message"]
            assert answer.json()["error"]["param"] == "messages.0.content"
        half = refused(f"data:image/png;base64,{data[: len(data) // 8 * 4]}")
        assert half.status_code == 400
        assert "images: " in half.json()["error"]["message"]
    assert found.choices[0].message.content == streamed
    assert found.usage is not None
    assert found.usage.prompt_tokens == len(
        generator.encode_seen(
            [{"role": "user", "content": f"{MARK}what", "pictures": (Picture(url),)}]  # type: ignore[list-item]
        )[0]
    )


def test_judges_see_the_pictures_of_a_record(folder: Path) -> None:
    rows = [
        {"image": f"{number}.png", "prompt": "what is it", "chosen": "a", "rejected": "b"}
        for number in (0, 1)
    ]
    found = read_items(str(write(folder / "pairs.jsonl", rows)))
    generator = ScriptedGenerator(lambda prompt: "[[A]]")
    judge = LanguageModelJudge(generator)
    judge.compare(found.items, orders="given")
    assert len(generator.asked) == 2, "the same words on another picture are another question"
    for number, prompt in enumerate(judge.prompts(found.items, "pair")):
        assert f"{MARK}what is it" in prompt[0]["content"]
        assert pictures_of(prompt)[0].open().size == (30 + number, 20)
    twice = folder / "twice.j2"
    twice.write_text("{{ question }} {{ question }} {{ answers | join }}")
    (prompt, _) = LanguageModelJudge(generator, template=twice).prompts(found.items, "pair")
    assert prompt[0]["content"].count(MARK) == 1
    (folder / "1.png").write_bytes(encoded(picture(64, 64))[:3000])
    assert "pairs.jsonl:2: images: " in str(
        read_items(str(folder / "pairs.jsonl"), on_bad_record="skip").problems[0]
    )


def test_a_local_judge_and_an_endpoint_judge_pictures(llava: str, folder: Path) -> None:
    rows = [{"image": "0.png", "prompt": "what is it", "response": "a thing"}]
    path = str(write(folder / "answers.jsonl", rows))

    def ran(name: str, **given: Any) -> Run:
        config = build(judge_run.Config, {"data": path, "max_failures": 1.0, "device": "cpu", **given})
        run = Run.start(folder / name, "judge", config)
        judge_run.run(config, run)
        return run

    local = ran("local", model=llava, judge_readout="logprobs", scale_low=0, scale_high=9)
    assert len(read_rows(local.artefacts / "verdicts.jsonl")) == 1
    report = (local.path / "report.html").read_text(encoding="utf-8")
    assert "[picture] what is it" in report
    assert "Pictures that were judged" in report
    assert "data:image/" in report
    assert MARK not in report
    with endpoint_server.running() as server:
        server.change = lambda answer: {**answer, "choices": [{"message": {"content": "[[7]]"}}]}
        far = ran("far", endpoint=server.address)
    assert read_rows(far.artefacts / "verdicts.jsonl")[0]["score"] == 7
    parts = server.requests[0]["messages"][0]["content"]
    assert [one["type"] for one in parts] == ["text", "image_url", "text"]
