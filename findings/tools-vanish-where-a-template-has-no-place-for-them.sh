#!/usr/bin/env bash
# Guess, before it was tried: apply_chat_template warns or raises when tools, or calls in an assistant's turn, are given and the
#   template writes neither.
# Versions: transformers 5.23.0, tokenizers and jinja2 as it brings them.
# Seen: the text is the same with tools and without, and a turn that holds a call is an empty turn; no warning, no error. A
#   model trained or asked so never sees a tool, and learns to answer nothing where it should call.
# Touches: whoever trains on or asks with tools. coalign finds a template's place for tools by rendering, names what would be
#   dropped, and puts a place into any template (coalign.data.tools; --chat-template tools; tests/data/test_tools.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.23.0 jinja2==3.1.6
cd "$folder"
cat > render.py <<'PY'
import sys
import warnings

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

warnings.simplefilter("error")
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
tokenizer.chat_template = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
)
tool = {
    "type": "function",
    "function": {"name": "weather", "description": "of a place", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}},
}
call = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Rome"}}}
asked = [{"role": "user", "content": "Is it raining in Rome?"}]
called = [*asked, {"role": "assistant", "content": "", "tool_calls": [call]}]
plain = tokenizer.apply_chat_template(asked, tokenize=False)
offered = tokenizer.apply_chat_template(asked, tools=[tool], tokenize=False)
turn = tokenizer.apply_chat_template(called, tools=[tool], tokenize=False)
print("the same with tools and without:", plain == offered)
print("the turn with the call:", repr(turn[len(plain):]))
sys.exit(0 if plain == offered and "weather" not in turn else 1)
PY
venv/bin/python render.py
