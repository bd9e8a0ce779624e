#!/usr/bin/env bash
# Guess, before it was tried: with local_files_only=True, AutoModel.from_pretrained sends no request to the hub.
# Versions: transformers 5.23.0, peft 0.21.2, huggingface_hub as they bring it, torch 2.13.0.
# Seen: where peft is installed, the hub is asked for adapter_config.json beside the weights all the same; only
#   adapter_kwargs={"local_files_only": True} prevents it. Without a network each load so waits for five retries.
# Touches: whoever loads cached models offline. coalign passes that argument wherever weights are loaded and the hub is out of
#   reach (coalign.models.files.places; tests/models/test_loading.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
cat > hub.py <<'PY'
import http.server
import os
import sys
import threading

asked = []

class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        asked.append(self.path)
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
os.environ["HF_HOME"] = "cache"

from transformers import AutoModel  # noqa: E402

counts = []
for more in ({}, {"adapter_kwargs": {"local_files_only": True}}):
    asked.clear()
    try:
        AutoModel.from_pretrained("someone/something", local_files_only=True, **more)
    except OSError:
        pass  # nothing is cached here: what counts is who was asked
    counts.append(sum(path.endswith("/adapter_config.json") for path in asked))
print("requests for adapter_config.json with local_files_only:", counts[0], "and with adapter_kwargs:", counts[1])
sys.exit(0 if counts[0] and not counts[1] else 1)
PY
venv/bin/python hub.py 2>/dev/null
