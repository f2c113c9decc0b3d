"""SQLite databases as URLs and back, whatever their path is called. Stdlib only."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

_SQLITE, _WITH_DRIVER = "sqlite:///", "sqlite+pysqlite:///"


def sqlite_uri(file: Path) -> str:
    """The URL, as SQLAlchemy reads them, of the database in `file`.

    A `%` and a `?` are quoted, as they mean something there. MLflow makes the folder of a plain sqlite:/// URL without
    unquoting its name; of one that names the driver it makes none.
    """
    path = str(file.absolute())
    quoted = path.replace("%", "%25").replace("?", "%3F")
    return f"{_SQLITE if quoted == path else _WITH_DRIVER}{quoted}"


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite database's URL, relative where that is; None of any other URL, and of one in memory."""
    for prefix in (_SQLITE, _WITH_DRIVER):
        if uri.startswith(prefix):
            path = unquote(uri.removeprefix(prefix).partition("?")[0])
            return Path(path) if path not in ("", ":memory:") else None
    return None
