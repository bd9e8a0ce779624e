"""`accelerate launch`, for `coalign launch`: a failure is told in one line, in place of the launcher's own traceback."""

from __future__ import annotations

import logging
import sys


def main() -> None:
    """Start the processes of the command line's configuration, and end as the first of them that failed."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args())
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"with exit code {code}" if code > 0 else f"by signal {-code}"
        print(f"Process {rank} ended {how}; the others were ended.", file=sys.stderr, flush=True)
        sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    main()
