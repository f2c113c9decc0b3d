"""Standard output and error as a command needs them: what becomes of the output never ends the work.

A pipe that nobody reads any more, a full disk behind `>`: the rest of the output is dropped. Characters that the
terminal's encoding lacks are written in those that it has.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

PLAIN = {
    " ± ": "+/-", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}": "+/-", "±": "+/-", "\N{NO-BREAK SPACE}": " ",
    "−": "-", "–": "-", "—": "-", "×": "x", "÷": "/", "·": "-", "…": "...", "→": "->", "≤": "<=", "≥": ">=", "≈": "~",
    "“": '"', "”": '"', "‘": "'", "’": "'", "✓": "+", "✗": "x", "•": "*", "│": "|", "─": "-", "━": "-",
}  # fmt: skip
"""What stands in a terminal without the character; as wide wherever it stands in a table."""


class Output:
    """A stream that takes all that is written to it, shown or not. `fault` is why it was dropped, for want of room.

    The rest of its attributes are those of the stream behind it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.fault: OSError | None = None

    def write(self, text: str) -> int:
        """Write `text`, in characters that the stream's encoding has. Never raises an OSError."""
        with self._dropping():
            self._stream.write(encodable(text, self._stream))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of `lines`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what is buffered. Never raises an OSError."""
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.fault = self.fault or error
            self._to_nowhere()

    def _to_nowhere(self) -> None:
        """The descriptor too: what is buffered is flushed to it at the process's end."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def encodable(text: str, stream: Any) -> str:
    """`text` in characters of the stream's encoding: those of PLAIN for what it lacks, else escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    errors = "surrogateescape" if getattr(stream, "errors", None) == "surrogateescape" else "strict"
    if _fits(text, encoding, errors):
        return text
    for character, plain in PLAIN.items():
        if character in text and not _fits(character, encoding, errors):
            text = text.replace(character, plain)
    return "".join(
        one if _fits(one, encoding, errors) else one.encode("ascii", "backslashreplace").decode() for one in text
    )


def _fits(text: str, encoding: str, errors: str) -> bool:
    try:
        text.encode(encoding, errors)
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def held_up() -> Iterator[Output]:
    """Within it sys.stdout and sys.stderr are Outputs; the former is handed out."""
    before = sys.stdout, sys.stderr
    out, err = (Output(stream or _nowhere()) for stream in before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _nowhere() -> TextIO:
    """In place of a stream that was closed before the program began."""
    return open(os.devnull, "w", encoding="utf-8")
