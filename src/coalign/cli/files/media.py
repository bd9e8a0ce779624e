"""`coalign data check` of pictures and clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coalign.core.errors import ConfigError
from coalign.data.sources import DataSource

TEXT_ALONE = ("model", "chat_template", "max_length", "max_prompt_length", "kind", "against", "rejects")
"""Options that say something of records of text alone."""


def media_columns(columns: Sequence[str]) -> dict[str, str]:
    """`--column` as parts of pictures and clips, where the first of them names one; else empty.

    Raises:
        ConfigError: some are such parts and others are not.
    """
    parts = ("image", "video", "captions", "label", "id")
    pairs = [one.partition("=") for one in columns]
    named = {name: column for name, _, column in pairs if name in parts and column}
    if not {"image", "video", "captions"} & named.keys():
        return {}
    other = next((name for name, _, _ in pairs if name not in named), None)
    if other is not None:
        raise ConfigError(f"--column {other}: no part of records of pictures, expected: {', '.join(parts)}")
    return named


def all_media(sources: Sequence[DataSource], split: str, columns: Mapping[str, str]) -> bool:
    """Whether the sources hold pictures or clips.

    Raises:
        ConfigError: some do and others do not.
    """
    from coalign.data.media.records import is_media

    if columns:
        return True
    found = [is_media(one.path, one.split or split) for one in sources]
    if any(found) and not all(found):
        one = sources[found.index(True)].path
        raise ConfigError(f"{one} holds pictures or clips, other sources text: check them apart.")
    return all(found)


def check_all(
    sources: Sequence[DataSource],
    as_json: bool,
    *,
    split: str,
    limit: int | None,
    skip: bool,
    columns: Mapping[str, str],
    report: Path | None,
    max_pixels: int | None,
    given: Mapping[str, Any],
) -> tuple[bool, list[dict[str, Any]]]:
    """Decode everything, print what was found and write the report; whether all can be used, and the findings.

    Args:
        given: further options; those of text are refused.
    """
    from rich.console import Console

    from coalign.data.media.check import check_media
    from coalign.data.media.check_view import print_media_check, write_media_report
    from coalign.data.media.pictures import MAX_PIXELS
    from coalign.data.media.records import scan_media

    refused = next((name for name in TEXT_ALONE if given.get(name)), None)
    if refused is not None:
        flag = "--" + refused.replace("_", "-")
        raise ConfigError(f"{flag} has no effect on pictures and clips with captions; leave it out")
    checks = []
    for source in sources:
        found = scan_media(source.path, split=source.split or split, limit=limit, columns=columns)
        label = None if as_json else "Decoding"
        checks.append(
            check_media(
                found,
                thumbnails=report is not None,
                skip_bad=skip,
                max_pixels=max_pixels or MAX_PIXELS,
                label=label,
            )
        )
        if not as_json:
            print_media_check(checks[-1], Console(highlight=False))
    if report is not None:
        write_media_report(checks, report)
    return all(one.usable for one in checks), [one.to_dict() | {"warnings": one.warnings()} for one in checks]
