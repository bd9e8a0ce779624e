#!/usr/bin/env bash
# Guess, before it was tried: `SoundFile.blocks` over an MP3, joined, is the whole file, and `info.frames` is its length.
# Versions: soundfile 0.14.0 (libsndfile 1.2.2), numpy 2.4.0.
# Seen: after every read soundfile seeks to where it is already, and a frame of MP3 needs bytes of the frames before it
#   (the bit reservoir), so each block of a file of variable bit rate begins with wrong samples or silence. Reading from a
#   little earlier and throwing that away gives the samples of the whole file. Of a file without the frame that holds the
#   length, `info.frames` is estimated from the size and far off.
# Touches: silence levels and windows of long recordings (podcasts are MP3). coalign decodes a lead of two seconds and
#   counts files that do not say their length (tests/speech/test_audio.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q soundfile==0.14.0 numpy==2.4.0
cd "$folder"
venv/bin/python - 2>/dev/null <<'PY'
import sys
import numpy as np
import soundfile as sf

rate = 44_100
time = np.arange(rate * 24)
loud = np.sin(time / 30_000) ** 2 * (time // (2 * rate) % 3 > 0)
sound = np.random.default_rng(0).normal(0, 0.25, len(time)) * loud
sf.write("a.mp3", sound, rate, format="MP3", compression_level=0.9, bitrate_mode="VARIABLE")
whole, _ = sf.read("a.mp3")
with sf.SoundFile("a.mp3") as file:
    blocks = np.concatenate(list(file.blocks(rate // 20)))
lead, start = rate // 2, 10 * rate
late = sf.read("a.mp3", start=start - lead, frames=lead + rate)[0][lead:]
data = open("a.mp3", "rb").read()
rates = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
head = int.from_bytes(data[:4], "big")
open("b.mp3", "wb").write(data[144_000 * rates[head >> 12 & 15] // rate + (head >> 9 & 1) :])
said, there = sf.info("b.mp3").frames, len(sf.read("b.mp3")[0])
wrong = np.abs(blocks - whole).max()
right = np.abs(late - whole[start : start + rate]).max()
print(f"blocks differ by {wrong:.3f}, with a lead by {right:.0e}; without the header {said} frames are said, {there} read")
sys.exit(0 if wrong > 0.05 and right < 1e-4 and said > 1.1 * there else 1)
PY
