#!/usr/bin/env bash
# Guess, before it was tried: math-verify reads 1.5e-3, as programs and calculators write it, as 0.0015, in a sentence as in LaTeX.
# Versions: math-verify 0.9.0, latex2sympy2-extended 1.11.0.
# Seen: in a box or between dollars the e is Euler's number: 1.5e-3 is 1.5 e - 3, and 2e5 is 10 e. In a sentence the number ends before the
#   e. So right answers count as wrong, and `The answer is 2e5.` counts as right where the answer is 2. Nothing is raised.
# Touches: rewards and evaluations by rule in physics, chemistry and whatever a program printed. coalign reads such numbers itself, and
#   writes them as powers of ten inside of formulas before it asks math-verify (coalign.measures.answers; tests/evaluation/test_answers.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q math-verify==0.9.0 latex2sympy2-extended==1.11.0 antlr4-python3-runtime==4.13.2
cd "$folder"
cat > exponents.py <<'PY'
import sys

from math_verify import parse, verify

cases = [
    ("0.0015", r"\boxed{1.5e-3}", False),
    ("0.0015", "The answer is 1.5e-3.", False),
    ("0.0015", r"\boxed{1.5 \times 10^{-3}}", True),
    ("200000", "$2e5$", False),
    ("2", "The answer is 2e5.", True),
]
seen = []
for gold, answer, _ in cases:
    read = parse(answer)
    seen.append(verify(parse(gold), read))
    print(f"{answer!r} is read as {read[0] if read else None}, and the same as {gold}: {seen[-1]}")
sys.exit(seen != [one[-1] for one in cases])
PY
venv/bin/python exponents.py 2>/dev/null
