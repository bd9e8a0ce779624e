"""Python code in the texts of language models: where it stands, whether it parses, what it defines."""

from __future__ import annotations

import ast
import re
import warnings

_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_PYTHON = ("python", "py", "python3")
_NEXT = re.compile(r"^(?=\S)(?!#)", re.MULTILINE)
"""Where a line begins at the margin: what follows the body of a function."""


def extract_code(text: str, name: str | None = None) -> str:
    """The code of a reply: of its fenced blocks (a last one that is not closed counts) the first that defines `name`,
    else the first that is marked as Python, else the first; without a block the whole text.
    """
    blocks = [(one[2].lower(), one[3]) for one in _FENCE.finditer(text)]
    if not blocks:
        return text
    if name:
        defining = [
            code
            for _, code in blocks
            if re.search(rf"^\s*(?:async\s+)?(?:def|class)\s+{re.escape(name)}\b", code, re.MULTILINE)
        ]
        if defining:
            return defining[0]
    return next((code for language, code in blocks if language in _PYTHON), blocks[0][1])


def parse_python(code: str) -> ast.Module | None:
    """The syntax tree; None for what is no Python (or too deeply nested to be read)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of unknown escapes
            return ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def defines(code: str, name: str) -> bool:
    """Whether code that parses defines a function or class, or assigns a variable, of this name at its top level."""
    tree = parse_python(code)
    if tree is None:
        return False
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.Assign) and any(
            isinstance(one, ast.Name) and one.id == name for one in node.targets
        ):
            return True
    return False


def completed_head(text: str, name: str) -> str | None:
    """Code that ends with the head of a function `name`, made a program of its own: as it is where a docstring is its body, else
    with an empty one. None for other texts.
    """
    for code in (text, f"{text.rstrip()}\n    pass\n"):
        if defines(code, name):
            return code
    return None


def first_body(text: str) -> str:
    """The beginning of a text up to the first line at the margin (comments aside): the rest of a function whose head came
    before.
    """
    lines = text.split("\n", 1)
    if len(lines) == 1:
        return text
    found = _NEXT.search(lines[1])
    return text if found is None else f"{lines[0]}\n{lines[1][: found.start()]}"
