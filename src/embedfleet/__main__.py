"""What the command `embedfleet` starts, and `python -m embedfleet`."""

import os
import signal


def _end(number: int, _frame: object) -> None:
    os._exit(128 + number)


def _go_on(_number: int, _frame: object) -> None:
    pass


def main() -> None:
    """Run the command line.

    While it is imported, and until a server listens, SIGINT and SIGTERM end the process at once and
    without a traceback. As process 1 of a container it would not even get them without a handler.
    SIGHUP without a terminal asks for a reload and is passed over during a start. By a handler:
    child processes would inherit that the signal is ignored.
    """
    at_terminal = any(map(os.isatty, range(3)))
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL and not at_terminal:
        signal.signal(signal.SIGHUP, _go_on)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    from embedfleet.cli.command_line import main as run  # noqa: PLC0415  it takes half a second

    run()


if __name__ == "__main__":
    main()
