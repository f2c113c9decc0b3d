"""`sweeper schema`."""

from __future__ import annotations

import json
from typing import Any

from sweeper.study.loader import schema_json


def schema(arguments: Any) -> None:
    """The JSON schema of studies."""
    print(json.dumps(schema_json(), indent=2))
