"""The model card: front matter that the hub reads, figures, and text that stays text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from coalign.report.model_card import model_card, recast, write_model_card
from tests.report.example import example_report

FIELDS: dict[str, Any] = {
    "report": example_report(rows=3),
    "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "library": "peft",
    "method_title": "Alignment with automatic constraint verification (ACT)",
    "data": "360 prompts with constraints.",
    "config": {"margin": 0.5, "lora": {"r": 16}},
}


def _card(**changes: Any) -> str:
    return model_card(**{**FIELDS, **changes})


def test_front_matter_is_read_by_the_hub_client() -> None:
    data = ModelCard(_card(hub_datasets=["org/prompts"])).data.to_dict()
    expected = {
        "base_model": FIELDS["base_model"], "library_name": "peft", "base_model_relation": "adapter",
        "tags": ["coalign", "act", "lora"], "datasets": ["org/prompts"],
    }  # fmt: skip
    assert data.items() >= expected.items()
    assert "license" not in data
    metrics = data["model-index"][0]["results"][0]["metrics"]
    assert {"type": "all_constraints", "value": 0.621, "name": "All constraints"} in metrics


def test_a_local_base_model_is_named_but_not_linked() -> None:
    card = _card(base_model="/models/mine", library="transformers", license="apache-2.0")
    data = ModelCard(card).data.to_dict()
    assert "base_model" not in data
    assert data["license"] == "apache-2.0"
    assert "A fine-tuned copy of mine, made with" in card
    assert "/models" not in card
    assert "PeftModel" not in card


def test_folders_of_the_disk_stand_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "first" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = {
        "data": ["/home/jo/my data/a.jsonl,weight=2", "org/prompts"], "model": "runs/first", "out": tmp_path / "x",
        "url": "https://host.example/v1/chat", "kinds": {"of": "C:\\Users\\jo\\b.csv"}, "ratio": "and/or",
    }  # fmt: skip
    card = _card(
        base_model=str(tmp_path / "runs" / "first" / "model"),
        data=f"Of {tmp_path}/deep_er/texts.jsonl and ~/notes.txt.",
        config=config,
    )
    for hidden in (str(tmp_path), "jo", "my data", "deep", "~", "runs/first"):
        assert hidden not in card
    for kept in (
        "adapter for first, made", 'from_pretrained("first")  # the folder', "a.jsonl,weight=2", "org/prompts",
        "Of texts.jsonl and notes.txt.", "https://host.example/v1/chat", "b.csv", "and/or",
        "https://arxiv.org/abs/2403.06326",
    ):  # fmt: skip
        assert kept in card
    assert "base_model" not in ModelCard(_card(base_model="runs/first")).data.to_dict()


def test_says_what_a_reader_must_know() -> None:
    card = _card(limitations=["English only."])
    for part in (
        "arXiv:2403.06326", "| All constraints | 464 | 41.2% ", "| +20.9 pp |", "PeftModel.from_pretrained",
        "- English only.", "- The verifiers see form, not truth", "7 min 32 s",
    ):  # fmt: skip
        assert part in card


@pytest.mark.parametrize("library", ["peft", "transformers"])
def test_the_loading_code_compiles(library: str) -> None:
    code = _card(library=library, base_model='o"dd/path').split("```python\n")[1].split("\n```")[0]
    compile(code, "card", "exec")


def test_hostile_text_stays_text() -> None:
    card = _card(data="<script>x</script> | `a` [b](javascript:x)\n# Title", config={"stop": "```\n# out"})
    assert "<script>" not in card.replace("\\<script\\>", "")
    assert "\\[b\\](javascript:x) \\# Title" in card
    assert "````yaml\n" in card


@pytest.mark.parametrize(
    ("settings", "name", "tag"),
    [
        ({"peft_type": "LORA"}, "A LoRA", "lora"),
        ({"peft_type": "LORA", "use_dora": True}, "A DoRA", "dora"),
        ({"peft_type": "IA3"}, "An IA3", "ia3"),
        ({"peft_type": "LOKR"}, "A LoKr", "lokr"),
    ],
)
def test_an_adapter_is_called_by_its_kind(settings: dict[str, Any], name: str, tag: str) -> None:
    card = _card(library="peft", adapter=settings)
    assert f"{name} adapter for" in card
    assert f"- {tag}\n" in card
    whole = recast(card)
    assert f"- {tag}\n" not in whole
    assert "A fine-tuned copy of" in whole


def test_write_model_card(tmp_path: Path) -> None:
    path = tmp_path / "model" / "README.md"
    write_model_card(path, **FIELDS)
    assert path.read_text(encoding="utf-8") == _card()
