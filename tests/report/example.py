"""A realistic report of a constraint-alignment run, for tests and for the pictures in the documentation.

The figures are drawn from a seeded generator; no model was run. `python -m tests.report.example FILE` writes it.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from statistics import fmean

from coalign.report import model as doc
from coalign.report.html import write_report
from coalign.report.model import ComparisonRow, Estimate, Figure
from coalign.report.parts import compared

FAMILIES = (
    ("length limit", 96, 0.34, 0.66), ("must include", 88, 0.52, 0.71), ("starts with", 64, 0.22, 0.58),
    ("option list", 48, 0.61, 0.79), ("valid JSON", 40, 0.18, 0.31), ("case", 40, 0.27, 0.49),
    ("bullet points", 32, 0.41, 0.47), ("no repetition", 56, 0.88, 0.85),
)  # fmt: skip
TOPICS = (
    ("Explain why the sky looks blue.", "scatter", "Sunlight enters the air, and the air scatters blue light the most."),
    ("Give a tip for keeping bread fresh.", "paper", "Wrap the loaf in paper and keep it in a dry, cool place."),
    ("Describe the job of a lighthouse keeper.", "lamp", "A keeper tends the lamp so that ships find their way at night."),
    ("Tell me what a compiler does.", "machine", "A compiler turns source code into instructions that a machine can run."),
    ("Suggest a name for a small bakery.", "oven", "The Corner Oven: warm bread, baked twice a day."),
    ("Say how tides come about.", "moon", "The moon pulls on the sea, and the water rises twice a day."),
)  # fmt: skip
FILLER = (
    "There are many things to say about this, and it is a topic that people have thought about for a long time. "
    "It is important to remember that there are different points of view, and that the answer depends on the "
    "situation. In general, one should look at the details and think about them with care."
)
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
CONFIGURATION = {
    "model": BASE, "samples_per_prompt": 4, "margin": 0.5, "ft_weight": 3.0, "learning_rate": 2e-4, "epochs": 2,
    "batch_size": 8, "lora": {"r": 16, "alpha": 32, "dropout": 0.05, "targets": ["q_proj", "v_proj"]},
    "sampling": {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 96}, "seed": 0,
}  # fmt: skip
ENVIRONMENT = {
    "python": "3.11.9", "platform": "Linux-6.1-x86_64", "cores": 2,
    "packages": {"coalign": "0.1.0", "torch": "2.13.0", "transformers": "5.0.0", "peft": "0.18.0"},
    "commit": None, "command": ["coalign", "quickstart", "--out", "runs/act-1"],
}  # fmt: skip
STAGES = (
    ("prepare model", 18.2, 910, "converted once"), ("generate", 143.6, 1_480, ""), ("verify", 0.9, None, ""),
    ("fit", 201.4, 2_366, ""), ("evaluate", 88.0, 1_512, ""),
)  # fmt: skip


def example_report(rows: int = 48, seed: int = 7) -> doc.Report:
    """The report of a constraint run with `rows` side-by-side samples."""
    random_ = random.Random(seed)
    samples = [_sample(index, random_) for index in range(rows)]
    lengths = [[max(3, round(random_.gauss(*shape))) for _ in range(192)] for shape in ((58, 22), (31, 12))]
    before, after = (fmean(one) for one in lengths)
    perplexity = Estimate(0.5, -0.3, 1.2)
    figures = [
        Figure("Constraint satisfaction", 0.621, before=0.412, unit="percent", difference=Estimate(0.209, 0.162, 0.256)),
        Figure("Perplexity under the base model", 12.9, before=12.4, better="lower", difference=perplexity,
               note="Guard: at most 10% above before"),
        Figure("Words per answer", after, before=before, better="neither"),
        Figure("Wall time", 452.0, unit="seconds", note="2 cores, 2.31 GiB at the peak"),
    ]  # fmt: skip
    guards = [
        compared("Perplexity under the base model", Estimate(12.4, 11.6, 13.3), Estimate(12.9, 12.0, 13.8), perplexity,
                 unit="number", better="lower"),
        compared("Distinct bigrams", Estimate(0.913, 0.905, 0.921), Estimate(0.934, 0.926, 0.942),
                 Estimate(0.021, 0.011, 0.031), unit="number"),
        compared("Words per answer", Estimate(before, before - 3, before + 3), Estimate(after, after - 1.7, after + 1.7),
                 Estimate(after - before, -27.9, -21.2), unit="number", better="neither"),
    ]  # fmt: skip
    return doc.Report(
        title="SmolLM2-135M-Instruct aligned with checkable constraints",
        method="act",
        arxiv="2403.06326",
        verdict=doc.Headline(
            "improved",
            "On 192 held-out prompts the model satisfies 20.9 percentage points more constraints than before, "
            "and its text stays as fluent.",
            figures,
        ),
        facts={
            "Model": BASE,
            "Prompts": "360 for training, 192 held out",
            "Seed": "0",
            "Date": "2025-06-14",
        },
        sections=[
            _families(),
            doc.Comparison(
                title="Fluency guard",
                note="A model can satisfy constraints by writing badly. These would show it.",
                scale="row",
                rows=guards,
            ),
            _curves(random_),
            doc.Distribution(
                title="Answer length",
                note="Held-out prompts, one sampled answer each.",
                x_label="words",
                samples=[doc.Values(*one) for one in zip(("Before", "After"), lengths, strict=True)],
            ),
            doc.Samples(
                title="Samples",
                note="Held-out prompts with the answers of both models, same seed.",
                columns=["Before", "After"],
                rows=samples,
                score_name="satisfied",
            ),
            doc.TableSection(
                title="Data",
                columns=["Split", "Prompts", "Constraints", "Share dropped"],
                units={"Share dropped": "percent"},
                rows=[["train", 360, 812, 0.136], ["held out", 192, 464, 0.0]],
            ),
            doc.KeyValues(title="Configuration", items=CONFIGURATION),
            doc.KeyValues(title="Environment", items=ENVIRONMENT),
            doc.Timings(
                title="Time and memory",
                stages=[
                    doc.Stage(name, seconds, megabytes and megabytes << 20, note=note)
                    for name, seconds, megabytes, note in STAGES
                ],
            ),
            doc.Text(
                title="Limitations",
                paragraphs=[
                    "The verifiers see form, not truth: an answer may satisfy every constraint and still be wrong.",
                    "Intervals come from a paired bootstrap over prompts; they do not cover the choice of seed.",
                ],
            ),
        ],
        next_commands=[
            doc.Command("coalign chat runs/act-1", "Talk to the aligned model"),
            doc.Command("coalign chat runs/act-1 --compare base", "Talk to both, side by side"),
        ],
    )


def _families() -> doc.Comparison:
    def row(name: str, n: int, before: float, after: float) -> ComparisonRow:
        half = [1.96 * math.sqrt(share * (1 - share) / n) for share in (before, after)]
        wide = 0.75 * math.hypot(*half)
        return compared(
            name,
            Estimate(before, max(0, before - half[0]), before + half[0]),
            Estimate(after, max(0, after - half[1]), min(1, after + half[1])),
            Estimate(after - before, after - before - wide, after - before + wide),
            n=n,
            emphasis=n == 464,
        )

    return doc.Comparison(
        title="Constraint satisfaction",
        note="Share of constraints that answers to held-out prompts satisfy, overall and by family.",
        rows=[row(*family) for family in (("All constraints", 464, 0.412, 0.621), *FAMILIES)],
    )


def _curves(random_: random.Random) -> doc.Curves:
    steps = [float(step) for step in range(1, 91)]

    def chart(title: str, lines: dict[str, list[float]], log: bool = False) -> doc.Chart:
        return doc.Chart(title, [doc.Series(name, steps, one) for name, one in lines.items()], log=log)

    rank = [0.42 + 1.3 * math.exp(-step / 22) + random_.gauss(0, 0.05) for step in steps]
    tuning = [0.9 + 0.9 * math.exp(-step / 30) + random_.gauss(0, 0.04) for step in steps]
    margin = [0.55 * (1 - math.exp(-step / 25)) + random_.gauss(0, 0.03) for step in steps]
    rate = [2e-4 * min(1, step / 9) * 0.5 * (1 + math.cos(math.pi * step / 92)) for step in steps]
    charts = [
        chart("Loss", {"ranking": rank, "fine-tuning": tuning}),
        chart("Reward margin", {"margin": margin}),
        chart("Learning rate", {"learning rate": rate}, log=True),
    ]
    return doc.Curves(title="Training", charts=charts)


def _sample(index: int, random_: random.Random) -> doc.Sample:
    task, keyword, answer = TOPICS[index % len(TOPICS)]
    limit = random_.choice((15, 20, 25))
    after = random_.choices((answer, f"{answer} {FILLER}", answer.split(",")[0]), (8, 3, 2))[0]
    before = FILLER if random_.random() < 0.7 else answer

    def output(text: str) -> doc.Output:
        checks = {
            f"at most {limit} words": len(text.split()) <= limit,
            f"includes “{keyword}”": keyword in text.lower(),
        }
        return doc.Output(text, fmean(checks.values()), checks=checks)

    return doc.Sample(
        f"{task} Use at most {limit} words and the word “{keyword}”.",
        [output(before), output(after)],
        tags=["length limit", "must include"],
    )


if __name__ == "__main__":
    write_report(example_report(), Path(sys.argv[1]))
