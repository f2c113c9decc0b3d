"""How a command ends, whatever happens in it: an exit code, and on a fault one message without a traceback."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.commands.arguments import Command, parser
from sweeper.values.errors import CantWrite, SweeperError, UsageError
from sweeper.values.home import settle_home
from sweeper.values.streams import held_up

INTERRUPTED = 130


def ended(written: Sequence[str], commands: Mapping[str, Command], *, goes_on: Mapping[Any, str]) -> int:
    """Run the command that is `written`; its exit code, the same whether or not its output is read.

    `goes_on` is what the commands that train say when they are interrupted.
    """
    with held_up() as output:
        code = _run(written, commands, goes_on)
        output.flush()
        if output.fault is not None and code == 0:
            code = _refused(CantWrite(f"standard output can't be written ({output.fault.strerror})"))
    return code


def _run(written: Sequence[str], commands: Mapping[str, Command], goes_on: Mapping[Any, str]) -> int:
    try:
        arguments: Any = parser(commands).parse_args(written)
    except SystemExit as end:
        return int(end.code or 0)
    arguments.written = shlex.join(["sweeper", *written])
    try:
        settle_home()
        # Its threads only wait for each other on matrices of a study's size, and take cores that trials are timed on.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        return arguments.command(arguments) or 0
    except SweeperError as error:
        if arguments.debug:
            raise
        return _refused(error)
    except KeyboardInterrupt:
        print(f"\ninterrupted{goes_on.get(arguments.command, '')}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if arguments.debug:
            raise
        said = f"sweeper: a fault of sweeper's own: {type(error).__name__}: {error} (--debug shows where)"
        print(said, file=sys.stderr)
        return 1


def _refused(error: SweeperError) -> int:
    print(error if error.exit_code == UsageError.exit_code else f"sweeper: {error}", file=sys.stderr)
    return error.exit_code
