"""UniPT: find the picture of a person, or of anything with attributes, by a sentence, from many pictures and few captions.

Unified Pre-training with Pseudo Texts for Text-To-Image Person Re-identification (arXiv 2309.01420, ICCV 2023). A CLIP says
which of a lexicon's phrases hold for each picture, a template makes a sentence of them, and two towers are trained on these
pairs in the form of the final task; then they are fine-tuned on captions of known identities.

    coalign run unipt --data crops/ --captions train.jsonl --test test.jsonl
    coalign run unipt --data crops/ --label-only --lexicon parts.yaml

A run writes `pseudo_texts.jsonl` (phrases, how sure, sentences), trains, and reports Rank-1, 5, 10 and mAP of texts over the
gallery, with the pictures that were found.

Confirmed are the six required and eight optional categories, the threshold, the two losses and the pooling. The authors'
456 templates and the lists of phrases lie behind a file share: the built-in lexicon of persons is ours, as are the prompts,
the softmax at the labeller's own scale, the phrase that says an attribute is absent, and the margin and weights of the
fine-tuning. As released the contrastive loss has no temperature and the maximum over a text's tokens takes padding in; both
are options. The masked-image term of the released variant is left out, as in the paper's formula. Pictures of persons are
personal data: none are shipped, and the report's are thumbnails in your own file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coalign.core.options import Count, CountOrZero, Fraction, Positive, Seed, option, required
from coalign.core.runs import Run
from coalign.vision.search.options import FineTuningOptions, PretrainingOptions


@dataclass(kw_only=True)
class Config(PretrainingOptions, FineTuningOptions):
    """Options of `coalign run unipt`."""

    __group__ = "Method"

    data: str = required("pictures without captions: a folder, rows, WebDataset shards, a hub id")
    split: str = option("train", "split of a data set that has several")
    captions: str | None = option(
        None,
        "pictures with captions and `identity` to fine-tune on; without them the run ends with the pretraining",
    )
    test: str | None = option(None, "pictures with captions and `identity` to search, unseen identities")
    test_split: str = option("test", "split of `test`", only_with="test")
    identity: str = option("person_id", "column that says who a picture shows")
    model: str = option(
        "openai/clip-vit-base-patch16",
        "labeller: an image-text model by folder or hub id",
        source="paper: CLIP",
    )
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")
    lexicon: Path | None = option(
        None, "YAML file of categories, phrases and templates; by default one of persons"
    )
    optional_threshold: Fraction = option(
        0.9, "how sure the labeller must be of an attribute that may be absent", source="notes on the paper"
    )
    scale: Positive | None = option(
        None, "of the cosines in that softmax; by default the labeller's own, 100 for CLIP's"
    )
    sentences: Count = option(
        1, "pseudo-texts of each picture, each of a template by lot", source="paper: one or more"
    )
    label_only: bool = option(False, "write the pseudo-texts and train nothing")
    image_tower: str = option(
        "google/vit-base-patch16-224-in21k", "image encoder to start from", source="paper: ViT-B/16"
    )
    text_tower: str = option("google-bert/bert-base-uncased", "text encoder to start from", source="paper")
    image_size: list[Count] = option([384, 128], "height and width of pictures", source="official code")
    text_length: Count = option(100, "tokens of a text", source="official code")
    width: Count = option(768, "of the joint space", source="official code")
    pool_mask: bool = option(
        False, "leave padding out of the maximum over a text's tokens", source="official code: off"
    )
    parts: CountOrZero = option(
        0, "learnt part queries beside the global features; 0: none", source="paper, simplest setting"
    )
    scoring_batch: Count = option(64, "pictures in one forward pass of labelling and searching")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail", "stop at pictures that cannot be used, or count them"
    )
    seed: Seed = option(0, "seed of everything random")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.image_size) != 2:
            raise ValueError(f"image_size: {self.image_size}, expected a height and a width")
        if self.label_only:
            rest = {
                "captions",
                "test",
                "image_tower",
                "text_tower",
                "image_size",
                "text_length",
                "width",
                "pool_mask",
                "parts",
            }
            self.refuse([*rest], "with label_only: nothing is trained")
            self.refuse(PretrainingOptions, "with label_only: nothing is trained")
        if not (self.captions or self.test):
            self.refuse(["identity"], "without captions or test")


def run(config: Config, run: Run) -> None:
    """Label, pretrain, fine-tune, search, report.

    Raises:
        DataError: pictures or captions that cannot be used.
        ConfigError: a lexicon that cannot be read.
        ModelError: a model that cannot be loaded.
    """
    from coalign.vision.search.run import run_search

    run_search(config, run)
