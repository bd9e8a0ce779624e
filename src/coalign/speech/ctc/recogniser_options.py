"""Which recogniser a speech system starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from coalign.core.options import Count, OptionGroup, option
from coalign.models.devices import pick_device
from coalign.speech.ctc.recogniser import Recogniser, load_recogniser, samples_per_frame
from coalign.speech.ctc.vocabulary import Vocabulary

SMALL = "small"


@dataclass(kw_only=True)
class RecogniserOptions(OptionGroup):
    """The CTC model."""

    __group__ = "Recogniser"

    model: str = option(
        SMALL,
        "a folder, run folder or hub id of a CTC model (Wav2Vec2ForCTC, HubertForCTC, ...), `default-recogniser` (comes with "
        "the package: English of synthesisers), or `small`: a new, untrained one whose vocabulary are the characters of the texts",
    )
    revision: str | None = option(None, "branch, tag or commit on the hub")
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")
    hidden_size: Count = option(128, "width of a new small recogniser", only_with={"model": SMALL})
    layers: Count = option(2, "its recurrent layers", only_with={"model": SMALL})
    streaming: bool = option(
        False, "its layers see no future: frames are written as the audio comes", only_with={"model": SMALL}
    )


def open_recogniser(options: RecogniserOptions, texts: Sequence[str], seed: int) -> Recogniser:
    """The recogniser of the options; weights of a new one are drawn from `seed`."""
    if options.model != SMALL:
        return load_recogniser(options.model, revision=options.revision, device=options.device)
    from coalign.speech.ctc.small_ctc import SmallCTC, SmallCTCConfig

    vocabulary = Vocabulary.of_texts(texts)
    config = SmallCTCConfig(
        vocab_size=len(vocabulary),
        hidden_size=options.hidden_size,
        channels=options.hidden_size,
        layers=options.layers,
        bidirectional=not options.streaming,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cast(Any, SmallCTC(config)).to(pick_device(options.device)).eval()
    return Recogniser(model, vocabulary, samples_per_frame=samples_per_frame(model, 16_000))
