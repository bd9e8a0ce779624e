#!/usr/bin/env bash
# Guess, before it was tried: pysubs2 reads WebVTT with times of words inside a cue, and leaves them out or keeps them.
# Versions: pysubs2 1.8.1, webvtt-py 0.6.0.
# Seen: pysubs2 takes every line with exactly two times for the times of a cue. A line of text with two inline times, so
#   with three timed words, begins a cue of its own, and its text is lost; with one or three inline times it is text, tags
#   and all. webvtt-py reads all of them rightly.
# Touches: alignments that are written as subtitles. coalign writes WebVTT without inline times; `vtt-words` has them and
#   breaks such a line (tests/speech/test_other_readers.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pysubs2==1.8.1 webvtt-py==0.6.0
cd "$folder"
venv/bin/python - <<'PY'
import sys
import pysubs2
import webvtt

words = ["and", "here", "come", "some"]
counts = {}
for count in (2, 3, 4):
    timed = " ".join([words[0], *(f"<00:00:0{n}.500>{words[n]}" for n in range(1, count))])
    open("a.vtt", "w").write(f"WEBVTT\n\n00:00:00.000 --> 00:00:09.000\n{timed}\n")
    counts[count] = len(pysubs2.load("a.vtt"))
    assert [one.text for one in webvtt.read("a.vtt")] == [" ".join(words[:count])]
print("timed words to cues in pysubs2:", counts)
sys.exit(0 if counts == {2: 1, 3: 2, 4: 1} else 1)
PY
