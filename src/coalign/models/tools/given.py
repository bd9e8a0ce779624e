"""The tools that come with coalign: a Python interpreter in the sandbox, and search in a folder of text."""

from __future__ import annotations

import ast
from typing import Any

from coalign.core.processes.sandbox import SandboxOptions, choose
from coalign.models.tools.toolbox import Tool, ToolError

MOST_PASSAGES = 10


def python_tool(options: SandboxOptions) -> Tool:
    """A Python interpreter; each call is a program of its own in the sandbox, without network and without memory of others.

    Raises:
        SandboxError: nothing here holds the code, and `--sandbox none` was not said.
    """
    choose(options.sandbox)

    def run(arguments: dict[str, Any]) -> str:
        outcome = options.run_python(_showing_last(arguments["code"]))
        said = outcome.stdout.rstrip()
        if outcome.ok:
            return said or "(nothing was printed)"
        ends = {
            "timeout": f"the program took longer than {options.code_seconds:g} s and was ended",
            "memory": f"the program took more than {options.code_memory_mb} MB",
            "killed": "the program was killed",
        }
        why = ends.get(outcome.status) or outcome.stderr.strip() or f"exit code {outcome.exit_code}"
        raise ToolError(f"{why}\nIts output was:\n{said}" if said else why)

    return Tool(
        _schema(
            "python",
            "Run a Python program and get what it prints, or the value of its last line.",
            {"code": {"type": "string", "description": "The program."}},
            ["code"],
        ),
        run,
    )


def search_tool(folder: str) -> Tool:
    """Search in the passages of a folder of text, or of a file of records, by BM25.

    Raises:
        DataError: there is no text.
        MissingExtraError: bm25s is not installed.
    """
    from coalign.data.passages import read_passages
    from coalign.models.retrieval import open_index

    passages = read_passages(folder)
    index = open_index("bm25", [str(one) for one in passages])

    def run(arguments: dict[str, Any]) -> str:
        found = index.top(arguments["query"], arguments.get("most", 3))
        return "\n\n".join(f"[{passages[one].id}] {passages[one]}" for one in found) or "(nothing was found)"

    return Tool(
        _schema(
            "search",
            "Find the passages of a collection that share the most telling words with a query.",
            {
                "query": {"type": "string", "description": "Words to look for."},
                "most": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MOST_PASSAGES,
                    "description": "How many passages; by default 3.",
                },
            },
            ["query"],
        ),
        run,
    )


def _schema(name: str, description: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def _showing_last(code: str) -> str:
    """The program, the value of its last line printed where it is an expression, as an interpreter does."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code  # its error is what is observed
    if not tree.body or not isinstance(tree.body[-1], ast.Expr):
        return code
    shown = ast.parse("__import__('sys').displayhook(0)").body[0]
    assert isinstance(shown, ast.Expr)
    assert isinstance(shown.value, ast.Call)
    shown.value.args = [tree.body[-1].value]
    return ast.unparse(ast.Module([*tree.body[:-1], shown], []))
