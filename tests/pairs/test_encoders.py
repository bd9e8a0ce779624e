"""Image-text models behind two methods."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from coalign.core.errors import ModelError
from coalign.models.files.places import Location
from coalign.pairs.activations import activation_problem, stated_activations
from coalign.pairs.encoders import ImageTextEncoder
from tests.pairs.tiny import tiny_clip, tiny_siglip

TEXTS = ["a red circle", "a large blue ring at the top left"]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ImageTextEncoder:
    folder = tmp_path_factory.mktemp(request.param)
    return ImageTextEncoder.load({"clip": tiny_clip, "siglip": tiny_siglip}[request.param](folder))


def test_features_are_those_of_the_model_itself(encoder: ImageTextEncoder) -> None:
    pixels, ids = torch.rand(2, 3, 32, 32), encoder.ids(TEXTS)
    image, text = encoder.image(pixels), encoder.text(ids)
    logits = encoder.model(input_ids=ids, pixel_values=pixels).logits_per_image
    bias = getattr(encoder.model, "logit_bias", torch.zeros(()))
    ours = encoder.scale * torch.cosine_similarity(image.pooled[:, None], text.pooled[None], dim=-1)
    assert torch.allclose(ours + bias, logits, atol=1e-5)
    assert image.pooled.shape == (2, encoder.width)
    assert (image.tokens.shape[-1], text.tokens.shape[-1]) == encoder.tower_widths


def test_a_mask_ends_with_the_text(encoder: ImageTextEncoder) -> None:
    mask = encoder.text(encoder.ids(TEXTS)).mask
    assert mask is not None
    own = 2 if encoder.first_slot else 0  # the start and the end token
    assert mask.sum(1).tolist() == [3 + own, 8 + own]


def test_pictures_of_every_form_give_one_tensor(encoder: ImageTextEncoder, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    pixels = encoder.pixels(
        [array, Image.fromarray(array), tmp_path / "a.png", (tmp_path / "a.png").read_bytes()]
    )
    assert pixels.shape == (4, 3, 32, 32)
    assert all(torch.equal(pixels[0], one) for one in pixels)


def test_long_texts_keep_their_end(encoder: ImageTextEncoder) -> None:
    long = " ".join(["red"] * 40)
    assert encoder.ids([long]).shape == (1, 24)
    assert encoder.cut([long, *TEXTS]) == 1


def test_prompts_that_repeat_what_is_there_change_nothing(encoder: ImageTextEncoder) -> None:
    """The words of two slots as prompts give the feature of the text; other prompts another one."""
    ids, first = encoder.ids(TEXTS), encoder.first_slot
    words = encoder.model.text_model.get_input_embeddings()(ids[:, first : first + 2])
    plain = encoder.text(ids).pooled
    assert torch.allclose(encoder.text(ids, [words]).pooled, plain, atol=1e-6)
    assert not torch.allclose(encoder.text(ids, [torch.randn_like(words)]).pooled, plain, atol=1e-5)
    assert torch.equal(encoder.text(ids).pooled, plain)  # nothing is left behind in the model


def test_deep_prompts_replace_what_the_layer_before_made_of_theirs(encoder: ImageTextEncoder) -> None:
    vision, text = encoder.tower_widths
    draw = torch.Generator().manual_seed(0)
    pixels, ids = torch.rand(2, 3, 32, 32, generator=draw), encoder.ids(TEXTS)
    for width, encode in (
        (vision, lambda prompts: encoder.image(pixels, prompts)),
        (text, lambda prompts: encoder.text(ids, prompts)),
    ):
        one, two, other = (torch.randn(2, width, generator=draw) for _ in range(3))
        shallow, deep = encode([one]), encode([one, two])
        assert deep.tokens.shape == encode(None).tokens.shape
        assert not torch.allclose(shallow.pooled, deep.pooled, atol=1e-5)
        assert not torch.allclose(deep.pooled, encode([other, two]).pooled, atol=1e-5)
    with pytest.raises(ValueError, match="at most one a layer"):
        encoder.image(pixels, [torch.zeros(2, vision)] * 9)
    with pytest.raises(ValueError, match="expected one number"):
        encoder.image(pixels, [torch.zeros(2, vision), torch.zeros(3, vision)])
    with pytest.raises(ValueError, match="expected at least"):
        encoder.text(ids[:, :3], [torch.zeros(4, text)])


def test_gradients_reach_prompts_and_not_the_model(encoder: ImageTextEncoder) -> None:
    prompts = [torch.zeros(2, encoder.tower_widths[0], requires_grad=True) for _ in range(2)]
    encoder.image(torch.rand(1, 3, 32, 32), prompts).pooled.sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in prompts)
    assert all(one.grad is None for one in encoder.model.parameters())


def test_the_end_is_found_though_a_token_was_added(tmp_path: Path) -> None:
    """A configuration from before 2023 says 2 for the end; a token added behind the end must not take its place."""
    encoder = ImageTextEncoder.load(tiny_clip(tmp_path / "model"))
    before = encoder.text(encoder.ids(TEXTS)).pooled
    path = tmp_path / "model/config.json"
    config = json.loads(path.read_text())
    config["text_config"]["eos_token_id"] = 2
    path.write_text(json.dumps(config))
    assert torch.equal(ImageTextEncoder.load(tmp_path / "model").text(encoder.ids(TEXTS)).pooled, before)


def test_tokens_of_a_clip_are_projected(tmp_path: Path) -> None:
    encoder = ImageTextEncoder.load(tiny_clip(tmp_path / "model"))
    image, ids = encoder.image(torch.rand(2, 3, 32, 32)), encoder.ids(TEXTS)
    text = encoder.text(ids)
    assert torch.allclose(encoder.project_tokens(image, "image")[:, 0], image.pooled, atol=1e-6)
    ends = (ids == encoder.tokenizer.eos_token_id).int().argmax(1)
    assert torch.allclose(encoder.project_tokens(text, "text")[torch.arange(2), ends], text.pooled, atol=1e-6)


def test_what_is_no_image_text_model_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    with pytest.raises(ModelError, match="without get_image_features"):
        ImageTextEncoder(LlamaForCausalLM(config), None, None, "llama")
    with pytest.raises(ModelError, match="does not exist"):
        ImageTextEncoder.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "vision", "text", "said"),
    [
        ("openai/clip-vit-base-patch32", "quick_gelu", "quick_gelu", None),
        ("openai/clip-vit-base-patch32", "gelu", "gelu", "were trained with quick_gelu"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "quick_gelu", "quick_gelu", "were trained with gelu"),
        ("/models/laion/CLIP-ViT-B-32", "gelu", "gelu", None),
        ("/cache/models--laion--CLIP-ViT-B-32", "quick_gelu", "quick_gelu", "were trained with gelu"),
        ("my/model", "gelu", "quick_gelu", "differs between the towers"),
        ("my/model", "gelu", "gelu", None),
    ],
)
def test_the_activation_is_compared_with_that_of_the_family(
    name: str, vision: str, text: str, said: str | None
) -> None:
    config = SimpleNamespace(
        model_type="clip",
        vision_config=SimpleNamespace(hidden_act=vision),
        text_config=SimpleNamespace(hidden_act=text),
    )
    found = activation_problem(config, name)
    assert found is None if said is None else said in str(found)


def test_a_configuration_that_says_no_activation_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_clip(tmp_path / "model")
    assert stated_activations(Location("model", str(folder))) == (True, True)
    config = json.loads((folder / "config.json").read_text())
    del (
        config["vision_config"]["hidden_act"],
        config["text_config"]["hidden_act"],
        config["transformers_version"],
    )
    (folder / "config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING):
        ImageTextEncoder.load(folder)
    assert "says no hidden_act in vision_config and text_config, so quick_gelu" in caplog.text
