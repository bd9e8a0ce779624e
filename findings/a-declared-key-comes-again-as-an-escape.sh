#!/usr/bin/env bash
# Guess, before it was tried: a grammar that llguidance makes of a JSON schema lets through only texts that are instances of it.
# Versions: llguidance 1.9.1.
# Seen: three texts that are none. A declared key may come again as \u0061, with a value of any type, which parsers then keep;
#   a key that is not declared may come twice, so minProperties counts one key as two; a whole bound beyond 2^53 is rounded.
# Touches: whoever validates no more because answers were sampled under a schema. coalign writes keys in one spelling and
#   refuses the other two by name (coalign.models.grammars.schemas; tests/models/grammars/test_schemas.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q llguidance==1.9.1 numpy
cd "$folder"
cat > accepts.py <<'PY'
import sys

from llguidance import LLMatcher, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper


class Bytes:
    eos_token_id, bos_token_id = 256, None
    tokens = [*(bytes([one]) for one in range(256)), b"</s>"]
    special_token_ids = [256]

    def __call__(self, text):
        return list(text)


tokenizer = LLTokenizer(TokenizerWrapper(Bytes()), n_vocab=257)


def accepts(schema, text):
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema))
    return matcher.consume_tokens(list(text.encode())) and matcher.is_accepting()


cases = [
    ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"a":1,"\\u0061":"x"}'),
    ({"type": "object", "minProperties": 2}, '{"a":1,"a":2}'),
    ({"type": "integer", "minimum": 2**53 + 1}, str(2**53)),
]
found = [bool(accepts(*one)) for one in cases]
for (schema, text), one in zip(cases, found):
    print(schema, text, "is let through:", one)
sys.exit(0 if all(found) else 1)
PY
"$folder/venv/bin/python" accepts.py
