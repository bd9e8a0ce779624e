"""Pseudo-forced alignment: long recordings and loose text become utterances with times, confidences and clean clips.

Iterative pseudo-forced alignment by acoustic CTC loss for self-supervised ASR domain adaptation (arXiv 2210.15226).
A window moves from anchor to anchor through the recording (`coalign.speech.segmentation.anchored_windows`), CTC-segmentation places
its lines (`coalign.speech.ctc.align`), a threshold on their confidence keeps the clean ones, and the recogniser may
learn from these and align again.

    coalign run pseudo-forced-alignment --data recordings/ --model recogniser/
    coalign run pseudo-forced-alignment --data recordings/ --model recogniser/ --rounds 2 --eval-data clips.jsonl

Every line of text ends as an utterance or in the list of what was not aligned, with the reason. Differences from the
authors' code are listed in `coalign.speech.segmentation.anchored_windows`; besides, speech is found by level instead of a neural
detector (`--speech` reads the stretches of another), numbers are not spoken out, and a whole line is taken back where
the code would lose it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import ConfigError
from coalign.core.options import CountOrZero, option, required
from coalign.core.progress import progress
from coalign.core.runs import Run
from coalign.loops.rounds import Round, Stage, run_rounds
from coalign.speech.audio.latency import measure_clips
from coalign.speech.audio.recordings import Recording, read_recordings, usable
from coalign.speech.audio.silence import frame_levels, read_speech, speech_stretches
from coalign.speech.ctc.recogniser import Recogniser, load_recogniser
from coalign.speech.ctc.recogniser_options import SMALL, RecogniserOptions
from coalign.speech.ctc.training import Clip, CTCTrainingOptions, fit_round
from coalign.speech.segmentation.anchored_windows import WindowRules
from coalign.speech.segmentation.long_alignment import align_recording
from coalign.speech.segmentation.outputs import Format
from coalign.speech.segmentation.report import write_alignment_report, write_outputs

SILENT_DB = -80.0
"""A recording whose loudest 50 ms are below is silent."""


@dataclass(kw_only=True)
class Config(WindowRules, RecogniserOptions, CTCTrainingOptions):
    """Options of `coalign run pseudo-forced-alignment`."""

    __group__ = "Method"

    data: Path = required("recordings with their lines of text: a manifest, a folder, or Common Voice")
    model: str = required("a folder, run folder or hub id of a trained CTC model", group="Recogniser")
    split: str = option("train", "file of Common Voice")
    speech: Path | None = option(
        None,
        "stretches of speech of another detector: rows `audio`, `start`, `end`; by default found by level",
    )
    min_score: float = option(-1.0, "confidence from which on an utterance is kept", source="official code")
    rounds: CountOrZero = option(
        0, "how often the recogniser learns from what was kept and aligns again; 0 aligns only"
    )
    eval_data: Path | None = option(
        None, "clips with true transcripts to measure the recogniser on, every round"
    )
    formats: list[Format] = option(
        ["jsonl", "textgrid", "srt", "vtt", "audacity"],
        "files to write; vtt-words: WebVTT with the time of every word",
    )
    page_sound: Literal["embed", "link", "none"] = option(
        "embed", "sound of the pages: inside, linked, or no pages at all"
    )


def run(config: Config, run: Run) -> None:
    """Align, keep, and for every further round adapt and align again; write files, pages, report and model.

    Raises:
        DataError: recordings that cannot be used.
        ConfigError: an untrained model.
    """
    if config.model == SMALL:
        raise ConfigError(
            "--model: `small` is untrained and cannot align.",
            hint="Train one on clips: coalign run awp --data clips/ --model small --start-step 600",
        )
    recordings = read_recordings(config.data, split=config.split)
    found = usable(recordings, _why_not)
    stretches = read_speech(config.speech) if config.speech else {}
    run.log("data", recordings=len(recordings), left_out=dict(found.left_out))
    rounds = run_rounds(run, make_stages(config, found.recordings, stretches), rounds=config.rounds + 1)
    trained = [round for round in rounds if (round.folder / "model").exists()]
    if trained:
        run.publish_model(trained[-1].folder / "model")
    write_outputs(config, run, rounds[-1], found.recordings)
    write_alignment_report(config, run, rounds, found)


def make_stages(
    config: Config, recordings: list[Recording], stretches: dict[str, list[tuple[float, float]]]
) -> dict[str, Stage]:
    """The stages of a round: `baseline` measures, `generate` aligns, `filter` keeps, `fit` adapts."""
    loaded: dict[int, Recogniser] = {}

    def recogniser(round: Round) -> Recogniser:
        if round.number not in loaded:
            loaded.clear()
            previous = Round(round.run, round.number - 1).folder / "model"
            name, revision = (config.model, config.revision) if round.number == 1 else (str(previous), None)
            loaded[round.number] = load_recogniser(name, revision=revision, device=config.device)
        return loaded[round.number]

    def baseline(round: Round) -> None:
        rows = []
        if config.eval_data is not None:
            clips = _eval_clips(config.eval_data, recogniser(round))
            rows = measure_clips(recogniser(round), clips, {})
        round.write("baseline", rows)

    def generate(round: Round) -> None:
        done = {row["id"] for row in round.read("generate")}
        total = sum(len(one.rows) for one in recordings)
        with progress(total, f"Aligning, round {round.number}", "line") as bar:
            bar.advance(sum(len(one.rows) for one in recordings if one.id in done))
            for one in recordings:
                if one.id not in done:
                    bar.note(one.id)
                    round.append(
                        "generate", [_aligned(config, one, recogniser(round), stretches, bar.advance)]
                    )

    def keep(round: Round) -> None:
        rows = round.read("generate")
        kept = [
            {"recording": row["id"], "index": index, **one}
            for row in rows
            for index, one in enumerate(row["utterances"])
            if one["score"] >= config.min_score and one["end"] > one["start"]
        ]
        round.write("filter", kept)
        total = sum(len(row["utterances"]) for row in rows)
        round.run.log("filtered", round=round.number, kept=len(kept), dropped=total - len(kept))

    def adapt(round: Round) -> None:
        if round.number > config.rounds:
            return
        audio = {one.id: one.audio for one in recordings}
        clips = [
            Clip(
                f"{row['recording']}-{row['index']}",
                row["text"],
                audio[row["recording"]],
                row["start"],
                row["end"] - row["start"],
            )
            for row in round.read("filter")
        ]
        fit_round(round, recogniser(round), clips, config, name=f"round-{round.number}")
        loaded.clear()

    return {"baseline": baseline, "generate": generate, "filter": keep, "fit": adapt}


def _why_not(recording: Recording) -> str | None:
    levels = frame_levels(recording.audio)
    return "silent" if not len(levels) or levels.max() < SILENT_DB else None


def _aligned(
    config: Config,
    recording: Recording,
    recogniser: Recogniser,
    stretches: dict[str, list[tuple[float, float]]],
    on_row: Any,
) -> dict[str, Any]:
    """A row of `generate`: the recording's utterances, what was not aligned, and what was counted."""
    speech = stretches.get(recording.audio.stem) or speech_stretches(recording.audio, config.min_silence)
    outside: Counter[str] = Counter()
    conversions: Counter[str] = Counter()
    found = align_recording(
        recogniser,
        recording,
        speech,
        config,
        outside=outside,
        conversions=conversions,
        on_row=on_row,
    )
    return {
        "id": recording.id,
        "audio": str(recording.audio),
        "seconds": recording.seconds,
        "speech": speech,
        "windows": found.windows,
        "outside": dict(outside),
        "conversions": sorted(conversions),
        "utterances": found.utterances,
        "unaligned": found.unaligned,
    }


def _eval_clips(data: Path, recogniser: Recogniser) -> list[Clip]:
    texts = [(one, recogniser.vocabulary.normalise(one.text)) for one in read_recordings(data)]
    return [Clip.of(one, text) for one, text in texts]
