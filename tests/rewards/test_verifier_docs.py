"""The table in docs/verifiers.md is the registry's. `python -m tests.rewards.test_verifier_docs` writes it anew."""

from __future__ import annotations

from pathlib import Path

from coalign.judging.verifiers.constraints import verifier_table

PAGE = Path(__file__).parents[2] / "docs" / "verifiers.md"
BEGIN, END = "<!-- verifiers:begin -->\n", "<!-- verifiers:end -->\n"


def table() -> str:
    lines = ["| verifier | class | arguments | graded | what it checks |", "|---|---|---|---|---|"]
    for row in verifier_table():
        args = "<br>".join(f"`{name}`: {expected}" for name, expected in row["args"].items())
        graded = "yes" if row["graded"] else ""
        lines.append(f"| `{row['name']}` | {row['class']} | {args} | {graded} | {row['description']} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    head, rest = page.split(BEGIN)
    return head + BEGIN + table() + END + rest.split(END)[1]


def test_the_page_has_the_table_of_the_registry() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page), "run `python -m tests.rewards.test_verifier_docs`"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
