"""Runs a module's command line, `python orphaned.py MODULE ARGS...`, and ends its group where standard input ends."""

import os
import runpy
import signal
import sys
import threading


def _end_with_parent() -> None:
    """Standard input is a pipe that the parent never writes to: it ends with the parent, whatever that died of."""
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run the module in this process, the leader of a group of its own."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = sys.argv[1:]
    sys.path[0] = os.getcwd()  # as `python -m` has it
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
