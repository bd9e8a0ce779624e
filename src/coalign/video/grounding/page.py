"""A page that plays a video beside its sentences: a click on a sentence goes to its moment; the curves are drawn over the seconds.

The page asks nothing of the network and escapes what texts hold. The clip is inside it, or linked where it lies.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import ConfigError
from coalign.core.files import write_text
from coalign.report.templates import inlined, relative_link, template_environment
from coalign.report.text import script_json

if TYPE_CHECKING:
    from coalign.video.grounding.records import Video

ASSETS = Path(__file__).parent / "assets"
LARGEST_INSIDE = 64 * 2**20
"""Bytes of a clip that a page may hold."""
ROW_HEIGHT, LARGEST_MAP = 9, 220
"""Pixels of a row of the map of all sentences, and of the whole map."""


def write_page(
    path: Path, row: Mapping[str, Any], *, video: Path | None, way: Literal["link", "embed"] = "link"
) -> None:
    """Write the page of one video.

    Args:
        row: of `coalign.video.grounding.placing`: `id`, `fps`, `frames`, `sentences` with their curves.
        video: the clip; None, or a folder of pictures: a page without a player.
    """
    clip = video if video is not None and video.is_file() else None
    seconds = max((row["frames"] - 1) / row["fps"], 1 / row["fps"])
    sentences: Sequence[Mapping[str, Any]] = row["sentences"]
    counted = [one for one in sentences if one["hit"] is not None]
    right = sum(one["hit"] for one in counted)
    facts = f"{clock(seconds)}, {len(sentences)} sentences" + (
        f", {right} of {len(counted)} inside the stated interval" if counted else ""
    )
    page = (
        template_environment(ASSETS)
        .get_template("moments.html.j2")
        .render(
            title=row["id"],
            facts=facts,
            source=_source(clip, path, way) if clip else "",
            kind=clip.suffix if clip else "",
            height=min(ROW_HEIGHT * len(sentences), LARGEST_MAP),
            sentences=[_shown(one) for one in sentences],
            **inlined(ASSETS, "moments", "media-src data:" if way == "embed" else "media-src 'self' file:"),
            data=script_json(
                {
                    "seconds": seconds,
                    "fps": row["fps"],
                    "sentences": [
                        {
                            **{name: one[name] for name in ("time", "start", "end")},
                            "curve": [round(value * 1000) for value in one["curve"]],
                        }
                        for one in sentences
                    ],
                }
            ),
        )
    )
    write_text(path, page)


def assert_embeddable(videos: Sequence[Video]) -> None:
    """Refuse to put clips into pages that are too large for it.

    Raises:
        ConfigError: naming the first.
    """
    for one in videos:
        clip = one.frames.video
        if clip is not None and clip.is_file() and clip.stat().st_size > LARGEST_INSIDE:
            raise ConfigError(
                f"page_video: embed: {clip} has {clip.stat().st_size / 2**20:.0f} MiB, expected at most "
                f"{LARGEST_INSIDE // 2**20} MiB a clip.",
                hint="Say page_video: link, and keep the pages where they can reach the clips.",
            )


def clock(seconds: float) -> str:
    """`1:02:03`, `2:03`; `2:03.5` where it is no whole second."""
    tenths = round(max(seconds, 0.0) * 10)
    minutes, rest = divmod(tenths // 10, 60)
    hours, minutes = divmod(minutes, 60)
    part = f".{tenths % 10}" if tenths % 10 else ""
    return f"{hours}:{minutes:02d}:{rest:02d}{part}" if hours else f"{minutes}:{rest:02d}{part}"


def _shown(one: Mapping[str, Any]) -> dict[str, str]:
    kind, verdict = {True: ("right", "inside"), False: ("wrong", "outside"), None: ("", "")}[one["hit"]]
    if one["hit"] is False:
        verdict = f"stated {clock(one['start'])} to {clock(one['end'])}"
    return {
        "clock": clock(one["time"]),
        "score": f"{one['score']:.2f}",
        "text": one["text"],
        "kind": kind,
        "verdict": verdict,
    }


def _source(clip: Path, page: Path, way: str) -> str:
    if way == "link":
        return relative_link(clip, page)
    kind = mimetypes.guess_type(clip.name)[0] or "video/mp4"
    return f"data:{kind};base64,{base64.b64encode(clip.read_bytes()).decode()}"
