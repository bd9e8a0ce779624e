"""SPRIGHT: captions that say where things stand, and a text-to-image model fine-tuned on them that obeys such words.

Getting it Right: Improving Spatial Consistency in Text-to-Image Models (arXiv 2404.01197). Pictures are described anew by
a vision-language model with the weight on spatial relations; U-Net and text encoder are fine-tuned with the spatial
caption for a share of the pictures and the general one for the others; what comes of it is measured by detecting the
objects of descriptions such as "a cat left of a cup".

    coalign run spright --data pictures/ --captioner llava-hf/llava-1.5-7b-hf --model sd-2-1/ --prompts spatial_val.txt \\
        --detector google/owlvit-base-patch32
    coalign run spright --data pictures/ --captioner llava-hf/llava-1.5-7b-hf --no-tune
    coalign run spright --no-tune --pictures made.jsonl --detector google/owlvit-base-patch32

Each part can be done alone. Fine-tuning on few pictures with many objects: `--more-objects-than 18 --most-pictures 500`.

Differences from the official code: short and negated captions are drawn (its sampler never looks at them); pictures are
not mirrored unless left and right are exchanged in the caption; a sentence is drawn among those that hold something, where
its cutter drops the first and can return nothing. The question to the captioner, the counting of objects and the negation
are reconstructions. "on top of" is scored as above, where T2I-CompBench's code knows no rule for it; its distances are
scaled to pictures of other sizes than 512 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from coalign.core.errors import ConfigError
from coalign.core.runs import Run
from coalign.loops.rounds import run_rounds
from coalign.vision.spatial.options import SpatialOptions


@dataclass(kw_only=True)
class Config(SpatialOptions):
    """Options of `coalign run spright`."""


def run(config: Config, run: Run) -> None:
    """Measure, caption, fine-tune, measure again: what the options ask for; report.

    Raises:
        DataError, MediaError: pictures, descriptions or detections that cannot be used.
        ConfigError, ModelError: a model that cannot be loaded, or not for this.
    """
    if not (config.data or config.measures):
        raise ConfigError(
            "There is nothing to do: neither --data (pictures to caption or to learn from) nor --prompts, --objects or "
            "--pictures (what to measure) is given."
        )
    from coalign.vision.spatial import stages
    from coalign.vision.spatial.report import write_spatial_report

    tuned = config.tune and config.data is not None
    asked = {
        "baseline": (config.measures, stages.measure_start),
        "propose": (config.captions_are_asked, stages.write_captions),
        "build": (config.data is not None, stages.prepare_pictures),
        "fit": (tuned, stages.fit_model),
        "evaluate": (tuned and config.measures, stages.measure_trained),
    }
    chosen = {name: work for name, (wanted, work) in asked.items() if wanted}
    (round,) = run_rounds(
        run, {name: lambda one, work=work: work(one, config) for name, work in chosen.items()}
    )
    if tuned:
        run.publish_model(round.folder / "model")
    write_spatial_report(config, run, round)
