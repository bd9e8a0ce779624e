"""`python -m tests.vectors FILE...`: one line a case, exit code 1 on a failed case, 2 on a file that cannot be run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.vectors.runner import VectorFileError, run_file


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vectors", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="vector file (JSON)")
    files = parser.parse_args(arguments).files
    passed = failed = unusable = 0
    for path in files:
        print(path)
        try:
            for case, outcome in run_file(path):
                verdict = f"FAIL  {outcome.failure}" if outcome.failure else "pass"
                print(f"  {case.name:<60} {outcome.error:9.2e}  {verdict}")
                failed += outcome.failure is not None
                passed += outcome.failure is None
        except VectorFileError as error:
            print(f"  {error}", file=sys.stderr)
            unusable += 1
    print(f"{passed} passed, {failed} failed, {unusable} of {len(files)} files could not be run")
    return 2 if unusable else int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
