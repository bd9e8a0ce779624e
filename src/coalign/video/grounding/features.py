"""Frozen features of videos and sentences: out of files, or of an encoder and kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import Count, OptionGroup, Positive, option
from coalign.core.progress import progress
from coalign.data.media.errors import MediaError
from coalign.video.material.feature_files import FeatureError, read_features

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from coalign.models.embedding import SentenceEncoder
    from coalign.pairs.encoders import ImageTextEncoder
    from coalign.pairs.features import FeatureCache
    from coalign.video.grounding.records import Video


@dataclass(kw_only=True)
class FeatureOptions(OptionGroup):
    """Frozen features of frames and sentences."""

    __group__ = "Features"

    encoder: str | None = option(
        None,
        "image-text model (CLIP, SigLIP, ...: a folder or hub id) for frames and sentences without features of their own",
    )
    text_encoder: str | None = option(
        None,
        "sentence encoder (`default-encoder`, a folder or hub id) in place of the image-text model's for sentences",
    )
    fps: Positive = option(1.0, "frames a second that are looked at", source="paper")
    max_seconds: Positive = option(
        1200.0,
        "longest part of a video; sentences that end later are left out and counted",
        source="official code",
    )
    encode_batch: Count = option(32, "frames or sentences that are encoded at once")
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")


class Features:
    """Features of videos, made when they are first asked for; what an encoder gives is kept in the cache by content.

    Raises (at once):
        ConfigError: a record has neither features nor an encoder for them.
    """

    def __init__(self, options: FeatureOptions, videos: Sequence[Video]) -> None:
        self.options = options
        self._contents: dict[str, str] = {}
        for one in videos:
            if one.features is None and options.encoder is None:
                raise _without(one, "features", "--encoder for its frames")
            if one.text_features is None and not (options.encoder or options.text_encoder):
                raise _without(one, "text_features", "--encoder or --text-encoder for its sentences")

    @cached_property
    def _encoder(self) -> ImageTextEncoder:
        from coalign.pairs.encoders import ImageTextEncoder

        assert self.options.encoder is not None
        return ImageTextEncoder.load(self.options.encoder, device=self.options.device)

    @cached_property
    def _sentences(self) -> SentenceEncoder:
        from coalign.models.embedding import load_encoder

        assert self.options.text_encoder is not None
        return load_encoder(self.options.text_encoder, device=self.options.device)

    @cached_property
    def _caches(self) -> tuple[FeatureCache, FeatureCache]:
        """Of frames, and of sentences."""
        from coalign.models.files.identity import model_identity
        from coalign.models.options import ModelOptions
        from coalign.pairs.features import FeatureCache, encoder_identity

        pictures = FeatureCache(encoder_identity(self._encoder)) if self.options.encoder else None
        named = self.options.text_encoder
        texts = FeatureCache(f"sentences {model_identity(ModelOptions(model=named))}") if named else pictures
        assert texts is not None
        return pictures or texts, texts

    def fps(self, video: Video) -> float:
        """Feature rows a second of a video."""
        return video.frames.fps or self.options.fps if video.features is not None else self.options.fps

    def visual(self, video: Video) -> Tensor:
        """[T, D_v] of a video's frames, one every `1 / fps` seconds, at most `max_seconds` of them; float32, on the CPU.

        Raises:
            FeatureError, MediaError: the file cannot be used.
        """
        most = int(self.options.max_seconds * self.fps(video)) + 1
        if video.features is not None:
            return torch.from_numpy(read_features(video.features, video.id))[:most]
        return self._of_frames(video)[:most]

    def text(self, video: Video) -> Tensor:
        """[S, D_t] of a video's sentences; float32, on the CPU.

        Raises:
            FeatureError: the file cannot be used, or has another number of rows than there are sentences.
        """
        if video.text_features is None:
            return self.of_texts(video.texts)
        found = torch.from_numpy(read_features(video.text_features, video.id))
        if len(found) != len(video.sentences):
            raise FeatureError(
                video.text_features,
                f"{len(found)} rows",
                f"{len(video.sentences)}, one a sentence of {video.id}",
            )
        return found

    def prepare(self, videos: Sequence[Video], label: str = "Encoding frames") -> list[Video]:
        """Encode what is not in the cache, under one bar; the videos in their order.

        Raises:
            DataError: naming every video whose features cannot be used; widths that differ.
        """
        problems, widths = [], {}
        with progress(len(videos), label, "video") as bar:
            for one in videos:
                bar.note(one.id)
                try:
                    sizes = self.visual(one).shape[1], self.text(one).shape[1]
                    first = widths.setdefault("all", (sizes, one.id))
                    if sizes != first[0]:
                        problems.append(
                            one.problem("features", f"widths {sizes}", f"{first[0]} as those of {first[1]}")
                        )
                except (FeatureError, MediaError) as error:
                    problems.append(one.problem("video", str(error.message).rstrip("."), "features"))
                bar.advance()
        if problems:
            raise DataError(f"{len(problems)} videos cannot be used.", problems)
        return list(videos)

    def share_a_width(self, videos: Sequence[Video]) -> bool:
        """Whether frames and sentences can be compared as they are."""
        return bool(videos) and self.visual(videos[0]).shape[1] == self.text(videos[0]).shape[1]

    def assert_fits(self, videos: Sequence[Video], visual: int, text: int) -> None:
        """Refuse features of other widths than an aligner takes.

        Raises:
            ConfigError: naming both.
        """
        if not videos:
            return
        found = self.visual(videos[0]).shape[1], self.text(videos[0]).shape[1]
        if found != (visual, text):
            raise ConfigError(
                f"Frames and sentences have the widths {found}, the aligner was trained on {(visual, text)}.",
                hint="Give the --encoder and --text-encoder, or the kind of features, that it was trained with.",
            )

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """[S, D_t] of any sentences."""
        from coalign.pairs.features import stacked, text_features

        size, (_, cache) = self.options.encode_batch, self._caches
        if self.options.text_encoder is None:
            return stacked(text_features(self._encoder, texts, batch_size=size, cache=cache))
        keys = [f"text/{hashlib.sha256(one.encode()).hexdigest()}" for one in texts]

        def encoded(places: list[int]) -> list[dict[str, Tensor]]:
            found = self._sentences.encode([texts[place] for place in places], batch_size=size)
            return [{"pooled": one} for one in found]

        return stacked(cache.filled(keys, encoded, batch_size=size, label="features of texts", unit="text"))

    def _of_frames(self, video: Video) -> Tensor:
        content = self._contents.get(video.id)
        if content is None:
            content = self._contents[video.id] = video.frames.content()
        key = f"frames/{self.options.fps}/{self.options.max_seconds}/{content}"
        cache, _ = self._caches
        made = lambda _: [{"frames": self._looked_at(video)}]  # noqa: E731
        (found,) = cache.filled([key], made, batch_size=1, label=f"features of {video.id}", unit="video")
        return found["frames"]

    def _looked_at(self, video: Video) -> Tensor:
        found, waiting = [], []
        for time, picture in video.frames.every(1 / self.options.fps):
            if time > self.options.max_seconds:
                break
            waiting.append(picture)
            if len(waiting) == self.options.encode_batch:
                found.append(self._seen(waiting))
                waiting = []
        return torch.cat([*found, *([self._seen(waiting)] if waiting else [])])

    def _seen(self, pictures: Sequence[Image]) -> Tensor:
        with torch.inference_mode():
            return self._encoder.image(self._encoder.pixels(pictures)).pooled.float().cpu()


def _without(video: Video, field: str, needed: str) -> ConfigError:
    place = video.problem(field, "missing", f"a file of features, or {needed}")
    return ConfigError(str(place))
