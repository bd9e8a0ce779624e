"""Odd files that are no records: translations, subtitles, templates, rewards, categories."""

from __future__ import annotations

from pathlib import Path
from random import Random
from xml.sax.saxutils import escape

from tests.drill.fuzz.bench import Bench
from tests.drill.fuzz.hostile import DAMAGES, TEXTS, document, value
from tests.drill.fuzz.rows import ROWS, records


def _written(draw: Random, path: Path, text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    path.write_bytes(draw.choice(DAMAGES)(data) if draw.random() < 0.2 else data)
    return str(path)


def _odd(draw: Random) -> str:
    return draw.choice((draw.choice(TEXTS), draw.choice(TEXTS), value(draw)[:2000]))


def _table(draw: Random, suffix: str) -> str:
    between = {"tsv": "\t", "csv": ","}[suffix]
    lines = [between.join(("wash your hands", "lávese las manos"))] * 2
    lines.insert(draw.randrange(3), between.join(_odd(draw) for _ in range(draw.choice((1, 2, 2, 3, 9)))))
    head = draw.choice(("", f"source{between}target\n", f"{_odd(draw)}{between}target\n"))
    return head + "\n".join(lines) + "\n"


def _tmx(draw: Random) -> str:
    odd = draw.choice(
        (
            _odd(draw),
            escape(_odd(draw)),
            "<bpt>x</bpt>",
            "&x;",
            "<seg/>",
            "<ph>" * 2000,
            "<!-- x",
            "<![CDATA[x]]>",
        )
    )
    code = draw.choice(
        ("es", "es", "es-MX", "ES", "", "x" * 300, "&quot;", escape(_odd(draw), {'"': "&quot;"}))
    )
    kind = draw.choice(
        (
            "",
            '<!DOCTYPE tmx SYSTEM "tmx14.dtd">',
            '<!DOCTYPE tmx [<!ENTITY a "b">]>',
            '<?xml version="1.0" encoding="x"?>',
        )
    )
    unit = f'<tu tuid="{draw.choice(("1", ""))}"><tuv xml:lang="en"><seg>wash</seg></tuv><tuv xml:lang="{code}"><seg>{odd}</seg></tuv></tu>'
    return f'{kind}<tmx version="1.4"><header/><body>{unit}</body></tmx>'


def translations(bench: Bench, draw: Random) -> None:
    """Translation memories, glossaries and sentences."""
    bench.furnish("adaptive-mt")
    kind = draw.choice(("tsv", "csv", "tmx", "txt", "jsonl"))
    path = bench.folder / f"m.{kind}"
    if kind == "jsonl":
        path, _ = records(
            draw, bench.folder, {"source": "wash", "target": "lave", "terms": [["wash", "lave"]], "id": "1"}
        )
        name = str(path)
    else:
        text = (
            _tmx(draw)
            if kind == "tmx"
            else "\n".join((_odd(draw), "wash"))
            if kind == "txt"
            else _table(draw, kind)
        )
        name = _written(draw, path, text)
    options = {"data": "sentences.jsonl", "memory": "memory.tsv"}
    options[draw.choice([*options, "glossary"])] = name
    given = [f"--{option}={one}" for option, one in options.items()]
    bench.coalign("run", "adaptive-mt", *given, "--model", "models/tiny", "--device", "cpu", "--max-new-tokens", "1", "--retrieval", "edit",
                  "--target-language", "Spanish", "--shots", "0", "--out", str(bench.folder / "run"))  # fmt: skip


def templates(bench: Bench, draw: Random) -> None:
    """Templates of judges and of chats."""
    bench.furnish("portia")
    odd = draw.choice((
        "{{ answers[9] }}", "{{ x.y.z }}", "{% for a in b %}", "{{", "{% include 'x' %}", "{% set x = 1 %}", "", "{{ 1/0 }}", "{{ messages }}",
        "{{ ''.__class__ }}", "{{ cycler.__init__ }}", "{{ 'x' * 10000 }}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ raise_exception('x') }}",
        "{{ messages[0].content.x() }}", "{% generation %}", "{{ range(9) | sum }}", "{{ bos_token + 5 }}", "{{ strftime_now('%') }}", "{% if true %}", _odd(draw),
    ))  # fmt: skip
    name = _written(draw, bench.folder / "odd.j2", odd)
    chat = ("--model", "models/tiny", "--device", "cpu", "--chat-template", name)
    bench.coalign(*draw.choice((
        ("judge", "--data", "judged.jsonl", "--model", "models/tiny", "--device", "cpu", "--judge-readout", "logprobs", "--judge-template", name, "--max-failures", "1", "--out", str(bench.folder / "j")),
        ("judge", "--data", "judged.jsonl", "--judge-template", name, "--show-requests", "1"),
        ("generate", "--prompts", "prompts.jsonl", *chat, "--max-new-tokens", "1", "--out", str(bench.folder / "o.jsonl")),
        ("data", "check", "pairs.jsonl", "--model", "models/tiny", "--chat-template", name),
    )))  # fmt: skip


def answers(bench: Bench, draw: Random) -> None:
    """Files of other systems: outputs of models, questions, points of categories, tasks, constraints."""
    slug, option, layout = draw.choice((
        ("varco-arena", "data", {"id": "p", "prompt": "Why?", "model": "m", "output": "x"}),
        ("honesty", "data", {"question": "What?", "answers": ["e", "blue"], "split": "test"}),
        ("muscle", "data", {"question": "Which?", "choices": ["red", "blue"], "answer": 1}),
        ("i-sheep", "data", {"instruction": "Name it.", "input": "", "output": "Blue."}),
        ("act", "prompts", {"prompt": "Say 1.", "constraints": [{"verifier": "max_words", "n": 5}], "split": "train"}),
        ("deal", "prompts", ROWS["constraints"]),
        ("reward-transform", "prompts", {"prompt": "Say.", "answer": "3", "constraints": [{"verifier": "max_words", "n": 5}]}),
    ))  # fmt: skip
    from tests.contract.small import SMALL
    from tests.drill.fuzz.targets import flags_of

    bench.furnish(slug)
    path, _ = records(draw, bench.folder, layout)
    options = {**SMALL[slug].options, option: str(path)}
    bench.coalign("run", slug, *flags_of(options), "--out", str(bench.folder / "run"))


def points(bench: Bench, draw: Random) -> None:
    """A file of categories beside the configuration, which is YAML as well."""
    from tests.contract.small import SMALL
    from tests.drill.fuzz.targets import flags_of

    bench.furnish("dmoerm")
    path = bench.folder / "points.yaml"
    path.write_bytes(document(draw, {"a": ["x"], "b": ["y"]}))
    bench.coalign(
        "run",
        "dmoerm",
        *flags_of({**SMALL["dmoerm"].options, "points": str(path), "max_steps": 1}),
        "--out",
        str(bench.folder / "run"),
    )
