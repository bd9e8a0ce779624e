#!/usr/bin/env bash
# Guess, before it was tried: texts in a JSON Lines file are texts in the data set that load_dataset("json") makes of it.
# Versions: datasets 5.2.0, pyarrow 26.0.1.
# Seen: where every text of a column, or of a field in the messages of a chat, has the form of a date, the type is timestamp[s], and the
#   value a datetime: "2024-05-06" is printed as "2024-05-06 00:00:00", to which no answer is equal. One text of another form, and all stay
#   as they are: so the same file gives other data after filtering.
# Touches: tasks about dates, and files with one row. coalign reads JSON itself, and texts stay texts; a data set in which a library made
#   dates of them is refused where text is needed, by column (tests/data/test_formats.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0 pyarrow==26.0.1
cd "$folder"
cat > dates.py <<'PY'
import json
import sys

import datasets

datasets.disable_progress_bars()


def read(name, answers):
    rows = [{"answer": one, "messages": [{"role": "assistant", "content": one}]} for one in answers]
    with open(f"{name}.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    row = datasets.load_dataset("json", data_files=f"{name}.jsonl", split="train")[0]
    found = [str(row["answer"]), str(row["messages"][0]["content"])]
    print(f"{answers}: the first answer is {row['answer']!r}, as text {found}")
    return found


dates = read("dates", ["2024-05-06", "1999-12-31"])
mixed = read("mixed", ["2024-05-06", "tomorrow"])
sys.exit(not (dates == ["2024-05-06 00:00:00"] * 2 and mixed == ["2024-05-06"] * 2))
PY
HF_HOME="$folder/hf" venv/bin/python dates.py 2>/dev/null
