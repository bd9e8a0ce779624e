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

FAMILIES = (
    ("length limit", 96, 0.34, 0.66),
    ("must include", 88, 0.52, 0.71),
    ("starts with", 64, 0.22, 0.58),
    ("option list", 48, 0.61, 0.79),
    ("valid JSON", 40, 0.18, 0.31),
    ("case", 40, 0.27, 0.49),
    ("bullet points", 32, 0.41, 0.47),
    ("no repetition", 56, 0.88, 0.85),
)
TOPICS = (
    (
        "Explain why the sky looks blue.",
        "scatter",
        "Sunlight enters the air, and the air scatters blue light the most.",
    ),
    (
        "Give a tip for keeping bread fresh.",
        "paper",
        "Wrap the loaf in paper and keep it in a dry, cool place.",
    ),
    (
        "Describe the job of a lighthouse keeper.",
        "lamp",
        "A keeper tends the lamp so that ships find their way at night.",
    ),
    (
        "Tell me what a compiler does.",
        "machine",
        "A compiler turns source code into instructions that a machine can run.",
    ),
    ("Suggest a name for a small bakery.", "oven", "The Corner Oven: warm bread, baked twice a day."),
    ("Say how tides come about.", "moon", "The moon pulls on the sea, and the water rises twice a day."),
)
FILLER = (
    "There are many things to say about this, and it is a topic that people have thought about for a long time. "
    "It is important to remember that there are different points of view, and that the answer depends on the "
    "situation. In general, one should look at the details and think about them with care."
)


def example_report(rows: int = 48, seed: int = 7) -> doc.Report:
    """The report of a constraint run with `rows` side-by-side samples."""
    random_ = random.Random(seed)
    samples = [_sample(index, random_) for index in range(rows)]
    before = [max(3, round(random_.gauss(58, 22))) for _ in range(192)]
    after = [max(3, round(random_.gauss(31, 12))) for _ in range(192)]
    return doc.Report(
        title="SmolLM2-135M-Instruct aligned with checkable constraints",
        method="act",
        arxiv="2403.06326",
        verdict=doc.Headline(
            outcome="improved",
            text="On 192 held-out prompts the model satisfies 20.9 percentage points more constraints than before, "
            "and its text stays as fluent.",
            figures=[
                doc.Figure(
                    label="Constraint satisfaction",
                    value=0.621,
                    before=0.412,
                    unit="percent",
                    difference=doc.Estimate(0.209, 0.162, 0.256),
                ),
                doc.Figure(
                    label="Perplexity under the base model",
                    value=12.9,
                    before=12.4,
                    better="lower",
                    difference=doc.Estimate(0.5, -0.3, 1.2),
                    note="Guard: at most 10% above before",
                ),
                doc.Figure(
                    label="Words per answer", value=fmean(after), before=fmean(before), better="neither"
                ),
                doc.Figure(
                    label="Wall time", value=452.0, unit="seconds", note="2 cores, 2.31 GiB at the peak"
                ),
            ],
        ),
        facts={
            "Model": "HuggingFaceTB/SmolLM2-135M-Instruct",
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
                rows=[
                    doc.ComparisonRow(
                        name="Perplexity under the base model",
                        before=doc.Estimate(12.4, 11.6, 13.3),
                        after=doc.Estimate(12.9, 12.0, 13.8),
                        difference=doc.Estimate(0.5, -0.3, 1.2),
                        unit="number",
                        better="lower",
                    ),
                    doc.ComparisonRow(
                        name="Distinct bigrams",
                        before=doc.Estimate(0.913, 0.905, 0.921),
                        after=doc.Estimate(0.934, 0.926, 0.942),
                        difference=doc.Estimate(0.021, 0.011, 0.031),
                        unit="number",
                    ),
                    doc.ComparisonRow(
                        name="Words per answer",
                        before=doc.Estimate(fmean(before), fmean(before) - 3, fmean(before) + 3),
                        after=doc.Estimate(fmean(after), fmean(after) - 1.7, fmean(after) + 1.7),
                        difference=doc.Estimate(fmean(after) - fmean(before), -27.9, -21.2),
                        unit="number",
                        better="neither",
                    ),
                ],
            ),
            _curves(random_),
            doc.Distribution(
                title="Answer length",
                note="Held-out prompts, one sampled answer each.",
                x_label="words",
                samples=[doc.Values(name="Before", values=before), doc.Values(name="After", values=after)],
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
            doc.KeyValues(
                title="Configuration",
                items={
                    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
                    "samples_per_prompt": 4,
                    "margin": 0.5,
                    "ft_weight": 3.0,
                    "learning_rate": 2e-4,
                    "epochs": 2,
                    "batch_size": 8,
                    "lora": {"r": 16, "alpha": 32, "dropout": 0.05, "targets": ["q_proj", "v_proj"]},
                    "sampling": {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 96},
                    "seed": 0,
                },
            ),
            doc.KeyValues(
                title="Environment",
                items={
                    "python": "3.11.9",
                    "platform": "Linux-6.1-x86_64",
                    "cores": 2,
                    "packages": {
                        "coalign": "0.1.0",
                        "torch": "2.13.0",
                        "transformers": "5.0.0",
                        "peft": "0.18.0",
                    },
                    "commit": None,
                    "command": ["coalign", "quickstart", "--out", "runs/act-1"],
                },
            ),
            doc.Timings(
                title="Time and memory",
                stages=[
                    doc.Stage(
                        name="prepare model", seconds=18.2, peak_bytes=910 << 20, note="converted once"
                    ),
                    doc.Stage(name="generate", seconds=143.6, peak_bytes=1_480 << 20),
                    doc.Stage(name="verify", seconds=0.9),
                    doc.Stage(name="fit", seconds=201.4, peak_bytes=2_366 << 20),
                    doc.Stage(name="evaluate", seconds=88.0, peak_bytes=1_512 << 20),
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
            doc.Command(command="coalign chat runs/act-1", purpose="Talk to the aligned model"),
            doc.Command(
                command="coalign chat runs/act-1 --compare base", purpose="Talk to both, side by side"
            ),
        ],
    )


def _families() -> doc.Comparison:
    def row(name: str, n: int, before: float, after: float, emphasis: bool = False) -> doc.ComparisonRow:
        half = [1.96 * math.sqrt(share * (1 - share) / n) for share in (before, after)]
        wide = 0.75 * math.hypot(*half)
        return doc.ComparisonRow(
            name=name,
            n=n,
            emphasis=emphasis,
            before=doc.Estimate(before, max(0, before - half[0]), before + half[0]),
            after=doc.Estimate(after, max(0, after - half[1]), min(1, after + half[1])),
            difference=doc.Estimate(after - before, after - before - wide, after - before + wide),
        )

    return doc.Comparison(
        title="Constraint satisfaction",
        note="Share of constraints that answers to held-out prompts satisfy, overall and by family.",
        rows=[
            row("All constraints", 464, 0.412, 0.621, emphasis=True),
            *(row(*family) for family in FAMILIES),
        ],
    )


def _curves(random_: random.Random) -> doc.Curves:
    steps = [float(step) for step in range(1, 91)]
    rank = [0.42 + 1.3 * math.exp(-step / 22) + random_.gauss(0, 0.05) for step in steps]
    tuning = [0.9 + 0.9 * math.exp(-step / 30) + random_.gauss(0, 0.04) for step in steps]
    margin = [0.55 * (1 - math.exp(-step / 25)) + random_.gauss(0, 0.03) for step in steps]
    rate = [2e-4 * min(1, step / 9) * 0.5 * (1 + math.cos(math.pi * step / 92)) for step in steps]
    return doc.Curves(
        title="Training",
        charts=[
            doc.Chart(
                title="Loss",
                series=[
                    doc.Series(name="ranking", steps=steps, values=rank),
                    doc.Series(name="fine-tuning", steps=steps, values=tuning),
                ],
            ),
            doc.Chart(title="Reward margin", series=[doc.Series(name="margin", steps=steps, values=margin)]),
            doc.Chart(
                title="Learning rate",
                log=True,
                series=[doc.Series(name="learning rate", steps=steps, values=rate)],
            ),
        ],
    )


def _sample(index: int, random_: random.Random) -> doc.Sample:
    task, keyword, answer = TOPICS[index % len(TOPICS)]
    limit = random_.choice((15, 20, 25))
    after_text = random_.choices((answer, f"{answer} {FILLER}", answer.split(",")[0]), (8, 3, 2))[0]
    before_text = FILLER if random_.random() < 0.7 else answer
    names = (f"at most {limit} words", f"includes “{keyword}”")

    def output(text: str) -> doc.Output:
        passed = (len(text.split()) <= limit, keyword in text.lower())
        return doc.Output(text=text, score=fmean(passed), checks=dict(zip(names, passed, strict=True)))

    return doc.Sample(
        prompt=f"{task} Use at most {limit} words and the word “{keyword}”.",
        tags=["length limit", "must include"],
        outputs=[output(before_text), output(after_text)],
    )


if __name__ == "__main__":
    write_report(example_report(), Path(sys.argv[1]))
