"""What vLLM's server answers to, by rule and without vLLM: `python vllm_stand_in.py --model FOLDER --port N ...`.

A response is `WEIGHTS|LENGTH OF THE PROMPT|SEED|NUMBER`, with the tokenizer of the model; WEIGHTS is a sum over the file of weights
that answers. As vLLM does, it keeps what it computed for a prompt under the name of the weights: who gives one name to two adapters
gets answers of the first. The variable `STAND_IN` is a JSON object: `log` (a file of requests), `version`, `fault`, `text` (of a response, in
place of the one above).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

SETTINGS = json.loads(os.environ.get("STAND_IN", "{}"))
FAULT = SETTINGS.get("fault")
LOCK = threading.Lock()


def log(**facts: Any) -> None:
    if "log" in SETTINGS:
        with LOCK, Path(SETTINGS["log"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")


def weights_of(folder: str, name: str) -> int:
    return zlib.crc32(Path(folder, name).read_bytes())


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None: ...

    def do_GET(self) -> None:
        if self.path == "/health":
            return self.send(503 if FAULT == "never" else 200, {})
        self.send(200, {"version": SETTINGS.get("version", "0.32.0")})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        log(path=self.path, body=body, key=self.headers["authorization"])
        if self.headers["authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self.send(401, {"error": "Unauthorized"})
        answer = self.server.answers[self.path](body)
        self.send(200 if "error" not in answer else 400, answer)

    def send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, asked: argparse.Namespace) -> None:
        super().__init__((asked.host, asked.port), Handler)
        self.tokenizer = Tokenizer.from_file(f"{asked.model}/tokenizer.json")
        self.weights = {asked.served_model_name: weights_of(asked.model, "model.safetensors")}
        self.kept: dict[tuple[str, tuple[int, ...]], int] = {}
        self.asked, self.count = asked, 0
        self.answers = {
            "/v1/completions": self.complete,
            "/v1/load_lora_adapter": self.load,
            "/v1/unload_lora_adapter": lambda body: {"left": self.weights.pop(body["lora_name"])},
            "/collective_rpc": self.reload,
            "/reset_prefix_cache": self.forget,
        }

    def load(self, body: dict[str, Any]) -> dict[str, Any]:
        if FAULT == "adapter" or not self.asked.enable_lora:
            return {"error": {"message": "this adapter does not fit"}}
        self.weights[body["lora_name"]] = weights_of(body["lora_path"], "adapter_model.safetensors")
        return {}

    def reload(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["method"] != "reload_weights" or os.environ.get("VLLM_SERVER_DEV_MODE") != "1":
            return {"error": {"message": "there is nothing of that name"}}
        folder = body["kwargs"]["weights_path"]
        self.weights[self.asked.served_model_name] = weights_of(folder, "model.safetensors")
        return {"results": [None]}

    def forget(self, body: dict[str, Any]) -> dict[str, Any]:
        self.kept.clear()
        return {"success": FAULT != "keeps"}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        with LOCK:
            self.count += 1
        if FAULT == "dies" and self.count == SETTINGS["after"]:
            print("RuntimeError: out of memory", flush=True)
            os._exit(7)
        if FAULT == "waits":
            time.sleep(1000)
        if len(body["prompt"]) > SETTINGS.get("longest", 1000):
            return {"error": {"message": "this prompt is too long for me"}}
        key = body["model"], tuple(body["prompt"])
        weights = self.kept.setdefault(key, self.weights[body["model"]])
        count = body["n"] - (FAULT == "few")
        text = SETTINGS.get("text", "{weights}|{length}|{seed}|{number}")
        facts = {"weights": weights, "length": len(key[1]), "seed": body.get("seed")}
        choices = [self.choice(text.format(**facts, number=k), body) for k in range(count)]
        return {"choices": [{**one, "index": k} for k, one in enumerate(choices)][::-1]}

    def choice(self, text: str, body: dict[str, Any]) -> dict[str, Any]:
        found = [text.index(one) + len(one) for one in body.get("stop", ()) if one in text]
        ids = self.tokenizer.encode(text[: min(found)] if found else text, add_special_tokens=False).ids
        if not found:
            ids.append(body["stop_token_ids"][0])
        whole = len(ids) <= body["max_tokens"]
        ids = ids[: body["max_tokens"]]
        made = {"text": text, "finish_reason": "stop" if whole else "length", "token_ids": ids}
        if FAULT == "no ids":
            del made["token_ids"]
        if "logprobs" not in body:
            return made
        names = [f"token_id:{token}" for token in ids]
        logps = [-0.5 - 0.01 * place for place in range(len(ids))]
        tops = [{name: logp, "token_id:9": -3.0} for name, logp in zip(names, logps, strict=True)]
        return {**made, "logprobs": {"tokens": names, "token_logprobs": logps, "top_logprobs": tops}}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in {"--model": str, "--served-model-name": str, "--host": str, "--port": int}.items():
        parser.add_argument(name, type=kind, required=True)
    parser.add_argument("--enable-lora", action="store_true")
    asked, _ = parser.parse_known_args()
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    log(started=os.getpid(), worker=worker.pid, arguments=sys.argv[1:])
    if FAULT == "ends":
        worker.kill()
        print("ValueError: No available memory for the cache blocks\nshutting down", flush=True)
        raise SystemExit(3)
    Server(asked).serve_forever()


if __name__ == "__main__":
    main()
