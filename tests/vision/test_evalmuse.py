"""`evalmuse` on tiny models of the real classes: BLIP-2's Q-Former, joint layers, models that answer, and bad items."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from coalign.core.errors import CoalignError, DataError, ModelError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.media.pictures import Picture
from coalign.models.backends.options import BackendOptions
from coalign.report.html import read_report
from coalign.vision import evalmuse
from coalign.vision.fine_grained.items import Item, read_items
from coalign.vision.fine_grained.loading import new_scorer, open_scorer, open_yes_no, save_scorer
from coalign.vision.fine_grained.questions import EndpointYesNo, ask, share_of_yes
from coalign.vision.fine_grained.scoring import QuestionMetric
from tests.models import endpoint_server
from tests.vision.tiny import blip2_folder, llava_folder, noise, save_noise, small_clip_folder, write_rows


def item(number: int, **more: Any) -> dict[str, Any]:
    return {
        "prompt": "a red circle and a small square", "img_path": f"made/{number}.png", "type": "ab"[number % 2],
        "total_score": [1 + number % 4, 2 + number % 4, 3], "element_score": {"red (color)": [1, 0, 1], "square (object)": [number % 2]},
        **more,
    }  # fmt: skip


def items_file(folder: Path, count: int = 6, **more: Any) -> Path:
    save_noise(folder / "made", count)
    return write_rows(folder / "items.jsonl", [item(number, **more) for number in range(count)])


def run_of(path: Path, **options: Any) -> Run:
    config = build(evalmuse.Config, {"device": "cpu", **options})
    run = Run.start(path, "evalmuse", config)
    evalmuse.run(config, run)
    run.set_status(state="done")
    return run


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blip2_folder(tmp_path_factory.mktemp("models") / "blip2")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llava_folder(tmp_path_factory.mktemp("models") / "llava")


def test_the_q_former_is_read_as_transformers_reads_it(blip2: Path) -> None:
    """The mean of the query places' logits is what `Blip2ForImageTextRetrieval` gives."""
    from transformers import AutoProcessor, Blip2ForImageTextRetrieval

    scorer, reader, _ = new_scorer(str(blip2), None, "cpu")
    texts, pictures = ["a red circle", "a small square and a ring"], [noise(0), noise(1)]
    ids, mask = reader.padded([reader.prompt_ids(one) for one in texts])
    with torch.no_grad():
        ours = scorer.eval()(reader.pixels(pictures), ids, mask)
        model = Blip2ForImageTextRetrieval.from_pretrained(blip2).eval()
        pixels = AutoProcessor.from_pretrained(blip2).image_processor(pictures, return_tensors="pt")[
            "pixel_values"
        ]
        model.config.image_token_index = None
        theirs = model(
            pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=True
        )
    torch.testing.assert_close(ours.logits[:, : ours.queries].mean(1), theirs.logits_per_image)


def test_padding_changes_no_score(blip2: Path) -> None:
    scorer, reader, _ = new_scorer(str(blip2), None, "cpu")
    ids = [reader.prompt_ids("a red circle")]
    with torch.no_grad():
        short, long = (
            scorer.eval()(reader.pixels([noise(0)]), *reader.padded(ids, size)) for size in (None, 20)
        )
    torch.testing.assert_close(long.overall, short.overall)
    torch.testing.assert_close(long.tokens[:, : len(ids[0])], short.tokens)


def test_training_leaves_the_vision_tower_and_what_is_saved_scores_alike(blip2: Path, tmp_path: Path) -> None:
    data = str(items_file(tmp_path))
    run = run_of(tmp_path / "run", train=[data], base=str(blip2), data=[data], max_steps=2, batch_size=3, learning_rate=1e-2,
                 text_length=16, eval_fraction=0.0)  # fmt: skip
    from safetensors.torch import load_file

    weights = load_file(run.model / "scorer.safetensors")
    assert any("qformer" in name for name in weights)
    assert [name for name in weights if "vision_model" in name] == [
        name for name in weights if "post_layernorm" in name and "vision_model" in name
    ]
    before, _, _ = new_scorer(str(blip2), None, "cpu")
    untouched = before.state_dict()
    assert any(not torch.equal(weights[name], untouched[name]) for name in weights if "qformer" in name)
    rows = [json.loads(line) for line in (run.artefacts / "scores.jsonl").read_text().splitlines()]
    again = run_of(tmp_path / "again", model=str(run.path), data=[data])
    assert [json.loads(line) for line in (again.artefacts / "scores.jsonl").read_text().splitlines()] == rows
    assert rows[0]["element_result"].keys() == {"red (color)", "square (object)"}
    titles = [one.title for one in read_report(run.report).sections]
    assert {"Agreement with people", "Text-to-image models", "Elements", "What was missed"} <= {*titles}


def test_a_scorer_on_a_base_that_changed_is_refused(tmp_path: Path) -> None:
    base = small_clip_folder(tmp_path / "clip")
    scorer, _, about = new_scorer(str(base), None, "cpu", {"width": 8, "heads": 2, "layers": 1, "queries": 2})
    save_scorer(tmp_path / "scorer", scorer, about)
    assert open_scorer(tmp_path / "scorer", "cpu").model.body.queries == 2
    about["identity"] = "another"
    save_scorer(tmp_path / "scorer", scorer, about)
    with pytest.raises(ModelError, match="was trained on another"):
        open_scorer(tmp_path / "scorer", "cpu")
    with pytest.raises(ModelError, match="holds no scorer"):
        open_scorer(tmp_path, "cpu")


def test_a_prompt_is_read_whole_when_it_is_scored_and_cut_when_it_is_learnt(
    blip2: Path, tmp_path: Path
) -> None:
    from coalign.vision.fine_grained.training import make_examples

    _, reader, _ = new_scorer(str(blip2), None, "cpu")
    save_noise(tmp_path / "made", 1)
    long = "a red circle and a small square and a green ring and a blue ring"
    file = write_rows(
        tmp_path / "items.jsonl", [item(0, prompt=long, element_score={"blue (color)": 1, "red (color)": 0})]
    )
    found = make_examples(read_items([str(file)]).items, reader, 6)
    assert (len(found.examples), found.cut) == (1, 1)
    assert found.examples[0].mask == [1, 0, 1, 0, 0, 0]
    assert found.examples[0].scores[2] == 0


def test_questions_are_asked_both_ways_whatever_the_batch(llava: Path, tmp_path: Path) -> None:
    data = str(items_file(tmp_path, 3))
    items = read_items([data]).items
    pictures = [one.image.open() for one in items]
    forms = {
        "positive": "is it there {question}",
        "negative": "is it no {question}",
        "template": "show {phrase}",
    }
    found = [ask(open_yes_no(str(llava), None, "cpu", size), items, pictures, **forms) for size in (1, 5)]
    assert [one.element for one in found[0][0]] == ["red (color)", "square (object)"]
    for one, other in zip(*([one for each in part for one in each] for part in found), strict=True):
        assert one.question == other.question
        assert one.positive == pytest.approx(other.positive, abs=1e-5)
        assert one.score == pytest.approx((one.positive + 1 - one.negative) / 2)
    assert len({round(one.positive or 0, 6) for each in found[0] for one in each}) > 3, (
        "pictures and questions matter"
    )


def test_a_run_of_a_model_that_answers(llava: Path, tmp_path: Path) -> None:
    data = str(items_file(tmp_path, 3))
    run = run_of(
        tmp_path / "run",
        vqa=str(llava),
        data=[data],
        positive="is {question}",
        negative="no {question}",
        question="{phrase}",
    )
    row = json.loads((run.artefacts / "scores.jsonl").read_text().splitlines()[0])
    assert row["score_result"] == pytest.approx(1 + 4 * sum(row["element_result"].values()) / 2)
    assert row["detail"]["red (color)"]["question"] == "red"


def test_an_endpoint_is_sent_the_picture_and_asked_for_probabilities() -> None:
    def says(handler: Any, body: dict[str, Any]) -> bool:
        picture, text = body["messages"][0]["content"]
        assert picture["image_url"]["url"].startswith("data:image/png;base64,")
        assert body["max_tokens"] == 1
        likely = [(" Yes", -0.1), ("no", -3.0)] if "unclear" not in text["text"] else [("maybe", -0.1)]
        top = [{"token": token, "logprob": value} for token, value in likely]
        logprobs = {"content": [{**top[0], "top_logprobs": top}]}
        message = {"role": "assistant", "content": likely[0][0]}
        handler.send(
            200,
            {"choices": [{"index": 0, "finish_reason": "length", "message": message, "logprobs": logprobs}]},
        )
        return True

    with endpoint_server.running() as server:
        server.fault = says
        options = BackendOptions(endpoint=server.address, endpoint_cache="off")
        model = EndpointYesNo(options)
        found = model.p_yes([noise(0), noise(1)], ["is it?", "unclear"])
        model.close()
    assert found[0] == pytest.approx(1 / (1 + 2.718281828 ** (-3.0 + 0.1)))
    assert found[1] is None


def test_spellings_of_yes_and_no_are_summed() -> None:
    assert share_of_yes([("Yes", -1.0), (" yes", -1.0), ("NO", -1.0)]) == pytest.approx(2 / 3)
    assert share_of_yes([("sure", -0.1)]) is None


def test_a_broken_picture_has_no_score_and_is_told(tmp_path: Path) -> None:
    base = small_clip_folder(tmp_path / "clip")
    data = items_file(tmp_path, 4)
    (tmp_path / "made" / "2.png").write_bytes((tmp_path / "made" / "2.png").read_bytes()[:200])
    run = run_of(tmp_path / "run", clip_score=str(base), data=[str(data)])
    rows = [json.loads(line) for line in (run.artefacts / "scores.jsonl").read_text().splitlines()]
    assert [row["score_result"] is None for row in rows] == [False, False, True, False]
    assert "2.png" in rows[2]["problem"]
    assert json.loads((run.artefacts / "results.json").read_text())["overall"]["n"] == 3


def test_any_metric_is_benchmarked_by_its_column(tmp_path: Path) -> None:
    rows = [
        item(number, img_path="none.png", mine=float(number % 4), element_result={"red (color)": 0.9})
        for number in range(8)
    ]
    file = write_rows(tmp_path / "items.jsonl", rows)
    run = run_of(tmp_path / "run", metric="mine", data=[str(file)])
    found = json.loads((run.artefacts / "results.json").read_text())
    assert found["overall"]["srcc"] == pytest.approx(1)
    assert found["elements"]["accuracy"] == 1.0
    with pytest.raises(CoalignError, match="yours: None, expected a number"):
        run_of(tmp_path / "other", metric="yours", data=[str(file)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": " "}, "prompt"),
        ({"img_path": None}, "image: is missing"),
        ({"total_score": [6]}, "total_score: is [6], expected numbers from 1 to 5"),
        ({"total_score": "good"}, "total_score"),
        (
            {"element_score": {"red (color)": [2]}},
            "element_score.red (color): is [2], expected numbers from 0 to 1",
        ),
        ({"element_score": [1]}, "element_score"),
        ({"element_score": {"(color)": 1}}, "has no phrase"),
        ({"elements": "red"}, "elements"),
        ({"id": "same"}, "appears twice"),
    ],
)
def test_a_bad_item_is_named_with_its_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    save_noise(tmp_path / "made", 1)
    file = write_rows(tmp_path / "items.jsonl", [item(0, id="same"), {**item(0), **change}])
    with pytest.raises(DataError) as caught:
        read_items([str(file)])
    assert "items.jsonl:2" in str(caught.value)
    assert words in str(caught.value)
    assert len(read_items([str(file)], skip_bad=True).items) == 1


def test_prompts_that_mean_nothing_are_dropped_in_either_spelling(tmp_path: Path) -> None:
    rows = [
        item(0),
        item(1, promt_meaningless=1),
        item(2, prompt_meaningless=True),
        item(3, prompt_meaningless=0),
    ]
    found = read_items([str(write_rows(tmp_path / "items.jsonl", rows))])
    assert (len(found.items), found.dropped) == (2, 2)


def test_pictures_are_found_beside_the_file_and_as_hub_features(tmp_path: Path) -> None:
    import io

    save_noise(tmp_path / "made", 1)
    stream = io.BytesIO()
    Image.open(tmp_path / "made" / "0.png").save(stream, format="PNG")
    import base64

    rows = [item(0), item(0, img_path=None, image={"bytes": None, "path": "made/0.png"}),
            item(0, img_path=None, image=base64.b64encode(stream.getvalue()).decode())]  # fmt: skip
    found = read_items([str(write_rows(tmp_path / "items.jsonl", rows))]).items
    assert len({one.image.open().tobytes() for one in found}) == 1


def released_name(ours: str) -> str:
    """As the authors' fork of LAVIS names a weight of ours."""
    name = ours.replace("attention.attention.", "attention.self.")
    for mine, theirs in (
        ("match.", "itm_head."), ("mark.", "mask_proj.layers."), ("body.model.query_tokens", "query_tokens"),
        ("body.model.vision_model.post_layernorm.", "ln_vision."),
        ("body.model.qformer.layernorm.", "Qformer.bert.embeddings.LayerNorm."),
        ("body.model.embeddings.", "Qformer.bert.embeddings."), ("body.model.qformer.encoder.", "Qformer.bert.encoder."),
    ):  # fmt: skip
        if name.startswith(mine):
            return theirs + name.removeprefix(mine)
    raise AssertionError(ours)


def test_released_weights_are_read_by_their_names(blip2: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    scorer, _, about = new_scorer(str(blip2), None, "cpu")
    scorer.body.freeze()
    learnt = {name: one for name, one in scorer.named_parameters() if one.requires_grad}
    with torch.no_grad():
        for one in learnt.values():
            one.add_(0.1 * torch.randn_like(one))
    save_scorer(tmp_path / "scorer", scorer, about)
    unused = {
        "temp": torch.ones(()),
        "vision_proj.weight": torch.ones(2, 2),
        "Qformer.bert.embeddings.position_ids": torch.arange(3),
    }
    torch.save(
        {"model": {released_name(name): one.detach() for name, one in learnt.items()} | unused, "epoch": 4},
        tmp_path / "fga.pth",
    )
    data = str(items_file(tmp_path, 3))
    rows = [
        [json.loads(line) for line in (run.artefacts / "scores.jsonl").read_text().splitlines()]
        for run in (
            run_of(tmp_path / "ours", model=str(tmp_path / "scorer"), data=[data]),
            run_of(tmp_path / "theirs", model=str(tmp_path / "fga.pth"), base=str(blip2), data=[data]),
        )
    ]
    assert rows[0] == rows[1]
    torch.save({"model": {"itm_head.weight": torch.ones(2, 16)}}, tmp_path / "half.pth")
    with pytest.raises(ModelError, match=r"no weights of body\.model\.qformer"):
        run_of(tmp_path / "half", model=str(tmp_path / "half.pth"), base=str(blip2), data=[data])
    (tmp_path / "no.pth").write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot be read as released weights"):
        run_of(tmp_path / "none", model=str(tmp_path / "no.pth"), base=str(blip2), data=[data])


def test_captions_are_read_as_blip2_learnt_them() -> None:
    from coalign.vision.fine_grained.reading import plain_caption

    assert plain_caption('A red (big) circle: "two"  rings!') == "a red big circle two rings"


def test_without_negation_the_second_request_is_not_made() -> None:
    class Agreeing:
        name = "agreeing"

        def __init__(self) -> None:
            self.asked: list[str] = []

        def p_yes(self, pictures: Sequence[Any], requests: Sequence[str]) -> list[float | None]:
            assert len(pictures) == len(requests)
            self.asked += requests
            return [0.75 if "red" in one else 0.25 for one in requests]

        def close(self) -> None:
            pass

    item = Item("a", "a red cup", Picture("a.png"), ("red (color)", "cup (object)"))
    model = Agreeing()
    (found,) = QuestionMetric(model, "{phrase}", "yes {question}", "no {question}", negate=False).score(
        [item], [noise(0)]
    )
    assert model.asked == ["yes red", "yes cup"]
    assert found.elements == {"red (color)": 0.75, "cup (object)": 0.25}
    assert (found.overall, found.missing) == (3.0, ())
    assert found.detail["red (color)"]["negative"] is None
    with pytest.raises(ValueError, match="not asked"):
        evalmuse.Config(vqa="a", data=["b"], negate=False, negative="not {question}?")


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"question": "Is {thing} there?"}, "has {thing}, expected {phrase} {category} {prompt}"),
        ({"question": "Is {} there?"}, "has {}, expected"),
        ({"question": "Is {phrase there?"}, "cannot be filled in"),
        ({"positive": "{question} yes of {phrase}?"}, "positive: .*has {phrase}"),
        ({"negative": "no?"}, "negative: 'no.' has no {question}"),
    ],
)
def test_forms_that_could_not_be_filled_in_are_refused(form: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evalmuse.Config(vqa="a", data=["b"], **form)
