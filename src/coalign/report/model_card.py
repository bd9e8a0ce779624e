"""The README.md of a resulting model: Hugging Face front matter and what a reader of the model must know."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from coalign import __version__
from coalign.core.files import write_text
from coalign.core.names import name_of_place
from coalign.core.secrets import redacted
from coalign.report.format import difference_texts, interval_text, number
from coalign.report.markdown import cells, fence, inline
from coalign.report.model import Comparison, ComparisonRow, Report, Text, Timings
from coalign.report.places import is_place, with_names, without_folders
from coalign.report.text import visible

Library = Literal["peft", "transformers", "diffusers"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(
    *,
    report: Report,
    base_model: str,
    library: Library,
    method_title: str,
    data: str,
    config: Mapping[str, Any],
    adapter: Mapping[str, Any] | None = None,
    summary: str = "",
    task: str = "text-generation",
    hub_datasets: Sequence[str] = (),
    license: str | None = None,
    language: Sequence[str] = (),
    limitations: Sequence[str] = (),
) -> str:
    """The model card as Markdown. Files and folders of this disk stand in it by their names alone.

    Args:
        report: figures, method and paper come from here; its Text sections called Limitations are copied.
        base_model: hub id or path of the model that was aligned. Only a hub id goes into the front matter; a folder is named.
        library: `peft` for an adapter, `transformers` for a whole model, `diffusers` for a pipeline.
        adapter: of an adapter what its `adapter_config.json` says.
        method_title: the method's name in words.
        data: one or two sentences on the data.
        summary: what the model is, in one or two sentences; by default from the report.
        task: what the hub calls it: `text-generation`, `text-to-image`, ...
        license: left out unless known.
    """
    kind = _kind(adapter or {})
    parts = [
        _front_matter(
            report,
            base_model,
            library,
            task,
            tags=["coalign", report.method, *([kind.lower()] if library == "peft" else [])],
            datasets=list(hub_datasets) or None,
            license=license,
            language=list(language) or None,
        ),
        f"# {inline(report.title)}",
        inline(summary) or _what_it_is(base_model, library, method_title, kind),
        f"**{report.verdict.outcome.capitalize()}.** {inline(report.verdict.text)}",
        f"## Method\n\n{_method(report, method_title)}",
        f"## Data\n\n{inline(data)}",
        _figures(report),
        f"{_LOADING}\n\n{fence(_loading(base_model, library, task), 'python')}",
        f"## Configuration\n\n{fence(_yaml(with_names(config)), 'yaml')}",
        _limitations(report, limitations),
        _cost(report),
    ]
    return without_folders("\n\n".join(part for part in parts if part)) + "\n"


def write_model_card(path: Path, **fields: Any) -> None:
    """Write `model_card(**fields)` atomically to `path` (usually `model/README.md`)."""
    write_text(path, redacted(model_card(**fields)))


_LOADING = "## How to load"
_KINDS = {
    "LORA": "LoRA", "DORA": "DoRA", "LOHA": "LoHa", "LOKR": "LoKr", "VERA": "VeRA", "IA3": "IA3", "OFT": "OFT", "HRA": "HRA"
}  # fmt: skip
"""Kinds of adapters, as peft and as papers call them; a card's tags are the first in small letters."""
_ADAPTER = re.compile(r"\bAn? \w+ adapter for\b")


def recast(card: str, *, file: str | None = None, adapter: bool = False) -> str:
    """A card that `model_card` wrote, for the same model in another form; any other card stays as it is.

    Args:
        file: of a GGUF file beside the card; None for a whole model in place of the adapter that it was.
        adapter: the file is an adapter apart from its base.
    """
    from huggingface_hub import ModelCard

    if not card.startswith("---") or _LOADING not in card:
        return card
    parsed: Any = ModelCard(card)
    tags = [one for one in parsed.data.tags or [] if adapter or one.upper() not in _KINDS]
    parsed.data.tags = [*tags, "gguf"] if file else tags
    parsed.data.library_name = "gguf" if file else "transformers"
    if not adapter and getattr(parsed.data, "base_model_relation", None):
        parsed.data.base_model_relation = "quantized" if file else "finetune"
    body: str = parsed.text if adapter else _ADAPTER.sub("A fine-tuned copy of", parsed.text, count=1)
    if file is None:
        block = fence(_loading("", "transformers", "text-generation"), "python")
    else:
        line = f"llama-cli -m BASE.gguf --lora {file}" if adapter else f"llama-cli -m {file}"
        block = fence(line, "bash")
    before, _, rest = body.partition(_LOADING)
    after = re.search(r"^## ", rest, re.MULTILINE)
    following = f"\n\n{rest[after.start() :]}" if after else "\n"
    parsed.text = f"{before}{_LOADING}\n\n{block}{following}"
    return f"---\n{parsed.data.to_yaml()}\n---\n{parsed.text}"


def _front_matter(report: Report, base_model: str, library: Library, task: str, **known: Any) -> str:
    from huggingface_hub import ModelCardData

    if _is_hub_id(base_model):
        relation = "adapter" if library == "peft" else "finetune"
        known |= {"base_model": base_model, "base_model_relation": relation}
    data = ModelCardData(
        library_name=library,
        pipeline_tag=task,
        **known,
        **_results(report, task),
    )
    return f"---\n{data.to_yaml()}\n---"


def _results(report: Report, task: str) -> dict[str, Any]:
    """The overall rows of the comparisons as a model index."""
    from huggingface_hub import EvalResult

    results = [
        EvalResult(
            task_type=task,
            dataset_type="custom",
            dataset_name=visible(section.title),
            metric_type=_slug(row.name),
            metric_name=visible(row.name),
            metric_value=round(row.after.value, 6),
        )
        for section in report.sections
        if isinstance(section, Comparison)
        for row in section.rows
        if (row.emphasis or section.scale == "row") and row.after.value is not None
    ]
    return {"model_name": visible(report.title), "eval_results": results} if results else {}


def _kind(adapter: Mapping[str, Any]) -> str:
    """What papers call the kind of an adapter."""
    found = "DORA" if adapter.get("use_dora") else str(adapter.get("peft_type", "LORA"))
    return _KINDS.get(found, found)


def _what_it_is(base_model: str, library: Library, method_title: str, kind: str) -> str:
    thing = f"{'An' if kind in ('IA3', 'OFT', 'HRA') else 'A'} {kind} adapter for"
    thing = thing if library == "peft" else "A fine-tuned copy of"
    return f"{thing} {_link(base_model)}, made with {inline(method_title)}."


def _method(report: Report, method_title: str) -> str:
    paper = f" ([arXiv:{report.arxiv}](https://arxiv.org/abs/{report.arxiv}))" if report.arxiv else ""
    return f"{inline(method_title)}{paper}, as `{report.method}` of coalign {__version__}."


def _figures(report: Report) -> str:
    sections = [section for section in report.sections if isinstance(section, Comparison) and section.rows]
    if not sections:
        return ""
    blocks = ["## Figures"]
    for section in sections:
        head = ["Measure", "n", *section.names, "Difference", f"{section.level * 100:g}% interval"]
        rows = [_row(row) for row in section.rows]
        lines = [cells(head), "|---|" + "---:|" * (len(head) - 1), *(cells(row) for row in rows)]
        note = f"\n\n{inline(section.note)}" if section.note else ""
        blocks.append(f"### {inline(section.title)}{note}\n\n" + "\n".join(lines))
    return "\n\n".join(blocks)


def _row(row: ComparisonRow) -> list[str]:
    change = difference_texts(row.difference, row.unit) if row.difference else ("", "")
    levels = [
        f"{number(one.value, row.unit)} {interval_text(one, row.unit)}".strip()
        for one in (row.before, row.after)
    ]
    return [row.name, "" if row.n is None else number(row.n, "integer"), *levels, *change]


def _loading(base_model: str, library: Library, task: str) -> str:
    if library == "diffusers":
        asked = '"a description"' if task == "text-to-image" else "num_inference_steps=1"
        return (
            "from diffusers import DiffusionPipeline\n\n"
            'pipeline = DiffusionPipeline.from_pretrained(".")  # this folder, or its id on the hub\n'
            f"picture = pipeline({asked}).images[0]"
        )
    if library == "transformers":
        return (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'path = "."  # this folder, or its id on the hub\n'
            "model = AutoModelForCausalLM.from_pretrained(path)\n"
            "tokenizer = AutoTokenizer.from_pretrained(path)"
        )
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'path = "."  # this folder, or its id on the hub\n'
        f"{_base(base_model)}\n"
        "model = PeftModel.from_pretrained(base, path)\n"
        "tokenizer = AutoTokenizer.from_pretrained(path)"
    )


def _base(base_model: str) -> str:
    """The line that loads what an adapter adapts."""
    if _is_hub_id(base_model):
        return f"base = AutoModelForCausalLM.from_pretrained({json.dumps(base_model)})"
    name = json.dumps(name_of_place(base_model))
    return f"base = AutoModelForCausalLM.from_pretrained({name})  # the folder of the model that was adapted"


def _limitations(report: Report, limitations: Sequence[str]) -> str:
    copied = [
        paragraph
        for section in report.sections
        if isinstance(section, Text) and section.title.lower() == "limitations"
        for paragraph in section.paragraphs
    ]
    lines = [f"- {inline(one)}" for one in (*limitations, *copied)]
    return "## Limitations\n\n" + "\n".join(lines) if lines else ""


def _cost(report: Report) -> str:
    stages = [
        stage for section in report.sections if isinstance(section, Timings) for stage in section.stages
    ]
    if not stages:
        return ""
    peaks = [stage.peak_bytes for stage in stages if stage.peak_bytes is not None]
    memory = f", {number(max(peaks), 'bytes')} of memory at the peak" if peaks else ""
    return f"## Cost\n\n{number(sum(stage.seconds for stage in stages), 'seconds')}{memory}."


def _yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100).rstrip()


def _link(base_model: str) -> str:
    if not _is_hub_id(base_model):
        return inline(name_of_place(base_model))
    return f"[{inline(base_model)}](https://huggingface.co/{base_model})"


def _is_hub_id(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name)) and not name.startswith(".") and not is_place(name)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
