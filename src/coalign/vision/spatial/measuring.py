"""Pictures of descriptions, what a detector finds in them, and whether it stands where it should."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coalign.core.errors import DataError, RecordProblem, in_one_line
from coalign.core.files import atomic_path, stream_rows
from coalign.core.progress import progress
from coalign.data.media.records import read_media
from coalign.data.messages import describe
from coalign.data.records import Source
from coalign.data.rows import iter_rows
from coalign.loops.rows import fill_rows
from coalign.measures.media.spatial import (
    RELATIONS,
    Detection,
    SpatialOutcome,
    SpatialPrompt,
    parse_spatial_prompt,
    spatial_outcome,
    visor,
)
from coalign.models.detection import Detector
from coalign.models.diffusion.sampling import pictures_of
from coalign.vision.spatial.options import SpatialOptions

if TYPE_CHECKING:
    from PIL.Image import Image

Row = dict[str, Any]
PHRASES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
"""Words of VISOR for descriptions that are made of objects."""
COCO = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
]
PROMPT_COLUMNS = ("prompt", "caption", "text")


def read_descriptions(config: SpatialOptions) -> list[SpatialPrompt]:
    """The descriptions of `--prompts` or `--objects`, at most `most_prompts`, drawn with the seed.

    Raises:
        DataError: lines that state no relation which can be measured in the plane; they are named.
    """
    if config.objects:
        names = COCO if config.objects == ["coco"] else config.objects
        found = [
            SpatialPrompt(f"{_article(one)} {words} {_article(other)}", one, relation, other)
            for one, other in itertools.permutations(names, 2)
            for relation, words in PHRASES.items()
            if relation in RELATIONS
        ]
    else:
        found = _read(str(config.prompts))
    if config.most_prompts is not None and config.most_prompts < len(found):
        chosen = sorted(random.Random(config.seed).sample(range(len(found)), config.most_prompts))
        found = [found[place] for place in chosen]
    return found


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _read(name: str) -> list[SpatialPrompt]:
    found: list[SpatialPrompt] = []
    problems: list[RecordProblem] = []
    for place, values in _rows(name, problems):
        prompt = description_of(values)
        if isinstance(prompt, SpatialPrompt):
            found.append(prompt)
        else:
            expected = "two objects and left, right, above, below or near between them"
            problems.append(place.problem("prompt", prompt, expected))
    if problems or not found:
        raise DataError(
            f"{name}: {len(problems)} of {len(problems) + len(found)} descriptions cannot be used.", problems
        )
    return found


def _rows(name: str, problems: list[RecordProblem]) -> Iterator[tuple[Source, Mapping[str, Any]]]:
    """Lines of a text file, or rows of any other; those that cannot be read are problems."""
    path = Path(name)
    if path.suffix == ".txt" and path.is_file():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                yield Source(name, number), {"prompt": line.strip()}
        return
    for row in iter_rows(name):
        if row.value is not None:
            yield row.source(name), row.value
        elif row.problem is not None:
            problems.append(row.problem)


def description_of(values: Mapping[str, Any]) -> SpatialPrompt | str:
    """The description of a row: its parts where it has `first`, `relation` and `second`, else what its prompt says; or
    what is wrong with it.
    """
    text = next((values[one] for one in PROMPT_COLUMNS if values.get(one)), "")
    parts = [values.get(one) for one in ("first", "relation", "second")]
    if all(isinstance(one, str) and one for one in parts):
        first, relation, second = map(str, parts)
        parsed = parse_spatial_prompt(f"{first} {PHRASES.get(relation, relation)} {second}")
        if parsed is None:
            return f"the relation {relation!r}"
        return SpatialPrompt(str(text or parsed.text), first, parsed.relation, second)
    if not isinstance(text, str) or not text:
        return describe(text or None)
    return parse_spatial_prompt(text) or f"{text!r} states none"


def measure_model(
    rows: Path,
    folder: Path,
    descriptions: Sequence[SpatialPrompt],
    pipeline: Callable[[], Any],
    detector: Callable[[], Detector],
    config: SpatialOptions,
) -> list[Row]:
    """Make the pictures of every description, find the objects, and keep one row a description in `rows`.

    A killed run goes on at the first description without a row. Equal seeds give a model before and after training the
    same noise.

    Args:
        folder: for the pictures (PNG).
        pipeline, detector: opened where a row is missing.
    """

    def work(done: list[int], keep: Any) -> None:
        model, find = pipeline(), detector()
        missing = [place for place in range(len(descriptions)) if place not in set(done)]
        with progress(len(missing) * config.pictures_per_prompt, "Drawing", "picture") as bar:
            for place in missing:
                prompt = descriptions[place]
                drawn = pictures_of(
                    model,
                    prompt.text,
                    config.pictures_per_prompt,
                    seed=config.seed * 100_003 + place,
                    sampler=config.sampler,
                    steps=config.sampling_steps,
                    guidance=config.guidance,
                )
                names = []
                for number, picture in enumerate(drawn):
                    names.append(f"{place:05}-{number}.png")
                    with atomic_path(folder / names[-1]) as path:
                        picture.save(path, format="PNG")
                found = [outcome_in(prompt, one, find, config.threshold) for one in drawn]
                keep({place: row_of(prompt, names, found)})
                bar.advance(len(drawn))

    folder.mkdir(parents=True, exist_ok=True)
    return fill_rows(rows, [_id(place, one) for place, one in enumerate(descriptions)], work)


def measure_pictures(
    rows: Path, detector: Callable[[], Detector] | None, config: SpatialOptions
) -> list[Row]:
    """The same for pictures that were made elsewhere; those with one description are a row.

    Raises:
        DataError: records that cannot be used, or detections of a picture that are missing.
    """
    found = read_media(str(config.pictures), kind="image", on_bad_record=config.on_bad_record)
    given = read_detections(config.detections) if config.detections else None
    groups: dict[str, list[Any]] = {}
    prompts: dict[str, SpatialPrompt] = {}
    problems: list[RecordProblem] = []
    for record in found.records:
        prompt = description_of({**record.more, "caption": record.caption})
        if isinstance(prompt, str):
            problems.append(record.problem("prompt", prompt, "two objects and a relation between them"))
            continue
        prompts.setdefault(prompt.text, prompt)
        groups.setdefault(prompt.text, []).append(record)
    if problems:
        raise DataError(
            f"{config.pictures}: {len(problems)} of {len(found)} descriptions cannot be used.", problems
        )

    def work(done: list[int], keep: Any) -> None:
        find = detector() if detector is not None else None
        with progress(len(groups) - len(done), "Detecting", "description") as bar:
            for place, (text, records) in enumerate(groups.items()):
                if place in done:
                    continue
                outcomes = []
                for record in records:
                    picture = record.picture.open()
                    seen = _given(given, record) if find is None else None
                    outcomes.append(outcome_in(prompts[text], picture, find, config.threshold, seen))
                names = [record.picture.called for record in records]
                keep({place: row_of(prompts[text], names, outcomes)})
                bar.advance()

    return fill_rows(rows, [_id(place, prompts[text]) for place, text in enumerate(groups)], work)


def read_detections(path: Path | None) -> dict[str, list[Detection]]:
    """Objects that were found elsewhere, by the id or the file of a picture.

    Raises:
        DataError: a row that cannot be used, with its line.
    """
    assert path is not None
    found: dict[str, list[Detection]] = {}
    problems = []
    for number, (_, row) in enumerate(stream_rows(path), start=1):
        try:
            found[str(row["picture"])] = [
                Detection(str(one["label"]), float(one["score"]), _box(one["box"]))
                for one in row["detections"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            expected = "picture, and detections of label, score and box [x_min, y_min, x_max, y_max]"
            problems.append(RecordProblem(str(path), number, "detections", in_one_line(error), expected))
    if problems:
        raise DataError(f"{path}: {len(problems)} rows cannot be used.", problems)
    return found


def _box(values: Any) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, values)
    return left, top, right, bottom


def _given(found: dict[str, list[Detection]] | None, record: Any) -> list[Detection]:
    for name in (record.id, record.picture.called, Path(record.picture.called).name):
        if found is not None and name in found:
            return found[name]
    raise DataError(
        "Detections of a picture are missing.",
        [
            record.problem(
                "picture", f"nothing for {record.picture.called}", "a row of --detections with its id or file"
            )
        ],
    )


def outcome_in(
    prompt: SpatialPrompt,
    picture: Image,
    find: Detector | None,
    threshold: float,
    found: Sequence[Detection] | None = None,
) -> SpatialOutcome:
    """What a picture shows of its description, by a detector or by what was found."""
    if found is None:
        assert find is not None
        found = find(picture, [prompt.first, prompt.second], threshold)
    return spatial_outcome(prompt, found, threshold=threshold, width=picture.width, height=picture.height)


def row_of(prompt: SpatialPrompt, pictures: Sequence[str], outcomes: Sequence[SpatialOutcome]) -> Row:
    """The columns of a description and its pictures."""

    def seen(one: Detection | None) -> Row | None:
        return None if one is None else {"score": one.score, "box": list(one.box)}

    return {
        "text": prompt.text,
        "first": prompt.first,
        "relation": prompt.relation,
        "second": prompt.second,
        "pictures": list(pictures),
        "outcomes": [
            {"first": seen(one.first), "second": seen(one.second), "correct": one.correct, "score": one.score}
            for one in outcomes
        ],
    }


def _id(place: int, prompt: SpatialPrompt) -> str:
    parts = "\n".join((prompt.text, prompt.first, prompt.relation, prompt.second))
    return f"{place}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"


def triples(rows: Sequence[Row]) -> list[list[tuple[bool, bool, bool]]]:
    """The rows as `measures.spatial.visor` takes them."""
    return [
        [(one["first"] is not None, one["second"] is not None, one["correct"]) for one in row["outcomes"]]
        for row in rows
    ]


def figures_of(rows: Sequence[Row]) -> dict[str, float | None]:
    """VISOR of the directions, and the score of T2I-CompBench of all descriptions.

    `near`, for which VISOR has no rule, counts in the score alone.
    """
    scores = [one["score"] for row in rows for one in row["outcomes"]]
    directed = visor(triples([row for row in rows if row["relation"] != "near"]))
    return {**directed, "spatial score": sum(scores) / len(scores) if scores else None}
