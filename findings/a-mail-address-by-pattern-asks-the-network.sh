#!/usr/bin/env bash
# Guess, before it was tried: presidio's recogniser of mail addresses is a pattern; used alone, without a model, it reads the
#   text and nothing else.
# Versions: presidio-analyzer 2.2.366, tldextract 5.4.0.
# Seen: the first address that is found makes it fetch the public suffix list over the network (publicsuffix.org, then
#   GitHub), through tldextract, which validates the domain. Without a network it logs an error with a traceback, falls back
#   to the list that it brings, and finds the address. Nothing of the text is sent.
# Touches: masking of personal data where nothing may leave the machine, and machines without a network. coalign validates
#   with the list that tldextract brings (coalign.data.personal; tests/data/test_personal.py refuses every connection).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q presidio-analyzer==2.2.366 tldextract==5.4.0
cd "$folder"
TLDEXTRACT_CACHE="$folder/suffixes" venv/bin/python - 2>/dev/null <<'PY'
import socket, sys

asked = []
def noted(host, *rest, **more):
    asked.append(host)
    raise socket.gaierror(-2, "no network here")

socket.getaddrinfo = noted
from presidio_analyzer.predefined_recognizers import EmailRecognizer

text = "Write to ada@example.org."
recogniser = EmailRecognizer()
before = list(asked)
found = recogniser.analyze(text, entities=["EMAIL_ADDRESS"], nlp_artifacts=None)
print("asked for before", before, "and then for", sorted({str(one) for one in asked}))
print("found", [text[one.start : one.end] for one in found])
sys.exit(0 if asked and not before and len(found) == 1 else 1)
PY
