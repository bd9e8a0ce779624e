"""The loop of calls and observations over a scripted model: what it sees, what goes wrong, when it ends."""

import json
import time
from dataclasses import replace

import pytest

from coalign.core.errors import ConfigError
from coalign.data.encoding import encode_records
from coalign.data.readers import read_records
from coalign.data.templates import choose_template
from coalign.models.tools.agent import NO_MORE, Agent
from coalign.models.tools.asking import ToolPrompts
from coalign.models.tools.options import ToolOptions
from coalign.models.tools.toolbox import Tool, Toolbox
from coalign.models.types import Generation, Sampling
from tests.data.tokenizers import CHATML, byte_tokenizer

pytest.importorskip("jsonschema")
ASKED = [{"role": "user", "content": "What is 31 * 17?"}]
OWN = '''
import os, time

def double(number: int, unit: str = "m") -> str:
    """Doubles a length.

    Args:
        number: how long.
        unit: of the length.
    """
    print("not an answer")
    return f"{2 * number} {unit}"

async def later(number: int) -> dict:
    """Tells a number.

    Args:
        number: which.
    """
    return {"number": number}

def fails() -> str:
    """Always fails."""
    raise KeyError("no tide table")

def hangs() -> str:
    """Never returns."""
    time.sleep(60)

def ends() -> str:
    """Ends its process."""
    os._exit(1)

def fills() -> int:
    """Takes much memory."""
    return len(bytearray(1 << 40))

def bare(number):
    return number
'''


def called(name, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


class Scripted:
    """Says the next of its lines to every prompt, and keeps what it was asked."""

    def __init__(self, *lines):
        self.lines, self.asked = list(lines), []

    def generate(self, prompts, sampling, **how):
        self.asked.append((list(prompts), sampling))
        line = self.lines.pop(0)
        lines = line if isinstance(line, list) else [line] * len(prompts)
        return [[Generation(one, n_tokens=3)] for one in lines]


def tool(name="add", run=lambda given: given["a"] + given["b"], **properties):
    properties = properties or {"a": {"type": "integer"}, "b": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    return Tool(
        {"type": "function", "function": {"name": name, "description": "?", "parameters": schema}}, run
    )


def own(tmp_path, *names, seconds=5.0):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return ToolOptions(tools=[f"{path}:{one}" for one in names], tool_seconds=seconds).open_tools()


def test_calls_are_run_together_and_seen_until_the_model_answers():
    began = []

    def slow(given):
        began.append(time.monotonic())
        time.sleep(0.2)
        return given["a"] * given["b"]

    model = Scripted(f"I count.{called('add', a=1, b=2)}{called('add', a=3, b=4)}", "Two and twelve.")
    told = []
    (found,) = Agent(model, Toolbox([tool(run=slow)])).run([ASKED], Sampling(seed=4), tell=told.append)
    assert [one["role"] for one in found.messages] == ["assistant", "tool", "tool", "assistant"]
    assert [one["content"] for one in found.messages] == ["I count.", "2", "12", "Two and twelve."]
    assert found.messages[0]["tool_calls"][1]["function"] == {"name": "add", "arguments": {"a": 3, "b": 4}}
    assert found.messages[2]["tool_call_id"] == found.messages[0]["tool_calls"][1]["id"]
    assert (found.answer, found.ending, found.tokens, len(found.calls)) == ("Two and twelve.", "answer", 6, 2)
    assert told == found.messages
    assert abs(began[0] - began[1]) < 0.15
    ((first,), sampling), ((second,), _) = model.asked
    assert '"name": "add"' in first[0]["content"]
    assert (
        second[-1]["content"] == "<tool_response>\n2\n</tool_response>\n<tool_response>\n12\n</tool_response>"
    )
    assert "<tool_response>" in sampling.stop


@pytest.mark.parametrize(
    ("said", "observed"),
    [
        (called("add", a=1), "Error: arguments: 'b' is a required property"),
        (called("add", a="x", b=2), "Error: arguments.a: 'x' is not of type 'integer'"),
        (called("sub", a=1, b=2), "Error: there is no function 'sub', expected one of: add"),
        ("<tool_call>add 1 and 2</tool_call>", "Error: the call cannot be read ('add 1 and 2')"),
        ('<tool_call>{"name": "add", "arguments": "1, 2"}</tool_call>', "Error: the arguments of add are not a JSON object"),
    ],
)  # fmt: skip
def test_a_call_that_cannot_be_run_is_an_observation(said, observed):
    (found,) = Agent(Scripted(said, "I cannot."), Toolbox([tool()])).run([ASKED], Sampling())
    assert found.messages[1]["content"].startswith(observed)
    assert found.answer == "I cannot."


def test_after_the_last_round_an_answer_is_asked_for_without_tools():
    model = Scripted(called("add", a=1, b=2), called("add", a=1, b=3), called("add", a=9, b=9) + "So 4.")
    (found,) = Agent(model, Toolbox([tool()]), max_steps=2).run([ASKED], Sampling())
    assert (found.ending, found.answer, len(found.calls)) == ("steps", "So 4.", 2)
    assert NO_MORE in model.asked[-1][0][0][-1]["content"]
    assert "<tools>" not in str(model.asked[-1][0])
    assert NO_MORE not in str(found.messages)


def test_conversations_go_on_by_themselves():
    model = Scripted([called("add", a=1, b=2), "Hello."], ["Three."])
    one, other = Agent(model, Toolbox([tool()])).run([ASKED, [{"role": "user", "content": "Hi"}]], Sampling())
    assert [one.answer, other.answer] == ["Three.", "Hello."]
    assert len(model.asked[1][0]) == 1


def test_functions_of_the_user(tmp_path):
    box = own(tmp_path, "double", "later", "fails")
    try:
        described = box.schemas[0]["function"]
        assert described["parameters"]["required"] == ["number"]
        assert described["parameters"]["properties"]["unit"]["description"] == "of the length."
        said = (
            called("double", number=4)
            + called("later", number=2)
            + called("fails")
            + called("double", number="x")
        )
        (found,) = Agent(Scripted(said, "Done."), box).run([ASKED], Sampling())
        assert [one["content"] for one in found.messages[1:4]] == [
            "8 m",
            '{"number": 2}',
            "Error: KeyError: 'no tide table'",
        ]
        assert "is not of type 'integer'" in found.messages[4]["content"]
    finally:
        box.close()


def test_a_function_that_never_returns_or_ends_its_process_is_observed(tmp_path):
    box = own(tmp_path, "hangs", "ends", "fills", seconds=0.5)
    try:
        said = called("hangs") + called("ends") + called("fills")
        (found,) = Agent(Scripted(said, called("hangs"), "Done."), box).run([ASKED], Sampling())
        texts = [one["content"] for one in found.messages if one["role"] == "tool"]
        assert texts[0] == texts[3] == "Error: hangs took longer than 0.5 s and was ended"
        assert texts[1] == "Error: ends ended without an answer"
        assert texts[2].startswith("Error: MemoryError")
    finally:
        box.close()


def test_python_in_the_sandbox():
    box = ToolOptions(tools=["python"], sandbox="none", code_seconds=1.0, tool_characters=90).open_tools()

    def observed(code):
        (found,) = Agent(Scripted(called("python", code=code), "."), box).run([ASKED], Sampling())
        return found.messages[1]["content"]

    assert observed("a = 31\na * 17") == "527"
    assert observed("print(31 * 17)") == "527"
    assert observed("a = 1") == "(nothing was printed)"
    assert observed("print('x' * 100)") == f"{'x' * 90}\n... and 10 characters more"
    assert observed("while True: pass") == "Error: the program took longer than 1 s and was ended"
    assert observed("1 +").startswith("Error:")


def test_search_in_a_folder(tmp_path):
    pytest.importorskip("bm25s")
    (tmp_path / "tides.md").write_text("High water in Husum is at six.\n\nLow water in Emden is at noon.")
    box = ToolOptions(tools=[f"search:{tmp_path}"]).open_tools()
    (found,) = Agent(Scripted(called("search", query="Husum high", most=1), "Six."), box).run(
        [ASKED], Sampling()
    )
    assert "Husum is at six" in found.messages[1]["content"]
    assert "Emden" not in found.messages[1]["content"]


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        (["browser"], "'browser' is no tool"),
        (["missing.py:look"], "missing.py: no such file"),
        (["own.py:bare"], "own.py:bare cannot be described"),
        (["own.py:nothing"], "has no 'nothing'"),
        (["own.py:double", "own.py:double"], "'double' stands twice"),
    ],
)
def test_tools_that_cannot_be_had_are_named(tmp_path, monkeypatch, tools, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(ConfigError, match=message):
        ToolOptions(tools=tools).open_tools()


def test_a_schema_that_is_none_is_named():
    with pytest.raises(ConfigError, match="add: its parameters are no JSON schema"):
        Toolbox([tool(a={"type": "number of stones"})])


def test_a_trajectory_is_what_training_reads(tmp_path):
    model = Scripted(called("add", a=1, b=2), "Three.")
    box = Toolbox([tool()])
    (found,) = Agent(model, box).run([ASKED], Sampling())
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": [*ASKED, *found.messages], "tools": box.schemas}))
    record = read_records(path, kind="demonstration", text_alone=False).records[0]
    tokenizer = byte_tokenizer(CHATML)
    choose_template(tokenizer, "tools")
    (encoded,) = encode_records([record], tokenizer).records
    assert tokenizer.decode(encoded.prompt_ids) == tokenizer.apply_chat_template(
        model.asked[0][0][0], tokenize=False, add_generation_prompt=True
    )
    seen = tokenizer.apply_chat_template(model.asked[1][0][0], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(encoded.prompt_ids + encoded.response_ids[0]).startswith(seen)


def test_a_call_can_be_begun():
    prompts = ToolPrompts(Scripted())
    assert not prompts.native
    begun = prompts.prompt(ASKED, [tool().schema], prompts.beginning("add"))
    assert begun[-1] == {"role": "assistant", "content": '<tool_call>\n{"name": "add", "arguments":'}
    assert prompts.beginning(None) == '<tool_call>\n{"name": "'
    assert replace(Sampling(), stop=prompts.stops(parallel=False)).stop[-1] == "</tool_call>"
