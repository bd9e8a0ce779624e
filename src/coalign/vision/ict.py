"""iCT: train a consistency model of pictures on data alone, and sample from it in one step or two.

Improved Techniques for Training Consistency Models (arXiv 2310.14189). The network maps a picture under any amount of
noise to the picture; trained so that neighbouring amounts give the same, it samples in one step. There is no teacher
diffusion model, no distillation and no perceptual network.

    coalign run ict --data pictures/
    coalign run ict --data cats.parquet --image-size 64 --fit crop --no-flip --dropout 0.2 --steps-at 1.526

The improved parts, each of which is an option: a teacher without moving average, the pseudo-Huber distance, lognormal
noise, weights 1 / (gap of neighbouring levels), and a curriculum that doubles the number of levels. Consistency training
as it was before:

    coalign run ict --data pictures/ --curriculum square-root --first-levels 2 --last-levels 150 --noise uniform \\
        --weighting none --distance squared --teacher-ema 0.9

The model is saved as a `ConsistencyModelPipeline` of diffusers with the averaged weights; the weights that were trained
lie beside it, in the run's artefacts.

Differences from the paper: a new network is the U-Net of diffusers with positional embeddings of the noise level, as in
the code of consistency models, and not NCSN++ with Fourier features of a small scale. The training figures that could
not be read again are marked *from memory* and are options. The FID of papers needs a network and weights that are
fetched from the web; what is reported is the sliced Wasserstein distance of pixels, and the Fréchet distance under an
encoder of yours.
"""

from __future__ import annotations

from dataclasses import dataclass

from coalign.core.runs import Run
from coalign.loops.rounds import run_rounds
from coalign.vision.consistency.options import ConsistencyOptions


@dataclass(kw_only=True)
class Config(ConsistencyOptions):
    """Options of `coalign run ict`."""


def run(config: Config, run: Run) -> None:
    """Prepare the pictures, train, sample in one step and in several, measure, report.

    Raises:
        DataError, MediaError: pictures that cannot be used.
        ConfigError, ModelError: the network cannot be built or loaded, or does not fit the pictures.
    """
    from coalign.vision.consistency.report import write_consistency_report
    from coalign.vision.consistency.stages import evaluate_model, fit_model, prepare_pictures

    (round,) = run_rounds(
        run,
        {
            "build": lambda round: prepare_pictures(round, config),
            "fit": lambda round: fit_model(round, config),
            "evaluate": lambda round: evaluate_model(round, config),
        },
    )
    run.publish_model(round.folder / "model")
    write_consistency_report(config, run, round)
