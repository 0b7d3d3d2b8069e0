"""`python -m lmnb.server`: the server process. Clients start it; `--own` is for people."""

from __future__ import annotations

import argparse
import os
import sys

from lmnb.server.process import Own, run


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m lmnb.server", description=__doc__)
    parser.add_argument("--own", action="store_true", help="stay in the foreground and listen")
    parser.add_argument("--host", help="with --own: address to listen on")
    parser.add_argument("--port", type=int, help="with --own: port to listen on")
    parser.add_argument("--require-auth", action="store_true", default=None)
    parser.add_argument("--allow-open", action="store_true")
    options = vars(parser.parse_args())
    own = options.pop("own")
    status = run(Own(**options) if own else None)
    sys.stdout.flush()
    sys.stderr.flush()
    # All is closed and written. A thread that still waits for something must not keep us here.
    os._exit(status)


if __name__ == "__main__":
    main()
