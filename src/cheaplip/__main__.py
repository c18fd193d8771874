"""`python -m cheaplip`, and the command `cheaplip`: signals and streams first, for the rest takes its time to load."""

import os
import sys

from .interrupts import Interrupted, end_on_signals, raise_on_signals


def main() -> None:
    """Run the command line in a process of its own."""
    try:
        raise_on_signals()
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:  # closed: the next file to be opened would take its place
                setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        from .cli import main

        main()
    except Interrupted as interrupted:
        sys.exit(interrupted.code)
    except SystemExit as end:
        if not end.code:
            _leave_group()
        raise
    finally:
        end_on_signals()


def _leave_group() -> None:
    """End what torchrun's processes share; else a thread of gloo's now and then aborts a process that is done."""
    if (dist := sys.modules.get("torch.distributed")) is not None and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
