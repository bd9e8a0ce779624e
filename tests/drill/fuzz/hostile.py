"""Values, rows and documents that readers do not expect, drawn from a random stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

DEEP = (50, 900, 5_000, 200_000)
DIGITS = (19, 20, 40, 4_299, 4_301, 20_000)
"""Lengths of numbers about the ends of a machine word, and of what Python reads and writes without being asked twice."""
TEXTS = (
    "", " ", "\n", "\r\n", "\t", "\x00", "\x1b[31mred", "\x85", "\u2028", "\u202eabc", "\ufeff", "\ufffe", "é", "e\u0301",
    "日本語", "\U0001f600", "👩‍👩‍👧", "-", "--", "-1", "0", "1", "true", "no", "null", "none", "nan", "inf", "1e999", "0x10",
    "1_000", "٣", "²", "½", "1,5", "NaN", "{}", "[]", "[1", "{'a': 1}", "{{ x }}", "{% for %}", "%s%n", "$HOME", "../..", "~",
    "a/b", "*", "[", "a,b=c", "a=b", "x" * 300, "x" * 70_000, "a " * 5_000, "<|im_start|>", "Human: a\n\nAssistant: b", "'", '"',
    "\\", "\\ud800", "#", "&a", "*a", "!!int x", "@", "`", ": ", "? a", "- a", "|", ">", "%YAML 9.9", "...", "---",
)  # fmt: skip


def number(draw: Random) -> str:
    """A number as JSON writes it, or as only some readers take it."""
    sign = draw.choice(("", "-"))
    return draw.choice(
        (
            f"{sign}{'9' * draw.choice(DIGITS)}",
            f"{sign}{2 ** draw.choice((15, 16, 31, 32, 53, 63, 64, 127, 128, 1024))}",
            f"{sign}1e{draw.choice((19, 38, 39, 308, 309, 99999))}",
            f"{sign}0.{'0' * draw.choice((10, 400))}1",
            *("NaN", "Infinity", "-Infinity", "-0", "-0.0", "0", "1", "-1", "1.5", "4294967296"),
        )
    )


def deep(draw: Random) -> str:
    """JSON text nested without end, closed or not."""
    depth = draw.choice(DEEP)
    opening, closing = draw.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
    return opening * depth + draw.choice(("1", "[]", '""')) + closing * draw.choice((depth, depth, depth - 1))


def half(draw: Random) -> str:
    """A JSON text with half of a surrogate pair."""
    code = draw.choice(("d800", "dbff", "dc00", "dfff", "DAAA"))
    return draw.choice((f'"\\u{code}"', f'"a \\u{code} b"', f'"\\u{code}\\u{code}"'))


def value(draw: Random) -> str:
    """Any JSON value as text."""
    return draw.choice(
        (
            number, number, deep, half, half, _text, _text, _text, _constant, _constant,
            lambda draw: f"[{value(draw)}, {value(draw)}]",
            lambda draw: f"{{{_key(draw)}: {value(draw)}}}",
            _message,
        )
    )(draw)  # fmt: skip


def _text(draw: Random) -> str:
    return json.dumps(draw.choice(TEXTS), ensure_ascii=draw.random() < 0.5)


def _constant(draw: Random) -> str:
    return draw.choice(("null", "true", "false", "[]", "{}", "[[]]", "[null]", '[""]', "{\"\": null}", "[[], []]", "[1, 2]"))  # fmt: skip


def _message(draw: Random) -> str:
    role = draw.choice(('"user"', '"assistant"', '"system"', '"tool"', '"User"', "5", "null", '""', "[]"))
    return f'[{{"role": {role}, "content": {draw.choice((value, _text))(draw)}}}]'


def _key(draw: Random) -> str:
    return draw.choice((half, _text, _text, lambda _: '"prompt"', lambda _: '"role"'))(draw)


def changed(draw: Random, fields: Mapping[str, Any]) -> str:
    """A row or another object as JSON text with one or two of its parts replaced, added, doubled, renamed or left out."""
    parts = [[json.dumps(key), json.dumps(one)] for key, one in fields.items()]
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(len(parts)) if parts else 0
        match draw.randrange(7) if parts else 3:
            case 0 | 1 | 2:
                parts[at][1] = value(draw)
            case 3:
                parts.insert(at, [_key(draw), value(draw)])
            case 4:
                parts[at][0] = _key(draw)
            case 5:
                parts.append([parts[at][0], value(draw)])
            case 6:
                del parts[at]
    return "{" + ", ".join(f"{key}: {one}" for key, one in parts) + "}"


def line(draw: Random, fields: Mapping[str, Any]) -> str:
    """A line that should be an object: mostly one, of which something is odd."""
    return draw.choice(
        (
            *(changed,) * 8,
            lambda draw, _: value(draw),
            lambda draw, given: changed(draw, given)[: draw.randrange(1, 40)],
            lambda draw, given: json.dumps(given) + draw.choice((",", "}", " x", '{"a": 1}', "\x00")),
        )
    )(draw, fields)  # fmt: skip


def one_line(text: str) -> str:
    """`text` in one line, as a row of JSON Lines must be."""
    return text.replace("\r", " ").replace("\n", " ")


def document(draw: Random, options: Mapping[str, Any]) -> bytes:
    """A YAML file of options with something odd in it."""
    lines = [f"{key}: {json.dumps(one)}" for key, one in options.items()]
    odd: tuple[Callable[[Random], str], ...] = (
        number, deep, half, _text, _constant, value, _date, _tagged, _aliases, _merged,
        lambda _: "&a [*a]", lambda _: "&a {b: *a}", lambda _: "*nowhere", lambda _: "[1, 2", lambda _: '"open',
        lambda draw: f"0x{'f' * draw.choice(DIGITS)}", lambda draw: f"0b{'1' * draw.choice(DIGITS)}",
        lambda draw: f"1:{'5' * draw.choice(DIGITS)}", lambda draw: f"{'1' * draw.choice(DIGITS)}.5e{draw.choice(DIGITS)}",
        lambda _: "|\n  text\n  more", lambda _: "- a\n- b", lambda draw: draw.choice(TEXTS), lambda draw: draw.choice(TEXTS),
    )  # fmt: skip
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(len(lines)) if lines else 0
        key = lines[at].partition(":")[0] if lines else "model"
        match draw.randrange(8) if lines else 1:
            case 0 | 1 | 2 | 3:
                lines[at : at + 1] = [f"{key}: {draw.choice(odd)(draw)}"]
            case 4:
                lines.insert(at, f"{draw.choice(TEXTS)}: 1")
            case 5:
                lines.insert(at, draw.choice(("? [a, b]\n: 1", "1: 2", "null: x", "2024-01-01: x", "true: x", "? {a: b}\n: 2", "- x")))  # fmt: skip
            case 6:
                lines.append(f"{key}: {draw.choice(odd)(draw)}")
            case 7:
                lines.insert(at, draw.choice(("---", "...", "%YAML 9.9\n---", "\tx: 1", "<<: 5", "x: y: z", ":", "\x00")))  # fmt: skip
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    return draw.choice((*(lambda data: data,) * 9, *DAMAGES))(data)


def _date(draw: Random) -> str:
    return draw.choice(
        (
            "2024-13-45",
            "2024-02-30",
            "0000-00-00",
            "9999-99-99",
            "2024-01-01",
            "2024-01-01 25:61:61",
            "2024-01-01T00:00:00+99:99",
            "0001-01-01 00:00:00 +14:00",
            "24:00:00",
            "1:2:3:4",
        )
    )


def _tagged(draw: Random) -> str:
    tag = draw.choice(("!!binary", "!!set", "!!omap", "!!pairs", "!!timestamp", "!!int", "!!float", "!!bool", "!!null", "!!str", "!!map", "!own", "!!python/name:os.path", "!!merge"))  # fmt: skip
    return f"{tag} {draw.choice(('x', '[]', '{}', '{a: 1}', '[a, b]', '____', '2024-13-01', ''))}"


def _aliases(draw: Random) -> str:
    """Few lines that stand for more than fits into memory."""
    width, depth = draw.choice(((2, 30), (9, 9), (10, 12), (2, 200)))
    rows = "".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]\n" for n in range(1, depth))
    return f"\n  a0: &a0 [x, x]\n{rows}"


def _merged(draw: Random) -> str:
    width, depth = draw.choice(((2, 12), (3, 9)))
    rows = "".join(
        f"  b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * width)}], k{n}: 1}}\n" for n in range(1, depth)
    )
    return f"\n  b0: &b0 {{k: 1}}\n{rows}"


def _utf16(data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode("utf-16")


DAMAGES: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: data[: len(data) // 2],
    lambda data: b"\xef\xbb\xbf" + data,
    lambda data: data.replace(b"\n", b"\r\n"),
    lambda data: data.replace(b"\n", b"\r"),
    lambda data: data + b"\xff\xfe\xc3(",
    lambda data: b"\x80" + data,
    lambda data: data[:9] + b"\x00" + data[9:],
    _utf16,
    lambda data: b"",
    lambda data: b"\n \n\t\n",
    lambda data: b"\x1f\x8b" + data,
    lambda data: b"\x28\xb5\x2f\xfd" + data,
    lambda data: b"PAR1" + data,
)
"""What transfer, editors and other programs do to a file. How many rows are left is not told."""
