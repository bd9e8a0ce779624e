"""What is given odd input: each entry point of the project that reads what others wrote. A target raises `FoundError`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import yaml

from coalign.core.options import options_of
from coalign.core.system import load_system
from tests.contract.small import SMALL
from tests.drill.fuzz.bench import Bench, FoundError
from tests.drill.fuzz.hostile import TEXTS, document, number
from tests.drill.fuzz.media import MEDIA
from tests.drill.fuzz.rows import ROWS, records, tiny_rows
from tests.drill.fuzz.servers import endpoint, folders, pages, serve
from tests.drill.fuzz.texts import answers, points, templates, translations

Target = Callable[[Bench, Random], None]
TRAINED = ("ln-dpo", "bco", "pro", "cut", "poft", "reward-augmented", "aft", "d2o")
"""Systems that learn from a file of records: all of the same reader, so a few stand for all."""
ONE_FOR_ONE = ("ln-dpo",)
"""Of these the ones that learn from each record once, as it is."""
ASKING = ("urial", "deal", "nudging")
MODEL = ("--model", "models/tiny", "--device", "cpu")


def _rows_in(path: Path) -> int:
    return sum(1 for one in path.read_bytes().split(b"\n") if one) if path.exists() else 0


def _assert_counted(used: int, reported: int, given: int | None, what: str) -> None:
    if given is not None and used + reported != given:
        raise FoundError(f"{what}: {given} rows given, {used} used and {reported} reported")


def check(bench: Bench, draw: Random) -> None:
    """`coalign data check`, for programs."""
    path, given = records(draw, bench.folder, draw.choice([*ROWS.values()]))
    kind = draw.choice(
        ("", "", "", "preference", "demonstration", "prompt", "ranking", "feedback", "judgment")
    )
    rejects = bench.folder / "rejects.jsonl"
    skip = ("--on-bad-record", "skip", "--rejects", str(rejects)) if draw.random() < 0.5 else ()
    result = bench.coalign("data", "check", str(path), "--json", *skip, *(("--kind", kind) if kind else ()))
    try:
        report = json.loads(result.out)
    except ValueError as error:
        raise FoundError(f"no JSON but {result.out[:200]!r} {result.err[:300]!r}") from error
    if "n_records" in report:
        _assert_counted(report["n_records"], report["n_bad"], given, "data check")
        if skip and _rows_in(rejects) != report["n_bad"]:
            raise FoundError(f"{report['n_bad']} rejects reported, {_rows_in(rejects)} written")


def show(bench: Bench, draw: Random) -> None:
    """`coalign data check`, for people, also with tokens and against other data."""
    path, _ = records(draw, bench.folder, draw.choice([*ROWS.values()]))
    more = draw.choice((
        (), ("--model", "models/tiny", "--max-length", draw.choice(("1", "20", "2147483647", "9" * 30))),
        ("--against", str(path)), ("--column", draw.choice(TEXTS)), ("--limit", draw.choice(("1", "-1", "9" * 30))),
        ("--split", draw.choice(TEXTS)), ("--show", draw.choice(("0", "9" * 30))),
        ("--on-bad-record", "skip", "--rejects", str(bench.folder / draw.choice(("a/b/c.jsonl", "x" * 300, "é.jsonl", "rows.jsonl/x")))),
    ))  # fmt: skip
    bench.coalign("data", "check", str(path), *more)


def names(bench: Bench, draw: Random) -> None:
    """Sources and files under names that no file has."""
    odd = draw.choice((*TEXTS, "a/" * 3000, "\ud800", "x" * 256, "é" * 200, f"/{'x' * 5000}", "a\nb.jsonl", "*" * 100, "**/**/**/*.zzz",
                       "a.jsonl,weight=1e999", "a.jsonl,weight=nan", "a.jsonl,max=" + "9" * 5000, "a.jsonl,kind=x", "a,b,c=d", "/dev/null", ".")).replace("\x00", "")  # fmt: skip
    bench.coalign(*draw.choice((
        ("data", "check", "--", odd), ("judge", f"--data={odd}", *MODEL), ("run", "ln-dpo", f"--data={odd}", *MODEL, "--out", str(bench.folder / "r")),
        ("generate", f"--prompts={odd}", *MODEL, "--out", str(bench.folder / "o.jsonl")),
        ("generate", "--prompts", "prompts.jsonl", f"--model={odd}", "--device", "cpu", "--out", str(bench.folder / "o.jsonl")),
        ("score", "alignscore", "--", odd), ("report", "--", odd), ("compare", "--", odd, odd), ("runs", f"--root={odd}"), ("run", "urial", f"--config={odd}"),
        ("methods", "--", odd), ("objectives", "--", odd), ("run", "--", odd), ("run", "bco", f"--chat-template={odd}", "--data", "feedback.jsonl", *MODEL, "--out", str(bench.folder / "r")),
    )))  # fmt: skip


def configurations(bench: Bench, draw: Random) -> None:
    """Files of options, of every system."""
    slug = draw.choice([*SMALL])
    path = bench.folder / "options.yaml"
    path.write_bytes(document(draw, SMALL[slug].options))
    result = bench.coalign("run", slug, "--config", str(path), "--print-config")
    if result.code == 0 and not isinstance(yaml.safe_load(result.out), dict):
        raise FoundError(f"printed no configuration: {result.out[:200]!r}")


def flags(bench: Bench, draw: Random) -> None:
    """Values of flags: of every system, and of the commands that generate."""
    slug = draw.choice([*SMALL])
    one = draw.choice(options_of(load_system(slug).Config))
    said = draw.choice((number(draw), number(draw), draw.choice(TEXTS).replace("\x00", "")))
    given = [f"{one.flag}={said}"] if not one.is_flag else [one.flag]
    bench.coalign("run", slug, *flags_of(SMALL[slug].options, but=one.name), *given, "--print-config")


def flags_of(options: Mapping[str, Any], but: str = "") -> list[str]:
    found = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if name != but and not isinstance(value, bool):
            found += [f"--{flag}={one}" for one in (value if isinstance(value, list) else [value])]
        elif name != but:
            found.append(f"--{flag}" if value else f"--no-{flag}")
    return found


def run_data(bench: Bench, draw: Random) -> None:
    """A training on records some of which are odd; what is not used lies in the run folder."""
    slug = draw.choice(TRAINED)
    bench.furnish(slug)
    option, fields = tiny_rows(slug) or ("", {})
    path, given = records(draw, bench.folder, fields)
    run = bench.folder / "run"
    options = {**SMALL[slug].options, option: str(path), "eval_fraction": 0, "save_steps": 0, "max_steps": 1}
    result = bench.coalign("run", slug, *flags_of(options), "--on-bad-record", "skip", "--out", str(run))
    if result.code == 0:
        taken = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        notes = " ".join(str(one.get("note")) for one in taken if one["event"] == "data")
        skipped = sum(
            int(one) for one in re.findall(r"(\d+) (?:bad )?records (?:that set .*?)?were skipped", notes)
        )
        _assert_counted(0, skipped, _rows_in(run / "rejects.jsonl"), "the rejects of a run")
        plan = next(one for one in taken if one["event"] == "plan")
        if slug in ONE_FOR_ONE:
            _assert_counted(plan["records"], plan["dropped"] + skipped, given, slug)


def run_prompts(bench: Bench, draw: Random) -> None:
    """A decoding method over prompts, one row of answers each."""
    slug = draw.choice(ASKING)
    bench.furnish(slug)
    _, fields = tiny_rows(slug) or ("", {})
    path, _ = records(draw, bench.folder, fields)
    options = {**SMALL[slug].options, "prompts": str(path)}
    bench.coalign("run", slug, *flags_of(options), "--out", str(bench.folder / "run"))


def run_limits(bench: Bench, draw: Random) -> None:
    """A whole run with sizes, seeds and limits about the end of what can be allocated."""
    bench.furnish("ln-dpo")
    name = draw.choice(("batch_size", "gradient_accumulation", "max_length", "adapter_rank", "seed", "learning_rate", "adapter_alpha",
                        "save_steps", "logging_steps", "epochs", "beta", "warmup_ratio", "max_grad_norm", "weight_decay", "keep_checkpoints"))  # fmt: skip
    value = draw.choice(
        (
            "-1",
            "0",
            "1e-300",
            "1e300",
            str(2**31 - 1),
            str(2**31),
            str(2**32),
            str(2**63),
            str(2**64),
            "9" * 4400,
            "nan",
            "inf",
        )
    )
    options = {**SMALL["ln-dpo"].options, "eval_fraction": 0, "save_steps": 0, "max_steps": 1}
    bench.coalign(
        "run",
        "ln-dpo",
        *flags_of(options, but=name),
        f"--{name.replace('_', '-')}={value}",
        "--out",
        str(bench.folder / "run"),
    )


def judge(bench: Bench, draw: Random) -> None:
    """Verdicts on odd rows: a verdict or a reject each."""
    bench.furnish("portia")
    path, given = records(
        draw,
        bench.folder,
        draw.choice([ROWS[one] for one in ("judged", "preference", "demonstration", "constraints")]),
    )
    run = bench.folder / "judged"
    readout = ("--judge-readout", "logprobs", "--judge-template", "short.j2", "--max-failures", "1", *MODEL)
    asked = draw.choice(
        (readout, readout, ("--judge", "verifiers"), ("--judge", "stored", "--stored-verdicts", str(path)))
    )
    result = bench.coalign("judge", "--data", str(path), *asked, "--on-bad-record", "skip", "--out", str(run))
    if result.code == 0:
        _assert_counted(
            _rows_in(run / "artefacts/verdicts.jsonl"),
            _rows_in(run / "artefacts/rejects.jsonl"),
            given,
            "judge",
        )


def generate(bench: Bench, draw: Random) -> None:
    """Answers of a tiny model to odd prompts: as many as there are rows, or none."""
    bench.furnish("urial")
    path, given = records(
        draw,
        bench.folder,
        draw.choice([ROWS[one] for one in ("prompt", "messages", "demonstration", "tools")]),
    )
    out = bench.folder / draw.choice(("out.jsonl", "a/b/out.jsonl"))
    odd = draw.choice((
        (), (), (), ("--seed", number(draw)), ("--batch-size", number(draw)), ("--samples", draw.choice(("0", "-1", "9" * 30))),
        ("--top-k", number(draw)), ("--temperature", number(draw)), ("--top-p", number(draw)), ("--stop", draw.choice(TEXTS).replace("\x00", "")),
        ("--prefill", draw.choice(TEXTS).replace("\x00", "")[:50]), ("--top-logprobs", draw.choice(("0", "3", str(2**40)))), ("--plain",),
    ))  # fmt: skip
    result = bench.coalign(
        "generate",
        "--prompts",
        str(path),
        *MODEL,
        "--max-new-tokens",
        "2",
        "--out",
        str(out),
        *[f"{odd[0]}={odd[1]}"] if len(odd) > 1 else odd,
    )
    if result.code == 0:
        _assert_counted(_rows_in(out), 0, given, "generate")


def score(bench: Bench, draw: Random) -> None:
    """Scores of odd texts: a row each."""
    bench.furnish("alignscore")
    path, given = records(draw, bench.folder, ROWS["claim"])
    result = bench.coalign("score", "alignscore", str(path), "--model", "models/alignment", "--device", "cpu")
    if result.code == 0:
        scored = len(result.out.splitlines())
        _assert_counted(scored, result.err.count("Skipped: "), given, "score")


def rewards(bench: Bench, draw: Random) -> None:
    """Rewards and options of methods, as texts."""
    odd = draw.choice(TEXTS).replace("\x00", "")
    named = draw.choice(
        ("max_words", "must_include", "no_commas", "model", "judge", "answer", "regex", "json", odd)
    )
    text = draw.choice((f"{named}:{odd}", f"{named}:{number(draw)}", f"{named}:1@{number(draw)}", f"{named}@{odd}", f"{named}:{{a: {number(draw)}}}",
                        f"{named}:[{odd}]", f"{named}:" + "[" * 3000, f"{named}:*a", f"{named}:2024-13-45", f"{named}:!!binary x", odd))  # fmt: skip
    way = draw.choice((("--reward",), ("--method", "deal", "--option"), ("--method", odd, "--option")))
    bench.coalign(
        "generate",
        "--prompts",
        "prompts.jsonl",
        *MODEL,
        "--max-new-tokens",
        "1",
        "--out",
        str(bench.folder / "o"),
        *way[:-1],
        f"{way[-1]}={text}",
    )


TARGETS: dict[str, tuple[Target, int]] = {
    "data check --json": (check, 30),
    "data check": (show, 10),
    "names of files": (names, 12),
    "configurations": (configurations, 20),
    "flags": (flags, 12),
    "runs over records": (run_data, 5),
    "runs over prompts": (run_prompts, 3),
    "sizes of runs": (run_limits, 4),
    "judge": (judge, 6),
    "generate": (generate, 8),
    "score": (score, 4),
    "rewards": (rewards, 6),
    "translations": (translations, 6),
    "templates": (templates, 5),
    "other records": (answers, 5),
    "categories": (points, 1),
    "replies of an endpoint": (endpoint, 7),
    "requests to serve": (serve, 12),
    "pages": (pages, 8),
    "damaged runs": (folders, 6),
    **MEDIA,
}
"""Entry point to what gives it an odd input, and its share of all inputs."""
