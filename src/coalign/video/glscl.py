"""GLSCL: retrieve clips by texts and texts by clips, at the cost of a few inner products a pair.

Text-Video Retrieval with Global-Local Semantic Consistent Learning (arXiv 2405.12710). A text weights the frames of a clip
without any parameter (global); queries that both modalities share read concepts out of words and of frames (local).

    coalign run glscl --data clips.jsonl --encoder openai/clip-vit-base-patch32
    coalign run glscl --data clips.jsonl --model runs/glscl
    coalign search runs/glscl "a red circle moves to the left"

Records name a clip and its captions. Training fine-tunes the image-text model and the head; the held-out clips (with `--model`:
all) are encoded once, kept in the run as an index, scored against all captions and ranked both ways. Equal scores count against
the clip (`coalign.measures.retrieval`), and a clip with several captions is found by any of them.

Differences from the authors' code: AdamW with bias correction in place of BertAdam; the unused weighting head and second decoder
are not allocated; frames of a clip are not repeated to fill up. As in the code: intra-diversity on the visual side (`--idl-both`),
the consistency term sums over the batch (`--icl-normalise batch` takes the mean), padded words are seen by the queries
(`--mask-memory`), QB-Norm is off (`--bank-data`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from coalign.core.options import Count, CountOrZero, NonNegative, OptionGroup, Positive, option, required
from coalign.core.runs import Run
from coalign.video.retrieval.interaction import global_similarity, local_similarity
from coalign.video.retrieval.options import ClipOptions, ClipTraining
from coalign.video.retrieval.run import run_retrieval

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


LOCAL = (
    *(
        "queries",
        "decoder_layers",
        "heads",
        "feed_forward",
        "dropout",
        "diversity_weight",
        "consistency_weight",
    ),
    *("margin", "target", "idl_both", "icl_normalise", "mask_memory"),
)
"""Options of what the queries read."""


@dataclass(kw_only=True)
class HeadOptions(OptionGroup):
    """The head above the encoder, and its losses."""

    __group__ = "Head"

    queries: Count = option(8, "shared queries (Q); 12 for long clips", source="train_*.sh")
    decoder_layers: Count = option(3, "layers in which the queries read", source="train_*.sh")
    temporal_layers: CountOrZero = option(4, "layers over the frames", source="official code")
    heads: Count = option(8, "heads of attention of the queries", source="official code")
    feed_forward: Count = option(2048, "width inside a layer of the queries", source="official code")
    dropout: NonNegative = option(0.1, "dropout in the queries' layers", source="official code")
    temperature: Positive = option(3.0, "of the weights of frames (kappa)", source="train_*.sh")
    local_weight: NonNegative = option(0.5, "weight of the local similarity (w)", source="train_*.sh")
    diversity_weight: NonNegative = option(1e-4, "weight of the intra-diversity (alpha)", source="train_*.sh")
    consistency_weight: NonNegative = option(
        5e-3, "weight of the similarity target in the inter-consistency (beta)", source="README"
    )
    margin: NonNegative = option(0.1, "of the intra-diversity", source="official code")
    target: NonNegative = option(
        0.75, "similarity that matched concepts are drawn to", source="official code"
    )
    idl_both: bool = option(
        False, "intra-diversity of texts too", source="off: official code; on: the paper's words"
    )
    icl_normalise: Literal["queries", "batch"] = option(
        "queries",
        "what the similarity of matched concepts is divided by; queries lets it grow with the batch",
        source="official code",
    )
    mask_memory: bool = option(False, "hide padded words and frames from the queries", source="official code")

    def sizes(self) -> dict[str, int | float]:
        """Of the head, as it is built."""
        names = ("queries", "decoder_layers", "temporal_layers", "heads", "feed_forward", "dropout")
        sizes = {name: getattr(self, name) for name in names}
        return sizes if self.local_weight else {**sizes, "decoder_layers": 0}


@dataclass(kw_only=True)
class Config(HeadOptions, ClipOptions, ClipTraining):
    """Options of `coalign run glscl`."""

    __group__ = "Method"

    data: str = required("clips with captions: records, or a folder of clips with a .txt beside each")
    encoder: str = option(
        "openai/clip-vit-base-patch32",
        "image-text model to fine-tune: CLIP, SigLIP or their like, a folder or hub id",
        source="paper",
    )
    model: str | None = option(
        None, "a trained retriever (run or folder): nothing is trained, and all clips are indexed"
    )
    eval_data: str | None = option(None, "clips to index and measure on; by default a share of the data")
    bank_data: str | None = option(
        None,
        "records whose captions and clips are the bank of QB-Norm; the ranks with it stand beside the others",
        source="paper, starred rows",
        group="QB-Norm",
    )
    qb_beta: Positive = option(
        70.0, "inverse temperature", source="official code", group="QB-Norm", only_with="bank_data"
    )
    qb_least: list[Count] = option(
        [3, 5],
        "queries of the bank that make a hub: by texts, by clips",
        source="official code",
        group="QB-Norm",
        only_with="bank_data",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is not None:
            self.refuse(["encoder", "eval_data"], "with model, which is trained already")
            self.refuse(("frames", "fps", "words"), "with model, which has its own")
            for group in (HeadOptions, ClipTraining):
                self.refuse([one for one in group.__dataclass_fields__ if one != "seed"], "with model")
        if len(self.qb_least) != 2:
            raise ValueError("qb_least needs two numbers: by texts, by clips")
        if self.local_weight == 0:
            self.refuse(LOCAL, "with local_weight: 0, where no query reads")


def matching_loss(similarity: Tensor, scale: Tensor) -> Tensor:
    """Scalar: the mean over rows and over columns of the cross-entropy of `scale * similarity` with the diagonal, halved.

    Args:
        similarity: [B, B] of texts (rows) and clips, pair by pair on the diagonal.
        scale: of the logits, positive.
    """
    places = torch.arange(len(similarity), device=similarity.device)
    logits = scale * similarity
    cross = torch.nn.functional.cross_entropy
    return (cross(logits, places) + cross(logits.T, places)) / 2


def margin_ranking(similarity: Tensor, margin: float = 0.1) -> Tensor:
    """Scalar: `1 / (Q (Q - 1)) sum_{i != j} [m + A_ij - A_ii]_+ + [m + A_ij - A_jj]_+`; 0 for one query.

    Args:
        similarity: A, [Q, Q].
    """
    count = len(similarity)
    own = similarity.diagonal()
    costs = torch.relu(margin + similarity - own[:, None]) + torch.relu(margin + similarity - own[None])
    apart = ~torch.eye(count, dtype=torch.bool, device=similarity.device)
    return costs[apart].sum() / max(count * (count - 1), 1)


def intra_diversity(concepts: Tensor, margin: float = 0.1) -> Tensor:
    """Scalar: the concepts of a clip differ from each other: `margin_ranking` of the mean over the batch of `C C^T`.

    Source: paper, section III-D. The paper's names are used; the code calls it by the other's.

    Args:
        concepts: [B, Q, D] of unit length.
    """
    return margin_ranking(torch.einsum("bqd,bpd->qp", concepts, concepts) / len(concepts), margin)


def inter_consistency(
    texts: Tensor,
    clips: Tensor,
    *,
    weight: float = 5e-3,
    target: float = 0.75,
    normalise: Literal["queries", "batch"] = "queries",
) -> Tensor:
    """Scalar: the same query reads the same out of matched texts and clips: the mean squared difference of the mean concepts,
    and `weight * sum_q (d_q - target)^2`, d the similarity of matched concepts.

    `d_q = 1/Q sum_b <C_v[b, q], C_t[b, q]>` in the official code, which grows with the batch: with B = 128 and Q = 8 a perfect
    match has 16, and the term pushes apart. `batch` takes the mean over the batch instead. Source: paper, section III-C.

    Args:
        texts, clips: [B, Q, D] of unit length, row by row a pair.
    """
    distance = (clips.mean(0) - texts.mean(0)).square().mean()
    divisor = clips.shape[1] if normalise == "queries" else len(clips)
    matched = (clips * texts).sum((0, 2)) / divisor
    return distance + weight * (matched - target).square().sum()


def batch_loss(
    found: Mapping[str, Tensor], scale: Tensor, options: HeadOptions
) -> tuple[Tensor, dict[str, Tensor]]:
    """(scalar, its parts): matching, inter-consistency and intra-diversity of a batch (paper, equation of section III-E).

    Args:
        found: what `Retriever` gives: `pooled`, `frames`, `mask`, and with queries `texts` and `clips`.
        scale: of the logits.
    """
    similarity = global_similarity(found["pooled"], found["frames"], found["mask"], options.temperature)
    if not options.local_weight:
        matching = matching_loss(similarity, scale)
        return matching, {"matching": matching}
    texts, clips = found["texts"], found["clips"]
    matching = matching_loss(similarity + options.local_weight * local_similarity(texts, clips), scale)
    consistency = inter_consistency(
        texts,
        clips,
        weight=options.consistency_weight,
        target=options.target,
        normalise=options.icl_normalise,
    )
    diversity = intra_diversity(clips, options.margin)
    if options.idl_both:
        diversity = diversity + intra_diversity(texts, options.margin)
    parts = {"matching": matching, "consistency": consistency, "diversity": diversity}
    return matching + consistency + options.diversity_weight * diversity, parts


def run(config: Config, run: Run) -> None:
    """Read, train, index, rank both ways; write index, report and model.

    Raises:
        DataError: clips that cannot be used.
        ModelError: an encoder or a retriever that cannot be loaded.
    """
    run_retrieval(config, run, lambda found, scale: batch_loss(found, scale, config))
