"""Generation beside other engines: many samples of many prompts, one answer at a time, the first token, peak memory.

    pip install ctranslate2 openvino-genai onnxruntime-genai onnx onnx-ir llama-cpp-python    # what is missing is left out
    python benchmarks/generation_peers.py                                    # all sides that are installed
    python benchmarks/generation_peers.py --sides float32 int4 modules --rounds 3

Every side works in a process of its own on one thread, rounds go through all sides in turn, and figures are medians over
rounds, in processor time. Opening a model is not counted, one short answer warms up. Peak memory is the process's,
libraries included: after single answers, and after the batch too. `modules` is coalign without fused weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

FIRST_TOKENS = 5


class Engine(Protocol):
    """What is measured."""

    def answer(self, prompt: list[int], count: int) -> int:
        """Continue a prompt greedily; returns how many tokens were made."""
        ...

    def sample(self, prompts: list[list[int]], n: int, count: int) -> int:
        """Make samples at temperature 0.8 and top-p 0.95; returns how many tokens were made."""
        ...


@dataclass(frozen=True)
class Given:
    """A model as folder and, where there is one, as GGUF file; and what has to be kept on disk goes to `cache`."""

    folder: Path
    gguf: Path | None
    cache: Path


class Coalign:
    def __init__(self, given: Given, precision: Any, *, fused: bool = True) -> None:
        from coalign.models.backends.open import open_transformers
        from coalign.models.files.loading import load_model, load_tokenizer
        from coalign.models.generation.generator import TransformersGenerator
        from coalign.models.options import ModelOptions

        options = ModelOptions(model=str(given.folder), device="cpu")
        if fused:
            self._generator = open_transformers(options, precision=precision)
        else:
            model = load_model(options, training=False)
            self._generator = TransformersGenerator(model, load_tokenizer(options), fused=False)

    def _run(self, prompts: list[list[int]], **how: Any) -> int:
        from coalign.models.types import Sampling

        texts = [self._generator.tokenizer.decode(ids) for ids in prompts]
        self._generator.generate(texts, Sampling(**how))  # type: ignore[arg-type]
        return self._generator.last_stats.tokens

    def answer(self, prompt: list[int], count: int) -> int:
        return self._run([prompt], max_new_tokens=count, temperature=0.0)

    def sample(self, prompts: list[list[int]], n: int, count: int) -> int:
        return self._run(prompts, max_new_tokens=count, temperature=0.8, top_p=0.95, n=n)


class Transformers:
    def __init__(self, given: Given) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch = torch
        self._tokenizer: Any = AutoTokenizer.from_pretrained(given.folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(given.folder, dtype=torch.float32).eval()

    def _run(self, prompts: list[list[int]], count: int, **how: Any) -> int:
        padded = self._tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        with self._torch.inference_mode():
            found = self._model.generate(**padded, max_new_tokens=count, **how)
        new = found[:, padded["input_ids"].shape[1] :]
        ends = new == self._tokenizer.eos_token_id
        return int((ends.cumsum(-1) - ends.int() == 0).sum())

    def answer(self, prompt: list[int], count: int) -> int:
        return self._run([prompt], count, do_sample=False)

    def sample(self, prompts: list[list[int]], n: int, count: int) -> int:
        how: Any = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}
        return self._run(prompts, count, num_return_sequences=n, **how)


class CTranslate2:
    def __init__(self, given: Given, kind: str) -> None:
        import ctranslate2
        from transformers import AutoTokenizer

        place = given.cache / f"ctranslate2-{kind}"
        if not place.exists():
            converter = ctranslate2.converters.TransformersConverter(str(given.folder))
            converter.convert(str(place), quantization=None if kind == "float32" else kind)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(given.folder)
        threads: Any = {"inter_threads": 1, "intra_threads": 1}
        self._model = ctranslate2.Generator(str(place), device="cpu", compute_type=kind, **threads)

    def _run(self, prompts: list[list[int]], count: int, **how: Any) -> int:
        texts = [self._tokenizer.convert_ids_to_tokens(ids) for ids in prompts]
        found = self._model.generate_batch(
            texts, max_length=count, include_prompt_in_result=False, max_batch_size=0, **how
        )
        return sum(len(ids) for one in found for ids in one.sequences_ids)

    def answer(self, prompt: list[int], count: int) -> int:
        return self._run([prompt], count)

    def sample(self, prompts: list[list[int]], n: int, count: int) -> int:
        how: Any = {"sampling_topk": 0, "sampling_topp": 0.95, "sampling_temperature": 0.8}
        return self._run([one for one in prompts for _ in range(n)], count, **how)


class OpenVino:
    """On the GGUF file, whose blocks it reads with a whole number as their zero."""

    def __init__(self, given: Given) -> None:
        import openvino_genai as engine
        from transformers import AutoTokenizer

        if given.gguf is None:
            raise ImportError("OpenVINO GenAI: no GGUF file was given")
        self._engine: Any = engine
        self._tokenizer: Any = AutoTokenizer.from_pretrained(given.folder)
        scheduler = engine.SchedulerConfig()
        scheduler.cache_size = 1
        self._model: Any = engine.LLMPipeline(
            str(given.gguf), "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=1
        )

    def _run(self, prompts: list[list[int]], count: int, **how: Any) -> int:
        config = self._engine.GenerationConfig()
        config.max_new_tokens, config.apply_chat_template = count, False
        for name, value in how.items():
            setattr(config, name, value)
        found = self._model.generate([self._tokenizer.decode(ids) for ids in prompts], config)
        return found.perf_metrics.get_num_generated_tokens()

    def answer(self, prompt: list[int], count: int) -> int:
        return self._run([prompt], count, do_sample=False)

    def sample(self, prompts: list[list[int]], n: int, count: int) -> int:
        how: Any = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "num_return_sequences": n}
        return self._run(prompts, count, **how)


class OnnxRuntime:
    """ONNX Runtime GenAI on a folder that its own builder writes."""

    def __init__(self, given: Given, kind: str) -> None:
        import onnxruntime_genai as engine

        place = given.cache / f"onnxruntime-{kind}"
        if not (place / "genai_config.json").exists():
            command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", kind]
            exact = (
                ["--extra_options", "int4_block_size=32", "int4_accuracy_level=4"] if kind == "int4" else []
            )
            subprocess.run(
                [*command, "-m", str(given.folder), "-o", str(place), *exact], check=True, capture_output=True
            )
        config: Any = engine.Config(str(place))
        config.overlay('{"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}')
        self._engine: Any = engine
        self._model = engine.Model(config)
        described = json.loads((place / "genai_config.json").read_text())["model"]
        ends = described["eos_token_id"]
        self._ends = ends if isinstance(ends, list) else [ends]
        self._padding = described["pad_token_id"]

    def _run(self, prompts: list[list[int]], count: int, **how: Any) -> int:
        import numpy as np

        width = max(map(len, prompts))
        rows = [[self._padding] * (width - len(one)) + one for one in prompts]
        params = self._engine.GeneratorParams(self._model)
        params.set_search_options(max_length=width + count, batch_size=len(rows), **how)
        generator = self._engine.Generator(self._model, params)
        generator.append_tokens(np.array(rows, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        new = [list(generator.get_sequence(row))[width:] for row in range(len(rows))]
        return sum(next((at + 1 for at, one in enumerate(ids) if one in self._ends), len(ids)) for ids in new)

    def answer(self, prompt: list[int], count: int) -> int:
        return self._run([prompt], count, do_sample=False)

    def sample(self, prompts: list[list[int]], n: int, count: int) -> int:
        how: Any = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}
        return self._run([one for one in prompts for _ in range(n)], count, **how)


class LlamaCpp:
    """On the GGUF file; its Python package decodes one text at a time."""

    def __init__(self, given: Given) -> None:
        from llama_cpp import Llama

        if given.gguf is None:
            raise ImportError("llama.cpp: no GGUF file was given")
        self._model: Any = Llama(str(given.gguf), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)

    def _run(self, prompt: list[int], count: int, **how: Any) -> int:
        self._model.reset()
        found = self._model.create_completion(prompt, max_tokens=count, **how)
        return found["usage"]["completion_tokens"]

    def answer(self, prompt: list[int], count: int) -> int:
        return self._run(prompt, count, temperature=0.0)

    def sample(self, prompts: list[list[int]], n: int, count: int) -> int:
        how: Any = {"temperature": 0.8, "top_p": 0.95, "top_k": 0, "min_p": 0.0}
        return sum(self._run(one, count, **how) for one in prompts for _ in range(n))


SIDES: dict[str, Callable[[Given], Engine]] = {
    "float32": lambda given: Coalign(given, "float32"),
    "bfloat16": lambda given: Coalign(given, "bfloat16"),
    "int4": lambda given: Coalign(given, "int4"),
    "modules": lambda given: Coalign(given, None, fused=False),
    "transformers": Transformers,
    "ctranslate2": partial(CTranslate2, kind="float32"),
    "ctranslate2-int8": partial(CTranslate2, kind="int8"),
    "openvino-gguf": OpenVino,
    "onnxruntime": partial(OnnxRuntime, kind="fp32"),
    "onnxruntime-int4": partial(OnnxRuntime, kind="int4"),
    "llama.cpp": LlamaCpp,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default", help="anything that coalign loads")
    parser.add_argument(
        "--gguf", type=Path, help="the same model as a GGUF file; of `default` that of the wheel"
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/coalign-benchmarks").expanduser())
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for side in args.sides:
            figures = in_process(side)
            if figures:
                found.setdefault(side, []).append(figures)
    show(found)


def in_process(side: str) -> dict[str, float] | None:
    """The figures of a side; None, with a word, where it cannot be run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, *sys.argv, "--one", side],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        print(f"{side}: left out: {(done.stderr.strip() or 'no word').splitlines()[-1]}", flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def measure(args: argparse.Namespace) -> dict[str, float]:
    given, prompts = load(args)
    engine = SIDES[args.one](given)
    single = prompts[0]
    engine.answer(single, 2)
    first = statistics.median(timed(partial(engine.answer, single, 1))[0] for _ in range(FIRST_TOKENS))
    seconds, tokens = timed(partial(engine.answer, single, args.max_new_tokens))
    figures = {"first": 1e3 * first, "answer": tokens / seconds, "answer_memory": peak_memory()}
    seconds, tokens = timed(partial(engine.sample, prompts, args.samples, args.max_new_tokens))
    return {**figures, "sample": tokens / seconds, "sample_memory": peak_memory()}


def load(args: argparse.Namespace) -> tuple[Given, list[list[int]]]:
    """The model's places, and prompts as tokens."""
    import torch
    from generation import TASKS, TOPICS

    from coalign.data.encoding import encode_prompt
    from coalign.models.files.defaults import DEFAULTS, default_model_path, wheel_file
    from coalign.models.files.loading import load_tokenizer

    torch.set_num_threads(1)
    is_default = args.model == "default"
    folder = default_model_path() if is_default else Path(args.model)
    gguf = args.gguf or (wheel_file(DEFAULTS["chat"]) if is_default else None)
    tokenizer = load_tokenizer(str(folder))
    texts = [TASKS[n % len(TASKS)].format(TOPICS[n // len(TASKS) % len(TOPICS)]) for n in range(args.prompts)]
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in texts]
    cache = args.cache / folder.name
    cache.mkdir(parents=True, exist_ok=True)
    return Given(folder, gguf, cache), prompts


def timed(work: Callable[[], int]) -> tuple[float, int]:
    started = time.process_time()
    tokens = work()
    return time.process_time() - started, tokens


def peak_memory() -> float:
    """Megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def show(found: dict[str, list[dict[str, float]]]) -> None:
    columns = {
        "sample": "samples, tokens/s", "answer": "one answer, tokens/s", "first": "first token, ms",
        "answer_memory": "peak MB, one answer", "sample_memory": "peak MB, samples",
    }  # fmt: skip
    print(f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}, one thread")
    print("| side | " + " | ".join(columns.values()) + " |")
    print("|---|" + "---:|" * len(columns))
    for side, rounds in found.items():
        medians = [statistics.median(one[name] for one in rounds) for name in columns]
        print(f"| {side} | " + " | ".join(f"{value:.0f}" for value in medians) + " |")


if __name__ == "__main__":
    main()
